//! Cases of one thread that has all ports: embedded, pinned to one core.

use std::time::{Duration, Instant};

use netvale::{Namespace, Port, PushError, RxRing, TxRing};

use super::case::{Load, Monitor};
use super::sample::{
    BROADCAST, Rng, Sample, broken, first_word, frame, histogram, nanos, repeat, sender_mac,
    station_mac, turns_for,
};
use crate::failure::Result;
use crate::units::{float, per_second};

/// Slots of ports that only stand about, and of those that get broadcasts.
const FEW_SLOTS: u16 = 64;
/// Rounds that bring the frame into every buffer that will travel.
const FILL_ROUNDS: u32 = 4;

/// Ports of one thread.
struct Bed {
    namespace: Namespace,
    senders: Vec<Port>,
    receivers: Vec<Port>,
    /// What each sender sends.
    frames: Vec<Vec<u8>>,
    load: Load,
}

impl Bed {
    /// A switch whose receivers have made themselves known.
    fn switch(senders: u16, receivers: u16, load: Load) -> Result<Self> {
        let namespace = Namespace::embedded()?;
        let open = |name: String| namespace.port(&name).keep_buffers(!load.moves).open();
        let senders: Vec<_> = (0..senders)
            .map(|i| open(format!("vale0:s{i}")))
            .collect::<Result<_, _>>()?;
        let receivers: Vec<_> = (0..receivers)
            .map(|i| open(format!("vale0:r{i}")))
            .collect::<Result<_, _>>()?;
        Self::with(namespace, senders, receivers, load)
    }

    fn pipe(load: Load) -> Result<Self> {
        let namespace = Namespace::embedded()?;
        let sender = namespace.open("vale0:p{1")?;
        let receiver = namespace.open("vale0:p}1")?;
        Self::with(namespace, vec![sender], vec![receiver], load)
    }

    fn with(
        namespace: Namespace,
        senders: Vec<Port>,
        receivers: Vec<Port>,
        load: Load,
    ) -> Result<Self> {
        let to = match receivers.len() {
            0 | 1 => station_mac(0),
            _ => BROADCAST,
        };
        let frames = (0u16..)
            .zip(&senders)
            .map(|(i, _)| frame(to, sender_mac(i), load.frame_bytes))
            .collect();
        let mut bed = Self {
            namespace,
            senders,
            receivers,
            frames,
            load,
        };
        bed.introduce()?;
        bed.fill()?;
        Ok(bed)
    }

    /// Each receiver sends a frame, so that the switch learns where it is.
    fn introduce(&mut self) -> Result<()> {
        for (i, port) in (0u32..).zip(&mut self.receivers) {
            let hello = frame(BROADCAST, station_mac(i), 60);
            say(port.tx(0), &hello)?;
        }
        for port in self.senders.iter_mut().chain(&mut self.receivers) {
            drain(port.rx(0), true)?;
        }
        Ok(())
    }

    /// Puts the frame into every buffer that will travel.
    fn fill(&mut self) -> Result<()> {
        let size = self.senders.first().map_or(0, |p| p.info().buf_size);
        if u32::from(self.load.frame_bytes) > size {
            return Ok(());
        }
        for _ in 0..FILL_ROUNDS {
            for (port, frame) in self.senders.iter_mut().zip(&self.frames) {
                let tx = port.tx(0);
                tx.sync()?;
                tx.fill(frame)
                    .map_err(|e: PushError| broken(&e.to_string()))?;
                let space = tx.space();
                tx.push_resident(space, self.load.frame_bytes);
                tx.sync()?;
                for receiver in &mut self.receivers {
                    drain(receiver.rx(0), true)?;
                }
            }
        }
        Ok(())
    }

