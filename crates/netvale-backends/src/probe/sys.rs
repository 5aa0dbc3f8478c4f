//! Questions to a driver by ioctl.

#![expect(unsafe_code, reason = "SIOCETHTOOL is reached by ioctl only")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// `struct ifreq` with an address in it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u32,
    rest: [u64; 2],
}

/// A question of the old ethtool interface: its first word is the command, and
/// the driver writes the answer over it.
pub(super) trait Question {
    /// What is asked.
    const COMMAND: u32;
    /// The words of the structure.
    fn words(&mut self) -> &mut [u32];
}

macro_rules! question {
    ($name:ident, $command:expr, $words:expr) => {
        #[derive(Debug)]
        pub(super) struct $name(pub(super) [u32; $words]);

        impl Question for $name {
            const COMMAND: u32 = $command;
            fn words(&mut self) -> &mut [u32] {
                &mut self.0
            }
        }
    };
}

// `struct ethtool_drvinfo`, `ethtool_channels`, `ethtool_ringparam`.
question!(DriverInfo, 0x03, 49);
question!(Channels, 0x3c, 9);
question!(Rings, 0x10, 9);
// `struct ethtool_value`.
question!(RxChecksum, 0x14, 2);
question!(Tso, 0x1e, 2);
question!(Gso, 0x23, 2);
question!(Gro, 0x2b, 2);
question!(Flags, 0x25, 2);

/// Asks the driver of interface `name`.
pub(super) fn ask<Q: Question>(name: &str, question: &mut Q) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let any = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let words = question.words();
    words.fill(0);
    if let Some(first) = words.first_mut() {
        *first = Q::COMMAND;
    }
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        data: words.as_mut_ptr(),
        rest: [0; 2],
    };
    if name.len() >= request.name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the request is as long as the kernel's (40 bytes); the words it
    // points to are all that this command reads and writes (the types above
    // have the sizes of the kernel's structures).
    let result = unsafe {
        libc::ioctl(
            any.as_fd().as_raw_fd(),
            libc::SIOCETHTOOL as _,
            &raw mut request,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
