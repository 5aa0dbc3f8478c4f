//! Tests of mapping and of `nmport_inject`, with a memory file in the place of
//! the device.

use super::*;
use crate::ctx::tests::Probe;
use crate::inject::nmport_inject;
use crate::port::{new_in, nmport_delete, nmport_mmap, nmport_undo_mmap, nmport_undo_register};
use netvale_wire::abi::{ring, slot};
use std::ffi::c_int;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

const SLOTS: u32 = 4;
const BUF: usize = 2048;
const NIFP: usize = 1024;
const RINGS: usize = 4096;
/// Room for one ring.
const RING: usize = 512;
const BUFS: usize = 16384;
const SIZE: usize = 1 << 18;

/// A region in a file: 2 transmit and 2 receive rings, one host ring each.
struct File(OwnedFd);

impl File {
    /// `bound`: which of the six rings the interface has.
    fn new(bound: [bool; 6]) -> Self {
        // SAFETY: a string.
        let fd = unsafe { libc::memfd_create(c"region".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: just made, and nobody else's.
        let file = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: a file of this test's own.
        assert_eq!(unsafe { libc::ftruncate(fd, SIZE.try_into().unwrap()) }, 0);
        let region = file.region();
        region.write(NIFP + nif::HOST_TX_RINGS, 1u32).unwrap();
        region.write(NIFP + nif::HOST_RX_RINGS, 1u32).unwrap();
        for (n, is) in bound.into_iter().enumerate() {
            let at = RINGS + n * RING;
            let offset = if is { (at - NIFP) as u64 } else { 0 };
            region.write(NIFP + nif::RING_OFS + 8 * n, offset).unwrap();
            region
                .write(at + ring::BUF_OFS, (BUFS - at) as u64)
                .unwrap();
            region.write(at + ring::NUM_SLOTS, SLOTS).unwrap();
            region.write(at + ring::NR_BUF_SIZE, 2048u32).unwrap();
            region.write(at + ring::TAIL, SLOTS - 1).unwrap();
            for i in 0..SLOTS {
                let index = 2 + u32::try_from(n).unwrap() * SLOTS + i;
                region
                    .write(at + ring::SLOTS + slot::SIZE * i as usize, index)
                    .unwrap();
            }
        }
        file
    }

    /// A mapping of the test's own, which lasts as long as the process.
    fn region(&self) -> Region {
        use std::os::fd::AsRawFd;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let (none, fd) = (ptr::null_mut(), self.0.as_raw_fd());
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(none, SIZE, prot, libc::MAP_SHARED, fd, 0) };
        assert!(at != libc::MAP_FAILED);
        Region {
            base: at.cast(),
            size: SIZE,
        }
    }

    /// A registered port with this region.
    fn port(&self, ctx: *mut Ctx, mem_id: u16) -> *mut Port {
        // SAFETY: the context outlives the port.
        let d = unsafe { new_in(ctx) };
        // SAFETY: just made.
        let port = unsafe { &mut *d };
        port.register_done = 1;
        port.fd = self.0.try_clone().unwrap().into_raw_fd();
        port.reg.nr_memsize = SIZE as u64;
        port.reg.nr_offset = NIFP as u64;
        port.reg.nr_mem_id = mem_id;
        port.reg.nr_tx_rings = 2;
        port.reg.nr_rx_rings = 2;
        d
    }
}

fn mmap(d: *mut Port) -> c_int {
    // SAFETY: a port.
    unsafe { nmport_mmap(d) }
}

fn drop_port(d: *mut Port) {
    // SAFETY: nothing of the region is used any more.
    unsafe { nmport_undo_mmap(d) };
    // SAFETY: a port.
    unsafe { nmport_undo_register(d) };
    // SAFETY: nobody else has it.
    unsafe { nmport_delete(d) };
}

fn see<'a>(d: *mut Port) -> &'a Port {
    // SAFETY: the tests delete ports last.
    unsafe { &*d }
}

fn is_mapped(at: *mut c_void) -> bool {
    let mut vec = 0u8;
    // SAFETY: asks about one page and writes one byte.
    unsafe { libc::mincore(at, 4096, &raw mut vec) == 0 }
}

#[test]
fn rings_are_the_first_run_in_each_direction() {
    let mut probe = Probe::new();
    let ctx = probe.ctx();
    for (bound, tx, rx) in [
        ([true; 6], (0, 2), (0, 2)),
        ([true, true, false, true, true, false], (0, 1), (0, 1)),
        ([false, false, true, false, false, true], (2, 2), (2, 2)),
        ([false, true, false, false, true, false], (1, 1), (1, 1)),
        ([true, false, true, false, false, false], (0, 0), (3, 2)),
        ([false; 6], (3, 2), (3, 2)),
    ] {
        let file = File::new(bound);
        let d = file.port(ctx, 1);
        assert_eq!(mmap(d), 0, "{}", probe.last());
        let port = see(d);
        assert_eq!((port.first_tx_ring, port.last_tx_ring), tx, "{bound:?}");
        assert_eq!((port.first_rx_ring, port.last_rx_ring), rx, "{bound:?}");
        assert_eq!((port.cur_tx_ring, port.cur_rx_ring), (tx.0, rx.0));
        assert_eq!(mmap(d), -1, "twice");
        drop_port(d);
    }
    let file = File::new([true; 6]);
    let d = file.port(ctx, 1);
    // SAFETY: a port.
    unsafe { (*d).reg.nr_tx_rings = 0 };
    // SAFETY: a port.
    unsafe { (*d).reg.nr_rx_rings = 0 };
    file.region()
        .write(NIFP + nif::HOST_TX_RINGS, 0u32)
        .unwrap();
    assert_eq!(mmap(d), 0);
    assert_eq!((see(d).first_tx_ring, see(d).last_tx_ring), (0, u16::MAX));
    drop_port(d);
    assert_eq!(probe.live.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn ports_of_one_region_share_one_mapping() {
    let mut probe = Probe::new();
    let ctx = probe.ctx();
    let mut other = Probe::new();
    let file = File::new([true; 6]);
    let [a, b, c] = [1, 1, 2].map(|id| file.port(ctx, id));
    let d = file.port(other.ctx(), 1);
    for port in [a, b, c, d] {
        assert_eq!(mmap(port), 0);
    }
    assert_eq!(see(a).mem, see(b).mem);
    assert_eq!(see(a).nifp, see(b).nifp);
    assert!(see(c).mem != see(a).mem && see(d).mem != see(a).mem);
    // SAFETY: mapped above.
    let mem = unsafe { &*see(a).mem };
    let (at, size) = (mem.mem, mem.size);
    assert_eq!(
        (size, mem.refcount, mem.mem_id, mem.is_extmem),
        (SIZE, 2, 1, 0)
    );
    drop_port(a);
    assert!(is_mapped(at));
    // SAFETY: a port.
    unsafe { nmport_undo_mmap(b) };
    assert!(!is_mapped(at));
    assert_eq!((see(b).mmap_done, see(b).nifp), (0, ptr::null_mut()));
    assert_eq!(mmap(b), 0, "can be mapped again");
    for port in [c, b, d] {
        drop_port(port);
    }
    for probe in [&probe, &other] {
        assert_eq!(probe.live.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}

#[test]
fn external_memory_is_used_where_it_is() {
    let mut probe = Probe::new();
    let ctx = probe.ctx();
    let file = File::new([true; 6]);
    let memory = file.region();
    let d = file.port(ctx, 9);
    // SAFETY: a port.
    unsafe { (*d).register_done = 0 };
    // SAFETY: a port, and the test's own mapping.
    let given = unsafe { crate::extmem::nmport_extmem(d, memory.base.cast(), SIZE) };
    assert_eq!(given, 0);
    // SAFETY: a port.
    unsafe { (*d).register_done = 1 };
    assert_eq!(mmap(d), 0);
    assert_eq!(see(d).nifp.addr(), memory.base.addr() + NIFP);
    // SAFETY: a port.
    unsafe { nmport_undo_mmap(d) };
    assert!(is_mapped(memory.base.cast()), "it is the program's");
    // SAFETY: a port.
    unsafe { crate::port::nmport_undo_parse(d) };
    drop_port(d);
}

#[test]
fn what_cannot_be_mapped_leaves_nothing_behind() {
    let mut probe = Probe::new();
    let ctx = probe.ctx();
    let file = File::new([true; 6]);
    let fail = |change: &dyn Fn(&mut Port)| {
        let d = file.port(ctx, 1);
        // SAFETY: a port that nobody else uses.
        change(unsafe { &mut *d });
        assert_eq!(mmap(d), -1);
        assert!(see(d).mem.is_null() && see(d).nifp.is_null() && see(d).mmap_done == 0);
        drop_port(d);
    };
    fail(&|port| port.reg.nr_memsize = 0);
    fail(&|port| port.reg.nr_offset = SIZE as u64);
    fail(&|port| port.reg.nr_offset = u64::MAX - 8);
    fail(&|port| port.reg.nr_offset = NIFP as u64 + 1);
    fail(&|port| port.reg.nr_tx_rings = u16::MAX);
    fail(&|port| port.reg.nr_rx_rings = 40000);
    file.region()
        .write(NIFP + nif::HOST_TX_RINGS, u32::MAX)
        .unwrap();
    fail(&|_| ());
    assert_eq!(probe.live.load(std::sync::atomic::Ordering::Relaxed), 0);
    // SAFETY: the probe's context.
    assert!(unsafe { &*ctx }.mem_descs.is_null());
}

/// A mapped port, and the test's own view of its region.
struct Sender {
    region: Region,
    d: *mut Port,
    _probe: Box<Probe>,
}

impl Sender {
    fn new() -> Self {
        let mut probe = Probe::new();
        let file = File::new([true; 6]);
        let d = file.port(probe.ctx(), 1);
        assert_eq!(mmap(d), 0);
        Self {
            region: file.region(),
            d,
            _probe: probe,
        }
    }

    fn inject(&self, packet: &[u8]) -> c_int {
        // SAFETY: an open port that only this test uses.
        unsafe { nmport_inject(self.d, packet.as_ptr().cast(), packet.len()) }
    }

    fn head(&self, ring: usize) -> u32 {
        let at = RINGS + ring * RING;
        let (head, cur): (u32, u32) = (
            self.region.read(at + ring::HEAD).unwrap(),
            self.region.read(at + ring::CUR).unwrap(),
        );
        assert_eq!(head, cur);
        head
    }

    /// Length, flags and first data byte of a slot.
    fn slot(&self, ring: usize, i: usize, offset: usize) -> (u16, u16, u8) {
        let at = RINGS + ring * RING + ring::SLOTS + slot::SIZE * i;
        let buf = self
            .region
            .at(BUFS + (2 + ring * 4 + i) * BUF + offset, 1)
            .unwrap();
        // SAFETY: in the region.
        let byte = unsafe { buf.read() };
        (
            self.region.read(at + slot::LEN).unwrap(),
            self.region.read(at + slot::FLAGS).unwrap(),
            byte,
        )
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        drop_port(self.d);
    }
}

#[test]
fn packets_fill_the_rings_in_turn() {
    let sender = Sender::new();
    for n in 0..3u8 {
        assert_eq!(sender.inject(&[n; 60]), 60);
        assert_eq!(sender.slot(0, usize::from(n), 0), (60, 0, n));
    }
    assert_eq!((sender.head(0), sender.head(1)), (3, 0));
    assert_eq!(sender.inject(&[9; 60]), 60, "the next ring");
    assert_eq!((see(sender.d).cur_tx_ring, sender.head(1)), (1, 1));
    for _ in 0..5 {
        assert_eq!(sender.inject(&[9; 1]), 1, "the host ring is bound as well");
    }
    assert_eq!(sender.inject(&[9; 1]), 0, "all full");
    assert_eq!([0, 1, 2].map(|ring| sender.head(ring)), [3, 3, 3]);
}

#[test]
fn a_long_packet_takes_several_slots() {
    let sender = Sender::new();
    let mut packet = vec![1; BUF];
    packet.extend([2; BUF]);
    packet.extend([3; 5]);
    assert_eq!(sender.inject(&packet), 4101);
    assert_eq!(sender.slot(0, 0, BUF - 1), (2048, slot::MOREFRAG, 1));
    assert_eq!(sender.slot(0, 1, 0), (2048, slot::MOREFRAG, 2));
    assert_eq!(sender.slot(0, 2, 4), (5, 0, 3));
    assert_eq!(
        sender.inject(&packet[..BUF]),
        2048,
        "exactly one slot of the next ring"
    );
    assert_eq!(sender.slot(1, 0, 0), (2048, 0, 1));
    assert_eq!((sender.head(0), sender.head(1)), (3, 1));
    assert_eq!(sender.inject(&vec![4; 4 * BUF]), 0, "longer than any ring");
    // Data offsets shorten the room in each buffer.
    let sender = Sender::new();
    for i in 0..4 {
        let at = RINGS + ring::SLOTS + slot::SIZE * i;
        sender
            .region
            .write(at + slot::PTR, 0xff00_0000_0000_0040u64)
            .unwrap();
    }
    sender
        .region
        .write(RINGS + ring::OFFSET_MASK, 0xffffu64)
        .unwrap();
    assert_eq!(sender.inject(&packet[..BUF]), 2048);
    assert_eq!(sender.slot(0, 0, 64), (2048 - 64, slot::MOREFRAG, 1));
    assert_eq!(sender.slot(0, 1, 64), (64, 0, 1));
}

#[test]
fn a_hostile_region_is_refused() {
    let words = [
        ("cur", RINGS + ring::CUR, SLOTS),
        ("tail", RINGS + ring::TAIL, u32::MAX),
        ("no slots", RINGS + ring::NUM_SLOTS, 0),
        ("slots", RINGS + ring::NUM_SLOTS, u32::MAX),
        ("buffer", RINGS + ring::SLOTS + slot::SIZE, u32::MAX),
        ("size", RINGS + ring::NR_BUF_SIZE, 0),
        ("buffers", RINGS + ring::BUF_OFS + 4, 0x8000_0000),
        ("ring", NIFP + nif::RING_OFS + 4, 0x7fff_ffff),
        ("odd ring", NIFP + nif::RING_OFS, 3),
    ];
    for (what, at, word) in words {
        let sender = Sender::new();
        // One ring only, so that no other takes the packet.
        // SAFETY: a port that only this test uses.
        unsafe { (*sender.d).last_tx_ring = 0 };
        assert_eq!(sender.inject(&[1; 60]), 60, "{what}");
        sender.region.write(at, word).unwrap();
        assert_eq!(sender.inject(&[1; 60]), 0, "{what}");
    }
}
