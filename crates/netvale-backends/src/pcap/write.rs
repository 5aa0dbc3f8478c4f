//! Writing one file or stream.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use super::{ETHERNET, MAX_RECORD, PcapError, open_regular};
use crate::batch::{Batch, BufPool};

/// Records are collected up to this many bytes, then written at once.
const COLLECT: usize = 256 << 10;

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Classic, times in microseconds: understood everywhere.
    Classic,
    /// Classic, times in nanoseconds.
    ClassicNano,
    /// pcapng, times in nanoseconds.
    #[default]
    Ng,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterConfig {
    /// Its form.
    pub format: Format,
    /// Kind of link; [`ETHERNET`] by default.
    pub link_type: u16,
    /// Most bytes of a record that are kept, at most [`MAX_RECORD`].
    pub snap: u32,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            format: Format::Ng,
            link_type: ETHERNET,
            snap: 256 << 10,
        }
    }
}

/// Writes records, in large pieces: call [`Writer::flush`] where somebody
/// waits for them, and [`Writer::finish`] at the end.
///
/// After a failure what was collected is lost and counted ([`Writer::lost`]);
/// a file ends with the last record that is whole in it, and may be written on.
#[derive(Debug)]
pub struct Writer<W: Write> {
    // None after `finish`.
    sink: Option<W>,
    name: String,
    config: WriterConfig,
    buf: Vec<u8>,
    bytes: u64,
    records: u64,
    lost: u64,
    /// Takes so many bytes back that were written last; whether it could.
    cut: Option<fn(&mut W, u64) -> bool>,
    /// It ends with a part of a record.
    torn: bool,
}

/// A regular file's end is taken back.
fn cut(file: &mut File, excess: u64) -> bool {
    let mut cut = || {
        if !file.metadata()?.is_file() {
            return Err(ErrorKind::NotSeekable.into());
        }
        let end = file.stream_position()?.saturating_sub(excess);
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end)).map(drop)
    };
    let done: io::Result<()> = cut();
    done.is_ok()
}

/// Writes all of it, or as much as is possible.
fn write_most(sink: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest @ [_, ..]) = bytes.get(written..) {
        match sink.write(rest) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return (written, Err(e)),
        }
    }
    (written, Ok(()))
}

impl Writer<File> {
    /// Makes or overwrites a file; a pipe that has a name is opened, which
    /// waits for its reader; `-` is the standard output.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: it cannot be made.
    pub fn create(path: impl AsRef<Path>, config: WriterConfig) -> Result<Self, PcapError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let file = if name == "-" {
            // Not through Stdout, which looks for the ends of lines.
            let stdout = io::stdout();
            stdout.as_fd().try_clone_to_owned().map(File::from)
        } else {
            File::create(path)
        };
        let file = file.map_err(|e| PcapError::io(&name, 0, "create", e))?;
        Self::begun(file, name, config, Some(cut))
    }

    /// Makes or overwrites a regular file and nothing else: for those who must
    /// not wait.
    ///
    /// # Errors
    ///
    /// As for [`Writer::create`].
    pub fn create_file(path: impl AsRef<Path>, config: WriterConfig) -> Result<Self, PcapError> {
        let path = path.as_ref();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let file = open_regular(&mut options, path, "create")?;
        Self::begun(file, path.display().to_string(), config, Some(cut))
    }
}

impl<W: Write> Writer<W> {
    /// Begins a file in `sink`, which errors call `name`.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: the begin cannot be written.
    pub fn new(sink: W, name: impl Into<String>, config: WriterConfig) -> Result<Self, PcapError> {
        Self::begun(sink, name, config, None)
    }

    fn begun(
        sink: W,
        name: impl Into<String>,
        config: WriterConfig,
        cut: Option<fn(&mut W, u64) -> bool>,
    ) -> Result<Self, PcapError> {
        // Longest record is far below 4 GiB.
        let longest = u32::try_from(MAX_RECORD).unwrap_or(u32::MAX);
        let config = WriterConfig {
            snap: config.snap.clamp(1, longest),
            ..config
        };
        let mut writer = Self {
            sink: Some(sink),
            name: name.into(),
            config,
            buf: Vec::with_capacity(COLLECT + MAX_RECORD),
            bytes: 0,
            records: 0,
            lost: 0,
            cut,
            torn: false,
        };
        writer.begin();
        writer.bytes = writer.buf.len() as u64;
        writer.flush()?;
        Ok(writer)
    }