    /// Every sender sends a batch; the receivers take it. Frames sent and
    /// received.
    #[inline]
    fn turn(&mut self, bad: &mut u64) -> Result<(u64, u64)> {
        let Load {
            frame_bytes,
            batch_frames,
            reads,
            ..
        } = self.load;
        let (mut sent, mut received) = (0, 0);
        for (port, frame) in self.senders.iter_mut().zip(&self.frames) {
            let tx = port.tx(0);
            let size = tx.buf_size();
            sent += u64::from(send(tx, frame, frame_bytes, batch_frames)?);
            for receiver in &mut self.receivers {
                let rx = receiver.rx(0);
                // Half a ring or more: the slots must be back before the next.
                let slots = batch_frames * u32::from(frame_bytes).div_ceil(size);
                let release = slots >= rx.slots() / 2;
                received += if reads {
                    read(rx, first_word(frame), release, bad)?
                } else {
                    drain(rx, release)?
                };
            }
        }
        Ok((sent, received))
    }

    fn measure(&mut self, time: Duration) -> Result<Sample> {
        let mut bad = 0;
        let (mut sent, mut received) = (0, 0);
        let seconds = repeat(time, turns_for(self.load.batch_frames), || {
            let (s, r) = self.turn(&mut bad)?;
            sent += s;
            received += r;
            Ok(())
        })?;
        let copies = u64::try_from(self.receivers.len()).unwrap_or(u64::MAX);
        let mut sample = Sample {
            value: per_second(sent, seconds),
            seconds,
            sent,
            received,
            ..Sample::default()
        };
        sample.require(sent > 0, || "nothing was sent".into());
        sample.require(received == sent * copies, || {
            format!("{received} frames arrived, not {}", sent * copies)
        });
        sample.require(bad == 0, || {
            format!("{bad} frames arrived with other bytes")
        });
        let wrong = self.compare()?;
        sample.require(wrong == 0, || {
            format!("{wrong} frames of the last batch had other bytes")
        });
        Ok(sample)
    }

    /// Sends one more batch and compares every byte of it.
    fn compare(&mut self) -> Result<u64> {
        let mut wrong = 0;
        let mut bytes = Vec::new();
        let load = self.load;
        for (port, frame) in self.senders.iter_mut().zip(&self.frames) {
            let sent = send(port.tx(0), frame, load.frame_bytes, load.batch_frames)?;
            for receiver in &mut self.receivers {
                let rx = receiver.rx(0);
                rx.sync()?;
                let mut same = 0;
                while let Some(got) = rx.next() {
                    got.read_to(&mut bytes);
                    same += u32::from(&bytes == frame);
                }
                rx.sync()?;
                wrong += u64::from(sent.abs_diff(same));
            }
        }
        Ok(wrong)
    }
}

/// Queues a batch and syncs. Frames taken over.
#[inline]
fn send(tx: &mut TxRing, frame: &[u8], len: u16, batch: u32) -> Result<u32> {
    if tx.space() < batch {
        tx.sync()?;
    }
    let mut queued = 0;
    if frame.len() <= tx.buf_size() as usize {
        queued = tx.push_resident(batch, len);
    } else {
        while queued < batch && tx.push(frame).is_ok() {
            queued += 1;
        }
    }
    tx.sync()?;
    Ok(queued)
}

/// Queues one frame and syncs.
fn say(tx: &mut TxRing, frame: &[u8]) -> Result<()> {
    tx.push(frame)
        .map_err(|e| broken(&format!("a frame could not be sent: {e}")))?;
    tx.sync()?;
    Ok(())
}

/// Takes all frames without looking at them; how many.
#[inline]
fn drain(rx: &mut RxRing, release: bool) -> Result<u64> {
    let there = rx.sync()?;
    let (frames, _) = rx.discard(there);
    if release {
        rx.sync()?;
    }
    Ok(u64::from(frames))
}

/// Takes all frames and compares the first 8 bytes of each; how many.
#[inline]
pub(super) fn read(rx: &mut RxRing, expected: u64, release: bool, bad: &mut u64) -> Result<u64> {
    rx.sync()?;
    let mut frames = 0;
    while let Some(frame) = rx.next() {
        *bad += u64::from(frame.load_u64(0) != expected);
        frames += 1;
    }
    if release {
        rx.sync()?;
    }
    Ok(frames)
}

