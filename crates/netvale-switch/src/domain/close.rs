//! Taking back: what a registration had, whether it closed or died.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use netvale_ring::kring::{Kring, KringId};
use netvale_ring::layout::RESERVED_BUFS;
use netvale_ring::monitor;
use netvale_ring::port::{PortId, PortKind};
use netvale_ring::slot::Slot;
use netvale_ring::world::{Holder, RegionMap};

use super::open::krings_of;
use super::{Bound, Domain, MemSource, Port, RingState, Zombie};

/// What closing a registration gave back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Slots that it had reserved in others' rings and not filled; they were
    /// delivered empty.
    pub repaired_slots: u32,
    /// Rings whose lock it held.
    pub broken_locks: u32,
}

impl<M: MemSource> Domain<M> {
    /// A registration's last descriptor is closed: its process has ended, by
    /// whatever cause, or let go. Ports that nobody has open any more go too.
    pub fn owner_gone(&mut self, owner: u16) -> Freed {
        let mut freed = Freed::default();
        let Some(o) = self.owners.release(u32::from(owner)) else {
            return freed;
        };
        if let Some(w) = self.world.owner(owner) {
            w.store(0, Release);
        }
        freed.repaired_slots = self.repair(|o| o == owner);
        let Some(bound) = o.bound else { return freed };
        freed.broken_locks = self.break_locks(&bound, owner);
        self.unbind(owner, &bound);
        self.reap();
        freed
    }

    /// Completes the reservations of owners that are gone.
    fn repair(&self, dead: impl Fn(u16) -> bool) -> u32 {
        let mut n = 0;
        let living = self.ports.iter().map(|(_, p)| p);
        for p in living.chain(self.zombies.iter().map(|z| &*z.state)) {
            if p.kind == PortKind::Pipe {
                continue;
            }
            let Some(region) = self.regions.get(u32::from(p.region)) else {
                continue;
            };
            for r in &p.rx {
                if let Some(kring) = self.world.kring(r.kring) {
                    n += self.repair_ring(&region.map, kring, r, &dead);
                }
            }
        }
        n
    }

    fn repair_ring(
        &self,
        map: &RegionMap,
        kring: Kring<'_>,
        r: &RingState,
        dead: &impl Fn(u16) -> bool,
    ) -> u32 {
        let slots = u32::from(r.slots);
        let (Some(resv), Some(ring)) = (kring.resv(slots), map.ring(kring.geom().ofs, slots))
        else {
            return 0;
        };
        let holders = map
            .shared
            .and_then(|s| self.world.holders(s, map.geom.bufs));
        let n = resv.repair(
            || kring.cursor(),
            dead,
            |at| {
                let buf = ring.slot(at).buf();
                // A half-done exchange: whatever buffer the slot names now
                // is the ring's; the other one is still the dead's.
                if let Some(h) = holders.and_then(|h| h.get(buf as usize)) {
                    h.store(Holder::kring(r.kring).bits(), Relaxed);
                }
                ring.set_slot(at, Slot::new(buf, 0, 0));
            },
        );
        if n > 0 {
            self.wake_later(kring);
        }
        n
    }

    /// The control plane makes no system call: a receiver that sleeps behind a
    /// repaired reservation is told by who called us ([`Domain::take_wakes`]).
    pub(super) fn wake_later(&self, kring: Kring<'_>) {
        if let Some(said) = kring.sleep_word().take() {
            self.wakes.borrow_mut().push((kring.id(), said));
        }
    }

    /// Sleepers to be woken since the last call: ring, what its sleep word said.
    pub fn take_wakes(&mut self) -> Vec<(KringId, u32)> {
        core::mem::take(&mut *self.wakes.borrow_mut())
    }

