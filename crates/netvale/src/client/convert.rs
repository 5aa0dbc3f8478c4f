//! Messages as what the library works with. Numbers are checked here: a
//! server that is broken must not break its clients.

use netvale_ring::kring::{Counter, KringId};
use netvale_ring::layout::RegionGeom;
use netvale_ring::port::{PortId, PortKind};
use netvale_ring::world::RegionMap;
use netvale_shm::Mem;
use netvale_switch::domain::{OwnerInfo, PortEntry, PortStats, Registration, RingInfo, Want};
use netvale_wire::mac::MacAddr;
use netvale_wire::proto::{self, Context, PortInfo, RegionInfo, Registered, RingPlace, Wanted};

use crate::{Error, ErrorKind, Result};

pub(crate) fn wanted(w: &Want) -> Wanted {
    Wanted {
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

/// Bytes of a file, if it is one that could be mapped.
pub(crate) fn size(bytes: u64) -> Result<usize> {
    usize::try_from(bytes)
        .ok()
        .filter(|n| (1..=1 << 46).contains(n))
        .ok_or_else(|| bad("file size"))
}

/// Products of two of these stay far from overflowing.
fn geom(g: [u32; 5]) -> Result<RegionGeom> {
    let [ifs, rings, ring_size, bufs, buf_size] = g;
    let fine = (1..=1 << 20).contains(&ifs)
        && (1..=1 << 20).contains(&rings)
        && (256..=1 << 20).contains(&ring_size)
        && (3..=1 << 28).contains(&bufs)
        && (64..=1 << 16).contains(&buf_size);
    if !fine {
        return Err(bad("region's sizes"));
    }
    Ok(RegionGeom {
        ifs,
        rings,
        ring_size,
        bufs,
        buf_size,
    })
}

pub(crate) fn region(info: &RegionInfo, mem: Mem) -> Result<RegionMap> {
    RegionMap::new(info.id, info.generation, info.shared, geom(info.geom)?, mem)
        .ok_or_else(|| bad("region's size"))
}

pub(crate) fn registration(r: &Registered) -> Result<Registration> {
    let place = |p: &RingPlace| RingInfo {
        kring: KringId(p.kring),
        idx: p.idx,
        ofs: p.ofs,
        slots: p.slots,
    };
    if !matches!(r.vnet_hdr, 0 | 10 | 12) {
        return Err(bad("header length"));
    }
    Ok(Registration {
        owner: r.owner,
        port: PortId(r.port),
        name: r.name.clone(),
        kind: kind(&r.kind).ok_or_else(|| bad("kind of port"))?,
        region: r.region.id,
        region_gen: r.region.generation,
        shared: r.region.shared,
        geom: geom(r.region.geom)?,
        nif_ofs: r.nif_ofs,
        tx_rings: r.tx_rings,
        rx_rings: r.rx_rings,
        host_rings: r.host_rings,
        tx: r.tx.iter().map(place).collect(),
        rx: r.rx.iter().map(place).collect(),
        vnet_hdr: r.vnet_hdr,
        extra_bufs: r.extra_bufs,
        isolated: r.context == Context::Isolated,
    })
}

pub(crate) fn port(p: PortInfo) -> crate::PortEntry {
    let word = p.kind.clone();
    let entry = PortEntry {
        name: p.name,
        kind: kind(&p.kind).unwrap_or_default(),
        seat: p.seat.map(|s| (s.name, s.switch, s.index)),
        isolated: p.context == Context::Isolated,
        persistent: p.persistent,
        owners: p
            .owners
            .iter()
            .map(|o| OwnerInfo {
                owner: o.owner,
                pid: o.pid,
            })
            .collect(),
        region: p.region,
        memsize: p.memsize,
        buf_size: p.buf_size,
        rings: p.rings,
        vnet_hdr: p.vnet_hdr,
    };
    crate::PortEntry {
        // Devices that are open have kinds of their own here.
        kind: word,
        device: p.device,
        link: p.link.map(|l| crate::LinkInfo {
            name: l.name,
            up: l.up,
            mtu: l.mtu,
            mac: l.mac.map(|mac| MacAddr::from_u64(mac).0),
        }),
        ..entry.into()
    }
}

pub(crate) fn stats(s: proto::PortStats) -> PortStats {
    PortStats {
        name: s.name,
        tx: (s.tx_packets, s.tx_bytes),
        syncs: s.tx_syncs,
        rx: (s.rx_packets, s.rx_bytes),
        flooded: s.flooded,
        drops: s
            .drops
            .iter()
            .map(|d| (reason(&d.reason), d.packets))
            .collect(),
        faults: s.faults,
        cpu_ns: s.cpu_ns,
    }
}

fn kind(word: &str) -> Option<PortKind> {
    [
        PortKind::Vale,
        PortKind::Pipe,
        PortKind::Monitor,
        PortKind::Null,
    ]
    .into_iter()
    .find(|k| k.as_str() == word)
}

/// The reason as a word of this release.
fn reason(word: &str) -> &'static str {
    Counter::DROPS
        .iter()
        .map(|&(_, w)| w)
        .chain(["rx_full", "rx_fault"])
        .chain(["dev_refused", "dev_down", "dev_long"])
        .chain(["dev_forward", "dev_foreign", "dev_odd", "dev_missed"])
        .find(|&w| w == word)
        .unwrap_or("other")
}

fn bad(what: &str) -> Error {
    Error::new(
        ErrorKind::Peer,
        format!("the server sent an impossible {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "af-xdp")]
    #[test]
    fn losses_of_devices_keep_their_names() {
        for (word, _) in netvale_lane::Losses::default().list() {
            assert_eq!(reason(word), word);
        }
    }

    #[test]
    fn impossible_regions_are_refused() {
        let max = u32::MAX;
        for g in [
            [max; 5],
            [0; 5],
            [1, 1, max, 3, 64],
            [1, 1, 256, max, 64],
            [1, 1, 256, 3, 0],
        ] {
            geom(g).unwrap_err();
        }
        size(0).unwrap_err();
        size(u64::MAX).unwrap_err();
        let info = RegionInfo {
            id: 1,
            generation: 1,
            shared: None,
            size: 4096,
            geom: [1 << 20, 1 << 20, 1 << 20, 1 << 28, 1 << 16],
        };
        region(&info, Mem::heap(4096)).unwrap_err();
    }

    #[test]
    fn reasons_are_known_words() {
        for (_, word) in Counter::DROPS {
            assert_eq!(reason(word), word);
        }
        assert_eq!(reason("of the future"), "other");
        assert_eq!(kind("pipe"), Some(PortKind::Pipe));
        assert_eq!(kind("x"), None);
    }
}
