//! Requests of `NIOCCTRL`: a fixed header and one body for each request type.
//!
//! `FromZeros::new_zeroed` is the way to make an empty one.

use super::{IFNAMSIZ, NETMAP_REQ_IFNAMSIZ, layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct nmreq_header`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqHeader {
    /// [`NETMAP_API`](super::NETMAP_API).
    pub nr_version: u16,
    /// One of [`reqtype`](super::reqtype).
    pub nr_reqtype: u16,
    /// Must be zero.
    pub nr_reserved: u32,
    /// Port name, NUL-terminated, without the `netmap:` prefix.
    pub nr_name: [u8; NETMAP_REQ_IFNAMSIZ],
    /// Address of the first option, or 0.
    pub nr_options: u64,
    /// Address of the body, or 0.
    pub nr_body: u64,
}

impl NmReqHeader {
    /// The bytes of the name up to the first NUL; the last byte always counts as one.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        until_nul(&self.nr_name)
    }

    /// Sets the name, NUL-padded. `false`, and no change, if it does not fit
    /// with its NUL or contains one.
    #[must_use]
    pub fn set_name(&mut self, name: &[u8]) -> bool {
        set_name(&mut self.nr_name, name)
    }
}

/// `struct nmreq_register`, body of `REGISTER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqRegister {
    /// Out: offset of the interface descriptor in the region, bytes.
    pub nr_offset: u64,
    /// Out: size of the region, bytes.
    pub nr_memsize: u64,
    /// Slots in each transmit ring: wish in, truth out.
    pub nr_tx_slots: u32,
    /// Slots in each receive ring: wish in, truth out.
    pub nr_rx_slots: u32,
    /// Transmit rings: wish in, truth out.
    pub nr_tx_rings: u16,
    /// Receive rings: wish in, truth out.
    pub nr_rx_rings: u16,
    /// Host transmit rings: wish in, truth out.
    pub nr_host_tx_rings: u16,
    /// Host receive rings: wish in, truth out.
    pub nr_host_rx_rings: u16,
    /// Region to use, 0 for the port's own; out: region in use.
    pub nr_mem_id: u16,
    /// Ring for [`mode::ONE_NIC`](super::mode::ONE_NIC) and `ONE_SW`.
    pub nr_ringid: u16,
    /// One of [`mode`](super::mode).
    pub nr_mode: u32,
    /// Buffers wanted besides those in the rings; out: buffers given.
    pub nr_extra_bufs: u32,
    /// Padding.
    pub pad: u32,
    /// [`regflags`](super::regflags).
    pub nr_flags: u64,
}

/// `struct nmreq_port_info_get`, body of `PORT_INFO_GET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqPortInfoGet {
    /// Size of the region, bytes.
    pub nr_memsize: u64,
    /// Slots in each transmit ring.
    pub nr_tx_slots: u32,
    /// Slots in each receive ring.
    pub nr_rx_slots: u32,
    /// Transmit rings.
    pub nr_tx_rings: u16,
    /// Receive rings.
    pub nr_rx_rings: u16,
    /// Host transmit rings.
    pub nr_host_tx_rings: u16,
    /// Host receive rings.
    pub nr_host_rx_rings: u16,
    /// In and out: region.
    pub nr_mem_id: u16,
    /// Padding.
    pub pad: [u16; 3],
}

