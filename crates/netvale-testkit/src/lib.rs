//! What the tests of several crates stand on.
//!
//! * [`Place`] and [`Bed`]: a namespace in each of the contexts, with its own
//!   directory and its own server, gone when dropped.
//! * [`frame`]: frames that say where they come from and whether they are whole.
//! * [`io`]: sending and receiving with patience, in every context alike.
//! * [`net`]: network namespaces and interfaces in them; [`stream`]: TCP and
//!   UDP between them.
//! * [`Peer`] and [`roles`]: other processes, to be killed at any time.
//! * [`raw`]: the control protocol and the shared memory themselves, for peers
//!   that do not keep to the rules.
//!
//! Its functions panic where a test would: that is their way to report.
#![expect(
    clippy::unwrap_used,
    reason = "serves tests only, where a panic is the report"
)]

pub mod frame;
pub mod io;
pub mod net;
mod peer;
mod place;
pub mod raw;
mod rng;
pub mod roles;
pub mod stream;
mod sys;
mod temp;

pub use peer::{Peer, Spec};
pub use place::{Bed, Place, Server, program};
pub use rng::Rng;
pub use sys::refuse;
pub use temp::TempDir;

use std::io::Write;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Says why a test could not run here; it returns then. `test` is its full
/// name, the reason what must be done to have it run.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIP {test}: {reason}");
    if let Some(path) = std::env::var_os("NETVALE_SKIP_LOG") {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        // In one piece: others write into it at the same time.
        let line = format!("SKIP {test}: {reason}\n");
        log.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Asks again and again until it is so; `false` if it is not in time.
pub fn within(time: Duration, mut what: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if what() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The same, with much patience; panics if it never is.
///
/// # Panics
///
/// If it is not so in the end.
#[track_caller]
pub fn eventually(what: &str, is: impl FnMut() -> bool) {
    assert!(within(PATIENCE, is), "never came to be: {what}");
}
