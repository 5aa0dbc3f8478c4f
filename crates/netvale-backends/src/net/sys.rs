//! Integer socket options and the requests of interfaces by name.

#![expect(unsafe_code, reason = "setsockopt and ioctl take untyped addresses")]

use std::io;
#[cfg(any(feature = "tap", feature = "netlink"))]
use std::os::fd::{AsFd, OwnedFd};
use std::os::fd::{AsRawFd, BorrowedFd};

#[cfg(any(feature = "tap", feature = "netlink"))]
use rustix::net::{AddressFamily, SocketFlags, SocketType};

#[cfg(any(feature = "tap", feature = "netlink"))]
use super::NAME_MAX;

/// Sets an option whose value is an int.
///
/// # Errors
///
/// The kernel's.
#[cfg(any(feature = "packet", feature = "netlink", feature = "vxlan"))]
pub(crate) fn set_int(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is an int that outlives the call, and its size is
    // given; an option that expects a longer one is refused for its size.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            INT_LEN,
        )
    };
    check(rc)
}

/// What the kernel calls the network namespace of a socket (`SO_NETNS_COOKIE`,
/// since Linux 5.14): that in which it was made, and for one that was accepted,
/// that of who connected. `None` where the kernel does not tell.
#[must_use]
pub fn netns_cookie(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut cookie = 0u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`; any
    // bytes are a number.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    (check(rc).is_ok() && len == 8).then_some(cookie)
}

#[cfg(any(feature = "packet", feature = "netlink", feature = "vxlan"))]
const INT_LEN: libc::socklen_t = 4;

#[cfg(any(feature = "tap", feature = "netlink"))]
/// A socket through which interfaces are asked about, in the namespace of the
/// calling thread.
#[derive(Debug)]
pub(crate) struct Control(OwnedFd);

#[cfg(any(feature = "tap", feature = "netlink"))]
impl Control {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        Ok(Self(fd))
    }

    #[cfg(feature = "tap")]
    pub(crate) fn flags(&self, name: &str) -> io::Result<u16> {
        let mut req = request(name)?;
        ifreq_ioctl(self.0.as_fd(), libc::SIOCGIFFLAGS, &mut req)?;
        // SAFETY: the kernel filled the flags.
        let flags = unsafe { req.ifr_ifru.ifru_flags };
        Ok(flags.cast_unsigned())
    }

    #[cfg(feature = "tap")]
    pub(crate) fn set_up(&self, name: &str, up: bool) -> io::Result<()> {
        const UP: u16 = 1; // IFF_UP
        let old = self.flags(name)?;
        let new = if up { old | UP } else { old & !UP };
        let mut req = request(name)?;
        req.ifr_ifru.ifru_flags = new.cast_signed();
        ifreq_ioctl(self.0.as_fd(), libc::SIOCSIFFLAGS, &mut req)
    }

    #[cfg(feature = "tap")]
    pub(crate) fn mtu(&self, name: &str) -> io::Result<u32> {
        let mut req = request(name)?;
        ifreq_ioctl(self.0.as_fd(), libc::SIOCGIFMTU, &mut req)?;
        // SAFETY: the kernel filled the MTU.
        let mtu = unsafe { req.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    #[cfg(feature = "tap")]
    pub(crate) fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        let mut req = request(name)?;
        req.ifr_ifru.ifru_mtu = libc::c_int::try_from(mtu)
            .ok()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        ifreq_ioctl(self.0.as_fd(), libc::SIOCSIFMTU, &mut req)
    }

    #[cfg(feature = "tap")]
    pub(crate) fn mac(&self, name: &str) -> io::Result<[u8; 6]> {
        let mut req = request(name)?;
        ifreq_ioctl(self.0.as_fd(), libc::SIOCGIFHWADDR, &mut req)?;
        // SAFETY: the kernel filled the hardware address.
        let addr = unsafe { req.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(addr.sa_data) {
            *to = from.cast_unsigned();
        }
        Ok(mac)
    }

    #[cfg(feature = "tap")]
    pub(crate) fn set_mac(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let mut req = request(name)?;
        let mut addr = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data: [0; 14],
        };
        for (to, from) in addr.sa_data.iter_mut().zip(mac) {
            *to = from.cast_signed();
        }
        req.ifr_ifru.ifru_hwaddr = addr;
        ifreq_ioctl(self.0.as_fd(), libc::SIOCSIFHWADDR, &mut req)
    }

    /// An ethtool request of up to `N` words, the first of which is the
    /// command; the kernel's answer replaces it.
    ///
    /// # Errors
    ///
    /// The kernel's; `EOPNOTSUPP` if the driver has no answer.
    #[cfg(feature = "netlink")]
    pub(crate) fn ethtool<const N: usize>(
        &self,
        name: &str,
        words: &mut Ethtool<N>,
    ) -> io::Result<()> {
        let mut req = request(name)?;
        req.ifr_ifru.ifru_data = words.0.as_mut_ptr().cast();
        ifreq_ioctl(self.0.as_fd(), libc::SIOCETHTOOL, &mut req)
    }
}

#[cfg(any(feature = "tap", feature = "netlink"))]
impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A request of ethtool with a fixed length of `N` words.
#[cfg(feature = "netlink")]
#[derive(Debug)]
pub(crate) struct Ethtool<const N: usize>([u32; N]);

#[cfg(feature = "netlink")]
impl Ethtool<2> {
    /// A command with one value: `struct ethtool_value`.
    pub(crate) fn value(command: Value, value: u32) -> Self {
        Self([command as u32, value])
    }
}

#[cfg(feature = "netlink")]
impl Ethtool<9> {
    /// `ETHTOOL_GRINGPARAM`, `struct ethtool_ringparam`.
    pub(crate) fn rings() -> Self {
        Self([0x10, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// `ETHTOOL_GCHANNELS`, `struct ethtool_channels`.
    pub(crate) fn channels() -> Self {
        Self([0x3c, 0, 0, 0, 0, 0, 0, 0, 0])
    }
}

#[cfg(feature = "netlink")]
impl Ethtool<49> {
    /// `ETHTOOL_GDRVINFO`, `struct ethtool_drvinfo`.
    pub(crate) fn driver() -> Self {
        let mut words = [0; 49];
        words[0] = 0x03;
        Self(words)
    }
}

#[cfg(feature = "netlink")]
impl<const N: usize> Ethtool<N> {
    pub(crate) fn words(&self) -> [u32; N] {
        self.0
    }
}

/// Commands that take or give one word: getting and setting offloads.
#[cfg(feature = "netlink")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Value {
    GetRxCsum = 0x14,
    SetRxCsum = 0x15,
    GetTxCsum = 0x16,
    SetTxCsum = 0x17,
    GetSg = 0x18,
    SetSg = 0x19,
    GetTso = 0x1e,
    SetTso = 0x1f,
    GetGso = 0x23,
    SetGso = 0x24,
    GetFlags = 0x25,
    SetFlags = 0x26,
    GetGro = 0x2b,
    SetGro = 0x2c,
}

#[cfg(any(feature = "tap", feature = "netlink"))]
fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.len() > NAME_MAX || name.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    // SAFETY: integers, arrays of them and a pointer: all may be zero.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(req)
}

#[cfg(any(feature = "tap", feature = "netlink"))]
fn ifreq_ioctl(fd: BorrowedFd<'_>, command: libc::Ioctl, req: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every command passed here takes a `struct ifreq` that outlives
    // the call; a data pointer in it is set by `Control::ethtool` only, to
    // words that are as long as the command's structure.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), command, std::ptr::from_mut(req)) };
    check(rc)
}

pub(crate) fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
