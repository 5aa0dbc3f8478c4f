//! What those who have the rings of one socket mapped must know of each other.
//!
//! A socket's rings can be used by several processes: the server that made it
//! and the clients that have its port open, one after the other. Each direction
//! has a *side* of its own in the books: a lock that says who is at it, and how
//! far they have come. So nobody need wait for whoever drives the other
//! direction, or ask whoever drove this one before.
//!
//! A death in between is normal: what a user of a side does becomes valid at
//! once, by [`Side::commit`], and not before. Whoever comes next goes on from
//! there, and tells the kernel once more what the dead may not have told it.
//!
//! | bytes | what | written by |
//! |---|---|---|
//! | 0 | 1 once the socket is closed | the server |
//! | 8 | handles made so far | whoever makes one |
//! | 16, 24 | pieces of frames copied, received and sent | whoever copies |
//! | 64 | frames lost, by reason | whoever loses one |
//! | 1024, 2048 | sides: lock, last user, commits, up to which commit all is done, two states | whoever holds the lock |
//! | 4096, 6144 | slots that the inward side fills with its last commit: one log for each state | the inward side |
//! | 8192 | buffers that are free, a circle of 32-bit words | the outward side |
//!
//! Of states and logs there are two, for commits with even and with odd
//! numbers: what counts is not written over before the next one is whole.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use netvale_ring::Slot;
use netvale_shm::process::is_dead;
use netvale_shm::{Array, HugePages, Mem, Memfd, ShmError};

/// Where things are, bytes.
const CLOSED: usize = 0;
const HANDLES: usize = 8;
const COPIED: [usize; 2] = [16, 24];
pub(crate) const LOSSES: usize = 64;
const SIDES: [usize; 2] = [1024, 2048];
const LOGS: [usize; 2] = [4096, 4096 + MOST_SLOTS * 8];
const FREE: usize = LOGS[1] + MOST_SLOTS * 8;
/// Slots that one commit can fill.
pub(crate) const MOST_SLOTS: usize = 256;
/// In a side, words.
const LOCK: usize = 0;
const LAST: usize = 1;
const COMMITS: usize = 2;
const DONE: usize = 3;
const STATES: [usize; 2] = [8, 16];
const SIDE_WORDS: usize = 24;

/// Positions of a side, with a meaning that its user gives them.
pub(crate) type State = [u32; 6];

/// One of the two directions of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dir {
    /// From the device.
    In,
    /// To the device.
    Out,
}

/// The books of one socket.
#[derive(Debug, Clone)]
pub(crate) struct Books {
    mem: Mem,
    /// Words of the circle of free buffers, a power of two.
    circle: u32,
}

impl Books {
    /// Bytes of the books for `bufs` buffers.
    pub(crate) fn len(bufs: u32) -> usize {
        (FREE + circle(bufs) as usize * 4).next_multiple_of(4096)
    }

    /// New ones, in a file that others can map.
    pub(crate) fn create(bufs: u32) -> Result<(Self, Memfd), ShmError> {
        let file = Memfd::create("netvale-lane", Self::len(bufs), HugePages::Never)?;
        let books = Self {
            mem: file.map()?,
            circle: circle(bufs),
        };
        Ok((books, file))
    }

    /// Those in this memory; `None` if it is too small.
    pub(crate) fn at(mem: Mem, bufs: u32) -> Option<Self> {
        let circle = circle(bufs);
        (mem.len() >= Self::len(bufs)).then_some(Self { mem, circle })
    }

    pub(crate) fn mem(&self) -> &Mem {
        &self.mem
    }

    /// A handle for one direction, in nobody's name yet.
    pub(crate) fn side(&self, dir: Dir) -> Option<Side> {
        let at = match dir {
            Dir::In => SIDES[0],
            Dir::Out => SIDES[1],
        };
        let handle = self.mem.word(HANDLES)?.fetch_add(1, Relaxed) + 1;
        Some(Side {
            words: self.mem.array_window(at)?,
            handle,
            name: 0,
            commits: 0,
        })
    }

    /// Nobody may use the socket any more.
    pub(crate) fn close(&self) {
        if let Some(word) = self.mem.word(CLOSED) {
            word.store(1, Release);
        }
    }

