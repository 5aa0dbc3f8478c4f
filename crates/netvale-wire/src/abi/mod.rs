//! netmap's public ABI: constants and layouts of `net/netmap.h`, API version 14.
//!
//! Unmodified netmap programs are compiled against these numbers, so none may
//! ever change. All fields are in host byte order. Two kinds of layout:
//!
//! * **Shared memory** ([`slot`], [`ring`], [`nif`], [`csb`]): offsets only. A
//!   peer writes this memory while we read it, so it is never viewed through a
//!   Rust reference, and a struct definition would invite one.
//! * **Requests** ([`req`], [`legacy`], [`opt`]): `repr(C)` structs that are
//!   copied in and out of the calling process as a whole.

pub mod csb;
pub mod legacy;
pub mod nif;
pub mod opt;
pub mod req;
pub mod ring;
pub mod slot;

pub use legacy::{NmIfreq, NmReq};
pub use opt::{
    NmReqOptCsb, NmReqOptExtmem, NmReqOptOffsets, NmReqOptSyncKloopMode, NmReqOption,
    SyncKloopEventFd,
};
pub use req::{
    NmReqHeader, NmReqPoolsInfo, NmReqPortHdr, NmReqPortInfoGet, NmReqRegister,
    NmReqSyncKloopStart, NmReqValeAttach, NmReqValeDetach, NmReqValeList, NmReqValeNewif,
    NmReqValePolling,
};

/// Version that requests carry, in `nr_version`.
pub const NETMAP_API: u16 = 14;
/// Lowest version accepted.
pub const NETMAP_MIN_API: u16 = 14;
/// Highest version accepted by `NIOCCTRL`.
pub const NETMAP_MAX_API: u16 = 15;

/// Size of a Linux interface name with its NUL, bytes.
pub const IFNAMSIZ: usize = 16;
/// Size of `nr_name` in [`NmReqHeader`] with its NUL, bytes.
pub const NETMAP_REQ_IFNAMSIZ: usize = 64;
/// Upper limit for one option, and for the sum of a request's options, bytes.
pub const NETMAP_REQ_MAXSIZE: usize = 4096;
/// Most slots one packet may span.
pub const NETMAP_MAX_FRAGS: usize = 64;
/// Alignment of rings, bytes.
pub const NM_CACHE_ALIGN: usize = 128;
/// Mask of the ring index in the old `nr_ringid`; also one more than the
/// highest ring a port name can select.
pub const NETMAP_RING_MASK: u16 = 0x0fff;
/// Buffers below this index are reserved and never given to a program.
pub const FIRST_BUF: u32 = 2;
/// What names of VALE switches begin with.
pub const NM_BDG_NAME: &str = "vale";

/// Old: get port information. Argument: [`NmReq`].
pub const NIOCGINFO: u32 = ioctl_rw(145, size_of::<NmReq>());
/// Old: bind the file to a port. Argument: [`NmReq`].
pub const NIOCREGIF: u32 = ioctl_rw(146, size_of::<NmReq>());
/// Synchronise all bound transmit rings. No argument.
pub const NIOCTXSYNC: u32 = ioctl_none(148);
/// Synchronise all bound receive rings. No argument.
pub const NIOCRXSYNC: u32 = ioctl_none(149);
/// Pass opaque bytes to a switch module. Argument: [`NmIfreq`].
pub const NIOCCONFIG: u32 = ioctl_rw(150, size_of::<NmIfreq>());
/// All requests of API 12 and later. Argument: [`NmReqHeader`].
pub const NIOCCTRL: u32 = ioctl_rw(151, size_of::<NmReqHeader>());

/// `_IOWR('i', nr, size)` of `asm-generic/ioctl.h`.
const fn ioctl_rw(nr: u32, size: usize) -> u32 {
    assert!(size < 1 << 14, "ioctl argument size field is 14 bits");
    #[expect(clippy::cast_possible_truncation, reason = "bounded just above")]
    let size = size as u32;
    (3 << 30) | (size << 16) | ioctl_none(nr)
}

/// `_IO('i', nr)` of `asm-generic/ioctl.h`.
const fn ioctl_none(nr: u32) -> u32 {
    ((b'i' as u32) << 8) | nr
}

