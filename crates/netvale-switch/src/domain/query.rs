//! What there is: ports, counters, stations, and whether the books balance.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Acquire;

use netvale_ring::kring::Counter;
use netvale_ring::layout::RESERVED_BUFS;
use netvale_ring::port::{PortId, PortKind};
use netvale_ring::world::Holder;

use super::{Domain, MemSource, Port, Region};
use crate::switch::Switch;

/// One port, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortEntry {
    /// Full name.
    pub name: String,
    /// Kind.
    pub kind: PortKind,
    /// Switch it is attached to, that one's index, its own index there.
    pub seat: Option<(String, u16, u16)>,
    /// The server does its syncs.
    pub isolated: bool,
    /// It stays when nobody has it open.
    pub persistent: bool,
    /// Who has it open.
    pub owners: Vec<OwnerInfo>,
    /// Region.
    pub region: u16,
    /// Bytes of the region's pools.
    pub memsize: u64,
    /// Bytes of a buffer.
    pub buf_size: u32,
    /// TX rings, RX rings, slots of each.
    pub rings: [u16; 4],
    /// virtio-net header length. Bytes.
    pub vnet_hdr: u8,
}

/// A registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerInfo {
    /// Its identifier.
    pub owner: u16,
    /// Its process, 0 if that is the caller itself.
    pub pid: u32,
}

/// A port's counters, summed over its rings. Every dropped frame is in exactly
/// one of `drops`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Full name.
    pub name: String,
    /// Frames and bytes the port sent (dropped ones included).
    pub tx: (u64, u64),
    /// Syncs that moved something.
    pub syncs: u64,
    /// Frames and bytes put into its RX rings.
    pub rx: (u64, u64),
    /// Frames that it sent to everyone.
    pub flooded: u64,
    /// Dropped frames by reason.
    pub drops: Vec<(&'static str, u64)>,
    /// Times its words in shared memory broke the rules.
    pub faults: u64,
    /// CPU time spent moving what it sent. Nanoseconds.
    pub cpu_ns: u64,
}

/// A station in a learning table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StationEntry {
    /// MAC address, first byte lowest.
    pub mac: u64,
    /// The port's index and name.
    pub port: (u16, String),
    /// Ageing epochs since it was heard.
    pub age: u8,
}

/// Whether every buffer is in exactly one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Each region's books.
    pub regions: Vec<RegionReport>,
    /// What is wrong, one line each. Only meaningful at a quiet moment.
    pub problems: Vec<String>,
}

/// One region's books.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionReport {
    /// Identifier.
    pub id: u16,
    /// Buffers, the two reserved ones included.
    pub bufs: u32,
    /// Not given out.
    pub free: u32,
    /// Named by a ring's slot.
    pub in_rings: u32,
    /// On extra-buffer lists, or lent to devices.
    pub extra: u32,
    /// In huge pages.
    pub huge: bool,
}

/// Problems reported before the checker gives up.
const MAX_PROBLEMS: usize = 20;

impl<M: MemSource> Domain<M> {
    /// Every port, by switch and index, then by name.
    #[must_use]
    pub fn list(&self) -> Vec<PortEntry> {
        let mut all: Vec<PortEntry> = self.ports.iter().map(|(_, p)| self.entry(p)).collect();
        all.sort_by(|a, b| {
            let key = |e: &PortEntry| e.seat.as_ref().map_or((u16::MAX, u16::MAX), |s| (s.1, s.2));
            (key(a), &a.name).cmp(&(key(b), &b.name))
        });
        all
    }

