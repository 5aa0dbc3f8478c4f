//! What a program hands down to those that it starts.

#![expect(unsafe_code, reason = "descriptors known by number only")]

use std::os::fd::BorrowedFd;

use rustix::io::FdFlags;

/// Marks every descriptor but the standard three as not to be inherited, so
/// that a program started for good does not keep its starter's locks, pipes
/// and sockets. Does nothing where `/proc` is missing.
pub fn only_stdio() {
    let Ok(dir) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers = dir
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    for fd in numbers.filter(|&n| n > 2) {
        // SAFETY: the number is not -1, and the borrow ends with the call. If
        // another thread closed it since, the call fails; if it was opened
        // anew, a flag is set that it should have had anyway.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
    }
}
