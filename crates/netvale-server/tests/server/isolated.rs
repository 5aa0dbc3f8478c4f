//! Ports whose frames the server's worker moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netvale_ring::Slot;
use netvale_ring::bell::Bell;
use netvale_ring::layout::RegionGeom;
use netvale_ring::world::RegionMap;
use netvale_server::remote::Remote;
use netvale_shm::{Doorbell, Memfd};
use netvale_wire::proto::{ErrorKind, Registered, Reply, Request};

use crate::bed::{Bed, SOON, connect, eventually, refused, register};

/// An isolated port as a client has it.
pub(crate) struct Port {
    pub(crate) remote: Remote,
    pub(crate) reg: Registered,
    pub(crate) map: RegionMap,
    pub(crate) bell: Doorbell,
    pub(crate) kick: Doorbell,
}

impl Port {
    pub(crate) fn open(bed: &Bed, spec: &str) -> Self {
        let mut remote = connect(&bed.dir, true);
        let (reg, fds) = register(&mut remote, spec);
        let [region, bell, kick]: [_; 3] = fds.try_into().unwrap();
        let [ifs, rings, ring_size, bufs, buf_size] = reg.region.geom;
        let geom = RegionGeom {
            ifs,
            rings,
            ring_size,
            bufs,
            buf_size,
        };
        let size = usize::try_from(reg.region.size).unwrap();
        let mem = Memfd::from_fd(region, size).unwrap().map().unwrap();
        let map = RegionMap::new(reg.region.id, reg.region.generation, None, geom, mem).unwrap();
        Self {
            remote,
            reg,
            map,
            bell: bell.into(),
            kick: kick.into(),
        }
    }

    pub(crate) fn page(&self) -> Bell<'_> {
        Bell::at(&self.map.mem, &self.map.geom).unwrap()
    }

    pub(crate) fn tx(&self) -> netvale_ring::Ring<'_> {
        let r = &self.reg.tx[0];
        self.map
            .ring(usize::try_from(r.ofs).unwrap(), r.slots.into())
            .unwrap()
    }

    pub(crate) fn rx(&self) -> netvale_ring::Ring<'_> {
        let r = &self.reg.rx[0];
        self.map
            .ring(usize::try_from(r.ofs).unwrap(), r.slots.into())
            .unwrap()
    }

    /// Sends one frame; `false` if the ring is full.
    pub(crate) fn send(&self, byte: u8) -> bool {
        let ring = self.tx();
        let head = ring.head();
        if head == ring.tail() {
            return false;
        }
        let buf = ring.slot(head).buf();
        let mut frame = [byte; 64];
        frame[..12].copy_from_slice(&[
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            2,
            0,
            0,
            0,
            0,
            byte & 0x7f,
        ]);
        assert!(self.map.bufs().write(buf, 0, &frame));
        ring.set_slot(head, Slot::new(buf, 64, 0));
        ring.set_head(ring.next(head));
        if self.page().must_kick() {
            self.kick.ring();
        }
        true
    }

    /// Takes all that is there.
    pub(crate) fn take(&self) -> u32 {
        let ring = self.rx();
        let n = ring.span(ring.head(), ring.tail());
        ring.set_head(ring.tail());
        if n > 0 && self.page().must_kick() {
            self.kick.ring();
        }
        n
    }

    /// Sleeps until something came.
    pub(crate) fn wait(&self) -> u32 {
        let end = Instant::now() + SOON;
        loop {
            self.bell.clear();
            self.page().client_sleeps(true);
            let n = self.take();
            if n > 0 {
                self.page().client_sleeps(false);
                return n;
            }
            assert!(Instant::now() < end, "nothing came");
            self.bell.wait(Some(Duration::from_secs(1))).unwrap();
        }
    }
}

