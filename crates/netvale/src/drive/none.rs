//! Without AF_XDP the server drives all interfaces.

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};

use netvale_wire::proto::{Reply, Request};

pub use crate::wait::For;

use crate::Result;
use crate::client::Of;

/// The driven queues of a registration: none.
#[derive(Debug, Default)]
pub struct Driven {
    /// What to wait for, if there are any.
    pub watch: Option<Watch>,
}

/// The way from a queue's socket to an RX ring.
#[derive(Debug)]
pub struct Inward(Infallible);

/// The way from a TX ring to a queue's socket.
#[derive(Debug)]
pub struct Outward(Infallible);

/// A queue that this process drives.
#[derive(Debug)]
pub enum Queue {}

impl Inward {
    /// Brings what the socket has.
    pub fn serve(&mut self) -> bool {
        match self.0 {}
    }

    /// Whether the driver has to be told again of buffers, and soon.
    #[must_use]
    pub fn is_due(&self) -> bool {
        match self.0 {}
    }

    /// Whether only the server can drive the queue.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self.0 {}
    }

    /// Which one it is.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        match self.0 {}
    }
}

impl Outward {
    /// Sends what the ring's sync has handed over.
    pub fn serve(&mut self) -> bool {
        match self.0 {}
    }

    /// Whether the kernel has to be asked again, and soon.
    #[must_use]
    pub fn is_due(&self) -> bool {
        match self.0 {}
    }

    /// Whether only the server can drive the queue.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self.0 {}
    }

    /// Which one it is.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        match self.0 {}
    }
}

impl Driven {
    pub(crate) fn by_asking(
        _: &Of<'_>,
        _: impl FnMut(&Request) -> Result<(Reply, Vec<OwnedFd>)>,
    ) -> Self {
        Self::default()
    }

    /// The way to the registration's RX ring `i`.
    pub fn inward(&mut self, _i: usize) -> Option<Inward> {
        None
    }

    /// The way from the registration's TX ring `i`.
    pub fn outward(&mut self, _i: usize) -> Option<Outward> {
        None
    }
}

/// One descriptor to poll for the bell of a registration and its sockets.
#[derive(Debug)]
pub struct Watch(Infallible);

impl Watch {
    /// Becomes readable when it is worth looking.
    #[must_use]
    pub fn fd(&self, _what: For) -> BorrowedFd<'_> {
        match self.0 {}
    }

    /// The same descriptor.
    #[must_use]
    pub fn unjoined_fd(&self, _what: For) -> BorrowedFd<'_> {
        match self.0 {}
    }

    /// Has the sockets watched for this from now on.
    pub fn join(&self, _what: For) -> bool {
        match self.0 {}
    }

    /// This process uses a queue no more.
    pub fn leave(&self, _queue: &Queue) -> bool {
        match self.0 {}
    }

    /// After a wake-up that brought nothing.
    pub fn heed(&self, _what: For) {
        match self.0 {}
    }
}
