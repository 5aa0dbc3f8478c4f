//! Round trips between two processes, and what opening a port takes.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use netvale::{Namespace, Port};
use rustix::event::{EventfdFlags, eventfd};

use super::case::{Path, Wait};
use super::peer::{END, Peer, Task, rest, write_event};
use super::place::{Place, resident_bytes, switches};
use super::sample::{
    Sample, broken, frame, histogram, nanos, on_cpu, repeat, sender_mac, station_mac,
};
use crate::failure::{Result, io_error};
use crate::units::{float, per_second};

/// An answer that has not come by then will not come.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where a ping's number stands.
const SEQ_AT: usize = 16;
/// Round trips before the clock runs.
const WARM_UP: u64 = 64;
/// Ports opened in one measurement.
const OPENS: u32 = 20;
/// Servers started in one measurement.
const STARTS: u32 = 3;
/// Shortest time in which an idle server is watched.
const WATCH: Duration = Duration::from_secs(1);

/// A frame there and back, again and again.
pub(super) fn ping_pong(
    path: Path,
    wait: Wait,
    cpus: [usize; 2],
    time: Duration,
    place: &Place,
) -> Result<Sample> {
    let switch = place.switch();
    let (from, to) = match path {
        Path::Switch => (format!("{switch}:s"), format!("{switch}:r")),
        Path::Pipe => (format!("{switch}:p{{1"), format!("{switch}:p}}1")),
    };
    let mut port = place.namespace().open(&from)?;
    let peer = Peer::start(&Task::Echo {
        ns: place.path(),
        port: to,
        cpu: cpus[1],
        wait,
    })?;
    let sample = on_cpu(cpus[0], || ping(&mut port, wait, time));
    peer.wait();
    sample
}

fn ping(port: &mut Port, wait: Wait, time: Duration) -> Result<Sample> {
    // What the other one said to make itself known.
    let rx = port.rx(0);
    let there = rx.sync()?;
    rx.discard(there);
    let mut bytes = frame(station_mac(0), sender_mac(0), 60);
    let mut histogram = histogram()?;
    let (mut seq, mut wrong) = (0u64, 0u64);
    let mut trip = || -> Result<()> {
        seq += 1;
        bytes[SEQ_AT..SEQ_AT + 8].copy_from_slice(&seq.to_le_bytes());
        let start = Instant::now();
        let tx = port.tx(0);
        if tx.push(&bytes).is_err() {
            tx.sync()?;
            tx.push(&bytes).map_err(|e| broken(&e.to_string()))?;
        }
        tx.sync()?;
        let mut looks = 0u32;
        let got = loop {
            let rx = port.rx(0);
            if rx.sync()? > 0 {
                break rx.next().map(|frame| frame.load_u64(SEQ_AT));
            }
            looks = looks.wrapping_add(1);
            if (wait != Wait::Poll || looks.is_multiple_of(4096)) && start.elapsed() > PATIENCE {
                return Err(broken("a frame did not come back").into());
            }
            rest(port, wait)?;
        };
        if seq > WARM_UP {
            histogram.saturating_record(nanos(start.elapsed()));
        }
        wrong += u64::from(got != Some(seq));
        Ok(())
    };
    for _ in 0..WARM_UP {
        trip()?;
    }
    let seconds = repeat(time, 16, trip)?;
    let mut sample = Sample::latency(histogram, seconds);
    sample.require(wrong == 0, || format!("{wrong} answers were wrong"));
    Ok(sample)
}

/// Two processes wake each other through eventfds.
pub(super) fn eventfds(cpus: [usize; 2], time: Duration) -> Result<Sample> {
    let make = || -> Result<(OwnedFd, OwnedFd)> {
        let failed = |e: std::io::Error| io_error("cannot make an eventfd", &e);
        let ours = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let theirs = ours.try_clone().map_err(failed)?;
        Ok((ours, theirs))
    };
    let (ask, ask_there) = make()?;
    let (answer, answer_there) = make()?;
    let peer = Peer::with_events(&Task::Eventfd { cpu: cpus[1] }, ask_there, answer_there)?;
    let sample = on_cpu(cpus[0], || {
        let mut histogram = histogram()?;
        let trip = || -> Result<Duration> {
            let start = Instant::now();
            write_event(ask.as_fd(), 1)?;
            let mut word = [0; 8];
            rustix::io::read(&answer, &mut word)
                .map_err(|e| io_error("cannot read an eventfd", &e.into()))?;
            Ok(start.elapsed())
        };
        // The other process may only just begin.
        for _ in 0..WARM_UP {
            trip()?;
        }
        let seconds = repeat(time, 16, || {
            histogram.saturating_record(nanos(trip()?));
            Ok(())
        })?;
        Ok(Sample::latency(histogram, seconds))
    });
    write_event(ask.as_fd(), END)?;
    peer.wait();
    sample
}

/// From a path to an open port.
pub(super) fn open(running: bool, place: &Place) -> Result<Sample> {
    let mut times = Vec::new();
    let rounds = if running { OPENS } else { STARTS };
    for i in 0..rounds {
        let dir = if running { place.path() } else { place.fresh() };
        let name = format!("{}:o{i}", place.switch());
        let start = Instant::now();
        let namespace = Namespace::at(&dir)?;
        let port = namespace.open(&name)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        drop(port);
        if !running {
            // It would end by itself, a little later.
            let _ = namespace.shutdown(true);
        }
    }
    let median = super::stats::Spread::of(&times).map_or(0.0, |s| s.median);
    Ok(Sample::of(median))
}

/// Resident memory of the server.
pub(super) fn idle_memory(place: &Place) -> Result<Sample> {
    let bytes = resident_bytes(place.server()?)?;
    Ok(Sample::of(float(bytes) / 1e6))
}

/// How often an idle server's threads run, per second.
pub(super) fn idle_wakeups(time: Duration, place: &Place) -> Result<Sample> {
    let server = place.server()?;
    // Our own question, and ports that were closed just before, are not idling.
    std::thread::sleep(Duration::from_millis(300));
    let before = switches(server)?;
    let start = Instant::now();
    std::thread::sleep(time.max(WATCH));
    let ran = switches(server)?.saturating_sub(before);
    let seconds = start.elapsed().as_secs_f64();
    Ok(Sample {
        seconds,
        ..Sample::of(per_second(ran, seconds))
    })
}
