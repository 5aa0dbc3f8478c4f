//! Reading: classic files here, pcapng in its own module.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;

use super::ng::{Block, Section};
use super::{MAX_RECORD, PcapError, PcapErrorKind, open_regular};

/// How much is read at once: little enough to be still in the cache when it is
/// looked at, beside the buffers that it goes to.
const AHEAD: usize = 128 << 10;
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
    /// The record that is current, if `any`.
    current: Place,
    any: bool,
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

/// A record as positions. Written in place, field by field: handed on by value
/// it is copied with loads that are wider than the stores just made, which
/// cost more than all the rest of a record (28 of 53 ns).
#[derive(Debug, Clone, Copy, Default)]
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

    /// Opens a regular file and nothing else: for those who must not wait.
    ///
    /// # Errors
    ///
    /// As for [`Reader::open`].
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self, PcapError> {
        let path = path.as_ref();
        let file = open_regular(OpenOptions::new().read(true), path, "open")?;
        Self::new(file, path.display().to_string())
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
            current: Place::default(),
            any: false,
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
    #[inline]
    pub fn advance(&mut self) -> Result<bool, PcapError> {
        let (input, place) = (&mut self.input, &mut self.current);
        let whole = match &self.format {
            Layout::Classic(classic) => classic_whole(input, *classic, place),
            Layout::Ng(section) => section.whole_packet(input, place),
        };
        self.any = whole || self.advance_slowly()?;
        self.records += u64::from(self.any);
        Ok(self.any)
    }

    /// The same where more has to be read, or something is wrong or unusual.
    #[cold]
    fn advance_slowly(&mut self) -> Result<bool, PcapError> {
        self.any = false;
        let (input, place) = (&mut self.input, &mut self.current);
        match &mut self.format {
            Layout::Classic(classic) => classic_record(input, *classic, place),
            Layout::Ng(section) => loop {
                match section.next(input, place)? {
                    Some(Block::Packet) => return Ok(true),
                    Some(Block::Other) => {}
                    None => return Ok(false),
                }
            },
        }
    }

    /// The record that [`Reader::advance`] went to.
    #[inline]
    #[must_use]
    pub fn current(&self) -> Option<Record<'_>> {
        let place = self.any.then_some(&self.current)?;
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
        self.any = false;
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

/// The next record of a classic file, if all of it has been read.
#[inline]
fn classic_whole<R>(input: &mut Input<R>, classic: Classic, place: &mut Place) -> bool {
    let Some(header) = input.ahead().first_chunk::<RECORD_HDR>() else {
        return false;
    };
    let captured = word(header, 8, classic.big) as usize;
    if captured > MAX_RECORD || captured > input.ahead().len() - RECORD_HDR {
        return false;
    }
    classic.enter(header, input.start, place);
    input.take(RECORD_HDR + captured);
    true
}

/// The next record of a classic file; whether there is one.
fn classic_record<R: Read>(
    input: &mut Input<R>,
    classic: Classic,
    place: &mut Place,
) -> Result<bool, PcapError> {
    let have = input.fill(RECORD_HDR)?;
    if have == 0 {
        return Ok(false);
    }
    let header = input.exactly(RECORD_HDR, "a record's header")?;
    let captured = word(header, 8, classic.big) as usize;
    if captured > MAX_RECORD {
        return Err(input.error(PcapErrorKind::Length {
            what: "a record",
            len: captured as u64,
            min: 0,
            max: MAX_RECORD as u64,
        }));
    }
    let record = input.exactly(RECORD_HDR + captured, "a record")?;
    if let Some(header) = record.first_chunk() {
        let header = *header;
        classic.enter(&header, input.start, place);
    }
    input.take(RECORD_HDR + captured);
    Ok(true)
}

impl Classic {
    /// Writes down the record with this header at `start`.
    #[inline]
    fn enter(self, header: &[u8; RECORD_HDR], start: usize, place: &mut Place) {
        let word = |at| word(header, at, self.big);
        let (seconds, fraction) = (u64::from(word(0)), u64::from(word(4)));
        place.time_ns = seconds * 1_000_000_000 + fraction * u64::from(self.unit);
        place.start = start + RECORD_HDR;
        place.captured = word(8) as usize;
        place.len = word(12);
        place.link_type = self.link_type;
        place.interface = 0;
    }
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

impl<R> Input<R> {
    /// What has been read and not used.
    #[inline]
    pub(super) fn ahead(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or_default()
    }

    /// Uses up `n` bytes that are there.
    #[inline]
    pub(super) fn take(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
        self.offset += n as u64;
    }
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
