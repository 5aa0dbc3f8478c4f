//! `netvale pkt-gen`: netmap's packet generator.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use netvale::{Error, ErrorKind, Namespace, Port};
use netvale_wire::mac::MacAddr;
use serde::Serialize;

mod args;
mod capture;
mod config;
mod flow;
mod frame;
mod lane;
mod meter;
mod pace;
mod pingpong;
mod receiver;
mod sender;

use capture::Writer;
use config::{Config, Function};
use frame::Frames;
use lane::{RxLane, TxLane};
use meter::{Run, Summary};
use pingpong::{Latency, LatencySummary, Ping};
use receiver::{Receiver, Sequence};
use sender::Sender;

pub(crate) use args::Args;
pub(crate) use config::{parse_list, port_name};

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::{Failure, Result};
use crate::output;
use crate::signals::Stop;

/// Runs pkt-gen.
pub(crate) fn run(args: Args, place: &Place) -> Result<Code> {
    let config = Config::try_from(args)?;
    if config.json && config.dump {
        return Err(Failure::usage("-X and --json both write to stdout"));
    }
    let replay = match (&config.pcap, config.function) {
        (Some(path), Function::Tx) => Some(read_packets(path, config.vnet_hdr)?),
        _ => None,
    };
    let port = if config.nowhere {
        None
    } else {
        Some(open(&config, &place.namespace()?)?)
    };
    // Only now: a port that cannot be opened must not cost an old capture.
    let writer = match (&config.pcap, config.function) {
        (Some(path), Function::Rx) => Some(Writer::create(path)?),
        _ => None,
    };
    let stop = Stop::on_signals()?;
    let src_mac = config.src_mac.unwrap_or_else(|| own_mac(&config.port));
    if !config.json {
        announce(&config, port.as_ref(), src_mac)?;
    }
    if !config.wait.is_zero() {
        output::note(&format!(
            "Wait {} secs for phy reset",
            config.wait.as_secs()
        ));
        stop.sleep(config.wait);
    }
    let job = Job {
        config: &config,
        run: &Run::new(usize::from(config.threads)),
        stop: &stop,
        src_mac,
        replay,
        writer: writer.as_ref(),
    };
    let found = job.work(port);
    // What was captured before an error is worth having.
    let closed = writer.as_ref().map_or(Ok(()), Writer::close);
    let found = found?;
    closed?;
    finish(&config, &stop, job.run, &found)
}

fn open(config: &Config, namespace: &Namespace) -> Result<Port> {
    let mut builder = namespace.port(&config.port);
    let rings = config.rings;
    if rings.tx_rings > 0 {
        builder = builder.rings(rings.tx_rings, rings.rx_rings);
    }
    if rings.tx_slots > 0 {
        builder = builder.slots(rings.tx_slots, rings.rx_slots);
    }
    if config.vnet_hdr > 0 {
        builder = builder.vnet_hdr(config.vnet_hdr);
    }
    let sends = matches!(config.function, Function::Tx | Function::TxSeq);
    Ok(builder.keep_buffers(sends).open()?)
}

/// The packets of a file, with room for the virtio-net header.
fn read_packets(path: &Path, vnet_hdr: u8) -> Result<Arc<[Vec<u8>]>> {
    let mut packets = capture::read(path)?;
    if vnet_hdr > 0 {
        for packet in &mut packets {
            packet.splice(0..0, std::iter::repeat_n(0, usize::from(vnet_hdr)));
        }
    }
    Ok(packets.into())
}

/// The device's address, else one that is made from the port's name: the same
/// in each run, and locally administered.
fn own_mac(port: &str) -> MacAddr {
    let device = port.strip_prefix("netmap:").unwrap_or_default();
    let device = device.split(['-', '^', '*', '/', '@', '{', '}']).next();
    if let Some(device) = device.filter(|d| !d.is_empty() && !d.contains('.')) {
        let path = format!("/sys/class/net/{device}/address");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Ok(mac) = text.trim().parse() {
            return mac;
        }
    }
    // FNV-1a spreads short names well enough.
    let hash = port.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, d, e, f, ..] = hash.to_le_bytes();
    MacAddr([a & 0xfc | 0x02, b, c, d, e, f])
}

/// The lines that netmap's pkt-gen begins with.
fn announce(config: &Config, port: Option<&Port>, src_mac: MacAddr) -> Result<()> {
    let verb = match config.function {
        Function::Tx | Function::TxSeq => "Sending on",
        Function::Rx | Function::RxSeq => "Receiving from",
        Function::Ping | Function::Pong => "Working on",
    };
    let queues = port.map_or(1, |port| match config.function {
        Function::Rx | Function::RxSeq => port.rx_count(),
        _ => port.tx_count(),
    });
    output::line(&format!(
        "{verb} {}: {queues} queues, {} threads and {} cpus.",
        config.port,
        config.threads,
        cpus(config),
    ))?;
    if config.function.sends() {
        let text = |end: &flow::Endpoint| flow::ip_text(end.family, end.ip_first);
        output::line(&format!(
            "{} -> {} ({src_mac} -> {})",
            text(&config.src),
            text(&config.dst),
            config.dst_mac
        ))?;
    }
    if config.verbose > 0 {
        output::note(&format!("{config:?}"));
    }
    Ok(())
}

fn cpus(config: &Config) -> usize {
    let all = thread::available_parallelism().map_or(1, usize::from);
    config.cpus.map_or(all, |n| n.min(all))
}

/// What the threads found out besides counts.
#[derive(Default)]
struct Found {
    sequence: Option<Sequence>,
    latency: Option<Latency>,
}