    /// Writes a record that lies in `parts`; it was `len` bytes long before
    /// anything was cut off, or as long as its parts if `len` is less.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: what was collected cannot be written.
    pub fn write(&mut self, time_ns: u64, parts: &[&[u8]], len: u32) -> Result<(), PcapError> {
        let here: usize = parts.iter().map(|p| p.len()).sum();
        self.record(time_ns, here, len, |buf| {
            for part in parts {
                let left = here_left(buf);
                buf.0.extend_from_slice(part.get(..left).unwrap_or(part));
            }
        })
    }

    /// Writes frame `i` of a batch.
    ///
    /// # Errors
    ///
    /// As for [`Writer::write`].
    pub fn write_frame(
        &mut self,
        time_ns: u64,
        pool: &BufPool,
        batch: &Batch,
        i: usize,
    ) -> Result<(), PcapError> {
        let len = batch.frame_len(i);
        self.record(time_ns, len, 0, |out| {
            let start = out.0.len();
            let room = here_left(out);
            out.0.resize(start + room, 0);
            let bytes = out.0.get_mut(start..).unwrap_or_default();
            // Buffers outside the pool leave zeros.
            let _ = batch.read(pool, i, 0, bytes);
        })
    }

    /// Writes down how many frames there were up to now, and how many more were
    /// lost. Only pcapng has a place for that, where readers find it at the end.
    ///
    /// # Errors
    ///
    /// As for [`Writer::write`].
    pub fn statistics(&mut self, time_ns: u64, frames: u64, lost: u64) -> Result<(), PcapError> {
        const LEN: u32 = 12 + 12 + 2 * 12 + 4;
        if self.config.format != Format::Ng {
            return Ok(());
        }
        let halves = |n: u64| {
            // The halves of a number, each of which fits.
            let half = |n: u64| u32::try_from(n & 0xffff_ffff).unwrap_or(0);
            (half(n >> 32), half(n))
        };
        let before = self.buf.len();
        let (high, low) = halves(time_ns);
        self.words(&[5, LEN, 0, high, low]);
        // Options 4 and 5, eight bytes each: received, and dropped.
        for (option, count) in [(4, frames), (5, lost)] {
            let (high, low) = halves(count);
            self.words(&[option | 8 << 16, low, high]);
        }
        self.words(&[0, LEN]);
        self.bytes += (self.buf.len() - before) as u64;
        self.flush_buf()
    }

