//! Sleeping on a word of shared memory.

use core::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};

/// Sleeps while `*word == expected`, at most `timeout`. Returns early on a
/// wake-up, a signal or a different value: callers look again.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let ts = timeout.and_then(|t| Timespec::try_from(t).ok());
    let _ = futex::wait(word, Flags::empty(), expected, ts.as_ref());
}

/// Wakes up to `n` sleepers of `word`, in any process that maps it.
pub fn wake(word: &AtomicU32, n: u32) {
    let _ = futex::wake(word, Flags::empty(), n);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn wakes_across_mappings() {
        let file = crate::Memfd::create("netvale-test", 4096, crate::HugePages::Never).unwrap();
        let (a, b) = (file.map().unwrap(), file.map().unwrap());
        let sleeper = std::thread::spawn(move || {
            let word = a.word32(0).unwrap();
            while word.load(Ordering::Acquire) == 0 {
                wait(word, 0, Some(Duration::from_secs(10)));
            }
        });
        b.word32(0).unwrap().store(1, Ordering::Release);
        wake(b.word32(0).unwrap(), u32::MAX);
        sleeper.join().unwrap();
        wait(b.word32(0).unwrap(), 0, None); // a changed value does not sleep
    }
}