/// Everything the threads need.
struct Job<'a> {
    config: &'a Config,
    run: &'a Run,
    stop: &'a Stop,
    src_mac: MacAddr,
    /// Shared by all threads: it may be large.
    replay: Option<Arc<[Vec<u8>]>>,
    writer: Option<&'a Writer>,
}

/// What one thread works on.
enum Lane {
    Tx(TxLane),
    Rx(RxLane),
    Both(Box<Port>),
    Nowhere,
}

impl Job<'_> {
    /// Starts the threads and the reports, and waits for all of them.
    fn work(&self, port: Option<Port>) -> Result<Found> {
        let lanes = self.lanes(port)?;
        thread::scope(|scope| {
            let reporter = scope.spawn(|| self.run.report_until_done(self.config, self.stop));
            let workers: Vec<_> = (0u16..)
                .zip(lanes)
                .map(|(thread, lane)| {
                    scope.spawn(move || {
                        let found = self.thread(thread, lane);
                        if found.is_err() {
                            self.stop.request();
                        }
                        found
                    })
                })
                .collect();
            let mut result = Ok(Found::default());
            for worker in workers {
                let found = worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                // The first error is the cause of the others.
                if result.is_ok() {
                    result = found;
                }
            }
            self.run.done.store(true, Ordering::Release);
            let reported = reporter
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let found = result?;
            reported?;
            Ok(found)
        })
    }

    /// Gives each thread its part of the port.
    fn lanes(&self, port: Option<Port>) -> Result<Vec<Lane>> {
        let threads = usize::from(self.config.threads);
        let Some(port) = port else {
            return Ok((0..threads).map(|_| Lane::Nowhere).collect());
        };
        let (name, sends) = (port.name().to_owned(), self.config.function.sends());
        if matches!(self.config.function, Function::Ping | Function::Pong) {
            return Ok(vec![Lane::Both(Box::new(port))]);
        }
        if threads == 1 {
            let port = Box::new(port);
            return Ok(vec![if sends {
                Lane::Tx(TxLane::Port(port))
            } else {
                Lane::Rx(RxLane::Port(port))
            }]);
        }
        let (tx, rx) = port.into_rings();
        let mut lanes: Vec<_> = if sends {
            let rings = tx.into_iter().map(|ring| TxLane::Ring(Box::new(ring)));
            rings.map(Lane::Tx).collect()
        } else {
            let rings = rx.into_iter().map(|ring| RxLane::Ring(Box::new(ring)));
            rings.map(Lane::Rx).collect()
        };
        if lanes.len() < threads {
            let message = format!("{name} has {} rings for {threads} threads", lanes.len());
            return Err(Error::new(ErrorKind::Usage, message)
                .with_hint("the first who opens a port decides how many rings it has")
                .into());
        }
        lanes.truncate(threads);
        Ok(lanes)
    }

    fn thread(&self, thread: u16, lane: Lane) -> Result<Found> {
        let Self {
            config, run, stop, ..
        } = *self;
        if let Some(base) = config.affinity {
            netvale::pin_to_cpu((base + usize::from(thread)) % cpus(config).max(base + 1))?;
        }
        let frames = || Frames::new(config, self.src_mac, u64::from(thread) + 1);
        let sender = || Sender::new(config, run, stop, thread, frames(), self.replay.clone());
        let mut found = Found::default();
        match lane {
            Lane::Nowhere => sender().run_nowhere(),
            Lane::Tx(mut lane) => sender().run(&mut lane)?,
            Lane::Rx(mut lane) => {
                let receiver = Receiver::new(config, run, stop, thread, self.writer);
                let sequence = receiver.run(&mut lane)?;
                found.sequence = (config.function == Function::RxSeq).then_some(sequence);
            }
            Lane::Both(mut port) if config.function == Function::Ping => {
                let ping = Ping {
                    config,
                    run,
                    stop,
                    frames: frames(),
                };
                found.latency = Some(ping.run(&mut port)?);
            }
            Lane::Both(mut port) => pingpong::pong(config, run, stop, &mut port)?,
        }
        Ok(found)
    }
}

/// The summary with what else was found out.
#[derive(Serialize)]
struct FullSummary {
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<SequenceSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<LatencySummary>,
}

#[derive(Serialize)]
struct SequenceSummary {
    gaps: u64,
    lost_packets: u64,
    reordered_packets: u64,
    short_packets: u64,
}

fn finish(config: &Config, stop: &Stop, run: &Run, found: &Found) -> Result<Code> {
    let summary = run.summary(config);
    let packets = summary.packets;
    let full = FullSummary {
        summary,
        sequence: found.sequence.map(|s| SequenceSummary {
            gaps: s.gaps,
            lost_packets: s.lost,
            reordered_packets: s.reordered,
            short_packets: s.short,
        }),
        latency: found.latency.as_ref().map(Latency::summary),
    };
    if config.json {
        output::json(&full)?;
    } else {
        if let Some(s) = &full.sequence {
            output::line(&format!(
                "Sequence: {} gaps, {} lost, {} reordered, {} too short",
                s.gaps, s.lost_packets, s.reordered_packets, s.short_packets
            ))?;
        }
        if let Some(latency) = &full.latency {
            output::line(&latency.text())?;
        }
        output::line(&full.summary.text(config))?;
    }
    if config.count > 0
        && packets < config.count
        && let Some(code) = stop.cut_short()
    {
        return Ok(code);
    }
    let negative = packets == 0
        || found.sequence.is_some_and(|s| !s.is_clean())
        || found.latency.as_ref().is_some_and(|l| l.replies() == 0);
    Ok(if negative { Code::Negative } else { Code::Done })
}

#[cfg(test)]
mod tests;
