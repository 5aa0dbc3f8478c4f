//! The bpf(2) system call, one safe function a command.

#![expect(unsafe_code, reason = "bpf(2) is reached by number only")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::asm::Insn;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const TEST_RUN: libc::c_int = 10;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;

/// A name as programs and maps have it: at most 15 bytes count.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Name([u8; 16]);

impl Name {
    pub(super) fn new(name: &str) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        Self(bytes)
    }

    fn to_text(self) -> String {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(self.0.len());
        String::from_utf8_lossy(&self.0[..end]).into_owned()
    }
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: Name,
}

#[repr(C)]
struct MapElem {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: Name,
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

#[repr(C)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
struct GetById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct GetInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of what the kernel tells about a program.
#[repr(C)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: u64,
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: Name,
}

/// An array's values can be mapped into processes.
pub(super) const MMAPABLE: u32 = 1 << 10;

/// Kinds of maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MapKind {
    Array = 2,
    XskMap = 17,
}

pub(super) fn map_create(
    kind: MapKind,
    name: &str,
    value_size: u32,
    entries: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: kind as u32,
        key_size: 4,
        value_size,
        max_entries: entries,
        map_flags: flags,
        inner_map_fd: 0,
        numa_node: 0,
        name: Name::new(name),
    };
    // SAFETY: the command reads only the attributes.
    owned(unsafe { bpf(MAP_CREATE, &mut attr) })
}

/// Reads the entry `key`. `value` must be as long as the map's values: the
/// caller made the map and knows.
pub(super) fn map_lookup(map: BorrowedFd<'_>, key: u32, value: &mut [u64]) -> io::Result<()> {
    let mut attr = elem(map, &key, value.as_mut_ptr().expose_provenance());
    // SAFETY: key and value are as long as the map's, which `Map` keeps true.
    unsafe { bpf(MAP_LOOKUP, &mut attr) }.map(drop)
}

/// Writes the entry `key` of a map whose values are 8-byte words.
pub(super) fn map_update(map: BorrowedFd<'_>, key: u32, value: &[u64]) -> io::Result<()> {
    let mut attr = elem(map, &key, value.as_ptr().expose_provenance());
    // SAFETY: as in `map_lookup`; the kernel only reads.
    unsafe { bpf(MAP_UPDATE, &mut attr) }.map(drop)
}

/// Puts a descriptor into the entry `key` of a map of descriptors.
pub(super) fn map_update_fd(map: BorrowedFd<'_>, key: u32, fd: BorrowedFd<'_>) -> io::Result<()> {
    let value = fd.as_raw_fd();
    let mut attr = elem(map, &key, (&raw const value).expose_provenance());
    // SAFETY: such a map has 4-byte values; the kernel only reads.
    unsafe { bpf(MAP_UPDATE, &mut attr) }.map(drop)
}

pub(super) fn map_delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    let mut attr = elem(map, &key, 0);
    // SAFETY: the kernel reads the key only.
    unsafe { bpf(MAP_DELETE, &mut attr) }.map(drop)
}

fn elem(map: BorrowedFd<'_>, key: &u32, value: usize) -> MapElem {
    MapElem {
        map_fd: number(map),
        pad: 0,
        key: std::ptr::from_ref(key).expose_provenance() as u64,
        value: value as u64,
        flags: 0,
    }
}

/// What is loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadAs<'a> {
    pub(super) kind: u32,
    pub(super) name: &'a str,
    pub(super) flags: u32,
    pub(super) attach_type: u32,
    /// The interface it is for, or 0.
    pub(super) ifindex: u32,
    pub(super) licence: &'a CStr,
}

/// Loads a program. With a buffer, the verifier writes its reasons there.
pub(super) fn prog_load(what: LoadAs<'_>, insns: &[Insn], log: &mut [u8]) -> io::Result<OwnedFd> {
    let len = |n: usize| u32::try_from(n).ok().ok_or(io::ErrorKind::InvalidInput);
    let mut attr = ProgLoad {
        prog_type: what.kind,
        insn_cnt: len(insns.len())?,
        insns: insns.as_ptr().expose_provenance() as u64,
        license: what.licence.as_ptr().expose_provenance() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: len(log.len())?,
        log_buf: match log.len() {
            0 => 0,
            _ => log.as_mut_ptr().expose_provenance() as u64,
        },
        kern_version: 0,
        prog_flags: what.flags,
        name: Name::new(what.name),
        prog_ifindex: what.ifindex,
        expected_attach_type: what.attach_type,
    };
    // SAFETY: instructions, licence and log are as long as said and alive.
    owned(unsafe { bpf(PROG_LOAD, &mut attr) })
}

/// Runs an XDP program `repeat` times on copies of a frame that are then
/// treated as the program says, as if they had been received.
pub(super) fn test_run_live(prog: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<()> {
    const LIVE_FRAMES: u32 = 1 << 1;
    let len = u32::try_from(frame.len()).ok();
    let mut attr = TestRun {
        prog_fd: number(prog),
        retval: 0,
        data_size_in: len.ok_or(io::ErrorKind::InvalidInput)?,
        data_size_out: 0,
        data_in: frame.as_ptr().expose_provenance() as u64,
        data_out: 0,
        repeat,
        duration: 0,
        ctx_size_in: 0,
        ctx_size_out: 0,
        ctx_in: 0,
        ctx_out: 0,
        flags: LIVE_FRAMES,
        cpu: 0,
        batch_size: 0,
        pad: 0,
    };
    // SAFETY: the frame is as long as said and alive; the kernel only reads it.
    unsafe { bpf(TEST_RUN, &mut attr) }.map(drop)
}

pub(super) fn link_create(
    prog: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: number(prog),
        target_ifindex: ifindex,
        attach_type,
        flags,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    // SAFETY: the command reads only the attributes.
    owned(unsafe { bpf(LINK_CREATE, &mut attr) })
}

/// Identifiers of the programs attached to an interface at a place.
pub(super) fn prog_query(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut attr = ProgQuery {
        target_ifindex: ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: 64,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: there is room for the 64 identifiers announced.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    Ok(ids.into_iter().take(attr.count as usize).collect())
}

/// The name of a loaded program.
pub(super) fn prog_name(id: u32) -> io::Result<String> {
    let mut by_id = GetById {
        id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: the command reads only the attributes.
    let prog = owned(unsafe { bpf(PROG_GET_FD_BY_ID, &mut by_id) })?;
    let mut info = ProgInfo {
        kind: 0,
        id: 0,
        tag: 0,
        jited_len: 0,
        xlated_len: 0,
        jited: 0,
        xlated: 0,
        load_time: 0,
        created_by: 0,
        nr_map_ids: 0,
        map_ids: 0,
        name: Name([0; 16]),
    };
    let mut attr = GetInfo {
        fd: prog.as_raw_fd().cast_unsigned(),
        info_len: 80,
        info: (&raw mut info).expose_provenance() as u64,
    };
    const { assert!(size_of::<ProgInfo>() == 80) };
    // SAFETY: the kernel writes at most the 80 bytes announced, which are
    // plain numbers; it follows none of the pointers inside, which are null.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.name.to_text())
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn owned(result: io::Result<libc::c_long>) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result?)
        .ok()
        .ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: these commands answer with a new descriptor that is ours alone
    // (and close-on-exec, as all of this system call).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
///
/// `T` must be the command's attributes, and every address in it valid for
/// what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at `attr`;
    // the caller vouches for the rest.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
