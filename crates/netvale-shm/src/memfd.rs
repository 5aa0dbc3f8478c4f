//! Sealed, sparse memory files.

#![expect(unsafe_code, reason = "mmap and munmap")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::Mem;
use crate::mem::Backing;

/// Size of a huge page where netvale uses them.
const HUGE_PAGE: usize = 2 << 20;

/// Whether a region should lie in 2 MiB pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePages {
    /// Never: 4 KiB pages, sparse.
    Never,
    /// Reserved huge pages if the machine has enough free, else ordinary ones.
    #[default]
    Auto,
    /// Fail without them.
    Require,
}

/// Why a memory file could not be made or taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShmError {
    /// The kernel refused an operation.
    #[error("cannot {what} a memory file of {len} bytes")]
    Os {
        /// The operation.
        what: &'static str,
        /// Bytes of the file.
        len: usize,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A descriptor from a peer is not a file that can only be mapped whole.
    #[error("received memory file is not sealed against resizing (seals {seals:#x})")]
    NotSealed {
        /// Seals that it has.
        seals: u32,
    },
    /// A descriptor from a peer has the wrong size.
    #[error("received memory file has {found} bytes where {expected} were announced")]
    Size {
        /// Bytes found.
        found: u64,
        /// Bytes announced.
        expected: usize,
    },
}

/// A memory file whose size is fixed for ever by seals.
///
/// Sparse: a page costs memory only once it is touched.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
    len: usize,
    huge: bool,
}

impl Memfd {
    /// Makes a zeroed file of `len` bytes and seals its size. `name` is what
    /// `/proc/PID/maps` shows.
    ///
    /// # Errors
    ///
    /// [`ShmError::Os`]: out of descriptors or memory, or
    /// [`HugePages::Require`] without enough free huge pages.
    pub fn create(name: &str, len: usize, huge: HugePages) -> Result<Self, ShmError> {
        if huge != HugePages::Never && len >= HUGE_PAGE {
            match Self::create_huge(name, len.next_multiple_of(HUGE_PAGE)) {
                Ok(file) => return Ok(file),
                Err(e) if huge == HugePages::Require => return Err(e),
                Err(_) => {} // documented fallback: ordinary pages
            }
        }
        let os = |what| move |e: rustix::io::Errno| ShmError::os(what, len, e);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(name, flags).map_err(os("create"))?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(os("size"))?;
        rustix::fs::fcntl_add_seals(&fd, seals()).map_err(os("seal"))?;
        Ok(Self {
            fd,
            len,
            huge: false,
        })
    }

    fn create_huge(name: &str, len: usize) -> Result<Self, ShmError> {
        let os = |what| move |e: rustix::io::Errno| ShmError::os(what, len, e);
        let flags = MemfdFlags::CLOEXEC
            | MemfdFlags::ALLOW_SEALING
            | MemfdFlags::HUGETLB
            | MemfdFlags::HUGE_2MB;
        let fd = rustix::fs::memfd_create(name, flags).map_err(os("create"))?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(os("size"))?;
        rustix::fs::fcntl_add_seals(&fd, seals()).map_err(os("seal"))?;
        let file = Self {
            fd,
            len,
            huge: true,
        };
        // Mapping reserves every page of it, so a later touch cannot fail:
        // with too few free pages it fails here and now.
        drop(file.map()?);
        Ok(file)
    }

    /// Takes over a descriptor that a peer sent, if it is one that we could
    /// have made: sealed against growing and shrinking, `expected` bytes long.
    ///
    /// # Errors
    ///
    /// [`ShmError::NotSealed`] or [`ShmError::Size`]: mapping it could fault
    /// later. [`ShmError::Os`]: not a memory file at all.
    pub fn from_fd(fd: OwnedFd, expected: usize) -> Result<Self, ShmError> {
        let os = |what| move |e: rustix::io::Errno| ShmError::os(what, expected, e);
        let found = rustix::fs::fcntl_get_seals(&fd).map_err(os("examine"))?;
        if !found.contains(SealFlags::GROW | SealFlags::SHRINK) {
            return Err(ShmError::NotSealed {
                seals: found.bits(),
            });
        }
        let stat = rustix::fs::fstat(&fd).map_err(os("examine"))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size != expected as u64 {
            return Err(ShmError::Size {
                found: size,
                expected,
            });
        }
        Ok(Self {
            fd,
            len: expected,
            huge: u64::try_from(stat.st_blksize).unwrap_or(0) >= HUGE_PAGE as u64,
        })
    }

