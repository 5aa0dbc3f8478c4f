//! A client that drives a queue stands still in the middle of a turn, with
//! buffers exchanged and nothing committed, while the server closes the queue.

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_lane::xdp::{MemoryShape, Place, Shape, Traits, XdpLane, take_over};
use netvale_lane::{DeviceLane, Dir, Step};
use netvale_ring::kring::KringId;
use netvale_ring::world::RegionMap;
use netvale_ring::{Ring, Slot};
use netvale_testkit::eventually;
use netvale_testkit::raw::Raw;
use netvale_wire::proto::{Driven, ErrorKind, FramePlace, RegionBooks, Reply, Request};

use super::open::receive_any;
use super::{Host, is_plain, plain, send};
use crate::bed::register_request;

/// One that drives queue 0 of a port by hand.
struct Driver {
    _raw: Raw,
    map: RegionMap,
    driven: Driven,
    inward: XdpLane,
    slots: Vec<Slot>,
}

impl Driver {
    fn new(host: &Host, port: &str) -> Self {
        let mut raw = Raw::connect(&host.bed.dir, false);
        let (reg, region, _) = raw.register(port);
        let (reply, files) = raw.ask(&Request::Drive { queue: 0, on: true });
        let Reply::Driven(driven) = reply else {
            panic!("{reply:?}");
        };
        let FramePlace::Region {
            arena: [start, end],
            huge,
        } = driven.frames
        else {
            panic!("{driven:?}");
        };
        let shape = Shape {
            entries: driven.entries,
            stock: driven.stock,
            traits: Traits {
                zero_copy: driven.zero_copy,
                copies: driven.copies,
                several: driven.several,
                longest: driven.longest as usize,
            },
            memory: MemoryShape::Region {
                arena: start..end,
                huge,
            },
        };
        let (world, map) = (raw.world(), region.to_map());
        let place = Place {
            world: &world,
            map: &map,
            kring: KringId(driven.tx.kring),
            queue: driven.tx.idx.into(),
        };
        let [mut inward, _] = take_over(&shape, files, place).unwrap();
        inward.name(reg.owner);
        Self {
            _raw: raw,
            map,
            driven,
            inward,
            slots: Vec::new(),
        }
    }

    /// The ring into which it receives.
    fn ring(&self) -> Ring<'_> {
        let tx = &self.driven.tx;
        let ofs = usize::try_from(tx.ofs).unwrap();
        self.map.ring(ofs, tx.slots.into()).unwrap()
    }

    /// Receives, and exchanges buffers. Whether there was anything.
    fn begin(&mut self) -> bool {
        assert_eq!(self.inward.enter(Dir::In), Ok(true));
        let ring = self.ring();
        let (mut free, mut at) = (Vec::new(), ring.head());
        while at != ring.tail() {
            let (buf, len) = (ring.slot(at).buf(), self.map.geom.buf_size);
            free.push(Piece { buf, off: 0, len });
            at = ring.next(at);
        }
        let geom = self.map.geom;
        let mem = &self.map.mem;
        let pool = BufPool::new(mem, geom.buf_ofs(), geom.bufs, geom.buf_size).unwrap();
        let mut batch = Batch::new();
        let n = self.inward.pull(&pool, &free, &mut batch).unwrap();
        let pieces = (0..n).flat_map(|i| batch.chain(i));
        let slot = |p: &Piece| Slot::new(p.buf, u16::try_from(p.len).unwrap(), 0);
        self.slots = pieces.map(slot).collect();
        if self.slots.is_empty() {
            self.inward.leave(Dir::In);
        }
        !self.slots.is_empty()
    }

    /// Goes on, as if nothing had happened.
    fn end(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        let first = self.ring().head();
        let used = u32::try_from(slots.len()).unwrap();
        let head = (first + used) % self.ring().count();
        let step = Step { first, head };
        self.inward.commit(Dir::In, step, &slots).unwrap();
        let ring = self.ring();
        for (k, slot) in (0..).zip(slots) {
            ring.set_slot((first + k) % ring.count(), slot);
        }
        ring.set_head(head);
        self.inward.leave(Dir::In);
        let closed = self.inward.enter(Dir::In);
        assert!(closed.is_err(), "{closed:?}");
    }
}

fn books(host: &Host) -> RegionBooks {
    match host.ask(&Request::Check { after: None }) {
        Reply::Check { regions, .. } => regions.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Every buffer is back, also those that waited for whoever had the sockets.
fn all_is_back(host: &Host) {
    eventually("all is back", || {
        let books = books(host);
        host.names().is_empty() && (books.extra, books.free) == (0, books.bufs - 2)
    });
    host.bed.assert_sound();
}

#[test]
fn a_queue_is_opened_anew_when_its_driver_has_left() {
    const TEST: &str = "still::a_queue_is_opened_anew_when_its_driver_has_left";
    let Some(host) = Host::with(TEST, |config| config.generic_xdp = true) else {
        return;
    };
    host.ns.veth("v0", &host.ns, "v1", "");
    // A driver without XDP, whose queue the server has to close when somebody
    // wants the host's rings.
    if !host.macvlan(TEST, "v0") {
        return;
    }
    let ns = host.namespace();
    for dies in [false, true] {
        let mut far = ns.open("netmap:v1").unwrap();
        let mut driver = Driver::new(&host, "netmap:v0m");
        eventually("frames are there for it", || {
            send(&mut far, 0, &plain(1, 100));
            driver.begin()
        });
        let (kind, why) = host.refusal(&register_request("netmap:v0m^"));
        assert!(why.contains("stands still"), "{why}");
        assert_eq!(kind, ErrorKind::Busy);
        let mut other = None;
        if dies {
            drop(driver);
        } else {
            driver.end();
            let _ = other.insert((ns.open("netmap:v0m^").unwrap(), driver));
        }
        // The interface serves whoever has it open, and whoever comes.
        let mut near = ns.open("netmap:v0m").unwrap();
        eventually("frames come", || {
            send(&mut far, 0, &plain(2, 110));
            near.wait_rx(Some(std::time::Duration::from_millis(20)))
                .unwrap()
        });
        receive_any(&mut near, |b| is_plain(b) && b.len() == 110);
        host.bed.assert_sound();
        drop((near, far, other));
        all_is_back(&host);
    }
}

#[test]
fn an_interface_goes_while_its_driver_stands_still() {
    let Some(host) = Host::new("still::an_interface_goes_while_its_driver_stands_still") else {
        return;
    };
    let ns = host.namespace();
    for dies in [false, true] {
        host.ns.veth("v0", &host.ns, "v1", "");
        let mut far = ns.open("netmap:v1").unwrap();
        let mut driver = Driver::new(&host, "netmap:v0");
        eventually("frames are there for it", || {
            send(&mut far, 0, &plain(1, 100));
            driver.begin()
        });
        host.ns.ip("link del dev v0");
        eventually("its port is gone", || {
            !host.names().iter().any(|name| name == "v0")
        });
        if !dies {
            driver.end();
            host.bed.assert_sound();
        }
        drop((driver, far));
        all_is_back(&host);
    }
}
