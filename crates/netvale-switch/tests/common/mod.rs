//! A namespace of this process, with raw access to rings as a C program has it.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "shared by several test programs")]
#![allow(missing_docs, missing_debug_implementations, reason = "tests")]

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use netvale_ring::layout::{BUF_SIZE, RING_SIZE, RegionGeom, StateGeom};
use netvale_ring::slot::NS_MOREFRAG;
use netvale_ring::world::{Holder, RegionMap, RegionSource, Waker, World};
use netvale_ring::{Ring, Slot};
use netvale_shm::{HugePages, Mem, Memfd};
use netvale_switch::domain::{Config, Domain, MemSource, Registration, Result, Want};
use netvale_switch::end::{Gear, RxEnd, TxEnd};
use netvale_wire::name::PortSpec;

/// Sparse memory of this process.
#[derive(Debug)]
pub struct Sparse;

impl MemSource for Sparse {
    type File = ();
    fn create(&mut self, n: &str, len: usize, _: bool) -> core::result::Result<(Mem, ()), String> {
        let made = Memfd::create(n, len, HugePages::Never).and_then(|f| f.map());
        made.map(|mem| (mem, ())).map_err(|e| e.to_string())
    }
}

#[derive(Debug, Clone)]
pub struct Shared(pub Arc<Mutex<Domain<Sparse>>>);

impl RegionSource for Shared {
    fn map(&self, id: u16, generation: u32) -> Option<RegionMap> {
        let domain = self.0.lock().unwrap();
        domain.region(id, generation).map(|(map, ())| map.clone())
    }
}

/// Nobody sleeps.
#[derive(Debug)]
pub struct NoWaker;
impl Waker for NoWaker {
    fn wake(&self, _: &AtomicU32, _: u32) {}
}

/// Sizes that fit a test.
pub fn small() -> Config {
    Config {
        state: StateGeom {
            ports: 64,
            krings: 512,
            regions: 16,
            shared_regions: 4,
            holders: 600_000,
            switches: 8,
        },
        global: RegionGeom {
            ifs: 64,
            rings: 512,
            ring_size: RING_SIZE,
            bufs: 600_000,
            buf_size: BUF_SIZE,
        },
        huge: false,
    }
}

#[derive(Debug)]
pub struct Bed {
    pub shared: Shared,
    pub world: World,
    pub gear: Gear,
}

#[derive(Debug)]
pub struct Port {
    pub reg: Registration,
    pub map: RegionMap,
    pub tx: Vec<TxEnd>,
    pub rx: Vec<RxEnd>,
}

impl Bed {
    pub fn new(config: Config) -> Self {
        let domain = Domain::new(config, Sparse).unwrap();
        let world = domain.world().clone();
        let shared = Shared(Arc::new(Mutex::new(domain)));
        let gear = Gear {
            world: world.clone(),
            source: Arc::new(shared.clone()),
            waker: Arc::new(NoWaker),
        };
        Self {
            shared,
            world,
            gear,
        }
    }

    pub fn with<R>(&self, f: impl FnOnce(&mut Domain<Sparse>) -> R) -> R {
        f(&mut self.shared.0.lock().unwrap())
    }

    pub fn try_open(&self, name: &str, want: &Want) -> Result<Port> {
        self.try_open_spec(&PortSpec::parse(name).unwrap(), want)
    }

    pub fn try_open_spec(&self, spec: &PortSpec, want: &Want) -> Result<Port> {
        let (reg, map) = self.with(|d| {
            let owner = d.add_owner(1, false)?;
            match d.register(owner, spec, want) {
                Ok(reg) => {
                    let map = d.region(reg.region, reg.region_gen).unwrap().0.clone();
                    Ok((reg, map))
                }
                Err(e) => {
                    d.owner_gone(owner);
                    Err(e)
                }
            }
        })?;
        let tx = |r| TxEnd::new(&self.gear, &reg, r, &map).unwrap();
        let rx = |r| RxEnd::new(&self.gear, &reg, r, &map).unwrap();
        Ok(Port {
            tx: reg.tx.iter().map(tx).collect(),
            rx: reg.rx.iter().map(rx).collect(),
            reg: reg.clone(),
            map: map.clone(),
        })
    }

    pub fn open(&self, name: &str, want: &Want) -> Port {
        self.try_open(name, want).unwrap()
    }

