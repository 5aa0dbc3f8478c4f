//! Mapping regions: one mapping for each region in a context, shared by its
//! ports, and the rings that a port has in it.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

use netvale_wire::abi::nif;

use crate::abi::{Ctx, MemDesc, Port};
use crate::ctx::{self, nmctx_free, nmctx_lock, nmctx_unlock};
use crate::refusal::{Refusal, errno, set_errno, shown};

/// Holds a context's lock.
struct Locked(*mut Ctx);

impl Locked {
    /// # Safety
    ///
    /// `ctx` is a context that outlives the guard.
    unsafe fn new(ctx: *mut Ctx) -> Self {
        // SAFETY: the caller's promise.
        unsafe { nmctx_lock(ctx) };
        Self(ctx)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: locked by this thread when the guard was made.
        unsafe { nmctx_unlock(self.0) };
    }
}

/// Does the work of `nmport_mmap`.
///
/// # Safety
///
/// `d` is a port.
pub(crate) unsafe fn map(d: *mut Port) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    let port = unsafe { &mut *d };
    let name = shown(port.hdr.name()).into_owned();
    if port.mmap_done != 0 {
        return Err(Refusal::invalid(format_args!("{name}: already mapped")));
    }
    if port.register_done == 0 {
        return Err(Refusal::invalid(format_args!(
            "{name}: not registered, so not to be mapped"
        )));
    }
    {
        // SAFETY: a port's context outlives it.
        let _locked = unsafe { Locked::new(port.ctx) };
        // SAFETY: a port has a context, and its list is locked.
        port.mem = unsafe { share_or_map(port) }?;
    }
    // SAFETY: mapped just above.
    let found = unsafe { find_rings(port) };
    let Some((nifp, tx, rx)) = found else {
        // SAFETY: passed on.
        unsafe { unmap(d) };
        return Err(Refusal::invalid(format_args!(
            "{name}: the region's contents make no sense"
        )));
    };
    port.nifp = nifp;
    port.first_tx_ring = tx.start;
    port.cur_tx_ring = tx.start;
    // Without rings, the last is the one before the first.
    port.last_tx_ring = tx.end.wrapping_sub(1);
    port.first_rx_ring = rx.start;
    port.cur_rx_ring = rx.start;
    port.last_rx_ring = rx.end.wrapping_sub(1);
    port.mmap_done = 1;
    Ok(())
}

/// The context's mapping of the port's region, made if there is none yet.
///
/// # Safety
///
/// The port's context is alive and locked.
unsafe fn share_or_map(port: &Port) -> Result<*mut MemDesc, Refusal> {
    // SAFETY: the caller's promise.
    let ctx = unsafe { &mut *port.ctx };
    let mut at = ctx.mem_descs;
    while !at.is_null() {
        // SAFETY: in the list, which is locked.
        let mem = unsafe { &mut *at };
        if mem.mem_id == port.reg.nr_mem_id {
            mem.refcount += 1;
            return Ok(at);
        }
        at = mem.next;
    }
    // SAFETY: the context is alive; all zero is a descriptor.
    let new: *mut MemDesc = unsafe { ctx::zeroed(port.ctx, "a region's descriptor") }?;
    // SAFETY: as above: a callback may have changed the context.
    let ctx = unsafe { &mut *port.ctx };
    // SAFETY: just made.
    let mem = unsafe { &mut *new };
    if port.extmem.is_null() {
        let at = usize::try_from(port.reg.nr_memsize).ok().map(|size| {
            mem.size = size;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice.
            unsafe { libc::mmap(ptr::null_mut(), size, prot, libc::MAP_SHARED, port.fd, 0) }
        });
        let Some(at) = at.filter(|&at| at != libc::MAP_FAILED) else {
            let name = shown(port.hdr.name());
            let refusal = Refusal::system(format_args!("{name}: cannot map the region"));
            // SAFETY: made above, and in no list yet.
            unsafe { nmctx_free(port.ctx, new.cast()) };
            return Err(refusal);
        };
        mem.mem = at;
    } else {
        // SAFETY: a port's option lives as long as it is set.
        let option = unsafe { port.extmem.read() };
        mem.mem = usize::try_from(option.nro_usrptr)
            .map_or(ptr::null_mut(), ptr::with_exposed_provenance_mut);
        mem.size = usize::try_from(option.nro_info.nr_memsize).unwrap_or(usize::MAX);
        mem.is_extmem = 1;
    }
    mem.mem_id = port.reg.nr_mem_id;
    mem.refcount = 1;
    mem.next = ctx.mem_descs;
    if !mem.next.is_null() {
        // SAFETY: in the list, which is locked.
        unsafe { (*mem.next).prev = new };
    }
    ctx.mem_descs = new;
    Ok(new)
}