#[test]
fn frames_go_from_sleeper_to_sleeper() {
    let bed = Bed::new();
    let (a, b) = (Port::open(&bed, "vale0:a"), Port::open(&bed, "vale0:b"));
    for i in 0..200u8 {
        if i % 10 == 0 {
            // Long enough for the worker to fall asleep.
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(eventually(SOON, || a.send(i)));
        assert_eq!(b.wait(), 1, "frame {i}");
    }
    bed.assert_sound();
}

#[test]
fn more_than_a_ring_goes_through() {
    let bed = Bed::with(|c| c.workers = 2);
    let (a, b) = (Port::open(&bed, "vale0:a"), Port::open(&bed, "vale0:b"));
    let (mut sent, mut got) = (0u64, 0u64);
    while sent < 20_000 {
        if a.send(1) {
            sent += 1;
        } else {
            std::thread::yield_now();
        }
        got += u64::from(b.take());
    }
    // What found the receiver's ring full is counted; nothing else is lost.
    let mut c = bed.connect();
    assert!(eventually(SOON, || {
        got += u64::from(b.take());
        let (reply, _) = c.ask(&all_stats()).unwrap();
        let Reply::Stats { ports, .. } = reply else {
            panic!("{reply:?}");
        };
        let dropped: u64 = ports.iter().flat_map(|p| &p.drops).map(|d| d.packets).sum();
        got + dropped == sent
    }));
    assert!(got > 1000, "{got}");
    drop(b);
    assert!(eventually(SOON, || bed.ports().len() == 1));
    bed.assert_sound();
}

/// Two processes that have one port open share its bell page: whichever
/// sleeps is woken.
#[test]
fn all_registrations_of_a_port_are_woken() {
    let bed = Bed::with(|c| c.workers = 3);
    let a = Port::open(&bed, "vale0:a");
    let (b, twin) = (Port::open(&bed, "vale0:b"), Port::open(&bed, "vale0:b"));
    for i in 0..20u32 {
        twin.bell.clear();
        b.bell.clear();
        b.page().client_sleeps(true);
        assert!(eventually(SOON, || a.send(1)));
        for port in [&b, &twin] {
            assert!(port.bell.wait(Some(SOON)).unwrap(), "frame {i}");
        }
        assert_eq!(twin.take(), 1);
    }
    drop(twin);
    assert!(eventually(SOON, || a.send(1)));
    b.wait();
}

fn all_stats() -> Request {
    Request::Stats {
        name: None,
        after: None,
    }
}

#[test]
fn pipes_give_slots_back_to_a_sleeping_sender() {
    let bed = Bed::new();
    let (a, b) = (Port::open(&bed, "vale0:x{1"), Port::open(&bed, "vale0:x}1"));
    let mut total = 0;
    for _ in 0..5 {
        while a.send(7) {}
        assert!(eventually(SOON, || {
            total += b.take();
            a.tx().head() != a.tx().tail()
        }));
    }
    assert!(total > 1000, "{total}");
}

#[test]
fn nothing_of_the_trusted_is_given_out() {
    let bed = Bed::new();
    let mut t = bed.connect();
    let (reg, _) = register(&mut t, "vale0:t");
    let mut c = connect(&bed.dir, true);
    let region = Request::Region {
        id: reg.region.id,
        generation: reg.region.generation,
    };
    assert_eq!(refused(&mut c, &region), ErrorKind::Denied);
    let bell = Request::Doorbell { owner: reg.owner };
    assert_eq!(refused(&mut c, &bell), ErrorKind::Denied);
    // An open trusted port does not become an isolated one.
    assert_eq!(
        refused(&mut c, &crate::bed::register_request("vale0:t")),
        ErrorKind::Busy
    );
}

#[test]
fn a_server_told_so_trusts_nobody() {
    let bed = Bed::with(|c| c.isolated = true);
    let (_, hello, fds) = Remote::connect(&bed.dir, false).unwrap();
    assert!(matches!(hello, Reply::Hello { state: None, .. }));
    assert!(fds.is_empty());
}

/// Whatever a client scribbles into its region, the others' frames arrive.
#[test]
fn scribbling_harms_only_the_scribbler() {
    let bed = Bed::new();
    let (a, b) = (Port::open(&bed, "vale0:a"), Port::open(&bed, "vale0:b"));
    let evil = Port::open(&bed, "vale1:evil");
    let stop = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&stop);
    let scribbler = std::thread::spawn(move || {
        let mut seed = 0x1234_5678_9abc_def1u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let mem = &evil.map.mem;
        let tx = usize::try_from(evil.reg.tx[0].ofs).unwrap();
        let rx = usize::try_from(evil.reg.rx[0].ofs).unwrap();
        while !over.load(Ordering::Relaxed) {
            for _ in 0..100 {
                let ring = if random() % 2 == 0 { tx } else { rx };
                // Header words most of the time, else some slot.
                let at = match random() % 3 {
                    0 => usize::try_from(random() % 64).unwrap() * 4,
                    1 => 256 + usize::try_from(random() % 4096).unwrap() * 4,
                    _ => usize::try_from(random() % 6).unwrap() * 4,
                };
                let value = match random() % 3 {
                    0 => u32::try_from(random() & 0xffff_ffff).unwrap(),
                    1 => u32::try_from(random() % 2048).unwrap(),
                    _ => u32::MAX,
                };
                if let Some(w) = mem.word32(ring + at) {
                    w.store(value, Ordering::Relaxed);
                }
            }
            for w in mem.words32(evil.map.geom.bell_ofs(), 32).unwrap() {
                w.store(u32::try_from(random() & 0xffff).unwrap(), Ordering::Relaxed);
            }
            evil.kick.ring();
        }
        evil
    });
    for i in 0..3000u32 {
        assert!(eventually(SOON, || a.send(1)));
        assert_eq!(b.wait(), 1, "frame {i}");
    }
    stop.store(true, Ordering::Relaxed);
    let evil = scribbler.join().unwrap();
    drop(evil);
    assert!(eventually(SOON, || bed.ports().len() == 2));
}

