//! Who has which ring, buffer and identifier: the control plane's own books,
//! in its private memory.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// A set of small numbers of which the lowest free one is given out first, so
/// that what is in use stays together and sparse memory stays sparse.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    used: Vec<u64>,
    limit: u32,
    // No word before this one has a free number.
    hint: usize,
    taken: u32,
}

impl Ids {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            used: Vec::new(),
            limit,
            hint: 0,
            taken: 0,
        }
    }

    /// With the first `n` numbers never given out.
    pub(crate) fn starting_at(limit: u32, n: u32) -> Self {
        let mut ids = Self::new(limit);
        for _ in 0..n {
            let _ = ids.take();
        }
        ids
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        while let Some(&w) = self.used.get(self.hint) {
            if w != u64::MAX {
                break;
            }
            self.hint += 1;
        }
        let bit = self.used.get(self.hint).map_or(0, |w| w.trailing_ones());
        let id = u32::try_from(self.hint).ok()?.checked_mul(64)? + bit;
        (id < self.limit).then(|| {
            self.mark(id);
            id
        })
    }

    /// `n` consecutive numbers.
    pub(crate) fn take_run(&mut self, n: u32) -> Option<u32> {
        if n == 1 {
            return self.take();
        }
        let mut start = u32::try_from(self.hint).ok()?.checked_mul(64)?;
        let mut end = start;
        while end < self.limit {
            end += 1;
            if self.has(end - 1) {
                start = end;
            } else if end - start == n {
                (start..end).for_each(|id| self.mark(id));
                return Some(start);
            }
        }
        None
    }

    pub(crate) fn put(&mut self, id: u32) -> bool {
        let (w, bit) = (id as usize / 64, 1 << (id % 64));
        match self.used.get_mut(w) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                self.hint = self.hint.min(w);
                self.taken -= 1;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn has(&self, id: u32) -> bool {
        self.used
            .get(id as usize / 64)
            .is_some_and(|w| w & 1 << (id % 64) != 0)
    }

    pub(crate) fn taken(&self) -> u32 {
        self.taken
    }

    pub(crate) fn left(&self) -> u32 {
        self.limit - self.taken
    }

    /// One past the highest number ever given out, rounded up to 64.
    pub(crate) fn high_water(&self) -> u32 {
        u32::try_from(self.used.len() * 64)
            .unwrap_or(u32::MAX)
            .min(self.limit)
    }

    fn mark(&mut self, id: u32) {
        let w = id as usize / 64;
        if w >= self.used.len() {
            self.used.resize(w + 1, 0);
        }
        self.used[w] |= 1 << (id % 64);
        self.taken += 1;
    }
}

/// A region's buffers. Those of its *arena*, if it has one, lie together and
/// are given out apart from the others, to whoever asks for them.
#[derive(Debug)]
pub(crate) struct BufIds {
    /// With all of the arena taken.
    all: Ids,
    arena: Option<Arena>,
}

#[derive(Debug)]
struct Arena {
    range: Range<u32>,
    /// Counted from its first buffer on.
    ids: Ids,
    users: u32,
}

impl BufIds {
    pub(crate) fn starting_at(limit: u32, n: u32) -> Self {
        Self {
            all: Ids::starting_at(limit, n),
            arena: None,
        }
    }

    /// One that is not of the arena, unless there is no other.
    pub(crate) fn take(&mut self) -> Option<u32> {
        self.all.take().or_else(|| self.take_arena())
    }

    /// One of the arena.
    pub(crate) fn take_arena(&mut self) -> Option<u32> {
        let arena = self.arena.as_mut()?;
        Some(arena.range.start + arena.ids.take()?)
    }

    pub(crate) fn put(&mut self, id: u32) -> bool {
        match self.arena.as_mut().filter(|a| a.range.contains(&id)) {
            Some(arena) => {
                let put = arena.ids.put(id - arena.range.start);
                self.dissolve();
                put
            }
            None => self.all.put(id),
        }
    }

    pub(crate) fn has(&self, id: u32) -> bool {
        match self.arena.as_ref().filter(|a| a.range.contains(&id)) {
            Some(arena) => arena.ids.has(id - arena.range.start),
            None => self.all.has(id),
        }
    }

    pub(crate) fn taken(&self) -> u32 {
        self.all.taken() - self.free_in_arena()
    }

    pub(crate) fn left(&self) -> u32 {
        self.all.left() + self.free_in_arena()
    }

    pub(crate) fn high_water(&self) -> u32 {
        self.all.high_water()
    }

    fn free_in_arena(&self) -> u32 {
        self.arena.as_ref().map_or(0, |a| a.ids.left())
    }

    pub(crate) fn arena(&self) -> Option<Range<u32>> {
        self.arena.as_ref().map(|a| a.range.clone())
    }

    /// There is one user more of the arena, which is made with `n` buffers if
    /// there is none. `false` if that cannot be.
    pub(crate) fn enter_arena(&mut self, n: u32) -> bool {
        if self.arena.is_none() {
            let Some(start) = (n > 0).then(|| self.all.take_run(n)).flatten() else {
                return false;
            };
            self.arena = Some(Arena {
                range: start..start + n,
                ids: Ids::new(n),
                users: 0,
            });
        }
        if let Some(arena) = &mut self.arena {
            arena.users += 1;
        }
        true
    }

