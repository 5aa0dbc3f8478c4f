//! netmap rings over shared memory: what a kernel module keeps, without one.
//!
//! A port's rings lie in a *region* that programs map ([`layout`],
//! [`slot::Ring`]); what they must not touch, the *hidden state*, lies in a
//! file of its own ([`world::World`], [`kring::Kring`]). A *sync* moves slots
//! between the two sides:
//!
//! 1. The program fills slots and moves `head`.
//! 2. [`sync::prologue`] checks what it wrote.
//! 3. A sender reserves slots of a destination ([`resv`]), fills them
//!    ([`deliver`]) and publishes them; a pipe copies slots ([`pipe`]).
//! 4. The receiver's sync ([`rx`], [`pipe`]) collects what was published,
//!    moves `tail` and gives back what the program released.
//!
//! A sync that would do nothing is recognised by a few loads ([`idle`]). Frames
//! may begin behind their buffer's first byte ([`offsets`]). Monitors
//! ([`monitor`]) see frames on the way. Nothing here makes a system
//! call, waits, allocates on the way of a frame, or believes a word that it
//! read from shared memory. `no_std`, and no `unsafe`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bell;
pub mod deliver;
pub mod forward;
pub mod idle;
pub mod kring;
pub mod layout;
pub mod monitor;
pub mod offsets;
pub mod pipe;
pub mod port;
mod pos;
pub mod resv;
pub mod rx;
pub mod slot;
pub mod sync;
pub mod world;

pub use kring::{Counter, Kring, KringId};
pub use pos::{MAX_SLOTS, Pos};
pub use slot::{Ring, Slot};
