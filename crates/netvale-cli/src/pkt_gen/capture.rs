//! pcap files: packets to send, and packets received.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use netvale::{Error, ErrorKind};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError};

use super::config::MAX_FRAME;
use crate::failure::io_error;

/// Bytes of packets that a file to be sent may hold: they are kept in memory.
const MAX_BYTES: usize = 1 << 30;

/// All packets of a file.
pub(super) fn read(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let doing = || format!("cannot read {}", path.display());
    let file = File::open(path).map_err(|e| io_error(&doing(), &e))?;
    let mut reader = PcapReader::new(BufReader::new(file)).map_err(|e| describe(&doing(), &e))?;
    if reader.header().datalink != DataLink::ETHERNET {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "{}: not Ethernet, but {:?}",
                doing(),
                reader.header().datalink
            ),
        ));
    }
    let mut packets = Vec::new();
    let mut bytes = 0;
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(|e| describe(&doing(), &e))?;
        let data = packet.data.into_owned();
        let number = packets.len() + 1;
        if data.is_empty() || data.len() > MAX_FRAME as usize {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{}: packet {number} has {} bytes", doing(), data.len()),
            ));
        }
        bytes += data.len();
        if bytes > MAX_BYTES {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("{}: more than {} MiB of packets", doing(), MAX_BYTES >> 20),
            ));
        }
        packets.push(data);
    }
    if packets.is_empty() {
        let message = format!("{}: it has no packets", doing());
        return Err(Error::new(ErrorKind::Usage, message));
    }
    Ok(packets)
}

/// Writes received packets to a file.
pub(super) struct Writer {
    path: PathBuf,
    /// `None` once closed.
    file: Mutex<Option<PcapWriter<BufWriter<File>>>>,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let doing = format!("cannot write {}", path.display());
        let file = File::create(path).map_err(|e| io_error(&doing, &e))?;
        let header = PcapHeader {
            snaplen: MAX_FRAME,
            datalink: DataLink::ETHERNET,
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(BufWriter::with_capacity(1 << 20, file), header)
            .map_err(|e| describe(&doing, &e))?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(Some(writer)),
        })
    }

    /// Appends a packet, stamped with the time of day.
    pub(super) fn write(&self, frame: &[u8]) -> Result<(), Error> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let packet = PcapPacket::new(now, len, frame);
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        match file.as_mut().map(|writer| writer.write_packet(&packet)) {
            Some(Err(error)) => Err(self.failed(&error)),
            _ => Ok(()),
        }
    }

    /// Writes out what is buffered. Errors of a full disk may show only here.
    pub(super) fn close(&self) -> Result<(), Error> {
        let writer = self.file.lock().unwrap_or_else(|e| e.into_inner()).take();
        let Some(writer) = writer else {
            return Ok(());
        };
        match writer.into_writer().into_inner() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&PcapError::IoError(error.into_error()))),
        }
    }

    fn failed(&self, error: &PcapError) -> Error {
        describe(&format!("cannot write {}", self.path.display()), error)
    }
}

/// What went wrong with a file. A full disk is a failure of the run (status
/// 4), not of the command line.
fn describe(doing: &str, error: &PcapError) -> Error {
    match error {
        PcapError::IoError(e) if e.kind() == io::ErrorKind::StorageFull => {
            Error::new(ErrorKind::Io, format!("{doing}: {e}"))
                .with_hint("the packets written so far are in the file")
        }
        PcapError::IoError(e) => io_error(doing, e),
        PcapError::IncompleteBuffer => {
            Error::new(ErrorKind::Io, format!("{doing}: it ends inside a packet"))
        }
        other => Error::new(ErrorKind::Usage, format!("{doing}: {other}"))
            .with_hint("classic pcap is read; convert others with: editcap -F pcap IN OUT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.pcap");
        let writer = Writer::create(&path).expect("created");
        let packets = vec![vec![1u8; 60], vec![2; 1514], vec![3; 60]];
        for packet in &packets {
            writer.write(packet).expect("written");
        }
        writer.close().expect("closed");
        assert_eq!(read(&path).expect("read"), packets);
    }

    #[test]
    fn bad_files_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.pcap");
        assert_eq!(read(&path).expect_err("missing").kind(), ErrorKind::Io);
        for bytes in [&b""[..], b"no pcap file at all, but long enough"] {
            std::fs::write(&path, bytes).expect("written");
            let error = read(&path).expect_err("not pcap").to_string();
            assert!(error.contains("a.pcap"), "{error}");
        }
        let writer = Writer::create(&path).expect("created");
        writer.close().expect("closed");
        let error = read(&path).expect_err("empty").to_string();
        assert!(error.contains("no packets"), "{error}");
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        let writer = Writer::create(Path::new("/dev/full")).expect("opens");
        writer.write(&[0; 60]).expect("buffered");
        let error = writer.close().expect_err("no space");
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("/dev/full"));
    }
}
