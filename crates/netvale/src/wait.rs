//! Sleeping until a ring has something, and not a moment too early.
//!
//! A wake-up across cores costs as much as thousands of copied frames, so a
//! waiter first spins for a while that is learned from how long recent waits
//! took; where spinning never pays (sender and receiver share a core), it soon
//! stops. Then the waiter announces itself in the ring's sleep word, looks
//! once more, and sleeps.

use std::time::{Duration, Instant};

use netvale_ring::bell::Bell;
use netvale_ring::kring::{Kring, sleep};
use netvale_shm::futex;

use crate::Result;
use crate::port::Shared;
use crate::rx::RxRing;
use crate::spin::Spin;
use crate::tx::TxRing;

/// A sleeper looks up this often, in case it was not woken: the server may
/// have died with the message.
const SLICE: Duration = Duration::from_millis(500);

/// Calls `ready` until it says so, or it has not paid for long enough.
fn look(spin: &mut Spin, mut ready: impl FnMut() -> Result<bool>) -> Result<bool> {
    if ready()? {
        return Ok(true);
    }
    let budget = spin.budget();
    if budget.is_zero() {
        return Ok(false);
    }
    let start = Instant::now();
    loop {
        for _ in 0..16 {
            std::hint::spin_loop();
        }
        if ready()? {
            spin.came();
            return Ok(true);
        }
        if start.elapsed() >= budget {
            return Ok(false);
        }
    }
}

/// Waits until some ring has frames.
pub(crate) fn for_rx(
    shared: &Shared,
    rings: &mut [RxRing],
    spin: &mut Spin,
    timeout: Option<Duration>,
) -> Result<bool> {
    let deadline = timeout.map(|t| Instant::now() + t);
    loop {
        let begin = Instant::now();
        if look(spin, || any_rx(rings))? {
            return Ok(true);
        }
        let Some(left) = left(deadline) else {
            return Ok(false);
        };
        let end = rings.first().and_then(|r| r.end());
        if rings.len() == 1 && end.is_some() {
            sleep_on_ring(shared, rings, left)?;
        } else {
            if !arm(shared, rings)? {
                return Ok(true);
            }
            let rung = shared.bell.wait(Some(left));
            disarm(shared, rings);
            rung.map_err(|e| crate::Error::io("cannot wait", e))?;
        }
        spin.slept(begin.elapsed());
        if any_rx(rings)? {
            return Ok(true);
        }
        if shared.gear.is_none() {
            shared.check_alive()?;
        } else {
            rings.iter_mut().for_each(RxRing::repair);
        }
    }
}

/// Sleeps on the only ring's own sleep word: no descriptor takes part.
fn sleep_on_ring(shared: &Shared, rings: &mut [RxRing], left: Duration) -> Result<()> {
    let Some(kring) = kring_of(&rings[0]) else {
        return Ok(());
    };
    let word = kring.sleep_word();
    let displaced = word.arm(sleep::FUTEX);
    let futex_word = word.futex();
    // Looks once more: what was published before we announced ourselves.
    let ready = {
        let end = rings[0].end();
        end.is_some_and(|e| e.has_news())
    };
    if !ready {
        futex::wait(futex_word, sleep::FUTEX, Some(left));
    }
    word.disarm();
    pass_on(shared, kring, displaced);
    Ok(())
}

/// Two may sleep on one ring: whoever was there before is woken in turn.
fn pass_on(shared: &Shared, kring: Kring<'_>, displaced: u32) {
    if displaced > sleep::FUTEX
        && displaced != sleep::BELL + u32::from(shared.reg.owner)
        && let Some(gear) = &shared.gear
    {
        gear.waker.wake(kring.sleep_word().futex(), displaced);
    }
}

fn kring_of(rx: &RxRing) -> Option<Kring<'_>> {
    Some(rx.end()?.kring())
}

/// Announces a sleeper on all rings; `false` if one has frames.
pub(crate) fn arm(shared: &Shared, rings: &mut [RxRing]) -> Result<bool> {
    shared.bell.clear();
    match &shared.gear {
        Some(_) => {
            for ring in rings.iter() {
                if let Some(kring) = kring_of(ring) {
                    let said = sleep::BELL + u32::from(shared.reg.owner);
                    let displaced = kring.sleep_word().arm(said);
                    if displaced == sleep::FUTEX {
                        futex::wake(kring.sleep_word().futex(), u32::MAX);
                    } else {
                        pass_on(shared, kring, displaced);
                    }
                }
            }
        }
        None => {
            if let Some(bell) = Bell::at(&shared.map.mem, &shared.map.geom) {
                bell.client_sleeps(true);
            }
            shared.kick();
        }
    }
    if any_rx(rings)? {
        disarm(shared, rings);
        return Ok(false);
    }
    Ok(true)
}

/// Takes it back.
pub(crate) fn disarm(shared: &Shared, rings: &mut [RxRing]) {
    for ring in rings.iter() {
        if let Some(kring) = kring_of(ring) {
            kring.sleep_word().disarm();
        }
    }
    if shared.gear.is_none()
        && let Some(bell) = Bell::at(&shared.map.mem, &shared.map.geom)
    {
        bell.client_sleeps(false);
    }
    shared.bell.clear();
}

/// Waits until some TX ring has space.
pub(crate) fn for_tx(
    shared: &Shared,
    rings: &mut [TxRing],
    spin: &mut Spin,
    timeout: Option<Duration>,
) -> Result<bool> {
    let deadline = timeout.map(|t| Instant::now() + t);
    loop {
        let begin = Instant::now();
        if look(spin, || any_tx(rings))? {
            return Ok(true);
        }
        let Some(left) = left(deadline) else {
            return Ok(false);
        };
        shared.bell.clear();
        match &shared.gear {
            Some(_) => {
                for kring in rings.iter().filter_map(|r| Some(r.end()?.kring())) {
                    let said = sleep::BELL + u32::from(shared.reg.owner);
                    pass_on(shared, kring, kring.sleep_word().arm(said));
                }
            }
            None => {
                if let Some(bell) = Bell::at(&shared.map.mem, &shared.map.geom) {
                    bell.client_sleeps(true);
                }
                shared.kick();
            }
        }
        let ready = any_tx(rings)?;
        if !ready {
            let rung = shared.bell.wait(Some(left));
            rung.map_err(|e| crate::Error::io("cannot wait", e))?;
        }
        spin.slept(begin.elapsed());
        for kring in rings.iter().filter_map(|r| Some(r.end()?.kring())) {
            kring.sleep_word().disarm();
        }
        if shared.gear.is_none() {
            shared.check_alive()?;
        }
        if ready || any_tx(rings)? {
            return Ok(true);
        }
    }
}

fn any_rx(rings: &mut [RxRing]) -> Result<bool> {
    let mut any = false;
    for ring in rings {
        any |= ring.sync()? > 0;
    }
    Ok(any)
}

fn any_tx(rings: &mut [TxRing]) -> Result<bool> {
    let mut any = false;
    for ring in rings {
        ring.sync()?;
        any |= ring.space() > 0;
    }
    Ok(any)
}

/// What is left of the wait, at most a slice; `None` if it is over.
fn left(deadline: Option<Instant>) -> Option<Duration> {
    let Some(deadline) = deadline else {
        return Some(SLICE);
    };
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.min(SLICE))
}
