//! A counter in the kernel that wakes a poller.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// An eventfd: rung by whoever has something for its owner.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// Makes one, silent.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(rustix::event::eventfd(0, flags)?))
    }

    /// Wakes the owner. Ringing a bell that rings already does nothing.
    pub fn ring(&self) {
        // The only failure of a live eventfd is a full counter, which rings.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Silences it; whether it had been rung.
    pub fn clear(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }

    /// Sleeps until it is rung (`true`) or the time is over (`false`).
    ///
    /// # Errors
    ///
    /// The kernel refused to poll. A signal ends the wait with `false`.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let ts = timeout.and_then(|t| Timespec::try_from(t).ok());
        match rustix::event::poll(&mut fds, ts.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// A second descriptor of the same bell.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }
}

impl From<OwnedFd> for Doorbell {
    fn from(fd: OwnedFd) -> Self {
        // A peer's descriptor may block; ours must not.
        let _ = rustix::io::ioctl_fionbio(&fd, true);
        Self(fd)
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_until_cleared() {
        let bell = Doorbell::new().unwrap();
        assert!(!bell.wait(Some(Duration::ZERO)).unwrap());
        bell.ring();
        bell.try_clone().unwrap().ring();
        assert!(bell.wait(None).unwrap());
        assert!(bell.clear());
        assert!(!bell.clear());
        assert!(!bell.wait(Some(Duration::from_millis(1))).unwrap());
    }
}
