//! Writing a series of files.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{PcapError, Writer, WriterConfig};
use crate::batch::{Batch, BufPool};

/// When a new file is begun, and how many stay. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotation {
    /// Bytes of a file; it is exceeded by at most one record.
    pub bytes: Option<u64>,
    /// Records of a file.
    pub records: Option<u64>,
    /// Time from a file's first record to its last, by their own times.
    pub span: Option<Duration>,
    /// Files that stay; the oldest are deleted. Only files of this writer.
    pub keep: Option<usize>,
}

/// Writes a series of regular files: `trace.pcap` becomes `trace-00001.pcap`
/// and so on.
#[derive(Debug)]
pub struct RotatingWriter {
    path: PathBuf,
    config: WriterConfig,
    rotation: Rotation,
    writer: Writer<File>,
    number: u64,
    /// Time of the file's first record.
    first_ns: Option<u64>,
    files: VecDeque<PathBuf>,
    /// Records of files before, or for one that could not be begun.
    lost: u64,
}

impl RotatingWriter {
    /// Begins with the first file; one that exists is overwritten.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: it cannot be made.
    pub fn create(
        path: impl AsRef<Path>,
        config: WriterConfig,
        rotation: Rotation,
    ) -> Result<Self, PcapError> {
        let path = path.as_ref().to_owned();
        let first = numbered(&path, 1);
        Ok(Self {
            writer: Writer::create_file(&first, config)?,
            path,
            config,
            rotation,
            number: 1,
            first_ns: None,
            files: VecDeque::from([first]),
            lost: 0,
        })
    }

    /// Writes a record, into a new file if it is time for it.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: a file cannot be written or made, or an old one not be
    /// deleted.
    pub fn write(&mut self, time_ns: u64, parts: &[&[u8]], len: u32) -> Result<(), PcapError> {
        self.turn(time_ns).inspect_err(|_| self.lost += 1)?;
        self.writer.write(time_ns, parts, len)
    }

    /// Writes frame `i` of a batch.
    ///
    /// # Errors
    ///
    /// As for [`RotatingWriter::write`].
    pub fn write_frame(
        &mut self,
        time_ns: u64,
        pool: &BufPool,
        batch: &Batch,
        i: usize,
    ) -> Result<(), PcapError> {
        self.turn(time_ns).inspect_err(|_| self.lost += 1)?;
        self.writer.write_frame(time_ns, pool, batch, i)
    }

    /// As [`Writer::statistics`], into the last file.
    ///
    /// # Errors
    ///
    /// As for [`RotatingWriter::flush`].
    pub fn statistics(&mut self, time_ns: u64, frames: u64, lost: u64) -> Result<(), PcapError> {
        self.writer.statistics(time_ns, frames, lost)
    }

    /// Writes what is collected.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: it cannot be written.
    pub fn flush(&mut self) -> Result<(), PcapError> {
        self.writer.flush()
    }

    /// As [`Writer::lost`], of all files.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost + self.writer.lost()
    }

    /// The files that exist now, the oldest first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    fn turn(&mut self, time_ns: u64) -> Result<(), PcapError> {
        let first_ns = *self.first_ns.get_or_insert(time_ns);
        let over = |limit: Option<u64>, now: u64| limit.is_some_and(|limit| now >= limit);
        let span = self
            .rotation
            .span
            .map(|s| u64::try_from(s.as_nanos()).unwrap_or(u64::MAX));
        let time = span.is_some_and(|span| time_ns.saturating_sub(first_ns) > span);
        let full = self.writer.records() > 0
            && (over(self.rotation.bytes, self.writer.bytes())
                || over(self.rotation.records, self.writer.records())
                || time);
        if !full {
            return Ok(());
        }
        self.writer.flush()?;
        let next = numbered(&self.path, self.number + 1);
        let next_writer = Writer::create_file(&next, self.config)?;
        self.lost += std::mem::replace(&mut self.writer, next_writer).lost();
        self.number += 1;
        self.first_ns = Some(time_ns);
        self.files.push_back(next);
        let keep = self.rotation.keep.map_or(usize::MAX, |n| n.max(1));
        while self.files.len() > keep {
            let Some(old) = self.files.pop_front() else {
                break;
            };
            match std::fs::remove_file(&old) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    let name = old.display().to_string();
                    return Err(PcapError::io(&name, 0, "delete", e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn numbered(path: &Path, number: u64) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(ext) => format!("{stem}-{number:05}.{}", ext.to_string_lossy()),
        None => format!("{stem}-{number:05}"),
    };
    path.with_file_name(name)
}
