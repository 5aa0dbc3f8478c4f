//! Tests of names, options and the failure contract. There is no
//! `/dev/netmap` in them; `tests/` has what needs one.

use super::*;
use crate::ctx::tests::Probe;
use crate::portopts::{nmport_disable_option, nmport_enable_option};
use netvale_wire::abi::{NmReqOptOffsets, mode, opttype};
use proptest::prelude::*;
use std::ffi::CString;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};

/// Tests that look at or change which options are enabled.
static OPTIONS: Mutex<()> = Mutex::new(());

fn options_lock() -> MutexGuard<'static, ()> {
    OPTIONS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A port in a context of its own, deleted with it.
struct Bed {
    probe: Box<Probe>,
    d: *mut Port,
}

impl Bed {
    fn new() -> Self {
        let mut probe = Probe::new();
        // SAFETY: the probe outlives the port.
        let d = unsafe { new_in(probe.ctx()) };
        assert!(!d.is_null());
        Self { probe, d }
    }

    fn port(&self) -> &Port {
        // SAFETY: alive until the bed is dropped.
        unsafe { &*self.d }
    }

    /// Parses; 0 or errno.
    fn parse(&mut self, spec: &str) -> c_int {
        let spec = CString::new(spec).unwrap();
        // SAFETY: a port and a string.
        match unsafe { nmport_parse(self.d, spec.as_ptr()) } {
            0 => 0,
            _ => errno(),
        }
    }

    fn extmem(&mut self) -> c_int {
        // SAFETY: a port; the memory is never used.
        unsafe { crate::extmem::nmport_extmem(self.d, ptr::null_mut(), 1) }
    }

    fn offset(&mut self, max: u64) -> c_int {
        // SAFETY: a port.
        unsafe { crate::extmem::nmport_offset(self.d, 0, max, 16, 0) }
    }

    fn twin(&mut self) -> *mut Port {
        // SAFETY: a port.
        unsafe { nmport_clone(self.d) }
    }

    fn bytes(&self) -> [u8; size_of::<Port>()] {
        // SAFETY: made by zeroed, so its padding is initialised too.
        unsafe { self.d.cast::<[u8; size_of::<Port>()]>().read() }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { nmport_close(self.d) };
        assert_eq!(
            self.probe.live.load(Ordering::Relaxed),
            0,
            "memory was kept"
        );
    }
}

#[test]
fn a_name_fills_the_request_in() {
    let mut bed = Bed::new();
    assert_eq!(
        bed.parse("vale0:a{x-3/xT@7@conf:tx-rings=2,rings=4,slots=512,host-rings=1"),
        0
    );
    let port = bed.port();
    assert_eq!(port.hdr.name(), b"vale0:a{x");
    assert_eq!(
        (port.hdr.nr_version, port.hdr.nr_reqtype),
        (14, reqtype::REGISTER)
    );
    assert_eq!(port.hdr.nr_body, (&raw const port.reg).addr() as u64);
    let reg = port.reg;
    assert_eq!(
        (reg.nr_mode, reg.nr_ringid, reg.nr_mem_id),
        (mode::ONE_NIC, 3, 7)
    );
    assert_eq!(reg.nr_flags, 0x4800);
    assert_eq!((reg.nr_tx_rings, reg.nr_rx_rings), (2, 4));
    assert_eq!((reg.nr_host_tx_rings, reg.nr_host_rx_rings), (1, 1));
    assert_eq!((reg.nr_tx_slots, reg.nr_rx_slots), (512, 512));
    assert_eq!((port.fd, port.hdr.nr_options), (-1, 0));
}

#[test]
fn a_bad_name_leaves_an_empty_request() {
    let _lock = options_lock();
    let mut bed = Bed::new();
    for spec in [
        "",
        "eth0",
        "netmap:eth0-",
        "netmap:eth0@",
        "vale0:a@nothing",
        "vale0:a@conf",
        "vale0:a@conf=4",
        "vale0:a@conf:rings=x",
        "vale0:a@conf:rings=65536",
        "vale0:a@conf:rings=1,rings=2",
        "vale0:a@conf:colour=red",
        "vale0:a@share",
        "vale0:a@share=eth0",
        "vale0:a@conf:rings=1@",
        "vale0:a@extmem:if-num=3",
        "vale0:a@extmem:file=/dev/null,if-num=x",
    ] {
        assert_eq!(bed.parse(spec), libc::EINVAL, "{spec}");
        assert!(!bed.probe.last().is_empty(), "{spec}: no message");
        let port = bed.bytes();
        assert_eq!(port[..144], [0; 144], "{spec}: header and request");
        let port = bed.port();
        assert!(
            port.clist.is_null() && port.extmem.is_null() && port.fd == -1,
            "{spec}"
        );
        bed.probe.messages.lock().unwrap().clear();
    }
    // A later attempt is not hurt by it.
    assert_eq!(bed.parse("vale0:a"), 0);
    assert_eq!(bed.port().hdr.nr_version, 14);
    // SAFETY: a port.
    assert_eq!(unsafe { nmport_parse(bed.d, ptr::null()) }, -1);
    assert_eq!(errno(), libc::EINVAL);
}

