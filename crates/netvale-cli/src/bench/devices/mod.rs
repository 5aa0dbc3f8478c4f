//! `netvale bench --devices`: devices beside bare loops over the same
//! mechanisms.
//!
//! [`Beds`] makes what is measured ([`Way`]) when it is first needed and keeps
//! it for all rounds: what is not measured sleeps. Everything lives in network
//! namespaces without names ([`space`]) and in processes that end with ours,
//! so nothing stays, whatever happens.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use netvale::{ErrorKind, Namespace};
use netvale_backends::pcap::{Format, Writer, WriterConfig};
use serde::{Deserialize, Serialize};

mod bare;
mod list;
mod run;
mod small;
mod space;
mod tcp;
mod xdp;

pub(super) use list::all;
pub(super) use run::{DeviceTask, run};

use super::case::Wait;
use super::peer::{Peer, Receive, Task};
use super::place::{self, Directory};
use super::sample::{Sample, broken, frame, sender_mac, station_mac};
use crate::control;
use crate::failure::{Failure, Result};
use crate::units::{float, per_second};
use small::SmallBed;
use space::Space;

/// Addresses of the two ends of every way.
const A: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 2);
/// Longest wait until a way carries frames.
const PATIENCE: Duration = Duration::from_secs(5);
/// Frames in the file that is replayed.
const RECORDS: u64 = 100_000;

/// What frames pass through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::bench) enum Way {
    /// Two namespaces at TAPs of a switch.
    SwitchTaps,
    /// The same two TAPs, joined by a loop of `poll`, `read` and `write`.
    BareTaps,
    /// Two namespaces at veths of the kernel's bridge.
    KernelBridge,
    /// Two namespaces at the ends of one veth.
    Cable,
    /// A host's stack and its interface's wire, at a switch (`attach -h`).
    SwitchHost,
    /// The same through `bridge IF IF^`, whose frames have no headers: the
    /// other end of the wire segments what it sends.
    HostRings,
    /// The same by TAP and AF_PACKET, joined by a loop as above.
    BareHost,
    /// A host's interface and its wire, with nobody in between.
    BareWire,
}

/// What the frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::bench) enum Traffic {
    /// One TCP stream; from the host to the wire.
    Tcp,
    /// The other way round.
    TcpBack,
    /// One byte of TCP there and one back; all on one core.
    RoundTripsOneCore,
    /// The same, with whoever moves the frames on a second core.
    RoundTripsTwoCores,
}

/// What is done with AF_XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::bench) enum Xdp {
    /// Frames of a generator reach a program, which counts them.
    Receive,
    /// The same, and it reads the first bytes of each.
    Read,
    /// A program sends.
    Send,
    /// Frames of a generator go out of another interface.
    Forward,
}

/// What is done with small frames at TAPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::bench) enum Small {
    /// Frames of a generator go from one TAP to another.
    Forward,
    /// A program sends to a TAP.
    Send,
}

/// One measurement of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "device", rename_all = "snake_case")]
pub(in crate::bench) enum DeviceWork {
    /// TCP.
    Tcp { way: Way, traffic: Traffic },
    /// AF_XDP, by a client of the server or by a bare loop.
    Xdp { what: Xdp, bare: bool },
    /// Small frames at TAPs of a switch, or a bare loop.
    Small { what: Small, bare: bool },
    /// A capture file is replayed into a switch.
    Replay,
}

/// All that has been made so far.
pub(super) struct Beds {
    dir: Directory,
    ways: HashMap<Way, Bed>,
    xdp: HashMap<bool, XdpBed>,
    small: HashMap<bool, SmallBed>,
    replay: Option<(Peer, Namespace)>,
}

/// Two ends between which TCP can flow.
struct Bed {
    /// Whoever moves the frames; nobody: the kernel.
    movers: Vec<Peer>,
    from: Space,
    to: Space,
    /// Where frames are moved, unless that is `from`.
    _middle: Option<Space>,
}