    pub fn close(&self, port: Port) {
        let Port { reg, .. } = port;
        self.with(|d| d.owner_gone(reg.owner));
    }

    /// Buffers free in the shared region.
    pub fn free(&self) -> u32 {
        self.with(|d| d.check().regions.first().map_or(0, |r| r.free))
    }

    #[track_caller]
    pub fn check(&self) {
        let report = self.with(|d| {
            d.reap();
            d.check()
        });
        assert_eq!(report.problems, Vec::<String>::new());
    }

    /// The holder table names each ring as the holder of what its slots name:
    /// so it is as long as no program moves buffers by itself.
    #[track_caller]
    pub fn check_holders(&self, port: &Port) {
        let Some(s) = port.reg.shared else { return };
        let holders = self.world.holders(s, port.reg.geom.bufs).unwrap();
        for r in port.reg.tx.iter().chain(&port.reg.rx) {
            let ofs = usize::try_from(r.ofs).unwrap();
            let ring = port.map.ring(ofs, u32::from(r.slots)).unwrap();
            for i in 0..ring.count() {
                let buf = ring.slot(i).buf();
                let held = holders[buf as usize].load(std::sync::atomic::Ordering::Relaxed);
                let right = Holder::kring(r.kring).bits();
                assert_eq!(held, right, "{} slot {i} buffer {buf}", port.reg.name);
            }
        }
    }

    pub fn drops(&self, port: &Port) -> std::collections::BTreeMap<&'static str, u64> {
        let stats = self.with(|d| d.port_stats(port.reg.port)).unwrap();
        stats.drops.into_iter().collect()
    }
}

pub fn want(tx: u16, rx: u16, tx_slots: u16, rx_slots: u16) -> Want {
    Want {
        tx_rings: tx,
        rx_rings: rx,
        tx_slots,
        rx_slots,
        ..Want::default()
    }
}

/// Slots that may be filled.
pub fn space(ring: Ring<'_>) -> u32 {
    ring.span(ring.head(), ring.tail())
}

/// Queues parts of one frame; `false` if there is no room.
pub fn queue(port: &Port, r: usize, parts: &[&[u8]]) -> bool {
    let ring = port.tx[r].ring();
    if space(ring) < u32::try_from(parts.len()).unwrap() {
        return false;
    }
    let mut at = ring.head();
    for (i, part) in parts.iter().enumerate() {
        let buf = ring.slot(at).buf();
        assert!(port.map.bufs().write(buf, 0, part), "buffer {buf}");
        let more = if i + 1 < parts.len() { NS_MOREFRAG } else { 0 };
        ring.set_slot(at, Slot::new(buf, u16::try_from(part.len()).unwrap(), more));
        at = ring.next(at);
    }
    ring.set_head(at);
    true
}

/// A frame as received: its bytes and the length and flags of each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub bytes: Vec<u8>,
    pub slots: Vec<(u16, u16)>,
}

/// Takes everything that has arrived, and gives the slots back.
pub fn drain(port: &mut Port, r: usize) -> Vec<Got> {
    port.rx[r].sync().unwrap();
    let out = peek(port, r);
    let ring = port.rx[r].ring();
    ring.set_head(ring.tail());
    port.rx[r].sync().unwrap();
    out
}

/// What is there now.
pub fn peek(port: &Port, r: usize) -> Vec<Got> {
    let ring = port.rx[r].ring();
    let mut out = Vec::new();
    let (mut at, end) = (ring.head(), ring.tail());
    let mut frame = Got {
        bytes: Vec::new(),
        slots: Vec::new(),
    };
    while at != end {
        let slot = ring.slot(at);
        let mut part = vec![0; usize::from(slot.len())];
        assert!(port.map.bufs().read(slot.buf(), 0, &mut part), "{slot:?}");
        frame.bytes.extend(part);
        frame.slots.push((slot.len(), slot.flags()));
        if !slot.has(NS_MOREFRAG) {
            out.push(core::mem::replace(
                &mut frame,
                Got {
                    bytes: Vec::new(),
                    slots: Vec::new(),
                },
            ));
        }
        at = ring.next(at);
    }
    assert!(frame.slots.is_empty(), "half a frame was shown");
    out
}

/// A small generator: the same numbers each time.
#[derive(Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n
    }
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
