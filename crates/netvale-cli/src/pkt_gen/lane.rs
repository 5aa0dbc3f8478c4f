//! What one thread sends to or receives from: a whole port, or one of its
//! rings.

use std::time::{Duration, Instant};

use netvale::{Port, Result, RxRing, TxRing};

/// Longest sleep of a thread that owns a ring but not the port's doorbell.
const NAP_MAX: Duration = Duration::from_millis(1);
/// Its first sleep; each one in vain doubles it.
const NAP_MIN: Duration = Duration::from_micros(20);

/// TX rings of one thread.
pub(super) enum TxLane {
    /// All rings, and the means to wait for them.
    Port(Box<Port>),
    /// One ring of several threads' port.
    Ring(Box<TxRing>),
}

impl TxLane {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Port(port) => port.tx_count(),
            Self::Ring(_) => 1,
        }
    }

    pub(super) fn ring(&mut self, i: usize) -> &mut TxRing {
        match self {
            Self::Port(port) => port.tx(i),
            Self::Ring(ring) => ring,
        }
    }

    /// Sleeps until there may be room, at most for `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<bool> {
        match self {
            Self::Port(port) => port.wait_tx(Some(timeout)),
            Self::Ring(ring) => nap_until(timeout, || {
                ring.sync()?;
                Ok(ring.space() > 0)
            }),
        }
    }
}

/// RX rings of one thread.
pub(super) enum RxLane {
    /// All rings, and the means to wait for them.
    Port(Box<Port>),
    /// One ring of several threads' port.
    Ring(Box<RxRing>),
}

impl RxLane {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Port(port) => port.rx_count(),
            Self::Ring(_) => 1,
        }
    }

    pub(super) fn ring(&mut self, i: usize) -> &mut RxRing {
        match self {
            Self::Port(port) => port.rx(i),
            Self::Ring(ring) => ring,
        }
    }

    /// Sleeps until there are frames (true), at most for `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<bool> {
        match self {
            Self::Port(port) => port.wait_rx(Some(timeout)),
            Self::Ring(ring) => nap_until(timeout, || Ok(ring.sync()? > 0)),
        }
    }
}

/// Asks again and again, with growing sleeps between.
fn nap_until(timeout: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<bool> {
    let end = Instant::now() + timeout;
    let mut nap = NAP_MIN;
    loop {
        if ready()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(NAP_MAX);
    }
}
