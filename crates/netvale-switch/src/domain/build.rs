//! Making a port's rings, and giving them buffers.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, Release};

use netvale_ring::Ring;
use netvale_ring::kring::{Geom, KringId};
use netvale_ring::layout::IF_SIZE;
use netvale_ring::port::{Opts, PortId, PortKind};
use netvale_ring::slot::Slot;
use netvale_ring::world::Holder;

use super::{
    DEFAULT_MAX_FRAME, Domain, DomainError, MAX_EXTRA, MemSource, Port, Result, RingState,
};

/// Direction as netmap stores it in a ring.
const DIR_RX: u16 = 0;
const DIR_TX: u16 = 1;

/// What a new port is to be.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) kind: PortKind,
    pub(super) tx: (u16, u16),
    pub(super) rx: (u16, u16),
    pub(super) isolated: bool,
    pub(super) region: u16,
    /// Buffers for the RX rings too (not for a pipe inside one region).
    pub(super) rx_bufs: bool,
    /// So many of the first rings get buffers of the region's arena, as long
    /// as it has some.
    pub(super) arena: u16,
}

/// Which buffers a ring gets.
#[derive(Clone, Copy)]
struct Bufs {
    arena: u16,
}

impl<M: MemSource> Domain<M> {
    pub(super) fn build(&mut self, plan: Plan) -> Result<PortId> {
        if let Some(r) = self.regions.get_mut(u32::from(plan.region)) {
            r.users += 1;
        }
        let limit = self.config.state.ports;
        let Some(id) = self.ports.reserve() else {
            self.leave_region(plan.region);
            return Err(DomainError::NoSpace(format!("{limit} ports exist already")));
        };
        let port = PortId(id);
        let mut p = Port {
            name: plan.name,
            kind: plan.kind,
            region: plan.region,
            isolated: plan.isolated,
            persistent: false,
            automatic: false,
            unnamed: false,
            seat: None,
            joined: None,
            second: false,
            tx: vec![],
            rx: vec![],
            owners: vec![],
            peer: None,
            host: [0, 0],
            watches: None,
            parent: None,
            root: None,
            max_frame: DEFAULT_MAX_FRAME,
            vnet_hdr: 0,
            arena: false,
        };
        let arena = plan.arena;
        let bufs = |wanted: bool| wanted.then_some(Bufs { arena });
        // netmap's order: RX rings get their buffers before TX rings.
        let made = self
            .make_rings(
                port,
                plan.region,
                plan.rx,
                DIR_RX,
                bufs(plan.rx_bufs),
                &mut p.rx,
            )
            .and_then(|()| {
                self.make_rings(port, plan.region, plan.tx, DIR_TX, bufs(true), &mut p.tx)
            });
        if let Err(e) = made {
            self.drop_rings(&p);
            self.leave_region(plan.region);
            self.ports.release(id);
            return Err(e);
        }
        if let Some(rec) = port.rec(&self.world) {
            rec.set_seat(None);
            rec.set_rings(Self::rings_of(&p.tx), Self::rings_of(&p.rx));
            rec.set_opts(Opts {
                vnet_hdr: 0,
                gives_buffers: false,
                max_frame: p.max_frame,
            });
            rec.set_kind(p.kind);
        }
        self.names.insert(p.name.clone(), port);
        self.ports.fill(id, p);
        Ok(port)
    }

