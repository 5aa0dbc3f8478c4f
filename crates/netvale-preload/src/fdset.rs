//! `fd_set` of `select`, as lists for `poll`; and lists that need no memory
//! while they are short.

use std::ffi::c_int;

use libc::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, c_ulong, fd_set, pollfd};

use crate::table::{self, Entry};

/// Descriptors that are looked after without allocating.
const FEW: usize = 16;
const NONE: pollfd = pollfd {
    fd: -1,
    events: 0,
    revents: 0,
};

/// Entries of `poll`.
pub(crate) struct Fds {
    few: [pollfd; FEW],
    n: usize,
    many: Vec<pollfd>,
}

impl Fds {
    pub(crate) const fn new() -> Self {
        Self {
            few: [NONE; FEW],
            n: 0,
            many: Vec::new(),
        }
    }

    /// The same entries.
    pub(crate) fn of(fds: &[pollfd]) -> Self {
        let mut this = Self::new();
        match this.few.get_mut(..fds.len()) {
            Some(few) => {
                few.copy_from_slice(fds);
                this.n = fds.len();
            }
            None => this.many = fds.to_vec(),
        }
        this
    }

    pub(crate) fn push(&mut self, fd: pollfd) {
        if !self.many.is_empty() {
            self.many.push(fd);
        } else if let Some(free) = self.few.get_mut(self.n) {
            *free = fd;
            self.n += 1;
        } else {
            self.many = self.few.to_vec();
            self.many.push(fd);
        }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [pollfd] {
        if self.many.is_empty() {
            &mut self.few[..self.n]
        } else {
            &mut self.many
        }
    }
}

/// Descriptors in one word of a set.
const WORD: c_int = c_ulong::BITS.cast_signed();
/// More descriptors than a process can have.
const MOST: c_int = 1 << 20;

/// The three sets of a call. They are as long as `n` says, which may be more
/// than an `fd_set` is by itself.
pub(crate) struct Sets {
    n: c_int,
    sets: [*mut c_ulong; 3],
}

const EVENTS: [i16; 3] = [POLLIN, POLLOUT, POLLPRI];
/// What makes a descriptor readable, writable, exceptional: as the kernel has it.
const ANSWERS: [i16; 3] = [POLLIN | POLLHUP | POLLERR, POLLOUT | POLLERR, POLLPRI];

impl Sets {
    pub(crate) fn new(n: c_int, sets: [*mut fd_set; 3]) -> Self {
        Self {
            n: n.clamp(0, MOST),
            sets: sets.map(<*mut fd_set>::cast),
        }
    }

    /// Word `i` of a set.
    fn word(&self, which: usize, i: usize) -> c_ulong {
        let set = self.sets[which];
        if set.is_null() {
            return 0;
        }
        // SAFETY: the set has all words below `n`, says the caller of select.
        let at = unsafe { set.add(i) };
        // SAFETY: as above.
        let word = unsafe { at.read() };
        match usize::try_from(self.n % WORD) {
            // The last word counts as far as `n` goes.
            Ok(rest @ 1..) if i == usize::try_from(self.n / WORD).unwrap_or(0) => {
                word & ((1 << rest) - 1)
            }
            _ => word,
        }
    }

    /// Calls `f` with every descriptor below `end` and what is asked of it.
    fn each(&self, end: c_int, mut f: impl FnMut(c_int, i16)) {
        for (i, first) in (0..end).step_by(WORD.unsigned_abs() as usize).enumerate() {
            let words = [0, 1, 2].map(|which| self.word(which, i));
            let mut any = words[0] | words[1] | words[2];
            while any != 0 {
                let bit = any.trailing_zeros();
                any &= any - 1;
                let fd = first + bit.cast_signed();
                if fd >= end {
                    return;
                }
                let asked = words.iter().zip(EVENTS);
                f(
                    fd,
                    asked
                        .filter(|&(w, _)| w >> bit & 1 != 0)
                        .fold(0, |all, (_, e)| all | e),
                );
            }
        }
    }

    /// Whether a registration is in one of them.
    pub(crate) fn any(&self) -> bool {
        let mut found = false;
        self.each(self.n.min(table::highest().saturating_add(1)), |fd, _| {
            found |= table::entry(fd) != Entry::Other;
        });
        found
    }

    /// The same as a list.
    pub(crate) fn to_poll(&self) -> Fds {
        let mut all = Fds::new();
        self.each(self.n, |fd, events| {
            all.push(pollfd {
                fd,
                events,
                revents: 0,
            });
        });
        all
    }

    fn clear(&self, which: usize, fd: c_int) {
        let (Ok(i), bit) = (usize::try_from(fd / WORD), fd % WORD) else {
            return;
        };
        // SAFETY: a descriptor that the set held.
        let at = unsafe { self.sets[which].add(i) };
        // SAFETY: as above.
        let word = unsafe { at.read() } & !(1 << bit);
        // SAFETY: as above.
        unsafe { at.write(word) };
    }

    /// Writes the answers; how many, or `None` if there is a descriptor that
    /// is not open.
    pub(crate) fn answer(&self, fds: &[pollfd]) -> Option<c_int> {
        if fds.iter().any(|p| p.revents & POLLNVAL != 0) {
            return None;
        }
        let mut n = 0;
        for (which, answers) in ANSWERS.into_iter().enumerate() {
            for p in fds.iter().filter(|p| p.events & EVENTS[which] != 0) {
                if p.revents & answers != 0 {
                    n += 1;
                } else {
                    self.clear(which, p.fd);
                }
            }
        }
        Some(n)
    }
}
