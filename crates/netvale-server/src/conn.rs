//! One connection: a client that asks, and perhaps a registration.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use netvale_shm::channel::Channel;
use netvale_wire::proto::{Context, ErrorKind, Reply, Request, encode_reply};

use crate::listing::Refusal;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) channel: Channel,
    /// The process that connected. Whoever has the socket now is its heir.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// Of the network namespace in which it connected, where the kernel tells.
    pub(crate) netns_cookie: Option<u64>,
    /// The server's own user, or root.
    pub(crate) trusted_user: bool,
    /// Settled by the first message.
    pub(crate) context: Option<Context>,
    /// What it is bound to.
    pub(crate) owner: Option<u16>,
    /// Regions that it asked for: number, generation.
    pub(crate) wanted: Vec<(u16, u32)>,
    /// A request that may be granted in a moment, and since when it waits.
    /// Nothing more is read until it is answered.
    pub(crate) waiting: Option<(Request, Instant)>,
    /// An answer for which there was no room. Until it is sent nothing more is
    /// read, so there is never a second one.
    unsent: Option<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Conn {
    pub(crate) fn new(fd: OwnedFd, pid: u32, uid: u32, trusted_user: bool) -> Self {
        let netns_cookie = netvale_backends::netns_cookie(fd.as_fd());
        Self {
            channel: fd.into(),
            pid,
            uid,
            netns_cookie,
            trusted_user,
            context: None,
            owner: None,
            wanted: Vec::new(),
            waiting: None,
            unsent: None,
        }
    }

    /// Whether an answer waits for the client to read.
    pub(crate) fn is_stuck(&self) -> bool {
        self.unsent.is_some()
    }

    /// Answers, now or when there is room.
    pub(crate) fn answer(&mut self, reply: &Reply, fds: Vec<OwnedFd>) -> io::Result<()> {
        let message = encode_reply(reply).or_else(|e| {
            let refusal = Refusal::new(ErrorKind::Other, format!("answer of the server: {e}"));
            encode_reply(&refusal.into())
        });
        self.unsent = Some((message.map_err(io::Error::other)?, fds));
        self.flush()
    }

    /// Tries again to send what is left.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let Some((message, fds)) = &self.unsent else {
            return Ok(());
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match self.channel.send(message, &fds) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
            Ok(()) => {
                self.unsent = None;
                Ok(())
            }
        }
    }
}
