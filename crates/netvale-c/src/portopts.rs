//! The options of `nmport_parse`: share, extmem, conf and offset.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Display;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use netvale_wire::abi::{NmReqHeader, NmReqPortInfoGet, reqtype};

use crate::abi::{
    Ctx, KEY_DEFAULT, KEY_MUST_SET, MAX_KEYS, OPT_DISABLED, OptKey, OptParser, ParseCtx, ParseFn,
    Port,
};
use crate::header::{self, nmreq_header_init};
use crate::options::{self, OPT_BARE};
use crate::port::{IOCTL, device};
use crate::refusal::{Refusal, bytes, set_errno, shown};
use crate::{ctx, extmem};

/// An option of ports.
struct Known {
    name: &'static CStr,
    parse: ParseFn,
    flags: c_uint,
    keys: &'static [(&'static CStr, c_uint)],
}

/// The default key of each is its first.
const KNOWN: [Known; 4] = [
    Known {
        name: c"share",
        parse: share,
        flags: OPT_BARE,
        keys: &[(c"port", KEY_DEFAULT | KEY_MUST_SET)],
    },
    Known {
        name: c"extmem",
        parse: external,
        flags: 0,
        keys: &[
            (c"file", KEY_DEFAULT | KEY_MUST_SET),
            (c"if_num", 0),
            (c"if_size", 0),
            (c"ring_num", 0),
            (c"ring_size", 0),
            (c"buf_num", 0),
            (c"buf_size", 0),
        ],
    },
    Known {
        name: c"conf",
        parse: conf,
        flags: 0,
        keys: &[
            (c"rings", 0),
            (c"host_rings", 0),
            (c"slots", 0),
            (c"tx_rings", 0),
            (c"rx_rings", 0),
            (c"host_tx_rings", 0),
            (c"host_rx_rings", 0),
            (c"tx_slots", 0),
            (c"rx_slots", 0),
        ],
    },
    Known {
        name: c"offset",
        parse: offset,
        flags: 0,
        keys: &[(c"initial", KEY_DEFAULT | KEY_MUST_SET), (c"bits", 0)],
    },
];

/// A bit for each option that is disabled. Programs must say that they can deal
/// with offsets before names may ask for them.
static DISABLED: AtomicU32 = AtomicU32::new(1 << 3);

fn bit_of(name: &[u8]) -> Option<u32> {
    let at = KNOWN
        .iter()
        .position(|known| known.name.to_bytes() == name)?;
    Some(1 << at)
}

/// `void nmport_disable_option(const char *opt)`: has names with that option
/// refused. Nothing happens if there is no such option.
///
/// # Safety
///
/// `opt` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_disable_option(opt: *const c_char) {
    // SAFETY: the caller's promise.
    if let Some(bit) = bit_of(unsafe { bytes(opt) }) {
        DISABLED.fetch_or(bit, Ordering::Relaxed);
    }
}

/// `int nmport_enable_option(const char *opt)`: undoes that, and is needed for
/// `offset`. 0, or -1 with `EOPNOTSUPP` if there is no such option.
///
/// # Safety
///
/// `opt` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_enable_option(opt: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let Some(bit) = bit_of(unsafe { bytes(opt) }) else {
        set_errno(libc::EOPNOTSUPP);
        return -1;
    };
    DISABLED.fetch_and(!bit, Ordering::Relaxed);
    0
}

/// Reads a port's options.
///
/// # Safety
///
/// `opts` is a string, `d` a port.
pub(crate) unsafe fn parse(opts: *const c_char, d: *mut Port) -> Result<(), Refusal> {
    let disabled = DISABLED.load(Ordering::Relaxed);
    let mut parsers = [const { parser(0) }, parser(1), parser(2), parser(3)];
    for (at, parser) in parsers.iter_mut().enumerate() {
        if disabled & (1 << at) != 0 {
            parser.flags |= OPT_DISABLED;
        }
    }
    let first = parsers.as_mut_ptr();
    for at in 1..KNOWN.len() {
        // SAFETY: within the array.
        unsafe { (*first.wrapping_add(at - 1)).next = first.wrapping_add(at) };
    }
    // SAFETY: the caller's promise.
    let ctx = unsafe { &*d }.ctx;
    // SAFETY: the parsers outlive the call; their token is a port.
    unsafe { options::decode(opts, first, d.cast(), ctx) }
}