/// `senders` to `receivers` through a switch.
pub(super) fn switch(senders: u16, receivers: u16, load: Load, time: Duration) -> Result<Sample> {
    Bed::switch(senders, receivers, load)?.measure(time)
}

/// From end to end of a pipe.
pub(super) fn pipe(load: Load, time: Duration) -> Result<Sample> {
    Bed::pipe(load)?.measure(time)
}

/// 1 to 1 through a switch, with a monitor on the receiver.
pub(super) fn monitored(monitor: Monitor, load: Load, time: Duration) -> Result<Sample> {
    let mut bed = Bed::switch(1, 1, load)?;
    let name = match monitor {
        Monitor::Copy => "vale0:r0/r",
        Monitor::ZeroCopy => "vale0:r0/zr",
    };
    let mut watcher = bed.namespace.open(name)?;
    let (mut sent, mut received, mut seen, mut bad) = (0, 0, 0, 0);
    let release = load.batch_frames >= watcher.rx(0).slots() / 2;
    let seconds = repeat(time, turns_for(load.batch_frames), || {
        let (s, r) = bed.turn(&mut bad)?;
        sent += s;
        received += r;
        seen += drain(watcher.rx(0), release)?;
        Ok(())
    })?;
    // The slots that the receiver gave back last.
    bed.receivers[0].rx(0).sync()?;
    seen += drain(watcher.rx(0), true)?;
    let mut sample = Sample {
        value: per_second(sent, seconds),
        seconds,
        sent,
        received,
        ..Sample::default()
    };
    sample.require(received == sent, || {
        format!("{received} frames of {sent} arrived")
    });
    sample.require(seen == sent, || {
        format!("the monitor saw {seen} frames of {sent}")
    });
    Ok(sample)
}

/// Each frame for one of many stations, by chance.
pub(super) fn stations(stations: u32, ports: u16, load: Load, time: Duration) -> Result<Sample> {
    let mut bed = Bed::switch(1, ports, load)?;
    // Every station speaks once, through its port.
    let each = stations / u32::from(ports);
    for (first, port) in (0u32..).step_by(each as usize).zip(&mut bed.receivers) {
        for i in first..first + each {
            let tx = port.tx(0);
            let hello = frame(sender_mac(0), station_mac(i), 60);
            if tx.push(&hello).is_err() {
                tx.sync()?;
                drain(bed.senders[0].rx(0), true)?;
                tx.push(&hello).map_err(|e| broken(&e.to_string()))?;
            }
        }
        port.tx(0).sync()?;
        drain(bed.senders[0].rx(0), true)?;
    }
    let mut rng = Rng::new();
    let (mut sent, mut received) = (0u64, 0u64);
    let (sender, receivers) = (&mut bed.senders[0], &mut bed.receivers);
    let seconds = repeat(time, turns_for(load.batch_frames), || {
        let tx = sender.tx(0);
        for ahead in 0..load.batch_frames {
            tx.poke(ahead, 0, &station_mac(rng.below(stations)).0);
        }
        sent += u64::from(tx.push_resident(load.batch_frames, load.frame_bytes));
        tx.sync()?;
        for receiver in receivers.iter_mut() {
            received += drain(receiver.rx(0), ports == 1)?;
        }
        Ok(())
    })?;
    let mut sample = Sample {
        value: per_second(sent, seconds),
        seconds,
        sent,
        received,
        ..Sample::default()
    };
    // A station that found no place in the table is flooded to all ports.
    sample.require(received >= sent, || {
        format!("{received} frames of {sent} arrived")
    });
    Ok(sample)
}

