//! Error numbers, as a netmap program sees them in `errno`.

use core::fmt;

/// An `errno` value of Linux (`asm-generic/errno-base.h`, `errno.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// No such entry: the end of an enumeration.
    pub const ENOENT: Self = Self(2);
    /// Input/output error.
    pub const EIO: Self = Self(5);
    /// No such device: no such port, or the file is not bound to one.
    pub const ENXIO: Self = Self(6);
    /// Bad file descriptor.
    pub const EBADF: Self = Self(9);
    /// Out of memory, ports or buffers.
    pub const ENOMEM: Self = Self(12);
    /// Not permitted.
    pub const EACCES: Self = Self(13);
    /// A bad address.
    pub const EFAULT: Self = Self(14);
    /// In use.
    pub const EBUSY: Self = Self(16);
    /// The name is taken.
    pub const EEXIST: Self = Self(17);
    /// No such device.
    pub const ENODEV: Self = Self(19);
    /// The request makes no sense.
    pub const EINVAL: Self = Self(22);
    /// Options too long.
    pub const EMSGSIZE: Self = Self(90);
    /// Understood, but not supported.
    pub const EOPNOTSUPP: Self = Self(95);
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

impl core::error::Error for Errno {}
