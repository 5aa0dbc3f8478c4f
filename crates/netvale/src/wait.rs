//! Sleeping until a ring has something, and not a moment too early.
//!
//! A wake-up across cores costs as much as thousands of copied frames, so a
//! waiter first spins for a while that is learned from how long recent waits
//! took; where spinning never pays (sender and receiver share a core), it soon
//! stops. Then the waiter announces itself in the ring's sleep word, looks
//! once more, and sleeps. What is there at once costs no look at the clock.

use std::time::{Duration, Instant};

use netvale_ring::bell::Bell;
use netvale_ring::kring::{Kring, sleep};
use netvale_shm::futex;
use netvale_switch::end::Gear;

use crate::Result;
use crate::port::Shared;
use crate::spin::Spin;

/// A sleeper looks up this often, in case it was not woken: the server may
/// have died with the message.
const SLICE: Duration = Duration::from_millis(500);
/// The same if others sleep on its ring, whose sleep word has room for one.
const SHARED_SLICE: Duration = Duration::from_millis(5);
/// The same while the kernel has frames that it could not send at once.
pub(crate) const SOON: Duration = Duration::from_millis(1);

/// What one waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Frames.
    Rx,
    /// Space.
    Tx,
    /// Either.
    Both,
}

/// A ring that somebody waits for.
pub(crate) trait Awaited {
    /// What whoever waits for it waits for.
    const WHAT: For;
    /// Syncs it; whether it has frames, or space, for the program.
    fn look(&mut self) -> Result<bool>;
    /// Its hidden state, if this process may see it.
    fn kring(&self) -> Option<Kring<'_>>;
    /// Whether to look again soon, though nobody rings.
    fn is_due(&self) -> bool {
        false
    }
    /// At an interface: whether it is the server that brings what one waits for.
    fn needs_server(&self) -> bool {
        true
    }
    /// Nothing has come for long: mends what may be in the way.
    fn repair(&mut self);
}

/// Looks at all of them.
fn any(rings: &mut [impl Awaited]) -> Result<bool> {
    let mut any = false;
    for ring in rings {
        any |= ring.look()?;
    }
    Ok(any)
}

/// Looks for as long as has paid lately, at most `most`.
fn spin_on(rings: &mut [impl Awaited], spin: &mut Spin, most: Duration) -> Result<bool> {
    let budget = spin.budget().min(most);
    if budget.is_zero() {
        return Ok(false);
    }
    let start = Instant::now();
    loop {
        for _ in 0..16 {
            std::hint::spin_loop();
        }
        if any(rings)? {
            spin.came();
            return Ok(true);
        }
        if start.elapsed() >= budget {
            return Ok(false);
        }
    }
}

/// Waits until some ring is ready (`true`) or the time is over.
pub(crate) fn until_ready<R: Awaited>(
    shared: &Shared,
    rings: &mut [R],
    spin: &mut Spin,
    timeout: Option<Duration>,
) -> Result<bool> {
    if any(rings)? {
        return Ok(true);
    }
    let mut begin = Instant::now();
    let deadline = timeout.and_then(|t| begin.checked_add(t));
    let mut slept = Slept::default();
    loop {
        let Some(most) = left(deadline) else {
            return Ok(false);
        };
        if spin_on(rings, spin, most)? {
            return Ok(true);
        }
        let Some(most) = left(deadline) else {
            return Ok(false);
        };
        if slept.outdone {
            // Another sleeper has our place and is woken for us. If both
            // announced themselves, they would wake each other without end.
            std::thread::sleep(most.min(SHARED_SLICE));
            slept = Slept::default();
        } else {
            slept = sleep(shared, rings, most)?;
        }
        spin.slept(begin.elapsed());
        if any(rings)? {
            return Ok(true);
        }
        if slept.woken {
            shared.woken_in_vain(R::WHAT);
        }
        if shared.stands_with_server() {
            shared.check_alive()?;
        }
        if shared.gear.is_some() {
            rings.iter_mut().for_each(R::repair);
        }
        begin = Instant::now();
    }
}