/// Two ports of many exchange frames, or one sends to all the others.
pub(super) fn ports(ports: u16, broadcast: bool, load: Load, time: Duration) -> Result<Sample> {
    let namespace = Namespace::embedded()?;
    let sender = namespace.port("vale0:s").keep_buffers(true).open()?;
    let mut receivers = Vec::new();
    for i in 1..ports {
        let slots = if i == 1 && !broadcast {
            1024
        } else {
            FEW_SLOTS
        };
        let builder = namespace.port(&format!("vale0:r{i}"));
        receivers.push(builder.slots(FEW_SLOTS, slots).open()?);
    }
    let mut idle = Vec::new();
    if !broadcast {
        idle = receivers.split_off(1);
    }
    let mut bed = Bed::with(namespace, vec![sender], receivers, load)?;
    if broadcast {
        // Also with a single receiver.
        bed.frames[0] = frame(BROADCAST, sender_mac(0), load.frame_bytes);
        bed.fill()?;
    }
    let sample = bed.measure(time)?;
    drop(idle);
    Ok(sample)
}

/// A single frame: push, sync, sync, next.
pub(super) fn sync_latency(time: Duration) -> Result<Sample> {
    let mut bed = Bed::switch(1, 1, Load::new(60, 1))?;
    let bytes = bed.frames[0].clone();
    let mut histogram = histogram()?;
    let mut lost = 0u64;
    let (sender, receiver) = (&mut bed.senders[0], &mut bed.receivers[0]);
    let seconds = repeat(time, 64, || {
        let start = Instant::now();
        let tx = sender.tx(0);
        let pushed = tx.push(&bytes).is_ok();
        tx.sync()?;
        let rx = receiver.rx(0);
        rx.sync()?;
        let came = rx.next().is_some();
        histogram.saturating_record(nanos(start.elapsed()));
        lost += u64::from(!(pushed && came));
        Ok(())
    })?;
    let mut sample = Sample::latency(histogram, seconds);
    sample.require(lost == 0, || format!("{lost} frames were lost"));
    Ok(sample)
}

/// Frames of 9000 bytes and the like: what the parts cost that they consist of.
pub(super) fn whole_frame(len: u16, buf_size: u16, rate: impl Fn(u16) -> f64) -> f64 {
    let (full, rest) = (len / buf_size, len % buf_size);
    let mut seconds = 0.0;
    if full > 0 {
        seconds += float(u64::from(full)) / rate(buf_size);
    }
    if rest > 0 {
        seconds += 1.0 / rate(rest);
    }
    1.0 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(2);

    fn good(sample: Result<Sample>) -> Sample {
        match sample {
            Ok(sample) => {
                assert_eq!(sample.problem, None);
                assert!(sample.value > 0.0);
                sample
            }
            Err(failure) => panic!("{failure:?}"),
        }
    }

    #[test]
    fn nothing_is_lost_in_one_thread() {
        for (senders, receivers) in [(1, 1), (1, 4), (4, 1)] {
            for batch in [1, 512, 1024] {
                let sample = good(switch(senders, receivers, Load::new(60, batch), TIME));
                assert_eq!(sample.received, sample.sent * u64::from(receivers));
            }
        }
        let dropped = good(switch(1, 0, Load::new(60, 16), TIME));
        assert_eq!(dropped.received, 0);
        good(switch(1, 1, Load::new(9000, 256), TIME));
        good(switch(1, 1, Load::new(60, 64).moves().reads(true), TIME));
        good(pipe(Load::new(60, 512).moves(), TIME));
    }

    #[test]
    fn stations_and_ports_get_their_frames() {
        good(stations(256, 1, Load::new(60, 512), TIME));
        good(stations(256, 4, Load::new(60, 512), TIME));
        good(ports(5, false, Load::new(60, 512), TIME));
        good(ports(5, true, Load::new(60, 32), TIME));
        good(sync_latency(TIME));
    }

    #[test]
    fn a_long_frame_costs_what_its_parts_cost() {
        let rate = |len: u16| 1000.0 / f64::from(len);
        assert!((whole_frame(9000, 2000, rate) - 1000.0 / 9000.0).abs() < 1e-9);
        assert!((whole_frame(60, 2000, rate) - 1000.0 / 60.0).abs() < 1e-9);
    }
}
