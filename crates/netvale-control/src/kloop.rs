//! Control blocks in the caller's memory, and the loop that serves them.

use alloc::vec::Vec;

use netvale_wire::abi::opt::{DIRECT_RX, DIRECT_TX};
use netvale_wire::abi::{
    NmReqOptCsb, NmReqOptSyncKloopMode, NmReqOption, NmReqSyncKloopStart, SyncKloopEventFd, csb,
    opttype,
};
use zerocopy::FromBytes;

use crate::options::Options;
use crate::{Bound, Errno, Eventfds, Host, Kloop, UserMem};

/// Longest pause between rounds, microseconds.
const MAX_SLEEP_US: u32 = 1_000_000;
/// Entries touched in one copy when the arrays are tried.
const TRY_ENTRIES: usize = 64;

/// `CSB_ENABLE`. A file without rings, as one that is not bound, succeeds
/// without effect.
pub(crate) fn csb_enable(
    host: &mut dyn Host,
    mem: &dyn UserMem,
    options: &mut Options,
) -> Result<(), Errno> {
    let opt = options
        .get::<NmReqOptCsb>(opttype::CSB)
        .ok_or(Errno::EINVAL)?;
    let done = match host.bound() {
        // Whether the file is exclusive is for the host to say.
        Some(bound) => use_csb(host, mem, &bound, true, &opt),
        None => Ok(()),
    };
    options.set(opttype::CSB, done);
    done
}

/// Moves the rings' pointers of a bound file to the caller's memory.
pub(crate) fn use_csb(
    host: &mut dyn Host,
    mem: &dyn UserMem,
    bound: &Bound,
    exclusive: bool,
    opt: &NmReqOptCsb,
) -> Result<(), Errno> {
    if host.kloop_running() {
        return Err(Errno::EBUSY);
    }
    let entries = rings(bound);
    if entries == 0 {
        return Ok(());
    }
    if !exclusive {
        return Err(Errno::EINVAL);
    }
    for array in [opt.csb_atok, opt.csb_ktoa] {
        if array == 0 || !array.is_multiple_of(csb::SIZE as u64) {
            return Err(Errno::EINVAL);
        }
    }
    for array in [opt.csb_atok, opt.csb_ktoa] {
        try_array(mem, array, entries)?;
    }
    host.csb_enable(opt.csb_atok, opt.csb_ktoa)
}

/// Finds out whether an array can be read and written, without changing it.
fn try_array(mem: &dyn UserMem, array: u64, entries: u64) -> Result<(), Errno> {
    let entry = csb::SIZE as u64;
    let end = entries
        .checked_mul(entry)
        .and_then(|len| array.checked_add(len))
        .ok_or(Errno::EFAULT)?;
    let mut space = [0; TRY_ENTRIES * csb::SIZE];
    let mut at = array;
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX);
        let part = len.min(space.len());
        let bytes = space.get_mut(..part).unwrap_or_default();
        mem.read(at, bytes)?;
        mem.write(at, bytes)?;
        at += part as u64;
    }
    Ok(())
}

/// `SYNC_KLOOP_START`: returns when the loop has ended.
pub(crate) fn start(
    host: &mut dyn Host,
    body: &NmReqSyncKloopStart,
    options: &mut Options,
) -> Result<(), Errno> {
    if body.sleep_us > MAX_SLEEP_US {
        return Err(Errno::EINVAL);
    }
    let bound = host.bound().ok_or(Errno::ENXIO)?;
    if host.kloop_running() {
        return Err(Errno::EBUSY);
    }
    let mode = match options.get::<NmReqOptSyncKloopMode>(opttype::SYNC_KLOOP_MODE) {
        Some(opt) => {
            let known = opt.mode & !(DIRECT_TX | DIRECT_RX) == 0;
            let status = if known { Ok(()) } else { Err(Errno::EINVAL) };
            options.set(opttype::SYNC_KLOOP_MODE, status);
            status?;
            opt.mode
        }
        None => 0,
    };
    let eventfds = match options.sized(opttype::SYNC_KLOOP_EVENTFDS) {
        Some((size, fds)) => {
            let parsed = eventfds(size, fds, rings(&bound), mode != 0);
            let status = parsed.as_ref().map(|_| ()).map_err(|e| *e);
            options.set(opttype::SYNC_KLOOP_EVENTFDS, status);
            Some(parsed?)
        }
        None if mode != 0 => {
            // Nobody would ever sync those rings.
            options.set(opttype::SYNC_KLOOP_MODE, Err(Errno::EINVAL));
            return Err(Errno::EINVAL);
        }
        None => None,
    };
    host.kloop_start(&Kloop {
        sleep_us: body.sleep_us,
        eventfds,
        direct_tx: mode & DIRECT_TX != 0,
        direct_rx: mode & DIRECT_RX != 0,
    })
}

/// The eventfds of exactly `rings` rings; `all`: each must have one from the
/// program.
fn eventfds(size: u64, fds: &[u8], rings: u64, all: bool) -> Result<Vec<Eventfds>, Errno> {
    let pair = size_of::<SyncKloopEventFd>() as u64;
    let right = rings
        .checked_mul(pair)
        .and_then(|len| len.checked_add(size_of::<NmReqOption>() as u64));
    if right != Some(size) {
        return Err(Errno::EINVAL);
    }
    fds.chunks_exact(size_of::<SyncKloopEventFd>())
        .map(|bytes| match SyncKloopEventFd::read_from_bytes(bytes) {
            Ok(fd) if fd.ioeventfd >= 0 || !all => Ok(Eventfds {
                ioeventfd: fd.ioeventfd,
                irqfd: fd.irqfd,
            }),
            _ => Err(Errno::EINVAL),
        })
        .collect()
}

/// Rings bound, in both directions.
fn rings(bound: &Bound) -> u64 {
    bound.bound.iter().copied().map(u64::from).sum()
}
