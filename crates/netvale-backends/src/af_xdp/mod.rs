//! AF_XDP sockets on a region's own buffers.
//!
//! 1. [`Umem`] says where in shared memory the packet buffers are.
//! 2. [`Xsk::open`] makes a socket for one queue of an interface, with up to
//!    four rings: *fill* (buffers to receive into), *rx*, *tx* and *completion*
//!    (buffers that have been sent).
//! 3. [`Redirect::attach`] attaches the program that hands frames of a queue
//!    to its socket; those of queues without a socket go to the stack.
//!
//! Frames are received at the beginning of the buffers themselves, whatever
//! their stride is. Sockets of several processes can share the memory: each
//! registers it for itself, or the socket is made by one process and its
//! descriptor passed to another, which gets its rings by [`Xsk::from_fd`].
//!
//! Every ring has one user at a time (the handles are neither `Clone` nor
//! usable through `&`), and the kernel, or another process with the same
//! descriptor, at the other end. What the other end writes is checked.
//!
//! Sending and receiving need a kick now and then: see
//! [`XskSocket::kick_tx`]. In copy mode the kernel sends only in that call.
//!
//! ```no_run
//! use netvale_backends::af_xdp::{BufLayout, Redirect, Umem, Xsk, XskConfig};
//! use netvale_backends::bpf::XdpMode;
//! use netvale_shm::{HugePages, Memfd};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = Memfd::create("region", 64 << 20, HugePages::Auto)?;
//! let layout = BufLayout {
//!     first: 4096,
//!     stride: 2112,
//!     count: 10_000,
//!     usable: 2112,
//!     huge: file.is_huge(),
//! };
//! let umem = Umem::new(file.map()?, layout)?;
//! let (interface, queue) = (4, 0);
//! let xsk = Xsk::open(&umem, interface, queue, &XskConfig::default())?;
//! let (Some(mut rx), Some(mut fill)) = (xsk.rx, xsk.fill) else {
//!     unreachable!("the default has all rings");
//! };
//! let program = Redirect::attach(interface, 1, XdpMode::Native)?;
//! program.connect(queue, &xsk.socket)?;
//!
//! fill.refresh()?;
//! for buf in 2..1000 {
//!     let addr = umem.fill_addr(buf).expect("a buffer");
//!     assert!(fill.put(addr), "the ring has 2048 entries");
//! }
//! fill.publish();
//! loop {
//!     rx.refresh()?;
//!     fill.refresh()?;
//!     while let Some(frame) = rx.take().and_then(|desc| umem.locate(desc)) {
//!         println!("{} bytes in buffer {}", frame.len, frame.buf);
//!         // Every buffer that comes out leaves room in the fill ring.
//!         let _ = umem.fill_addr(frame.buf).map(|addr| fill.put(addr));
//!     }
//!     rx.release();
//!     fill.publish();
//! }
//! # }
//! ```

mod error;
mod queues;
mod redirect;
mod ring;
mod socket;
mod suspects;
mod sys;
mod tags;
mod umem;

pub use error::{RingCorrupt, XskError};
pub use queues::{MOST_QUEUES, Queues};
pub use redirect::Redirect;
pub use ring::{CompletionRing, Desc, FillRing, RxRing, TxRing};
pub use socket::{CopyMode, RingSizes, Statistics, Xsk, XskConfig, XskSocket};
pub use suspects::{Suspected, Suspects};
pub(crate) use tags::knows_tags;
pub use umem::{BufLayout, Frame, Umem};
