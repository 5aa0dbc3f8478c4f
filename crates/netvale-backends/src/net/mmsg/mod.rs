//! Many datagrams with one call, in place in a pool.

mod sys;

pub(crate) use sys::{Messages, recv, send};

use std::net::{IpAddr, SocketAddr};

/// Bytes before the frame that do not lie in the pool: at most this many.
pub(crate) const HEAD: usize = 16;

/// One datagram to send: which frame, and where to unless the socket knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Out {
    pub(crate) frame: usize,
    pub(crate) to: Option<SocketAddr>,
}

/// What is asked of each received datagram besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Bytes that belong into [`Got::head`] and not into the pool.
    pub(crate) head: usize,
    /// Bytes behind each chain for what does not fit, into [`Got::spill`].
    pub(crate) spill: usize,
    /// Whether the sender's address is of interest.
    pub(crate) address: bool,
    /// Whether control messages are.
    pub(crate) control: bool,
}

/// What came with a received datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Got<'a> {
    /// Bytes after the head: in the chain, then in the spill.
    pub(crate) len: usize,
    /// The room behind the chain; what of it is filled follows from `len`.
    #[cfg_attr(not(feature = "packet"), expect(dead_code, reason = "none asked for"))]
    pub(crate) spill: &'a [u8],
    /// The head, shorter than asked for if the datagram was.
    pub(crate) head: &'a [u8],
    /// Whether the chain was too short.
    pub(crate) truncated: bool,
    /// Sender.
    #[cfg_attr(not(feature = "vxlan"), expect(dead_code, reason = "one sender"))]
    pub(crate) from: Option<SocketAddr>,
    #[cfg_attr(not(feature = "packet"), expect(dead_code, reason = "none asked for"))]
    control: &'a [u8],
}

impl<'a> Got<'a> {
    /// The data of the control message of this level and type.
    #[cfg(feature = "packet")]
    pub(crate) fn control(&self, level: i32, kind: i32) -> Option<&'a [u8]> {
        const HDR: usize = 16; // struct cmsghdr: length, level, type
        let mut rest = self.control;
        // Each round takes at least a header off.
        while let Some((len, after)) = rest.split_first_chunk::<8>() {
            let len = usize::try_from(u64::from_ne_bytes(*len)).ok()?;
            let (l, after) = after.split_first_chunk::<4>()?;
            let t = after.first_chunk::<4>()?;
            if i32::from_ne_bytes(*l) == level && i32::from_ne_bytes(*t) == kind {
                return rest.get(HDR..len);
            }
            rest = rest.get(len.max(HDR).next_multiple_of(8)..)?;
        }
        None
    }
}

/// A socket address as the kernel reads it.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct RawAddr([u8; 32]);

impl RawAddr {
    pub(crate) const EMPTY: Self = Self([0; 32]);

    /// Bytes for any address.
    pub(crate) const ROOM: u32 = 32;

    /// Bytes that the kernel reads of an address.
    pub(crate) fn len(addr: SocketAddr) -> u32 {
        match addr {
            SocketAddr::V4(_) => 16,
            SocketAddr::V6(_) => 28,
        }
    }

    /// An address.
    pub(crate) fn new(addr: SocketAddr) -> Self {
        let mut raw = [0; 32];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(to) = raw.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        put(2, &addr.port().to_be_bytes());
        let family = match addr {
            SocketAddr::V4(a) => {
                put(4, &a.ip().octets());
                2u16
            }
            SocketAddr::V6(a) => {
                put(8, &a.ip().octets());
                put(24, &a.scope_id().to_ne_bytes());
                10u16
            }
        };
        put(0, &family.to_ne_bytes());
        Self(raw)
    }

    /// The address, if it is one of IPv4 or IPv6.
    pub(crate) fn get(&self) -> Option<SocketAddr> {
        let b = &self.0;
        let port = u16::from_be_bytes([b[2], b[3]]);
        match u16::from_ne_bytes([b[0], b[1]]) {
            2 => Some(SocketAddr::new(
                IpAddr::from(*b.get(4..)?.first_chunk::<4>()?),
                port,
            )),
            10 => {
                let ip = *b.get(8..)?.first_chunk::<16>()?;
                let scope = u32::from_ne_bytes(*b.get(24..)?.first_chunk()?);
                Some(std::net::SocketAddrV6::new(ip.into(), port, 0, scope).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_everything() {
        for text in ["192.0.2.7:4789", "[2001:db8::1]:65535", "[fe80::2%7]:1"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddr::new(addr).get(), Some(addr), "{text}");
        }
        assert_eq!(RawAddr::EMPTY.get(), None);
    }

    #[cfg(feature = "packet")]
    #[test]
    fn control_messages_are_found_behind_others() {
        let mut control = Vec::new();
        for (level, kind, data) in [(1i32, 2i32, &[9u8; 4][..]), (263, 8, &[7; 20])] {
            control.extend_from_slice(&(16 + data.len() as u64).to_ne_bytes());
            control.extend_from_slice(&level.to_ne_bytes());
            control.extend_from_slice(&kind.to_ne_bytes());
            control.extend_from_slice(data);
            control.resize(control.len().next_multiple_of(8), 0);
        }
        let got = |control| Got {
            len: 0,
            head: &[],
            spill: &[],
            truncated: false,
            from: None,
            control,
        };
        assert_eq!(got(&control).control(263, 8), Some(&[7u8; 20][..]));
        assert_eq!(got(&control).control(263, 9), None);
        assert_eq!(got(&control[..30]).control(263, 8), None, "cut");
        let zeros = [0; 64];
        assert_eq!(got(&zeros).control(263, 8), None, "ends");
    }
}
