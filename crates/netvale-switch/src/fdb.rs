//! The learning table: which station was last heard on which port.
//!
//! One 64-bit word an entry (48-bit MAC, 12-bit port, 4-bit epoch), in buckets
//! of eight that fill a cache line. Look-ups and updates are lock-free; two
//! senders that race for an entry leave one of their answers. Entries not
//! refreshed for some epochs go, those of a detached port at once.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use netvale_ring::layout::FDB_ENTRIES;
use netvale_shm::Array;

/// Entries of a bucket: one cache line.
const WAYS: usize = 8;
const BUCKETS: usize = FDB_ENTRIES as usize / WAYS;

/// A switch's learning table.
#[derive(Debug, Clone, Copy)]
pub struct Fdb<'a>(&'a [AtomicU64; FDB_ENTRIES as usize]);

/// A table whose place was checked once.
#[derive(Debug, Clone)]
pub struct FdbWindow(pub(crate) Array<{ FDB_ENTRIES as usize }>);

impl FdbWindow {
    /// The view.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Fdb<'_> {
        Fdb(&self.0)
    }
}

/// Whether an address can be a station's: neither zero nor a group's.
#[inline]
pub(crate) const fn is_station(mac: u64) -> bool {
    mac != 0 && mac & 1 == 0
}

/// One station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// MAC address, first byte lowest.
    pub mac: u64,
    /// Port's index in the switch.
    pub port: u16,
    /// Epoch in which it was heard last, 0..=15.
    pub epoch: u8,
}

impl Station {
    const fn bits(self) -> u64 {
        self.mac << 16 | (self.port as u64 & 0xfff) << 4 | (self.epoch as u64 & 0xf)
    }
    #[expect(clippy::cast_possible_truncation, reason = "bit fields")]
    const fn from_bits(w: u64) -> Self {
        Self {
            mac: w >> 16,
            port: (w >> 4) as u16 & 0xfff,
            epoch: w as u8 & 0xf,
        }
    }
}

impl<'a> Fdb<'a> {
    /// From the words of one switch.
    #[inline]
    #[must_use]
    pub fn new(words: &'a [AtomicU64; FDB_ENTRIES as usize]) -> Self {
        Self(words)
    }

    /// The port on which `mac` was heard last.
    #[inline]
    #[must_use]
    pub fn lookup(self, mac: u64) -> Option<u16> {
        let (bucket, first) = self.bucket(mac);
        for i in 0..WAYS {
            let w = bucket[(first + i) % WAYS].load(Relaxed);
            if w >> 16 == mac && w != 0 {
                return Some(Station::from_bits(w).port);
            }
        }
        None
    }

    /// Where `mac` stands in the table, and its entry: while the entry is the
    /// same, so is the answer.
    #[inline]
    #[must_use]
    pub fn probe(self, mac: u64) -> Option<(u32, u64)> {
        let (bucket, first) = self.bucket(mac);
        let start = Self::home(mac);
        (0..WAYS).find_map(|i| {
            let way = (first + i) % WAYS;
            let w = bucket[way].load(Relaxed);
            let at = u32::try_from(start * WAYS + way).ok()?;
            (w >> 16 == mac && w != 0).then_some((at, w))
        })
    }

    /// Whether the entry at `at` is still `word`.
    #[inline]
    #[must_use]
    pub fn still(self, (at, word): (u32, u64)) -> bool {
        self.0[at as usize % self.0.len()].load(Relaxed) == word
    }

    /// Notes that `mac` was heard on `port` in `epoch`. Zero and group
    /// addresses are not stations.
    #[inline]
    pub fn learn(self, mac: u64, port: u16, epoch: u8) {
        if !is_station(mac) {
            return;
        }
        let new = Station { mac, port, epoch }.bits();
        let (bucket, first) = self.bucket(mac);
        if bucket[first].load(Relaxed) == new {
            return; // as nearly always
        }
        self.learn_slowly(new, bucket, first);
    }