/// How a sleep ended.
#[derive(Debug, Clone, Copy, Default)]
struct Slept {
    /// Another sleeper has taken our place.
    outdone: bool,
    /// By the bell or a socket.
    woken: bool,
}

/// Announces itself, looks once more, and sleeps.
fn sleep<R: Awaited>(shared: &Shared, rings: &mut [R], most: Duration) -> Result<Slept> {
    if let (Some(gear), [ring], None) = (&shared.gear, &mut *rings, &shared.watch) {
        let outdone = !sleep_on_word(gear, ring, most)?;
        let woken = false;
        return Ok(Slept { outdone, woken });
    }
    if !announce(shared, rings)? {
        return Ok(Slept::default());
    }
    let due = rings.iter().any(R::is_due);
    let woken = shared.sleep(R::WHAT, if due { most.min(SOON) } else { most });
    let outdone = !recall(shared, rings);
    let woken = woken?;
    Ok(Slept { outdone, woken })
}

/// Sleeps on the only ring's own sleep word: no descriptor takes part. `false`
/// if another sleeper has taken its place.
fn sleep_on_word(gear: &Gear, ring: &mut impl Awaited, most: Duration) -> Result<bool> {
    let announce = |kring: Kring<'_>| kring.sleep_word().announce(sleep::FUTEX, &*gear.waker);
    let alone = ring.kring().is_none_or(announce);
    // What was published before we announced ourselves.
    let ready = ring.look();
    let Some(word) = ring.kring().map(Kring::sleep_word) else {
        return ready;
    };
    if matches!(ready, Ok(false)) {
        let most = if alone { most } else { most.min(SHARED_SLICE) };
        futex::wait(word.futex(), sleep::FUTEX, Some(most));
    }
    let kept = word.disarm(sleep::FUTEX);
    if !alone {
        // Who else sleeps on the word is not announced any more.
        gear.waker.wake(word.futex(), sleep::FUTEX);
    }
    ready?;
    Ok(kept)
}

/// What a registration announces of its bell.
fn said(shared: &Shared) -> u32 {
    sleep::BELL + u32::from(shared.reg.owner)
}

/// Announces a sleeper on all rings; `false`, and nothing is announced, if one
/// is ready.
pub(crate) fn announce<R: Awaited>(shared: &Shared, rings: &mut [R]) -> Result<bool> {
    shared.bell.clear();
    match &shared.gear {
        Some(gear) => {
            for kring in rings.iter().filter_map(R::kring) {
                kring.sleep_word().announce(said(shared), &*gear.waker);
            }
        }
        None => {
            if let Some(bell) = Bell::at(&shared.map.mem, &shared.map.geom) {
                bell.client_sleeps(true);
            }
            shared.kick();
        }
    }
    let mut ready = any(rings);
    let needs = match shared.watch {
        // The program that feeds the queues went with the server, and what
        // the server drives stands still.
        Some(_) => rings.iter().any(R::needs_server),
        None => shared.served,
    };
    if needs && matches!(ready, Ok(false)) {
        ready = shared.check_alive().map(|()| false);
    }
    if !matches!(ready, Ok(false)) {
        recall(shared, rings);
    }
    Ok(!ready?)
}

/// Takes it back. `false` if another sleeper has taken its place on a ring.
pub(crate) fn recall<R: Awaited>(shared: &Shared, rings: &[R]) -> bool {
    let mut kept = true;
    for kring in rings.iter().filter_map(R::kring) {
        kept &= kring.sleep_word().disarm(said(shared));
    }
    if shared.gear.is_none()
        && let Some(bell) = Bell::at(&shared.map.mem, &shared.map.geom)
    {
        bell.client_sleeps(false);
    }
    shared.bell.clear();
    kept
}

/// What is left of the wait, at most a slice; `None` if it is over.
fn left(deadline: Option<Instant>) -> Option<Duration> {
    let Some(deadline) = deadline else {
        return Some(SLICE);
    };
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.min(SLICE))
}

#[cfg(test)]
#[path = "wait_tests.rs"]
mod tests;