#[test]
fn offsets_must_be_enabled() {
    let _lock = options_lock();
    let mut bed = Bed::new();
    assert_eq!(bed.parse("vale0:a@offset=64"), libc::EOPNOTSUPP);
    let enable = |name: &std::ffi::CStr| {
        // SAFETY: a string.
        unsafe { nmport_enable_option(name.as_ptr()) }
    };
    assert_eq!(enable(c"nothing"), -1);
    assert_eq!(errno(), libc::EOPNOTSUPP);
    assert_eq!(enable(c"offset"), 0);
    assert_eq!(bed.parse("vale0:a@offset:initial=64,bits=16"), 0);
    // SAFETY: a port's list is proper.
    let option = unsafe { list::nmreq_find_option(hdr_of(bed.d), opttype::OFFSETS) };
    // SAFETY: an option of that type begins with its header.
    let option = unsafe { option.cast::<NmReqOptOffsets>().read() };
    assert_eq!((option.nro_initial_offset, option.nro_max_offset), (64, 64));
    assert_eq!((option.nro_offset_bits, option.nro_min_gap), (16, 0));
    for name in [c"offset", c"nothing"] {
        // SAFETY: a string.
        unsafe { nmport_disable_option(name.as_ptr()) };
    }
    assert_eq!(bed.parse("vale0:a@offset=64"), libc::EOPNOTSUPP);
}

#[test]
fn an_option_can_be_disabled() {
    let _lock = options_lock();
    let mut bed = Bed::new();
    // SAFETY: a string.
    unsafe { nmport_disable_option(c"extmem".as_ptr()) };
    assert_eq!(bed.parse("vale0:a@extmem=/dev/zero"), libc::EOPNOTSUPP);
    // SAFETY: a string.
    assert_eq!(unsafe { nmport_enable_option(c"extmem".as_ptr()) }, 0);
}

#[test]
fn memory_of_a_file() {
    let _lock = options_lock();
    let mut bed = Bed::new();
    let dir = netvale_testkit::TempDir::new();
    let file = dir.path().join("memory");
    std::fs::write(&file, vec![7; 8192]).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(
        bed.parse(&format!(
            "vale0:a@extmem:file={file},if-num=3,buf-size=2048"
        )),
        0
    );
    // SAFETY: a port.
    let info = unsafe { crate::extmem::nmport_extmem_getinfo(bed.d) };
    // SAFETY: the port has such memory.
    let info = unsafe { info.read() };
    assert_eq!((info.nr_memsize, info.nr_if_pool_objtotal), (8192, 3));
    assert_eq!(
        (info.nr_buf_pool_objsize, info.nr_buf_pool_objtotal),
        (2048, 0)
    );
    // SAFETY: the port's option is set.
    let at = unsafe { (*bed.port().extmem).nro_usrptr };
    let at = ptr::with_exposed_provenance::<u8>(usize::try_from(at).unwrap());
    // SAFETY: the file is mapped.
    assert_eq!(unsafe { at.wrapping_add(8191).read() }, 7);
    let again = bed.extmem();
    assert_eq!((again, errno()), (-1, libc::EINVAL), "{}", bed.probe.last());
    assert!(bed.twin().is_null(), "not before it is registered");
    // SAFETY: a port.
    unsafe { nmport_undo_parse(bed.d) };
    assert!(bed.port().extmem.is_null());
    // SAFETY: a port.
    assert!(unsafe { crate::extmem::nmport_extmem_getinfo(bed.d) }.is_null());
    assert_eq!(bed.parse("vale0:a@extmem=/nonexistent/file"), libc::ENOENT);
}

#[test]
fn running_out_of_memory_changes_nothing() {
    let mut bed = Bed::new();
    assert_eq!(bed.parse("vale0:a"), 0);
    let before = bed.bytes();
    bed.probe.budget.store(0, Ordering::Relaxed);
    assert_eq!(bed.extmem(), -1);
    assert_eq!(errno(), libc::ENOMEM);
    assert_eq!(bed.offset(2), -1);
    assert_eq!(errno(), libc::ENOMEM);
    assert!(bed.twin().is_null());
    assert_eq!(errno(), libc::ENOMEM);
    assert_eq!(bed.bytes(), before);
}