const fn parser(at: usize) -> OptParser {
    let known = &KNOWN[at];
    let mut keys = [OptKey {
        key: ptr::null(),
        id: 0,
        flags: 0,
    }; MAX_KEYS];
    let mut default_key = -1;
    let mut n = 0;
    while n < known.keys.len() {
        let (key, flags) = known.keys[n];
        #[expect(clippy::cast_possible_truncation, reason = "an array of 16 keys")]
        #[expect(clippy::cast_possible_wrap, reason = "an array of 16 keys")]
        let id = n as c_int;
        keys[n] = OptKey {
            key: key.as_ptr(),
            id,
            flags,
        };
        if flags & KEY_DEFAULT != 0 {
            default_key = id;
        }
        n += 1;
    }
    OptParser {
        prefix: known.name.as_ptr(),
        parse: Some(known.parse),
        default_key,
        #[expect(clippy::cast_possible_truncation, reason = "an array of 16 keys")]
        #[expect(clippy::cast_possible_wrap, reason = "an array of 16 keys")]
        nr_keys: n as c_int,
        flags: known.flags,
        next: ptr::null_mut(),
        keys,
    }
}

/// A value as text, if it was given.
///
/// # Safety
///
/// The values are null or strings.
unsafe fn value<'a>(found: &ParseCtx, at: usize) -> Option<&'a [u8]> {
    let value = found
        .keys
        .get(at)
        .copied()
        .filter(|value| !value.is_null())?;
    // SAFETY: a string by the caller's promise.
    Some(unsafe { bytes(value) })
}

/// A value as a decimal number. netmap reads what is none as 0.
///
/// # Safety
///
/// The values are null or strings.
unsafe fn number<T: TryFrom<u64>>(found: &ParseCtx, at: usize) -> Result<Option<T>, Refusal> {
    // SAFETY: passed on.
    let Some(text) = (unsafe { value(found, at) }) else {
        return Ok(None);
    };
    let digits = str::from_utf8(text)
        .ok()
        .filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse::<u64>().ok());
    match number.and_then(|number| T::try_from(number).ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(no_number(shown(text))),
    }
}

fn no_number(text: impl Display) -> Refusal {
    Refusal::invalid(format_args!("'{text}' is no decimal number, or too large"))
}

/// Runs an option's parser and reports a refusal.
///
/// # Safety
///
/// `found` is what [`options::decode`] passes, with a port as its token.
unsafe fn run(
    found: *mut ParseCtx,
    parse: impl FnOnce(&ParseCtx, *mut Port) -> Result<(), Refusal>,
) -> c_int {
    // SAFETY: the caller's promise.
    let found = unsafe { &*found };
    let result = parse(found, found.token.cast::<Port>());
    // SAFETY: the context of the caller.
    unsafe { ctx::status(found.ctx, result) }
}

/// `@share=PORT`: the region of another port.
unsafe extern "C" fn share(found: *mut ParseCtx) -> c_int {
    let parse = |found: &ParseCtx, d: *mut Port| {
        let mut name = found.keys[0];
        // SAFETY: the mandatory key is a string.
        let id = unsafe { mem_id_of(&raw mut name) }?;
        // SAFETY: the token is a port.
        let reg = unsafe { &mut (*d).reg };
        if reg.nr_mem_id != 0 && reg.nr_mem_id != id {
            let before = reg.nr_mem_id;
            let text = format_args!("region {id} of '@share' contradicts {before} before it");
            return Err(Refusal::invalid(text));
        }
        reg.nr_mem_id = id;
        Ok(())
    };
    // SAFETY: called by options::decode only.
    unsafe { run(found, parse) }
}

/// `@extmem=FILE`: memory of the program's.
unsafe extern "C" fn external(found: *mut ParseCtx) -> c_int {
    let parse = |found: &ParseCtx, d: *mut Port| {
        let mut sizes = [None; 7];
        for (at, size) in sizes.iter_mut().enumerate().skip(1) {
            // SAFETY: the values are null or strings.
            *size = unsafe { number::<u32>(found, at) }?;
        }
        // SAFETY: the token is a port, the mandatory key a string.
        unsafe { extmem::use_file(d, found.keys[0]) }?;
        // SAFETY: the token is a port.
        let info = unsafe { extmem::nmport_extmem_getinfo(d) };
        // SAFETY: just made by use_file.
        let info = unsafe { &mut *info };
        let [_, if_num, if_size, ring_num, ring_size, buf_num, buf_size] =
            sizes.map(Option::unwrap_or_default);
        info.nr_if_pool_objtotal = if_num;
        info.nr_if_pool_objsize = if_size;
        info.nr_ring_pool_objtotal = ring_num;
        info.nr_ring_pool_objsize = ring_size;
        info.nr_buf_pool_objtotal = buf_num;
        info.nr_buf_pool_objsize = buf_size;
        Ok(())
    };
    // SAFETY: called by options::decode only.
    unsafe { run(found, parse) }
}

