//! The structs of `libnetmap.h`. Those of the requests are in `netvale_wire`.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::offset_of;

use netvale_wire::abi::{NmReqHeader, NmReqOptExtmem, NmReqRegister};

/// Most keys an option can have.
pub const MAX_KEYS: usize = 16;

/// `NMREQ_OPTK_ALLOWEMPTY`: the key may stand without a value.
pub const KEY_ALLOW_EMPTY: c_uint = 1;
/// `NMREQ_OPTK_MUSTSET`: the key must be given.
pub const KEY_MUST_SET: c_uint = 1 << 1;
/// `NMREQ_OPTK_DEFAULT`: `option=value` sets this key.
pub const KEY_DEFAULT: c_uint = 1 << 2;
/// `NMREQ_OPTF_DISABLED`: the option is known and refused.
pub const OPT_DISABLED: c_uint = 1;
/// `NMREQ_OPTF_ALLOWEMPTY`: the option may stand without a body.
pub const OPT_ALLOW_EMPTY: c_uint = 1 << 1;

/// `nmctx_error_cb`: takes a message without a newline.
pub type ErrorFn = unsafe extern "C" fn(*mut Ctx, *const c_char);
/// `nmctx_malloc_cb`.
pub type MallocFn = unsafe extern "C" fn(*mut Ctx, usize) -> *mut c_void;
/// `nmctx_free_cb`.
pub type FreeFn = unsafe extern "C" fn(*mut Ctx, *mut c_void);
/// `nmctx_lock_cb`: locks if the number is not 0, else unlocks.
pub type LockFn = unsafe extern "C" fn(*mut Ctx, c_int);
/// `nmreq_opt_parser_cb`: 0, or -1 with errno set.
pub type ParseFn = unsafe extern "C" fn(*mut ParseCtx) -> c_int;

/// `struct nmctx`: how a program wants errors, memory and locks handled, and
/// what it has mapped.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Ctx {
    /// 0: no messages.
    pub verbose: c_int,
    /// Where messages go.
    pub error: Option<ErrorFn>,
    /// Where memory comes from.
    pub malloc: Option<MallocFn>,
    /// Where memory goes back to.
    pub free: Option<FreeFn>,
    /// Guards `mem_descs`; may be missing.
    pub lock: Option<LockFn>,
    /// Mapped regions.
    pub mem_descs: *mut MemDesc,
}

/// `struct nmem_d`: a mapped region.
#[derive(Debug)]
#[repr(C)]
pub struct MemDesc {
    /// Number of the region.
    pub mem_id: u16,
    /// How many ports use the mapping.
    pub refcount: c_int,
    /// Its address.
    pub mem: *mut c_void,
    /// Its size, bytes.
    pub size: usize,
    /// Not 0: the program's own memory, not to be unmapped.
    pub is_extmem: c_int,
    /// Next in the context's list.
    pub next: *mut Self,
    /// Previous in the context's list.
    pub prev: *mut Self,
}

/// `struct nmport_d`: a port.
#[derive(Debug)]
#[repr(C)]
pub struct Port {
    /// The request to register.
    pub hdr: NmReqHeader,
    /// Its body.
    pub reg: NmReqRegister,
    /// The mapped region, null until mapped.
    pub mem: *mut MemDesc,
    /// The context the port was made in.
    pub ctx: *mut Ctx,
    /// Not 0: registered.
    pub register_done: c_int,
    /// Not 0: mapped.
    pub mmap_done: c_int,
    /// The external-memory option among the header's, or null.
    pub extmem: *mut NmReqOptExtmem,
    /// The descriptor of `/dev/netmap`, -1 if not open.
    pub fd: c_int,
    /// The interface descriptor in the region.
    pub nifp: *mut c_void,
    /// First bound transmit ring.
    pub first_tx_ring: u16,
    /// Last bound transmit ring.
    pub last_tx_ring: u16,
    /// First bound receive ring.
    pub first_rx_ring: u16,
    /// Last bound receive ring.
    pub last_rx_ring: u16,
    /// Where `nmport_inject` tries first.
    pub cur_tx_ring: u16,
    /// For the program's use.
    pub cur_rx_ring: u16,
    /// What to undo when the name is forgotten.
    pub clist: *mut Cleanup,
}

/// `struct nmport_cleanup_d`, opaque to programs: a step to undo.
#[derive(Debug)]
pub struct Cleanup {
    pub(crate) next: *mut Self,
    pub(crate) undo: crate::extmem::Undo,
}

/// `struct nmreq_opt_key`: a key of an option.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct OptKey {
    /// Its name, with `_` for `-`. Null ends the array.
    pub key: *const c_char,
    /// Its place in [`ParseCtx::keys`].
    pub id: c_int,
    /// `KEY_*`.
    pub flags: c_uint,
}

/// `struct nmreq_opt_parser`: an option and who reads it.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct OptParser {
    /// The option's name.
    pub prefix: *const c_char,
    /// Called with the values found.
    pub parse: Option<ParseFn>,
    /// Place of the key that `option=value` sets, -1 for none.
    pub default_key: c_int,
    /// How many keys there are.
    pub nr_keys: c_int,
    /// `OPT_*`.
    pub flags: c_uint,
    /// Next parser of the list.
    pub next: *mut Self,
    /// The keys.
    pub keys: [OptKey; MAX_KEYS],
}

/// `struct nmreq_parse_ctx`: what a parser is called with.
#[derive(Debug)]
#[repr(C)]
pub struct ParseCtx {
    /// For messages and memory.
    pub ctx: *mut Ctx,
    /// What the caller of `nmreq_options_decode` gave.
    pub token: *mut c_void,
    /// Values by place, null where not given. They live until the parser
    /// returns.
    pub keys: [*const c_char; MAX_KEYS],
}

macro_rules! layout {
    ($ty:ty, $size:literal, { $($field:ident: $at:literal),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<$ty>() == $size);
            $(assert!(offset_of!($ty, $field) == $at);)*
        };
    };
}

#[cfg(target_pointer_width = "64")]
mod check {
    use super::*;
    layout!(Ctx, 48, { verbose: 0, error: 8, malloc: 16, free: 24, lock: 32, mem_descs: 40 });
    layout!(MemDesc, 48, {
        mem_id: 0, refcount: 4, mem: 8, size: 16, is_extmem: 24, next: 32, prev: 40,
    });
    layout!(Port, 216, {
        hdr: 0, reg: 88, mem: 144, ctx: 152, register_done: 160, mmap_done: 164, extmem: 168,
        fd: 176, nifp: 184, first_tx_ring: 192, cur_rx_ring: 202, clist: 208,
    });
    layout!(OptKey, 16, { key: 0, id: 8, flags: 12 });
    layout!(OptParser, 304, {
        prefix: 0, parse: 8, default_key: 16, nr_keys: 20, flags: 24, next: 32, keys: 40,
    });
    layout!(ParseCtx, 144, { ctx: 0, token: 8, keys: 16 });
}
