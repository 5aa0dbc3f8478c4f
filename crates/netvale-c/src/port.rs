//! Ports: `nmport_open` and the steps it consists of.
//!
//! ```text
//!                  nmport_new
//! nmport_prepare <            nmport_parse
//!                  nmport_register
//! nmport_open_desc <          nmport_mmap
//! ```
//!
//! Each step has one that undoes it; a step that fails leaves nothing behind.

use std::ffi::{c_char, c_int};
use std::mem::offset_of;
use std::ptr;

use netvale_wire::abi::{NIOCCTRL, NmReqHeader, NmReqRegister, reqtype};

use crate::abi::{Ctx, Port};
use crate::ctx::{self, nmctx_free, nmctx_get};
use crate::extmem::undo_all;
use crate::header::nmreq_header_init;
use crate::refusal::{Refusal, errno, message, set_errno, shown};
use crate::{header, list, memory, portopts, register};

/// `NIOCCTRL` as `ioctl` takes it.
pub(crate) const IOCTL: libc::Ioctl = NIOCCTRL as libc::Ioctl;

/// Opens `/dev/netmap`.
pub(crate) fn device() -> Result<c_int, Refusal> {
    // SAFETY: a string.
    let fd = unsafe { libc::open(c"/dev/netmap".as_ptr(), libc::O_RDWR) };
    if fd < 0 {
        return Err(Refusal::system("cannot open /dev/netmap"));
    }
    Ok(fd)
}

/// A port's header.
fn hdr_of(d: *mut Port) -> *mut NmReqHeader {
    d.wrapping_byte_add(offset_of!(Port, hdr)).cast()
}

/// A port's request.
fn reg_of(d: *mut Port) -> *mut NmReqRegister {
    d.wrapping_byte_add(offset_of!(Port, reg)).cast()
}

/// Reports a port's refusal, as [`ctx::status`].
///
/// # Safety
///
/// `d` is a port.
pub(crate) unsafe fn status(d: *mut Port, result: Result<(), Refusal>) -> c_int {
    // SAFETY: the caller's promise.
    let ctx = unsafe { &*d }.ctx;
    // SAFETY: a port has a context.
    unsafe { ctx::status(ctx, result) }
}

/// `struct nmport_d *nmport_new(void)`: an empty port in the default context;
/// null with `ENOMEM` if there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn nmport_new() -> *mut Port {
    let ctx = nmctx_get();
    // SAFETY: the default context is alive.
    unsafe { new_in(ctx) }
}

/// # Safety
///
/// `ctx` is a context.
pub(crate) unsafe fn new_in(ctx: *mut Ctx) -> *mut Port {
    // SAFETY: passed on; a port is numbers and pointers that may be null.
    match unsafe { ctx::zeroed::<Port>(ctx, "a port") } {
        Ok(d) => {
            // SAFETY: just made.
            let port = unsafe { &mut *d };
            port.ctx = ctx;
            port.fd = -1;
            // SAFETY: as above.
            unsafe { begin_request(d) };
            d
        }
        Err(refusal) => {
            // SAFETY: passed on.
            unsafe { ctx::fail(ctx, &refusal) };
            ptr::null_mut()
        }
    }
}

/// Makes the port's request an empty one to register.
///
/// # Safety
///
/// `d` is a port.
unsafe fn begin_request(d: *mut Port) {
    // SAFETY: a field of the port.
    unsafe { nmreq_header_init(hdr_of(d), reqtype::REGISTER, reg_of(d).cast()) };
}

/// `void nmport_delete(struct nmport_d *d)`: undoes [`nmport_new`].
///
/// # Safety
///
/// `d` is a port or null, not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_delete(d: *mut Port) {
    if d.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    let ctx = unsafe { &*d }.ctx;
    // SAFETY: from the same context, by nmport_new or nmport_clone.
    unsafe { nmctx_free(ctx, d.cast()) };
}

/// `int nmport_parse(struct nmport_d *d, const char *portspec)`: fills the
/// request in from a port specification. 0, or -1 with errno set and the
/// request all zero.
///
/// # Safety
///
/// `d` is a port, `portspec` a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_parse(d: *mut Port, portspec: *const c_char) -> c_int {
    // SAFETY: passed on.
    let result = unsafe { parse(d, portspec) };
    if result.is_err() {
        // SAFETY: passed on.
        unsafe { nmport_undo_parse(d) };
    }
    // SAFETY: passed on.
    unsafe { status(d, result) }
}

