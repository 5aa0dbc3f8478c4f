//! netmap rings over shared memory.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod kring;
pub mod layout;
pub mod bell;
pub mod deliver;
pub mod monitor;
pub mod pipe;
mod pos;
pub mod rx;
pub mod port;
pub mod resv;
pub mod slot;
pub mod sync;
pub mod world;

pub use kring::{Counter, Kring, KringId};
pub use pos::{MAX_SLOTS, Pos};
pub use slot::{Ring, Slot};
