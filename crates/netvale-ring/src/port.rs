//! Port records: what every party must know of every port.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::kring::KringId;
use crate::layout::PORT_REC;
use crate::world::World;

/// Identifies a port in the whole namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// What a port is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum PortKind {
    /// Nothing: an entry that is free.
    #[default]
    None = 0,
    /// A port of a switch, or one that could be attached to a switch.
    Vale = 1,
    /// One end of a pipe.
    Pipe = 2,
    /// Watches another port.
    Monitor = 3,
    /// Moves nothing; holds rings and buffers.
    Null = 4,
}

impl PortKind {
    /// Word shown to users.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Vale => "vale",
            Self::Pipe => "pipe",
            Self::Monitor => "monitor",
            Self::Null => "null",
        }
    }

    const fn from_bits(v: u64) -> Self {
        match v & 0xff {
            1 => Self::Vale,
            2 => Self::Pipe,
            3 => Self::Monitor,
            4 => Self::Null,
            _ => Self::None,
        }
    }
}

/// A run of rings: the first one's identifier and their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rings {
    /// Identifier of ring 0; the others follow.
    pub first: u32,
    /// Rings.
    pub count: u16,
}

impl Rings {
    /// The identifier of ring `i` modulo their number, if there are any.
    #[inline]
    #[must_use]
    pub fn wrap(self, i: u16) -> Option<KringId> {
        match self.count {
            0 => None,
            1 => Some(KringId(self.first)),
            n => Some(KringId(self.first.wrapping_add(u32::from(i % n)))),
        }
    }
    /// The identifier of ring `i`.
    #[must_use]
    pub fn get(self, i: u16) -> Option<KringId> {
        (i < self.count).then(|| KringId(self.first.wrapping_add(u32::from(i))))
    }
    /// All identifiers.
    pub fn iter(self) -> impl Iterator<Item = KringId> {
        (0..self.count).map(move |i| KringId(self.first.wrapping_add(u32::from(i))))
    }
}

/// A view of one port's record. Written by the control plane only, but lies
/// in shared memory: values are anything until checked.
#[derive(Debug, Clone, Copy)]
pub struct PortRec<'a>(&'a [AtomicU64; 16]);

mod word {
    pub(super) const STATE: usize = 0;
    pub(super) const SWITCH: usize = 1;
    pub(super) const TX: usize = 2;
    pub(super) const RX: usize = 3;
    pub(super) const OPTS: usize = 4;
    pub(super) const LAST_SRC: usize = 8;
}

/// Where a port sits in a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Switch.
    pub switch: u16,
    /// Index in it.
    pub idx: u16,
}

/// What the engine must know of a port's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opts {
    /// virtio-net header length: 0, 10 or 12 bytes.
    pub vnet_hdr: u8,
    /// Its senders give their buffers away.
    pub gives_buffers: bool,
    /// Largest frame it takes, without that header. Bytes.
    pub max_frame: u32,
}

impl PortId {
    /// Its record; `None` beyond the table.
    #[inline]
    #[must_use]
    pub fn rec(self, world: &World) -> Option<PortRec<'_>> {
        if self.0 >= world.geom().ports {
            return None;
        }
        let at = world.offsets().ports + self.0 as usize * PORT_REC;
        let words = world.mem().array(at)?;
        Some(PortRec(words))
    }
}

impl PortRec<'_> {
    /// Kind; [`PortKind::None`] if the entry is free.
    #[inline]
    #[must_use]
    pub fn kind(self) -> PortKind {
        PortKind::from_bits(self.0[word::STATE].load(Acquire))
    }
    /// Sets it; last when a port is made, first when it goes.
    pub fn set_kind(self, kind: PortKind) {
        self.0[word::STATE].store(kind as u64, Release);
    }
    /// Its place in a switch.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit fields")]
    pub fn seat(self) -> Option<Seat> {
        let w = self.0[word::SWITCH].load(Acquire);
        (w & 1 << 32 != 0).then_some(Seat {
            switch: w as u16,
            idx: (w >> 16) as u16,
        })
    }
    /// Sets it.
    pub fn set_seat(self, seat: Option<Seat>) {
        let w = seat.map_or(0, |s| {
            u64::from(s.switch) | u64::from(s.idx) << 16 | 1 << 32
        });
        self.0[word::SWITCH].store(w, Release);
        self.0[word::LAST_SRC].store(0, Relaxed);
    }
    /// TX rings.
    #[inline]
    #[must_use]
    pub fn tx(self) -> Rings {
        rings(&self.0[word::TX])
    }
    /// RX rings.
    #[inline]
    #[must_use]
    pub fn rx(self) -> Rings {
        rings(&self.0[word::RX])
    }
    /// Sets both.
    pub fn set_rings(self, tx: Rings, rx: Rings) {
        let bits = |r: Rings| u64::from(r.first) | u64::from(r.count) << 32;
        self.0[word::TX].store(bits(tx), Relaxed);
        self.0[word::RX].store(bits(rx), Relaxed);
    }
    /// Traffic options.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit fields")]
    pub fn opts(self) -> Opts {
        let w = self.0[word::OPTS].load(Relaxed);
        Opts {
            vnet_hdr: match w as u8 {
                h @ (10 | 12) => h,
                _ => 0,
            },
            gives_buffers: w & 1 << 8 != 0,
            max_frame: (w >> 32) as u32,
        }
    }
    /// Sets them.
    pub fn set_opts(self, o: Opts) {
        let w =
            u64::from(o.vnet_hdr) | u64::from(o.gives_buffers) << 8 | u64::from(o.max_frame) << 32;
        self.0[word::OPTS].store(w, Relaxed);
    }
    /// The station that this port taught its switch last, and when (epoch).
    #[inline]
    #[must_use]
    pub fn last_src(self) -> u64 {
        self.0[word::LAST_SRC].load(Relaxed)
    }
    /// Remembers it.
    #[inline]
    pub fn set_last_src(self, v: u64) {
        self.0[word::LAST_SRC].store(v, Relaxed);
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "bit fields")]
fn rings(word: &AtomicU64) -> Rings {
    let w = word.load(Acquire);
    Rings {
        first: w as u32,
        count: (w >> 32) as u16,
    }
}
