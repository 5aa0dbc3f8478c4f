//! What needs raw system calls.

#![expect(unsafe_code, reason = "filters of system calls are given by address")]

use std::io;

/// Has the kernel refuse a system call to the calling thread, and to all that
/// it starts from now on, with EPERM, as filters of container engines do.
///
/// # Errors
///
/// The kernel's: it knows no filters.
pub fn refuse(call: libc::c_long) -> io::Result<()> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NUMBER: u32 = 0; // where struct seccomp_data has it
    let eperm = libc::EPERM.cast_unsigned();
    let mut steps = [
        step(LOAD, 0, 0, NUMBER),
        step(IF_EQUAL, 0, 1, u32::try_from(call).unwrap_or(u32::MAX)),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | eperm),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: takes numbers only.
    let no_more = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let filter = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program and its steps outlive the call, which copies them.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, filter, &raw const program) };
    match no_more | set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
