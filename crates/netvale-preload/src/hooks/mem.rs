//! Mappings of regions.

use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;

use libc::{off64_t, size_t};

use crate::inside::Inside;
use crate::{adopt, life, maps, real, table};

fn failed(n: c_int) -> *mut c_void {
    real::set_errno(n);
    libc::MAP_FAILED
}

/// See `mmap(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off64_t,
) -> *mut c_void {
    if fd < 0 || flags & libc::MAP_ANONYMOUS != 0 || table::port(fd).is_none() {
        // SAFETY: passed on.
        let at = unsafe { real::mmap(addr, len, prot, flags, fd, offset) };
        // Sockets cannot be mapped: one that can be is a registration.
        if at == libc::MAP_FAILED
            && real::errno() == libc::ENODEV
            && fd >= 0
            && life::discover(fd).is_some()
        {
            // SAFETY: passed on.
            return unsafe { map_region(addr, len, prot, flags, fd, offset) };
        }
        if at != libc::MAP_FAILED
            && flags & libc::MAP_FIXED != 0
            && maps::any()
            && !Inside::is()
            && !life::is_borrowed()
        {
            maps::remove(at.expose_provenance(), len);
        }
        return at;
    }
    // SAFETY: passed on.
    unsafe { map_region(addr, len, prot, flags, fd, offset) }
}

/// Maps the region of a registration.
///
/// # Safety
///
/// As `mmap`.
unsafe fn map_region(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off64_t,
) -> *mut c_void {
    let Some(b) = table::port(fd) else {
        return failed(libc::EBADF);
    };
    adopt::resolve(b, fd);
    let was = real::errno();
    let _inside = Inside::enter();
    let at = {
        let control = b.control.lock();
        let Some(a) = &control.attached else {
            return failed(libc::EINVAL);
        };
        if control.extmem.is_some() {
            return failed(libc::EINVAL); // the program has it already
        }
        let end = u64::try_from(offset)
            .ok()
            .and_then(|o| o.checked_add(len as u64));
        if len == 0 || end.is_none_or(|end| end > a.registered.region.size.next_multiple_of(4096)) {
            return failed(libc::EINVAL);
        }
        // SAFETY: as the caller's, of another file.
        unsafe { real::mmap(addr, len, prot, flags, a.region.as_raw_fd(), offset) }
    };
    if at != libc::MAP_FAILED {
        if flags & libc::MAP_FIXED != 0 {
            maps::remove(at.expose_provenance(), len);
        }
        maps::add(at.expose_provenance(), len, b, fd);
        real::set_errno(was);
    }
    at
}

/// See `mmap(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off64_t,
) -> *mut c_void {
    // SAFETY: passed on.
    unsafe { mmap(addr, len, prot, flags, fd, offset) }
}

/// See `munmap(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(addr: *mut c_void, len: size_t) -> c_int {
    // SAFETY: passed on.
    let done = unsafe { real::munmap(addr, len) };
    if done == 0 && maps::any() && !Inside::is() && !life::is_borrowed() {
        maps::remove(addr.addr(), len.next_multiple_of(4096));
    }
    done
}

/// See `mremap(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mremap(
    addr: *mut c_void,
    old: size_t,
    new: size_t,
    flags: c_int,
    to: *mut c_void,
) -> *mut c_void {
    // SAFETY: passed on.
    let at = unsafe { real::mremap(addr, old, new, flags, to) };
    if at != libc::MAP_FAILED && maps::any() && !Inside::is() && !life::is_borrowed() {
        maps::moved(addr.addr(), old, at.addr(), new);
    }
    at
}
