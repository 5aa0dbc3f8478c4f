//! `fd_set` of `select`, as lists for `poll`.

use std::ffi::c_int;

use libc::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, fd_set, pollfd};

use crate::table::{self, Entry};

/// Descriptors that a set can hold.
const SIZE: c_int = libc::FD_SETSIZE as c_int;

/// The three sets of a call.
pub(crate) struct Sets {
    pub(crate) n: c_int,
    pub(crate) sets: [*mut fd_set; 3],
}

const EVENTS: [i16; 3] = [POLLIN, POLLOUT, POLLPRI];
/// What makes a descriptor readable, writable, exceptional: as the kernel has it.
const ANSWERS: [i16; 3] = [POLLIN | POLLHUP | POLLERR, POLLOUT | POLLERR, POLLPRI];

impl Sets {
    fn has(&self, which: usize, fd: c_int) -> bool {
        let set = self.sets[which];
        // SAFETY: the set has room for `SIZE`, which bounds `fd`.
        !set.is_null() && unsafe { libc::FD_ISSET(fd, set) }
    }

    fn count(&self) -> c_int {
        self.n.clamp(0, SIZE)
    }

    /// Whether a registration is in one of them.
    pub(crate) fn any(&self) -> bool {
        let top = table::highest();
        top >= 0
            && (0..self.count().min(top + 1)).any(|fd| {
                matches!(table::entry(fd), Entry::Port(_) | Entry::Epoll(_))
                    && (0..3).any(|s| self.has(s, fd))
            })
    }

    /// The same as a list.
    pub(crate) fn to_poll(&self) -> Vec<pollfd> {
        (0..self.count())
            .filter_map(|fd| {
                let events = (0..3)
                    .filter(|&s| self.has(s, fd))
                    .fold(0, |e, s| e | EVENTS[s]);
                (events != 0).then_some(pollfd {
                    fd,
                    events,
                    revents: 0,
                })
            })
            .collect()
    }

    /// Writes the answers; how many, or `None` if there is a descriptor that
    /// is not open.
    pub(crate) fn answer(&self, fds: &[pollfd]) -> Option<c_int> {
        if fds.iter().any(|p| p.revents & POLLNVAL != 0) {
            return None;
        }
        let mut n = 0;
        for (which, answers) in ANSWERS.into_iter().enumerate() {
            let set = self.sets[which];
            for p in fds.iter().filter(|p| p.events & EVENTS[which] != 0) {
                if p.revents & answers != 0 {
                    n += 1;
                } else {
                    // SAFETY: the descriptor is one that the set held.
                    unsafe { libc::FD_CLR(p.fd, set) };
                }
            }
        }
        Some(n)
    }
}