/// Two interfaces with their wires, and whoever serves them.
struct XdpBed {
    host: Space,
    wire: Space,
    /// The server; `None` for bare loops.
    server: Option<Peer>,
}

impl Beds {
    /// Nothing yet.
    pub(super) fn new() -> Result<Self> {
        space::need_privilege()?;
        Ok(Self {
            dir: place::directory("devices")?,
            ways: HashMap::new(),
            xdp: HashMap::new(),
            small: HashMap::new(),
            replay: None,
        })
    }

    /// Measures once.
    pub(super) fn measure(
        &mut self,
        work: DeviceWork,
        cpus: [usize; 2],
        time: Duration,
    ) -> Result<Sample> {
        match work {
            DeviceWork::Tcp { way, traffic } => {
                if !self.ways.contains_key(&way) {
                    let bed = make(way, self.dir.path())?;
                    self.ways.insert(way, bed);
                }
                let bed = self.ways.get(&way).ok_or_else(|| broken("no bed"))?;
                let cpu = || bed.cpu_ns();
                let there = (&bed.from, &bed.to, B);
                let trips = |mover: usize| {
                    bed.pin(&[mover])?;
                    let sample = tcp::round_trips(there, cpus[0], time, cpu);
                    bed.pin(&cpus)?;
                    sample
                };
                match traffic {
                    Traffic::Tcp => tcp::stream(there, time, cpu),
                    Traffic::TcpBack => tcp::stream((&bed.to, &bed.from, A), time, cpu),
                    Traffic::RoundTripsOneCore => trips(cpus[0]),
                    Traffic::RoundTripsTwoCores => trips(cpus[1]),
                }
            }
            DeviceWork::Xdp { what, bare } => {
                if !self.xdp.contains_key(&bare) {
                    let bed = XdpBed::new(bare, self.dir.path())?;
                    self.xdp.insert(bare, bed);
                }
                let bed = self.xdp.get(&bare).ok_or_else(|| broken("no bed"))?;
                bed.measure(what, self.dir.path(), cpus, time)
            }
            DeviceWork::Small { what, bare } => {
                if !self.small.contains_key(&bare) {
                    let bed = SmallBed::new(bare, self.dir.path())?;
                    self.small.insert(bare, bed);
                }
                let bed = self.small.get(&bare).ok_or_else(|| broken("no bed"))?;
                bed.measure(what, self.dir.path(), cpus, time)
            }
            DeviceWork::Replay => self.replay(cpus, time),
        }
    }

    fn replay(&mut self, cpus: [usize; 2], time: Duration) -> Result<Sample> {
        let ns = self.dir.path().join("replay");
        let file = self.dir.path().join("frames.pcap");
        if self.replay.is_none() {
            capture(&file)?;
            let server = Peer::start(&Task::Server { ns: ns.clone() })?;
            self.replay = Some((server, Namespace::at(&ns)?.no_spawn()));
        }
        let (server, namespace) = self.replay.as_ref().ok_or_else(|| broken("no server"))?;
        let receiver = Peer::start(&Task::Receive(Receive {
            ns,
            port: "vale0:r".into(),
            cpu: cpus[1],
            wait: Wait::Poll,
            expected: None,
            answer_every: None,
        }))?;
        let spec = format!("vale0:pcap:{},speed=max,loop", file.display());
        let before = [server.pid(), receiver.pid()].map(place::cpu_ns);
        control::attach_spec(namespace, &spec, false)?;
        let start = Instant::now();
        std::thread::sleep(time);
        control::detach_spec(namespace, &spec)?;
        let seconds = start.elapsed().as_secs_f64();
        let after = [server.pid(), receiver.pid()].map(place::cpu_ns);
        let received = receiver.finish()?;
        let mut sample = Sample {
            value: per_second(received.frames, seconds),
            seconds,
            sent: received.frames + received.dropped,
            received: received.frames,
            dropped: received.dropped,
            ..Sample::default()
        };
        sample.require(received.frames > 0, || "nothing arrived".into());
        let mut used = 0;
        for (before, after) in before.into_iter().zip(after) {
            used += after?.saturating_sub(before?);
        }
        sample.cpu_ns = Some(float(used) / float(received.frames));
        Ok(sample)
    }
}

