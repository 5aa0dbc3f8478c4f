//! Stations that send and receive frames as they are.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::packet::{PacketConfig, PacketSocket};
use netvale_shm::Mem;
use netvale_testkit::PATIENCE;
use netvale_testkit::net::NetNs;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const ROOM: u32 = 16 << 10;
/// Frames received at once.
const AT_ONCE: u32 = 16;
/// Of the frames that [`settle`] sends: no stack knows their type.
const FENCE: [u8; 2] = [0x88, 0xb6];

/// Does it where all others do: the kernel queues frames for each processor
/// apart, so those that are sent from several may overtake each other.
fn on_one_processor<R>(f: impl FnOnce() -> R) -> R {
    let allowed = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set(
        (0..CpuSet::MAX_CPU)
            .find(|&cpu| allowed.is_set(cpu))
            .unwrap(),
    );
    sched_setaffinity(None, &one).unwrap();
    let result = f();
    sched_setaffinity(None, &allowed).unwrap();
    result
}

/// A packet socket of an interface whose stack has nothing to say.
pub(crate) struct Station {
    socket: PacketSocket,
    pool: BufPool,
    mem: Mem,
    /// All that came.
    pub(crate) got: Vec<Vec<u8>>,
}

impl Station {
    pub(crate) fn new(ns: &NetNs, interface: &str) -> Self {
        let config = PacketConfig {
            receive_buffer: Some(8 << 20),
            ..PacketConfig::new(interface)
        };
        Self::with(ns, &config)
    }

    pub(crate) fn with(ns: &NetNs, config: &PacketConfig) -> Self {
        let mem = Mem::heap((AT_ONCE as usize + 1) * ROOM as usize);
        Self {
            socket: ns.enter(|| PacketSocket::open(config)).unwrap(),
            pool: BufPool::new(&mem, 0, AT_ONCE + 1, ROOM).unwrap(),
            mem,
            got: Vec::new(),
        }
    }

    #[track_caller]
    pub(crate) fn send(&mut self, frame: &[u8]) {
        let sent = self.try_send(frame);
        assert!(sent, "{} bytes", frame.len());
    }

    /// Whether it was sent.
    pub(crate) fn try_send(&mut self, frame: &[u8]) -> bool {
        let at = (AT_ONCE * ROOM) as usize;
        assert!(self.mem.write(at, frame));
        let piece = Piece {
            buf: AT_ONCE,
            off: 0,
            len: u32::try_from(frame.len()).unwrap(),
        };
        let mut batch = Batch::new();
        batch.push(&[piece]).unwrap();
        let sent = on_one_processor(|| self.socket.send(&self.pool, &batch, 0)).unwrap();
        (sent.next, sent.refused) == (1, 0)
    }

    /// Takes what has come, after so much time at most if nothing has.
    pub(crate) fn receive(&mut self, time: Duration) {
        let timeout = Timespec::try_from(time).unwrap();
        let fd = self.socket.as_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
        loop {
            let mut batch = Batch::new();
            (0..AT_ONCE).for_each(|buf| batch.push_buf(buf, ROOM));
            let n = self.socket.recv(&self.pool, &mut batch).unwrap();
            for i in 0..n {
                assert!(!batch.truncated(i));
                let mut bytes = vec![0; batch.frame_len(i)];
                let read = batch.read(&self.pool, i, 0, &mut bytes);
                assert_eq!(read, bytes.len());
                self.got.push(bytes);
            }
            if n == 0 {
                return;
            }
        }
    }
}

/// Has everything that `from` sent before arrive wherever it goes to: a frame
/// for everyone follows it, and all others wait for that.
#[track_caller]
pub(crate) fn settle(stations: &mut [Station], from: usize, number: u32) {
    let mut fence = vec![0xff; 60];
    fence[6..12].copy_from_slice(&[2, 0xfe, 0, 0, 0, u8::try_from(from).unwrap()]);
    fence[12..14].copy_from_slice(&FENCE);
    fence[14..18].copy_from_slice(&number.to_be_bytes());
    stations[from].send(&fence);
    let end = Instant::now() + PATIENCE;
    for (i, station) in stations.iter_mut().enumerate() {
        while i != from && station.got.last() != Some(&fence) {
            assert!(
                Instant::now() < end,
                "the fence {number} never comes to {i}"
            );
            station.receive(Duration::from_millis(20));
        }
    }
}

/// Waits until whatever is between the stations carries, and forgets what came.
#[track_caller]
pub(crate) fn connect(stations: &mut [Station]) {
    let hello = [
        &[0xff; 6][..],
        &[2, 0xfd, 0, 0, 0, 1],
        &[0x88, 0xb7],
        &[0; 46],
    ]
    .concat();
    let end = Instant::now() + PATIENCE;
    for from in 0..stations.len() {
        loop {
            assert!(Instant::now() < end, "nothing passes from {from}");
            stations[from].send(&hello);
            let moment = Duration::from_millis(10);
            stations.iter_mut().for_each(|s| s.receive(moment));
            let mut others = stations.iter().enumerate().filter(|(i, _)| *i != from);
            if others.all(|(_, s)| s.got.contains(&hello)) {
                break;
            }
        }
        settle(stations, from, 0);
        stations.iter_mut().for_each(|s| s.got.clear());
    }
    // Else it would belong to the last of them.
    settle(stations, 0, 0);
    stations.iter_mut().for_each(|s| s.got.clear());
}
