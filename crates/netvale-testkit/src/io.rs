//! Sending and receiving with patience. In the isolated context the server's
//! worker moves frames a little later, so nothing here takes "not yet" for
//! "never".

use std::time::{Duration, Instant};

use netvale::{Port, PushError, RxRing, TxRing};

use crate::PATIENCE;

/// Queues a frame on a ring, waiting for space if need be.
///
/// # Panics
///
/// If there is none in the end.
#[track_caller]
pub fn push(tx: &mut TxRing, frame: &[u8]) {
    let end = Instant::now() + PATIENCE;
    loop {
        match tx.push(frame) {
            Ok(()) => return,
            Err(PushError::Full) => {}
            Err(e) => panic!("{e}"),
        }
        assert!(Instant::now() < end, "no space to send");
        tx.sync().unwrap();
        std::thread::yield_now();
    }
}

/// Sends one frame through the port's first ring.
#[track_caller]
pub fn send(port: &mut Port, frame: &[u8]) {
    push(port.tx(0), frame);
    port.tx(0).sync().unwrap();
}

/// Sends all frames through the port's first ring.
#[track_caller]
pub fn send_all<F: AsRef<[u8]>>(port: &mut Port, frames: &[F]) {
    for f in frames {
        push(port.tx(0), f.as_ref());
    }
    port.tx(0).sync().unwrap();
}

/// Takes one frame from a ring.
#[track_caller]
pub fn take(rx: &mut RxRing) -> Option<Vec<u8>> {
    let mut v = Vec::new();
    rx.next().map(|f| {
        f.read_to(&mut v);
        v
    })
}

/// The next frame of the port's first ring.
///
/// # Panics
///
/// If none comes in the end.
#[track_caller]
pub fn recv(port: &mut Port) -> Vec<u8> {
    recv_ring(port.rx(0))
}

/// The next frame of a ring.
///
/// # Panics
///
/// If none comes in the end.
#[track_caller]
pub fn recv_ring(rx: &mut RxRing) -> Vec<u8> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(f) = take(rx) {
            return f;
        }
        assert!(Instant::now() < end, "no frame came");
        if rx.sync().unwrap() == 0 {
            rx.wait(Some(Duration::from_millis(20))).unwrap();
        }
    }
}

/// The next frames of the port's first ring.
#[track_caller]
pub fn recv_n(port: &mut Port, n: usize) -> Vec<Vec<u8>> {
    (0..n).map(|_| recv(port)).collect()
}

/// Everything that is there or comes within a moment, from all rings; the
/// slots are given back.
#[track_caller]
pub fn drain(port: &mut Port) -> Vec<Vec<u8>> {
    let quiet = if port.context() == "isolated" { 60 } else { 1 };
    let mut all = Vec::new();
    let mut end = Instant::now() + Duration::from_millis(quiet);
    loop {
        for i in 0..port.rx_count() {
            port.rx(i).sync().unwrap();
            while let Some(f) = take(port.rx(i)) {
                all.push(f);
                end = Instant::now() + Duration::from_millis(quiet);
            }
            port.rx(i).sync().unwrap();
        }
        if Instant::now() > end {
            return all;
        }
        std::thread::yield_now();
    }
}

/// Nothing is there, and nothing comes within a moment.
///
/// # Panics
///
/// If there is something.
#[track_caller]
pub fn quiet(port: &mut Port) {
    let got = drain(port);
    assert!(
        got.is_empty(),
        "{}: {} frames, the first {:02x?}",
        port.name(),
        got.len(),
        got[0]
    );
}

/// Waits until the port has sent that many frames since it was made.
///
/// # Panics
///
/// If it never does.
#[track_caller]
pub fn settled(port: &Port, sent: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let is = port.stats().unwrap().tx_frames;
        if is == sent {
            return;
        }
        assert!(
            Instant::now() < end && is < sent,
            "{is} frames sent instead of {sent}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}