    /// Takes both sides of closed books for good, if nobody is at them; whether
    /// they are taken. Who looked just before the books were closed finds the
    /// side taken, and then that they are closed.
    pub(crate) fn seize(&self) -> bool {
        // No registration has the number 0.
        let closer = u64::from(std::process::id()) << 32;
        let locks = SIDES.iter().filter_map(|&at| self.mem.word(at));
        let free = locks.map(|lock| {
            let before = lock.compare_exchange(0, closer, Acquire, Relaxed);
            before.is_ok() || before == Err(closer)
        });
        self.is_closed() && free.fold(true, |all, free| all & free)
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        let word = self.mem.word(CLOSED);
        word.is_none_or(|w| w.load(Relaxed) != 0)
    }

    /// Lets go of what a registration held when it ended; how many sides.
    pub(crate) fn break_locks(&self, owner: u16) -> usize {
        let locks = SIDES.iter().filter_map(|&at| self.mem.word(at));
        let broken = locks.filter(|lock| {
            let held = lock.load(Acquire);
            held != 0
                && owner_of(held) == owner
                && lock.compare_exchange(held, 0, Acquire, Relaxed).is_ok()
        });
        broken.count()
    }

    /// A piece of a frame was copied between two buffers.
    #[inline]
    pub(crate) fn count_copy(&self, dir: Dir) {
        let [inward, outward] = COPIED;
        let at = if dir == Dir::In { inward } else { outward };
        if let Some(word) = self.mem.word(at) {
            word.fetch_add(1, Relaxed);
        }
    }

    /// Pieces of frames that were copied: received, sent.
    pub(crate) fn copied(&self) -> [u64; 2] {
        COPIED.map(|at| self.mem.word(at).map_or(0, |w| w.load(Relaxed)))
    }

    /// Notes slots that are filled with the next commit of the inward side.
    #[inline]
    pub(crate) fn note(&self, inward: &Side, slots: &[Slot]) {
        let log = LOGS[which(inward.commits.wrapping_add(1))];
        if let Some(words) = self.mem.words(log, MOST_SLOTS) {
            for (word, slot) in words.iter().zip(slots) {
                word.store(slot.bits(), Relaxed);
            }
        }
    }

    /// The first `n` of those noted with its last commit.
    pub(crate) fn noted(&self, inward: &Side, n: u32) -> impl Iterator<Item = Slot> + '_ {
        let log = LOGS[which(inward.commits)];
        let words = self.mem.words(log, MOST_SLOTS).unwrap_or_default();
        let slots = words.iter().take(n as usize);
        slots.map(|w| Slot::from_bits(w.load(Relaxed)))
    }

    /// Entry `at` of the circle of free buffers.
    #[inline]
    fn entry(&self, at: u32) -> Option<&AtomicU32> {
        let slot = (at & (self.circle - 1)) as usize;
        self.mem.word32(FREE + slot * 4)
    }

    /// Puts a free buffer behind the last.
    #[inline]
    pub(crate) fn put(&self, list: &mut FreeList, buf: u32) {
        if let Some(entry) = self.entry(list.end) {
            entry.store(buf, Relaxed);
            list.end = list.end.wrapping_add(1);
        }
    }

    /// How many are free.
    #[inline]
    pub(crate) fn count(&self, list: FreeList) -> usize {
        match list.end.wrapping_sub(list.begin) {
            n if n > self.circle => 0,
            n => n as usize,
        }
    }

    /// The first free buffer, which stays.
    #[inline]
    pub(crate) fn first(&self, list: FreeList) -> Option<u32> {
        if self.count(list) == 0 {
            return None;
        }
        Some(self.entry(list.begin)?.load(Relaxed))
    }
}

/// Twice the buffers: what is put never lies over what was free at the last
/// commit, which counts if the next never comes.
fn circle(bufs: u32) -> u32 {
    bufs.clamp(1, 1 << 20).next_power_of_two() * 2
}

/// Where in the circle free buffers begin and end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FreeList {
    pub(crate) begin: u32,
    pub(crate) end: u32,
}

/// A handle of one direction.
pub(crate) struct Side {
    words: Array<SIDE_WORDS>,
    handle: u64,
    /// What the lock says while we hold it: process, owner.
    name: u64,
    /// Commits so far, as of when we had the lock.
    commits: u64,
}

/// Which of the two states a commit wrote.
fn which(commits: u64) -> usize {
    usize::from(commits % 2 == 1)
}

/// What one who wants a side finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Somebody else is at it.
    Taken,
    /// We were there last.
    Again,
    /// Another was: this is how far they came.
    After(State),
}

fn owner_of(name: u64) -> u16 {
    u16::try_from(name & 0xffff).unwrap_or(0)
}

impl Side {
    /// In whose name the side is entered from now on: 1 or more.
    pub(crate) fn name(&mut self, owner: u16) {
        self.name = u64::from(std::process::id()) << 32 | u64::from(owner);
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words[at]
    }

