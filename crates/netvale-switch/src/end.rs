//! The ends of rings: what a party holds to sync one TX or RX ring, in
//! whatever context it runs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

use netvale_ring::kring::{Counter, Kring, KringId, KringWindow};
use netvale_ring::pipe::{self, End};
use netvale_ring::port::{PortId, PortKind};
use netvale_ring::slot::RingWindow;
use netvale_ring::sync::prologue;
use netvale_ring::world::{Holder, Party, RegionMap, RegionSource, Regions, Waker, World};
use netvale_ring::{Ring, Slot, idle, rx};

use crate::domain::{Registration, RingInfo};
use crate::vale::{Scratch, TxRing};

/// What running the engine takes beside the rings themselves.
#[derive(Clone)]
pub struct Gear {
    /// Hidden state of the namespace.
    pub world: World,
    /// Where the regions of others come from.
    pub source: Arc<dyn RegionSource>,
    /// How sleepers are woken.
    pub waker: Arc<dyn Waker>,
}

impl fmt::Debug for Gear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gear").finish_non_exhaustive()
    }
}

/// Why a sync moved nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The ring's `head` or `cur` broke the rules; the ring was put right.
    #[error("the ring's head or cur was outside the slots that the program owns")]
    BadWords,
    /// The port is gone: its server, its namespace or what it was part of.
    #[error("the port is gone")]
    Gone,
    /// Monitors do not send.
    #[error("a monitor's ring cannot send")]
    Monitor,
    /// Another thread or process is in the middle of a sync of this ring;
    /// what it does serves both.
    #[error("the ring is being synced by another thread")]
    Locked,
}

/// Brings the data of slots that a program flagged NS_INDIRECT: it lies at the
/// address in the slot's `ptr`, in the memory of the process that sends.
pub trait Indirect: Send + Sync {
    /// Fills `dst` from the program's address `ptr`. `false` if it is not all
    /// mapped there: then nobody sees what was written to `dst`. Must neither
    /// fault nor block.
    fn fetch(&self, ptr: u64, dst: &mut [u8]) -> bool;
}

/// What both ends have in common.
#[derive(Debug)]
struct Common {
    world: World,
    regions: Regions,
    map: RegionMap,
    owner: u16,
    /// What locks say while we hold them: process, owner.
    name: u64,
    port: PortId,
    kind: PortKind,
    id: KringId,
    kring: KringWindow,
    ring: RingWindow,
    slots: u32,
    idx: u16,
    waker: DebugWaker,
}

#[derive(Clone)]
struct DebugWaker(Arc<dyn Waker>);

impl fmt::Debug for DebugWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

impl Common {
    fn new(gear: &Gear, reg: &Registration, ring: &RingInfo, map: &RegionMap) -> Option<Self> {
        let ofs = usize::try_from(ring.ofs).ok()?;
        let slots = u32::from(ring.slots);
        Some(Self {
            world: gear.world.clone(),
            regions: Regions::new(Arc::clone(&gear.source)),
            map: map.clone(),
            owner: reg.owner,
            // Owners begin at 1, so the word is never 0 while locked.
            name: u64::from(gear.waker.process()) << 32 | u64::from(reg.owner),
            port: reg.port,
            kind: reg.kind,
            id: ring.kring,
            // Checked here once; the mapping never shrinks.
            kring: gear.world.kring_window(ring.kring)?,
            ring: RingWindow::at(&map.mem, ofs, slots)?,
            slots,
            idx: ring.idx,
            waker: DebugWaker(Arc::clone(&gear.waker)),
        })
    }

    #[inline]
    fn end(&self) -> End<'_> {
        End {
            id: self.id,
            kring: self.kring.get(),
            ring: self.ring.get(),
        }
    }

    /// What the ring belonged to is gone: a monitor's port, a device.
    #[inline]
    fn is_gone(&self) -> bool {
        matches!(self.kind, PortKind::Monitor | PortKind::Pipe) && self.kring.get().is_gone()
    }

    #[inline]
    fn party(&self) -> Party<'_> {
        Party {
            world: &self.world,
            regions: &self.regions,
            own: &self.map,
            waker: &*self.waker.0,
            owner: self.owner,
        }
    }
}

/// A lock on a ring, given back when dropped.
struct Locked<'a>(End<'a>);

