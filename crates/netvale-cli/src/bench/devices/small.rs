//! Small frames through TAPs, each of them a call of the kernel's.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netvale_backends::tap::TapQueue;
use netvale_wire::vnet::HdrLen;

use super::bare::tap;
use super::run::DeviceTask;
use super::space::Space;
use super::{Small, need_bpf, serve, xdp};
use crate::bench::peer::{Peer, Task};
use crate::bench::place;
use crate::bench::sample::{Sample, broken};
use crate::control;
use crate::failure::Result;
use crate::units::{float, per_second};

/// Frames between two looks whether to end.
const TURN: usize = 64;

/// TAPs with their host's side in a namespace of their own, and whoever moves
/// frames between them.
pub(super) struct SmallBed {
    space: Space,
    /// The server; `None`: bare loops.
    server: Option<Peer>,
}

impl SmallBed {
    /// From where frames come, and where they are counted.
    const NAMES: [&str; 2] = ["ta", "tb"];
    /// Where those of a program are counted.
    const ALONE: &str = "tc";
    /// A program's port beside it.
    const PORT: &str = "vale1:p";

    pub(super) fn new(bare: bool, dir: &Path) -> Result<Self> {
        // The generator is a program in the kernel.
        need_bpf(true)?;
        let space = Space::new()?;
        let server = match bare {
            true => None,
            false => {
                let (server, namespace) = serve(&space, &dir.join("small"))?;
                space.enter(|| {
                    for name in Self::NAMES {
                        control::attach_spec(&namespace, &format!("vale0:tap:{name}"), false)?;
                    }
                    let alone = format!("vale1:tap:{}", Self::ALONE);
                    control::attach_spec(&namespace, &alone, false)
                })?;
                Some(server)
            }
        };
        Ok(Self { space, server })
    }

    /// Starts whoever is missing, and counts what reaches the host's side.
    /// Processor time is that of whoever calls the kernel for each frame.
    pub(super) fn measure(
        &self,
        what: Small,
        dir: &Path,
        [source, mover]: [usize; 2],
        time: Duration,
    ) -> Result<Sample> {
        let names = Self::NAMES.map(str::to_owned);
        let ns = dir.join("small");
        // With a server: the program that sends, if there is one.
        let task = match (what, &self.server) {
            (Small::Forward, None) => Some(DeviceTask::Taps { names }),
            (Small::Forward, Some(_)) => None,
            (Small::Send, None) => Some(DeviceTask::TapWriter {
                name: Self::ALONE.into(),
            }),
            (Small::Send, Some(_)) => Some(DeviceTask::Sender {
                ns,
                port: Self::PORT.into(),
                cpu: source,
            }),
        };
        let start = |task| Peer::start(&Task::Device(task));
        let peer = task.map(|task| self.space.enter(|| start(task)));
        let peer = peer.transpose()?;
        let pid = match (&self.server, &peer) {
            (Some(server), _) => server.pid(),
            (None, Some(peer)) => peer.pid(),
            (None, None) => return Err(broken("nobody to move frames").into()),
        };
        place::pin_all(pid, &[mover])?;
        let sink = match what {
            Small::Forward => Self::NAMES[1],
            Small::Send => Self::ALONE,
        };
        let (before, cpu_before) = (self.space.received(sink)?, place::cpu_ns(pid)?);
        let took = match what {
            Small::Forward => xdp::generate(&self.space, Self::NAMES[0], source, time)?,
            Small::Send => {
                let start = Instant::now();
                std::thread::sleep(time);
                start.elapsed()
            }
        };
        let (after, cpu_after) = (self.space.received(sink)?, place::cpu_ns(pid)?);
        match what {
            // What copies between TAPs tells nothing, but goes.
            Small::Forward => drop(peer),
            Small::Send => drop(peer.map(Peer::finish).transpose()?),
        }
        let frames = after - before;
        let seconds = took.as_secs_f64();
        let mut sample = Sample {
            value: per_second(frames, seconds),
            seconds,
            sent: frames,
            received: frames,
            ..Sample::default()
        };
        sample.require(frames > 0, || "nothing arrived".into());
        sample.cpu_ns = Some(float(cpu_after - cpu_before) / float(frames));
        Ok(sample)
    }
}

/// Writes the same frame into a TAP that it makes, again and again.
pub(in crate::bench) fn write_tap(
    name: &str,
    ready: impl FnOnce() -> Result<Arc<AtomicBool>>,
) -> Result<u64> {
    let queue: TapQueue = tap(name)?;
    let mut frame = vec![0; HdrLen::MERGED.get()];
    frame.extend(xdp::the_frame());
    let stop = ready()?;
    let mut frames = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..TURN {
            let taken = queue.write(&frame);
            frames += u64::from(taken.map_err(|e| broken(&e.to_string()))?);
        }
    }
    Ok(frames)
}
