//! External memory: the region takes the place of memory of the program.
//!
//! The region itself is a file of the server's, as all are. It is laid out to
//! fit into what the program offers and then mapped over it, so that the
//! program finds the rings where it expects them. Programs that map the same
//! file meet in one region, by the file's identity.

use std::fmt::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use netvale::registration::ask_over;
use netvale_control::{Errno, Extmem, Memory, Pool};
use netvale_ring::layout::{IF_SIZE, RegionGeom};
use netvale_wire::proto::{RegionInfo, Reply, Request};

use crate::real;

const PAGE: u64 = 4096;

/// A region that is to take the place of the program's memory.
pub(crate) struct Prepared {
    pub(crate) info: RegionInfo,
    pub(crate) memory: Memory,
    file: OwnedFd,
    addr: u64,
}

/// What a region of this shape looks like.
pub(crate) fn memory(info: &RegionInfo) -> Memory {
    let [ifs, rings, ring_size, bufs, buf_size] = info.geom;
    let geom = RegionGeom {
        ifs,
        rings,
        ring_size,
        bufs,
        buf_size,
    };
    let pool = |offset: usize, count, size| Pool {
        offset: offset as u64,
        count,
        size,
    };
    Memory {
        size: info.size,
        id: info.id,
        ifs: pool(geom.if_ofs(0), ifs, IF_SIZE),
        rings: pool(geom.ring_ofs(0), rings, ring_size),
        bufs: pool(geom.buf_ofs(), bufs, buf_size),
    }
}

/// The shape that fits: what is left beside interfaces and rings is buffers.
fn shape(want: &Memory) -> Result<RegionGeom, Errno> {
    let or = |n: u32, default: u32| if n == 0 { default } else { n };
    // Defaults are those of netmap's private regions.
    let ifs = or(want.ifs.count, 2);
    let rings = or(want.rings.count, 4);
    let ring_size = or(want.rings.size, 20480).next_multiple_of(64);
    let buf_size = or(want.bufs.size, 2048).next_multiple_of(64);
    let least = or(want.bufs.count, 4098);
    let if_size = or(want.ifs.size, 1024);
    if !(1..=100).contains(&ifs) || !(56..=IF_SIZE).contains(&if_size) {
        return Err(Errno::EINVAL);
    }
    if !(2..=1024).contains(&rings) || !(256..=128 << 10).contains(&ring_size) {
        return Err(Errno::EINVAL);
    }
    if !(64..=65536).contains(&buf_size) || !(4..=1_000_000).contains(&least) {
        return Err(Errno::EINVAL);
    }
    let mut geom = RegionGeom {
        ifs,
        rings,
        ring_size,
        bufs: 3,
        buf_size,
    };
    let room = usize::try_from(want.size)
        .ok()
        .and_then(|n| n.checked_sub(geom.buf_ofs()))
        .ok_or(Errno::ENOMEM)?;
    geom.bufs = u32::try_from(room / buf_size as usize).map_err(|_e| Errno::EINVAL)?;
    // The file's last page must lie in the program's memory too.
    while geom.bufs >= least && geom.pools_len() as u64 > want.size {
        geom.bufs -= 1;
    }
    if geom.bufs < least.min(4098) && geom.bufs < least {
        return Err(Errno::ENOMEM);
    }
    Ok(geom)
}

/// What the memory is: two mappings of one file are the same.
fn identity(addr: u64) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (range, _perm, offset, dev, inode) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let (from, to) = range.split_once('-')?;
        let (from, to) = (
            u64::from_str_radix(from, 16).ok()?,
            u64::from_str_radix(to, 16).ok()?,
        );
        if (from..to).contains(&addr) {
            let into = addr - from + u64::from_str_radix(offset, 16).ok()?;
            let mut key = String::new();
            if inode == "0" {
                // Nobody else can name this memory.
                let _ = write!(key, "{}/{from:x}+{into:x}", std::process::id());
            } else {
                let _ = write!(key, "{dev}/{inode}+{into:x}");
            }
            return Some(key);
        }
    }
    None
}

/// Gets a region for this memory.
pub(crate) fn prepare(socket: BorrowedFd<'_>, want: &Extmem) -> Result<Prepared, Errno> {
    if want.addr == 0 || !want.addr.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let geom = shape(&want.memory)?;
    let key = identity(want.addr).ok_or(Errno::EFAULT)?;
    let mut g = [0; 5];
    g.copy_from_slice(&[
        geom.ifs,
        geom.rings,
        geom.ring_size,
        geom.bufs,
        geom.buf_size,
    ]);
    let request = Request::NewRegion { key, geom: g };
    // Unless somebody uses it, it is gone with who has asked for it.
    let (reply, fds) = ask_over(socket, &request).map_err(|e| Errno(e.errno()))?;
    let (Reply::Region(info), Some(file)) = (reply, fds.into_iter().next()) else {
        return Err(Errno::EIO);
    };
    let mut memory = memory(&info);
    memory.size = want.memory.size;
    Ok(Prepared {
        info,
        memory,
        file,
        addr: want.addr,
    })
}

impl Prepared {
    /// Maps the region over the program's memory.
    pub(crate) fn install(&self) -> Result<(), Errno> {
        let len = self.info.size.min(self.memory.size / PAGE * PAGE);
        let len = usize::try_from(len).map_err(|_e| Errno::EINVAL)?;
        let addr = usize::try_from(self.addr).map_err(|_e| Errno::EINVAL)?;
        // SAFETY: the program has given these pages away, to have the region
        // appear in them.
        let at = unsafe {
            real::mmap(
                std::ptr::with_exposed_provenance_mut(addr),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                self.file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno(real::errno()));
        }
        Ok(())
    }
}
