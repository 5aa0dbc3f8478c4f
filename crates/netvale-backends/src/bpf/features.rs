//! What drivers say of XDP, by the generic netlink family "netdev".

use std::io;

use rustix::net::netlink;

use super::{attributes, exchange};

/// What a driver can do with XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpFeatures {
    /// Runs programs before the stack.
    pub native: bool,
    /// Redirects to sockets and other interfaces.
    pub redirect: bool,
    /// Takes frames redirected from other interfaces.
    pub transmit: bool,
    /// AF_XDP without a copy.
    pub zero_copy: bool,
    /// Gives programs frames in several pieces.
    pub pieces: bool,
    /// Pieces that a frame may have with zero copy.
    pub zero_copy_pieces: u32,
    /// Tells programs which VLAN tag the kernel keeps beside a frame
    /// (Linux 6.8).
    pub tells_tags: bool,
}

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;
const NETDEV_A_DEV_XDP_RX_METADATA_FEATURES: u16 = 5;
/// Bytes of `genlmsghdr`.
const HEADER: usize = 4;

impl XdpFeatures {
    /// Asks for those of an interface.
    pub(crate) fn ask(index: u32) -> io::Result<Self> {
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let family = call(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name)?;
        let id = find(&family, CTRL_ATTR_FAMILY_ID).and_then(|v| v.first_chunk());
        let id = u16::from_ne_bytes(*id.ok_or(io::ErrorKind::InvalidData)?);

        let which = attribute(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
        let answer = call(id, NETDEV_CMD_DEV_GET, &which)?;
        let bits = |of| {
            let bits = find(&answer, of).and_then(|v| v.first_chunk());
            bits.map(|bits| u64::from_ne_bytes(*bits))
        };
        let told = bits(NETDEV_A_DEV_XDP_RX_METADATA_FEATURES).unwrap_or(0);
        let bits = bits(NETDEV_A_DEV_XDP_FEATURES).ok_or(io::ErrorKind::InvalidData)?;
        let pieces = find(&answer, NETDEV_A_DEV_XDP_ZC_MAX_SEGS).and_then(|v| v.first_chunk());
        Ok(Self {
            native: bits & 1 != 0,
            redirect: bits & 2 != 0,
            transmit: bits & 4 != 0,
            zero_copy: bits & 8 != 0,
            pieces: bits & 32 != 0,
            zero_copy_pieces: pieces.map_or(0, |&b| u32::from_ne_bytes(b)),
            tells_tags: told & 4 != 0,
        })
    }
}

/// Calls a generic netlink family; the attributes that it answers with.
fn call(family: u16, command: u8, attribute: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = vec![command, 1, 0, 0];
    body.extend(attribute);
    let answer = exchange(Some(netlink::GENERIC), family, &body)?;
    let attributes = answer.get(HEADER..).ok_or(io::ErrorKind::InvalidData)?;
    Ok(attributes.to_vec())
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
