//! The program's memory, as requests name it: an address may be anything.

use std::mem::size_of_val;

use netvale_control::{Errno, UserMem};
use netvale_switch::end::Indirect;

/// This process.
pub(crate) struct Own;

/// Lets the kernel copy, which checks every page.
fn copy(write: bool, addr: u64, bytes: *mut u8, len: usize) -> Result<(), Errno> {
    if len == 0 {
        return Ok(());
    }
    let local = libc::iovec {
        iov_base: bytes.cast(),
        iov_len: len,
    };
    let addr = usize::try_from(addr).map_err(|_e| Errno::EFAULT)?;
    let remote = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(addr),
        iov_len: len,
    };
    let nr = if write {
        libc::SYS_process_vm_writev
    } else {
        libc::SYS_process_vm_readv
    };
    let was = crate::real::errno();
    // Asked anew, because of forks.
    // SAFETY: asks for a number.
    let pid = unsafe { libc::getpid() };
    // SAFETY: the local part is the caller's buffer; the other is checked by
    // the kernel.
    let n = unsafe {
        libc::syscall(
            nr,
            libc::c_long::from(pid),
            &raw const local,
            1usize,
            &raw const remote,
            1usize,
            0usize,
        )
    };
    let error = crate::real::errno();
    crate::real::set_errno(was);
    if usize::try_from(n) == Ok(len) {
        return Ok(());
    }
    // Forbidden by a sandbox: then through a file of the kernel.
    if n < 0 && matches!(error, libc::EPERM | libc::ENOSYS) {
        return through_file(write, addr, bytes, len);
    }
    Err(Errno::EFAULT)
}

fn through_file(write: bool, addr: usize, bytes: *mut u8, len: usize) -> Result<(), Errno> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(write)
        .open("/proc/self/mem")
        .map_err(|_e| Errno::EFAULT)?;
    let at = addr as u64;
    // SAFETY: the caller's buffer, of that length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, len) };
    let done = if write {
        file.write_all_at(bytes, at)
    } else {
        file.read_exact_at(bytes, at)
    };
    done.map_err(|_e| Errno::EFAULT)
}

impl UserMem for Own {
    fn read(&self, addr: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        copy(false, addr, bytes.as_mut_ptr(), size_of_val(bytes))
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        copy(true, addr, bytes.as_ptr().cast_mut(), size_of_val(bytes))
    }
}

impl Indirect for Own {
    fn fetch(&self, ptr: u64, dst: &mut [u8]) -> bool {
        copy(false, ptr, dst.as_mut_ptr(), dst.len()).is_ok()
    }
}
