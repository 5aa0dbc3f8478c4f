//! A switch's tables in the hidden state.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use netvale_ring::layout::{FDB_ENTRIES, SWITCH, SWITCH_HEAD, SWITCH_PORTS};
use netvale_ring::port::PortId;
use netvale_ring::world::World;

use crate::fdb::{Fdb, FdbWindow};

/// Head words, by index.
mod word {
    pub(super) const TOP: usize = 0;
    pub(super) const LOOKUP: usize = 1;
}

/// How a switch finds a frame's destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum LookupKind {
    /// Learns stations from the source addresses it sees.
    #[default]
    Learning = 0,
    /// Only stations that were entered by hand; unknown ones are dropped.
    Static = 1,
    /// Learns; spreads flows over the destination's rings by their hash.
    HashToRing = 2,
    /// A look-up function of the embedding program.
    Custom = 3,
}

/// A switch.
#[derive(Debug, Clone, Copy)]
pub struct Switch<'a> {
    head: &'a [AtomicU64; SWITCH_HEAD],
    ports: &'a [AtomicU64; SWITCH_PORTS as usize],
    fdb: Fdb<'a>,
}

impl<'a> Switch<'a> {
    /// Switch `s`; `None` beyond the table.
    #[inline]
    #[must_use]
    pub fn at(world: &'a World, s: u16) -> Option<Self> {
        let g = world.geom();
        let s = u32::from(s);
        if s >= g.switches {
            return None;
        }
        let at = world.offsets().switches + s as usize * SWITCH;
        let fdb = at + SWITCH - FDB_ENTRIES as usize * 8;
        Some(Self {
            head: world.mem().array(at)?,
            ports: world.mem().array(at + SWITCH_HEAD * 8)?,
            fdb: Fdb::new(world.mem().array(fdb)?),
        })
    }

    /// The learning table of switch `s`, checked once.
    #[must_use]
    pub fn fdb_window(world: &World, s: u16) -> Option<FdbWindow> {
        if u32::from(s) >= world.geom().switches {
            return None;
        }
        let at = world.offsets().switches + usize::from(s) * SWITCH;
        let fdb = at + SWITCH - FDB_ENTRIES as usize * 8;
        world.mem().array_window(fdb).map(FdbWindow)
    }

    /// Its learning table.
    #[inline]
    #[must_use]
    pub fn fdb(self) -> Fdb<'a> {
        self.fdb
    }

    /// The port with index `idx`.
    #[inline]
    #[must_use]
    pub fn port(self, idx: u16) -> Option<PortId> {
        let w = self.ports.get(usize::from(idx))?.load(Acquire);
        u32::try_from(w).ok()?.checked_sub(1).map(PortId)
    }

    /// Puts a port at `idx`, or takes it away.
    pub fn set_port(self, idx: u16, port: Option<PortId>) {
        if let Some(w) = self.ports.get(usize::from(idx)) {
            w.store(port.map_or(0, |p| u64::from(p.0) + 1), Release);
        }
        let top = (0..self.ports.len())
            .rev()
            .find(|&i| self.ports[i].load(Relaxed) != 0)
            .map_or(0, |i| i + 1);
        self.head[word::TOP].store(top as u64, Release);
    }

    /// One past the highest index in use.
    #[inline]
    #[must_use]
    pub fn top(self) -> u16 {
        let top = self.head[word::TOP]
            .load(Acquire)
            .min(u64::from(SWITCH_PORTS));
        u16::try_from(top).unwrap_or(0)
    }

    /// How destinations are found.
    #[inline]
    #[must_use]
    pub fn lookup(self) -> LookupKind {
        match self.head[word::LOOKUP].load(Relaxed) {
            1 => LookupKind::Static,
            2 => LookupKind::HashToRing,
            3 => LookupKind::Custom,
            _ => LookupKind::Learning,
        }
    }

    /// Sets it.
    pub fn set_lookup(self, kind: LookupKind) {
        self.head[word::LOOKUP].store(kind as u64, Relaxed);
    }

    /// Clears the tables of a switch that is made or gone.
    pub fn clear(self) {
        self.fdb.retain(|_| true);
        self.set_lookup(LookupKind::Learning);
    }
}
