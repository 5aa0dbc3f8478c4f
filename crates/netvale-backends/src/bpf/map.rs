//! Maps: memory that programs and this process share, by system calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::sys::{self, MapKind};
use super::{Asm, BpfError, Reg, os_error};

/// A few 64-bit words that programs reach directly: an array of one value.
#[derive(Debug)]
pub struct Cell {
    fd: OwnedFd,
    name: String,
    words: usize,
}

impl Cell {
    /// Makes one of `words` zeros. `name` is what `bpftool map` shows; its
    /// first 15 bytes count.
    ///
    /// # Errors
    ///
    /// Without the privilege or the memory.
    pub fn new(name: &str, words: usize) -> Result<Self, BpfError> {
        Self::with(name, words, 0)
    }

    /// The same, to be mapped into processes.
    ///
    /// # Errors
    ///
    /// As [`Cell::new`]; needs Linux 5.5.
    pub fn mapped(name: &str, words: usize) -> Result<Self, BpfError> {
        Self::with(name, words, sys::MMAPABLE)
    }

    fn with(name: &str, words: usize, flags: u32) -> Result<Self, BpfError> {
        let refused = |e| os_error("create the BPF map", name, e);
        let bytes = words.checked_mul(8).and_then(|n| u32::try_from(n).ok());
        let bytes = bytes.ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?;
        Ok(Self {
            fd: sys::map_create(MapKind::Array, name, bytes, 1, flags).map_err(refused)?,
            name: name.into(),
            words,
        })
    }

    /// Reads all words. Each is whole, but they are read one after the other.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read(&self) -> Result<Vec<u64>, BpfError> {
        let mut words = vec![0; self.words];
        sys::map_lookup(self.fd.as_fd(), 0, &mut words)
            .map_err(|e| os_error("read the BPF map", &self.name, e))?;
        Ok(words)
    }

    /// Writes all words.
    ///
    /// # Errors
    ///
    /// The kernel's; `InvalidInput` with a wrong number of words.
    pub fn write(&self, words: &[u64]) -> Result<(), BpfError> {
        let done = if words.len() == self.words {
            sys::map_update(self.fd.as_fd(), 0, words)
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        };
        done.map_err(|e| os_error("write the BPF map", &self.name, e))
    }

    /// In a program: `dst` becomes the address of word `word`. The program
    /// keeps the map alive once it is loaded; the instructions are good as
    /// long as this value exists.
    ///
    /// # Panics
    ///
    /// If there is no such word.
    pub fn address(&self, asm: &mut Asm, dst: Reg, word: usize) {
        assert!(word < self.words, "word {word} of {}", self.words);
        let offset = i32::try_from(word * 8).unwrap_or(i32::MAX);
        asm.load_value(dst, self.fd.as_raw_fd(), offset);
    }
}

impl AsFd for Cell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Which socket gets the frames of which queue.
#[derive(Debug)]
pub struct XskMap {
    fd: OwnedFd,
    queues: u32,
}

impl XskMap {
    /// Makes an empty one for queues `0..queues`.
    ///
    /// # Errors
    ///
    /// Without the privilege, or for 0 queues.
    pub fn new(queues: u32) -> Result<Self, BpfError> {
        let fd = sys::map_create(MapKind::XskMap, "nv_xsks", 4, queues, 0)
            .map_err(|e| os_error("create a BPF map", format!("of {queues} sockets"), e))?;
        Ok(Self { fd, queues })
    }

    /// Queues that it has room for.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// Frames of the queue go to this AF_XDP socket from now on. The map
    /// forgets the socket when that is closed.
    ///
    /// # Errors
    ///
    /// If there is no such queue, or it is no bound AF_XDP socket.
    pub fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), BpfError> {
        sys::map_update_fd(self.fd.as_fd(), queue, socket)
            .map_err(|e| os_error("direct to a socket the frames of", queue_name(queue), e))
    }

    /// Frames of the queue go to the stack again.
    ///
    /// # Errors
    ///
    /// The kernel's. That there was no socket is none.
    pub fn clear(&self, queue: u32) -> Result<(), BpfError> {
        match sys::map_delete(self.fd.as_fd(), queue) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => {
                Err(os_error("give back the frames of", queue_name(queue), e))
            }
            _ => Ok(()),
        }
    }

    /// In a program: `dst` becomes the map.
    pub fn load(&self, asm: &mut Asm, dst: Reg) {
        asm.load_map(dst, self.fd.as_raw_fd());
    }
}

fn queue_name(queue: u32) -> String {
    format!("queue {queue}")
}