    fn entry(&self, p: &Port) -> PortEntry {
        let region = self.regions.get(u32::from(p.region));
        let geom = region.map(|r| r.map.geom);
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        PortEntry {
            name: p.name.clone(),
            kind: p.kind,
            seat: p.seat.map(|s| {
                let name = self
                    .switches
                    .get(u32::from(s.switch))
                    .map(|i| i.name.clone());
                (name.unwrap_or_default(), s.switch, s.idx)
            }),
            isolated: p.isolated,
            persistent: p.persistent && !p.automatic,
            owners: p
                .owners
                .iter()
                .map(|&owner| OwnerInfo {
                    owner,
                    pid: self.owners.get(u32::from(owner)).map_or(0, |o| o.pid),
                })
                .collect(),
            region: p.region,
            memsize: geom.map_or(0, |g| g.pools_len() as u64),
            buf_size: geom.map_or(0, |g| g.buf_size),
            rings: [
                count(p.tx.len()),
                count(p.rx.len()),
                p.tx.first().map_or(0, |r| r.slots),
                p.rx.first().map_or(0, |r| r.slots),
            ],
            vnet_hdr: p.vnet_hdr,
        }
    }

    /// A port's index in its switch.
    #[must_use]
    pub fn seat_of(&self, id: PortId) -> Option<u32> {
        self.port(id)?.seat.map(|seat| u32::from(seat.idx))
    }

    /// Whether there is a persistent port of this name, attached or not.
    #[must_use]
    pub fn is_persistent(&self, name: &str) -> bool {
        self.persistent(name).is_some()
    }

    /// Counters of one port, or of all.
    #[must_use]
    pub fn stats(&self, name: Option<&str>) -> Vec<PortStats> {
        self.ports
            .iter()
            .filter(|(_, p)| name.is_none_or(|n| n == p.name))
            .map(|(_, p)| self.stats_of(p))
            .collect()
    }

    /// Counters of the port with this identifier.
    #[must_use]
    pub fn port_stats(&self, id: PortId) -> Option<PortStats> {
        self.port(id).map(|p| self.stats_of(p))
    }

    fn stats_of(&self, p: &Port) -> PortStats {
        let mut s = PortStats {
            name: p.name.clone(),
            ..PortStats::default()
        };
        // Counters lie in shared memory: they may be anything.
        let add = |sum: &mut u64, n: u64| *sum = sum.wrapping_add(n);
        let mut drops: BTreeMap<&'static str, u64> = BTreeMap::new();
        for k in p.tx.iter().filter_map(|r| self.world.kring(r.kring)) {
            add(&mut s.tx.0, k.counter(Counter::Frames));
            add(&mut s.tx.1, k.counter(Counter::Bytes));
            add(&mut s.syncs, k.counter(Counter::Syncs));
            add(&mut s.flooded, k.counter(Counter::Flooded));
            add(&mut s.cpu_ns, k.counter(Counter::CpuNs));
            add(
                &mut s.faults,
                k.counter(Counter::FaultWords)
                    .wrapping_add(k.counter(Counter::FaultState)),
            );
            for (c, word) in Counter::DROPS {
                add(drops.entry(word).or_default(), k.counter(c));
            }
        }
        for k in p.rx.iter().filter_map(|r| self.world.kring(r.kring)) {
            let [frames, bytes, full, fault] = k.in_counters();
            add(&mut s.rx.0, frames);
            add(&mut s.rx.1, bytes);
            add(
                &mut s.faults,
                k.counter(Counter::FaultWords)
                    .wrapping_add(k.counter(Counter::FaultState)),
            );
            add(drops.entry("rx_full").or_default(), full);
            add(drops.entry("rx_fault").or_default(), fault);
        }
        s.drops = drops.into_iter().collect();
        s
    }

    /// Stations that a switch has learned; `None` if there is no such switch.
    #[must_use]
    pub fn fdb(&self, switch: &str) -> Option<Vec<StationEntry>> {
        let &s = self.switch_names.get(switch)?;
        let sw = Switch::at(&self.world, s)?;
        let now = self.world.epoch();
        let mut all: Vec<StationEntry> = sw
            .fdb()
            .iter()
            .map(|st| StationEntry {
                mac: st.mac,
                port: (
                    st.port,
                    sw.port(st.port)
                        .and_then(|p| self.port(p))
                        .map(|p| p.name.clone())
                        .unwrap_or_default(),
                ),
                age: now.wrapping_sub(st.epoch) & 0xf,
            })
            .collect();
        all.sort_by_key(|e| (e.port.0, e.mac));
        Some(all)
    }

