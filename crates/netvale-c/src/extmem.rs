//! A port's own options: memory of the program's (`nmport_extmem*`) and data
//! offsets (`nmport_offset`), with what undoes them.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use netvale_wire::abi::{NmReqOptExtmem, NmReqOptOffsets, NmReqPoolsInfo, opttype};

use crate::abi::{Cleanup, Port};
use crate::ctx;
use crate::list::{nmreq_push_option, nmreq_remove_option};
use crate::port::status;
use crate::refusal::{Refusal, bytes, errno, set_errno, shown};

/// What has to be undone when a port's name is forgotten.
#[derive(Debug)]
pub(crate) enum Undo {
    /// Take the external-memory option out and free it.
    Extmem,
    /// Take the offsets option out and free it.
    Offsets(*mut NmReqOptOffsets),
    /// Unmap a file.
    Unmap(*mut c_void, usize),
}

/// Notes what to undo.
///
/// # Safety
///
/// `d` is a port.
unsafe fn push(d: *mut Port, undo: Undo) {
    // SAFETY: the caller's promise.
    let port = unsafe { &mut *d };
    let next = port.clist;
    port.clist = Box::into_raw(Box::new(Cleanup { next, undo }));
}

/// Undoes the last thing noted; `false` if there was none.
///
/// # Safety
///
/// `d` is a port.
unsafe fn pop(d: *mut Port) -> bool {
    // SAFETY: the caller's promise.
    let port = unsafe { &mut *d };
    if port.clist.is_null() {
        return false;
    }
    // SAFETY: every entry is a box that push leaked.
    let top = unsafe { Box::from_raw(port.clist) };
    port.clist = top.next;
    match top.undo {
        Undo::Extmem => {
            let option = std::mem::replace(&mut port.extmem, ptr::null_mut());
            if !option.is_null() {
                // SAFETY: the option begins with its header and is in the list.
                unsafe { nmreq_remove_option(&raw mut port.hdr, option.cast()) };
                // SAFETY: from the port's context.
                unsafe { ctx::nmctx_free(port.ctx, option.cast()) };
            }
        }
        Undo::Offsets(option) => {
            // SAFETY: the option begins with its header and is in the list.
            unsafe { nmreq_remove_option(&raw mut port.hdr, option.cast()) };
            // SAFETY: from the port's context.
            unsafe { ctx::nmctx_free(port.ctx, option.cast()) };
        }
        Undo::Unmap(at, size) => {
            // SAFETY: mapped by this library, and the port that used it is gone.
            unsafe { libc::munmap(at, size) };
        }
    }
    true
}

/// Undoes everything noted. `errno` stays as it is.
///
/// # Safety
///
/// `d` is a port.
pub(crate) unsafe fn undo_all(d: *mut Port) {
    let before = errno();
    // SAFETY: passed on.
    while unsafe { pop(d) } {}
    set_errno(before);
}

/// `int nmport_extmem(struct nmport_d *d, void *base, size_t size)`: has the
/// port use the program's memory. To be called before registering. 0, or -1
/// with errno set and nothing changed.
///
/// # Safety
///
/// `d` is a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_extmem(d: *mut Port, base: *mut c_void, size: usize) -> c_int {
    // SAFETY: passed on.
    let result = unsafe { use_memory(d, base, size) };
    // SAFETY: passed on.
    unsafe { status(d, result) }
}

/// # Safety
///
/// `d` is a port.
unsafe fn use_memory(d: *mut Port, base: *mut c_void, size: usize) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    let port = unsafe { &mut *d };
    let name = shown(port.hdr.name());
    if port.register_done != 0 {
        let text = format_args!("{name}: memory must be given before the port is registered");
        return Err(Refusal::invalid(text));
    }
    if !port.extmem.is_null() {
        return Err(Refusal::invalid(format_args!(
            "{name}: memory was already given"
        )));
    }
    // SAFETY: a port has a context; the option is plain numbers.
    let option: *mut NmReqOptExtmem = unsafe { ctx::zeroed(port.ctx, "an option") }?;
    // SAFETY: just made, and nobody else's.
    let body = unsafe { &mut *option };
    body.nro_opt.nro_reqtype = opttype::EXTMEM;
    body.nro_usrptr = base.expose_provenance() as u64;
    body.nro_info.nr_memsize = size as u64;
    // SAFETY: the option begins with its header.
    unsafe { nmreq_push_option(&raw mut port.hdr, option.cast()) };
    port.extmem = option;
    // SAFETY: passed on.
    unsafe { push(d, Undo::Extmem) };
    Ok(())
}