/// # Safety
///
/// `d` is a port, `portspec` a string or null.
unsafe fn parse(d: *mut Port, portspec: *const c_char) -> Result<(), Refusal> {
    if portspec.is_null() {
        return Err(Refusal::invalid("no port was named"));
    }
    // SAFETY: the caller's promise.
    if unsafe { &*d }.hdr.nr_body == 0 {
        // The request was zeroed by a parse that failed before.
        // SAFETY: passed on.
        unsafe { begin_request(d) };
    }
    let mut scan = portspec;
    // SAFETY: passed on; the header is the port's own.
    unsafe { header::decode(&raw mut scan, hdr_of(d)) }?;
    // SAFETY: passed on; the request is the port's own.
    unsafe { register::decode(&raw mut scan, reg_of(d)) }?;
    // SAFETY: passed on.
    unsafe { portopts::parse(scan, d) }
}

/// `void nmport_undo_parse(struct nmport_d *d)`: undoes [`nmport_parse`].
///
/// # Safety
///
/// `d` is a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_undo_parse(d: *mut Port) {
    // SAFETY: passed on.
    unsafe { undo_all(d) };
    // SAFETY: a field of the port, which is plain numbers.
    unsafe { hdr_of(d).write_bytes(0, 1) };
    // SAFETY: a field of the port, which is plain numbers.
    unsafe { reg_of(d).write_bytes(0, 1) };
}

/// `struct nmport_d *nmport_prepare(const char *portspec)`: a new port with
/// its request filled in; null with errno set if that fails.
///
/// # Safety
///
/// `portspec` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_prepare(portspec: *const c_char) -> *mut Port {
    let d = nmport_new();
    if d.is_null() {
        return d;
    }
    // SAFETY: a new port; a string by the caller's promise.
    if unsafe { nmport_parse(d, portspec) } < 0 {
        let why = errno();
        // SAFETY: nobody else has it.
        unsafe { nmport_undo_prepare(d) };
        set_errno(why);
        return ptr::null_mut();
    }
    d
}

/// `void nmport_undo_prepare(struct nmport_d *d)`: undoes [`nmport_prepare`].
///
/// # Safety
///
/// `d` is a port or null, not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_undo_prepare(d: *mut Port) {
    if d.is_null() {
        return;
    }
    // SAFETY: passed on.
    unsafe { nmport_undo_parse(d) };
    // SAFETY: passed on.
    unsafe { nmport_delete(d) };
}

/// `int nmport_register(struct nmport_d *d)`: opens `/dev/netmap` and binds it
/// to the port. 0, or -1 with errno set and the descriptor closed.
///
/// # Safety
///
/// `d` is a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_register(d: *mut Port) -> c_int {
    // SAFETY: passed on.
    let result = unsafe { bind(d) };
    // SAFETY: passed on.
    unsafe { status(d, result) }
}

/// # Safety
///
/// `d` is a port.
unsafe fn bind(d: *mut Port) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    let port = unsafe { &mut *d };
    if port.register_done != 0 {
        let name = shown(port.hdr.name());
        return Err(Refusal::invalid(format_args!("{name}: already registered")));
    }
    let fd = device()?;
    // SAFETY: the request, its body and its options outlive the call.
    if unsafe { libc::ioctl(fd, IOCTL, hdr_of(d)) } >= 0 {
        // SAFETY: the caller's promise; the call may have changed the request.
        let port = unsafe { &mut *d };
        port.fd = fd;
        port.register_done = 1;
        return Ok(());
    }
    let why = errno();
    // SAFETY: opened above.
    unsafe { libc::close(fd) };
    // SAFETY: the caller's promise; the list is the port's own.
    let refused = unsafe { refused_options(hdr_of(d)) };
    // SAFETY: the caller's promise.
    let name = shown(unsafe { &*d }.hdr.name()).into_owned();
    let text = if refused.is_empty() {
        message(why)
    } else {
        refused.join(", ")
    };
    Err(Refusal::new(why, format_args!("{name}: {text}")))
}

/// What was wrong with a request's options.
///
/// # Safety
///
/// `hdr` points to a header with a proper list.
unsafe fn refused_options(hdr: *const NmReqHeader) -> Vec<String> {
    // SAFETY: passed on.
    let all = unsafe { list::options(hdr) };
    all.filter_map(|option| {
        // SAFETY: in the list.
        let option = unsafe { option.read() };
        let why = c_int::try_from(option.nro_status)
            .ok()
            .filter(|&why| why != 0)?;
        let name = list::name(option.nro_reqtype).to_string_lossy();
        Some(format!("option {name}: {}", message(why)))
    })
    .collect()
}

