//! Positions in a ring: a slot index that remembers its lap.

/// Most slots a ring can have (netmap's limit for VALE ports and pipes).
pub const MAX_SLOTS: u32 = 4096;

const IDX_BITS: u32 = 12;
const IDX_MASK: u32 = (1 << IDX_BITS) - 1;
const LAP_MASK: u32 = u32::MAX >> IDX_BITS;

/// A slot index (12 bits) and the lap it belongs to (20 bits, wrapping).
///
/// Rings may have any number of slots, so a plain counter modulo the size
/// would jump when it wraps; lap and index never do. Every value read from
/// shared memory is a valid `Pos`, though its index may be beyond the ring:
/// users index with `get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pos(u32);

impl Pos {
    /// The position of slot `idx` in lap `lap` (both cut to their width).
    #[inline]
    #[must_use]
    pub const fn new(lap: u32, idx: u32) -> Self {
        Self((lap & LAP_MASK) << IDX_BITS | (idx & IDX_MASK))
    }

    /// As stored.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// To be stored.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Slot index, below [`MAX_SLOTS`].
    #[inline]
    #[must_use]
    pub const fn idx(self) -> u32 {
        self.0 & IDX_MASK
    }

    /// Lap, below 2^20.
    #[inline]
    #[must_use]
    pub const fn lap(self) -> u32 {
        self.0 >> IDX_BITS
    }

    /// The position `n <= slots` further on in a ring of `slots`.
    #[inline]
    #[must_use]
    pub const fn add(self, n: u32, slots: u32) -> Self {
        let idx = self.idx() + n;
        if idx >= slots {
            Self::new(self.lap().wrapping_add(1), idx - slots)
        } else {
            Self::new(self.lap(), idx)
        }
    }

    /// The position `n <= slots` before.
    #[inline]
    #[must_use]
    pub const fn sub(self, n: u32, slots: u32) -> Self {
        let idx = self.idx();
        if n > idx {
            Self::new(self.lap().wrapping_sub(1), (idx + slots).wrapping_sub(n))
        } else {
            Self::new(self.lap(), idx - n)
        }
    }

    /// Slots from `self` forward to `to`. Correct up to half the laps; a value
    /// larger than the ring means that one of the two is not to be trusted.
    #[inline]
    #[must_use]
    pub const fn distance(self, to: Self, slots: u32) -> u32 {
        let laps = to.lap().wrapping_sub(self.lap()) & LAP_MASK;
        laps.wrapping_mul(slots)
            .wrapping_add(to.idx())
            .wrapping_sub(self.idx())
    }

    /// First slot of the next lap: where a reopened ring begins, so that
    /// nothing left from before can be taken for new.
    #[inline]
    #[must_use]
    pub const fn next_lap(self) -> Self {
        Self::new(self.lap().wrapping_add(1), 0)
    }
}

/// Whether lap `a` lies before lap `b` (20-bit circular order).
#[inline]
#[must_use]
pub(crate) const fn lap_before(a: u32, b: u32) -> bool {
    let ahead = lap_age(a, b);
    ahead != 0 && ahead <= LAP_MASK / 2
}

/// Laps from `a` forward to `b`.
#[inline]
#[must_use]
pub(crate) const fn lap_age(a: u32, b: u32) -> u32 {
    b.wrapping_sub(a) & LAP_MASK
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wraps_at_the_last_lap() {
        let last = Pos::new(LAP_MASK, 9);
        let next = last.add(3, 10);
        assert_eq!((next.lap(), next.idx()), (0, 2));
        assert_eq!(next.sub(3, 10), last);
        assert_eq!(last.distance(next, 10), 3);
        assert!(lap_before(LAP_MASK, 0));
        assert!(!lap_before(0, LAP_MASK));
        assert!(!lap_before(5, 5));
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_counter(slots in 2u32..=MAX_SLOTS, start in 0u64..1 << 31, n in 0u32..MAX_SLOTS) {
            let n = n % slots;
            let at = |c: u64| {
                let lap = u32::try_from(c / u64::from(slots)).unwrap();
                Pos::new(lap, u32::try_from(c % u64::from(slots)).unwrap())
            };
            let (a, b) = (at(start), at(start + u64::from(n)));
            prop_assert_eq!(a.add(n, slots), b);
            prop_assert_eq!(b.sub(n, slots), a);
            prop_assert_eq!(a.distance(b, slots), n);
        }

        #[test]
        fn never_panics_on_foreign_bits(a: u32, b: u32, slots in 0u32..=MAX_SLOTS, n in 0u32..=MAX_SLOTS) {
            let (a, b) = (Pos::from_bits(a), Pos::from_bits(b));
            let _ = a.distance(b, slots);
            if n <= slots {
                let _ = a.add(n, slots);
                let _ = b.sub(n, slots);
            }
        }
    }
}
