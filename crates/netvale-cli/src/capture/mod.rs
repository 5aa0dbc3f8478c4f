//! `netvale capture`: what a port sends and receives, as a capture file.

pub(crate) mod extcap;
mod sink;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use netvale::{Error, ErrorKind, Namespace, Port};

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::{Failure, Result};
use crate::output;
use crate::signals::{POLL_PERIOD, Stop};
use sink::Sink;

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    netvale capture vale0:a -w a.pcapng\n  \
    netvale capture vale0:a -w - | tcpdump -n -r -\n  \
    netvale capture vale0:a -w ring.pcapng --rotate-size 100 --files 10\n\n\
    The port must be open: this watches it through a monitor, which does not\n\
    slow it down. What a full monitor loses is counted, told at the end and\n\
    written into pcapng files. Times are those at which a batch was seen, in\n\
    nanoseconds. Sizes are in MiB, times of files in seconds. Of a port with a\n\
    virtio-net header the frames are kept without it; packets that the port\n\
    leaves to others to cut are kept whole.\n\
    SIGINT ends the capture with status 0.")]
pub(crate) struct Args {
    /// The port to watch
    #[arg(value_name = "PORT")]
    port: String,
    /// File to write, - for standard output (pipes work too)
    #[arg(long, short, value_name = "FILE")]
    write: PathBuf,
    /// Stop after this many frames (0: no end)
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,
    /// Keep at most this many bytes of each frame
    #[arg(long, short, value_name = "BYTES", default_value_t = 256 << 10, value_parser = clap::value_parser!(u32).range(1..=256 << 10))]
    snaplen: u32,
    /// What the port sends, receives, or both
    #[arg(long, short, value_enum, default_value_t = Direction::Both)]
    direction: Direction,
    /// See frames when the port is done with them, without a copy
    #[arg(long, conflicts_with = "direction")]
    zero_copy: bool,
    /// pcapng, or the older pcap that every program reads (with microseconds,
    /// or with nanoseconds, which some cannot read)
    #[arg(long, value_enum, default_value_t = Format::Pcapng)]
    format: Format,
    /// Begin another file after this many MiB
    #[arg(long, value_name = "MIB")]
    rotate_size: Option<u64>,
    /// Begin another file after this many seconds
    #[arg(long, value_name = "S")]
    rotate_time: Option<u64>,
    /// Keep only this many files, the newest
    #[arg(long, value_name = "N")]
    files: Option<usize>,
    /// Slots of the monitor's rings: more bear longer bursts
    #[arg(long, value_name = "N", default_value_t = 4096)]
    slots: u16,
}

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Direction {
    /// What the port receives.
    Rx,
    /// What it sends.
    Tx,
    /// Both.
    Both,
}

/// Form of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// With nanoseconds.
    Pcapng,
    /// With microseconds.
    Pcap,
    /// With nanoseconds.
    PcapNano,
}

/// The name of the monitor that is wanted.
fn monitor(port: &str, direction: Direction, zero_copy: bool) -> String {
    let flags = match (direction, zero_copy) {
        (_, true) => "z",
        (Direction::Rx, _) => "r",
        (Direction::Tx, _) => "t",
        (Direction::Both, _) => "rt",
    };
    format!("{port}/{flags}")
}

/// Runs `capture`.
pub(crate) fn run(args: &Args, place: &Place) -> Result<Code> {
    if args.port.contains('/') {
        return Err(Failure::usage(format!(
            "{}: give the port's name without flags, and --direction",
            args.port
        )));
    }
    let stop = Stop::on_signals()?;
    let name = monitor(&args.port, args.direction, args.zero_copy);
    let mut port = open(place, &name, args.slots)?;
    // Not before: a name that no port has must not cost a file.
    let mut sink = Sink::open(args)?;
    let mut header = Header::of(&args.port, place)?;
    let count = args.count.filter(|&n| n > 0);
    let done = watch(&mut port, &mut header, &mut sink, count, &stop);
    let lost = lost(place, &port);
    let frames = match done {
        Ok(frames) => {
            sink.finish(since_epoch(), frames, lost)?;
            frames
        }
        Err(e) => {
            // What was written before stays; why it ended is told.
            let _ = sink.flush();
            return Err(e);
        }
    };
    output::note(&format!(
        "{frames} frames of {} captured, {lost} lost",
        args.port
    ));
    Ok(match (count, stop.cut_short()) {
        (Some(n), Some(code)) if frames < n => code,
        _ => Code::Done,
    })
}

