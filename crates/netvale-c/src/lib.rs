//! netmap's C interface as a library: `libnetvale`.
//!
//! Two things are in it:
//!
//! * the functions of netmap's own helper library, libnetmap: names
//!   ([`header`], [`register`], [`options`]), ports ([`port`]), and contexts
//!   for errors, memory and locking ([`ctx`]);
//! * the C symbols of `netvale-preload`: `open`, `ioctl`, `mmap`, `poll` and
//!   the like. A program linked with `-lnetvale` finds them before libc's, so
//!   its `/dev/netmap` works without a kernel module and without `LD_PRELOAD`.
//!
//! The headers are in `include/`, with the same file names, names, layouts and
//! meanings as netmap's, so that programs compile unchanged. What is exported
//! here trusts its caller as every C library does: pointers must be valid.

#![expect(
    unsafe_code,
    reason = "a C interface: pointers come from the caller, memory goes to it"
)]

// Shares the crate's symbols with the program: without a mention the linker
// would leave them out. Unit tests keep libc's own.
#[cfg(not(test))]
extern crate netvale_preload as _;

pub mod abi;
pub mod ctx;
pub mod extmem;
pub mod header;
pub mod inject;
pub mod list;
mod memory;
pub mod options;
pub mod port;
pub mod portopts;
mod refusal;
pub mod register;

use std::ffi::{CStr, c_char};

/// `const char *netvale_version(void)`: the library's version, a text such as
/// `0.1.0` that lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn netvale_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"unknown",
        };
    VERSION.as_ptr()
}
