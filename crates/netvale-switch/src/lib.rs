//! The VALE engine.
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
