//! What can go wrong.

use std::io;

use super::BufLayout;
use crate::OsError;

/// Why there is no AF_XDP socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XskError {
    /// The buffers cannot be used in place.
    #[error("memory unfit for AF_XDP: {why} ({layout:?})")]
    Layout {
        /// What is wrong.
        why: &'static str,
        /// The buffers.
        layout: BufLayout,
    },
    /// The sizes of the rings are impossible.
    #[error("rings of {sizes:?} entries: {why}")]
    Rings {
        /// What is wrong.
        why: &'static str,
        /// Their sizes.
        sizes: super::RingSizes,
    },
    /// Another socket has the queue.
    #[error(
        "queue {queue} of {interface} has an AF_XDP socket already \
         (one that has just been closed takes some 100 ms to go)"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused something else.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// The other end of a ring has put an impossible number into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a ring of {size} entries claims {claimed}: its other end is not to be trusted")]
pub struct RingCorrupt {
    /// Entries that there would be.
    pub claimed: u32,
    /// Entries of the ring.
    pub size: u32,
}
