//! Behind which end stations were seen.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netvale_wire::mac::MacAddr;

/// Most stations that are remembered.
pub(super) const MAX_STATIONS: usize = 1 << 16;

/// A remembered station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// Its address.
    pub mac: MacAddr,
    /// The end that it is behind.
    pub remote: SocketAddr,
    /// When it was last seen; `None` for one that was set and never ages.
    pub seen: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Table {
    stations: HashMap<MacAddr, Entry>,
    ageing: Duration,
    /// When old ones were last looked for.
    swept: Duration,
    max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    remote: SocketAddr,
    seen: Option<Duration>,
}

impl Table {
    pub(super) fn new(ageing: Duration, max: usize) -> Self {
        Self {
            stations: HashMap::new(),
            ageing,
            swept: Duration::ZERO,
            max,
        }
    }

    /// Where a station is, if it is known and was seen lately.
    pub(super) fn find(&self, mac: MacAddr, now: Duration) -> Option<SocketAddr> {
        let entry = self.stations.get(&mac)?;
        (!self.old(entry, now)).then_some(entry.remote)
    }

    /// Notes that a station was seen behind the same address as before;
    /// `false` if it is not known to be behind it.
    pub(super) fn refresh(&mut self, mac: MacAddr, from: IpAddr, now: Duration) -> bool {
        let known = self.stations.get_mut(&mac);
        known.filter(|e| e.remote.ip() == from).is_some_and(|e| {
            e.seen = e.seen.map(|_| now);
            true
        })
    }

    /// Remembers a station. `false` if the table is full.
    pub(super) fn learn(&mut self, mac: MacAddr, remote: SocketAddr, now: Duration) -> bool {
        if mac.is_multicast() || mac == MacAddr::ZERO {
            return true; // no station has such an address
        }
        if let Some(entry) = self.stations.get_mut(&mac) {
            if entry.seen.is_some() {
                *entry = Entry {
                    remote,
                    seen: Some(now),
                };
            }
            return true;
        }
        if self.stations.len() >= self.max && !self.sweep(now) {
            return false;
        }
        let seen = Some(now);
        self.stations.insert(mac, Entry { remote, seen });
        true
    }

    /// Forgets a station that was not set for good.
    pub(super) fn unlearn(&mut self, mac: MacAddr) {
        if self.stations.get(&mac).is_some_and(|e| e.seen.is_some()) {
            self.stations.remove(&mac);
        }
    }

    /// Sets a station for good. `false` if the table is full.
    pub(super) fn set(&mut self, mac: MacAddr, remote: SocketAddr) -> bool {
        if self.stations.len() >= self.max && !self.stations.contains_key(&mac) {
            return false;
        }
        self.stations.insert(mac, Entry { remote, seen: None });
        true
    }

    pub(super) fn forget(&mut self, mac: MacAddr) -> bool {
        self.stations.remove(&mac).is_some()
    }

    /// Removes old stations, at most once a second because it looks at all.
    /// Whether there is room afterwards.
    fn sweep(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.swept) >= Duration::from_secs(1) {
            self.expire(now);
        }
        self.stations.len() < self.max
    }

    pub(super) fn expire(&mut self, now: Duration) -> usize {
        let before = self.stations.len();
        let ageing = self.ageing;
        self.stations
            .retain(|_, e| e.seen.is_none_or(|seen| now.saturating_sub(seen) <= ageing));
        self.swept = now;
        before - self.stations.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Station> + '_ {
        self.stations.iter().map(|(&mac, e)| Station {
            mac,
            remote: e.remote,
            seen: e.seen,
        })
    }

    fn old(&self, entry: &Entry, now: Duration) -> bool {
        entry
            .seen
            .is_some_and(|seen| now.saturating_sub(seen) > self.ageing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn mac(n: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, n])
    }

    #[test]
    fn stations_move_age_and_stay_where_they_are_set() {
        let (a, b): (SocketAddr, SocketAddr) =
            ("1.1.1.1:1".parse().unwrap(), "2.2.2.2:2".parse().unwrap());
        let mut t = Table::new(S(300), 10);
        assert!(t.learn(mac(1), a, S(5)));
        assert_eq!(t.find(mac(1), S(305)), Some(a));
        assert_eq!(t.find(mac(1), S(306)), None, "too old");
        assert!(t.learn(mac(1), b, S(306)));
        assert_eq!(t.find(mac(1), S(306)), Some(b), "moved");
        assert!(!t.refresh(mac(1), a.ip(), S(400)), "it is behind b");
        assert!(t.refresh(mac(1), b.ip(), S(400)));
        assert_eq!(t.find(mac(1), S(700)), Some(b));
        assert!(t.set(mac(2), a));
        assert!(t.refresh(mac(2), a.ip(), S(400)));
        assert!(t.learn(mac(2), b, S(306)));
        t.unlearn(mac(2));
        assert_eq!(t.find(mac(2), S(999_999)), Some(a), "set for good");
        assert!(t.learn(mac(3), a, S(306)));
        t.unlearn(mac(3));
        assert_eq!(t.find(mac(3), S(306)), None);
        assert!(t.learn(MacAddr::BROADCAST, a, S(306)));
        assert_eq!(t.find(MacAddr::BROADCAST, S(306)), None);
        assert_eq!(t.expire(S(901)), 1);
        assert_eq!(t.iter().count(), 1);
        assert!(t.forget(mac(2)) && !t.forget(mac(2)));
    }

    #[test]
    fn a_full_table_makes_room_from_the_old_only() {
        let a: SocketAddr = "1.1.1.1:1".parse().unwrap();
        let mut t = Table::new(S(10), 4);
        for n in 0..4 {
            assert!(t.learn(mac(n + 1), a, S(n.into())));
        }
        assert!(!t.learn(mac(9), a, S(5)));
        assert!(!t.set(mac(9), a));
        assert!(t.learn(mac(3), a, S(5)), "known ones are refreshed");
        assert!(t.learn(mac(9), a, S(12)), "1 and 2 were too old");
        assert_eq!(t.iter().count(), 3);
    }
}
