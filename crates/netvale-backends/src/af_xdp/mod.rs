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

mod error;
mod redirect;
mod ring;
mod socket;
mod sys;
mod umem;

pub use error::{RingCorrupt, XskError};
pub use redirect::Redirect;
pub use ring::{CompletionRing, Desc, FillRing, RxRing, TxRing};
pub use socket::{CopyMode, RingSizes, Statistics, Xsk, XskConfig, XskSocket};
pub use umem::{BufLayout, Frame, Umem};
