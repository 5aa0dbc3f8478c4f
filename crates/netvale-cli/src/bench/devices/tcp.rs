//! TCP between two namespaces, by plain sockets.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::space::Space;
use crate::bench::sample::{Sample, histogram, nanos, on_cpu};
use crate::failure::{Result, io_error};
use crate::units::float;

/// Bytes of a read and of a write.
const CHUNK: usize = 128 << 10;
/// Time for the connection to find its speed, at most.
const WARM_UP: Duration = Duration::from_millis(150);
/// Longest wait for a connection where there may be no way yet.
const MOMENT: Duration = Duration::from_millis(250);
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// A connection between two namespaces: the sender's and the receiver's end.
fn connect(
    from: &Space,
    to: &Space,
    address: Ipv4Addr,
    patience: Duration,
) -> Result<(TcpStream, TcpStream)> {
    let failed = |e: io::Error| io_error("no TCP connection", &e);
    let there = SocketAddr::new(address.into(), 0);
    let listener = to.enter(|| Ok(TcpListener::bind(there).map_err(failed)?))?;
    let there = listener.local_addr().map_err(failed)?;
    let here = from.enter(|| Ok(TcpStream::connect_timeout(&there, patience).map_err(failed)?))?;
    let (there, _) = listener.accept().map_err(failed)?;
    for end in [&here, &there] {
        end.set_read_timeout(Some(PATIENCE))
            .and_then(|()| end.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| end.set_nodelay(true))
            .map_err(failed)?;
    }
    Ok((here, there))
}

/// Whether a connection comes about, soon.
pub(super) fn reach(from: &Space, to: &Space, address: Ipv4Addr) -> Result<()> {
    connect(from, to, address, MOMENT).map(drop)
}

/// One stream, as fast as it goes. `cpu` tells how much processor time has
/// been used for it; bits per second, and CPU time of a KiB.
pub(super) fn stream(
    (from, to, address): (&Space, &Space, Ipv4Addr),
    time: Duration,
    cpu: impl Fn() -> Result<Option<u64>>,
) -> Result<Sample> {
    let (mut sender, mut receiver) = connect(from, to, address, PATIENCE)?;
    let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let send = scope.spawn(|| {
            let chunk = vec![0x5a; CHUNK];
            while !stop.load(Ordering::Relaxed) {
                sender.write_all(&chunk)?;
            }
            sender.shutdown(std::net::Shutdown::Write)
        });
        let receive = scope.spawn(|| {
            let mut chunk = vec![0; CHUNK];
            loop {
                match receiver.read(&mut chunk) {
                    Ok(0) => return Ok(()),
                    Ok(n) => bytes.fetch_add(n as u64, Ordering::Relaxed),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                    Err(e) => return Err(e),
                };
            }
        });
        std::thread::sleep(time.min(WARM_UP));
        let (start, before, cpu_before) = (Instant::now(), bytes.load(Ordering::Relaxed), cpu());
        std::thread::sleep(time);
        // On a busy machine it may take a while until they get their turn.
        while bytes.load(Ordering::Relaxed) == before && start.elapsed() < PATIENCE {
            std::thread::sleep(time.min(MOMENT));
        }
        let (seconds, after, cpu_after) = (
            start.elapsed().as_secs_f64(),
            bytes.load(Ordering::Relaxed),
            cpu(),
        );
        stop.store(true, Ordering::Relaxed);
        for thread in [send, receive] {
            let ended = thread
                .join()
                .unwrap_or_else(|p| std::panic::resume_unwind(p));
            ended.map_err(|e| io_error("the TCP stream broke off", &e))?;
        }
        let moved = float(after - before);
        let mut sample = Sample {
            seconds,
            ..Sample::of(moved * 8.0 / seconds)
        };
        sample.require(after > before, || "no byte arrived".into());
        if let (Some(before), Some(after)) = (cpu_before?, cpu_after?) {
            sample.cpu_ns = Some(float(after.saturating_sub(before)) / (moved / 1024.0));
        }
        Ok(sample)
    })
}

/// One byte there and one back, again and again, both ends on one processor:
/// the times of that.
pub(super) fn round_trips(
    (from, to, address): (&Space, &Space, Ipv4Addr),
    processor: usize,
    time: Duration,
    cpu: impl Fn() -> Result<Option<u64>> + Sync,
) -> Result<Sample> {
    let (mut asker, mut answerer) = connect(from, to, address, PATIENCE)?;
    on_cpu(processor, || {
        std::thread::scope(|scope| {
            let answer = scope.spawn(move || {
                // Where it runs is no reason to fail: the other end says so.
                let _ = netvale::pin_to_cpu(processor);
                let mut byte = [0];
                while answerer.read(&mut byte)? > 0 {
                    answerer.write_all(&byte)?;
                }
                Ok::<_, io::Error>(())
            });
            let mut ask = || -> io::Result<Duration> {
                let start = Instant::now();
                asker.write_all(&[1])?;
                asker.read_exact(&mut [0])?;
                Ok(start.elapsed())
            };
            let broke = |e: io::Error| io_error("the TCP connection broke off", &e);
            let warm = Instant::now();
            while warm.elapsed() < time.min(WARM_UP) / 3 {
                ask().map_err(broke)?;
            }
            let (mut times, start, before) = (histogram()?, Instant::now(), cpu()?);
            while start.elapsed() < time {
                times.saturating_record(nanos(ask().map_err(broke)?));
            }
            let used = cpu()?.zip(before).map(|(after, before)| after - before);
            let trips = float(times.len());
            let mut sample = Sample::latency(times, start.elapsed().as_secs_f64());
            sample.cpu_ns = used.map(|ns| float(ns) / trips);
            let ended = asker.shutdown(std::net::Shutdown::Both);
            ended.map_err(broke)?;
            match answer.join() {
                Ok(ended) => ended.map_err(broke)?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            Ok(sample)
        })
    })
}