/// Opens a monitor. Only a port that somebody has open can be watched.
fn open(place: &Place, name: &str, slots: u16) -> Result<Port> {
    let opened = place
        .namespace_if_running()?
        .port(name)
        .slots(0, slots)
        .accept_vnet_hdr()
        .isolated(place.is_isolated())
        .open();
    Ok(opened.map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::Usage | ErrorKind::Disconnected if e.hint().is_none() => {
            let text = e.to_string();
            Error::new(ErrorKind::NotFound, text)
                .with_hint("netvale ls shows the ports; only an open one can be watched")
        }
        _ => e,
    })?)
}

/// Frames that a monitor had no room for; none if the server is gone.
fn lost(place: &Place, monitor: &Port) -> u64 {
    let all = place.namespace_if_running().map(|ns| ns.stats(None));
    let Ok(Ok(all)) = all else { return 0 };
    let ours = all.iter().filter(|s| s.name == monitor.info().name);
    ours.fold(0, |all, s| s.all_dropped().wrapping_add(all))
}

/// The virtio-net header before the frames of the port that is watched. The
/// monitor, as netmap's, has frames as they are and none of its own.
struct Header {
    namespace: Namespace,
    port: String,
    len: usize,
    asked: Option<Instant>,
}

impl Header {
    /// Programs change the header of ports that are open: how long what the
    /// server said of it is believed.
    const TRUST: Duration = Duration::from_millis(10);

    fn of(port: &str, place: &Place) -> Result<Self> {
        let namespace = place.namespace_if_running()?;
        // Programs set it before their first frames: those ask again.
        let len = namespace.vnet_hdr(port).map_or(0, usize::from);
        Ok(Self {
            namespace,
            port: port.to_owned(),
            len,
            asked: None,
        })
    }

    /// Its length before frames that have just come.
    fn len(&mut self) -> usize {
        if self.asked.is_none_or(|at| at.elapsed() > Self::TRUST) {
            // A port that has gone left frames with the header that it had.
            if let Ok(len) = self.namespace.vnet_hdr(&self.port) {
                self.len = usize::from(len);
            }
            self.asked = Some(Instant::now());
        }
        self.len
    }
}

/// Copies what comes until enough has come; how many frames.
fn watch(
    port: &mut Port,
    header: &mut Header,
    sink: &mut Sink,
    count: Option<u64>,
    stop: &Stop,
) -> Result<u64> {
    let mut bytes = Vec::new();
    let mut frames = 0;
    while !stop.requested() && count.is_none_or(|n| frames < n) {
        if !port.wait_rx(Some(POLL_PERIOD))? {
            // Who reads a pipe waits for what there is.
            sink.flush()?;
            continue;
        }
        let now = since_epoch();
        let header = header.len();
        for i in 0..port.rx_count() {
            let rx = port.rx(i);
            while count.is_none_or(|n| frames < n) {
                let Some(frame) = rx.next() else { break };
                bytes.clear();
                frame.read_to(&mut bytes);
                // A virtio-net header is no part of the frame.
                if let Some(data) = bytes.get(header..) {
                    sink.write(now, data)?;
                    frames += 1;
                }
            }
        }
        if sink.is_interactive() {
            sink.flush()?;
        }
    }
    Ok(frames)
}

/// Nanoseconds.
fn since_epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or(Duration::ZERO).as_nanos()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_flags_of_the_monitor() {
        assert_eq!(monitor("vale0:a", Direction::Both, false), "vale0:a/rt");
        assert_eq!(monitor("vale0:a", Direction::Tx, false), "vale0:a/t");
        assert_eq!(monitor("p{1", Direction::Rx, false), "p{1/r");
        assert_eq!(monitor("p", Direction::Rx, true), "p/z");
    }
}