    #[cold]
    fn learn_slowly(self, new: u64, bucket: &[AtomicU64; WAYS], first: usize) {
        let Station { mac, epoch, .. } = Station::from_bits(new);
        let mut free = None;
        let mut oldest = (0, first);
        let mut known = false;
        for i in 0..WAYS {
            let at = (first + i) % WAYS;
            let w = bucket[at].load(Relaxed);
            if w == 0 {
                free = free.or(Some(at));
            } else if w >> 16 == mac {
                if known {
                    bucket[at].store(0, Relaxed); // a racing sender's double
                } else if w != new {
                    bucket[at].store(new, Relaxed);
                }
                known = true;
            } else {
                let age = epoch.wrapping_sub(Station::from_bits(w).epoch) & 0xf;
                if age > oldest.0 {
                    oldest = (age, at);
                }
            }
        }
        if !known {
            bucket[free.unwrap_or(oldest.1)].store(new, Relaxed);
        }
    }

    /// Forgets every station for which `gone` says so; how many.
    pub fn retain(self, mut gone: impl FnMut(Station) -> bool) -> usize {
        let mut n = 0;
        for word in self.0 {
            let w = word.load(Relaxed);
            if w != 0 && gone(Station::from_bits(w)) {
                // A station heard again meanwhile is kept.
                n += usize::from(word.compare_exchange(w, 0, Relaxed, Relaxed).is_ok());
            }
        }
        n
    }

    /// All stations.
    pub fn iter(self) -> impl Iterator<Item = Station> + 'a {
        self.0
            .iter()
            .map(|w| w.load(Relaxed))
            .filter(|&w| w != 0)
            .map(Station::from_bits)
    }

    /// Fibonacci hashing: the high bits depend on every bit of the address.
    #[inline]
    fn hash(mac: u64) -> u64 {
        mac.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[inline]
    fn home(mac: u64) -> usize {
        (Self::hash(mac) >> 40) as usize % BUCKETS
    }

    #[inline]
    fn bucket(self, mac: u64) -> (&'a [AtomicU64; WAYS], usize) {
        let (buckets, _) = self.0.as_chunks();
        (
            &buckets[Self::home(mac)],
            (Self::hash(mac) >> 37) as usize % WAYS,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    fn table() -> Vec<AtomicU64> {
        (0..FDB_ENTRIES).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn holds_64_ki_stations() {
        let words = table();
        let fdb = Fdb::new(words.first_chunk().unwrap());
        // Addresses as makers give them: one prefix, counted up by two.
        let macs: Vec<u64> = (0..65536u64)
            .map(|i| {
                let [.., a, b, c] = (i * 2).to_be_bytes();
                u64::from_le_bytes([0x02, 0x1b, 0x21, a, b, c, 0, 0])
            })
            .collect();
        for (i, &mac) in macs.iter().enumerate() {
            fdb.learn(mac, u16::try_from(i % 1000).unwrap(), 0);
        }
        let kept = macs
            .iter()
            .enumerate()
            .filter(|&(i, &mac)| fdb.lookup(mac) == Some(u16::try_from(i % 1000).unwrap()))
            .count();
        assert!(kept > 65_000, "{kept} of 65536 stations kept");
    }

    #[test]
    fn zero_and_groups_are_not_stations() {
        let words = table();
        let fdb = Fdb::new(words.first_chunk().unwrap());
        fdb.learn(0, 1, 0);
        fdb.learn(0xffff_ffff_ffff, 1, 0);
        fdb.learn(1, 1, 0);
        assert_eq!(fdb.lookup(0), None);
        assert_eq!(fdb.iter().count(), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec((0u64..40, 0u16..4095, any::<bool>()), 1..200)) {
            let words = table();
            let fdb = Fdb::new(words.first_chunk().unwrap());
            let mut model = BTreeMap::new();
            for (mac, port, detach) in ops {
                let mac = mac * 2 + 2;
                if detach {
                    fdb.retain(|s| s.port == port);
                    model.retain(|_, p| *p != port);
                } else {
                    fdb.learn(mac, port, 3);
                    model.insert(mac, port);
                }
                for m in (2..82).step_by(2) {
                    prop_assert_eq!(fdb.lookup(m), model.get(&m).copied());
                }
            }
        }
    }
}
