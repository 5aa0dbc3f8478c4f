//! What the environment and the parameter files ask of us, and what we say.

use std::io::Write;
use std::os::fd::{BorrowedFd, FromRawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use netvale::registration::Site;
use netvale_ring::kring::Counter;
use netvale_wire::proto::{Context, Reply, Request};

use crate::binding::{Binding, Control};
use crate::inside::Inside;

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

/// Whether `netvale run --stats` asked for counters.
pub(crate) fn wants_reports() -> bool {
    is_set("NETVALE_STATS")
}

/// Counters of a registration that ends, if they are wanted.
pub(crate) fn report(control: &Control, b: &Binding) {
    if let Some(a) = control.attached.as_ref().filter(|_| wants_reports())
        && a.context() == Context::Trusted
    {
        tell(&a.reg.name, &Totals::of(b));
    }
}

/// Where and what an isolated registration is: the server does its work, and
/// has its counters.
pub(crate) fn isolated(control: &Control) -> Option<(Site, String)> {
    let a = control.attached.as_ref()?;
    let name = || a.registered.name.clone();
    let isolated = a.context() == Context::Isolated;
    isolated.then(|| Some((control.site.clone()?, name())))?
}

/// As [`report`], for an isolated registration while the server has it.
pub(crate) fn report_isolated(site: &Site, name: &str) {
    let _inside = Inside::enter();
    let _connecting = crate::life::connecting();
    if let Some(totals) = Totals::ask(site, name) {
        tell(name, &totals);
    }
}

fn tell(name: &str, t: &Totals) {
    say(format_args!(
        "{name}: sent {} frames in {} syncs, {} dropped; received {} frames, {} lost to a full ring",
        t.sent, t.syncs, t.drops, t.got, t.full
    ));
}

/// What a port did.
#[derive(Debug, Default)]
struct Totals {
    sent: u64,
    syncs: u64,
    drops: u64,
    got: u64,
    full: u64,
}

impl Totals {
    /// From the rings that a registration has mapped.
    fn of(b: &Binding) -> Self {
        let sum = |what: Counter| -> u64 {
            let tx = b.tx.lock();
            let krings = tx.iter().flat_map(|tx| tx.side.krings());
            krings.fold(0, |all, kring| kring.counter(what).wrapping_add(all))
        };
        let drops = Counter::DROPS.iter();
        let mut got = [0u64; 4];
        for kring in b.rx.lock().rx.iter().flat_map(|rx| rx.side.krings()) {
            for (all, one) in got.iter_mut().zip(kring.in_counters()) {
                *all = all.wrapping_add(one);
            }
        }
        Self {
            sent: sum(Counter::Frames),
            syncs: sum(Counter::Syncs),
            drops: drops.fold(0, |all, &(c, _)| sum(c).wrapping_add(all)),
            got: got[0],
            full: got[2],
        }
    }

    /// From the server.
    fn ask(site: &Site, name: &str) -> Option<Self> {
        let request = Request::Stats {
            name: Some(name.into()),
            after: None,
        };
        let Ok((Reply::Stats { ports, .. }, _)) = site.ask(&request) else {
            return None;
        };
        let port = ports.into_iter().next()?;
        let of = |word: &str| -> u64 {
            let mut drops = port.drops.iter();
            drops.find(|d| d.reason == word).map_or(0, |d| d.packets)
        };
        let drops = Counter::DROPS.iter();
        Some(Self {
            sent: port.tx_packets,
            syncs: port.tx_syncs,
            drops: drops.fold(0, |all, &(_, word)| of(word).wrapping_add(all)),
            got: port.rx_packets,
            full: of("rx_full"),
        })
    }
}