/// `int nmport_extmem_from_file(struct nmport_d *d, const char *fname)`: the
/// same with a file, which is mapped whole and unmapped with the port.
///
/// # Safety
///
/// `d` is a port, `fname` a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_extmem_from_file(d: *mut Port, fname: *const c_char) -> c_int {
    // SAFETY: passed on.
    let result = unsafe { use_file(d, fname) };
    // SAFETY: passed on.
    unsafe { status(d, result) }
}

/// # Safety
///
/// `d` is a port, `fname` a string.
pub(crate) unsafe fn use_file(d: *mut Port, fname: *const c_char) -> Result<(), Refusal> {
    // SAFETY: a string by the caller's promise.
    let name = shown(unsafe { bytes(fname) });
    if fname.is_null() {
        return Err(Refusal::invalid("no file was named"));
    }
    // SAFETY: a string by the caller's promise.
    let fd = unsafe { libc::open(fname, libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(Refusal::system(format_args!("cannot open {name}")));
    }
    let mapped = map_file(fd, &name);
    // SAFETY: opened above; a mapping does not need it.
    unsafe { libc::close(fd) };
    let (at, size) = mapped?;
    // The file is unmapped after the option is gone, so this is noted first.
    // SAFETY: passed on.
    unsafe { push(d, Undo::Unmap(at, size)) };
    // SAFETY: passed on.
    unsafe { use_memory(d, at, size) }.inspect_err(|_| {
        // SAFETY: undoes the mapping noted above.
        unsafe { pop(d) };
    })
}

fn map_file(fd: c_int, name: &str) -> Result<(*mut c_void, usize), Refusal> {
    // SAFETY: any descriptor may be asked.
    let size = unsafe { libc::lseek(fd, 0, libc::SEEK_END) };
    let Ok(size) = usize::try_from(size) else {
        return Err(Refusal::system(format_args!(
            "cannot find the size of {name}"
        )));
    };
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(ptr::null_mut(), size, prot, libc::MAP_SHARED, fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(Refusal::system(format_args!("cannot map {name}")));
    }
    Ok((at, size))
}

/// `struct nmreq_pools_info *nmport_extmem_getinfo(struct nmport_d *d)`: the
/// shape of the port's external memory, to be set before registering and read
/// after it; null without such memory.
///
/// # Safety
///
/// `d` is a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_extmem_getinfo(d: *mut Port) -> *mut NmReqPoolsInfo {
    // SAFETY: the caller's promise.
    let option = unsafe { &*d }.extmem;
    if option.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: a port's option lives as long as it is set.
    unsafe { &raw mut (*option).nro_info }
}

/// `int nmport_offset(struct nmport_d *d, uint64_t initial, uint64_t maxoff,
/// uint64_t bits, uint64_t mingap)`: has packets begin at an offset in their
/// buffers. 0, or -1 with errno set and nothing changed.
///
/// # Safety
///
/// `d` is a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_offset(
    d: *mut Port,
    initial: u64,
    maxoff: u64,
    bits: u64,
    mingap: u64,
) -> c_int {
    // SAFETY: passed on.
    let result = unsafe { use_offsets(d, initial, maxoff, bits, mingap) };
    // SAFETY: passed on.
    unsafe { status(d, result) }
}

/// # Safety
///
/// `d` is a port.
pub(crate) unsafe fn use_offsets(
    d: *mut Port,
    initial: u64,
    max: u64,
    bits: u64,
    min_gap: u64,
) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    let port = unsafe { &mut *d };
    // A number of bits is at most 64; what is more than a u32 is refused by
    // whoever registers the port, like all that is more than 64.
    let bits = u32::try_from(bits).unwrap_or(u32::MAX);
    // SAFETY: a port has a context; the option is plain numbers.
    let option: *mut NmReqOptOffsets = unsafe { ctx::zeroed(port.ctx, "an option") }?;
    // SAFETY: just made, and nobody else's.
    let body = unsafe { &mut *option };
    body.nro_opt.nro_reqtype = opttype::OFFSETS;
    body.nro_initial_offset = initial;
    body.nro_max_offset = max;
    body.nro_offset_bits = bits;
    body.nro_min_gap = min_gap;
    // SAFETY: the option begins with its header.
    unsafe { nmreq_push_option(&raw mut port.hdr, option.cast()) };
    // SAFETY: passed on.
    unsafe { push(d, Undo::Offsets(option)) };
    Ok(())
}