    fn break_locks(&self, bound: &Bound, owner: u16) -> u32 {
        let Some(p) = self.port(bound.port) else {
            return 0;
        };
        let held = |k: &KringId| {
            let kring = self.world.kring(*k)?;
            kring
                .break_lock(|holder| holder & 0xffff == u64::from(owner))
                .then_some(())
        };
        // Whoever drives a device syncs the rings of both sides.
        let peer = p.peer.and_then(|peer| self.port(peer));
        let krings = krings_of(p)
            .into_iter()
            .chain(peer.into_iter().flat_map(krings_of));
        let n = krings.filter(|k| held(k).is_some()).count();
        u32::try_from(n).unwrap_or(u32::MAX)
    }

    fn unbind(&mut self, owner: u16, bound: &Bound) {
        let Some(p) = self.ports.get_mut(bound.port.0) else {
            return;
        };
        p.owners.retain(|&o| o != owner);
        for (rings, dir) in [(&bound.tx, &mut p.tx), (&bound.rx, &mut p.rx)] {
            for &i in rings {
                if let Some(r) = dir.get_mut(usize::from(i)) {
                    r.users = r.users.saturating_sub(1);
                    r.exclusive &= r.users > 0;
                }
            }
        }
        let (region, peer, last) = (p.region, p.peer, p.owners.is_empty());
        let mut dying = BTreeSet::new();
        let mut named = Vec::new();
        if bound.extra > 0 {
            dying.insert(Holder::extra(owner).bits());
            named = self.extra_list(region, bound.nif);
        }
        if let Some(r) = self.regions.get_mut(u32::from(region)) {
            r.ifs.put(bound.nif);
        }
        self.free_buffers(region, &dying, &named, bound.extra);
        let kept = |id: PortId| self.port(id).is_some_and(|p| self.stays(p));
        if last && !kept(bound.port) {
            let peer_open = peer
                .and_then(|p| self.port(p))
                .is_some_and(|p| !p.owners.is_empty());
            if !peer_open {
                self.discard_whole(bound.port);
            }
        }
        self.leave_region(region);
    }

    /// Buffers on the list that the program left in its `netmap_if`: stops at
    /// an impossible index and at a loop.
    pub(super) fn extra_list(&self, region: u16, nif: u32) -> Vec<u32> {
        let Some(r) = self.regions.get(u32::from(region)) else {
            return Vec::new();
        };
        let (map, mut word) = (&r.map, [0; 4]);
        let mut list = BTreeSet::new();
        if map.mem.read(map.geom.if_ofs(nif) + 32, &mut word) {
            let mut b = u32::from_le_bytes(word);
            while map.valid_buf(b) && list.insert(b) {
                if !map.bufs().read(b, 0, &mut word) {
                    break;
                }
                b = u32::from_le_bytes(word);
            }
        }
        list.into_iter().collect()
    }

    /// Removes a port: from its switch at once, from memory when no sender
    /// still writes to it.
    pub(super) fn discard(&mut self, id: PortId) {
        if let Some(rec) = id.rec(&self.world) {
            rec.set_kind(PortKind::None);
        }
        self.unseat(id);
        self.unlink_monitor(id);
        self.orphan_monitors(id);
        self.world.topology_changed();
        let Some(p) = self.ports.get(id.0) else {
            return;
        };
        self.names.remove(&p.name);
        for r in &p.rx {
            if p.kind != PortKind::Pipe
                && let Some(resv) = self
                    .world
                    .kring(r.kring)
                    .and_then(|k| k.resv(u32::from(r.slots)))
            {
                resv.close();
            }
        }
        // The identifier stays taken until the memory is free.
        if let Some(p) = self.ports.take_item(id.0) {
            self.zombies.push(Zombie {
                port: id,
                state: Box::new(p),
            });
        }
        self.reap();
    }

    /// Frees what senders no longer write to. `true` if something is left:
    /// call again soon.
    pub fn reap(&mut self) -> bool {
        let mut i = 0;
        while i < self.zombies.len() {
            if self.busy(&self.zombies[i].state) {
                i += 1;
                continue;
            }
            let z = self.zombies.swap_remove(i);
            self.bury(z);
        }
        !self.zombies.is_empty()
    }