    /// Takes the side, unless somebody has it. To be left by [`Side::leave`].
    #[inline]
    pub(crate) fn enter(&mut self) -> Entry {
        let lock = self.word(LOCK);
        if let Err(held) = lock.compare_exchange(0, self.name, Acquire, Relaxed)
            && !self.steal(held)
        {
            return Entry::Taken;
        }
        if self.word(LAST).load(Relaxed) == self.handle {
            return Entry::Again;
        }
        self.word(LAST).store(self.handle, Relaxed);
        self.commits = self.word(COMMITS).load(Acquire);
        Entry::After(self.state())
    }

    /// A forked process may die while the registration that it shared with
    /// others lives on: the server does not see that, its relatives do.
    #[cold]
    fn steal(&mut self, held: u64) -> bool {
        // A thread of ours is alive.
        if owner_of(held) != owner_of(self.name) || held == self.name {
            return false;
        }
        let dead = is_dead(u32::try_from(held >> 32).unwrap_or(0));
        let lock = self.word(LOCK);
        dead && lock
            .compare_exchange(held, self.name, Acquire, Relaxed)
            .is_ok()
    }

    fn state(&self) -> State {
        let at = STATES[which(self.commits)];
        std::array::from_fn(|i| {
            let word = self.word(at + i).load(Relaxed);
            u32::try_from(word & 0xffff_ffff).unwrap_or(0)
        })
    }

    /// From now on the side is in this state. It must be ours.
    #[inline]
    pub(crate) fn commit(&mut self, state: State) {
        self.commits = self.commits.wrapping_add(1);
        let at = STATES[which(self.commits)];
        for (i, n) in state.into_iter().enumerate() {
            self.word(at + i).store(n.into(), Relaxed);
        }
        self.word(COMMITS).store(self.commits, Release);
    }

    /// Whether somebody has committed something and not left since.
    #[inline]
    pub(crate) fn is_unfinished(&self) -> bool {
        self.word(DONE).load(Relaxed) != self.word(COMMITS).load(Relaxed)
    }

    /// Lets go of the side.
    #[inline]
    pub(crate) fn leave(&self) {
        // If it was taken from us, because the server thought that we are dead,
        // what another has committed since is neither done nor ours to let go.
        self.word(DONE).store(self.commits, Relaxed);
        let _ = self
            .word(LOCK)
            .compare_exchange(self.name, 0, Release, Relaxed);
    }
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> Books {
        Books::at(Mem::heap(Books::len(5)), 5).unwrap()
    }

    fn named(books: &Books, dir: Dir, owner: u16) -> Side {
        let mut side = books.side(dir).unwrap();
        side.name(owner);
        side
    }

    #[test]
    fn one_at_a_time_and_each_from_where_the_last_has_come_to() {
        let books = books();
        let (mut a, mut b) = (named(&books, Dir::In, 1), named(&books, Dir::In, 2));
        let mut other = named(&books, Dir::Out, 2);
        assert_eq!(a.enter(), Entry::After([0; 6]));
        assert_eq!(b.enter(), Entry::Taken);
        assert_eq!(other.enter(), Entry::After([0; 6]), "a lock of its own");
        a.commit([1, 2, 3, 4, 5, 6]);
        a.commit([u32::MAX, 6, 7, 8, 9, 10]);
        a.leave();
        assert_eq!(a.enter(), Entry::Again);
        a.leave();
        assert_eq!(b.enter(), Entry::After([u32::MAX, 6, 7, 8, 9, 10]));
        assert!(a.is_unfinished() == b.is_unfinished());
        b.leave();
        assert!(!a.is_unfinished());
        assert_eq!(a.enter(), Entry::After([u32::MAX, 6, 7, 8, 9, 10]));
    }

    #[test]
    fn the_dead_leave_what_they_committed() {
        let books = books();
        let (mut a, mut b) = (named(&books, Dir::Out, 7), named(&books, Dir::Out, 8));
        a.enter();
        a.commit([5, 0, 0, 0, 0, 0]);
        // It wrote half of the next state.
        a.word(STATES[0]).store(99, Relaxed);
        assert!(b.is_unfinished());
        assert_eq!(books.break_locks(8), 0);
        assert_eq!(b.enter(), Entry::Taken);
        assert_eq!(books.break_locks(7), 1);
        assert_eq!(b.enter(), Entry::After([5, 0, 0, 0, 0, 0]));
        // It was alive after all: what is not its own it does not let go.
        b.commit([6; 6]);
        a.leave();
        assert!(b.is_unfinished());
        assert_eq!(a.enter(), Entry::Taken);
        b.leave();
        assert!(!b.is_unfinished());
        assert!(!books.is_closed());
        books.close();
        assert!(books.is_closed());
    }

