//! A connected socket that carries messages and descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Most descriptors in one message.
pub const MAX_FDS: usize = 4;

/// One end of a `SOCK_SEQPACKET` Unix socket: each message arrives whole or
/// not at all, and the kernel says when the last copy of the other end is
/// closed.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Connects to the socket `name` in directory `dir`. Connecting, sending
    /// and receiving take at most `timeout` each.
    ///
    /// # Errors
    ///
    /// The kernel's, for instance `NotFound` and `ConnectionRefused` if nobody
    /// listens.
    pub fn connect(dir: &Path, name: &str, timeout: Duration) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // The first also bounds the wait for a place in the server's queue.
        set_socket_timeout(&fd, Timeout::Send, Some(timeout))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(timeout))?;
        let place = SocketPlace::new(dir, name)?;
        rustix::net::connect(&fd, &place.addr)?;
        Ok(Self(fd))
    }

    /// Sends one message.
    ///
    /// # Errors
    ///
    /// The kernel's; `WouldBlock` if the other end does not read.
    ///
    /// # Panics
    ///
    /// With more than [`MAX_FDS`] descriptors.
    pub fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert!(
            fds.len() <= MAX_FDS,
            "{} descriptors in one message",
            fds.len()
        );
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            debug_assert!(fits, "the space was measured for MAX_FDS");
        }
        let iov = [IoSlice::new(message)];
        loop {
            match rustix::net::sendmsg(&self.0, &iov, &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Receives one message into `buf` and its descriptors into `fds`; bytes
    /// received, 0 when the other end is closed.
    ///
    /// # Errors
    ///
    /// The kernel's; `WouldBlock` if nothing came in time; `InvalidData` if
    /// the message is longer than `buf` or has too many descriptors; EMFILE if
    /// this process has no room for them.
    pub fn recv(&self, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let got = loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut iov = [IoSliceMut::new(buf)];
            match rustix::net::recvmsg(&self.0, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(got) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = message {
                            fds.extend(rights);
                        }
                    }
                    break got;
                }
            }
        };
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "message cut short",
            ));
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            // There was room for as many as may come: so the process has no
            // number left to give them.
            return Err(if fds.len() < MAX_FDS {
                Errno::MFILE.into()
            } else {
                io::Error::new(io::ErrorKind::InvalidData, "too many descriptors")
            });
        }
        Ok(got.bytes)
    }

    /// Receives one message and throws its descriptors away unopened; its
    /// bytes, which may be more than `buf` holds, 0 when the other end is
    /// closed.
    ///
    /// # Errors
    ///
    /// The kernel's; `WouldBlock` if nothing came in time.
    pub fn recv_plain(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            // Without room for control messages the kernel drops them.
            match rustix::net::recv(&self.0, &mut *buf, RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok((_, len)) => return Ok(len),
            }
        }
    }

    /// Throws away all messages that have come, and their descriptors
    /// unopened. Never waits.
    pub fn discard(&self) {
        let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        loop {
            match rustix::net::recv(&self.0, &mut [0u8; 1], flags) {
                Err(Errno::INTR) => {}
                Err(_) | Ok((_, 0)) => return,
                Ok(_) => {}
            }
        }
    }

    /// Whether the other end is still open. Never waits.
    #[must_use]
    pub fn is_open(&self) -> bool {
        is_open(self.0.as_fd())
    }
}