/// Does the work of `nmport_undo_mmap`. `errno` stays as it is.
///
/// # Safety
///
/// `d` is a port whose rings and buffers are not used any more.
pub(crate) unsafe fn unmap(d: *mut Port) {
    // SAFETY: the caller's promise.
    let port = unsafe { &mut *d };
    let at = std::mem::replace(&mut port.mem, ptr::null_mut());
    if at.is_null() {
        return;
    }
    let before = errno();
    {
        // SAFETY: a port's context outlives it.
        let _locked = unsafe { Locked::new(port.ctx) };
        // SAFETY: the port had a part in it, and the list is locked.
        let mem = unsafe { &mut *at };
        mem.refcount -= 1;
        if mem.refcount <= 0 {
            if mem.is_extmem == 0 {
                // SAFETY: mapped by share_or_map; this was the last user.
                unsafe { libc::munmap(mem.mem, mem.size) };
            }
            let (next, prev) = (mem.next, mem.prev);
            if !next.is_null() {
                // SAFETY: in the list, which is locked.
                unsafe { (*next).prev = prev };
            }
            if prev.is_null() {
                // SAFETY: the context is alive and locked.
                unsafe { (*port.ctx).mem_descs = next };
            } else {
                // SAFETY: in the list, which is locked.
                unsafe { (*prev).next = next };
            }
            // SAFETY: from the same context, and out of the list.
            unsafe { nmctx_free(port.ctx, at.cast()) };
        }
    }
    port.mmap_done = 0;
    port.nifp = ptr::null_mut();
    port.first_tx_ring = 0;
    port.last_tx_ring = 0;
    port.cur_tx_ring = 0;
    port.first_rx_ring = 0;
    port.last_rx_ring = 0;
    port.cur_rx_ring = 0;
    set_errno(before);
}

/// A mapped region, in which every access is checked: its contents may have
/// been written by somebody else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    base: *mut u8,
    size: usize,
}

impl Region {
    /// The port's region.
    ///
    /// # Safety
    ///
    /// `port.mem` is null or describes mapped memory that stays mapped while
    /// the region is used.
    pub(crate) unsafe fn of(port: &Port) -> Option<Self> {
        if port.mem.is_null() {
            return None;
        }
        // SAFETY: the caller's promise.
        let mem = unsafe { &*port.mem };
        let base = mem.mem.cast::<u8>();
        (!base.is_null()).then_some(Self {
            base,
            size: mem.size,
        })
    }

    /// Where an address lies in the region.
    pub(crate) fn offset_of(self, at: *const c_void) -> Option<usize> {
        at.addr()
            .checked_sub(self.base.addr())
            .filter(|&offset| offset <= self.size)
    }

    /// The address of `len` bytes at an offset.
    pub(crate) fn at(self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        (end <= self.size).then(|| self.base.wrapping_add(offset))
    }

    /// Reads a number, which must be aligned as its type is.
    pub(crate) fn read<T: Number>(self, offset: usize) -> Option<T> {
        let at = self.at(offset, size_of::<T>())?;
        if at.addr() % align_of::<T>() != 0 {
            return None;
        }
        let at = at.cast::<T>();
        // SAFETY: within the region and aligned; any bytes are a number. Others
        // may write at the same time, so it is volatile.
        Some(unsafe { at.read_volatile() })
    }

    /// Writes a number, which must be aligned as its type is.
    pub(crate) fn write<T: Number>(self, offset: usize, value: T) -> Option<()> {
        let at = self.at(offset, size_of::<T>())?;
        if at.addr() % align_of::<T>() != 0 {
            return None;
        }
        let at = at.cast::<T>();
        // SAFETY: as in read.
        unsafe { at.write_volatile(value) };
        Some(())
    }
}

/// Numbers that any bytes make.
pub(crate) trait Number: Copy {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}
impl Number for i64 {}

/// The port's interface descriptor, and its bound transmit and receive rings:
/// the first unbroken run in each direction. `None` if they lie outside.
///
/// # Safety
///
/// As [`Region::of`].
unsafe fn find_rings(port: &Port) -> Option<(*mut c_void, Range<u16>, Range<u16>)> {
    // SAFETY: passed on.
    let region = unsafe { Region::of(port) }?;
    let nifp = usize::try_from(port.reg.nr_offset).ok()?;
    let host = |at| {
        region
            .read::<u32>(nifp + at)
            .and_then(|n| u16::try_from(n).ok())
    };
    region.at(nifp, nif::SIZE)?;
    let tx = port
        .reg
        .nr_tx_rings
        .checked_add(host(nif::HOST_TX_RINGS)?)?;
    let rx = port
        .reg
        .nr_rx_rings
        .checked_add(host(nif::HOST_RX_RINGS)?)?;
    let all = usize::from(tx) + usize::from(rx);
    region.at(nifp, nif::bytes(all)?)?;
    let is_bound = |ring: u16, before: u16| {
        let index = usize::from(ring) + usize::from(before);
        region
            .read::<i64>(nifp + nif::RING_OFS + 8 * index)
            .is_some_and(|offset| offset != 0)
    };
    let run = |count: u16, before: u16| {
        let first = (0..count)
            .find(|&ring| is_bound(ring, before))
            .unwrap_or(count);
        let end = (first..count)
            .find(|&ring| !is_bound(ring, before))
            .unwrap_or(count);
        first..end
    };
    Some((region.at(nifp, nif::SIZE)?.cast(), run(tx, 0), run(rx, tx)))
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