    /// Whether someone may still write to a closed port's rings: a sender that
    /// had reserved slots and lives.
    fn busy(&self, p: &Port) -> bool {
        if p.kind == PortKind::Pipe {
            return false; // one sender, and it is gone: both ends are closed
        }
        p.rx.iter().any(|r| {
            let Some(k) = self.world.kring(r.kring) else {
                return false;
            };
            k.resv(u32::from(r.slots))
                .is_some_and(|resv| resv.outstanding(|| k.cursor()) > 0)
        })
    }

    fn bury(&mut self, z: Zombie) {
        let p = *z.state;
        self.drop_rings(&p);
        if p.arena {
            self.leave_arena(p.region);
        }
        self.ports.free_id(z.port.0);
        self.leave_region(p.region);
    }

    /// Frees a port's rings with their buffers.
    pub(super) fn drop_rings(&mut self, p: &Port) {
        let mut dying = BTreeSet::new();
        let mut named = Vec::new();
        let mut expect = 0;
        for r in p.rx.iter().chain(&p.tx) {
            dying.insert(Holder::kring(r.kring).bits());
            dying.insert(Holder::stock(r.kring).bits());
            expect += u32::from(r.bufs) + r.stock;
            named.extend(self.slots_of(p.region, r));
        }
        self.free_buffers(p.region, &dying, &named, expect);
        self.free_rings(p.region, &p.rx);
        self.free_rings(p.region, &p.tx);
    }

    pub(super) fn slots_of(&self, region: u16, r: &RingState) -> Vec<u32> {
        let Some(map) = self.regions.get(u32::from(region)).map(|r| &r.map) else {
            return Vec::new();
        };
        if r.bufs == 0 {
            return Vec::new();
        }
        let ofs = map.geom.ring_ofs(r.obj);
        let Some(ring) = map.ring(ofs, u32::from(r.slots)) else {
            return Vec::new();
        };
        (0..ring.count()).map(|i| ring.slot(i).buf()).collect()
    }

    /// Frees ring objects and hidden states (not the buffers).
    fn free_rings(&mut self, region: u16, rings: &[RingState]) {
        for r in rings {
            self.krings.put(r.kring.0);
            if let Some(reg) = self.regions.get_mut(u32::from(region)) {
                reg.rings.put(r.obj);
            }
        }
    }

    /// Frees the buffers that `dying` hold: `expect` of them. `named` are those
    /// that their slots and lists name, which is all of them unless a program
    /// moved buffers between its own ports, or died doing so:
    ///
    /// * named, but held by a living ring that has it in no slot: the two were
    ///   exchanged, so ours is freed in its place;
    /// * held by the dying, but named by a living ring: that ring keeps it.
    ///
    /// In a region that is not shared nothing moves, and all goes at once.
    fn free_buffers(&mut self, region: u16, dying: &BTreeSet<u32>, named: &[u32], expect: u32) {
        let Some(r) = self.regions.get(u32::from(region)) else {
            return;
        };
        let bufs = r.map.geom.bufs;
        let Some(holders) = r.map.shared.and_then(|s| self.world.holders(s, bufs)) else {
            for &b in named {
                if let Some(r) = self.regions.get_mut(u32::from(region))
                    && b >= RESERVED_BUFS
                {
                    r.bufs.put(b);
                }
            }
            return;
        };
        let holder = |b: u32| holders.get(b as usize).map_or(0, |h| h.load(Acquire));
        let mut free = BTreeSet::new();
        let mut foreign = BTreeSet::new();
        for &b in named.iter().filter(|&&b| b >= RESERVED_BUFS && b < bufs) {
            if dying.contains(&holder(b)) {
                free.insert(b);
            } else if r.bufs.has(b) {
                foreign.insert(b);
            }
        }
        if free.len() != expect as usize || !foreign.is_empty() {
            let top = r.bufs.high_water();
            let missing: Vec<u32> = (RESERVED_BUFS..top)
                .filter(|&b| dying.contains(&holder(b)) && !free.contains(&b))
                .collect();
            let others: BTreeSet<u32> = foreign.iter().map(|&b| holder(b)).collect();
            let theirs = self.named_by(region, &others);
            for b in missing {
                match theirs.get(&b) {
                    Some(&new) => holders[b as usize].store(new, Release),
                    None => {
                        free.insert(b);
                    }
                }
            }
            for b in foreign {
                if !theirs.contains_key(&b) {
                    free.insert(b);
                }
            }
        }
        for &b in &free {
            holders[b as usize].store(Holder::FREE.bits(), Release);
        }
        if let Some(r) = self.regions.get_mut(u32::from(region)) {
            for b in free {
                r.bufs.put(b);
            }
        }
    }

