//! A namespace of this process with the port of an interface, and the other
//! end of its cable.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use netvale_backends::af_xdp::Redirect;
use netvale_backends::batch::{Batch, BufPool};
use netvale_backends::packet::{PacketConfig, PacketSocket};
use netvale_lane::xdp::{self, Arena, Fault, HandOver, Interface, Place, XdpLane};
use netvale_lane::{Lane, Losses};
use netvale_ring::kring::KringId;
use netvale_ring::layout::{BUF_SIZE, RING_SIZE, RegionGeom, StateGeom};
use netvale_ring::slot::NS_MOREFRAG;
use netvale_ring::world::{RegionMap, RegionSource, Waker};
use netvale_ring::{Ring, Slot};
use netvale_shm::{HugePages, Mem, Memfd};
use netvale_switch::domain::{Config, DevicePlan, Domain, MemSource, Registration, Want};
use netvale_switch::end::{Gear, RxEnd, TxEnd};
use netvale_testkit::net::NetNs;
use netvale_testkit::{Rng, eventually};
use netvale_wire::name::PortSpec;

/// An EtherType for experiments.
pub(crate) const TYPE: [u8; 2] = [0x88, 0xb5];
/// Slots of every ring.
pub(crate) const SLOTS: u16 = 128;
const ARENA: u32 = 8192;
/// Bytes of the longest frame.
const LONGEST: usize = 9014;

#[derive(Debug)]
pub(crate) struct Sparse;

impl MemSource for Sparse {
    type File = ();
    fn create(&mut self, n: &str, len: usize, _: bool) -> Result<(Mem, ()), String> {
        let made = Memfd::create(n, len, HugePages::Never).and_then(|f| f.map());
        made.map(|mem| (mem, ())).map_err(|e| e.to_string())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Domain<Sparse>>>);

impl RegionSource for Shared {
    fn map(&self, id: u16, generation: u32) -> Option<RegionMap> {
        let domain = self.0.lock().unwrap();
        domain.region(id, generation).map(|(map, ())| map.clone())
    }
}

#[derive(Debug)]
struct NoWaker;
impl Waker for NoWaker {
    fn wake(&self, _: &AtomicU32, _: u32) {}
}

/// A namespace.
pub(crate) struct Bed {
    shared: Shared,
    pub(crate) gear: Gear,
}

/// A registration with its rings.
pub(crate) struct User {
    pub(crate) reg: Registration,
    pub(crate) map: RegionMap,
    pub(crate) tx: TxEnd,
    pub(crate) rx: RxEnd,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let config = Config {
            state: StateGeom {
                ports: 64,
                krings: 128,
                regions: 8,
                shared_regions: 2,
                holders: 50_000,
                switches: 4,
            },
            global: RegionGeom {
                ifs: 64,
                rings: 64,
                ring_size: RING_SIZE,
                bufs: 50_000,
                buf_size: BUF_SIZE,
            },
            huge: false,
        };
        let domain = Domain::new(config, Sparse).unwrap();
        let world = domain.world().clone();
        let shared = Shared(Arc::new(Mutex::new(domain)));
        let gear = Gear {
            world,
            source: Arc::new(shared.clone()),
            waker: Arc::new(NoWaker),
        };
        Self { shared, gear }
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Domain<Sparse>) -> R) -> R {
        f(&mut self.shared.0.lock().unwrap())
    }

    pub(crate) fn open(&self, name: &str) -> User {
        let (reg, map) = self.with(|d| {
            let owner = d.add_owner(1, false).unwrap();
            let spec = PortSpec::parse(name).unwrap();
            let reg = d.register(owner, &spec, &Want::default()).unwrap();
            let map = d.region(reg.region, reg.region_gen).unwrap().0.clone();
            (reg, map)
        });
        User {
            tx: TxEnd::new(&self.gear, &reg, &reg.tx[0], &map).unwrap(),
            rx: RxEnd::new(&self.gear, &reg, &reg.rx[0], &map).unwrap(),
            reg,
            map,
        }
    }

    pub(crate) fn close(&self, user: &User) {
        self.with(|d| d.owner_gone(user.reg.owner));
    }

    #[track_caller]
    pub(crate) fn check(&self) {
        let report = self.with(|d| {
            d.reap();
            d.check()
        });
        assert_eq!(report.problems, Vec::<String>::new());
    }

    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        self.check();
        for r in self.with(|d| d.check().regions) {
            assert_eq!(r.free, r.bufs - 2, "buffers leaked");
        }
    }
}