impl<'a> Locked<'a> {
    #[inline]
    fn take(end: End<'a>, c: &Common) -> Option<Self> {
        match end.kring.try_lock(c.name) {
            Ok(()) => Some(Self(end)),
            Err(held) => Self::inherit(end, c, held),
        }
    }

    /// A forked process may die while the registration that it shared with
    /// others lives on: the server does not see that, its relatives do.
    #[cold]
    fn inherit(end: End<'a>, c: &Common, held: u64) -> Option<Self> {
        let relative = held & 0xffff == u64::from(c.owner) && held != c.name;
        let process = u32::try_from(held >> 32).unwrap_or(0);
        let dead = relative && process != 0 && c.waker.0.is_gone(process);
        (dead && end.kring.inherit_lock(held, c.name)).then_some(Self(end))
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.kring.unlock();
    }
}

/// The system's side of a TX ring.
#[derive(Debug)]
pub struct TxEnd {
    common: Common,
    scratch: Box<Scratch>,
}

impl TxEnd {
    /// For one ring of a registration; `None` if it does not lie in `map`.
    #[must_use]
    pub fn new(gear: &Gear, reg: &Registration, ring: &RingInfo, map: &RegionMap) -> Option<Self> {
        Some(Self {
            common: Common::new(gear, reg, ring, map)?,
            scratch: Scratch::new(),
        })
    }

    /// Looks frames up with this function on switches whose look-up is
    /// [`crate::switch::LookupKind::Custom`].
    pub fn set_lookup(&mut self, lookup: Arc<dyn crate::lookup::Lookup>) {
        self.scratch.set_lookup(lookup);
    }

    /// Brings the data of NS_INDIRECT slots with this function. Without one,
    /// such slots are empty. Only ports of switches take them.
    pub fn set_indirect(&mut self, from: Arc<dyn Indirect>) {
        self.scratch.set_indirect(from);
    }

    /// The ring as the program sees it.
    #[inline]
    #[must_use]
    pub fn ring(&self) -> Ring<'_> {
        self.common.ring.get()
    }

    /// Its hidden state.
    #[inline]
    #[must_use]
    pub fn kring(&self) -> Kring<'_> {
        self.common.kring.get()
    }

    /// Sets the program's words to where the engine is: what was queued and not
    /// synced is lost.
    pub fn rewind(&self) {
        let end = self.common.end();
        let (head, tail) = end.kring.hw();
        rewind(end.ring, head, tail);
    }

    /// A pipe's: hidden state of the ring that receives what this one sends.
    #[must_use]
    pub fn receiver(&self) -> Option<Kring<'_>> {
        let c = &self.common;
        match c.kind {
            PortKind::Pipe => c.kring.get().peer().and_then(|id| c.world.kring(id)),
            _ => None,
        }
    }

    /// Whether a sync would do nothing: the program queued nothing since the
    /// last one, its words keep to the rules, and no slots have come back. A
    /// few loads.
    #[inline]
    #[must_use]
    pub fn idle(&self) -> bool {
        let c = &self.common;
        match c.kind {
            PortKind::Vale | PortKind::Null | PortKind::Monitor => {
                idle::tx(c.kring.get(), c.ring.get())
            }
            PortKind::Pipe => !c.is_gone() && idle::pipe_tx(&c.world, c.end()),
            PortKind::None => false,
        }
    }

    /// Sends every slot up to the program's `head`. Slots taken from it.
    ///
    /// # Errors
    ///
    /// [`SyncError`]; nothing moved. A monitor's ring fails even if nothing is
    /// queued: ask [`TxEnd::idle`] first where that is no error.
    #[inline]
    pub fn sync(&mut self) -> Result<u32, SyncError> {
        if self.common.kind == PortKind::Vale {
            let (kring, ring) = (self.common.kring.get(), self.common.ring.get());
            return if idle::tx(kring, ring) {
                Ok(0)
            } else {
                self.sync_vale()
            };
        }
        if self.common.kind != PortKind::Monitor && self.idle() {
            return Ok(0);
        }
        self.sync_other()
    }

    // Not inlined: what the caller keeps in registers is of no use here.
    #[inline(never)]
    fn sync_vale(&mut self) -> Result<u32, SyncError> {
        let end = self.common.end();
        let Some(lock) = Locked::take(end, &self.common) else {
            return Err(SyncError::Locked);
        };
        let c = &self.common;
        if self
            .scratch
            .send_one(&c.world, &c.map, &c.waker.0, c.owner, lock.0)
        {
            return Ok(1);
        }
        Self::send_all(c, lock.0, &mut self.scratch)
    }

    #[inline(never)]
    fn send_all(c: &Common, end: End<'_>, scratch: &mut Scratch) -> Result<u32, SyncError> {
        let tx = TxRing {
            end,
            port: c.port,
            idx: c.idx,
        };
        let sent = crate::vale::txsync(&c.party(), &tx, scratch);
        sent.map_err(|_bad| SyncError::BadWords)
    }

    #[inline(never)]
    fn sync_other(&mut self) -> Result<u32, SyncError> {
        let end = self.common.end();
        if self.common.kind == PortKind::Pipe && self.common.is_gone() {
            return Err(SyncError::Gone);
        }
        let Some(lock) = Locked::take(end, &self.common) else {
            return Err(SyncError::Locked);
        };
        let party = self.common.party();
        let sent = match self.common.kind {
            PortKind::Pipe => pipe::txsync(&party, lock.0).map(|m| m.slots),
            PortKind::Null => {
                let (hwcur, hwtail) = end.kring.hw();
                prologue(end.ring, party.own, hwcur, hwtail).map(|_| 0)
            }
            PortKind::Monitor => return Err(SyncError::Monitor),
            PortKind::Vale | PortKind::None => return Err(SyncError::Gone),
        };
        sent.map_err(|_bad| SyncError::BadWords)
    }
}

