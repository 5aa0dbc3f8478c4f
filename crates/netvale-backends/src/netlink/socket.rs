//! A blocking rtnetlink socket: requests, answers, dumps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::NetlinkError;
use crate::OsError;
use crate::net::sys::set_int;

/// Longest datagram that is accepted. The kernel makes them of 32 KiB at most,
/// except for one link with very many virtual functions.
const DATAGRAM: usize = 256 << 10;
/// How often a dump that was disturbed by changes is begun anew.
const DUMP_TRIES: usize = 8;

/// How many seconds an answer may take.
const SILENCE: usize = 10;

const SOL_NETLINK: i32 = 270;

/// An answer of the kernel that is not one.
type Message = NetlinkMessage<RouteNetlinkMessage>;

#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    buf: Vec<u8>,
    seq: u32,
}

/// What one datagram held.
#[derive(Debug)]
pub(super) enum Arrival {
    /// These messages.
    Messages(Vec<Message>),
    /// Nothing is there.
    Nothing,
    /// The kernel had to throw messages away.
    Lost,
}

impl Socket {
    /// `groups` is the set of multicast groups as bits; with them the socket
    /// does not block.
    pub(super) fn open(groups: u32, receive_buffer: Option<i32>) -> Result<Self, NetlinkError> {
        let os = |e: Errno| OsError::new("open", "a netlink socket", e);
        let mut flags = SocketFlags::CLOEXEC;
        if groups != 0 {
            flags |= SocketFlags::NONBLOCK;
        }
        // The default protocol of the family is that of routes and links.
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .map_err(os)?;
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            // Only for better messages: kernels before 4.12 have them not.
            let _ = set_int(fd.as_fd(), SOL_NETLINK, option, 1);
        }
        if let Some(bytes) = receive_buffer
            && set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err()
        {
            // Without the privilege, as much as the system allows.
            let _ = set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
        }
        // Only where the socket blocks does it count.
        let second = Some(Duration::from_secs(1));
        set_socket_timeout(&fd, Timeout::Recv, second).map_err(os)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(os)?;
        Ok(Self {
            fd,
            buf: vec![0; DATAGRAM],
            seq: 0,
        })
    }

    /// Sends a request and collects what answers it, until it is done.
    pub(super) fn ask(
        &mut self,
        what: &'static str,
        object: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut packet =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        // A dump ends by itself; whatever else has an answer of its own is
        // acknowledged too, so that its end is known. Only a dump may be
        // repeated: the kernel may have done what else was asked.
        let (more, tries) = match flags & NLM_F_DUMP {
            NLM_F_DUMP => (0, DUMP_TRIES),
            _ => (NLM_F_ACK, 1),
        };
        packet.header.flags = NLM_F_REQUEST | more | flags;
        for _ in 0..tries {
            self.send(what, object, &mut packet)?;
            if let Some(answers) = self.collect(what, object)? {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Restless { what })
    }

    fn send(
        &mut self,
        what: &'static str,
        object: &str,
        packet: &mut Message,
    ) -> Result<(), NetlinkError> {
        self.seq = self.seq.wrapping_add(1);
        packet.header.sequence_number = self.seq;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.fd, &bytes, SendFlags::empty(), &kernel)
            .map_err(|e| OsError::new(what, object, e))?;
        Ok(())
    }

    /// Answers to the last request; `None` if a dump was disturbed.
    fn collect(
        &mut self,
        what: &'static str,
        object: &str,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        const DUMP_INTERRUPTED: u16 = 0x10; // NLM_F_DUMP_INTR
        let mut answers = Vec::new();
        let mut disturbed = false;
        let mut silence = 0;
        loop {
            let messages = match self.receive()? {
                Arrival::Messages(messages) => messages,
                Arrival::Nothing if silence < SILENCE => {
                    silence += 1;
                    continue;
                }
                Arrival::Nothing => {
                    return Err(OsError::new(what, object, Errno::TIMEDOUT).into());
                }
                Arrival::Lost => {
                    disturbed = true;
                    continue;
                }
            };
            for message in messages {
                if message.header.sequence_number != self.seq {
                    continue; // of a request that was given up
                }
                disturbed |= message.header.flags & DUMP_INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::Done(_) => {
                        return Ok((!disturbed).then_some(answers));
                    }
                    NetlinkPayload::Error(e) => match e.code {
                        None => return Ok((!disturbed).then_some(answers)),
                        Some(code) => {
                            return Err(refused(what, object, code.get(), &e.header));
                        }
                    },
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
        }
    }

    /// One datagram of the kernel.
    pub(super) fn receive(&mut self) -> Result<Arrival, NetlinkError> {
        let received = rustix::net::recvfrom(&self.fd, &mut self.buf[..], RecvFlags::TRUNC);
        let (n, full, from) = match received {
            Ok(received) => received,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(Arrival::Nothing),
            Err(Errno::NOBUFS) => return Ok(Arrival::Lost),
            Err(e) => return Err(OsError::new("receive from", "a netlink socket", e).into()),
        };
        let kernel = from
            .and_then(|a| SocketAddrNetlink::try_from(a).ok())
            .is_some_and(|a| a.pid() == 0);
        if !kernel {
            return Ok(Arrival::Nothing); // another process: not to be believed
        }
        if full > n {
            return Ok(Arrival::Lost);
        }
        let mut rest = self.buf.get(..n).unwrap_or_default();
        let mut messages = Vec::new();
        while let Some(len) = rest.first_chunk::<4>() {
            let len = u32::from_ne_bytes(*len) as usize;
            let Some(bytes) = rest.get(..len).filter(|b| b.len() >= 16) else {
                return Err(NetlinkError::Unreadable {
                    why: "a message is longer than its datagram".to_owned(),
                });
            };
            messages.push(
                Message::deserialize(bytes)
                    .map_err(|e| NetlinkError::Unreadable { why: e.to_string() })?,
            );
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Arrival::Messages(messages))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A refusal. `rest` is what follows the code: the request's header, then
/// attributes, the first of which is the kernel's explanation.
fn refused(what: &'static str, object: &str, code: i32, rest: &[u8]) -> NetlinkError {
    let errno = code.wrapping_neg();
    match errno {
        libc::ENODEV => {
            return NetlinkError::Missing {
                name: object.to_owned(),
            };
        }
        libc::EEXIST => {
            return NetlinkError::Exists {
                name: object.to_owned(),
            };
        }
        _ => {}
    }
    NetlinkError::Refused {
        said: explanation(rest.get(16..).unwrap_or_default()),
        error: OsError::new(what, object, std::io::Error::from_raw_os_error(errno)),
    }
}

fn explanation(mut attributes: &[u8]) -> String {
    const TEXT: u16 = 1; // NLMSGERR_ATTR_MSG
    while let Some(&[a, b, c, d]) = attributes.first_chunk::<4>() {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = attributes.get(4..len) else {
            break;
        };
        if u16::from_ne_bytes([c, d]) == TEXT {
            let text = value.split(|&b| b == 0).next().unwrap_or_default();
            return format!(": {}", String::from_utf8_lossy(text));
        }
        attributes = attributes
            .get(len.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_explains_itself() {
        let mut bytes = vec![8, 0, 2, 0, 1, 2, 3, 4]; // another attribute
        bytes.extend([12, 0, 1, 0]);
        bytes.extend(b"no such\0");
        assert_eq!(explanation(&bytes), ": no such");
        assert_eq!(explanation(&bytes[..15]), "", "cut");
        assert_eq!(
            explanation(&[3, 0, 1, 0, 0, 0, 0, 0]),
            "",
            "shorter than itself"
        );
        assert_eq!(explanation(&[]), "");
    }
}