/// A cable with the port at one end, and bare frames at the other.
pub(crate) struct Cable {
    pub(crate) near: NetNs,
    pub(crate) far: Far,
}

impl Cable {
    /// `None` where that is not possible, after it has been said.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let near = NetNs::new(test)?;
        let away = NetNs::make();
        near.veth("a", &away, "b", "mtu 9000");
        let config = PacketConfig::new("b");
        let socket = away.enter(|| PacketSocket::open(&config)).unwrap();
        Some(Self {
            near,
            far: Far {
                socket,
                pool: BufPool::new(&Mem::heap(64 * 10_048), 0, 64, 10_048).unwrap(),
                _ns: away,
            },
        })
    }
}

/// The end without a port.
pub(crate) struct Far {
    socket: PacketSocket,
    pool: BufPool,
    _ns: NetNs,
}

impl Far {
    pub(crate) fn send(&mut self, frames: &[Vec<u8>]) {
        for some in frames.chunks(32) {
            let mut batch = Batch::new();
            for (buf, frame) in (0..).zip(some) {
                assert!(self.pool.bufs().write(buf, 0, frame));
                batch.push_buf(buf, u32::try_from(frame.len()).unwrap());
            }
            let mut next = 0;
            while next < batch.len() {
                next = self.socket.send(&self.pool, &batch, next).unwrap().next;
            }
        }
    }

    /// Frames of ours that have come.
    pub(crate) fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let mut batch = Batch::new();
            (0..64).for_each(|buf| batch.push_buf(buf, 10_048));
            let n = self.socket.recv(&self.pool, &mut batch).unwrap();
            for i in 0..n {
                let mut bytes = vec![0; batch.frame_len(i)];
                let read = batch.read(&self.pool, i, 0, &mut bytes);
                assert_eq!(read, bytes.len());
                if bytes[12..14] == TYPE {
                    all.push(bytes);
                }
            }
            if n == 0 {
                return all;
            }
        }
    }
}

/// The port of an interface, and what serves it.
pub(crate) struct Nic {
    pub(crate) reg: Registration,
    pub(crate) map: RegionMap,
    pub(crate) hand_over: HandOver,
    pub(crate) stock: Vec<u32>,
    program: Option<Redirect>,
}

impl Nic {
    /// With its socket, which nobody serves yet.
    pub(crate) fn open(bed: &Bed, cable: &Cable, name: &str) -> (Self, XdpLane) {
        let plan = DevicePlan {
            name: name.trim_start_matches("netmap:"),
            queues: 1,
            host: [0, 0],
            slots: (SLOTS, SLOTS),
            region: None,
            isolated: false,
            vnet_hdr: 0,
            arena: ARENA,
        };
        let (reg, map) = bed.with(|d| {
            let owner = d.add_owner(7, false).unwrap();
            let (_, reg) = d.make_device(owner, &plan).unwrap();
            let map = d.region(reg.region, reg.region_gen).unwrap().0.clone();
            (reg, map)
        });
        let kring = reg.tx[0].kring;
        let stock = bed.with(|d| d.take_stock(kring, 600));
        assert_eq!(stock.len(), 600);
        // What is never written shows that it was not.
        for &buf in &stock {
            assert!(map.bufs().write(buf, 0, &[0xa5; 60]));
        }
        let (lane, hand_over) = open(bed, cable, &map, kring, &stock);
        let index = cable.near.index("a");
        let all = std::slice::from_ref(&hand_over);
        let program = cable.near.enter(|| xdp::redirect(index, all, true));
        let nic = Self {
            reg,
            map,
            hand_over,
            stock,
            program: Some(program.unwrap()),
        };
        (nic, lane)
    }

    /// Something that serves it.
    pub(crate) fn lane(&self, bed: &Bed, device: XdpLane) -> Lane {
        let rings = (&self.reg.tx[0], &self.reg.rx[0]);
        let device = Box::new(device);
        let losses = Losses::default();
        Lane::new(1, &bed.gear, &self.reg, rings, &self.map, device, &losses).unwrap()
    }

    /// The socket for another process: inward, outward.
    pub(crate) fn take_over(&self, bed: &Bed) -> [XdpLane; 2] {
        let files = self.hand_over.files().into_iter();
        let files = files.map(|f| f.try_clone_to_owned().unwrap()).collect();
        let place = Place {
            world: &bed.gear.world,
            map: &self.map,
            kring: self.reg.tx[0].kring,
            queue: 0,
        };
        xdp::take_over(self.hand_over.shape(), files, place).unwrap()
    }

