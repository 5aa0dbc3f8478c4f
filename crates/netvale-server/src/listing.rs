//! The control plane's answers as messages, a page at a time.

use netvale_backends::netlink::Link;
use netvale_ring::layout::RegionGeom;
use netvale_ring::world::RegionMap;
use netvale_shm::Memfd;
use netvale_switch::domain::{
    CheckReport, DomainError, Layout, NrBind, Offsets, PortEntry, PortStats, Registration,
    RingInfo, StationEntry, Want,
};
use netvale_wire::mac::MacAddr;
use netvale_wire::proto::{
    Context, Drops, ErrorKind, LinkInfo, MAX_MSG, MAX_OWNERS, NrRequest, OwnerInfo, PortInfo,
    RegionBooks, RegionInfo, Registered, Reply, RingPlace, SeatInfo, Station, StationKey, Wanted,
};
use serde::Serialize;

/// A request that is not granted.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// It may be granted in a moment.
    pub(crate) later: bool,
}

/// Longest explanation: names in it come from clients. Bytes.
const MAX_MESSAGE: usize = 2000;

impl Refusal {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            later: false,
        }
    }

    /// It may be granted in a moment.
    pub(crate) fn later(mut self) -> Self {
        self.later = true;
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The message with its hint, for those who are told in one line.
    pub(crate) fn told(self) -> String {
        match self.hint {
            Some(hint) => format!("{} ({hint})", self.message),
            None => self.message,
        }
    }

    /// A device that the system does not give, for the reason of this number.
    pub(crate) fn backend(errno: Option<i32>, e: &dyn std::error::Error) -> Self {
        let kind = match errno {
            Some(1 | 13) => ErrorKind::Denied,       // EPERM, EACCES
            Some(2 | 6 | 19) => ErrorKind::NotFound, // ENOENT, ENXIO, ENODEV
            Some(12 | 23 | 24 | 28) => ErrorKind::NoMemory,
            Some(16) => ErrorKind::Busy,
            Some(17) => ErrorKind::Exists,
            Some(95) => ErrorKind::Unsupported,
            _ => ErrorKind::Os,
        };
        Self::new(kind, crate::files::chain(e))
    }

    /// A failed operation of the system.
    pub(crate) fn os(what: &str, e: &std::io::Error) -> Self {
        let kind = match e.raw_os_error() {
            // ENOMEM, ENFILE, EMFILE, ENOSPC
            Some(12 | 23 | 24 | 28) => ErrorKind::NoMemory,
            _ => ErrorKind::Os,
        };
        Self::new(kind, format!("server cannot {what}: {e}"))
    }
}

