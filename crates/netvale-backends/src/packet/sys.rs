//! Options of packet sockets that are not plain ints.

#![expect(
    unsafe_code,
    reason = "setsockopt, getsockopt and bind take untyped addresses"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::net::sys::check;

/// Binds to an interface: frames of all types, or none if only sending.
///
/// # Errors
///
/// The kernel's: `ENODEV` if the interface is gone.
pub(super) fn bind(fd: BorrowedFd<'_>, index: i32, receive: bool) -> io::Result<()> {
    // SAFETY: integers and an array of them, which may be zero.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = 17; // AF_PACKET
    addr.sll_protocol = if receive { 0x0003u16.to_be() } else { 0 }; // ETH_P_ALL
    addr.sll_ifindex = index;
    // SAFETY: the address outlives the call, and the length is its own.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), len_of(&addr)) })
}

/// Asks the interface for all frames, for as long as the socket lives.
///
/// # Errors
///
/// The kernel's.
pub(super) fn promiscuous(fd: BorrowedFd<'_>, index: i32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: 1, // PACKET_MR_PROMISC
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Leaves out frames that carry this mark, and those that this host sends. The
/// interface's taps see what the host was given by its own tc programs; without
/// this it would come around.
///
/// # Errors
///
/// The kernel's.
pub(super) fn leave_out(fd: BorrowedFd<'_>, mark: Option<u32>, outgoing: bool) -> io::Result<()> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const PACKET_OUTGOING: u32 = 4;
    let mut steps = Vec::new();
    let mut unless = |what: i32, value| {
        let at = (libc::SKF_AD_OFF + what).cast_unsigned();
        steps.push(step(LOAD, 0, 0, at));
        steps.push(step(IF_EQUAL, 0, 1, value));
        steps.push(step(RETURN, 0, 0, 0));
    };
    if let Some(mark) = mark {
        unless(libc::SKF_AD_MARK, mark);
    }
    if outgoing {
        unless(libc::SKF_AD_PKTTYPE, PACKET_OUTGOING);
    }
    steps.push(step(RETURN, 0, 0, u32::MAX));
    let program = libc::sock_fprog {
        len: u16::try_from(steps.len()).unwrap_or(0),
        filter: steps.as_mut_ptr(),
    };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Turns the socket's receive queue into a ring of slots.
///
/// # Errors
///
/// The kernel's: `EINVAL` for sizes that it cannot do, `ENOMEM`.
pub(super) fn make_ring(fd: BorrowedFd<'_>, request: &libc::tpacket_req) -> io::Result<()> {
    set(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, request)
}

/// Frames seen and dropped since the last call.
///
/// # Errors
///
/// The kernel's.
pub(super) fn statistics(fd: BorrowedFd<'_>) -> io::Result<[u32; 2]> {
    let mut stats = [0u32; 2];
    let mut len = len_of(&stats);
    // SAFETY: the kernel writes at most `len` bytes, the size of `stats`; any
    // bytes are numbers.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            stats.as_mut_ptr().cast(),
            &raw mut len,
        )
    })?;
    Ok(stats)
}

/// Sets an option to a structure: private, because what the structure points
/// at has to be right.
fn set<T>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let at = std::ptr::from_ref(value).cast();
    // SAFETY: `value` is the structure of this option, made above; it and what
    // it points at outlive the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, at, len_of(value)) })
}

fn len_of<T>(_: &T) -> libc::socklen_t {
    // Small structures.
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
