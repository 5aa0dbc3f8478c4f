//! Options that can follow a request, chained through `nro_next`.

use super::{NmReqPoolsInfo, layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct nmreq_option`: how every option begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqOption {
    /// Address of the next option, or 0.
    pub nro_next: u64,
    /// One of [`opttype`](super::opttype).
    pub nro_reqtype: u32,
    /// Out: 0 or an `errno` value.
    pub nro_status: u32,
    /// Total size, bytes; only the eventfd option uses it.
    pub nro_size: u64,
}

/// `struct nmreq_opt_extmem`: the region is the caller's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqOptExtmem {
    /// Common part.
    pub nro_opt: NmReqOption,
    /// Address of the memory.
    pub nro_usrptr: u64,
    /// Its size and division: wish in, truth out.
    pub nro_info: NmReqPoolsInfo,
}

/// One entry of the eventfd option, for one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SyncKloopEventFd {
    /// Signalled by the application.
    pub ioeventfd: i32,
    /// Signalled by the system; -1 for none.
    pub irqfd: i32,
}

/// `struct nmreq_opt_csb`: where the status blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqOptCsb {
    /// Common part.
    pub nro_opt: NmReqOption,
    /// Address of the array the application writes, 64-byte aligned.
    pub csb_atok: u64,
    /// Address of the array the system writes, 64-byte aligned.
    pub csb_ktoa: u64,
}

/// `struct nmreq_opt_sync_kloop_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqOptSyncKloopMode {
    /// Common part.
    pub nro_opt: NmReqOption,
    /// [`DIRECT_TX`], [`DIRECT_RX`].
    pub mode: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct nmreq_opt_offsets`: packets begin at an offset in their buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NmReqOptOffsets {
    /// Common part.
    pub nro_opt: NmReqOption,
    /// Largest offset the program will use, bytes; out: the one in force.
    pub nro_max_offset: u64,
    /// Offset put in all slots, bytes.
    pub nro_initial_offset: u64,
    /// Low bits of a slot's pointer that hold the offset; 0 for all 64.
    pub nro_offset_bits: u32,
    /// Alignment the transmit side needs, bytes.
    pub nro_tx_align: u32,
    /// Bytes to keep free at the end of a buffer.
    pub nro_min_gap: u64,
}

/// `NM_OPT_SYNC_KLOOP_DIRECT_TX`: sync transmit rings in the notifier's context.
pub const DIRECT_TX: u32 = 1;
/// `NM_OPT_SYNC_KLOOP_DIRECT_RX`: sync receive rings in the notifier's context.
pub const DIRECT_RX: u32 = 2;

layout!(NmReqOption, 24, { nro_next: 0, nro_reqtype: 8, nro_status: 12, nro_size: 16 });
layout!(NmReqOptExtmem, 96, { nro_opt: 0, nro_usrptr: 24, nro_info: 32 });
layout!(SyncKloopEventFd, 8, { ioeventfd: 0, irqfd: 4 });
layout!(NmReqOptCsb, 40, { nro_opt: 0, csb_atok: 24, csb_ktoa: 32 });
layout!(NmReqOptSyncKloopMode, 32, { nro_opt: 0, mode: 24 });
layout!(NmReqOptOffsets, 56, {
    nro_opt: 0, nro_max_offset: 24, nro_initial_offset: 32, nro_offset_bits: 40,
    nro_tx_align: 44, nro_min_gap: 48,
});