/// `struct nmreq_vale_attach`, body of `VALE_ATTACH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqValeAttach {
    /// How to open what is attached.
    pub reg: NmReqRegister,
    /// Out: index of the new switch port.
    pub port_index: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct nmreq_vale_detach`, body of `VALE_DETACH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqValeDetach {
    /// Out: index the port had.
    pub port_index: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct nmreq_vale_list`, body of `VALE_LIST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqValeList {
    /// In: first switch to consider; out: the switch found.
    pub nr_bridge_idx: u16,
    /// Padding.
    pub pad: u16,
    /// In: first port to consider; out: the port found.
    pub nr_port_idx: u32,
}

/// `struct nmreq_port_hdr`, body of `PORT_HDR_SET` and `PORT_HDR_GET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqPortHdr {
    /// Length of the virtio-net header, bytes: 0, 10 or 12.
    pub nr_hdr_len: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct nmreq_vale_newif`, body of `VALE_NEWIF`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqValeNewif {
    /// Slots in each transmit ring, 0 for the default.
    pub nr_tx_slots: u32,
    /// Slots in each receive ring, 0 for the default.
    pub nr_rx_slots: u32,
    /// Transmit rings, 0 for the default.
    pub nr_tx_rings: u16,
    /// Receive rings, 0 for the default.
    pub nr_rx_rings: u16,
    /// Region, 0 for a private one.
    pub nr_mem_id: u16,
    /// Padding.
    pub pad: u16,
}

/// `struct nmreq_vale_polling`, body of `VALE_POLLING_ENABLE` and `_DISABLE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqValePolling {
    /// One of [`polling`](super::polling).
    pub nr_mode: u32,
    /// First CPU to poll on.
    pub nr_first_cpu_id: u32,
    /// How many CPUs to poll on.
    pub nr_num_polling_cpus: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct nmreq_pools_info`, body of `POOLS_INFO_GET` and part of the
/// external-memory option. Offsets are from the start of the region, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqPoolsInfo {
    /// Size of the region, bytes.
    pub nr_memsize: u64,
    /// Region.
    pub nr_mem_id: u16,
    /// Padding.
    pub pad: [u16; 3],
    /// Where interface descriptors begin.
    pub nr_if_pool_offset: u64,
    /// How many there are.
    pub nr_if_pool_objtotal: u32,
    /// Bytes for each.
    pub nr_if_pool_objsize: u32,
    /// Where rings begin.
    pub nr_ring_pool_offset: u64,
    /// How many there are.
    pub nr_ring_pool_objtotal: u32,
    /// Bytes for each.
    pub nr_ring_pool_objsize: u32,
    /// Where buffers begin.
    pub nr_buf_pool_offset: u64,
    /// How many there are.
    pub nr_buf_pool_objtotal: u32,
    /// Bytes for each.
    pub nr_buf_pool_objsize: u32,
}

/// `struct nmreq_sync_kloop_start`, body of `SYNC_KLOOP_START`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqSyncKloopStart {
    /// Pause between rounds, microseconds.
    pub sleep_us: u32,
    /// Padding.
    pub pad: u32,
}

/// Part of a fixed-size name before its first NUL, at most all bytes but the last.
pub(super) fn until_nul<const N: usize>(field: &[u8; N]) -> &[u8] {
    let last = N.saturating_sub(1);
    let end = field.iter().take(last).position(|&b| b == 0);
    field.get(..end.unwrap_or(last)).unwrap_or_default()
}

/// Stores `name` NUL-padded; `false` if it is too long or contains a NUL.
pub(super) fn set_name<const N: usize>(field: &mut [u8; N], name: &[u8]) -> bool {
    if name.len() >= N || name.contains(&0) {
        return false;
    }
    let (text, rest) = field.split_at_mut(name.len());
    text.copy_from_slice(name);
    rest.fill(0);
    true
}

layout!(NmReqHeader, 88, {
    nr_version: 0, nr_reqtype: 2, nr_reserved: 4, nr_name: 8, nr_options: 72, nr_body: 80,
});
layout!(NmReqRegister, 56, {
    nr_offset: 0, nr_memsize: 8, nr_tx_slots: 16, nr_rx_slots: 20, nr_tx_rings: 24,
    nr_rx_rings: 26, nr_host_tx_rings: 28, nr_host_rx_rings: 30, nr_mem_id: 32, nr_ringid: 34,
    nr_mode: 36, nr_extra_bufs: 40, nr_flags: 48,
});
layout!(NmReqPortInfoGet, 32, {
    nr_memsize: 0, nr_tx_slots: 8, nr_rx_slots: 12, nr_tx_rings: 16, nr_rx_rings: 18,
    nr_host_tx_rings: 20, nr_host_rx_rings: 22, nr_mem_id: 24,
});
layout!(NmReqValeAttach, 64, { reg: 0, port_index: 56 });
layout!(NmReqValeDetach, 8, { port_index: 0 });
layout!(NmReqValeList, 8, { nr_bridge_idx: 0, nr_port_idx: 4 });
layout!(NmReqPortHdr, 8, { nr_hdr_len: 0 });
layout!(NmReqValeNewif, 16, {
    nr_tx_slots: 0, nr_rx_slots: 4, nr_tx_rings: 8, nr_rx_rings: 10, nr_mem_id: 12,
});
layout!(NmReqValePolling, 16, { nr_mode: 0, nr_first_cpu_id: 4, nr_num_polling_cpus: 8 });
layout!(NmReqPoolsInfo, 64, {
    nr_memsize: 0, nr_mem_id: 8, nr_if_pool_offset: 16, nr_if_pool_objtotal: 24,
    nr_if_pool_objsize: 28, nr_ring_pool_offset: 32, nr_ring_pool_objtotal: 40,
    nr_ring_pool_objsize: 44, nr_buf_pool_offset: 48, nr_buf_pool_objtotal: 56,
    nr_buf_pool_objsize: 60,
});
layout!(NmReqSyncKloopStart, 8, { sleep_us: 0 });
const _: () = assert!(IFNAMSIZ < NETMAP_REQ_IFNAMSIZ);

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn name_needs_room_for_its_nul() {
        let mut h = NmReqHeader::new_zeroed();
        assert!(h.set_name(&[b'x'; 63]));
        assert_eq!(h.name().len(), 63);
        assert!(!h.set_name(&[b'y'; 64]));
        assert!(!h.set_name(b"a\0b"));
        assert_eq!(h.name(), [b'x'; 63], "a refused name changes nothing");
        assert!(h.set_name(b"vale0:a"));
        assert_eq!(h.name(), b"vale0:a");
    }

    #[test]
    fn name_ends_at_byte_63_even_without_a_nul() {
        let mut h = NmReqHeader::new_zeroed();
        h.nr_name = [b'z'; 64];
        assert_eq!(h.name(), [b'z'; 63]);
    }
}
