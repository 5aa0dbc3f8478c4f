//! netmap's control ABI: what an `ioctl` on `/dev/netmap` means.
//!
//! A request is read from the caller's memory ([`UserMem`]), checked as netmap
//! checks it, translated (the old requests into the new ones) and carried out
//! by a [`Host`]; answers, statuses of options and, where netmap does so even
//! after a failure, the request itself are copied back. Nothing here makes a
//! system call, so the whole ABI can be tested and fuzzed as a function.
//!
//! `NIOCTXSYNC` and `NIOCRXSYNC` are not requests and do not come here.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod errno;
mod host;

pub use errno::Errno;
pub use host::{
    Attach, Bound, Eventfds, Extmem, Host, Kloop, ListEntry, Memory, NewIf, Offsets, Pool, Port,
    Register, UserMem,
};
