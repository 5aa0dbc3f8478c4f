//! A persistent port in two switches joins them: what one switch sends to the
//! port goes on into the other. Here is the thread that carries it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use netvale_ring::kring::sleep;
use netvale_ring::slot::{NS_MOREFRAG, Slot};
use netvale_ring::world::{RegionMap, Waker};
use netvale_shm::Doorbell;
use netvale_switch::domain::Registration;
use netvale_switch::end::{Gear, RxEnd, TxEnd};

use crate::sleep::Idle;

/// The control thread's handle; the thread ends with it.
#[derive(Debug)]
pub(crate) struct Joint {
    /// The registrations of both ports.
    pub(crate) owners: [u16; 2],
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One of the two ports.
struct Side {
    map: RegionMap,
    tx: Vec<TxEnd>,
    rx: Vec<RxEnd>,
}

impl Side {
    /// `None` if its rings do not lie where the registration says.
    fn new(gear: &Gear, reg: &Registration, map: &RegionMap) -> Option<Self> {
        let tx = reg.tx.iter().map(|r| TxEnd::new(gear, reg, r, map));
        let rx = reg.rx.iter().map(|r| RxEnd::new(gear, reg, r, map));
        Some(Self {
            map: map.clone(),
            tx: tx.collect::<Option<_>>()?,
            rx: rx.collect::<Option<_>>()?,
        })
    }

    /// Carries what has arrived here to the other side; whether there was
    /// anything. Frames that do not fit the other side's ring are dropped.
    fn carry(&mut self, other: &mut Self, frame: &mut Vec<u8>) -> bool {
        let mut moved = false;
        let ways = other.tx.len().max(1);
        for (i, rx) in self.rx.iter_mut().enumerate() {
            if let Some(tx) = other.tx.get_mut(i % ways) {
                moved |= carry(rx, &self.map, tx, &other.map, frame);
            }
        }
        moved
    }
}

/// From one ring to another. One ring's worth of frames at most.
fn carry(
    rx: &mut RxEnd,
    from: &RegionMap,
    tx: &mut TxEnd,
    to: &RegionMap,
    bytes: &mut Vec<u8>,
) -> bool {
    let Ok(end) = rx.sync() else { return false };
    let source = rx.ring();
    let (mut at, count) = (source.head(), source.count());
    if at == end || at >= count || end >= count {
        return false;
    }
    for _ in 0..count {
        // A whole frame or nothing: a receiver is shown no parts.
        let (mut next, mut slots) = (source.next(at), 1);
        let mut last = at;
        while source.slot(last).has(NS_MOREFRAG) && next != end && slots < count {
            last = next;
            next = source.next(next);
            slots += 1;
        }
        // A switch takes all that is queued, so that there is room again.
        let target = tx.ring();
        if target.span(target.head(), target.tail()) < slots {
            let _ = tx.sync(); // the drop is counted there
        }
        let target = tx.ring();
        let (mut put, tail) = (target.head(), target.tail());
        if put < target.count() && target.span(put, tail) >= slots {
            for _ in 0..slots {
                let (slot, room) = (source.slot(at), target.slot(put));
                bytes.resize(usize::from(slot.len()), 0);
                let fits =
                    from.bufs().read(slot.buf(), 0, bytes) && to.bufs().write(room.buf(), 0, bytes);
                let len = if fits { slot.len() } else { 0 };
                target.set_slot(put, Slot::new(room.buf(), len, slot.flags() & NS_MOREFRAG));
                put = target.next(put);
                at = source.next(at);
            }
            target.set_head(put);
        }
        at = next;
        if at == end {
            break;
        }
    }
    source.set_head(at);
    let _ = tx.sync(); // what did not fit is dropped, as in a switch
    let _ = rx.sync(); // gives the slots back
    true
}

impl Joint {
    /// Starts carrying; `None` if the rings do not lie where they should.
    pub(crate) fn start(
        gear: &Gear,
        ends: &[Registration; 2],
        map: &RegionMap,
        bell: Arc<Doorbell>,
    ) -> io::Result<Option<Self>> {
        let [Some(a), Some(b)] = [&ends[0], &ends[1]].map(|reg| Side::new(gear, reg, map)) else {
            return Ok(None);
        };
        let stop = Arc::new(AtomicBool::new(false));
        let carrier = Carrier {
            sides: [a, b],
            said: sleep::BELL + u32::from(ends[0].owner),
            waker: Arc::clone(&gear.waker),
            bell: Arc::clone(&bell),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new()
            .name("netvale-joint".into())
            .stack_size(512 * 1024)
            .spawn(move || carrier.run())?;
        Ok(Some(Self {
            owners: [ends[0].owner, ends[1].owner],
            bell,
            stop,
            thread: Some(thread),
        }))
    }
}

impl Drop for Joint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that joins two switches had died");
        }
    }
}

/// The thread.
struct Carrier {
    sides: [Side; 2],
    /// What it announces in sleep words.
    said: u32,
    waker: Arc<dyn Waker>,
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
}

impl Carrier {
    fn run(mut self) {
        let (mut idle, mut bytes) = (Idle::new(), Vec::new());
        while !self.stop.load(Ordering::Acquire) {
            if self.both_ways(&mut bytes) {
                idle.moved();
                continue;
            }
            if idle.looks_on() {
                std::thread::yield_now();
                continue;
            }
            self.announce();
            if !self.both_ways(&mut bytes) && !self.stop.load(Ordering::Acquire) {
                // A signal or a refusal only makes it look again.
                let _ = self.bell.wait(None);
                idle.slept();
            }
            self.bell.clear();
            self.recall();
            idle.moved();
        }
    }