/// The flags and the fill level of a bell are common to all who share it: ours
/// must not be shared.
#[test]
fn a_jammed_bell_does_not_stop_the_worker() {
    let bed = Bed::new();
    let (a, b) = (Port::open(&bed, "vale0:a"), Port::open(&bed, "vale0:b"));
    let jammer = Port::open(&bed, "vale0:jam");
    rustix::io::ioctl_fionbio(&jammer.bell, false).unwrap();
    rustix::io::ioctl_fionbio(&jammer.kick, true).unwrap();
    while rustix::io::write(&jammer.kick, &[1; 512]).is_ok() {}
    for i in 0..600u32 {
        // Never reads its bell, always says that it sleeps.
        jammer.page().client_sleeps(true);
        assert!(eventually(SOON, || a.send(1)));
        assert_eq!(b.wait(), 1, "frame {i}");
    }
    // Hanging up is no reason to spin either.
    let Port { kick, remote, .. } = jammer;
    drop(kick);
    assert!(eventually(SOON, || a.send(1)));
    b.wait();
    drop(remote);
    assert!(eventually(SOON, || bed.ports().len() == 2));
}

/// A program may end right after it has sent: what it queued is delivered.
#[test]
fn frames_queued_before_the_end_are_sent() {
    let bed = Bed::new();
    let b = Port::open(&bed, "vale0:b");
    for round in 0..20u8 {
        let a = Port::open(&bed, "vale0:a");
        // The worker falls asleep, and nobody rings.
        std::thread::sleep(Duration::from_millis(2));
        let ring = a.tx();
        for byte in 0..10 {
            let head = ring.head();
            let buf = ring.slot(head).buf();
            let mut frame = [round; 64];
            frame[..12].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 1, byte]);
            assert!(a.map.bufs().write(buf, 0, &frame));
            ring.set_slot(head, Slot::new(buf, 64, 0));
            ring.set_head(ring.next(head));
        }
        drop(a);
        let mut got = 0;
        while got < 10 {
            got += b.wait();
        }
    }
}
