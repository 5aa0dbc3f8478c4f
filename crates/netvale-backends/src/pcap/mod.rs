//! Capture files: classic pcap and pcapng, read, replayed and written.
//!
//! * [`Reader`] gives records one after the other from a file, a pipe or any
//!   other source. It reads ahead in large pieces and lends each record where
//!   it lies: records are not copied.
//! * [`Replay`] says when each record is due: as captured, faster, slower, at
//!   once, again and again.
//! * [`Writer`] writes one file or stream, [`RotatingWriter`] a series of files.
//!
//! Files are strangers' input: what is wrong with one is an error that says
//! where, whatever its bytes. A file is read and not mapped, because one that
//! shrinks under a mapping kills the process.
//!
//! Times are nanoseconds since 1970.

mod ng;
mod read;
mod replay;
mod rotate;
mod write;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

pub use read::{Reader, Record};
pub use replay::{Pace, Replay, Times};
pub use rotate::{RotatingWriter, Rotation};
pub use write::{Format, Writer, WriterConfig};

/// The link type of Ethernet frames.
pub const ETHERNET: u16 = 1;
/// Longest record that is read, bytes; the limit of libpcap.
pub const MAX_RECORD: usize = 256 << 10;

/// What is wrong with a capture file, which one, and where.
#[derive(Debug)]
pub struct PcapError {
    /// The file.
    pub name: String,
    /// Where, bytes from its start.
    pub offset: u64,
    /// What. Not a source of its own: it is said with the rest.
    pub kind: PcapErrorKind,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PcapErrorKind {
    /// It begins like no capture file.
    #[error("this is no capture file (it begins with {magic:08x})")]
    NotACapture {
        /// The first four bytes.
        magic: u32,
    },
    /// A version that is not known.
    #[error("version {major}.{minor} of the format is not known; 2.x and 1.x are")]
    Version {
        /// Major number.
        major: u16,
        /// Minor number.
        minor: u16,
    },
    /// The file ends too early.
    #[error("the file is cut off: {what} needs {need} bytes, {have} are there")]
    Truncated {
        /// What is incomplete.
        what: &'static str,
        /// Bytes it needs.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// A length that cannot be.
    #[error("{what} of {len} bytes; at least {min} and at most {max} are possible")]
    Length {
        /// What has it.
        what: &'static str,
        /// The length.
        len: u64,
        /// The least that is possible.
        min: u64,
        /// The most that is possible.
        max: u64,
    },
    /// The two lengths of a block differ.
    #[error("a block begins with length {begin} and ends with length {end}")]
    BlockEnd {
        /// At its begin.
        begin: u32,
        /// At its end.
        end: u32,
    },
    /// A packet of an interface that is not described.
    #[error("a packet of interface {id}, but only {known} are described")]
    Interface {
        /// The interface.
        id: u32,
        /// How many there are.
        known: usize,
    },
    /// A section without its byte order.
    #[error("a section has byte order mark {mark:08x}")]
    ByteOrder {
        /// The mark.
        mark: u32,
    },
    /// A pipe or a device, where only a file will do.
    #[error("this is no regular file")]
    NotAFile,
    /// The file could not be opened, read or written.
    #[error("cannot {what} it")]
    Io {
        /// The operation.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl fmt::Display for PcapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, offset, kind } = self;
        write!(f, "capture {name}, byte {offset}: {kind}")
    }
}

impl std::error::Error for PcapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.kind.source()
    }
}

/// Opens a regular file and nothing else, without waiting: a pipe has another
/// end that may never come, or come to a stop.
fn open_regular(
    options: &mut OpenOptions,
    path: &Path,
    what: &'static str,
) -> Result<File, PcapError> {
    const ENXIO: i32 = 6;
    let name = path.display().to_string();
    let no_file = |name: &str| PcapError {
        name: name.to_owned(),
        offset: 0,
        kind: PcapErrorKind::NotAFile,
    };
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = options.custom_flags(flags).open(path).map_err(|e| {
        // A pipe that nobody reads, or a socket.
        match e.raw_os_error() {
            Some(ENXIO) => no_file(&name),
            _ => PcapError::io(&name, 0, what, e),
        }
    })?;
    let about = file.metadata();
    match about.map_err(|e| PcapError::io(&name, 0, what, e))? {
        about if about.is_file() => Ok(file),
        _ => Err(no_file(&name)),
    }
}

impl PcapError {
    fn io(name: &str, offset: u64, what: &'static str, source: io::Error) -> Self {
        Self {
            name: name.to_owned(),
            offset,
            kind: PcapErrorKind::Io { what, source },
        }
    }
}
