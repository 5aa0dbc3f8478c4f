//! The list of options behind a request.

use alloc::vec::Vec;

use netvale_wire::abi::{
    NETMAP_REQ_MAXSIZE, NmReqOptCsb, NmReqOptExtmem, NmReqOptOffsets, NmReqOptSyncKloopMode,
    NmReqOption, opttype,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::{Errno, UserMem};

/// Bytes of what every option begins with.
const HEAD: usize = size_of::<NmReqOption>();
/// Known types, counting the invalid 0.
const TYPES: usize = opttype::MAX as usize;
/// netmap copies a request into one buffer and refuses what does not fit; these
/// are its parts besides the request: two pointers, a table of known options,
/// and a pointer for each option.
const SCRATCH_POINTERS: usize = 2 * 8;
const SCRATCH_TABLE: usize = TYPES * 8;
const SCRATCH_OPTION: usize = 8;
/// Size of that buffer, bytes.
const SCRATCH: usize = NETMAP_REQ_MAXSIZE + SCRATCH_POINTERS + 2 * SCRATCH_TABLE;

/// The options of one request, as copied in.
#[derive(Default)]
pub(crate) struct Options {
    list: Vec<Opt>,
    /// Where in `list` the option of a known type is.
    known: [Option<usize>; TYPES],
}

struct Opt {
    addr: u64,
    /// As given, but for the status.
    head: NmReqOption,
    /// What follows the head; empty for unknown types.
    body: Vec<u8>,
}

impl Options {
    /// Copies in the list that begins at `at` (0: none) of a request with a body
    /// of `body` bytes. All statuses are `EOPNOTSUPP` until a handler says
    /// otherwise. After an error, `self` is what was read before it.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`]: cannot be read; [`Errno::EMSGSIZE`]: too many or too
    /// long, or an endless list; [`Errno::EINVAL`]: type 0, or one twice.
    pub(crate) fn copy_in(
        &mut self,
        mem: &dyn UserMem,
        mut at: u64,
        body: usize,
    ) -> Result<(), Errno> {
        let mut scratch = SCRATCH_POINTERS + body + SCRATCH_TABLE;
        let mut request = body;
        while at != 0 {
            if scratch + SCRATCH_OPTION + HEAD > SCRATCH {
                // Perhaps an endless list: its statuses are of no use.
                self.list.clear();
                return Err(Errno::EMSGSIZE);
            }
            let mut head = NmReqOption::new_zeroed();
            mem.read(at, head.as_mut_bytes())?;
            head.nro_status = Errno::EOPNOTSUPP.0.unsigned_abs();
            scratch += SCRATCH_OPTION + HEAD;
            request += HEAD;
            let index = self.list.len();
            self.list.push(Opt {
                addr: at,
                head,
                body: Vec::new(),
            });
            if head.nro_reqtype == 0 {
                self.set_at(index, Err(Errno::EINVAL));
                return Err(Errno::EINVAL);
            }
            if let Some(known) = self.known.get_mut(head.nro_reqtype as usize) {
                if let Some(earlier) = known.replace(index) {
                    self.set_at(earlier, Err(Errno::EINVAL));
                    self.set_at(index, Err(Errno::EINVAL));
                    return Err(Errno::EINVAL);
                }
                let len = body_len(&head)?;
                if request + len > NETMAP_REQ_MAXSIZE || scratch + len > SCRATCH {
                    return Err(Errno::EMSGSIZE);
                }
                scratch += len;
                request += len;
                if len > 0 {
                    let from = at.checked_add(HEAD as u64).ok_or(Errno::EFAULT)?;
                    let mut bytes = alloc::vec![0; len];
                    mem.read(from, &mut bytes)?;
                    if let Some(opt) = self.list.get_mut(index) {
                        opt.body = bytes;
                    }
                }
            }
            at = head.nro_next;
        }
        Ok(())
    }

    /// Copies the statuses out, and the bodies of the options that took effect
    /// in a request that succeeded. Returns what has become of `result`.
    ///
    /// # Errors
    ///
    /// [`Errno::EFAULT`]: something cannot be written; else as `result`.
    pub(crate) fn copy_out(
        &self,
        mem: &dyn UserMem,
        mut result: Result<(), Errno>,
    ) -> Result<(), Errno> {
        for opt in &self.list {
            if mem.write(opt.addr, opt.head.as_bytes()).is_err() {
                result = Err(Errno::EFAULT);
            } else if result.is_ok() && opt.head.nro_status == 0 && !opt.body.is_empty() {
                // No overflow: this is where the body was read.
                result = mem.write(opt.addr + HEAD as u64, &opt.body);
            }
        }
        result
    }

    /// An option of fixed size, if there is one of the type.
    pub(crate) fn get<T: FromBytes>(&self, kind: u32) -> Option<T> {
        let opt = self.find(kind)?;
        let mut bytes = Vec::with_capacity(HEAD + opt.body.len());
        bytes.extend_from_slice(opt.head.as_bytes());
        bytes.extend_from_slice(&opt.body);
        T::read_from_bytes(&bytes).ok()
    }

    /// Size that an option claims, and what follows its head.
    pub(crate) fn sized(&self, kind: u32) -> Option<(u64, &[u8])> {
        let opt = self.find(kind)?;
        Some((opt.head.nro_size, &opt.body))
    }

    /// Replaces all of an option but its head.
    pub(crate) fn put<T: IntoBytes + Immutable>(&mut self, kind: u32, value: &T) {
        let body = value.as_bytes().get(HEAD..).unwrap_or_default();
        if let Some(opt) = self.find_mut(kind) {
            opt.body.copy_from_slice(body);
        }
    }

    /// Sets the status of an option, if there is one of the type.
    pub(crate) fn set(&mut self, kind: u32, status: Result<(), Errno>) {
        if let Some(index) = self.index(kind) {
            self.set_at(index, status);
        }
    }

    /// Whether an option is left that nobody took.
    pub(crate) fn leftover(&self) -> bool {
        let untouched = Errno::EOPNOTSUPP.0.unsigned_abs();
        self.list.iter().any(|o| o.head.nro_status == untouched)
    }

    fn set_at(&mut self, index: usize, status: Result<(), Errno>) {
        if let Some(opt) = self.list.get_mut(index) {
            opt.head.nro_status = status.err().map_or(0, |e| e.0.unsigned_abs());
        }
    }

    fn index(&self, kind: u32) -> Option<usize> {
        *self.known.get(kind as usize)?
    }

    fn find(&self, kind: u32) -> Option<&Opt> {
        self.list.get(self.index(kind)?)
    }

    fn find_mut(&mut self, kind: u32) -> Option<&mut Opt> {
        let index = self.index(kind)?;
        self.list.get_mut(index)
    }
}

/// Bytes that follow the head of an option of known type. Only the eventfds
/// have no fixed size, but a size that nothing can have is refused for all.
fn body_len(head: &NmReqOption) -> Result<usize, Errno> {
    let size = usize::try_from(head.nro_size).unwrap_or(usize::MAX);
    if size > NETMAP_REQ_MAXSIZE {
        return Err(Errno::EMSGSIZE);
    }
    let whole = match head.nro_reqtype {
        opttype::EXTMEM => size_of::<NmReqOptExtmem>(),
        opttype::SYNC_KLOOP_EVENTFDS => size.max(HEAD),
        opttype::CSB => size_of::<NmReqOptCsb>(),
        opttype::SYNC_KLOOP_MODE => size_of::<NmReqOptSyncKloopMode>(),
        opttype::OFFSETS => size_of::<NmReqOptOffsets>(),
        _ => HEAD,
    };
    Ok(whole - HEAD)
}
