//! Kinds of failure.

use alloc::string::String;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::MAX_MSG;

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such port, switch or interface.
    NotFound,
    /// In use by someone else.
    Busy,
    /// The request makes no sense.
    Invalid,
    /// Memory, ports or buffers are used up.
    NoMemory,
    /// Not permitted.
    Denied,
    /// Understood, but not possible here.
    Unsupported,
    /// The name is taken.
    Exists,
    /// The port has a virtio-net header that the program does not accept.
    NoHdr,
    /// No such entry: also the end of an enumeration.
    End,
    /// Nothing there, and this request may not make it.
    NoDevice,
    /// Nothing there that a switch could be given: `EINVAL`, as in netmap.
    Missing,
    /// Memory that cannot be read or written.
    Fault,
    /// An operating system call failed.
    Os,
    /// The client broke the protocol.
    Protocol,
    /// A kind that this release does not know.
    #[serde(other)]
    Other,
}

impl ErrorKind {
    /// Name of the `errno` value a netmap program sees.
    #[must_use]
    pub const fn errno_name(self) -> &'static str {
        match self {
            Self::NotFound => "ENXIO",
            Self::Busy => "EBUSY",
            Self::Invalid | Self::Missing => "EINVAL",
            Self::NoMemory => "ENOMEM",
            Self::Denied => "EACCES",
            Self::Unsupported => "EOPNOTSUPP",
            Self::Exists => "EEXIST",
            Self::NoHdr | Self::Os | Self::Other => "EIO",
            Self::End => "ENOENT",
            Self::NoDevice => "ENODEV",
            Self::Fault => "EFAULT",
            Self::Protocol => "EPROTO",
        }
    }

    /// The `errno` value on Linux (`asm-generic/errno.h`).
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotFound => 6,
            Self::Busy => 16,
            Self::Invalid | Self::Missing => 22,
            Self::NoMemory => 12,
            Self::Denied => 13,
            Self::Unsupported => 95,
            Self::Exists => 17,
            Self::NoHdr | Self::Os | Self::Other => 5,
            Self::End => 2,
            Self::NoDevice => 19,
            Self::Fault => 14,
            Self::Protocol => 71,
        }
    }

    /// Exit status of a command-line tool that fails for this reason: 2 for
    /// usage, 3 for a missing privilege, feature or device, 4 for a failure at
    /// run time, 5 for a peer that broke the protocol.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::NotFound | Self::NoDevice | Self::Missing | Self::Denied | Self::Unsupported => 3,
            Self::Busy
            | Self::NoMemory
            | Self::Exists
            | Self::NoHdr
            | Self::End
            | Self::Fault
            | Self::Os
            | Self::Other => 4,
            Self::Protocol => 5,
        }
    }
}

/// Why a message could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtoError {
    /// The message is longer than [`MAX_MSG`].
    #[error("message of {len} bytes, at most {MAX_MSG} are allowed")]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// The message is no JSON object of a known form.
    #[error("malformed message: {reason}")]
    Malformed {
        /// What the JSON parser says.
        reason: String,
    },
}