#[test]
fn steps_out_of_order_are_refused() {
    let mut bed = Bed::new();
    assert_eq!(bed.parse("vale0:a"), 0);
    let before = bed.bytes();
    // SAFETY: a port.
    assert_eq!(unsafe { nmport_mmap(bed.d) }, -1);
    assert_eq!(errno(), libc::EINVAL);
    assert_eq!(bed.bytes(), before);
    // SAFETY: a port that is not mapped.
    unsafe { nmport_undo_open_desc(bed.d) };
    assert_eq!(bed.bytes(), before);
    // SAFETY: a port and a byte.
    let sent = unsafe { crate::inject::nmport_inject(bed.d, c"x".as_ptr().cast(), 1) };
    assert_eq!(sent, 0);
}

#[test]
fn a_clone_has_the_request_and_nothing_else() {
    let mut bed = Bed::new();
    assert_eq!(bed.parse("vale0:a-1@5"), 0);
    assert_eq!(bed.offset(64), 0);
    let copy = bed.twin();
    {
        // SAFETY: a new port.
        let copy = unsafe { &*copy };
        assert_eq!(copy.hdr.name(), b"vale0:a");
        assert_eq!(copy.reg, bed.port().reg);
        assert_eq!(copy.hdr.nr_body, (&raw const copy.reg).addr() as u64);
        assert_eq!(
            (copy.hdr.nr_options, copy.fd, copy.ctx),
            (0, -1, bed.port().ctx)
        );
        assert!(copy.clist.is_null());
    }
    // SAFETY: nobody else has it.
    unsafe { nmport_close(copy) };
}

/// Header and request filled with noise, as a C program's stack is.
fn noise() -> (NmReqHeader, NmReqRegister) {
    let mut bed = Bed::new();
    assert_eq!(bed.parse("vale0:noise"), 0);
    let (mut hdr, mut reg) = (bed.port().hdr, bed.port().reg);
    hdr.nr_name = [b'?'; 64];
    hdr.nr_options = 0xdead;
    reg.nr_offset = 1;
    reg.nr_tx_slots = 2;
    reg.nr_extra_bufs = 3;
    reg.nr_flags = u64::MAX;
    reg.nr_mode = 77;
    reg.nr_mem_id = 0;
    (hdr, reg)
}

proptest! {
    /// On failure neither the text pointer nor the structure changes; on
    /// success only what the mode says does.
    #[test]
    fn failing_decoders_touch_nothing(
        spec in prop_oneof![
            "(netmap|vale|eth)[x0]{0,2}:[a-c{}&:]{0,4}[-^*@/a-zR0-9]{0,6}",
            "\\PC{0,30}",
        ]
    ) {
        let (mut hdr, mut reg) = noise();
        let text = CString::new(spec.replace('\0', "")).unwrap();
        let mut probe = Probe::new();
        let ctx = probe.ctx();
        let mut scan = text.as_ptr();
        let before = hdr.nr_name;
        // SAFETY: everything outlives the call.
        let rc = unsafe { header::nmreq_header_decode(&raw mut scan, &raw mut hdr, ctx) };
        prop_assert_eq!(hdr.nr_options, 0xdead);
        if rc < 0 {
            prop_assert_eq!(errno(), libc::EINVAL);
            prop_assert!(!probe.last().is_empty());
            prop_assert_eq!(hdr.nr_name, before);
            prop_assert_eq!(scan, text.as_ptr());
            return Ok(());
        }
        let (mode_at, untouched) = (scan, reg);
        // SAFETY: everything outlives the call.
        let rc = unsafe { register::nmreq_register_decode(&raw mut scan, &raw mut reg, ctx) };
        if rc < 0 {
            prop_assert_eq!(errno(), libc::EINVAL);
            prop_assert_eq!(reg, untouched);
            prop_assert_eq!(scan, mode_at);
        } else {
            let restored = NmReqRegister {
                nr_mode: untouched.nr_mode,
                nr_ringid: untouched.nr_ringid,
                nr_flags: untouched.nr_flags,
                nr_mem_id: untouched.nr_mem_id,
                ..reg
            };
            prop_assert_eq!(restored, untouched);
        }
    }

    /// Whatever is parsed, closing gives all memory back (the bed asserts it).
    #[test]
    fn any_text_is_safe(spec in "(netmap|vale):[a-c]{0,2}(@(conf|offset|[a-c])[:=](rings=|slots=|[0-9,])*){0,3}") {
        let mut bed = Bed::new();
        bed.parse(&spec);
    }
}