/// `void nmport_undo_register(struct nmport_d *d)`: undoes
/// [`nmport_register`].
///
/// # Safety
///
/// `d` is a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_undo_register(d: *mut Port) {
    // SAFETY: the caller's promise.
    let port = unsafe { &mut *d };
    if port.fd >= 0 {
        // SAFETY: the port's own descriptor.
        unsafe { libc::close(port.fd) };
    }
    port.fd = -1;
    port.register_done = 0;
}

/// `int nmport_mmap(struct nmport_d *d)`: maps the port's region, if no port
/// of the same context has, and finds the rings. 0, or -1 with errno set and
/// nothing mapped.
///
/// # Safety
///
/// `d` is a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_mmap(d: *mut Port) -> c_int {
    // SAFETY: passed on.
    let result = unsafe { memory::map(d) };
    // SAFETY: passed on.
    unsafe { status(d, result) }
}

/// `void nmport_undo_mmap(struct nmport_d *d)`: undoes [`nmport_mmap`]; the
/// last port of a region unmaps it.
///
/// # Safety
///
/// `d` is a port whose rings and buffers are not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_undo_mmap(d: *mut Port) {
    // SAFETY: passed on.
    unsafe { memory::unmap(d) };
}

/// `int nmport_open_desc(struct nmport_d *d)`: registers and maps a prepared
/// port. 0, or -1 with errno set and neither done.
///
/// # Safety
///
/// `d` is a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_open_desc(d: *mut Port) -> c_int {
    // SAFETY: passed on.
    if unsafe { nmport_register(d) } < 0 {
        return -1;
    }
    // SAFETY: passed on.
    if unsafe { nmport_mmap(d) } < 0 {
        let why = errno();
        // SAFETY: registered just above.
        unsafe { nmport_undo_register(d) };
        set_errno(why);
        return -1;
    }
    0
}

/// `void nmport_undo_open_desc(struct nmport_d *d)`: undoes
/// [`nmport_open_desc`].
///
/// # Safety
///
/// As [`nmport_undo_mmap`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_undo_open_desc(d: *mut Port) {
    // SAFETY: passed on.
    unsafe { nmport_undo_mmap(d) };
    // SAFETY: passed on.
    unsafe { nmport_undo_register(d) };
}

/// `struct nmport_d *nmport_open(const char *portspec)`: opens a port; null
/// with errno set if that fails.
///
/// # Safety
///
/// `portspec` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_open(portspec: *const c_char) -> *mut Port {
    // SAFETY: passed on.
    let d = unsafe { nmport_prepare(portspec) };
    if d.is_null() {
        return d;
    }
    // SAFETY: a new port.
    if unsafe { nmport_open_desc(d) } < 0 {
        let why = errno();
        // SAFETY: nobody else has it.
        unsafe { nmport_undo_prepare(d) };
        set_errno(why);
        return ptr::null_mut();
    }
    d
}

/// `void nmport_close(struct nmport_d *d)`: undoes [`nmport_open`].
///
/// # Safety
///
/// `d` is a port or null, not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_close(d: *mut Port) {
    if d.is_null() {
        return;
    }
    // SAFETY: passed on.
    unsafe { nmport_undo_open_desc(d) };
    // SAFETY: passed on.
    unsafe { nmport_undo_prepare(d) };
}

/// `struct nmport_d *nmport_clone(struct nmport_d *d)`: a prepared port with
/// the same request, but no options; null with errno set if that fails.
///
/// # Safety
///
/// `d` is a port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_clone(d: *mut Port) -> *mut Port {
    // SAFETY: the caller's promise.
    let port = unsafe { &*d };
    if !port.extmem.is_null() && port.register_done == 0 {
        let text = "a port with external memory must be registered before it is cloned";
        // SAFETY: a port has a context.
        unsafe { ctx::fail(port.ctx, &Refusal::invalid(text)) };
        return ptr::null_mut();
    }
    // SAFETY: a port has a context.
    let copy = unsafe { new_in(port.ctx) };
    if copy.is_null() {
        return copy;
    }
    // SAFETY: a new port.
    let new = unsafe { &mut *copy };
    new.hdr = NmReqHeader {
        nr_body: new.hdr.nr_body,
        nr_options: 0,
        ..port.hdr
    };
    new.reg = port.reg;
    copy
}

#[cfg(test)]
#[path = "port_tests.rs"]
mod tests;