    /// Closes it and its user.
    pub(crate) fn close(mut self, bed: &Bed, lane: Vec<Lane>, user: &User) {
        self.program = None;
        drop(lane);
        drop(self.hand_over);
        let kring = self.reg.tx[0].kring;
        assert_eq!(bed.with(|d| d.return_stock(kring)), 600);
        bed.check();
        bed.close(user);
        bed.with(|d| d.owner_gone(self.reg.owner));
    }
}

fn open(
    bed: &Bed,
    cable: &Cable,
    map: &RegionMap,
    kring: KringId,
    stock: &[u32],
) -> (XdpLane, HandOver) {
    let interface = Interface {
        index: cable.near.index("a"),
        queues: 1,
        mtu: 9000,
        sends_in_place: false,
    };
    let range = bed.with(|d| d.arena(map.id)).unwrap();
    let arena = || Arena {
        world: &bed.gear.world,
        map,
        range: range.clone(),
        huge: false,
    };
    let mut opened = None;
    eventually("the queue is free", || {
        match cable
            .near
            .enter(|| xdp::open(&interface, Ok(arena()), 2112))
        {
            Err(Fault::Busy(_)) => false,
            done => {
                opened = Some(done.unwrap());
                true
            }
        }
    });
    let sockets = opened.unwrap();
    assert!(sockets.is_in_place());
    let about = sockets.about();
    assert!(about.ends_with("buffers of the region itself"), "{about}");
    let (mut lanes, mut hand_overs) = sockets.serve(&[kring], |_, _| stock.to_vec()).unwrap();
    (lanes.remove(0), hand_overs.remove(0))
}

impl User {
    /// Queues a frame; `false` if there is no room.
    pub(crate) fn queue(&mut self, frame: &[u8]) -> bool {
        let ring = self.tx.ring();
        let parts: Vec<&[u8]> = frame.chunks(2112).collect();
        if (ring.span(ring.head(), ring.tail()) as usize) < parts.len() {
            return false;
        }
        let mut at = ring.head();
        for (i, part) in parts.iter().enumerate() {
            let buf = ring.slot(at).buf();
            assert!(self.map.bufs().write(buf, 0, part));
            let more = if i + 1 < parts.len() { NS_MOREFRAG } else { 0 };
            let len = u16::try_from(part.len()).unwrap();
            ring.set_slot(at, Slot::new(buf, len, more));
            at = ring.next(at);
        }
        ring.set_head(at);
        true
    }

    /// What has come: the bytes, and the buffers in which they are.
    pub(crate) fn drain(&mut self) -> Vec<(Vec<u8>, Vec<u32>)> {
        self.rx.sync().unwrap();
        let ring = self.rx.ring();
        let (mut all, mut frame) = (Vec::new(), (Vec::new(), Vec::new()));
        let mut at = ring.head();
        while at != ring.tail() {
            let slot = ring.slot(at);
            let mut part = vec![0; usize::from(slot.len())];
            assert!(self.map.bufs().read(slot.buf(), 0, &mut part));
            frame.0.extend(part);
            frame.1.push(slot.buf());
            if !slot.has(NS_MOREFRAG) {
                all.push(std::mem::take(&mut frame));
            }
            at = ring.next(at);
        }
        assert!(frame.1.is_empty(), "half a frame was shown");
        ring.set_head(at);
        self.rx.sync().unwrap();
        all.retain(|(bytes, _)| bytes[12..14] == TYPE);
        all
    }
}

pub(crate) fn bufs(ring: Ring<'_>) -> Vec<u32> {
    (0..ring.count()).map(|i| ring.slot(i).buf()).collect()
}

/// Frames of all lengths.
pub(crate) fn frames(rng: &mut Rng, n: usize, longest: usize) -> Vec<Vec<u8>> {
    let longest = longest.min(LONGEST);
    let frame = |i: usize| {
        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        bytes.extend(TYPE);
        let len = [60, 2112, 2113, 4224, longest]
            .get(i)
            .map_or_else(|| 60 + rng.below(longest - 59), |&len| len.min(longest));
        bytes.extend((14..len).map(|_| rng.word().to_le_bytes()[0]));
        bytes
    };
    (0..n).map(frame).collect()
}
