//! Capture files: replayed into a switch, or written with what it sends.
//!
//! Of a frame that the capture cut (snap length), what was kept is sent: a
//! switch does not mind, a host's stack will. How many these were is logged at
//! the end, as is how many records were no Ethernet frames. A file that is cut
//! off gives what is whole in it and ends the replay with an error in the log.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Instant, SystemTime};

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::pcap::{
    ETHERNET, Pace, PcapError, PcapErrorKind, Reader, Replay, RotatingWriter, Rotation, Writer,
    WriterConfig,
};
use netvale_shm::Bufs;
use netvale_wire::proto::ErrorKind;

use super::spec::PcapSpec;
use super::{Device, DeviceLane, Failure, Keep, Loss, Pushed, Told, Trouble};
use crate::listing::Refusal;

/// Records looked at in one turn.
const AT_ONCE: usize = 1024;

/// Opens the file.
pub(super) fn open(spec: &PcapSpec) -> Result<Device, Refusal> {
    let refused = |e: PcapError| refusal(&e);
    let mut keep = Keep::default();
    let (lane, about) = if spec.write {
        let config = WriterConfig::default();
        let writer = match spec.rotation == Rotation::default() {
            true => Writer::create_file(&spec.path, config).map(Output::One),
            false => RotatingWriter::create(&spec.path, config, spec.rotation).map(Output::Many),
        };
        let about = format!("writes {}", spec.path);
        let failure = Failure::default();
        keep.tells(&failure);
        let lane = Box::new(Writing {
            writer: writer.map_err(refused)?,
            written: false,
            told: Told::default(),
            about: about.clone(),
            failure,
            failing: false,
            failed: false,
        });
        (lane as Box<dyn DeviceLane>, about)
    } else {
        let reader = Reader::open_file(&spec.path).map_err(refused)?;
        let mut replay = Replay::new(reader, spec.pace, spec.times);
        let more = replay.advance().map_err(refused)?;
        let lane = Box::new(Reading {
            replay,
            more,
            at_once: spec.pace == Pace::AtOnce,
            start: None,
            path: spec.path.clone(),
            skipped: 0,
            cut: 0,
        });
        (
            lane as Box<dyn DeviceLane>,
            format!("replays {}", spec.path),
        )
    };
    Ok(Device {
        name: port_name(&spec.path),
        lanes: vec![lane],
        header: 0,
        about,
        host: None,
        keep,
        index: None,
    })
}

/// The file's name without its ending, as far as a port's name can hold it.
pub(super) fn port_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    let stem = file.split('.').next().unwrap_or_default();
    let fine = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let name: String = stem.chars().filter(fine).take(15).collect();
    if name.is_empty() { "pcap".into() } else { name }
}

/// A file that is replayed.
#[derive(Debug)]
struct Reading {
    replay: Replay<File>,
    /// There is a current record.
    more: bool,
    /// Without waiting.
    at_once: bool,
    /// When the first was sent.
    start: Option<Instant>,
    path: String,
    /// Records that are no Ethernet frames, or too long for one.
    skipped: u64,
    /// Frames of which the capture kept the beginning only.
    cut: u64,
}

impl Reading {
    fn next_due(&self) -> Option<Instant> {
        let start = self.start.unwrap_or_else(Instant::now);
        // Later than any clock shows is never.
        self.more.then(|| start.checked_add(self.replay.due()))?
    }
}

/// Copies a frame into a beginning of `free`; how many pieces that takes.
/// `None` if there is no room.
fn put(data: &[u8], pool: &BufPool, free: &[Piece], batch: &mut Batch) -> Option<usize> {
    let first = free.first()?;
    let room = first.len.max(1) as usize;
    if data.len() <= room {
        let len = u32::try_from(data.len()).ok()?;
        let written = write(pool.bufs(), first.buf, data);
        batch.push_buf(first.buf, if written { len } else { 0 });
        return Some(1);
    }
    let n = data.len().div_ceil(room);
    let mut chain: Vec<Piece> = free.get(..n)?.to_vec();
    let last = chain.last_mut()?;
    last.len = u32::try_from(data.len() - (n - 1) * room).ok()?;
    batch.push(&chain).ok()?;
    let written = batch.write(pool, batch.len() - 1, 0, data);
    debug_assert_eq!(written, data.len(), "it has room");
    Some(n)
}

/// Copies a frame to the start of a buffer. Short ones as their two halves, which
/// overlap: lengths that the compiler knows need no call.
fn write(bufs: Bufs<'_>, buf: u32, data: &[u8]) -> bool {
    const HALF: usize = 32;
    match (data.first_chunk::<HALF>(), data.last_chunk::<HALF>()) {
        (Some(head), Some(tail)) if data.len() <= 2 * HALF => {
            bufs.write(buf, 0, head) && bufs.write(buf, data.len() - HALF, tail)
        }
        _ => bufs.write(buf, 0, data),
    }
}

impl DeviceLane for Reading {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn longest(&self) -> usize {
        1 << 16
    }