    /// Proves, at a quiet moment, that every buffer is in exactly one place.
    #[must_use]
    pub fn check(&self) -> CheckReport {
        let mut report = CheckReport::default();
        for (id, r) in self.regions.iter() {
            if let Ok(id) = u16::try_from(id) {
                let books = self.check_region(id, r, &mut report.problems);
                report.regions.push(books);
            }
        }
        report
    }

    fn check_region(
        &self,
        id: u16,
        r: &Region<M::File>,
        problems: &mut Vec<String>,
    ) -> RegionReport {
        let mut seen: BTreeMap<u32, String> = BTreeMap::new();
        let mut say = |line: String| {
            if problems.len() < MAX_PROBLEMS {
                problems.push(format!("region {id}: {line}"));
            }
        };
        let (mut in_rings, mut extra) = (0, 0);
        let ports = self.ports.iter().map(|(_, p)| p);
        for p in ports
            .chain(self.zombies.iter().map(|z| &*z.state))
            .filter(|p| p.region == id)
        {
            for (dir, ring) in
                p.tx.iter()
                    .map(|r| ("tx", r))
                    .chain(p.rx.iter().map(|r| ("rx", r)))
            {
                let Some(view) = r
                    .map
                    .ring(r.map.geom.ring_ofs(ring.obj), u32::from(ring.slots))
                else {
                    continue;
                };
                if ring.bufs == 0 {
                    continue;
                }
                for i in 0..view.count() {
                    let b = view.slot(i).buf();
                    let at = format!("{} {dir} slot {i}", p.name);
                    in_rings += 1;
                    if !r.map.valid_buf(b) {
                        say(format!("{at} names buffer {b}, which does not exist"));
                    } else if let Some(other) = seen.insert(b, at.clone()) {
                        say(format!("buffer {b} is in {other} and in {at}"));
                    } else if !r.bufs.has(b) {
                        say(format!("buffer {b} in {at} is free"));
                    }
                }
            }
        }
        for (o, owner) in self.owners.iter() {
            let Some(b) = owner.bound.as_ref().filter(|b| b.extra > 0) else {
                continue;
            };
            if self.port(b.port).is_none_or(|p| p.region != id) {
                continue;
            }
            for buf in self.extra_list(id, b.nif) {
                extra += 1;
                if let Some(other) = seen.insert(buf, format!("extra list of {o}")) {
                    say(format!("buffer {buf} is in {other} and on an extra list"));
                }
            }
        }
        for (buf, ring) in self.stocks(r) {
            extra += 1;
            let place = match ring {
                Some(ring) => format!("the stock of ring {}", ring.0),
                None => "a device that is gone".into(),
            };
            if let Some(other) = seen.insert(buf, place) {
                say(format!("buffer {buf} is in {other} and lent to a device"));
            }
        }
        let taken = r.bufs.taken().saturating_sub(RESERVED_BUFS);
        if taken as usize != seen.len() {
            say(format!(
                "{taken} buffers are given out, but {} are in rings and lists",
                seen.len()
            ));
        }
        if let Some(holders) = r
            .map
            .shared
            .and_then(|s| self.world.holders(s, r.map.geom.bufs))
        {
            for b in RESERVED_BUFS..r.bufs.high_water() {
                let held = holders.get(b as usize).map_or(0, |h| h.load(Acquire));
                if (held == Holder::FREE.bits()) == r.bufs.has(b) {
                    say(format!("buffer {b}: holder table and books disagree"));
                }
            }
        }
        RegionReport {
            id,
            bufs: r.map.geom.bufs,
            free: r.bufs.left(),
            in_rings,
            extra,
            huge: r.huge,
        }
    }
}