    fn make_rings(
        &mut self,
        port: PortId,
        region: u16,
        (n, slots): (u16, u16),
        dir: u16,
        bufs: Option<Bufs>,
        out: &mut Vec<RingState>,
    ) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let limit = self.config.state.krings;
        let first = self.krings.take_run(u32::from(n)).ok_or_else(|| {
            DomainError::NoSpace(format!("fewer than {n} of {limit} rings are left"))
        })?;
        for i in 0..n {
            let kring = KringId(first + u32::from(i));
            match self.make_ring(port, region, kring, i, slots, dir, bufs) {
                Ok(ring) => out.push(ring),
                Err(e) => {
                    // Those not made yet; the caller frees the others.
                    for k in i..n {
                        self.krings.put(first + u32::from(k));
                    }
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    fn make_ring(
        &mut self,
        port: PortId,
        region: u16,
        kring: KringId,
        idx: u16,
        slots: u16,
        dir: u16,
        bufs: Option<Bufs>,
    ) -> Result<RingState> {
        let none =
            |what: &str| DomainError::NoSpace(format!("no {what} left in memory region {region}"));
        let r = self
            .regions
            .get_mut(u32::from(region))
            .ok_or_else(|| none("memory"))?;
        let obj = r.rings.take().ok_or_else(|| none("rings"))?;
        let geom = r.map.geom;
        if bufs.is_some() && r.bufs.left() < u32::from(slots) {
            r.rings.put(obj);
            return Err(none("buffers"));
        }
        let ofs = geom.ring_ofs(obj);
        let room = (256 + 16 * u32::from(slots) <= geom.ring_size).then_some(());
        let Some(ring) = room.and_then(|()| r.map.ring(ofs, u32::from(slots))) else {
            r.rings.put(obj);
            return Err(none("room for a ring"));
        };
        let tail = if dir == DIR_TX {
            u32::from(slots) - 1
        } else {
            0
        };
        let distance = (geom.buf_ofs() - ofs) as u64;
        ring.init(idx, dir, geom.buf_size, distance, tail);
        let holders = r.map.shared.and_then(|s| self.world.holders(s, geom.bufs));
        fill_slots(ring, bufs.is_some(), geom.buf_size, || {
            let first = match bufs {
                Some(bufs) if idx < bufs.arena => r.bufs.take_arena(),
                _ => None,
            };
            let b = first.or_else(|| r.bufs.take()).unwrap_or(0);
            if let Some(h) = holders.and_then(|h| h.get(b as usize)) {
                h.store(Holder::kring(kring).bits(), Relaxed);
            }
            b
        });
        let Some(k) = self.world.kring(kring) else {
            return Err(none("ring state"));
        };
        k.init(
            port.0,
            idx,
            Geom {
                region,
                slots: u32::from(slots),
                region_gen: r.generation,
                ofs,
            },
        );
        k.set_hw(0, tail);
        if dir == DIR_RX
            && let Some(resv) = k.resv(u32::from(slots))
        {
            let cursor = resv.open();
            k.set_cursor(cursor);
            k.set_released(cursor.start);
        }
        Ok(RingState {
            kring,
            obj,
            slots,
            bufs: if bufs.is_some() { slots } else { 0 },
            stock: 0,
            users: 0,
            exclusive: false,
        })
    }

    pub(super) fn take_if(&mut self, region: u16) -> Result<u32> {
        self.regions
            .get_mut(u32::from(region))
            .and_then(|r| r.ifs.take())
            .ok_or_else(|| {
                DomainError::NoSpace(format!(
                    "no interface objects left in memory region {region}"
                ))
            })
    }

    /// Takes up to `n` extra buffers and links them; head and number.
    pub(super) fn take_extra(&mut self, region: u16, owner: u16, n: u32) -> (u32, u32) {
        let Some(r) = self.regions.get_mut(u32::from(region)) else {
            return (0, 0);
        };
        let holders = r
            .map
            .shared
            .and_then(|s| self.world.holders(s, r.map.geom.bufs));
        let (mut head, mut got) = (0u32, 0);
        for _ in 0..n.min(MAX_EXTRA) {
            let Some(b) = r.bufs.take() else { break };
            if let Some(h) = holders.and_then(|h| h.get(b as usize)) {
                h.store(Holder::extra(owner).bits(), Relaxed);
            }
            let linked = r.map.bufs().write(b, 0, &head.to_le_bytes());
            debug_assert!(linked, "buffer {b} is inside the pool");
            head = b;
            got += 1;
        }
        (head, got)
    }

    /// Writes the registration's `netmap_if`.
    pub(super) fn write_nif(
        &self,
        port: PortId,
        region: u16,
        nif: u32,
        tx: &[u16],
        rx: &[u16],
        extra: u32,
    ) {
        let (Some(p), Some(r)) = (self.port(port), self.regions.get(u32::from(region))) else {
            return;
        };
        let at = r.map.geom.if_ofs(nif);
        let private = u32::from(r.map.shared.is_none());
        let mut b = vec![0u8; IF_SIZE as usize];
        for (d, s) in b.iter_mut().zip(p.name.bytes().take(15)) {
            *d = s;
        }
        let put =
            |b: &mut [u8], ofs: usize, v: u32| b[ofs..ofs + 4].copy_from_slice(&v.to_le_bytes());
        put(&mut b, 16, 14);
        put(&mut b, 20, private);
        let [host_tx, host_rx] = p.host.map(u32::from);
        let count = |n: usize| u32::try_from(n).unwrap_or(0);
        put(&mut b, 24, count(p.tx.len()).saturating_sub(host_tx));
        put(&mut b, 28, count(p.rx.len()).saturating_sub(host_rx));
        put(&mut b, 32, extra);
        put(&mut b, 36, host_tx);
        put(&mut b, 40, host_rx);
        let mut place = |i: usize, obj: u32| {
            let ofs = 56 + i * 8;
            let distance = (r.map.geom.ring_ofs(obj) - at) as u64;
            if let Some(w) = b.get_mut(ofs..ofs + 8) {
                w.copy_from_slice(&distance.to_le_bytes());
            }
        };
        for &i in tx {
            place(usize::from(i), p.tx[usize::from(i)].obj);
        }
        for &i in rx {
            place(p.tx.len() + usize::from(i), p.rx[usize::from(i)].obj);
        }
        let written = r.map.mem.write(at, &b);
        debug_assert!(written, "interface object {nif} is inside the pool");
        core::sync::atomic::fence(Release);
    }
}

/// Gives each slot of a new ring its buffer.
fn fill_slots(ring: Ring<'_>, bufs: bool, buf_size: u32, mut take: impl FnMut() -> u32) {
    let len = u16::try_from(buf_size).unwrap_or(u16::MAX);
    for i in 0..ring.count() {
        let slot = if bufs {
            Slot::new(take(), len, 0)
        } else {
            Slot::default()
        };
        ring.set_slot(i, slot);
        ring.set_ptr(i, 0);
    }
}