    #[test]
    fn who_closes_waits_for_those_who_are_at_it() {
        let books = books();
        let (mut a, mut b) = (named(&books, Dir::In, 1), named(&books, Dir::Out, 2));
        a.enter();
        books.close();
        assert!(!books.seize());
        // The other is taken already.
        assert_eq!(b.enter(), Entry::Taken);
        assert_eq!(books.break_locks(2), 0);
        a.leave();
        assert!(books.seize());
        assert!(books.seize(), "it stays so");
        assert_eq!((a.enter(), b.enter()), (Entry::Taken, Entry::Taken));
        // Or whoever was at it has died.
        let books = self::books();
        named(&books, Dir::Out, 4).enter();
        books.close();
        assert!(!books.seize());
        assert_eq!(books.break_locks(4), 1);
        assert!(books.seize());
    }

    #[test]
    fn slots_are_noted_in_order() {
        let books = books();
        let slots: Vec<Slot> = (0..300).map(|i| Slot::new(i, 60, 1)).collect();
        let mut side = named(&books, Dir::In, 1);
        side.enter();
        for _ in 0..3 {
            books.note(&side, &slots);
            side.commit([0; 6]);
            let noted = |n| books.noted(&side, n);
            assert!(noted(7).eq(slots[..7].iter().copied()));
            assert!(noted(u32::MAX).eq(slots[..MOST_SLOTS].iter().copied()));
            // They are not where the circle is.
            books.put(&mut FreeList::default(), 77);
            assert!(noted(300).eq(slots[..MOST_SLOTS].iter().copied()));
        }
    }

    #[test]
    fn one_who_dies_before_a_commit_leaves_the_slots_of_the_last() {
        let books = books();
        let slot = |i| [Slot::new(i, 60, 0), Slot::new(i + 1, 60, 0)];
        let mut heir = named(&books, Dir::In, 2);
        for round in 0..4 {
            let mut dying = named(&books, Dir::In, 1);
            dying.enter();
            books.note(&dying, &slot(10 * round));
            dying.commit([round; 6]);
            // It begins the next step.
            books.note(&dying, &slot(999));
            assert_eq!(books.break_locks(1), 1);
            assert_eq!(heir.enter(), Entry::After([round; 6]));
            assert!(books.noted(&heir, 2).eq(slot(10 * round)));
            heir.leave();
        }
    }

    #[test]
    fn relatives_see_a_death_that_the_server_does_not() {
        let books = books();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        // Its parent need not have asked how it ended.
        while !is_dead(child.id()) {
            std::thread::yield_now();
        }
        let mut dead = books.side(Dir::In).unwrap();
        dead.name = u64::from(child.id()) << 32 | 7;
        dead.enter();
        let (mut stranger, mut heir) = (named(&books, Dir::In, 8), named(&books, Dir::In, 7));
        assert_eq!(stranger.enter(), Entry::Taken);
        assert!(matches!(heir.enter(), Entry::After(_)));
        // One that lives is not disturbed.
        let mut twin = named(&books, Dir::In, 7);
        assert_eq!(twin.enter(), Entry::Taken);
        heir.leave();
        let mut parent = books.side(Dir::In).unwrap();
        let living = std::os::unix::process::parent_id();
        parent.name = u64::from(living) << 32 | 7;
        parent.enter();
        assert_eq!(twin.enter(), Entry::Taken);
        child.wait().unwrap();
    }

    #[test]
    fn what_is_freed_lies_behind_what_was_free_at_the_last_commit() {
        let books = books();
        let mut list = FreeList {
            begin: u32::MAX - 2,
            end: u32::MAX - 2,
        };
        assert_eq!(books.first(list), None);
        (0..5).for_each(|buf| books.put(&mut list, buf));
        let committed = list;
        for round in 0..5 {
            assert_eq!(books.first(list), Some(round));
            list.begin = list.begin.wrapping_add(1);
            books.put(&mut list, 10 + round);
        }
        let mut again = committed;
        for buf in 0..5 {
            assert_eq!(books.first(again), Some(buf));
            again.begin = again.begin.wrapping_add(1);
        }
        let nonsense = FreeList { begin: 9, end: 3 };
        assert_eq!(books.first(nonsense), None);
    }
}