    fn pull(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, Trouble> {
        let now = Instant::now();
        self.start.get_or_insert(now);
        let mut free = free;
        // Bounded: a capture without any frame for us may be replayed for ever.
        for _ in 0..AT_ONCE {
            if !(self.more && self.at_once) && self.next_due().is_none_or(|due| due > now) {
                break;
            }
            match self.replay.record() {
                Some(r) if r.link_type == ETHERNET && (1..1 << 16).contains(&r.data.len()) => {
                    match put(r.data, pool, free, batch) {
                        Some(n) => {
                            self.cut += u64::from(r.data.len() < r.len as usize);
                            free = free.get(n..).unwrap_or_default();
                        }
                        None => break, // when there is room again
                    }
                }
                _ => self.skipped += 1,
            }
            self.more = match self.replay.advance() {
                Ok(more) => more,
                Err(e) => {
                    tracing::error!("replay ends: {}", crate::files::chain(&e));
                    false
                }
            };
            if !self.more {
                let (path, skipped, cut) = (&self.path, self.skipped, self.cut);
                tracing::info!(path, skipped, cut, "the capture has been replayed");
            }
        }
        Ok(batch.len())
    }

    fn push(&mut self, _: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        // A file that is read takes nothing.
        let done = batch.len();
        Ok(Pushed {
            done,
            refused: done as u64,
            wait: false,
        })
    }

    fn due(&self) -> Option<Instant> {
        self.next_due()
    }
}

/// One file, or a series.
#[derive(Debug)]
enum Output {
    One(Writer<File>),
    Many(RotatingWriter),
}

/// A file that is written.
#[derive(Debug)]
struct Writing {
    writer: Output,
    /// Since the last time that it was flushed.
    written: bool,
    /// Frames that could not be written.
    told: Told,
    about: String,
    failure: Failure,
    /// It is said that frames are lost.
    failing: bool,
    /// Some were since the last time that it was flushed.
    failed: bool,
}

impl Writing {
    /// It goes on: the disk may have room again.
    fn failed(&mut self, e: &PcapError) {
        self.failed = true;
        // Once: the disk stays full for a while.
        if std::mem::replace(&mut self.failing, true) {
            return;
        }
        let why = match &e.kind {
            PcapErrorKind::Io { source, .. } => source.to_string(),
            kind => kind.to_string(),
        };
        let text = format!("{}; frames are lost: {why}", self.about);
        self.failure.set(Some(text));
        tracing::error!("frames are lost: {}", crate::files::chain(e));
    }

    /// All that came since the last time is written.
    fn succeeded(&mut self) {
        if std::mem::take(&mut self.failing) {
            self.failure.set(None);
            tracing::info!("{}: frames are written again", self.about);
        }
    }

    /// What could not be written and was not told yet.
    fn lost(&mut self) -> Option<(Loss, u64)> {
        let lost = match &self.writer {
            Output::One(w) => w.lost(),
            Output::Many(w) => w.lost(),
        };
        self.told.since(Loss::Refused, lost)
    }
}

impl DeviceLane for Writing {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn longest(&self) -> usize {
        1
    }

    fn pull(&mut self, _: &BufPool, _: &[Piece], _: &mut Batch) -> Result<usize, Trouble> {
        Ok(0)
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(0));
        for i in 0..batch.len() {
            let written = match &mut self.writer {
                Output::One(w) => w.write_frame(now, pool, batch, i),
                Output::Many(w) => w.write_frame(now, pool, batch, i),
            };
            if let Err(e) = written {
                self.failed(&e);
            }
        }
        self.written = true;
        Ok(Pushed {
            done: batch.len(),
            refused: self.lost().map_or(0, |(_, frames)| frames),
            ..Pushed::default()
        })
    }

    fn left_out(&mut self) -> Option<(Loss, u64)> {
        self.lost()
    }

    fn rest(&mut self) {
        if !std::mem::take(&mut self.written) {
            return;
        }
        let flushed = match &mut self.writer {
            Output::One(w) => w.flush(),
            Output::Many(w) => w.flush(),
        };
        let failed = std::mem::take(&mut self.failed);
        match flushed {
            Err(e) => {
                self.failed(&e);
                self.failed = false; // nothing is collected now
            }
            // There may have been nothing left to be written.
            Ok(()) if failed => {}
            Ok(()) => self.succeeded(),
        }
    }
}

fn refusal(e: &PcapError) -> Refusal {
    let invalid = || Refusal::new(ErrorKind::Invalid, crate::files::chain(e));
    match &e.kind {
        PcapErrorKind::Io { source, .. } => Refusal::backend(source.raw_os_error(), e),
        PcapErrorKind::NotAFile => invalid().hint(
            "the server waits for nobody at a pipe's other end; \
             netvale capture writes into pipes, and does the waiting",
        ),
        _ => invalid(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_called_after_their_files() {
        assert_eq!(port_name("/a/b-c d.pcapng"), "bcd");
        assert_eq!(port_name("/x/.pcap"), "pcap");
        assert_eq!(port_name("/x/a_very_long_name_indeed"), "a_very_long_nam");
    }
}
