//! Requests of one descriptor, carried out by the server.

use std::ffi::c_int;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use netvale::ErrorKind;
use netvale::registration::{Attachment, Site};
use netvale_control::{
    Attach, Bound, Errno, Host, Kloop, ListEntry, Memory, NewIf, Offsets, Port, Register,
};
use netvale_wire::abi::regflags;
use netvale_wire::proto::{NrOffsets, NrRequest, PortInfo, Registered, Reply, Request, Wanted};

use crate::binding::{Binding, Control, state};
use crate::{adopt, extmem, kloop, rules};

/// A descriptor of the program.
pub(crate) struct Descriptor {
    binding: &'static Binding,
    fd: c_int,
}

/// Carries out a request.
pub(crate) fn ioctl(b: &'static Binding, fd: c_int, cmd: u32, arg: usize) -> Result<(), Errno> {
    adopt::resolve(b, fd);
    let mut host = Descriptor { binding: b, fd };
    netvale_control::ioctl(&mut host, &crate::user::Own, cmd, arg as u64)
}

fn errno(e: &netvale::Error) -> Errno {
    rules::complain(e);
    Errno(e.errno())
}

/// Whether this process has the descriptors free that a registration takes:
/// its own duplicate, a link, what the answer brings.
fn room(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut reserve = [const { None }; 6];
    for free in &mut reserve {
        let dup = rustix::io::fcntl_dupfd_cloexec(socket, 3);
        *free = Some(dup.map_err(|e| Errno(e.raw_os_error()))?);
    }
    Ok(())
}

/// How long what is busy may be so because of somebody who has just gone. In
/// netmap it is free when `close` returns, or the process has ended; here the
/// server has to hear of it.
const FAREWELL: Duration = Duration::from_millis(30);

