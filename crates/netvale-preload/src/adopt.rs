//! Registrations that this process did not open: inherited from a parent,
//! kept over exec, received through a Unix socket.

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use netvale::ErrorKind;
use netvale::registration::Site;
use netvale_wire::proto::Request;

use crate::binding::{Binding, state};
use crate::inside::Inside;
use crate::life;
use crate::{real, table};

/// Whether it is a Unix socket of the type that registrations are.
pub(crate) fn is_unix(fd: BorrowedFd<'_>) -> bool {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    sockopt::socket_type(fd).is_ok_and(|t| t == SocketType::SEQPACKET)
        && sockopt::socket_domain(fd).is_ok_and(|d| d == AddressFamily::UNIX)
}

/// Finds out what the registration is; its state.
#[cold]
pub(crate) fn resolve(b: &Binding, fd: c_int) -> u32 {
    life::refresh(b);
    if b.is_certain() {
        return b.state();
    }
    let was = real::errno();
    let _inside = Inside::enter();
    let mut control = b.control.lock();
    if b.is_certain() {
        return b.state(); // somebody was faster
    }
    // SAFETY: the program is in a call on this descriptor.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    if control.site.is_none() {
        control.site = Site::of(socket);
    }
    let done = (|| {
        let site = control.site.clone()?;
        let connecting = life::connecting();
        let greeting = site.greet().ok()?;
        drop(connecting);
        let bound = greeting.bind(socket, &Request::Whoami);
        control.greeting = Some(greeting);
        match bound {
            Ok(attached) => b.attach(&mut control, attached, 0).ok(),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                b.set_state(state::OPEN);
                Some(())
            }
            Err(_) => None,
        }
    })();
    drop(control);
    real::set_errno(was);
    // If the server does not answer, the next call asks again.
    done.map_or(state::FOREIGN, |()| b.state())
}

/// Takes in what this process was started with.
pub(crate) fn scan() {
    const AT: &std::ffi::CStr = c"/proc/self/fd";
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a C string.
    let dir = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, AT.as_ptr(), flags) };
    let Ok(dir) = c_int::try_from(dir) else {
        return;
    };
    if dir < 0 {
        return;
    }
    let mut space = [0u64; 128];
    loop {
        // SAFETY: the kernel writes into `space` no more than it has.
        let n = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                dir,
                space.as_mut_ptr(),
                size_of_val(&space),
            )
        };
        let Ok(n @ 1..) = usize::try_from(n) else {
            break;
        };
        let mut bytes = [0u8; 1024];
        for (to, from) in bytes.chunks_exact_mut(8).zip(space) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        let mut rest = &bytes[..n];
        // struct linux_dirent64: inode, offset, record length, type, name.
        while rest.len() > 19 {
            let len = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            let digits = rest[19..].iter().take_while(|b| b.is_ascii_digit());
            let fd = digits.fold(0i32, |n, &d| {
                n.wrapping_mul(10).wrapping_add(i32::from(d - b'0'))
            });
            // The standard three are not worth asking about, mostly; but a
            // shell may have put one there.
            if rest[19].is_ascii_digit() && fd != dir && table::holds(fd) {
                life::discover(fd);
            }
            if len < 19 || len > rest.len() {
                break;
            }
            rest = &rest[len..];
        }
    }
    // SAFETY: ours, from above.
    unsafe { libc::syscall(libc::SYS_close, dir) };
}
