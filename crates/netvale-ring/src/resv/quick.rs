//! Shortcuts for those that sync after every frame, or find nothing: what the
//! general ways do when nothing is in between, written out.

use core::sync::atomic::Ordering;

use super::{Cursor, Head, Lease, Rec, Refused, Resv, Word};
use crate::pos::Pos;

impl<W: Word> Resv<'_, W> {
    /// Reserves one slot for `owner` if `choose` says 1: [`Resv::reserve`] with
    /// what it does when it wins at once, and nobody has to be helped, written
    /// out.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing was changed.
    #[inline(always)]
    pub fn reserve_one(
        self,
        owner: u16,
        choose: impl Fn(u32) -> u32 + Copy,
    ) -> Result<Lease, Refused> {
        let (slots, word) = (self.slots(), self.word.load(Ordering::Acquire));
        let Head { pos, n, open, .. } = Head::from_bits(word);
        let (used, most) = (self.rhead().distance(pos, slots), slots.saturating_sub(1));
        if open && used < most && pos.idx() < slots && n.wrapping_sub(1) < most {
            let last = pos.sub(n, slots);
            let rec = self.recs.get(last.idx() as usize);
            // Written down, by its owner or a helper.
            let known =
                rec.is_some_and(|r| Rec::from_bits(r.load(Ordering::Relaxed)).lap == last.lap());
            let new = Head {
                pos: pos.add(1, slots),
                owner,
                n: 1,
                open: true,
            };
            let (ok, fail) = (Ordering::AcqRel, Ordering::Relaxed);
            if known
                && choose(1) == 1
                && self
                    .word
                    .compare_exchange(word, new.bits(), ok, fail)
                    .is_ok()
            {
                return Ok(Lease {
                    start: pos,
                    n: 1,
                    owner,
                });
            }
        }
        self.reserve(owner, choose)
    }

    /// Where the reservation that begins at `start` ends, if it is done, does
    /// not reach the next lap, and the one behind it has not been shown: what a
    /// collection finds that can take no second step.
    #[inline]
    pub fn next_whole(self, start: Pos) -> Option<Pos> {
        let rec = |at: Pos| {
            let word = self.recs.get(at.idx() as usize)?;
            Some(Rec::from_bits(word.load(Ordering::SeqCst)))
        };
        let first = rec(start)?;
        let end = start.idx() + first.n;
        if first.lap != start.lap() || first.n == 0 || first.done != first.n || end >= self.slots()
        {
            return None;
        }
        let end = Pos::new(start.lap(), end);
        (rec(end)?.lap != end.lap()).then_some(end)
    }

    /// Whether a collection from `cursor` would find what it found before:
    /// one load. `false` for anything odd.
    #[inline]
    pub fn is_quiet(self, cursor: Cursor) -> bool {
        let Some(word) = self.recs.get(cursor.start.idx() as usize) else {
            return false;
        };
        let rec = Rec::from_bits(word.load(Ordering::SeqCst));
        if rec.lap != cursor.start.lap() {
            return cursor.tail == cursor.start;
        }
        // A reservation of which no more was shown since.
        let shown = cursor.start.distance(cursor.tail, self.slots());
        rec.done == shown && rec.done < rec.n
    }
}
