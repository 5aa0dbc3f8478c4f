//! What the environment and the parameter files ask of us, and what we say.

use std::io::Write;
use std::os::fd::{BorrowedFd, FromRawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use netvale::registration::Site;
use netvale_ring::kring::Counter;

use crate::binding::{Binding, Control};

/// Directory, in a namespace's own, of the parameter files.
pub(crate) const PARAMETERS: &str = "parameters";

/// Whether timestamps are written only on request.
pub(crate) fn no_timestamp(site: &Site) -> bool {
    let path = site.dir().join(PARAMETERS).join("no_timestamp");
    std::fs::read_to_string(path).is_ok_and(|s| s.trim() != "0" && !s.trim().is_empty())
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0")
}

/// Standard error when the process started: device and inode.
static STDERR: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn stderr_now() -> Option<[u64; 2]> {
    // SAFETY: only asked about; it may be closed.
    let err = unsafe { BorrowedFd::borrow_raw(2) };
    let st = rustix::fs::fstat(err).ok()?;
    Some([st.st_dev, st.st_ino])
}

/// Notes what standard error is.
pub(crate) fn note_stderr() {
    let now = stderr_now().unwrap_or_default();
    for (was, now) in STDERR.iter().zip(now) {
        was.store(now, Relaxed);
    }
}

/// Writes one line to standard error, if it is still what it was: a daemon
/// may have anything under that number.
fn say(line: std::fmt::Arguments<'_>) {
    let was = [0, 1].map(|i| STDERR[i].load(Relaxed));
    if was[1] == 0 || stderr_now() != Some(was) {
        return;
    }
    // SAFETY: open, as was seen above, and not closed by us.
    let mut err = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(2) });
    let _ = err.write_all(format!("netvale: {line}\n").as_bytes());
}

/// Says why something failed, where `netvale run` asked for it: programs show
/// no more than the error's number.
pub(crate) fn complain(error: &netvale::Error) {
    if !is_set("NETVALE_EXPLAIN") {
        return;
    }
    say(format_args!("{error}"));
    if let Some(hint) = error.hint() {
        say(format_args!("{hint}"));
    }
}

/// Counters of a registration that ends, if they are wanted.
pub(crate) fn report(control: &Control, b: &Binding) {
    if !is_set("NETVALE_STATS") {
        return;
    }
    let Some(a) = &control.attached else { return };
    let sum = |what: Counter| -> u64 {
        let tx = b.tx.lock();
        let krings = tx.iter().flat_map(|tx| tx.side.krings());
        krings.fold(0, |all, kring| kring.counter(what).wrapping_add(all))
    };
    let (sent, syncs) = (sum(Counter::Frames), sum(Counter::Syncs));
    let drops = Counter::DROPS.iter();
    let drops = drops.fold(0, |all, &(c, _)| sum(c).wrapping_add(all));
    let mut got = [0u64; 4];
    for kring in b.rx.lock().rx.iter().flat_map(|rx| rx.side.krings()) {
        for (all, one) in got.iter_mut().zip(kring.in_counters()) {
            *all = all.wrapping_add(one);
        }
    }
    say(format_args!(
        "{}: sent {sent} frames in {syncs} syncs, {drops} dropped; received {} frames, {} lost to a full ring",
        a.reg.name, got[0], got[2]
    ));
}