/// Whether the other end of a connected socket is still open. Never waits.
#[must_use]
pub fn is_open(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
    match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => !fds[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR),
        Err(_) => true, // cannot tell: out of memory, or a signal
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes a listening socket `name` in directory `dir`, not inherited and not
/// blocking. Fails if the name exists.
///
/// # Errors
///
/// The kernel's.
pub fn listen(dir: &Path, name: &str, backlog: i32) -> io::Result<OwnedFd> {
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let place = SocketPlace::new(dir, name)?;
    rustix::net::bind(&fd, &place.addr)?;
    rustix::net::listen(&fd, backlog)?;
    Ok(fd)
}

/// A socket's address. Those longer than the 107 bytes that fit are reached
/// through a descriptor of their directory.
struct SocketPlace {
    addr: SocketAddrUnix,
    _dir: Option<OwnedFd>,
}

impl SocketPlace {
    fn new(dir: &Path, name: &str) -> io::Result<Self> {
        match SocketAddrUnix::new(dir.join(name)) {
            Ok(addr) => return Ok(Self { addr, _dir: None }),
            Err(Errno::NAMETOOLONG) => {}
            Err(e) => return Err(e.into()),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty())?;
        let short = format!("/proc/self/fd/{}/{name}", fd.as_raw_fd());
        Ok(Self {
            addr: SocketAddrUnix::new(short)?,
            _dir: Some(fd),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::time::Instant;

    fn pair() -> (Channel, Channel) {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        (a.into(), b.into())
    }

    /// The other end of a descriptor that goes along with a message.
    fn descriptor_sent_by(from: &Channel) -> Channel {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let pair = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None);
        let (read, write) = pair.unwrap();
        from.send(b"x", &[write.as_fd()]).unwrap();
        Channel(read)
    }

    #[test]
    fn messages_keep_their_ends_and_descriptors() {
        let (a, b) = pair();
        let bell = crate::Doorbell::new().unwrap();
        a.send(b"one", &[bell.as_fd()]).unwrap();
        a.send(b"two", &[]).unwrap();
        let (mut buf, mut fds) = ([0; 16], Vec::new());
        assert_eq!(b.recv(&mut buf, &mut fds).unwrap(), 3);
        crate::Doorbell::from(fds.remove(0)).ring();
        assert!(bell.clear());
        assert_eq!(b.recv(&mut buf, &mut fds).unwrap(), 3);
        assert_eq!((&buf[..3], fds.len()), (&b"two"[..], 0));
        let none = b.recv(&mut buf, &mut fds).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        assert!(b.is_open());
        drop(a);
        assert!(!b.is_open());
        assert_eq!(b.recv(&mut buf, &mut fds).unwrap(), 0);
    }

    #[test]
    fn unwanted_descriptors_and_long_messages_do_no_harm() {
        let (a, b) = pair();
        let read = descriptor_sent_by(&a);
        assert_eq!(b.recv_plain(&mut [0; 4]).unwrap(), 1);
        assert!(!read.is_open(), "the descriptor in flight was closed");
        a.send(b"12345", &[]).unwrap();
        assert_eq!(b.recv_plain(&mut [0; 4]).unwrap(), 5);
        a.send(b"12345", &[]).unwrap();
        let cut = b.recv(&mut [0; 4], &mut Vec::new()).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_discarded_is_closed_and_makes_room() {
        let (a, b) = pair();
        let read = descriptor_sent_by(&a);
        while a.send(b"12345", &[]).is_ok() {}
        b.discard();
        assert!(!read.is_open(), "it was closed");
        a.send(b"12345", &[]).unwrap();
        b.discard();
        let none = b.recv_plain(&mut [0; 8]).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        b.discard();
    }

    #[test]
    fn long_paths_are_reached() {
        let base: PathBuf = std::env::temp_dir().join(format!("nv-chan-{}", std::process::id()));
        let dir = base.join("d".repeat(120));
        std::fs::create_dir_all(&dir).unwrap();
        let wait = Duration::from_secs(1);
        let nobody = Channel::connect(&dir, "s", wait).unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
        let listener = listen(&dir, "s", 1).unwrap();
        Channel::connect(&dir, "s", wait).unwrap();
        drop(listener);
        // A program that another test starts has it for an instant.
        let end = Instant::now() + Duration::from_secs(30);
        let mut said = None;
        while said != Some(io::ErrorKind::ConnectionRefused) {
            assert!(Instant::now() < end, "{said:?}");
            let connected = Channel::connect(&dir, "s", wait);
            said = connected.err().map(|e| e.kind());
        }
        std::fs::remove_dir_all(base).unwrap();
    }
}