    fn both_ways(&mut self, bytes: &mut Vec<u8>) -> bool {
        let [a, b] = &mut self.sides;
        let there = a.carry(b, bytes);
        b.carry(a, bytes) || there
    }

    fn announce(&self) {
        for rx in self.sides.iter().flat_map(|s| &s.rx) {
            let word = rx.kring().sleep_word();
            word.announce(self.said, &*self.waker);
        }
    }

    fn recall(&self) {
        for rx in self.sides.iter().flat_map(|s| &s.rx) {
            rx.kring().sleep_word().disarm(self.said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    use netvale_ring::layout::{RegionGeom, StateGeom};
    use netvale_shm::HugePages;
    use netvale_switch::domain::{Config, Domain, Want};
    use netvale_wire::name::PortSpec;

    use crate::bells::Bells;
    use crate::files::FileSource;
    use crate::regions::{SharedRegions, as_source};

    fn small() -> Config {
        Config {
            state: StateGeom {
                ports: 16,
                krings: 64,
                regions: 4,
                shared_regions: 2,
                holders: 10_000,
                switches: 4,
            },
            global: RegionGeom {
                ifs: 16,
                rings: 64,
                bufs: 10_000,
                ..RegionGeom::GLOBAL
            },
            huge: false,
        }
    }

    fn spec(name: &str) -> PortSpec {
        PortSpec::parse(name).unwrap()
    }

    /// Queues parts of a frame and sends them.
    fn send(side: &mut Side, parts: &[&[u8]]) {
        let ring = side.tx[0].ring();
        let mut at = ring.head();
        for (i, part) in parts.iter().enumerate() {
            let buf = ring.slot(at).buf();
            assert!(side.map.bufs().write(buf, 0, part));
            let more = if i + 1 < parts.len() { NS_MOREFRAG } else { 0 };
            ring.set_slot(at, Slot::new(buf, u16::try_from(part.len()).unwrap(), more));
            at = ring.next(at);
        }
        ring.set_head(at);
        side.tx[0].sync().unwrap();
    }

    /// The bytes of all slots that arrive until there is a whole frame.
    fn receive(side: &mut Side) -> Vec<u8> {
        let (mut bytes, end) = (Vec::new(), Instant::now() + Duration::from_secs(10));
        loop {
            assert!(Instant::now() < end, "nothing arrived");
            let tail = side.rx[0].sync().unwrap();
            let ring = side.rx[0].ring();
            let at = ring.head();
            if at == tail {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            let slot = ring.slot(at);
            let mut part = vec![0; usize::from(slot.len())];
            assert!(side.map.bufs().read(slot.buf(), 0, &mut part));
            bytes.extend(part);
            ring.set_head(ring.next(at));
            if !slot.has(NS_MOREFRAG) {
                return bytes;
            }
        }
    }

    #[test]
    fn two_switches_are_one() {
        let mut domain = Domain::new(small(), FileSource::new(HugePages::Never)).unwrap();
        let want = Want {
            tx_slots: 8,
            rx_slots: 8,
            ..Want::default()
        };
        domain.new_interface("p", &want, None).unwrap();
        domain.attach(&spec("vale0:p")).unwrap();
        let (bells, regions) = (
            Arc::new(Bells::default()),
            Arc::new(SharedRegions::default()),
        );
        let gear = Gear {
            world: domain.world().clone(),
            source: as_source(&regions),
            waker: Arc::clone(&bells) as Arc<dyn Waker>,
        };
        let owners = [(); 2].map(|()| domain.add_owner(1, false).unwrap());
        let second = domain.second_seat("vale1:p").unwrap();
        let (index, ends) = domain.attach_second(&second, owners).unwrap();
        assert_eq!(index, 0);
        let map = domain.region(ends[0].region, ends[0].region_gen).unwrap();
        let map = map.0.clone();
        regions.enter(&domain, ends[0].tx.iter().map(|r| r.kring));
        let bell = Arc::new(Doorbell::new().unwrap());
        bells.insert(owners[0], Arc::clone(&bell));
        let joint = Joint::start(&gear, &ends, &map, bell).unwrap().unwrap();
        let mut open = |name: &str| {
            let owner = domain.add_owner(1, false).unwrap();
            let reg = domain.register(owner, &spec(name), &want).unwrap();
            Side::new(&gear, &reg, &map).unwrap()
        };
        let (mut a, mut b) = (open("vale0:a"), open("vale1:b"));
        let frame = |n: u8, len: usize| {
            let mut f = vec![n; len];
            f[..6].fill(0xff);
            f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, n]);
            f
        };
        for i in 0..100u8 {
            // Now and then the thread has gone to sleep.
            if i % 25 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let (there, back) = (frame(2, 60 + usize::from(i)), frame(4, 300));
            send(&mut a, &[&there]);
            assert_eq!(receive(&mut b), there, "frame {i}");
            send(&mut b, &[&back[..100], &back[100..]]);
            assert_eq!(receive(&mut a), back, "frame {i}");
        }
        drop(joint);
        for owner in owners {
            domain.owner_gone(owner);
        }
        domain.detach(&spec("vale1:p")).unwrap();
        domain.detach(&spec("vale0:p")).unwrap();
        domain.delete_interface("p").unwrap();
        let report = domain.check();
        assert_eq!(report.problems, Vec::<String>::new());
    }
}
