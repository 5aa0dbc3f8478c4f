//! What is attached to an interface, asked without changing anything.

use std::io;
use std::mem::MaybeUninit;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{BpfError, interface_name, os_error, prog, sys};

/// The XDP programs of an interface, by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpState {
    /// In the driver.
    pub native: Option<u32>,
    /// In the stack.
    pub generic: Option<u32>,
    /// In the hardware.
    pub offloaded: Option<u32>,
}

const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_XDP: u16 = 43;
const XDP_DRV_PROG_ID: u16 = 5;
const XDP_SKB_PROG_ID: u16 = 6;
const XDP_HW_PROG_ID: u16 = 7;
/// Bytes of `nlmsghdr` and of `ifinfomsg`.
const HEADER: usize = 16;
const IFINFO: usize = 16;

/// Which XDP programs an interface has.
///
/// # Errors
///
/// If there is no such interface.
pub fn xdp_state(ifindex: u32) -> Result<XdpState, BpfError> {
    ask(ifindex).map_err(|e| os_error("ask for the XDP programs of", interface_name(ifindex), e))
}

fn ask(ifindex: u32) -> io::Result<XdpState> {
    let link = LinkMessage::ask(ifindex)?;
    let mut state = XdpState::default();
    let Some((_, nested)) = attributes(&link.attributes).find(|(kind, _)| *kind == IFLA_XDP) else {
        return Ok(state);
    };
    for (kind, value) in attributes(nested) {
        let id = value.first_chunk().map(|&b| u32::from_ne_bytes(b));
        match kind {
            XDP_DRV_PROG_ID => state.native = id,
            XDP_SKB_PROG_ID => state.generic = id,
            XDP_HW_PROG_ID => state.offloaded = id,
            _ => {}
        }
    }
    Ok(state)
}

/// What rtnetlink tells of an interface.
pub(crate) struct LinkMessage {
    /// `IFF_` flags.
    #[cfg_attr(
        not(feature = "af_xdp"),
        expect(dead_code, reason = "asked for by the probe")
    )]
    pub(crate) flags: u32,
    /// `IFLA_` attributes.
    pub(crate) attributes: Vec<u8>,
}

impl LinkMessage {
    pub(crate) fn ask(ifindex: u32) -> io::Result<Self> {
        let mut request = vec![0; 4]; // family, padding, type
        request.extend(ifindex.to_ne_bytes());
        request.extend([0; 8]); // flags and their mask
        // Without counters of virtual functions: the answer would be long.
        request.extend(8_u16.to_ne_bytes());
        request.extend(IFLA_EXT_MASK.to_ne_bytes());
        request.extend(8_u32.to_ne_bytes());
        let answer = exchange(None, RTM_GETLINK, &request)?;
        let word = |at: usize| answer.get(at..)?.first_chunk().copied();
        let flags = word(8).map(u32::from_ne_bytes);
        let attributes = answer.get(IFINFO..).map(<[u8]>::to_vec);
        match (flags, attributes) {
            (Some(flags), Some(attributes)) => Ok(Self { flags, attributes }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Asks the kernel one thing by netlink and returns what follows the header
/// of its answer. No protocol is protocol 0: interfaces, addresses, routes.
pub(crate) fn exchange(
    protocol: Option<rustix::net::Protocol>,
    kind: u16,
    body: &[u8],
) -> io::Result<Vec<u8>> {
    let len = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut request = len.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence and port: one question, one answer
    request.extend(body);
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &kernel)?;
    let mut buf = vec![MaybeUninit::uninit(); 64 << 10];
    // The kernel has answered before it returns from the call.
    let ((answer, _), whole) = rustix::net::recv(&socket, &mut buf[..], RecvFlags::DONTWAIT)?;
    let kind = answer.get(4..).and_then(|b| b.first_chunk());
    let (Some(&kind), Some(body)) = (kind, answer.get(HEADER..)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if whole > answer.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if u16::from_ne_bytes(kind) == NLMSG_ERROR {
        let code = body
            .first_chunk()
            .map_or(-libc::EIO, |&b| i32::from_ne_bytes(b));
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    Ok(body.to_vec())
}

/// The attributes in a row of them: kind (without flags) and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// Names of the tcx programs on what an interface receives and sends, in the
/// order in which they run; empty ones where the name cannot be read, for which
/// CAP_SYS_ADMIN is needed.
///
/// # Errors
///
/// [`BpfError::Unsupported`] before Linux 6.6; without the privilege.
pub fn tc_programs(ifindex: u32) -> Result<(Vec<String>, Vec<String>), BpfError> {
    let names = |place| -> io::Result<Vec<String>> {
        let ids = sys::prog_query(ifindex, place)?;
        // One that has just gone has no name any more.
        let names = ids
            .into_iter()
            .map(|id| sys::prog_name(id).unwrap_or_default());
        Ok(names.collect())
    };
    let ask = || {
        Ok((
            names(prog::ATTACH_TCX_INGRESS)?,
            names(prog::ATTACH_TCX_EGRESS)?,
        ))
    };
    ask().map_err(|e: io::Error| match e.raw_os_error() {
        Some(libc::EINVAL) => BpfError::Unsupported {
            what: format!("list the tc programs of {}", interface_name(ifindex)),
            needs: "tcx links need Linux 6.6 with CONFIG_NET_XGRESS",
            source: e,
        },
        _ => os_error("list the tc programs of", interface_name(ifindex), e),
    })
}

/// Whether the kernel knows tcx.
pub(super) fn has_tcx(ifindex: u32) -> bool {
    let answer = sys::prog_query(ifindex, prog::ATTACH_TCX_EGRESS);
    !answer.is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_they_are_damaged() {
        let good = [8, 0, 5, 0x80, 1, 2, 3, 4, 5, 0, 6, 0, 9, 0, 0, 0];
        let found: Vec<_> = attributes(&good).collect();
        assert_eq!(found, [(5, &[1, 2, 3, 4][..]), (6, &[9][..])]);
        assert_eq!(attributes(&good[..7]).count(), 0, "cut");
        assert_eq!(
            attributes(&[3, 0, 0, 0]).count(),
            0,
            "shorter than its head"
        );
        assert_eq!(attributes(&[0; 8]).count(), 0);
    }

    #[test]
    fn loopback_has_no_program_and_nothing_is_no_interface() {
        assert_eq!(xdp_state(1).unwrap(), XdpState::default());
        let e = xdp_state(0x7fff_fff0).unwrap_err();
        let text = "cannot ask for the XDP programs of interface 2147483632 (there is no such";
        assert!(e.to_string().starts_with(text), "{e}");
    }
}
