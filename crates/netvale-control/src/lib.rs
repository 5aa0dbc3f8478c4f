//! netmap's control ABI: what an `ioctl` on `/dev/netmap` means.
//!
//! A request is read from the caller's memory ([`UserMem`]), checked as netmap
//! checks it, translated (the old requests into the new ones) and carried out
//! by a [`Host`]; answers, statuses of options and, where netmap does so even
//! after a failure, the request itself are copied back. Nothing here makes a
//! system call, so the whole ABI can be tested and fuzzed as a function.
//!
//! | module | part of the ABI |
//! |---|---|
//! | `request` | the header of `NIOCCTRL`, bodies, copies in and out |
//! | `options` | the list of options: budgets, statuses |
//! | `register` | `REGISTER` |
//! | `ctrl` | requests about ports, switches and regions |
//! | `kloop` | control blocks in the caller's memory and the sync loop |
//! | `legacy` | `NIOCREGIF`, `NIOCGINFO`, `NIOCCONFIG` |
//!
//! `NIOCTXSYNC` and `NIOCRXSYNC` are not requests and do not come here.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ctrl;
mod errno;
mod host;
mod kloop;
mod legacy;
mod options;
mod register;
mod request;

pub use errno::Errno;
pub use host::{
    Attach, Bound, Eventfds, Extmem, Host, Kloop, ListEntry, Memory, NewIf, Offsets, Pool, Port,
    Register, UserMem,
};

use netvale_wire::abi;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Carries out one `ioctl` on a file of `/dev/netmap`: `NIOCCTRL`, `NIOCREGIF`,
/// `NIOCGINFO` or `NIOCCONFIG`.
///
/// The structure at `arg` is written back even after a failure. A file that the
/// request has bound is unbound again if any of the answer cannot be written.
///
/// # Errors
///
/// [`Errno::EOPNOTSUPP`]: another command. [`Errno::EINVAL`]: `arg` is 0.
/// [`Errno::EFAULT`]: memory of the caller is not accessible. All others belong
/// to the request.
pub fn ioctl(host: &mut dyn Host, mem: &dyn UserMem, cmd: u32, arg: u64) -> Result<(), Errno> {
    match cmd {
        abi::NIOCCTRL => with_fixed(host, mem, arg, request::control),
        abi::NIOCREGIF => with_fixed(host, mem, arg, legacy::regif),
        abi::NIOCGINFO => with_fixed(host, mem, arg, legacy::ginfo),
        abi::NIOCCONFIG => with_fixed(host, mem, arg, legacy::config),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// How a request ended.
struct Outcome {
    result: Result<(), Errno>,
    /// The request has bound the file, which must be undone if what follows
    /// fails.
    bound: bool,
}

impl From<Result<(), Errno>> for Outcome {
    fn from(result: Result<(), Errno>) -> Self {
        Self {
            result,
            bound: false,
        }
    }
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Self {
        Err(errno).into()
    }
}

/// Copies the structure at `arg` in, and out again whatever comes of it.
fn with_fixed<T: FromBytes + IntoBytes + Immutable>(
    host: &mut dyn Host,
    mem: &dyn UserMem,
    arg: u64,
    run: fn(&mut dyn Host, &dyn UserMem, &mut T) -> Outcome,
) -> Result<(), Errno> {
    if arg == 0 {
        return Err(Errno::EINVAL);
    }
    let mut fixed = T::new_zeroed();
    mem.read(arg, fixed.as_mut_bytes())?;
    let Outcome { mut result, bound } = run(host, mem, &mut fixed);
    if mem.write(arg, fixed.as_bytes()).is_err() {
        result = Err(Errno::EFAULT);
    }
    if bound && result.is_err() {
        host.unregister();
    }
    result
}

/// A name as text. netmap takes any bytes, but no port, switch or interface
/// here has a name that is not UTF-8.
fn text(name: &[u8]) -> Result<&str, Errno> {
    core::str::from_utf8(name).ok().ok_or(Errno::EINVAL)
}

/// Whether a name says that it is of a switch.
fn is_vale(name: &str) -> bool {
    name.starts_with(abi::NM_BDG_NAME)
}
