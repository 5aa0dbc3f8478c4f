//! Cases with a sender here and a receiver in another thread, another process
//! or behind the server's worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netvale::{Namespace, Port};

use super::case::{Load, Path, Wait};
use super::peer::{Peer, Receive, Received, Task, drops, introduce, receive};
use super::place::Place;
use super::sample::{
    Sample, broken, first_word, frame, on_cpu, sender_mac, station_mac, turns_for,
};
use crate::failure::Result;
use crate::units::per_second;

/// How often the receiver's ring is filled before the clock runs.
const FILL_ROUNDS: u64 = 3;
/// Time for the receiver to take what was sent in between.
const FILL_PAUSE: Duration = Duration::from_micros(200);
/// Longest wait for a receiver that must give slots back or answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A sender and a receiver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) path: Path,
    pub(super) one_core: bool,
    pub(super) load: Load,
}

/// What a sender did.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    frames: u64,
    /// Of these, before the clock ran.
    early: u64,
    seconds: f64,
    /// Frames that its own port dropped.
    dropped: u64,
}

/// Names of sender and receiver.
fn names(path: Path, switch: &str) -> (String, String) {
    match path {
        Path::Switch => (format!("{switch}:s"), format!("{switch}:r")),
        Path::Pipe => (format!("{switch}:p{{1"), format!("{switch}:p}}1")),
    }
}

impl Stream {
    /// Measures for `time`, on `cpus`: the sender's and the receiver's.
    pub(super) fn measure(
        self,
        cpus: [usize; 2],
        time: Duration,
        place: Option<&Place>,
    ) -> Result<Sample> {
        let cpus = if self.one_core { [cpus[0]; 2] } else { cpus };
        match place {
            None => self.threads(cpus, time),
            Some(place) => self.processes(cpus, time, place),
        }
    }

    fn task(self, ns: std::path::PathBuf, port: String, cpu: usize) -> Receive {
        let expected = first_word(&self.frame());
        let every = u64::from(self.load.batch_frames);
        Receive {
            ns,
            port,
            cpu,
            wait: if self.one_core {
                Wait::Adaptive
            } else {
                Wait::Poll
            },
            expected: self.load.reads.then_some(expected),
            // Senders to a switch never wait: on one core they would run on
            // alone until they are preempted.
            answer_every: (self.one_core && self.path == Path::Switch).then_some(every),
        }
    }

    fn frame(self) -> Vec<u8> {
        frame(station_mac(0), sender_mac(0), self.load.frame_bytes)
    }

    fn open(self, namespace: &Namespace, name: &str) -> Result<Port> {
        Ok(namespace.port(name).keep_buffers(!self.load.moves).open()?)
    }

