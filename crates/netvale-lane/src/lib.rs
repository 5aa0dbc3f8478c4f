//! Lanes: what moves frames between one queue of a device and one pair of
//! rings of a port.
//!
//! ```text
//!  switch or pipe                                     device
//!   RX ring  ──frames──► Lane ──writev, sendmmsg──►   TAP, NIC, host stack,
//!   TX ring  ◄─buffers── Lane ◄──readv, recvmmsg───   capture file, tunnel
//! ```
//!
//! * A [`DeviceLane`] is the queue: frames are received right into the buffers
//!   of free TX slots, and sent from those of RX slots.
//! * A [`Lane`] is a queue with its rings. It has no thread and never blocks:
//!   whoever serves it calls [`Lane::serve`] and waits for what the lane says.
//!   That is a thread of the server, or whoever has the port open.
//! * [`xdp`] has the queues of AF_XDP sockets, which can be passed on to
//!   another process; other devices are in the server.
#![forbid(unsafe_code)]

mod books;
mod device;
mod finish;
mod forward;
mod lane;
mod meter;
pub mod xdp;

pub use books::Dir;
pub use device::{DeviceLane, Interest, Loss, Losses, Pushed, Step, Trouble};
pub use lane::{Lane, Round};

use std::error::Error;

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        line = format!("{line}: {e}");
        cause = e.source();
    }
    line
}