/// Request types, `nr_reqtype` of [`NmReqHeader`].
pub mod reqtype {
    /// Bind the file to a port. Body: [`NmReqRegister`](super::NmReqRegister).
    pub const REGISTER: u16 = 1;
    /// Ask for a port's geometry. Body: [`NmReqPortInfoGet`](super::NmReqPortInfoGet).
    pub const PORT_INFO_GET: u16 = 2;
    /// Attach a NIC or persistent port. Body: [`NmReqValeAttach`](super::NmReqValeAttach).
    pub const VALE_ATTACH: u16 = 3;
    /// Undo `VALE_ATTACH`. Body: [`NmReqValeDetach`](super::NmReqValeDetach).
    pub const VALE_DETACH: u16 = 4;
    /// Enumerate switch ports. Body: [`NmReqValeList`](super::NmReqValeList).
    pub const VALE_LIST: u16 = 5;
    /// Set the virtio-net header length. Body: [`NmReqPortHdr`](super::NmReqPortHdr).
    pub const PORT_HDR_SET: u16 = 6;
    /// Get the virtio-net header length. Body: [`NmReqPortHdr`](super::NmReqPortHdr).
    pub const PORT_HDR_GET: u16 = 7;
    /// Create a persistent port. Body: [`NmReqValeNewif`](super::NmReqValeNewif).
    pub const VALE_NEWIF: u16 = 8;
    /// Delete a persistent port. No body.
    pub const VALE_DELIF: u16 = 9;
    /// Serve a NIC by polling. Body: [`NmReqValePolling`](super::NmReqValePolling).
    pub const VALE_POLLING_ENABLE: u16 = 10;
    /// Undo `VALE_POLLING_ENABLE`. Body: [`NmReqValePolling`](super::NmReqValePolling).
    pub const VALE_POLLING_DISABLE: u16 = 11;
    /// Where the pools lie. Body: [`NmReqPoolsInfo`](super::NmReqPoolsInfo).
    pub const POOLS_INFO_GET: u16 = 12;
    /// Run the sync loop in the caller. Body: [`NmReqSyncKloopStart`](super::NmReqSyncKloopStart).
    pub const SYNC_KLOOP_START: u16 = 13;
    /// End the sync loop. No body.
    pub const SYNC_KLOOP_STOP: u16 = 14;
    /// Switch a bound file to CSB mode. No body, one option.
    pub const CSB_ENABLE: u16 = 15;
}

/// Option types, `nro_reqtype` of [`NmReqOption`].
pub mod opttype {
    /// Use the caller's memory as the region.
    pub const EXTMEM: u32 = 1;
    /// Eventfds for the sync loop.
    pub const SYNC_KLOOP_EVENTFDS: u32 = 2;
    /// Ring pointers live in the caller's control blocks.
    pub const CSB: u32 = 3;
    /// Sync in the notifier's context.
    pub const SYNC_KLOOP_MODE: u32 = 4;
    /// Packets begin at an offset in their buffers.
    pub const OFFSETS: u32 = 5;
    /// First number that is no option.
    pub const MAX: u32 = 6;
}

/// Ring selection, `nr_mode` of [`NmReqRegister`].
pub mod mode {
    /// Old requests only: derive the mode from `nr_ringid`.
    pub const DEFAULT: u32 = 0;
    /// All hardware rings.
    pub const ALL_NIC: u32 = 1;
    /// All host rings.
    pub const SW: u32 = 2;
    /// Hardware and host rings.
    pub const NIC_SW: u32 = 3;
    /// The hardware ring pair `nr_ringid`.
    pub const ONE_NIC: u32 = 4;
    /// Old requests only: master end of pipe `nr_ringid`.
    pub const PIPE_MASTER: u32 = 5;
    /// Old requests only: slave end of pipe `nr_ringid`.
    pub const PIPE_SLAVE: u32 = 6;
    /// Memory only, no device.
    pub const NULL: u32 = 7;
    /// The host ring pair `nr_ringid`.
    pub const ONE_SW: u32 = 8;
}

/// `nr_flags` of [`NmReqRegister`]. Unknown bits are ignored.
pub mod regflags {
    /// Monitor the port's transmitted packets.
    pub const MONITOR_TX: u64 = 0x100;
    /// Monitor the port's received packets.
    pub const MONITOR_RX: u64 = 0x200;
    /// Monitor by exchanging buffers, both directions.
    pub const ZCOPY_MON: u64 = 0x400;
    /// Fail if any of the rings is open, and keep others out.
    pub const EXCLUSIVE: u64 = 0x800;
    /// Do not bind the transmit rings.
    pub const RX_RINGS_ONLY: u64 = 0x2000;
    /// Do not bind the receive rings.
    pub const TX_RINGS_ONLY: u64 = 0x4000;
    /// The program copes with a virtio-net header.
    pub const ACCEPT_VNET_HDR: u64 = 0x8000;
    /// Accepted and stored, without effect.
    pub const DO_RX_POLL: u64 = 0x1_0000;
    /// `poll` for input does not flush the transmit rings.
    pub const NO_TX_POLL: u64 = 0x2_0000;
}

/// `nr_mode` of [`NmReqValePolling`].
pub mod polling {
    /// One thread serves all rings.
    pub const SINGLE_CPU: u32 = 1;
    /// One thread a ring.
    pub const MULTI_CPU: u32 = 2;
}

const _: () = {
    assert!(NIOCGINFO == 0xc03c_6991);
    assert!(NIOCREGIF == 0xc03c_6992);
    assert!(NIOCTXSYNC == 0x6994);
    assert!(NIOCRXSYNC == 0x6995);
    assert!(NIOCCONFIG == 0xc110_6996);
    assert!(NIOCCTRL == 0xc058_6997);
};

/// Asserts at build time that a struct is `size` bytes and its fields lie
/// where netmap puts them.
macro_rules! layout {
    ($ty:ty, $size:literal, { $($field:ident: $at:literal),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<$ty>() == $size);
            $(assert!(core::mem::offset_of!($ty, $field) == $at);)*
        };
    };
}
pub(crate) use layout;
