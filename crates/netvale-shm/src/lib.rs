//! Memory that other processes can write.
//!
//! Everything in netvale that touches memory a peer may change at any moment
//! goes through this crate, and nearly all `unsafe` of the project is here.
//!
//! 1. [`Memfd`] makes (or receives) a sealed, sparse memory file: its size can
//!    never change again, so a mapping of it can never fault.
//! 2. [`Memfd::map`] gives a [`Mem`]: a counted mapping. Clones and parts of it
//!    keep the mapping alive.
//! 3. Words are reached as atomics ([`Mem::words`]), bytes are copied in and
//!    out ([`Mem::read`], [`Mem::write`]), packet buffers through [`Bufs`].
//! 4. [`Doorbell`] and [`futex`] put a thread to sleep and wake it.
//! 5. A [`channel::Channel`] carries descriptors of all this between processes.
//!
//! No `&u8`, `&[u8]` or `&mut` to shared memory ever exists. References to
//! *atomics* do: an atomic has interior mutability, so another process that
//! changes it breaks no promise made to the compiler.
//!
//! ```
//! use netvale_shm::Mem;
//! use core::sync::atomic::Ordering;
//!
//! let mem = Mem::heap(4096);
//! let words = mem.words(64, 2).expect("inside the mapping");
//! words[1].store(7, Ordering::Release);
//! let mut bytes = [0; 8];
//! assert!(mem.read(72, &mut bytes));
//! assert_eq!(u64::from_le_bytes(bytes), 7);
//! assert!(mem.words(4090, 1).is_none(), "unaligned and out of bounds");
//! ```
//!
//! Without the `std` feature only [`Mem`] and [`Bufs`] remain, so that the
//! engine can also live in a guest or a hypervisor.

#![cfg_attr(not(feature = "std"), no_std)]
// All supported targets are little-endian: the public layout is netmap's,
// in host order, and slot words are read as one u64.
#[cfg(target_endian = "big")]
compile_error!("netvale's slot words assume a little-endian target");

extern crate alloc;

mod bufs;
#[cfg(feature = "std")]
pub mod channel;
#[cfg(feature = "std")]
mod doorbell;
#[cfg(feature = "std")]
pub mod futex;
#[cfg(feature = "std")]
pub mod inherit;
mod mem;
#[cfg(feature = "std")]
mod memfd;
#[cfg(feature = "std")]
pub mod process;
mod window;

pub use bufs::Bufs;
#[cfg(feature = "std")]
pub use doorbell::Doorbell;
pub use mem::Mem;
#[cfg(feature = "std")]
pub use memfd::{HugePages, Memfd, ShmError};
pub use window::{Array, Array32, Pool, Words, futex_half, prefetch_write};