/// Asks again for a while if it is busy.
fn patiently<T>(mut ask: impl FnMut() -> netvale::Result<T>) -> netvale::Result<T> {
    let mut end = None;
    loop {
        match ask() {
            Err(e)
                if e.errno() == libc::EBUSY
                    && Instant::now() < *end.get_or_insert_with(|| Instant::now() + FAREWELL) => {}
            done => return done,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn slots(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// The request as the server reads it.
fn nr_request(want: &Register) -> NrRequest {
    NrRequest {
        name: want.name.clone(),
        mode: want.mode,
        ringid: want.ringid,
        flags: want.flags,
        mem_id: want.mem_id,
        want: Wanted {
            tx_rings: want.rings[0],
            rx_rings: want.rings[1],
            tx_slots: slots(want.slots[0]),
            rx_slots: slots(want.slots[1]),
            extra_bufs: want.extra_bufs,
            gives_buffers: false,
            accepts_vnet_hdr: want.flags & regflags::ACCEPT_VNET_HDR != 0,
            vnet_hdr: None,
        },
        host_rings: [want.rings[2], want.rings[3]],
        offsets: want.offsets.map(|o| NrOffsets {
            max: o.max,
            initial: o.initial,
            bits: o.bits,
            tx_align: o.tx_align,
            min_gap: o.min_gap,
        }),
    }
}

fn port(r: &Registered) -> Port {
    let slots =
        |rings: &[netvale_wire::proto::RingPlace]| rings.first().map_or(0, |p| u32::from(p.slots));
    Port {
        memsize: r.region.size,
        mem_id: r.region.id,
        rings: [r.tx_rings, r.rx_rings, r.host_rings[0], r.host_rings[1]],
        slots: [slots(&r.tx), slots(&r.rx)],
    }
}

fn bound(a: &Attachment, control: &Control) -> Bound {
    let r = &a.registered;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Bound {
        port: port(r),
        nif_offset: r.nif_ofs,
        extra_bufs: r.extra_bufs,
        bound: [count(r.tx.len()), count(r.rx.len())],
        extmem: control.extmem,
        offsets: control.offsets,
    }
}

impl Descriptor {
    fn site(&self) -> Result<Site, Errno> {
        self.binding.control.lock().site.clone().ok_or(Errno::ENXIO)
    }

    fn ask(&self, request: &Request) -> Result<Reply, Errno> {
        let site = self.site()?;
        let ask = || {
            let _connecting = crate::life::connecting();
            site.ask(request)
        };
        let (reply, _fds) = patiently(ask).map_err(|e| errno(&e))?;
        Ok(reply)
    }

    fn done(&self, request: &Request) -> Result<(), Errno> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            _ => Err(Errno::EIO),
        }
    }

    fn index(&self, request: &Request) -> Result<u32, Errno> {
        match self.ask(request)? {
            Reply::Attached { port_index, .. } => Ok(port_index),
            _ => Err(Errno::EIO),
        }
    }

    /// Slots of rings that the registration does not bind.
    fn all_slots(&self, want: &Register, bound: &mut Port) {
        if bound.slots.iter().all(|&n| n > 0) {
            return;
        }
        let plain = NrRequest {
            name: want.name.clone(),
            mode: netvale_wire::abi::mode::ALL_NIC,
            ..NrRequest::default()
        };
        if want.flags & (regflags::MONITOR_RX | regflags::MONITOR_TX | regflags::ZCOPY_MON) == 0
            && let Ok(Reply::Info(r)) = self.ask(&Request::Describe { nr: plain })
        {
            bound.slots = port(&r).slots;
        }
    }
}

impl Host for Descriptor {
    fn bound(&self) -> Option<Bound> {
        let control = self.binding.control.lock();
        let a = control.attached.as_ref()?;
        Some(bound(a, &control))
    }

    fn register(&mut self, want: &Register) -> Result<Bound, Errno> {
        let mut control = self.binding.control.lock();
        if control.attached.is_some() {
            return Err(Errno::EBUSY);
        }
        let site = control.site.clone().ok_or(Errno::ENXIO)?;
        // SAFETY: the program is in a call on this descriptor.
        let socket = unsafe { BorrowedFd::borrow_raw(self.fd) };
        // Later would be too late: the server would think that we have it.
        room(socket)?;
        let mut nr = nr_request(want);
        let prepared = match &want.extmem {
            Some(ext) => Some(extmem::prepare(socket, ext)?),
            None => None,
        };
        if let Some(p) = &prepared {
            nr.mem_id = p.info.id;
        }
        let bind = |control: &mut Control| {
            let greeting = match control.greeting.take() {
                Some(greeting) => greeting,
                None => {
                    let _connecting = crate::life::connecting();
                    site.greet()?
                }
            };
            let done = greeting.bind(socket, &Request::Bind { nr: nr.clone() });
            control.greeting = Some(greeting);
            done
        };
        let attached = match patiently(|| bind(&mut control)) {
            Ok(attached) => attached,
            Err(e) => {
                drop(control);
                if matches!(e.kind(), ErrorKind::Peer | ErrorKind::Io) {
                    self.unregister(); // the server may have done it all the same
                }
                return Err(errno(&e));
            }
        };
        control.offsets = attached.registered.offsets.map(|o| Offsets {
            max: o.max,
            initial: o.initial,
            bits: o.bits,
            tx_align: o.tx_align,
            min_gap: o.min_gap,
        });
        control.extmem = prepared.as_ref().map(|p| p.memory);
        control.exclusive = want.flags & regflags::EXCLUSIVE != 0;
        let mut got = bound(&attached, &control);
        let ready = match &prepared {
            Some(p) => p.install(),
            None => Ok(()),
        }
        .and_then(|()| self.binding.attach(&mut control, attached, want.flags));
        drop(control);
        if let Err(e) = ready {
            self.unregister();
            return Err(e);
        }
        self.all_slots(want, &mut got.port);
        Ok(got)
    }

    fn unregister(&mut self) {
        let mut control = self.binding.control.lock();
        self.binding.detach(&mut control);
        // The server has no word for this: the socket is exchanged for one
        // that is not bound, under the same number.
        let connecting = crate::life::connecting();
        let fresh = control.site.as_ref().map(Site::connect);
        if let Some(Ok((socket, greeting))) = fresh {
            control.greeting = Some(greeting);
            drop(control);
            crate::hooks::fd::exchange(self.fd, self.binding, &socket);
            drop(connecting);
        }
    }

    fn port_info(&mut self, name: &str, mem_id: u16) -> Result<Port, Errno> {
        let nr = NrRequest {
            name: name.into(),
            mode: netvale_wire::abi::mode::ALL_NIC,
            // Only asks: a header is no obstacle.
            flags: regflags::ACCEPT_VNET_HDR,
            mem_id,
            ..NrRequest::default()
        };
        match self.ask(&Request::Describe { nr })? {
            Reply::Info(r) => Ok(port(&r)),
            _ => Err(Errno::EIO),
        }
    }

    fn memory(&mut self, mem_id: u16) -> Result<Memory, Errno> {
        match self.ask(&Request::Memory { id: mem_id })? {
            Reply::Memory(info) => Ok(extmem::memory(&info)),
            _ => Err(Errno::EIO),
        }
    }

    fn attach(&mut self, want: &Attach) -> Result<u32, Errno> {
        self.index(&Request::Attach {
            spec: want.name.clone(),
            nr: true,
            host: want.host,
            mem_id: want.mem_id,
            port: None,
        })
    }

    fn detach(&mut self, name: &str) -> Result<u32, Errno> {
        self.index(&Request::Detach {
            spec: name.into(),
            nr: true,
        })
    }

    fn list(&mut self) -> Result<Vec<ListEntry>, Errno> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let Reply::Ports { ports, more } = self.ask(&Request::List {
                after: after.clone(),
            })?
            else {
                return Err(Errno::EIO);
            };
            let last = ports.last().map(PortInfo::key);
            all.extend(ports.into_iter().filter_map(|p| {
                let seat = p.seat?;
                Some(ListEntry {
                    bridge_idx: seat.switch,
                    port_idx: seat.index.into(),
                    name: if p.name.contains(':') {
                        p.name
                    } else {
                        format!("{}:{}", seat.name, p.name)
                    },
                })
            }));
            if !more || last <= after {
                return Ok(all);
            }
            after = last;
        }
    }

    fn set_port_hdr(&mut self, name: &str, len: u32) -> Result<(), Errno> {
        let len = u8::try_from(len).map_err(|_e| Errno::EINVAL)?;
        self.done(&Request::SetHdr {
            name: name.into(),
            len,
        })
    }

    fn port_hdr(&mut self, name: &str) -> Result<u32, Errno> {
        match self.ask(&Request::GetHdr { name: name.into() })? {
            Reply::Hdr { len } => Ok(len.into()),
            _ => Err(Errno::EIO),
        }
    }

    fn new_if(&mut self, name: &str, want: &NewIf) -> Result<NewIf, Errno> {
        self.done(&Request::NewIf {
            name: name.into(),
            want: Wanted {
                tx_rings: want.rings[0],
                rx_rings: want.rings[1],
                tx_slots: slots(want.slots[0]),
                rx_slots: slots(want.slots[1]),
                ..Wanted::default()
            },
            region: (want.mem_id != 0).then_some(want.mem_id),
            // The server's configuration says whether all of them are.
            link: false,
        })?;
        let got = self.port_info(name, 0)?;
        Ok(NewIf {
            rings: [got.rings[0], got.rings[1]],
            slots: got.slots,
            mem_id: got.mem_id,
        })
    }

    fn del_if(&mut self, name: &str) -> Result<(), Errno> {
        self.done(&Request::DelIf { name: name.into() })
    }

    fn polling(&mut self, name: &str, want: Option<(u32, u32, u32)>) -> Result<(), Errno> {
        let (mode, first_cpu, cpus) = want.unwrap_or_default();
        self.done(&Request::Polling {
            name: name.into(),
            on: want.is_some(),
            mode,
            first_cpu,
            cpus,
        })
    }

    fn csb_enable(&mut self, atok: u64, ktoa: u64) -> Result<(), Errno> {
        let b = self.binding;
        if b.kloop_runs.load(Acquire) {
            return Err(Errno::EBUSY);
        }
        let mut control = b.control.lock();
        if control.attached.is_none() {
            return Ok(());
        }
        if !control.exclusive {
            return Err(Errno::EINVAL);
        }
        // SAFETY: checked to be there by the control ABI; if the program
        // unmaps it, the program faults.
        unsafe { kloop::enable(b, (atok, ktoa)) };
        control.csb = Some((atok, ktoa));
        b.set_state(state::CSB);
        Ok(())
    }

    fn kloop_running(&self) -> bool {
        self.binding.kloop_runs.load(Acquire)
    }

    fn port_memory(&mut self, name: &str, mem_id: u16) -> Result<Memory, Errno> {
        // A port that is made for the question takes its region with it.
        let nr = NrRequest {
            name: name.into(),
            mode: netvale_wire::abi::mode::ALL_NIC,
            flags: regflags::ACCEPT_VNET_HDR,
            mem_id,
            ..NrRequest::default()
        };
        match self.ask(&Request::Describe { nr })? {
            Reply::Info(r) => Ok(extmem::memory(&r.region)),
            _ => Err(Errno::EIO),
        }
    }

    fn kloop_start(&mut self, want: &Kloop) -> Result<(), Errno> {
        let arrays = self.binding.control.lock().csb;
        kloop::run(self.binding, self.fd, arrays.ok_or(Errno::EINVAL)?, want)
    }

    fn kloop_stop(&mut self) {
        let b = self.binding;
        b.kloop_stop.store(true, Release);
        // Until it has ended; the sign stays for the next one.
        while b.kloop_runs.load(Acquire) {
            if let Some(a) = &b.control.lock().attached {
                a.bell.ring();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn config(&mut self, _name: &str, _data: &mut [u8; 256]) -> Result<(), Errno> {
        Err(Errno::EINVAL) // no switch has code of its own
    }
}
