//! What control operations tell.

use netvale_switch::domain::{self, Registration};
use netvale_wire::mac::MacAddr;

/// Requested or actual ring geometry; 0 means the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingConfig {
    /// TX rings.
    pub tx_rings: u16,
    /// RX rings.
    pub rx_rings: u16,
    /// Slots of each TX ring.
    pub tx_slots: u16,
    /// Slots of each RX ring.
    pub rx_slots: u16,
    /// Region; 0 for the shared one.
    pub mem_id: u16,
    /// The port is an interface of the host too: a TAP of its name, whose frames
    /// are the port's while that is attached to a switch. It goes with the
    /// port. Needs a server with the privilege.
    pub link: bool,
}

/// Geometry of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortInfo {
    /// Full name.
    pub name: String,
    /// Bytes of the region's pools (netmap's `nr_memsize`).
    pub memsize: u64,
    /// Region (netmap's `nr_mem_id`).
    pub mem_id: u16,
    /// TX rings.
    pub tx_rings: u16,
    /// RX rings.
    pub rx_rings: u16,
    /// Slots of each TX ring.
    pub tx_slots: u16,
    /// Slots of each RX ring.
    pub rx_slots: u16,
    /// Bytes that one slot carries.
    pub buf_size: u32,
    /// virtio-net header length. Bytes.
    pub vnet_hdr: u8,
    /// Extra buffers that the registration got.
    pub extra_bufs: u32,
}

/// One port, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortEntry {
    /// Full name.
    pub name: String,
    /// Switch it is attached to.
    pub switch: Option<String>,
    /// That switch's index, or 0.
    pub switch_idx: u32,
    /// Its index there, or 0.
    pub port_idx: u32,
    /// `vale`, `pipe`, `monitor` or `null`; of a device that is open
    /// `interface`, `tap`, `pcap` or `vxlan`.
    pub kind: String,
    /// `trusted`, `isolated` or `persistent` (nobody has it open).
    pub context: String,
    /// First process that has it open; 0 for this one or none.
    pub owner_pid: u32,
    /// All that have it open.
    pub owner_pids: Vec<u32>,
    /// Geometry.
    pub info: PortInfo,
    /// The device that the server serves there, and how, for people.
    pub device: Option<String>,
    /// The network interface that the device is, or has at its other end.
    pub link: Option<LinkInfo>,
}

/// A network interface of the server's host, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// What it is called now.
    pub name: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Its longest packet, bytes.
    pub mtu: u32,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
}

/// Counters of one port. Every dropped frame is in exactly one of `drops`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Full name.
    pub name: String,
    /// Frames that the port sent, dropped ones included.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Syncs that moved something.
    pub tx_syncs: u64,
    /// Frames put into its RX rings.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Dropped frames by reason: `rx_full`, `rx_fault` (arriving), and
    /// `tx_bad_slot`, `tx_chain`, `tx_runt`, `tx_no_dest`, `tx_offload`. Besides
    /// these, what was lost between a port and its device: `dev_refused` (or
    /// dropped by the interface: no carrier, too long for the other end of a
    /// veth), `dev_down` (it was switched off), `dev_long` (frames too long for us),
    /// `dev_forward` (to be passed on, but there was no way), `dev_foreign`
    /// (of a network that nobody has open), `dev_odd` (headers that contradict
    /// each other, tunnels that cannot be cut, packets of a kind that no
    /// virtio-net header describes), `dev_missed` (came faster than
    /// they were taken).
    pub drops: Vec<(&'static str, u64)>,
    /// Times its words in shared memory broke the rules.
    pub faults: u64,
    /// Time spent moving what it sent, whoever spent it: measured by samples,
    /// but for isolated ports in full. At a device's port all rounds in which
    /// something moved, either way. Nanoseconds.
    pub cpu_ns: u64,
}

impl PortStats {
    /// Frames dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        let of_it = self.drops.iter().filter(|(r, _)| *r == reason);
        total(of_it.map(|&(_, n)| n))
    }

    /// Frames dropped, for whatever reason.
    #[must_use]
    pub fn all_dropped(&self) -> u64 {
        total(self.drops.iter().map(|&(_, n)| n))
    }
}

