//! The request of API 11 and earlier, still spoken by `nm_open` and libpcap.

use super::req::{set_name, until_nul};
use super::{IFNAMSIZ, layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct nmreq`, argument of `NIOCGINFO` and `NIOCREGIF`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReq {
    /// Port name, NUL-terminated.
    pub nr_name: [u8; IFNAMSIZ],
    /// At least [`NETMAP_API`](super::NETMAP_API).
    pub nr_version: u32,
    /// Out: offset of the interface descriptor, bytes, low 32 bits.
    pub nr_offset: u32,
    /// Out: size of the region, bytes, low 32 bits.
    pub nr_memsize: u32,
    /// Slots in each transmit ring.
    pub nr_tx_slots: u32,
    /// Slots in each receive ring.
    pub nr_rx_slots: u32,
    /// Transmit rings.
    pub nr_tx_rings: u16,
    /// Receive rings.
    pub nr_rx_rings: u16,
    /// Ring number and `RINGID_*` bits.
    pub nr_ringid: u16,
    /// 0, or one of [`cmd`].
    pub nr_cmd: u16,
    /// Depends on the command; [`BDG_HOST`] for an attachment.
    pub nr_arg1: u16,
    /// Region.
    pub nr_arg2: u16,
    /// Extra buffers.
    pub nr_arg3: u32,
    /// Mode in the low 4 bits ([`REG_MASK`]), [`regflags`](super::regflags) above.
    pub nr_flags: u32,
    /// Unused.
    pub spare2: [u32; 1],
}

impl NmReq {
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

/// `struct nm_ifreq`, argument of `NIOCCONFIG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmIfreq {
    /// Switch name, NUL-terminated.
    pub nifr_name: [u8; IFNAMSIZ],
    /// Opaque to everyone but the switch module.
    pub data: [u8; 256],
}

/// `nr_ringid`: bind one hardware ring pair.
pub const RINGID_HW: u16 = 0x4000;
/// `nr_ringid`: bind the host rings.
pub const RINGID_SW: u16 = 0x2000;
/// `nr_ringid`: `poll` for input does not flush the transmit rings.
pub const RINGID_NO_TX_POLL: u16 = 0x1000;
/// `nr_ringid`: accepted, without effect.
pub const RINGID_DO_RX_POLL: u16 = 0x8000;
/// Mask of the [`mode`](super::mode) in `nr_flags`.
pub const REG_MASK: u32 = 0xf;
/// `nr_arg1` of an attachment: attach the host rings as well.
pub const BDG_HOST: u16 = 1;

/// Commands in `nr_cmd`; 0 is a plain registration or information request.
pub mod cmd {
    /// Attach to a switch.
    pub const BDG_ATTACH: u16 = 1;
    /// Detach from a switch.
    pub const BDG_DETACH: u16 = 2;
    /// Reserved for kernel modules.
    pub const BDG_REGOPS: u16 = 3;
    /// Enumerate ports.
    pub const BDG_LIST: u16 = 4;
    /// Set the virtio-net header length.
    pub const BDG_VNET_HDR: u16 = 5;
    /// Create a persistent port.
    pub const BDG_NEWIF: u16 = 6;
    /// Delete a persistent port.
    pub const BDG_DELIF: u16 = 7;
    /// No longer supported.
    pub const PT_HOST_CREATE: u16 = 8;
    /// No longer supported.
    pub const PT_HOST_DELETE: u16 = 9;
    /// Serve a NIC by polling.
    pub const BDG_POLLING_ON: u16 = 10;
    /// Undo `BDG_POLLING_ON`.
    pub const BDG_POLLING_OFF: u16 = 11;
    /// Get the virtio-net header length.
    pub const VNET_HDR_GET: u16 = 12;
}

layout!(NmReq, 60, {
    nr_name: 0, nr_version: 16, nr_offset: 20, nr_memsize: 24, nr_tx_slots: 28, nr_rx_slots: 32,
    nr_tx_rings: 36, nr_rx_rings: 38, nr_ringid: 40, nr_cmd: 42, nr_arg1: 44, nr_arg2: 46,
    nr_arg3: 48, nr_flags: 52, spare2: 56,
});
layout!(NmIfreq, 272, { nifr_name: 0, data: 16 });
const _: () = assert!(align_of::<NmReq>() == 4);