/// `@conf:...`: rings and slots. A key for one direction beats one for both.
unsafe extern "C" fn conf(found: *mut ParseCtx) -> c_int {
    let parse = |found: &ParseCtx, d: *mut Port| {
        let mut slots = [None; 9];
        let mut rings = [None; 9];
        for at in 0..9 {
            if matches!(at, 2 | 7 | 8) {
                // SAFETY: the values are null or strings.
                slots[at] = unsafe { number::<u32>(found, at) }?;
            } else {
                // SAFETY: the values are null or strings.
                rings[at] = unsafe { number::<u16>(found, at) }?;
            }
        }
        // SAFETY: the token is a port.
        let reg = unsafe { &mut (*d).reg };
        let set = |field: &mut u16, key: usize, both: usize| {
            *field = rings[key].or(rings[both]).unwrap_or(*field);
        };
        set(&mut reg.nr_tx_rings, 3, 0);
        set(&mut reg.nr_rx_rings, 4, 0);
        set(&mut reg.nr_host_tx_rings, 5, 1);
        set(&mut reg.nr_host_rx_rings, 6, 1);
        let set = |field: &mut u32, key: usize| {
            *field = slots[key].or(slots[2]).unwrap_or(*field);
        };
        set(&mut reg.nr_tx_slots, 7);
        set(&mut reg.nr_rx_slots, 8);
        Ok(())
    };
    // SAFETY: called by options::decode only.
    unsafe { run(found, parse) }
}

/// `@offset=N`: data begin at an offset.
unsafe extern "C" fn offset(found: *mut ParseCtx) -> c_int {
    let parse = |found: &ParseCtx, d: *mut Port| {
        // SAFETY: the values are null or strings.
        let initial = unsafe { number::<u64>(found, 0) }?.unwrap_or(0);
        // SAFETY: the values are null or strings.
        let bits = unsafe { number::<u32>(found, 1) }?.unwrap_or(0);
        // SAFETY: the token is a port.
        unsafe { extmem::use_offsets(d, initial, initial, u64::from(bits), 0) }
    };
    // SAFETY: called by options::decode only.
    unsafe { run(found, parse) }
}

/// `int32_t nmreq_get_mem_id(const char **portname, struct nmctx *ctx)`: the
/// region that a port uses, and moves `*portname` behind the name. -1 with
/// errno set and nothing moved if the port cannot be asked.
///
/// # Safety
///
/// `portname` points to a pointer to a string; `ctx` is a context or null for
/// the default one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmreq_get_mem_id(portname: *mut *const c_char, ctx: *mut Ctx) -> i32 {
    // SAFETY: passed on.
    match unsafe { mem_id_of(portname) } {
        Ok(id) => i32::from(id),
        Err(refusal) => {
            // SAFETY: passed on.
            unsafe { ctx::fail(ctx, &refusal) };
            -1
        }
    }
}

/// # Safety
///
/// `portname` points to a pointer to a string.
unsafe fn mem_id_of(portname: *mut *const c_char) -> Result<u16, Refusal> {
    // SAFETY: the caller's promise.
    let mut name = unsafe { portname.read() };
    let mut body = NmReqPortInfoGet {
        nr_memsize: 0,
        nr_tx_slots: 0,
        nr_rx_slots: 0,
        nr_tx_rings: 0,
        nr_rx_rings: 0,
        nr_host_tx_rings: 0,
        nr_host_rx_rings: 0,
        nr_mem_id: 0,
        pad: [0; 3],
    };
    let mut hdr = std::mem::MaybeUninit::<NmReqHeader>::uninit();
    let at = hdr.as_mut_ptr();
    let body_at: *mut c_void = (&raw mut body).cast();
    // SAFETY: memory for a header.
    unsafe { nmreq_header_init(at, reqtype::PORT_INFO_GET, body_at) };
    // SAFETY: the header is initialised; a string by the caller's promise.
    unsafe { header::decode(&raw mut name, at) }?;
    let fd = device()?;
    // SAFETY: the request and its body outlive the call.
    let rc = unsafe { libc::ioctl(fd, IOCTL, at) };
    // SAFETY: initialised above.
    let hdr = unsafe { hdr.assume_init_ref() };
    let asked = if rc < 0 {
        Err(Refusal::system(format_args!(
            "cannot ask {}",
            shown(hdr.name())
        )))
    } else {
        Ok(())
    };
    // SAFETY: opened above.
    unsafe { libc::close(fd) };
    asked?;
    // SAFETY: the caller's promise.
    unsafe { portname.write(name) };
    // The system wrote it behind the compiler's back.
    // SAFETY: a field of a living struct.
    Ok(unsafe { (&raw const body.nr_mem_id).read_volatile() })
}