/// A sum of counters. They lie in memory that a trusted peer may spoil, so they
/// can be any number.
fn total(counters: impl Iterator<Item = u64>) -> u64 {
    counters.fold(0, u64::wrapping_add)
}

/// A station that a switch has learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdbEntry {
    /// MAC address.
    pub mac: [u8; 6],
    /// Port on which it was heard.
    pub port: String,
    /// That port's index.
    pub port_idx: u32,
    /// Eighths of the ageing time since then.
    pub age: u8,
}

/// Answer of the conservation checker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Each region's books.
    pub regions: Vec<RegionReport>,
    /// What is wrong, one line each; empty if nothing is.
    pub problems: Vec<String>,
}

/// One region's books.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionReport {
    /// Region.
    pub mem_id: u16,
    /// Buffers, the two reserved ones included.
    pub buffers: u64,
    /// Not given out.
    pub free: u64,
    /// Named by a ring's slot.
    pub in_rings: u64,
    /// On extra-buffer lists, or lent to devices.
    pub extra: u64,
    /// In huge pages.
    pub huge: bool,
}

impl From<&Registration> for PortInfo {
    fn from(r: &Registration) -> Self {
        Self {
            name: r.name.clone(),
            memsize: r.geom.pools_len() as u64,
            mem_id: r.region,
            tx_rings: r.tx_rings,
            rx_rings: r.rx_rings,
            tx_slots: r.tx.first().map_or(0, |x| x.slots),
            rx_slots: r.rx.first().map_or(0, |x| x.slots),
            buf_size: r.geom.buf_size,
            vnet_hdr: r.vnet_hdr,
            extra_bufs: r.extra_bufs,
        }
    }
}

impl From<domain::PortEntry> for PortEntry {
    fn from(e: domain::PortEntry) -> Self {
        let [tx_rings, rx_rings, tx_slots, rx_slots] = e.rings;
        let (switch, switch_idx, port_idx) = match e.seat {
            Some((name, s, p)) => (Some(name), u32::from(s), u32::from(p)),
            None => (None, 0, 0),
        };
        let context = match (e.isolated, e.owners.is_empty()) {
            (true, _) => "isolated",
            (_, true) => "persistent",
            (_, false) => "trusted",
        };
        Self {
            info: PortInfo {
                name: e.name.clone(),
                memsize: e.memsize,
                mem_id: e.region,
                tx_rings,
                rx_rings,
                tx_slots,
                rx_slots,
                buf_size: e.buf_size,
                vnet_hdr: e.vnet_hdr,
                extra_bufs: 0,
            },
            name: e.name,
            switch,
            switch_idx,
            port_idx,
            kind: e.kind.as_str().into(),
            context: context.into(),
            owner_pid: e.owners.first().map_or(0, |o| o.pid),
            owner_pids: {
                let mut pids: Vec<u32> = e.owners.iter().map(|o| o.pid).collect();
                pids.retain(|&pid| pid != 0);
                pids.sort_unstable();
                pids.dedup();
                pids
            },
            device: None,
            link: None,
        }
    }
}

impl From<domain::PortStats> for PortStats {
    fn from(s: domain::PortStats) -> Self {
        Self {
            name: s.name,
            tx_frames: s.tx.0,
            tx_bytes: s.tx.1,
            tx_syncs: s.syncs,
            rx_frames: s.rx.0,
            rx_bytes: s.rx.1,
            drops: s.drops,
            faults: s.faults,
            cpu_ns: s.cpu_ns,
        }
    }
}

impl From<domain::StationEntry> for FdbEntry {
    fn from(s: domain::StationEntry) -> Self {
        let MacAddr(mac) = MacAddr::from_u64(s.mac);
        Self {
            mac,
            port: s.port.1,
            port_idx: u32::from(s.port.0),
            age: s.age,
        }
    }
}

impl From<domain::CheckReport> for CheckReport {
    fn from(c: domain::CheckReport) -> Self {
        let region = |r: domain::RegionReport| RegionReport {
            mem_id: r.id,
            buffers: u64::from(r.bufs),
            free: u64::from(r.free),
            in_rings: u64::from(r.in_rings),
            extra: u64::from(r.extra),
            huge: r.huge,
        };
        Self {
            regions: c.regions.into_iter().map(region).collect(),
            problems: c.problems,
        }
    }
}