fn rewind(ring: Ring<'_>, head: u32, tail: u32) {
    if head < ring.count() && tail < ring.count() {
        ring.reset_head_cur(head);
        ring.set_tail(tail);
    }
}

/// The system's side of an RX ring.
#[derive(Debug)]
pub struct RxEnd {
    common: Common,
    /// Pipes: what the receiver has been shown.
    shown: pipe::Shown,
}

impl RxEnd {
    /// For one ring of a registration; `None` if it does not lie in `map`.
    #[must_use]
    pub fn new(gear: &Gear, reg: &Registration, ring: &RingInfo, map: &RegionMap) -> Option<Self> {
        Some(Self {
            common: Common::new(gear, reg, ring, map)?,
            shown: match reg.kind {
                PortKind::Pipe => pipe::Shown::new(u32::from(ring.slots)),
                _ => pipe::Shown::default(),
            },
        })
    }

    /// The ring as the program sees it.
    #[inline]
    #[must_use]
    pub fn ring(&self) -> Ring<'_> {
        self.common.ring.get()
    }

    /// Its hidden state.
    #[inline]
    #[must_use]
    pub fn kring(&self) -> Kring<'_> {
        self.common.kring.get()
    }

    /// Sets the program's words to where the engine is: what was released and
    /// not synced is the program's again.
    pub fn rewind(&self) {
        let end = self.common.end();
        let kring = end.kring;
        match self.common.kind {
            PortKind::Pipe => rewind(end.ring, kring.rhead().idx(), kring.hw().1),
            _ => rewind(end.ring, kring.released().idx(), kring.cursor().tail.idx()),
        }
    }

    /// Whether a sync would do nothing: the program released nothing since the
    /// last one, its words keep to the rules, and nothing has come. A few loads.
    #[inline]
    #[must_use]
    pub fn idle(&self) -> bool {
        let c = &self.common;
        match c.kind {
            PortKind::Vale | PortKind::Null => idle::rx(c.kring.get(), c.ring.get()),
            PortKind::Monitor => !c.is_gone() && idle::rx(c.kring.get(), c.ring.get()),
            PortKind::Pipe => !c.is_gone() && idle::pipe_rx(c.end()),
            PortKind::None => false,
        }
    }

    /// Gives released slots back and looks for new frames. The ring's tail.
    ///
    /// # Errors
    ///
    /// [`SyncError`]. With [`SyncError::BadWords`] nothing was released, but
    /// new frames are shown all the same. [`SyncError::Gone`] from a monitor
    /// whose port is gone, and from a port whose device is.
    #[inline]
    pub fn sync(&mut self) -> Result<u32, SyncError> {
        if self.common.kind == PortKind::Vale {
            let (kring, ring) = (self.common.kring.get(), self.common.ring.get());
            return if idle::rx(kring, ring) {
                Ok(ring.tail())
            } else {
                self.sync_vale()
            };
        }
        if self.idle() {
            return Ok(self.common.ring.get().tail());
        }
        self.sync_other()
    }

    // Not inlined: what the caller keeps in registers is of no use here.
    #[inline(never)]
    fn sync_vale(&mut self) -> Result<u32, SyncError> {
        let Some(lock) = Locked::take(self.common.end(), &self.common) else {
            return Err(SyncError::Locked);
        };
        match rx::next_batch(lock.0) {
            Some(tail) => Ok(tail),
            None => Self::receive_all(&self.common, lock.0),
        }
    }

    #[inline(never)]
    fn receive_all(c: &Common, end: End<'_>) -> Result<u32, SyncError> {
        rx::rxsync(&c.party(), end).map_err(|_bad| SyncError::BadWords)
    }

    #[inline(never)]
    fn sync_other(&mut self) -> Result<u32, SyncError> {
        let end = self.common.end();
        if self.common.is_gone() {
            return Err(SyncError::Gone);
        }
        let Some(lock) = Locked::take(end, &self.common) else {
            return Err(SyncError::Locked);
        };
        let party = self.common.party();
        let tail = match self.common.kind {
            PortKind::Vale | PortKind::Monitor => rx::rxsync(&party, lock.0),
            PortKind::Pipe => pipe::rxsync(&party, lock.0, &mut self.shown),
            PortKind::Null => {
                let (released, tail) = (end.kring.released(), end.kring.cursor().tail);
                prologue(end.ring, party.own, released.idx(), tail.idx()).map(|_| tail.idx())
            }
            PortKind::None => return Err(SyncError::Gone),
        };
        tail.map_err(|_bad| SyncError::BadWords)
    }

    /// Whether a sync would show new frames. Changes nothing and takes no lock.
    #[must_use]
    pub fn has_news(&self) -> bool {
        let end = self.common.end();
        if self.common.kind == PortKind::Pipe {
            return end.kring.pipe_tail().idx() != end.ring.tail();
        }
        let cursor = end.kring.cursor();
        end.kring
            .resv(self.common.slots)
            .is_some_and(|r| r.collect(cursor).cursor.tail != cursor.tail)
    }

    /// Whether slots were given out to senders that have not published them:
    /// if nothing arrives for long, one of them may be dead.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let end = self.common.end();
        self.common.kind != PortKind::Pipe
            && end
                .kring
                .resv(self.common.slots)
                .is_some_and(|r| r.given_out() != end.kring.cursor().tail)
    }

    /// Completes the reservations of dead senders with empty slots, when there
    /// is no server left to do it. `dead` is told an owner and its process.
    /// Returns the slots repaired.
    pub fn repair(&mut self, dead: impl Fn(u16, u32) -> bool) -> u32 {
        let c = &self.common;
        let end = c.end();
        let Some(lock) = Locked::take(end, c) else {
            return 0;
        };
        let Some(resv) = lock
            .0
            .kring
            .resv(c.slots)
            .filter(|_| c.kind != PortKind::Pipe)
        else {
            return 0;
        };
        let holders = c
            .map
            .shared
            .and_then(|s| c.world.holders(s, c.map.geom.bufs));
        resv.repair(
            || lock.0.kring.cursor(),
            |owner| {
                let word = c.world.owner(owner).map_or(0, |w| w.load(Acquire));
                dead(owner, u32::try_from(word & 0xffff_ffff).unwrap_or(0))
            },
            |at| {
                let buf = lock.0.ring.slot(at).buf();
                if let Some(h) = holders.and_then(|h| h.get(buf as usize)) {
                    h.store(Holder::kring(c.id).bits(), Relaxed);
                }
                lock.0.ring.set_slot(at, Slot::new(buf, 0, 0));
            },
        )
    }

    /// Times its words broke the rules or the hidden state contradicted itself.
    #[must_use]
    pub fn faults(&self) -> u64 {
        let kring = self.common.kring.get();
        let words = kring.counter(Counter::FaultWords);
        words.wrapping_add(kring.counter(Counter::FaultState))
    }
}
