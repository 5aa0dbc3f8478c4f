//! Reading: classic files here, pcapng in its own module.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;

use super::ng::{Block, Section};
use super::{MAX_RECORD, PcapError, PcapErrorKind};

/// How much is read at once.
const AHEAD: usize = 1 << 20;
/// Length of a classic file's header and of a record's.
const FILE_HDR: usize = 24;
const RECORD_HDR: usize = 16;

/// A record, where it lies in the reader's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was captured, nanoseconds since 1970.
    pub time_ns: u64,
    /// What was captured of it.
    pub data: &'a [u8],
    /// How long it was, bytes.
    pub len: u32,
    /// What kind of link it comes from; [`ETHERNET`](super::ETHERNET) or others.
    pub link_type: u16,
    /// Which of the file's interfaces it comes from; 0 in classic files.
    pub interface: u32,
}

/// Reads records one after the other.
///
/// ```
/// use netvale_backends::pcap::{Reader, Writer, WriterConfig};
///
/// let mut file = Vec::new();
/// let mut writer = Writer::new(&mut file, "example", WriterConfig::default())?;
/// writer.write(1_000, &[&[0; 60]], 60)?;
/// writer.finish()?;
///
/// let mut reader = Reader::new(file.as_slice(), "example")?;
/// while let Some(record) = reader.next_record()? {
///     assert_eq!((record.time_ns, record.data.len()), (1_000, 60));
/// }
/// # Ok::<(), netvale_backends::pcap::PcapError>(())
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    format: Layout,
    /// The record that is current.
    current: Option<Place>,
    records: u64,
}

#[derive(Debug)]
enum Layout {
    Classic(Classic),
    Ng(Section),
}

#[derive(Debug, Clone, Copy)]
struct Classic {
    big: bool,
    /// Nanoseconds in a unit of the fraction.
    unit: u32,
    link_type: u16,
}

/// A record as positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) time_ns: u64,
    pub(super) start: usize,
    pub(super) captured: usize,
    pub(super) len: u32,
    pub(super) link_type: u16,
    pub(super) interface: u32,
}

impl Reader<File> {
    /// Opens a file or a pipe that has a name; `-` is the standard input.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: it cannot be opened, or is no capture file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PcapError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let file = if name == "-" {
            // Not through Stdin, which would read ahead on its own.
            std::io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .map(File::from)
        } else {
            File::open(path)
        };
        let file = file.map_err(|e| PcapError::io(&name, 0, "open", e))?;
        Self::new(file, name)
    }
}

impl<R: Read> Reader<R> {
    /// Reads from `source`, which errors call `name`.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: it does not begin like a capture file.
    pub fn new(source: R, name: impl Into<String>) -> Result<Self, PcapError> {
        let mut input = Input {
            source,
            name: name.into(),
            buf: vec![0; AHEAD],
            start: 0,
            end: 0,
            offset: 0,
        };
        let format = begin(&mut input)?;
        Ok(Self {
            input,
            format,
            current: None,
            records: 0,
        })
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`PcapError`]. The records before are good; there are none after.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, PcapError> {
        self.advance()?;
        Ok(self.current())
    }

    /// Goes to the next record; whether there is one.
    ///
    /// # Errors
    ///
    /// As for [`Reader::next_record`].
    pub fn advance(&mut self) -> Result<bool, PcapError> {
        self.current = None;
        let place = match &mut self.format {
            Layout::Classic(classic) => classic_record(&mut self.input, *classic)?,
            Layout::Ng(section) => loop {
                match section.next(&mut self.input)? {
                    Some(Block::Packet(place)) => break Some(place),
                    Some(Block::Other) => {}
                    None => break None,
                }
            },
        };
        self.current = place;
        self.records += u64::from(place.is_some());
        Ok(place.is_some())
    }

    /// The record that [`Reader::advance`] went to.
    #[must_use]
    pub fn current(&self) -> Option<Record<'_>> {
        let place = self.current?;
        Some(Record {
            time_ns: place.time_ns,
            data: self
                .input
                .buf
                .get(place.start..place.start + place.captured)?,
            len: place.len,
            link_type: place.link_type,
            interface: place.interface,
        })
    }

    /// Records read so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Goes back to the begin.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: the source cannot go back, or is another file by now.
    pub fn rewind(&mut self) -> Result<(), PcapError> {
        let input = &mut self.input;
        input
            .source
            .seek(SeekFrom::Start(0))
            .map_err(|e| PcapError::io(&input.name, 0, "rewind", e))?;
        (input.start, input.end, input.offset) = (0, 0, 0);
        self.current = None;
        self.format = begin(input)?;
        Ok(())
    }
}

