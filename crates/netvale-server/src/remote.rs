//! Asking a running server.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use netvale_shm::channel::Channel;
use netvale_wire::proto::{
    MAX_MSG, PROTOCOL_VERSION, Reply, Request, SOCKET_NAME, decode_reply, encode,
};

use crate::dir::LOCK_NAME;

/// A connection that asks.
#[derive(Debug)]
pub struct Remote {
    channel: Channel,
    buf: Vec<u8>,
}

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Remote {
    /// Connects to the server of the namespace in this directory; its
    /// answer to the greeting and what came along.
    ///
    /// # Errors
    ///
    /// `NotFound` and `ConnectionRefused`: no server. `InvalidData`: it does
    /// not speak our protocol.
    pub fn connect(dir: &Path, isolated: bool) -> io::Result<(Self, Reply, Vec<OwnedFd>)> {
        let channel = Channel::connect(dir, SOCKET_NAME, PATIENCE)?;
        let mut remote = Self {
            channel,
            buf: vec![0; MAX_MSG],
        };
        let hello = Request::Hello {
            version: PROTOCOL_VERSION,
            isolated,
            client: "netvale".into(),
        };
        let (reply, fds) = remote.ask(&hello)?;
        Ok((remote, reply, fds))
    }

    /// Asks and waits for the answer and what comes along.
    ///
    /// # Errors
    ///
    /// The connection is gone, or the answer is no reply.
    pub fn ask(&mut self, request: &Request) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let message = encode(request).map_err(io::Error::other)?;
        self.channel.send(&message, &[])?;
        self.reply()
    }

    /// Waits for an answer.
    ///
    /// # Errors
    ///
    /// As [`Remote::ask`].
    pub fn reply(&mut self) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let mut fds = Vec::new();
        match self.channel.recv(&mut self.buf, &mut fds)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            n => {
                let bad = |e| io::Error::new(io::ErrorKind::InvalidData, e);
                Ok((decode_reply(&self.buf[..n]).map_err(bad)?, fds))
            }
        }
    }

    /// The connection itself.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }
}

/// Waits until a server that was told to end has left the directory to the
/// next one; `false` if it takes longer than `time`.
#[must_use]
pub fn wait_until_gone(dir: &Path, time: Duration) -> bool {
    let (lock, end) = (dir.join(LOCK_NAME), Instant::now() + time);
    while lock.exists() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
