//! VALE: a learning Ethernet switch whose frames move in the context of the
//! party that sends them, and the control plane of a namespace.
//!
//! * [`end`]: what a party holds to sync a ring; the only way in for traffic.
//! * `vale`: a sender's three passes, over [`fdb`], [`switch`] and [`lookup`].
//! * `convert`: virtio-net headers that differ, checksums, segmentation.
//! * [`domain`]: who may have which port, ring and buffer, and what becomes of
//!   them when their owner dies.
//!
//! A passive library: no threads, no clock, no I/O; `no_std`, and no `unsafe`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod convert;
pub mod domain;
pub mod end;
pub mod fdb;
pub mod lookup;
pub mod switch;
mod vale;

pub use vale::BATCH;