    /// Bytes in the file.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it lies in 2 MiB pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Maps it whole, shared, readable and writable; left out of core dumps.
    ///
    /// # Errors
    ///
    /// [`ShmError::Os`]: out of address space or huge pages.
    pub fn map(&self) -> Result<Mem, ShmError> {
        // SAFETY: a fresh mapping at an address of the kernel's choice
        // overlaps nothing of ours; the descriptor is a live memory file.
        let ptr = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                self.len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &self.fd,
                0,
            )
        }
        .map_err(|e| ShmError::os("map", self.len, e))?;
        let Some(ptr) = NonNull::new(ptr.cast::<u8>()) else {
            return Err(ShmError::os("map", self.len, rustix::io::Errno::NOMEM));
        };
        let mapping = Mapping { ptr, len: self.len };
        // SAFETY: the range was just mapped. Failure only makes a core dump
        // larger.
        let _ =
            unsafe { rustix::mm::madvise(ptr.as_ptr().cast(), self.len, Advice::LinuxDontDump) };
        if !self.huge {
            // SAFETY: as above; a hint where the kernel allows huge shmem.
            let _ = unsafe {
                rustix::mm::madvise(ptr.as_ptr().cast(), self.len, Advice::LinuxHugepage)
            };
        }
        // SAFETY: page-aligned, self.len bytes mapped until `mapping` drops;
        // the seals forbid the file to shrink under it; nobody else knows
        // the address.
        Ok(unsafe { Mem::from_raw(ptr, self.len, Arc::new(mapping)) })
    }

    /// A second descriptor of the same file.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            len: self.len,
            huge: self.huge,
        })
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Memfd> for OwnedFd {
    fn from(file: Memfd) -> Self {
        file.fd
    }
}

impl From<Memfd> for File {
    fn from(file: Memfd) -> Self {
        file.fd.into()
    }
}

impl ShmError {
    fn os(what: &'static str, len: usize, e: rustix::io::Errno) -> Self {
        Self::Os {
            what,
            len,
            source: e.into(),
        }
    }
}

fn seals() -> SealFlags {
    SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL
}

struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `Memfd::map`, and the last view of
        // it is gone. Failure would only leak address space.
        let _ = unsafe { rustix::mm::munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}

// SAFETY: owns a mapping; nothing is bound to a thread.
unsafe impl Send for Mapping {}
// SAFETY: the pointer is only read.
unsafe impl Sync for Mapping {}
impl Backing for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn two_mappings_see_the_same_bytes() {
        let file = Memfd::create("netvale-test", 1 << 16, HugePages::Never).unwrap();
        let (a, b) = (file.map().unwrap(), file.map().unwrap());
        a.word(4096).unwrap().store(42, Ordering::Release);
        assert_eq!(b.word(4096).unwrap().load(Ordering::Acquire), 42);
    }

    #[test]
    fn the_size_is_sealed() {
        let file = Memfd::create("netvale-test", 8192, HugePages::Never).unwrap();
        let perm = Err(rustix::io::Errno::PERM);
        assert_eq!(rustix::fs::ftruncate(&file, 4096), perm);
        assert_eq!(rustix::fs::ftruncate(&file, 16384), perm);
    }

    #[test]
    fn foreign_files_are_examined() {
        let open = rustix::fs::memfd_create("netvale-test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&open, 8192).unwrap();
        assert!(matches!(
            Memfd::from_fd(open, 8192),
            Err(ShmError::NotSealed { .. })
        ));
        let file = Memfd::create("netvale-test", 8192, HugePages::Never).unwrap();
        let fd: OwnedFd = file.into();
        assert!(matches!(
            Memfd::from_fd(fd, 4096),
            Err(ShmError::Size { found: 8192, .. })
        ));
        let dir = File::open("/").unwrap();
        assert!(matches!(
            Memfd::from_fd(dir.into(), 4096),
            Err(ShmError::Os { .. })
        ));
    }

    #[test]
    fn auto_falls_back_to_small_pages() {
        let file = Memfd::create("netvale-test", 1 << 40, HugePages::Auto).unwrap();
        assert!(!file.is_huge(), "no machine has a TiB of free huge pages");
        let refused = Memfd::create("netvale-test", 1 << 40, HugePages::Require);
        assert!(matches!(refused, Err(ShmError::Os { .. })));
    }
}