    /// Buffers that the slots and lists of these holders name.
    fn named_by(&self, region: u16, holders: &BTreeSet<u32>) -> BTreeMap<u32, u32> {
        let mut named = BTreeMap::new();
        for &h in holders {
            let holder = Holder::from_bits(h);
            if let Some(owner) = holder.as_extra() {
                let o = self.owners.get(u32::from(owner));
                if let Some(b) = o.and_then(|o| o.bound.as_ref()) {
                    named.extend(self.extra_list(region, b.nif).into_iter().map(|b| (b, h)));
                }
            } else if let Some(kring) = holder.as_kring() {
                let ring = self
                    .ports
                    .iter()
                    .filter(|(_, p)| p.region == region)
                    .flat_map(|(_, p)| p.tx.iter().chain(&p.rx))
                    .find(|r| r.kring == kring);
                if let Some(r) = ring {
                    named.extend(self.slots_of(region, r).into_iter().map(|b| (b, h)));
                }
            }
        }
        named
    }

    /// Takes a monitor's rings out of the lists of what it watches.
    fn unlink_monitor(&self, id: PortId) {
        let Some(m) = self.port(id) else { return };
        let Some(watched) = m.watches.and_then(|w| self.port(w)) else {
            return;
        };
        for mine in &m.rx {
            for (dir, is_tx) in [(&watched.tx, true), (&watched.rx, false)] {
                for ring in dir {
                    self.unlink(ring.kring, mine.kring, is_tx);
                }
            }
        }
    }

    fn unlink(&self, watched: KringId, monitor: KringId, is_tx: bool) {
        let Some(ring) = self.world.kring(watched) else {
            return;
        };
        let next_of = |k: KringId| self.world.kring(k).and_then(|k| k.next_monitor(is_tx));
        if ring.monitors() == Some(monitor) {
            ring.set_monitors(next_of(monitor));
            return;
        }
        let mut at = ring.monitors();
        for _ in 0..self.config.state.krings {
            let Some(k) = at else { return };
            let next = next_of(k);
            if next == Some(monitor) {
                if let Some(k) = self.world.kring(k) {
                    k.set_next_monitor(is_tx, next_of(monitor));
                }
                return;
            }
            at = next;
        }
    }

    /// Monitors of a port that goes see nothing any more.
    fn orphan_monitors(&mut self, id: PortId) {
        let Some(p) = self.port(id) else { return };
        let mut gone = Vec::new();
        for (rings, tx) in [(&p.tx, true), (&p.rx, false)] {
            for kring in rings.iter().filter_map(|r| self.world.kring(r.kring)) {
                monitor::orphan(&self.world, kring, tx, |id| gone.push(id));
            }
        }
        for kring in gone.into_iter().filter_map(|id| self.world.kring(id)) {
            self.wake_later(kring);
        }
        let theirs: Vec<u32> = self
            .ports
            .iter()
            .filter(|(_, m)| m.watches == Some(id))
            .map(|(i, _)| i)
            .collect();
        for i in theirs {
            if let Some(m) = self.ports.get_mut(i) {
                m.watches = None;
            }
        }
    }
}
