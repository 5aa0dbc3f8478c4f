//! Buffers that devices use in place.
//!
//! A device that is to read and write buffers itself must know them, and pages
//! that it knows stay in memory. So it knows a part of a region, the *arena*,
//! which is there while ports of such devices are, and whose buffers their
//! rings get. All buffers may still go everywhere: one of another place in a
//! device's ring costs a copy, and one of the arena in another ring is given
//! back when that closes.
//!
//! Whoever serves a device's ring has buffers of the arena besides: its
//! *stock*, which the kernel fills or sends. It exchanges them with those of
//! the ring's slots. In the holder table they are the ring's
//! ([`Holder::stock`]), so that they come back however its process ends.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Release};

use netvale_ring::kring::KringId;
use netvale_ring::layout::RESERVED_BUFS;
use netvale_ring::world::Holder;

use super::{Domain, MemSource, Region, RingState};

/// Buffers that a device may still write though nobody uses it any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parked {
    region: u16,
    generation: u32,
    bufs: Vec<u32>,
}

impl<M: MemSource> Domain<M> {
    /// The arena of a region, if it has one.
    #[must_use]
    pub fn arena(&self, region: u16) -> Option<Range<u32>> {
        self.regions.get(u32::from(region))?.bufs.arena()
    }

    /// A user more of a region's arena, which is made with `n` buffers, or
    /// half of those that are left, if there is none.
    pub(super) fn enter_arena(&mut self, region: u16, n: u32) -> bool {
        let r = self.regions.get_mut(u32::from(region));
        // Elsewhere nobody would know who has what.
        let Some(r) = r.filter(|r| r.map.shared.is_some()) else {
            return false;
        };
        let n = n.min(r.bufs.left() / 2);
        r.bufs.enter_arena(n)
    }

    pub(super) fn leave_arena(&mut self, region: u16) {
        if let Some(r) = self.regions.get_mut(u32::from(region)) {
            r.bufs.leave_arena();
        }
    }

    /// Gives up to `n` buffers of the arena to whoever serves a device's ring.
    /// None if its region has no arena.
    pub fn take_stock(&mut self, kring: KringId, n: u32) -> Vec<u32> {
        let Some((region, _)) = self.ring_of(kring) else {
            return Vec::new();
        };
        let Some(r) = self.regions.get_mut(u32::from(region)) else {
            return Vec::new();
        };
        let table = r.map.shared;
        let holders = table.and_then(|s| self.world.holders(s, r.map.geom.bufs));
        let Some(holders) = holders else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        for _ in 0..n {
            let Some(b) = r.bufs.take_arena() else { break };
            if let Some(h) = holders.get(b as usize) {
                h.store(Holder::stock(kring).bits(), Release);
            }
            taken.push(b);
        }
        let got = u32::try_from(taken.len()).unwrap_or(0);
        self.note_stock(kring, |had| had + got);
        taken
    }

    /// Takes back what [`Domain::take_stock`] gave and nobody has used.
    pub fn give_back(&mut self, kring: KringId, stock: &[u32]) {
        let Some((region, _)) = self.ring_of(kring) else {
            return;
        };
        self.free_stock(region, stock);
        let n = u32::try_from(stock.len()).unwrap_or(u32::MAX);
        self.note_stock(kring, |had| had.saturating_sub(n));
    }

    /// What whoever served a device's ring had beside its slots. It must have
    /// ended: in which buffers its last exchange was is found out and settled.
    pub fn settle_stock(&mut self, kring: KringId) -> Vec<u32> {
        let ring = self.ring_of(kring).filter(|(_, ring)| ring.stock > 0);
        let Some((region, _)) = ring else {
            return Vec::new();
        };
        let named = self.named(region);
        self.settle_among(kring, &named)
    }

    /// As [`Domain::settle_stock`]; `named`: by the rings and lists of its
    /// region.
    fn settle_among(&mut self, kring: KringId, named: &BTreeSet<u32>) -> Vec<u32> {
        let Some((region, ring)) = self.ring_of(kring) else {
            return Vec::new();
        };
        let Some(r) = self.regions.get(u32::from(region)) else {
            return Vec::new();
        };
        let table = r.map.shared;
        let holders = table.and_then(|s| self.world.holders(s, r.map.geom.bufs));
        let Some(holders) = holders.filter(|_| ring.stock > 0) else {
            return Vec::new();
        };
        let (in_ring, in_stock) = (Holder::kring(kring).bits(), Holder::stock(kring).bits());
        let held = |b: u32| holders.get(b as usize).map_or(0, |h| h.load(Acquire));
        let put = |b: u32, bits: u32| {
            if let Some(h) = holders.get(b as usize) {
                h.store(bits, Release);
            }
        };
        let slots: BTreeSet<u32> = self.slots_of(region, &ring).into_iter().collect();
        let ours = |b: &u32| held(*b) == in_ring || held(*b) == in_stock;
        let missing: Vec<u32> = (RESERVED_BUFS..r.bufs.high_water())
            .filter(|b| ours(b) && !slots.contains(b))
            .collect();
        let strange = |b: &&u32| !ours(b) && r.bufs.has(**b);
        let mut strangers = slots.iter().filter(strange);
        let mut stock = Vec::new();
        for b in missing {
            // A program may have moved buffers between its rings without a
            // word: then another ring names it.
            if !named.contains(&b) {
                put(b, in_stock);
                stock.push(b);
            } else if let Some(&other) = strangers.next() {
                put(b, held(other));
                put(other, in_ring);
            } else {
                put(b, in_ring);
            }
        }
        slots
            .iter()
            .filter(|b| ours(b))
            .for_each(|&b| put(b, in_ring));
        let n = u32::try_from(stock.len()).unwrap_or(0);
        self.note_stock(kring, |_| n);
        stock
    }