impl Bed {
    /// Restricts those who move the frames to these CPUs.
    fn pin(&self, cpus: &[usize]) -> Result<()> {
        self.movers
            .iter()
            .try_for_each(|m| place::pin_all(m.pid(), cpus))
    }

    /// CPU time of those who move the frames; `None`: the kernel does.
    fn cpu_ns(&self) -> Result<Option<u64>> {
        if self.movers.is_empty() {
            return Ok(None);
        }
        let each = self.movers.iter().map(|m| place::cpu_ns(m.pid()));
        each.sum::<Result<u64>>().map(Some)
    }
}

/// A file of short frames for the receiver.
fn capture(path: &Path) -> Result<()> {
    let config = WriterConfig {
        format: Format::Classic,
        ..WriterConfig::default()
    };
    let failed = |e: netvale_backends::pcap::PcapError| broken(&e.to_string());
    let mut writer = Writer::create(path, config).map_err(failed)?;
    let bytes = frame(station_mac(0), sender_mac(0), xdp::BYTES);
    for i in 0..RECORDS {
        writer.write(i * 1000, &[&bytes], 0).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    Ok(())
}

/// Makes a way and waits until it carries frames.
fn make(way: Way, dir: &Path) -> Result<Bed> {
    let (from, to) = (Space::new()?, Space::new()?);
    let middle = match way {
        Way::SwitchTaps | Way::BareTaps | Way::KernelBridge => Some(Space::new()?),
        _ => None,
    };
    let bed = match (way, middle) {
        (Way::SwitchTaps | Way::BareTaps, Some(middle)) => {
            let names = ["nvba", "nvbb"].map(str::to_owned);
            let mover = match way {
                Way::BareTaps => middle.enter(|| {
                    let names = names.clone();
                    Peer::start(&Task::Device(DeviceTask::Taps { names }))
                })?,
                _ => {
                    let (server, namespace) = serve(&middle, &dir.join("taps"))?;
                    for name in &names {
                        let tap = format!("vale0:tap:{name}");
                        middle.enter(|| control::attach_spec(&namespace, &tap, false))?;
                    }
                    server
                }
            };
            for (name, space, address) in [(&names[0], &from, A), (&names[1], &to, B)] {
                middle.hand_over(name, space)?;
                space.address(name, address)?;
            }
            Bed {
                movers: vec![mover],
                from,
                to,
                _middle: Some(middle),
            }
        }
        (_, Some(middle)) => {
            for (name, far, space, address) in [("ma", "ea", &from, A), ("mb", "eb", &to, B)] {
                middle.cable(name, space, far)?;
                space.address(far, address)?;
            }
            middle.bridge("br0", &["ma", "mb"])?;
            Bed {
                movers: Vec::new(),
                from,
                to,
                _middle: Some(middle),
            }
        }
        (_, None) => {
            from.cable("x", &to, "w")?;
            from.address("x", A)?;
            to.address("w", B)?;
            Bed {
                movers: beside_host(way, &from, &to, dir)?,
                from,
                to,
                _middle: None,
            }
        }
    };
    let end = Instant::now() + PATIENCE;
    while let Err(failure) = tcp::reach(&bed.from, &bed.to, B) {
        if Instant::now() > end {
            return Err(failure);
        }
    }
    Ok(bed)
}

/// Puts somebody between the host and its interface `x`.
fn beside_host(way: Way, host: &Space, wire: &Space, dir: &Path) -> Result<Vec<Peer>> {
    need_bpf(!matches!(way, Way::Cable | Way::BareWire))?;
    Ok(match way {
        Way::BareHost => vec![host.enter(|| {
            let interface = "x".into();
            Peer::start(&Task::Device(DeviceTask::Host { interface }))
        })?],
        Way::SwitchHost => {
            let (server, namespace) = serve(host, &dir.join("host"))?;
            host.enter(|| control::attach_spec(&namespace, "vale0:x", true))?;
            vec![server]
        }
        Way::HostRings => {
            wire.no_offloads("w")?;
            let ns = dir.join("rings");
            let (server, _) = serve(host, &ns)?;
            let interface = "x".into();
            let bridge = Task::Device(DeviceTask::Rings { ns, interface });
            let bridge = host.enter(|| Peer::start(&bridge))?;
            vec![bridge, server]
        }
        _ => Vec::new(),
    })
}

/// A server in a namespace.
fn serve(space: &Space, ns: &Path) -> Result<(Peer, Namespace)> {
    let server = space.enter(|| Peer::start(&Task::Server { ns: ns.into() }))?;
    Ok((server, Namespace::at(ns)?.no_spawn()))
}

/// Says so if programs would be refused by the kernel.
fn need_bpf(needed: bool) -> Result<()> {
    if !needed || space::is_real_root() {
        return Ok(());
    }
    let why = "needs root itself: no programs may be loaded in user namespaces";
    Err(netvale::Error::new(ErrorKind::Unavailable, why).into())
}

impl XdpBed {
    const NAMES: [&str; 2] = ["xa", "xb"];
    const WIRES: [&str; 2] = ["wa", "wb"];

    fn new(bare: bool, dir: &Path) -> Result<Self> {
        need_bpf(true)?;
        let (host, wire) = (Space::new()?, Space::new()?);
        for (name, peer) in Self::NAMES.into_iter().zip(Self::WIRES) {
            host.cable(name, &wire, peer)?;
        }
        let server = match bare {
            true => None,
            false => Some(serve(&host, &dir.join("xdp"))?.0),
        };
        Ok(Self { host, wire, server })
    }

    /// Starts whoever handles the frames, and counts what comes where they go.
    fn measure(
        &self,
        what: Xdp,
        dir: &Path,
        [generator, cpu]: [usize; 2],
        time: Duration,
    ) -> Result<Sample> {
        // netmap's name of an interface, or the kernel's.
        let prefix = self.server.as_ref().map_or("", |_| "netmap:");
        let names = Self::NAMES.map(|name| format!("{prefix}{name}"));
        let ns = self.server.as_ref().map(|_| dir.join("xdp"));
        let task = Task::Device(DeviceTask::Xdp {
            what,
            ns,
            names,
            cpu,
        });
        let peer = self.host.enter(|| Peer::start(&task))?;
        let mut pids = vec![peer.pid()];
        if let Some(server) = &self.server {
            pids.push(server.pid());
        }
        let cpu_time = || -> Result<u64> { pids.iter().map(|&pid| place::cpu_ns(pid)).sum() };
        // Where frames are counted that do not end at the program itself.
        let sink = match what {
            Xdp::Receive | Xdp::Read => None,
            Xdp::Send => Some(Self::WIRES[0]),
            Xdp::Forward => Some(Self::WIRES[1]),
        };
        let counted = || sink.map_or(Ok(0), |name| self.wire.received(name));
        let (before, cpu_before) = (counted()?, cpu_time()?);
        let took = match what {
            Xdp::Send => {
                let start = Instant::now();
                std::thread::sleep(time);
                start.elapsed()
            }
            _ => xdp::generate(&self.wire, Self::WIRES[0], generator, time)?,
        };
        let (after, cpu_after) = (counted()?, cpu_time()?);
        let seen = peer.finish()?;
        let frames = match sink {
            None => seen.frames,
            Some(_) => after - before,
        };
        let seconds = took.as_secs_f64();
        let mut sample = Sample {
            value: per_second(frames, seconds),
            seconds,
            sent: seen.frames,
            received: frames,
            ..Sample::default()
        };
        sample.require(frames > 0, || "nothing arrived".into());
        sample.cpu_ns = Some(float(cpu_after - cpu_before) / float(frames));
        Ok(sample)
    }
}

/// Whether a case cannot be measured here, rather than having failed.
pub(super) fn is_unavailable(failure: &Failure) -> bool {
    matches!(failure, Failure::Error(e) if e.kind() == ErrorKind::Unavailable)
}
