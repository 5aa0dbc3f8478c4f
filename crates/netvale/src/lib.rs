//! Fast packet I/O on stock Linux, with no kernel module.
//!
//! Programs exchange Ethernet frames through *ports*: ports of a learning
//! switch (`vale0:a`), ends of a pipe (`vale0:a{1`), monitors (`vale0:a/r`). A
//! port has TX and RX *rings* in memory that its peers map too, and frames
//! move in the context of the thread that sends them, many per call: between
//! processes of one user without any system call.
//!
//! 1. Get a [`Namespace`]: [`Namespace::embedded`] inside this process, or
//!    [`Namespace::from_env`] to meet other processes.
//! 2. Open a [`Port`] in it.
//! 3. [`TxRing::push`] frames and [`TxRing::sync`] once per batch.
//! 4. [`RxRing::sync`], then take frames with [`RxRing::next`]; or sleep in
//!    [`Port::wait_rx`], or poll the port's descriptor.
//!
//! ```
//! fn main() -> netvale::Result<()> {
//!     let ns = netvale::Namespace::embedded()?;
//!     let mut alice = ns.open("vale0:alice")?;
//!     let mut bob = ns.open("vale0:bob")?;
//!
//!     let mut frame = [0u8; 60];
//!     frame[..6].fill(0xff); // to everyone
//!     frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
//!     alice.tx(0).push(&frame).expect("an empty ring has room");
//!     alice.tx(0).sync()?;
//!
//!     bob.rx(0).sync()?;
//!     let got = bob.rx(0).next().expect("the frame has arrived");
//!     let mut bytes = [0u8; 60];
//!     assert_eq!(got.read(0, &mut bytes), 60);
//!     assert_eq!(bytes, frame);
//!     Ok(())
//! }
//! ```
//!
//! A frame that is received can be sent on without touching a byte of it:
//! [`RxRing::forward`] exchanges buffers between rings of one region.
//!
//! Several rings serve several threads: [`Port::split`], [`Port::into_rings`].
//! A ring belongs to one thread at a time, which the types see to:
//!
//! ```compile_fail
//! # fn main() -> netvale::Result<()> {
//! let ns = netvale::Namespace::embedded()?;
//! let mut port = ns.open("vale0:a")?;
//! let rx = port.rx(0);
//! let first = rx.next();
//! rx.sync()?; // `first` still uses the slots that this would give back
//! drop(first);
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail
//! # fn main() -> netvale::Result<()> {
//! let ns = netvale::Namespace::embedded()?;
//! let (mut tx, rx) = ns.open("vale0:a")?.split();
//! std::thread::scope(|s| {
//!     s.spawn(|| tx.ring(0).sync());
//!     s.spawn(|| tx.ring(0).sync()); // one ring, two threads
//! });
//! # Ok(())
//! # }
//! ```
//!
//! ```compile_fail
//! # fn main() -> netvale::Result<()> {
//! let ns = netvale::Namespace::embedded()?;
//! let (mut a, mut b) = (ns.open("vale0:a")?, ns.open("vale0:b")?);
//! if let Some(frame) = a.rx(0).next() {
//!     frame.forward(b.tx(0)).ok();
//!     println!("{}", frame.len()); // it was given away
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod backend;
mod client;
#[cfg_attr(not(feature = "af-xdp"), path = "drive/none.rs")]
pub mod drive;
mod embedded;
mod error;
mod info;
mod namespace;
mod port;
pub mod raw;
pub mod registration;
mod rx;
pub mod spin;
mod tx;
mod wait;

pub use error::{Error, ErrorKind, Result};
pub use info::{
    CheckReport, FdbEntry, LinkInfo, PortEntry, PortInfo, PortStats, RegionReport, RingConfig,
};
pub use namespace::Namespace;
pub use netvale_switch::domain::Config as NamespaceConfig;
pub use netvale_switch::lookup::{Dest, FrameHead, Lookup};
pub use netvale_switch::switch::LookupKind;
pub use netvale_wire as wire;
pub use port::{Port, PortBuilder, RxHalf, TxHalf};
pub use rx::{Frame, RxRing};
pub use tx::{PushError, TxRing};

use rustix::thread::CpuSet;

/// Pins the calling thread to a CPU.
///
/// # Errors
///
/// [`ErrorKind::Usage`]: no such CPU, or not one that this process may use.
pub fn pin_to_cpu(cpu: usize) -> Result<()> {
    let bad = |why: &str| Error::new(ErrorKind::Usage, format!("cannot run on cpu {cpu}: {why}"));
    if cpu >= CpuSet::MAX_CPU {
        return Err(bad("no machine has that many"));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|e| bad(&e.to_string()))
}

/// Lets the calling thread run on every CPU again.
///
/// # Errors
///
/// The kernel refused.
pub fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in 0..std::thread::available_parallelism()
        .map_or(1, usize::from)
        .max(64)
    {
        set.set(cpu);
    }
    rustix::thread::sched_setaffinity(None, &set).map_err(|e| Error::io("cannot unpin", e))
}