    fn threads(self, cpus: [usize; 2], time: Duration) -> Result<Sample> {
        let namespace = Namespace::embedded()?;
        let (from, to) = names(self.path, "vale0");
        let mut sender = self.open(&namespace, &from)?;
        let mut receiver = self.open(&namespace, &to)?;
        introduce(&mut receiver)?;
        let task = self.task(std::path::PathBuf::new(), to.clone(), cpus[1]);
        let before = drops(&receiver)?;
        let stop = AtomicBool::new(false);
        let (sent, received) = std::thread::scope(|scope| {
            let receiving = scope.spawn(|| {
                netvale::pin_to_cpu(cpus[1])?;
                receive(&mut receiver, &task, before, &stop)
            });
            let sent = on_cpu(cpus[0], || self.send(&mut sender, &namespace, &to, time));
            stop.store(true, Ordering::Release);
            let received = match receiving.join() {
                Ok(received) => received,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            (sent, received)
        });
        Ok(self.sample(sent?, received?))
    }

    fn processes(self, cpus: [usize; 2], time: Duration, place: &Place) -> Result<Sample> {
        let (from, to) = names(self.path, &place.switch());
        let mut sender = self.open(place.namespace(), &from)?;
        let task = self.task(place.path(), to.clone(), cpus[1]);
        let peer = Peer::start(&Task::Receive(task))?;
        let namespace = place.namespace();
        let sent = on_cpu(cpus[0], || self.send(&mut sender, namespace, &to, time))?;
        let received = peer.finish()?;
        Ok(self.sample(sent, received))
    }

    fn sample(self, sent: Sent, received: Received) -> Sample {
        let dropped = sent.dropped + received.dropped;
        let mut sample = Sample {
            value: per_second(received.frames.saturating_sub(sent.early), sent.seconds),
            seconds: sent.seconds,
            sent: sent.frames,
            received: received.frames,
            dropped,
            ..Sample::default()
        };
        sample.require(received.frames > sent.early, || "nothing arrived".into());
        sample.require(sent.frames == received.frames + dropped, || {
            format!(
                "{} sent, {} arrived, {dropped} counted as dropped",
                sent.frames, received.frames
            )
        });
        let lossless = self.path == Path::Pipe || self.one_core;
        sample.require(!lossless || dropped == 0, || {
            format!("{dropped} frames lost")
        });
        sample.require(received.bad == 0, || {
            format!("{} frames arrived with other bytes", received.bad)
        });
        sample
    }

    /// Sends until the time is over.
    fn send(
        self,
        port: &mut Port,
        namespace: &Namespace,
        to: &str,
        time: Duration,
    ) -> Result<Sent> {
        let frame = self.frame();
        // What the receiver said to make itself known.
        let rx = port.rx(0);
        let there = rx.sync()?;
        rx.discard(there);
        let before = drops(port)?;
        let arrived = || -> Result<u64> {
            let stats = namespace.stats(Some(to))?;
            Ok(stats.iter().map(|s| s.rx_frames).sum())
        };
        let mut sent = Sent {
            early: self.fill(port, &frame, arrived)?,
            ..Sent::default()
        };
        sent.frames = sent.early;
        let every = turns_for(self.load.batch_frames);
        let start = Instant::now();
        loop {
            for _ in 0..every {
                sent.frames += u64::from(self.turn(port, &frame)?);
            }
            if start.elapsed() >= time {
                break;
            }
        }
        sent.seconds = start.elapsed().as_secs_f64();
        sent.dropped = drops(port)?.saturating_sub(before);
        Ok(sent)
    }

    /// Queues a batch and syncs; waits for the receiver where it must.
    #[inline]
    fn turn(self, port: &mut Port, frame: &[u8]) -> Result<u32> {
        let Load {
            frame_bytes,
            batch_frames,
            ..
        } = self.load;
        let tx = port.tx(0);
        if tx.space() < batch_frames {
            tx.sync()?;
        }
        let mut queued = 0;
        if frame.len() <= tx.buf_size() as usize {
            queued = tx.push_resident(batch_frames, frame_bytes);
        } else {
            while queued < batch_frames && tx.push(frame).is_ok() {
                queued += 1;
            }
        }
        tx.sync()?;
        if self.one_core {
            match self.path {
                Path::Switch if queued > 0 => hear(port)?,
                Path::Pipe if queued < batch_frames => {
                    port.wait_tx(Some(PATIENCE))?;
                }
                _ => {}
            }
        }
        Ok(queued)
    }

    /// Puts the frame into every buffer that will travel. Frames sent.
    ///
    /// Buffers that are given away come back from the receiver's ring, so as
    /// many frames as that has slots must get there first.
    fn fill(self, port: &mut Port, frame: &[u8], arrived: impl Fn() -> Result<u64>) -> Result<u64> {
        if frame.len() > port.info().buf_size as usize {
            return Ok(0);
        }
        let mut sent = 0;
        let before = arrived()?;
        let enough = before + FILL_ROUNDS * u64::from(port.tx(0).slots());
        let end = Instant::now() + PATIENCE;
        while arrived()? < enough {
            if Instant::now() > end {
                return Err(broken("the receiver does not take frames").into());
            }
            self.fill_ring(port, frame)?;
            let tx = port.tx(0);
            // As many as are answered, if answers are waited for.
            let n = if self.one_core {
                self.load.batch_frames
            } else {
                tx.slots() / 4
            };
            sent += u64::from(tx.push_resident(n, self.load.frame_bytes));
            tx.sync()?;
            if self.one_core && self.path == Path::Switch {
                hear(port)?;
            } else {
                std::thread::sleep(FILL_PAUSE);
            }
        }
        self.fill_ring(port, frame)?;
        Ok(sent)
    }

    fn fill_ring(self, port: &mut Port, frame: &[u8]) -> Result<()> {
        let tx = port.tx(0);
        tx.sync()?;
        tx.fill(frame).map_err(|e| broken(&e.to_string()))?;
        Ok(())
    }
}

/// Sleeps until the receiver has answered.
fn hear(port: &mut Port) -> Result<()> {
    if !port.wait_rx(Some(PATIENCE))? {
        return Err(broken("the receiver does not answer").into());
    }
    let rx = port.rx(0);
    let there = rx.available();
    rx.discard(there);
    Ok(())
}

/// One client thread, two isolated ports; the server's threads on the other
/// core.
pub(super) fn isolated(
    load: Load,
    cpus: [usize; 2],
    all: &[usize],
    time: Duration,
    place: &Place,
) -> Result<Sample> {
    let namespace = place.namespace().clone().isolated(true);
    let (from, to) = names(Path::Switch, &place.switch());
    let mut sender = namespace.port(&from).keep_buffers(true).open()?;
    let mut receiver = namespace.port(&to).keep_buffers(true).open()?;
    place.pin_server(&cpus[1..])?;
    let sample = on_cpu(cpus[0], || {
        isolated_loop(&mut sender, &mut receiver, load, time)
    });
    place.pin_server(all)?;
    sample
}

fn isolated_loop(
    sender: &mut Port,
    receiver: &mut Port,
    load: Load,
    time: Duration,
) -> Result<Sample> {
    let bytes = frame(station_mac(0), sender_mac(0), load.frame_bytes);
    introduce(receiver)?;
    // The worker learns of it in its own time.
    sender.wait_rx(Some(PATIENCE))?;
    sender
        .tx(0)
        .fill(&bytes)
        .map_err(|e| broken(&e.to_string()))?;
    let before = drops(sender)? + drops(receiver)?;
    let (mut sent, mut received) = (0u64, 0u64);
    let mut take = |receiver: &mut Port| -> Result<u64> {
        let rx = receiver.rx(0);
        let there = rx.sync()?;
        received += u64::from(rx.discard(there).0);
        Ok(received)
    };
    let start = Instant::now();
    let mut arrived = 0;
    let seconds = loop {
        for _ in 0..turns_for(load.batch_frames) {
            let tx = sender.tx(0);
            if tx.space() < load.batch_frames {
                tx.sync()?;
            }
            if tx.space() >= load.batch_frames {
                sent += u64::from(tx.push_resident(load.batch_frames, load.frame_bytes));
                tx.sync()?;
            }
            arrived = take(receiver)?;
        }
        let took = start.elapsed();
        if took >= time {
            break took.as_secs_f64();
        }
    };
    let value = per_second(arrived, seconds);
    // The rest, which is under way.
    let end = Instant::now() + PATIENCE;
    let mut dropped = 0;
    while arrived + dropped < sent && Instant::now() < end {
        sender.tx(0).sync()?;
        receiver.wait_rx(Some(Duration::from_millis(5)))?;
        arrived = take(receiver)?;
        dropped = (drops(sender)? + drops(receiver)?).saturating_sub(before);
    }
    let mut sample = Sample {
        value,
        seconds,
        sent,
        received: arrived,
        dropped,
        ..Sample::default()
    };
    sample.require(arrived > 0, || "nothing arrived".into());
    sample.require(arrived + dropped == sent, || {
        format!("{sent} sent, {arrived} arrived, {dropped} counted as dropped")
    });
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_accounted_for() {
        let stream = Stream {
            path: Path::Switch,
            one_core: false,
            load: Load::new(60, 64).reads(true),
        };
        let received = |frames, dropped| Received {
            frames,
            dropped,
            bad: 0,
        };
        let sent = Sent {
            frames: 100,
            early: 10,
            seconds: 2.0,
            dropped: 0,
        };
        let good = stream.sample(sent, received(90, 10));
        assert_eq!((good.problem, good.value), (None, 40.0));
        assert!(stream.sample(sent, received(90, 9)).problem.is_some());
        let pipe = Stream {
            path: Path::Pipe,
            ..stream
        };
        assert!(pipe.sample(sent, received(90, 10)).problem.is_some());
    }

    #[test]
    fn two_threads_lose_nothing_uncounted() {
        for (path, load) in [
            (Path::Switch, Load::new(60, 64).reads(true)),
            (Path::Pipe, Load::new(60, 64).moves()),
        ] {
            let stream = Stream {
                path,
                one_core: false,
                load,
            };
            // On whatever CPU there is: the counts are what matters.
            match stream.measure([0, 0], Duration::from_millis(5), None) {
                Ok(sample) => assert_eq!(sample.problem, None),
                Err(failure) => panic!("{failure:?}"),
            }
        }
    }
}
