//! Where a capture goes: one file, a pipe, or a series of files.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use netvale::{Error, ErrorKind};
use netvale_backends::pcap::{
    Format, PcapError, PcapErrorKind, RotatingWriter, Rotation, Writer, WriterConfig,
};

use super::Args;
use crate::failure::{Failure, Result};

/// An open capture.
#[derive(Debug)]
pub(super) struct Sink {
    to: To,
    interactive: bool,
}

#[derive(Debug)]
enum To {
    One(Writer<File>),
    Many(RotatingWriter),
}

/// A reader who goes away ends the capture, as with every other command.
#[expect(clippy::needless_pass_by_value, reason = "shape that map_err wants")]
fn failure(e: PcapError) -> Failure {
    if let PcapErrorKind::Io { source, .. } = &e.kind
        && source.kind() == std::io::ErrorKind::BrokenPipe
    {
        return Failure::StdoutClosed;
    }
    let mut text = e.to_string();
    if let PcapErrorKind::Io { source, .. } = &e.kind {
        text = format!("{text}: {source}");
    }
    Failure::Error(Error::new(ErrorKind::Io, text))
}

impl Sink {
    /// What the command line says.
    pub(super) fn open(args: &Args) -> Result<Self> {
        let config = WriterConfig {
            format: match args.format {
                super::Format::Pcapng => Format::Ng,
                super::Format::Pcap => Format::Classic,
                super::Format::PcapNano => Format::ClassicNano,
            },
            snap: args.snaplen,
            ..WriterConfig::default()
        };
        let rotates = args.rotate_size.is_some() || args.rotate_time.is_some();
        if !rotates {
            if args.files.is_some() {
                return Err(Failure::usage(
                    "--files keeps some of many: it needs --rotate-size or --rotate-time",
                ));
            }
            return Self::one(&args.write, config);
        }
        if args.write == Path::new("-") {
            return Err(Failure::usage(
                "standard output is one file: it cannot rotate",
            ));
        }
        let rotation = Rotation {
            bytes: args.rotate_size.map(|mib| mib.saturating_mul(1 << 20)),
            span: args.rotate_time.map(Duration::from_secs),
            keep: args.files,
            ..Rotation::default()
        };
        let to = RotatingWriter::create(&args.write, config, rotation).map_err(failure)?;
        Ok(Self {
            to: To::Many(to),
            interactive: false,
        })
    }

    /// One file or pipe.
    pub(super) fn one(path: &Path, config: WriterConfig) -> Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let is_pipe = path == Path::new("-")
            || std::fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo());
        Ok(Self {
            to: To::One(Writer::create(path, config).map_err(failure)?),
            interactive: is_pipe,
        })
    }

    /// Somebody may be reading along.
    pub(super) fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// Writes a frame.
    pub(super) fn write(&mut self, time_ns: u64, frame: &[u8]) -> Result<()> {
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        match &mut self.to {
            To::One(w) => w.write(time_ns, &[frame], len),
            To::Many(w) => w.write(time_ns, &[frame], len),
        }
        .map_err(failure)
    }

    /// Writes what is collected.
    pub(super) fn flush(&mut self) -> Result<()> {
        match &mut self.to {
            To::One(w) => w.flush(),
            To::Many(w) => w.flush(),
        }
        .map_err(failure)
    }

    /// Writes the rest, and how many frames there were and how many were lost.
    pub(super) fn finish(mut self, time_ns: u64, frames: u64, lost: u64) -> Result<()> {
        match &mut self.to {
            To::One(w) => w.statistics(time_ns, frames, lost),
            To::Many(w) => w.statistics(time_ns, frames, lost),
        }
        .map_err(failure)?;
        self.flush()
    }
}