    /// Takes back what whoever served a device's ring had beside its slots: it
    /// has ended, and the kernel has let go of the buffers too. How many.
    pub fn return_stock(&mut self, kring: KringId) -> usize {
        self.return_stocks(&[kring])
    }

    /// As [`Domain::return_stock`], for all rings of one device.
    pub fn return_stocks(&mut self, krings: &[KringId]) -> usize {
        let mut n = 0;
        for (region, stock) in self.settle_all(krings) {
            self.free_stock(region, &stock);
            n += stock.len();
        }
        n
    }

    /// As [`Domain::return_stocks`], for buffers that a device may still write:
    /// nobody gets them before [`Domain::unpark`], also if the port goes.
    pub fn park_stocks(&mut self, krings: &[KringId]) -> Vec<Parked> {
        let mut all = Vec::new();
        for (region, bufs) in self.settle_all(krings) {
            let Some(r) = self.regions.get(u32::from(region)) else {
                continue;
            };
            let table = r.map.shared;
            let holders = table.and_then(|s| self.world.holders(s, r.map.geom.bufs));
            for &b in &bufs {
                if let Some(h) = holders.and_then(|h| h.get(b as usize)) {
                    h.store(Holder::RESERVED.bits(), Release);
                }
            }
            all.push(Parked {
                region,
                generation: r.generation,
                bufs,
            });
        }
        all
    }

    /// The stocks of these rings, which have none afterwards, with their
    /// region. It is looked through once for all of them.
    fn settle_all(&mut self, krings: &[KringId]) -> Vec<(u16, Vec<u32>)> {
        let mut seen: Option<(u16, BTreeSet<u32>)> = None;
        let mut all = Vec::new();
        for &kring in krings {
            let ring = self.ring_of(kring).filter(|(_, ring)| ring.stock > 0);
            let Some((region, _)) = ring else { continue };
            let named = match seen.take() {
                Some((of, named)) if of == region => named,
                _ => self.named(region),
            };
            all.push((region, self.settle_among(kring, &named)));
            self.note_stock(kring, |_| 0);
            seen = Some((region, named));
        }
        all
    }

    fn free_stock(&mut self, region: u16, stock: &[u32]) {
        let Some(r) = self.regions.get_mut(u32::from(region)) else {
            return;
        };
        let table = r.map.shared;
        let holders = table.and_then(|s| self.world.holders(s, r.map.geom.bufs));
        for &b in stock {
            if let Some(h) = holders.and_then(|h| h.get(b as usize)) {
                h.store(Holder::FREE.bits(), Release);
            }
            r.bufs.put(b);
        }
    }

    /// The device has let go of these.
    pub fn unpark(&mut self, parked: &Parked) {
        let r = self.regions.get(u32::from(parked.region));
        if r.is_some_and(|r| r.generation == parked.generation) {
            self.free_stock(parked.region, &parked.bufs);
        }
    }

    /// All buffers of a region that are somebody's stock, or parked.
    pub(super) fn stocks(&self, r: &Region<M::File>) -> Vec<(u32, Option<KringId>)> {
        let table = r.map.shared;
        let holders = table.and_then(|s| self.world.holders(s, r.map.geom.bufs));
        let holder = |b: u32| {
            let h = Holder::from_bits(holders?.get(b as usize)?.load(Acquire));
            let ring = h.as_stock();
            (ring.is_some() || h == Holder::RESERVED).then_some((b, ring))
        };
        let range = r.bufs.arena().unwrap_or(0..0);
        range.filter_map(holder).collect()
    }

    /// Buffers that the rings of a region name, and the lists of programs.
    fn named(&self, region: u16) -> BTreeSet<u32> {
        let ports = self.ports.iter().map(|(_, p)| p);
        let ports = ports.chain(self.zombies.iter().map(|z| &*z.state));
        let rings = ports
            .filter(|p| p.region == region)
            .flat_map(|p| p.tx.iter().chain(&p.rx));
        let mut named: BTreeSet<u32> = rings.flat_map(|r| self.slots_of(region, r)).collect();
        for (_, owner) in self.owners.iter() {
            if let Some(b) = owner.bound.as_ref().filter(|b| b.extra > 0)
                && self.port(b.port).is_some_and(|p| p.region == region)
            {
                named.extend(self.extra_list(region, b.nif));
            }
        }
        named
    }

    /// A ring by its hidden state, and its region.
    fn ring_of(&self, kring: KringId) -> Option<(u16, RingState)> {
        self.ports.iter().find_map(|(_, p)| {
            let mut rings = p.tx.iter().chain(&p.rx);
            let ring = rings.find(|r| r.kring == kring)?;
            Some((p.region, *ring))
        })
    }

    fn note_stock(&mut self, kring: KringId, now: impl Fn(u32) -> u32) {
        for (_, p) in self.ports.iter_mut() {
            for r in p.tx.iter_mut().chain(&mut p.rx) {
                if r.kring == kring {
                    r.stock = now(r.stock);
                }
            }
        }
    }
}
