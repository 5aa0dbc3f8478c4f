//! Lets unmodified netmap programs run on netvale.
//!
//! Loaded before the C library (`LD_PRELOAD`, or as part of `libnetvale`), it
//! stands behind `open`, `ioctl`, `mmap`, `poll` and the like. A program that
//! opens `/dev/netmap` gets a connected socket instead: its registration with
//! the server. Descriptors of anything else are passed on untouched, after one
//! look into a table.
//!
//! | module | what |
//! |---|---|
//! | `hooks` | the C functions, by family |
//! | `table` | what each descriptor is |
//! | `binding` | one registration as this process knows it |
//! | `lane` | the rings of a registration, and their syncs |
//! | `wait` | sleeping until one of them has something |
//! | `host` | requests: the server's side of the control ABI |
//! | `inside` | our own code's calls, and signals meanwhile |
//! | `real` | the functions that we stand in front of |
//!
//! # Rules
//!
//! * A descriptor that is not ours costs one load. Nothing is allocated, and
//!   no lock is taken, on its behalf.
//! * `errno` changes only when a call fails.
//! * What this library keeps open for itself is hidden: the program can
//!   neither close nor overwrite it.
//! * After a fork the child binds anew at its first use: it trusts no lock
//!   that a thread of its parent may have held. A child that shares its
//!   parent's memory (`vfork`) is served by the kernel alone.
//! * There is no unwinding out of these functions: a panic ends the process.

#![allow(unsafe_code, reason = "stands between C programs and the C library")]

mod adopt;
mod binding;
mod extmem;
mod fdset;
pub mod hooks;
mod host;
mod inside;
mod kloop;
mod lane;
mod life;
mod lock;
mod maps;
mod real;
mod rules;
mod table;
mod user;
mod wait;
