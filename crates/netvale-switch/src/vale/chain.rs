//! Chains: frames of a batch that go the same way.

use netvale_ring::deliver::Ent;

/// End of a chain.
pub(super) const NIL: u16 = u16::MAX;

/// Frames of a batch that go the same way, linked through their entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) frames: u16,
    pub(super) slots: u16,
}

impl Chain {
    pub(super) const EMPTY: Self = Self {
        first: NIL,
        last: NIL,
        frames: 0,
        slots: 0,
    };

    #[inline]
    pub(super) fn append(&mut self, ents: &mut [Ent], i: u16, frags: u8) {
        if self.first == NIL {
            self.first = i;
        } else if let Some(last) = ents.get_mut(usize::from(self.last)) {
            last.next = i;
        }
        self.last = i;
        self.frames += 1;
        self.slots += u16::from(frags);
    }

    pub(super) fn walk(self, ents: &[Ent]) -> Walk<'_> {
        Walk {
            ents,
            at: self.first,
        }
    }
}

/// A chain's frames, by the index of their first entry.
#[derive(Clone)]
pub(super) struct Walk<'a> {
    pub(super) ents: &'a [Ent],
    pub(super) at: u16,
}

impl Iterator for Walk<'_> {
    type Item = usize;
    #[inline]
    fn next(&mut self) -> Option<usize> {
        let i = usize::from(self.at);
        let ent = self.ents.get(i)?;
        self.at = ent.next;
        Some(i)
    }
}

/// Two chains in the order in which their frames were sent.
#[derive(Clone)]
pub(super) struct Merged<'a> {
    pub(super) a: core::iter::Peekable<Walk<'a>>,
    pub(super) b: core::iter::Peekable<Walk<'a>>,
}

impl Iterator for Merged<'_> {
    type Item = usize;
    fn next(&mut self) -> Option<usize> {
        match (self.a.peek(), self.b.peek()) {
            (Some(x), Some(y)) if y < x => self.b.next(),
            (Some(_), _) => self.a.next(),
            (None, _) => self.b.next(),
        }
    }
}