/// Reads what a file begins with.
fn begin<R: Read>(input: &mut Input<R>) -> Result<Layout, PcapError> {
    const MICRO: u32 = 0xa1b2_c3d4;
    const NANO: u32 = 0xa1b2_3c4d;
    let magic = input.exactly(4, "the file's header")?;
    let magic = [magic[0], magic[1], magic[2], magic[3]];
    let (big, unit) = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
        (MICRO, _) => (false, 1000),
        (_, MICRO) => (true, 1000),
        (NANO, _) => (false, 1),
        (_, NANO) => (true, 1),
        (super::ng::SECTION, _) => return Ok(Layout::Ng(Section::new())),
        (_, magic) => return Err(input.error(PcapErrorKind::NotACapture { magic })),
    };
    let header = input.exactly(FILE_HDR, "the file's header")?;
    let word = |at| word(header, at, big);
    // The low half of a little-endian word is the first of the two fields.
    let halves = word(4);
    let (major, minor) = match big {
        true => (halves >> 16, halves & 0xffff),
        false => (halves & 0xffff, halves >> 16),
    };
    let link = word(20);
    if major != 2 {
        let [major, minor] = [major, minor].map(|n| u16::try_from(n).unwrap_or(u16::MAX));
        return Err(input.error(PcapErrorKind::Version { major, minor }));
    }
    input.take(FILE_HDR);
    Ok(Layout::Classic(Classic {
        big,
        unit,
        // The upper bits tell of a frame check sequence.
        link_type: u16::try_from(link & 0xffff).unwrap_or(0),
    }))
}

/// The next record of a classic file.
fn classic_record<R: Read>(
    input: &mut Input<R>,
    classic: Classic,
) -> Result<Option<Place>, PcapError> {
    let have = input.fill(RECORD_HDR)?;
    if have == 0 {
        return Ok(None);
    }
    let header = input.exactly(RECORD_HDR, "a record's header")?;
    let word = |at| word(header, at, classic.big);
    let (seconds, fraction, captured, len) = (word(0), word(4), word(8) as usize, word(12));
    if captured > MAX_RECORD {
        return Err(input.error(PcapErrorKind::Length {
            what: "a record",
            len: captured as u64,
            min: 0,
            max: MAX_RECORD as u64,
        }));
    }
    input.exactly(RECORD_HDR + captured, "a record")?;
    let start = input.start + RECORD_HDR;
    input.take(RECORD_HDR + captured);
    Ok(Some(Place {
        time_ns: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * u64::from(classic.unit),
        start,
        captured,
        len,
        link_type: classic.link_type,
        interface: 0,
    }))
}

/// A source that is read ahead.
#[derive(Debug)]
pub(super) struct Input<R> {
    source: R,
    name: String,
    buf: Vec<u8>,
    /// Bytes `start..end` of `buf` are read and not used.
    pub(super) start: usize,
    end: usize,
    /// Where `start` is in the file.
    offset: u64,
}

impl<R: Read> Input<R> {
    /// Sees to it that `n` bytes are there, if the source has them; how many
    /// are, at most `n`.
    #[inline]
    pub(super) fn fill(&mut self, n: usize) -> Result<usize, PcapError> {
        if self.end - self.start < n {
            self.refill(n)?;
        }
        Ok(n.min(self.end - self.start))
    }

    #[cold]
    fn refill(&mut self, n: usize) -> Result<(), PcapError> {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buf.len() < n {
            self.buf.resize(n, 0); // callers have bounded it
        }
        while self.end < n {
            let room = self.buf.get_mut(self.end..).unwrap_or_default();
            match self.source.read(room) {
                Ok(0) => break,
                Ok(got) => self.end = self.buf.len().min(self.end + got),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(PcapError::io(&self.name, self.offset, "read", e)),
            }
        }
        Ok(())
    }

    /// The next `need` bytes, not used up; an error if the source has fewer.
    #[inline]
    pub(super) fn exactly(&mut self, need: usize, what: &'static str) -> Result<&[u8], PcapError> {
        let have = self.fill(need)?;
        if have < need {
            return Err(self.error(PcapErrorKind::Truncated { what, need, have }));
        }
        Ok(self
            .buf
            .get(self.start..self.start + need)
            .unwrap_or_default())
    }

    /// Uses up `n` bytes that are there.
    #[inline]
    pub(super) fn take(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
        self.offset += n as u64;
    }

    #[cold]
    pub(super) fn error(&self, kind: PcapErrorKind) -> PcapError {
        PcapError {
            name: self.name.clone(),
            offset: self.offset,
            kind,
        }
    }
}

/// The 32-bit word at `at`, which callers have checked to be there.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize, big: bool) -> u32 {
    let bytes = bytes
        .get(at..)
        .and_then(|b| b.first_chunk::<4>())
        .copied()
        .unwrap_or_default();
    match big {
        true => u32::from_be_bytes(bytes),
        false => u32::from_le_bytes(bytes),
    }
}