    fn record(
        &mut self,
        time_ns: u64,
        here: usize,
        len: u32,
        fill: impl FnOnce(&mut Fill<'_>),
    ) -> Result<(), PcapError> {
        let captured = here.min(self.config.snap as usize);
        let before = self.buf.len();
        // Clamped to the snap length, which is far below 4 GiB.
        let short = u32::try_from(captured).unwrap_or(u32::MAX);
        let len = len.max(u32::try_from(here).unwrap_or(u32::MAX));
        let ng = self.config.format == Format::Ng;
        let padded = captured.next_multiple_of(4);
        let block = u32::try_from(32 + padded).unwrap_or(u32::MAX);
        if ng {
            let [a, b, c, d, e, f, g, h] = time_ns.to_be_bytes();
            let (high, low) = (
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([e, f, g, h]),
            );
            self.words(&[6, block, 0, high, low, short, len]);
        } else {
            let unit = match self.config.format {
                Format::Classic => 1000,
                _ => 1,
            };
            let second = u32::try_from(time_ns / 1_000_000_000).unwrap_or(u32::MAX);
            let fraction = u32::try_from(time_ns % 1_000_000_000 / unit).unwrap_or(0);
            self.words(&[second, fraction, short, len]);
        }
        let end = self.buf.len() + captured;
        fill(&mut Fill(&mut self.buf, end));
        if ng {
            self.buf.resize(end + padded - captured, 0);
            self.words(&[block]);
        }
        self.bytes += (self.buf.len() - before) as u64;
        self.records += 1;
        if self.buf.len() >= COLLECT {
            self.flush_buf()?;
        }
        Ok(())
    }

    /// Writes what is collected.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: it cannot be written; it is lost.
    pub fn flush(&mut self) -> Result<(), PcapError> {
        self.flush_buf()?;
        let Some(sink) = &mut self.sink else {
            return Ok(());
        };
        sink.flush()
            .map_err(|e| PcapError::io(&self.name, self.bytes, "write", e))
    }

    /// Writes what is collected, and gives the sink back.
    ///
    /// # Errors
    ///
    /// As for [`Writer::flush`].
    pub fn finish(mut self) -> Result<Option<W>, PcapError> {
        self.flush()?;
        Ok(self.sink.take())
    }

    /// Bytes of the file so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Records written so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Records that could not be written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn begin(&mut self) {
        let link = u32::from(self.config.link_type);
        let snap = self.config.snap;
        match self.config.format {
            Format::Classic => self.words(&[0xa1b2_c3d4, 2 | 4 << 16, 0, 0, snap, link]),
            Format::ClassicNano => self.words(&[0xa1b2_3c4d, 2 | 4 << 16, 0, 0, snap, link]),
            Format::Ng => {
                // A section of unknown length, version 1.0.
                let unknown = u32::MAX;
                self.words(&[super::ng::SECTION, 28, 0x1a2b_3c4d, 1, unknown, unknown, 28]);
                // One interface; option 9 of one byte: times in 10^-9 seconds.
                self.words(&[1, 32, link, snap, 9 | 1 << 16, 9, 0, 32]);
            }
        }
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.buf.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn flush_buf(&mut self) -> Result<(), PcapError> {
        let Some(sink) = self.sink.as_mut().filter(|_| !self.buf.is_empty()) else {
            return Ok(());
        };
        let start = self.bytes - self.buf.len() as u64;
        let (written, result) = match self.torn {
            false => write_most(sink, &self.buf),
            true => (0, Err(io::Error::other("a record before it is cut off"))),
        };
        let Err(source) = result else {
            self.buf.clear();
            return Ok(());
        };
        let (whole, lost) = whole(self.config.format, start == 0, &self.buf, written);
        let excess = (written - whole) as u64;
        if excess > 0 {
            self.torn = !self.cut.is_some_and(|cut| cut(sink, excess));
        }
        self.buf.clear();
        self.bytes = start + whole as u64;
        self.records -= lost;
        self.lost += lost;
        Err(PcapError::io(&self.name, self.bytes, "write", source))
    }
}

/// How many bytes of those that were written are whole blocks, and how many
/// records there are behind them. `first`: the file begins with them.
fn whole(format: Format, first: bool, bytes: &[u8], written: usize) -> (usize, u64) {
    let word = |at: usize| {
        let word = bytes.get(at..).and_then(|b| b.first_chunk());
        word.map_or(0, |word| u32::from_le_bytes(*word))
    };
    let (mut at, mut end, mut lost) = (0, 0, 0);
    while at < bytes.len() {
        let (len, is_record) = match format {
            Format::Ng => (word(at + 4), word(at) == 6),
            _ if first && at == 0 => (24, false),
            _ => (16 + word(at + 8), true),
        };
        at += len.max(1) as usize;
        match at <= written {
            true => end = at,
            false => lost += u64::from(is_record),
        }
    }
    (end, lost)
}

impl<W: Write> Drop for Writer<W> {
    fn drop(&mut self) {
        // Whoever wants to know about failures calls `finish`.
        let _ = self.flush();
    }
}

/// A buffer and where the record has to end in it.
struct Fill<'a>(&'a mut Vec<u8>, usize);

fn here_left(fill: &Fill<'_>) -> usize {
    fill.1 - fill.0.len()
}
