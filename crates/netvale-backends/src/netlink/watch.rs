//! News of interfaces.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;

use super::socket::{Arrival, Socket};
use super::{Link, NetlinkError, read};

/// The group of link messages, `RTNLGRP_LINK`, as a bit.
const GROUP_LINK: u32 = 1;
/// Bytes of news that may wait in the kernel.
const BUFFER: i32 = 4 << 20;

/// What happened to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// It appeared, or something about it changed.
    Changed(Link),
    /// It was deleted, or moved to another namespace.
    Removed(Link),
    /// News were lost because they were not read fast enough: what is known
    /// about interfaces may be wrong, ask for all of them again.
    Lost,
}

/// A socket that tells of interfaces.
///
/// As an iterator it gives the events that wait now and then ends; it can be
/// asked again. Wait with `poll` on its descriptor.
#[derive(Debug)]
pub struct LinkWatch {
    socket: Socket,
    waiting: VecDeque<LinkEvent>,
}

impl LinkWatch {
    /// Listens from now on, in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Os`]: out of descriptors.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::with_buffer(BUFFER)
    }

    /// The same, with so many bytes of news that may wait.
    ///
    /// # Errors
    ///
    /// As for [`LinkWatch::open`].
    pub fn with_buffer(bytes: i32) -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::open(GROUP_LINK, Some(bytes))?,
            waiting: VecDeque::new(),
        })
    }

    /// The next event, if one waits.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Os`] if the socket failed. A message that is not
    /// understood is [`LinkEvent::Lost`].
    pub fn next_event(&mut self) -> Result<Option<LinkEvent>, NetlinkError> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            match self.socket.receive() {
                Ok(Arrival::Messages(messages)) => {
                    let events = messages.into_iter().filter_map(|m| match m.payload {
                        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(m)) => {
                            read(m).map(LinkEvent::Changed)
                        }
                        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(m)) => {
                            read(m).map(LinkEvent::Removed)
                        }
                        _ => None,
                    });
                    self.waiting.extend(events);
                }
                Ok(Arrival::Nothing) => return Ok(None),
                Ok(Arrival::Lost) | Err(NetlinkError::Unreadable { .. }) => {
                    return Ok(Some(LinkEvent::Lost));
                }
                Err(e) => return Err(e),
            }
        }
    }
}

impl Iterator for LinkWatch {
    type Item = Result<LinkEvent, NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