    /// A user less: the arena goes with the last, as soon as all of its
    /// buffers are back.
    pub(crate) fn leave_arena(&mut self) {
        if let Some(arena) = &mut self.arena {
            arena.users = arena.users.saturating_sub(1);
        }
        self.dissolve();
    }

    fn dissolve(&mut self) {
        let over = |a: &mut Arena| a.users == 0 && a.ids.taken() == 0;
        if let Some(arena) = self.arena.take_if(over) {
            for id in arena.range {
                self.all.put(id);
            }
        }
    }
}

/// Objects by identifier, with the lowest free one given out first.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    items: Vec<Option<T>>,
    ids: Ids,
}

impl<T> Slab<T> {
    pub(crate) fn new(limit: u32, first: u32) -> Self {
        Self {
            items: vec![],
            ids: Ids::starting_at(limit, first),
        }
    }
    pub(crate) fn reserve(&mut self) -> Option<u32> {
        self.ids.take()
    }
    pub(crate) fn fill(&mut self, id: u32, item: T) {
        let i = id as usize;
        if i >= self.items.len() {
            self.items.resize_with(i + 1, || None);
        }
        self.items[i] = Some(item);
    }
    pub(crate) fn release(&mut self, id: u32) -> Option<T> {
        self.ids.put(id);
        self.items.get_mut(id as usize)?.take()
    }
    /// The item, but not its number, which stays taken.
    pub(crate) fn take_item(&mut self, id: u32) -> Option<T> {
        self.items.get_mut(id as usize)?.take()
    }
    /// The number of an item that was taken out.
    pub(crate) fn free_id(&mut self, id: u32) {
        self.ids.put(id);
    }
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.items.get(id as usize)?.as_ref()
    }
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.items.get_mut(id as usize)?.as_mut()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.items
            .iter()
            .enumerate()
            .filter_map(|(i, t)| Some((u32::try_from(i).ok()?, t.as_ref()?)))
    }
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.items
            .iter_mut()
            .enumerate()
            .filter_map(|(i, t)| Some((u32::try_from(i).ok()?, t.as_mut()?)))
    }
    pub(crate) fn len(&self) -> usize {
        self.items.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn gives_the_lowest_and_stops_at_the_limit() {
        let mut ids = Ids::starting_at(130, 2);
        assert_eq!(ids.take(), Some(2));
        assert_eq!(ids.take_run(3), Some(3));
        assert!(ids.put(4));
        assert!(!ids.put(4), "freed twice");
        assert_eq!(ids.take_run(2), Some(6));
        assert_eq!(ids.take(), Some(4));
        assert_eq!(ids.take_run(200), None);
        while ids.take().is_some() {}
        assert_eq!(ids.taken(), 130);
        assert_eq!(ids.left(), 0);
    }

    #[test]
    fn an_arena_lies_together_and_goes_when_all_are_back() {
        let mut bufs = BufIds::starting_at(1000, 2);
        assert_eq!((bufs.take(), bufs.take_arena()), (Some(2), None));
        assert!(!bufs.enter_arena(998), "not so many are left");
        assert!(bufs.enter_arena(300) && bufs.enter_arena(1));
        assert_eq!(bufs.arena(), Some(3..303));
        assert_eq!((bufs.taken(), bufs.left()), (3, 997));
        assert_eq!((bufs.take_arena(), bufs.take()), (Some(3), Some(303)));
        assert!(bufs.has(3) && bufs.has(303) && !bufs.has(4) && !bufs.has(304));
        // Whoever finds no other gets one of the arena.
        let others: Vec<u32> = core::iter::from_fn(|| bufs.take()).collect();
        assert_eq!((others.len(), bufs.left()), (995, 0));
        assert_eq!(others.last(), Some(&302));
        assert!(others.iter().all(|&b| bufs.put(b)) && !bufs.put(302));
        bufs.leave_arena();
        bufs.leave_arena();
        assert_eq!(bufs.arena(), Some(3..303), "one is not home");
        assert!(bufs.put(3));
        assert_eq!((bufs.arena(), bufs.taken()), (None, 4));
        assert_eq!(bufs.take(), Some(3));
    }

    proptest! {
        #[test]
        fn never_gives_one_twice(ops in prop::collection::vec((0u32..3, 0u32..300), 1..300)) {
            let mut ids = Ids::new(256);
            let mut out = BTreeSet::new();
            for (op, n) in ops {
                match op {
                    0 => if let Some(id) = ids.take() { prop_assert!(out.insert(id)); },
                    1 => {
                        let n = n % 9 + 1;
                        if let Some(s) = ids.take_run(n) {
                            for id in s..s + n { prop_assert!(id < 256 && out.insert(id)); }
                        }
                    }
                    _ => prop_assert_eq!(ids.put(n), out.remove(&n)),
                }
                prop_assert_eq!(ids.taken() as usize, out.len());
            }
        }
    }
}