impl From<DomainError> for Refusal {
    fn from(e: DomainError) -> Self {
        let kind = match &e {
            DomainError::Invalid(_) => ErrorKind::Invalid,
            DomainError::NotFound(_) => ErrorKind::NotFound,
            DomainError::Busy(_) => ErrorKind::Busy,
            DomainError::Exists(_) => ErrorKind::Exists,
            DomainError::NoSpace(_) => ErrorKind::NoMemory,
            DomainError::Denied(_) => ErrorKind::Denied,
            DomainError::Unsupported(_) => ErrorKind::Unsupported,
            DomainError::NeedsHeader(_) => ErrorKind::NoHdr,
            DomainError::NoDevice(_) => ErrorKind::NoDevice,
            DomainError::Missing(_) => ErrorKind::Missing,
            _ => ErrorKind::Other,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<Refusal> for Reply {
    fn from(r: Refusal) -> Self {
        let mut message = r.message;
        if message.len() > MAX_MESSAGE {
            message = message.chars().take(MAX_MESSAGE / 4).collect();
            message.push_str("...");
        }
        Self::Error {
            kind: r.kind,
            message,
            hint: r.hint,
        }
    }
}

pub(crate) fn want(w: &Wanted) -> Want {
    Want {
        tx_rings: w.tx_rings,
        rx_rings: w.rx_rings,
        tx_slots: w.tx_slots,
        rx_slots: w.rx_slots,
        extra_bufs: w.extra_bufs,
        gives_buffers: w.gives_buffers,
        accepts_vnet_hdr: w.accepts_vnet_hdr,
        vnet_hdr: w.vnet_hdr,
    }
}

/// A request as the control plane takes it.
pub(crate) fn nr_bind(nr: &NrRequest) -> NrBind<'_> {
    NrBind {
        name: &nr.name,
        mode: nr.mode,
        ringid: nr.ringid,
        flags: nr.flags,
        mem_id: nr.mem_id,
        want: want(&nr.want),
        offsets: nr.offsets.map(|o| Offsets {
            max: o.max,
            initial: o.initial,
            bits: o.bits,
        }),
    }
}

fn context(isolated: bool) -> Context {
    if isolated {
        Context::Isolated
    } else {
        Context::Trusted
    }
}

pub(crate) fn region(map: &RegionMap, file: &Memfd) -> RegionInfo {
    RegionInfo {
        id: map.id,
        generation: map.generation,
        shared: map.shared,
        size: file.len() as u64,
        geom: sizes(map.geom),
    }
}

pub(crate) fn layout(l: Layout) -> RegionInfo {
    RegionInfo {
        id: l.id,
        generation: l.generation,
        shared: l.shared,
        size: l.geom.file_len() as u64,
        geom: sizes(l.geom),
    }
}

fn sizes(g: RegionGeom) -> [u32; 5] {
    [g.ifs, g.rings, g.ring_size, g.bufs, g.buf_size]
}

/// Inverse of [`sizes`]; the control plane checks them.
pub(crate) fn geom([ifs, rings, ring_size, bufs, buf_size]: [u32; 5]) -> RegionGeom {
    RegionGeom {
        ifs,
        rings,
        ring_size,
        bufs,
        buf_size,
    }
}

pub(crate) fn place(r: &RingInfo) -> RingPlace {
    RingPlace {
        kring: r.kring.0,
        idx: r.idx,
        ofs: r.ofs,
        slots: r.slots,
    }
}

pub(crate) fn registered(reg: &Registration, size: u64) -> Registered {
    Registered {
        owner: reg.owner,
        port: reg.port.0,
        name: reg.name.clone(),
        kind: reg.kind.as_str().into(),
        region: RegionInfo {
            id: reg.region,
            generation: reg.region_gen,
            shared: reg.shared,
            size,
            geom: sizes(reg.geom),
        },
        nif_ofs: reg.nif_ofs,
        tx_rings: reg.tx_rings,
        rx_rings: reg.rx_rings,
        tx: reg.tx.iter().map(place).collect(),
        rx: reg.rx.iter().map(place).collect(),
        vnet_hdr: reg.vnet_hdr,
        extra_bufs: reg.extra_bufs,
        context: context(reg.isolated),
        host_rings: reg.host_rings,
        offsets: None,
        drivable: false,
        served: false,
    }
}

pub(crate) fn link(l: &Link) -> LinkInfo {
    LinkInfo {
        name: l.name.clone(),
        up: l.up,
        mtu: l.mtu,
        mac: l.mac.map(MacAddr::to_u64),
    }
}

pub(crate) fn port(e: PortEntry) -> PortInfo {
    PortInfo {
        name: e.name,
        kind: e.kind.as_str().into(),
        seat: e.seat.map(|(name, switch, index)| SeatInfo {
            name,
            switch,
            index,
        }),
        context: context(e.isolated),
        persistent: e.persistent,
        owners: e
            .owners
            .iter()
            .take(MAX_OWNERS)
            .map(|o| OwnerInfo {
                owner: o.owner,
                pid: o.pid,
            })
            .collect(),
        region: e.region,
        memsize: e.memsize,
        buf_size: e.buf_size,
        rings: e.rings,
        vnet_hdr: e.vnet_hdr,
        device: None,
        link: None,
    }
}

pub(crate) fn stats(s: PortStats) -> netvale_wire::proto::PortStats {
    netvale_wire::proto::PortStats {
        name: s.name,
        tx_packets: s.tx.0,
        tx_bytes: s.tx.1,
        tx_syncs: s.syncs,
        rx_packets: s.rx.0,
        rx_bytes: s.rx.1,
        flooded: s.flooded,
        drops: s
            .drops
            .into_iter()
            .map(|(reason, packets)| Drops {
                reason: reason.into(),
                packets,
            })
            .collect(),
        faults: s.faults,
        cpu_ns: s.cpu_ns,
    }
}

pub(crate) fn station(s: StationEntry) -> Station {
    Station {
        mac: s.mac,
        port_index: s.port.0,
        port: s.port.1,
        age: s.age,
    }
}

pub(crate) fn station_key(s: &Station) -> StationKey {
    StationKey {
        port_index: s.port_index,
        mac: s.mac,
    }
}

pub(crate) fn check(report: CheckReport, after: Option<u16>) -> Reply {
    let books = report
        .regions
        .into_iter()
        .filter(|r| after.is_none_or(|a| r.id > a))
        .map(|r| RegionBooks {
            id: r.id,
            bufs: r.bufs,
            free: r.free,
            in_rings: r.in_rings,
            extra: r.extra,
            huge: r.huge,
        });
    let (regions, more) = page(books);
    Reply::Check {
        regions,
        // Twenty lines at most; told once.
        problems: if after.is_none() {
            report.problems
        } else {
            Vec::new()
        },
        more,
    }
}

/// As many as fit into one message, and whether that was not all.
pub(crate) fn page<T: Serialize>(all: impl Iterator<Item = T>) -> (Vec<T>, bool) {
    let mut out = Vec::new();
    let mut used = 0;
    for item in all {
        used += serde_json::to_vec(&item).map_or(0, |text| text.len() + 1);
        if used > PAGE && !out.is_empty() {
            return (out, true);
        }
        out.push(item);
    }
    (out, false)
}

/// Bytes of the entries in one message; the rest of it is less than 4 KiB.
const PAGE: usize = MAX_MSG - 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use netvale_wire::proto::encode_reply;

    #[test]
    fn pages_fit_and_miss_nothing() {
        let all: Vec<String> = (0..5000).map(|i| format!("{i:040}")).collect();
        let (mut got, mut from) = (Vec::new(), 0);
        loop {
            let (part, more) = page(all[from..].iter().cloned());
            from += part.len();
            let names = part.clone();
            got.extend(part);
            let reply = Reply::Check {
                regions: vec![],
                problems: names,
                more,
            };
            encode_reply(&reply).unwrap();
            if !more {
                break;
            }
        }
        assert_eq!(got, all);
    }

    #[test]
    fn endless_names_do_not_make_endless_answers() {
        let long = "\u{1}".repeat(60_000);
        let reply = Reply::from(Refusal::new(ErrorKind::NotFound, long));
        assert!(encode_reply(&reply).unwrap().len() < 16 * 1024);
    }
}
