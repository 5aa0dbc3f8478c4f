//! A memory of several pieces, a host that writes down what it is asked, and
//! short ways to make requests.

use std::cell::RefCell;
use std::fmt;

use netvale_control::{
    Attach, Bound, Errno, Host, Kloop, ListEntry, Memory, NewIf, Offsets, Pool, Port, Register,
    UserMem, ioctl,
};
use netvale_wire::abi::{NETMAP_API, NIOCCTRL, NmReqHeader, NmReqOption};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Where requests, bodies and options lie; all in one piece of memory.
pub(crate) const HDR: u64 = 0x1_0000;
pub(crate) const BODY: u64 = 0x1_1000;
pub(crate) const OPTS: u64 = 0x1_2000;
/// Distance between options.
pub(crate) const OPT_STEP: u64 = 0x400;
/// Arrays of control blocks.
pub(crate) const ATOK: u64 = 0x2_4000;
pub(crate) const KTOA: u64 = 0x2_6000;
/// A lot of memory, for long lists.
pub(crate) const BIG: u64 = 0x10_0000;
/// Its length; what follows it can be read only.
pub(crate) const BIG_LEN: usize = 0x4_0000;
/// Can be read only.
pub(crate) const RO: u64 = 0x4_0000;
/// Can be written only.
pub(crate) const WO: u64 = 0x5_0000;
/// Nothing is here.
pub(crate) const NOWHERE: u64 = 0x9_0000;

#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) base: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// The memory of a program.
#[derive(Clone)]
pub(crate) struct Mem(pub(crate) RefCell<Vec<Piece>>);

impl Mem {
    pub(crate) fn new() -> Self {
        let piece = |base, len, read, write| Piece {
            base,
            bytes: vec![0; len],
            read,
            write,
        };
        Self(RefCell::new(vec![
            piece(HDR, 0x2_0000, true, true),
            piece(RO, 0x2000, true, false),
            piece(WO, 0x2000, false, true),
            piece(BIG, BIG_LEN, true, true),
            piece(BIG + BIG_LEN as u64, 0x1000, true, false),
        ]))
    }

    fn with<R>(
        &self,
        addr: u64,
        len: usize,
        f: impl FnOnce(&mut Piece, usize) -> Option<R>,
    ) -> Option<R> {
        let mut pieces = self.0.borrow_mut();
        let piece = pieces.iter_mut().find(|p| {
            addr.checked_sub(p.base)
                .and_then(|at| at.checked_add(len as u64))
                .is_some_and(|end| end <= p.bytes.len() as u64)
        })?;
        let at = usize::try_from(addr - piece.base).unwrap();
        f(piece, at)
    }

    /// Writes whatever the permissions are.
    pub(crate) fn put<T: IntoBytes + Immutable + ?Sized>(&self, addr: u64, value: &T) {
        let bytes = value.as_bytes();
        self.with(addr, bytes.len(), |p, at| {
            p.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            Some(())
        })
        .expect("mapped");
    }

    /// Reads whatever the permissions are.
    pub(crate) fn get<T: FromBytes>(&self, addr: u64) -> T {
        self.with(addr, size_of::<T>(), |p, at| {
            T::read_from_bytes(&p.bytes[at..at + size_of::<T>()]).ok()
        })
        .expect("mapped")
    }
}

impl UserMem for Mem {
    fn read(&self, addr: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        self.with(addr, bytes.len(), |p, at| {
            bytes.copy_from_slice(&p.bytes[at..at + bytes.len()]);
            p.read.then_some(())
        })
        .ok_or(Errno::EFAULT)
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.with(addr, bytes.len(), |p, at| {
            p.write
                .then(|| p.bytes[at..at + bytes.len()].copy_from_slice(bytes))
        })
        .ok_or(Errno::EFAULT)
    }
}

/// What the host was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Register(Box<Register>),
    Unregister,
    PortInfo(String, u16),
    Memory(u16),
    Attach(Attach),
    Detach(String),
    List,
    SetHdr(String, u32),
    Hdr(String),
    NewIf(String, NewIf),
    DelIf(String),
    Polling(String, Option<(u32, u32, u32)>),
    Csb(u64, u64),
    Kloop(Kloop),
    KloopStop,
    Config(String),
}

/// Answers everything with recognisable numbers, or with `fail`.
#[derive(Debug)]
pub(crate) struct FakeHost {
    pub(crate) calls: Vec<Call>,
    pub(crate) bound: Option<Bound>,
    /// What a registration gives.
    pub(crate) next: Bound,
    /// The port has offsets, and this is the largest in force.
    pub(crate) max_offset: Option<u64>,
    /// The host can take external memory.
    pub(crate) can_extmem: bool,
    /// Error of every call that can fail.
    pub(crate) fail: Option<Errno>,
    /// The same for moving ring pointers only.
    pub(crate) fail_csb: Option<Errno>,
    pub(crate) list: Vec<ListEntry>,
    pub(crate) running: bool,
}

pub(crate) const PORT: Port = Port {
    memsize: 0x1_2345_6000,
    mem_id: 7,
    rings: [2, 3, 1, 1],
    slots: [512, 256],
};

pub(crate) const MADE: Memory = Memory {
    size: 0x10_0000,
    id: 9,
    ifs: Pool {
        offset: 0,
        count: 2,
        size: 1024,
    },
    rings: Pool {
        offset: 0x1000,
        count: 4,
        size: 20480,
    },
    bufs: Pool {
        offset: 0x2_0000,
        count: 400,
        size: 2048,
    },
};

impl FakeHost {
    fn note(&mut self, call: Call) -> Result<(), Errno> {
        self.calls.push(call);
        self.fail.map_or(Ok(()), Err)
    }
}

impl Host for FakeHost {
    fn bound(&self) -> Option<Bound> {
        self.bound
    }
    fn register(&mut self, want: &Register) -> Result<Bound, Errno> {
        assert!(self.bound.is_none(), "for unbound files only");
        assert!(matches!(want.mode, 1..=4 | 7 | 8), "mode {}", want.mode);
        self.note(Call::Register(Box::new(want.clone())))?;
        let mut bound = self.next;
        if let (Some(wish), Some(max)) = (want.offsets, self.max_offset) {
            assert!((1..=64).contains(&wish.bits) && wish.initial <= wish.max);
            bound.offsets = Some(Offsets {
                max: max.max(wish.max),
                ..wish
            });
        }
        bound.extmem = want.extmem.filter(|_| self.can_extmem).map(|_| MADE);
        self.bound = Some(bound);
        Ok(bound)
    }
    fn unregister(&mut self) {
        assert!(self.bound.take().is_some(), "was bound");
        self.calls.push(Call::Unregister);
    }
    fn port_info(&mut self, name: &str, mem_id: u16) -> Result<Port, Errno> {
        assert!(!name.is_empty());
        self.note(Call::PortInfo(name.into(), mem_id))?;
        Ok(PORT)
    }
    fn memory(&mut self, mem_id: u16) -> Result<Memory, Errno> {
        self.note(Call::Memory(mem_id))?;
        Ok(MADE)
    }
    fn attach(&mut self, want: &Attach) -> Result<u32, Errno> {
        self.note(Call::Attach(want.clone())).map(|()| 5)
    }
    fn detach(&mut self, name: &str) -> Result<u32, Errno> {
        self.note(Call::Detach(name.into())).map(|()| 6)
    }
    fn list(&mut self) -> Result<Vec<ListEntry>, Errno> {
        self.note(Call::List)?;
        Ok(self.list.clone())
    }
    fn set_port_hdr(&mut self, name: &str, len: u32) -> Result<(), Errno> {
        assert!(matches!(len, 0 | 10 | 12));
        self.note(Call::SetHdr(name.into(), len))
    }
    fn port_hdr(&mut self, name: &str) -> Result<u32, Errno> {
        self.note(Call::Hdr(name.into())).map(|()| 12)
    }
    fn new_if(&mut self, name: &str, want: &NewIf) -> Result<NewIf, Errno> {
        assert!((1..16).contains(&name.len()) && !name.starts_with("vale"));
        self.note(Call::NewIf(name.into(), *want))?;
        Ok(NewIf {
            rings: [1, 2],
            slots: [1024, 2048],
            mem_id: 11,
        })
    }
    fn del_if(&mut self, name: &str) -> Result<(), Errno> {
        self.note(Call::DelIf(name.into()))
    }
    fn polling(&mut self, name: &str, want: Option<(u32, u32, u32)>) -> Result<(), Errno> {
        self.note(Call::Polling(name.into(), want))
    }
    fn csb_enable(&mut self, atok: u64, ktoa: u64) -> Result<(), Errno> {
        assert!(atok != 0 && ktoa != 0 && (atok | ktoa).is_multiple_of(64));
        self.note(Call::Csb(atok, ktoa))?;
        self.fail_csb.map_or(Ok(()), Err)
    }
    fn kloop_running(&self) -> bool {
        self.running
    }
    fn kloop_start(&mut self, want: &Kloop) -> Result<(), Errno> {
        assert!(self.bound.is_some());
        self.note(Call::Kloop(want.clone()))
    }
    fn kloop_stop(&mut self) {
        self.calls.push(Call::KloopStop);
    }
    fn config(&mut self, name: &str, data: &mut [u8; 256]) -> Result<(), Errno> {
        data[0] ^= 0xff;
        self.note(Call::Config(name.into()))
    }
}

/// A program and what it talks to.
pub(crate) struct World {
    pub(crate) mem: Mem,
    pub(crate) host: FakeHost,
    /// Address of the first option.
    pub(crate) first: u64,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let next = Bound {
            port: PORT,
            nif_offset: 0x2_0000_0040,
            extra_bufs: 3,
            bound: [1, 2],
            ..Bound::default()
        };
        Self {
            mem: Mem::new(),
            host: FakeHost {
                calls: Vec::new(),
                bound: None,
                next,
                max_offset: Some(0),
                can_extmem: true,
                fail: None,
                fail_csb: None,
                list: Vec::new(),
                running: false,
            },
            first: 0,
        }
    }

    /// The same, bound already.
    pub(crate) fn bound() -> Self {
        let mut world = Self::new();
        world.host.bound = Some(world.host.next);
        world
    }

    /// The same, where the host fails with `e`.
    pub(crate) fn failing(e: Errno) -> Self {
        let mut world = Self::new();
        world.host.fail = Some(e);
        world
    }

    pub(crate) fn ioctl(&mut self, cmd: u32, arg: u64) -> Result<(), Errno> {
        ioctl(&mut self.host, &self.mem, cmd, arg)
    }

    /// Puts options in memory and links them, the statuses all ones.
    pub(crate) fn chain(&mut self, options: &[&[u8]]) {
        let addr = |i: usize| OPTS + i as u64 * OPT_STEP;
        self.first = if options.is_empty() { 0 } else { addr(0) };
        for (i, bytes) in options.iter().enumerate() {
            self.mem.put(addr(i), *bytes);
            let mut head: NmReqOption = self.mem.get(addr(i));
            head.nro_next = if i + 1 < options.len() {
                addr(i + 1)
            } else {
                0
            };
            head.nro_status = u32::MAX;
            self.mem.put(addr(i), &head);
        }
    }

    /// An option after the call, with its head.
    pub(crate) fn option<T: FromBytes>(&self, i: usize) -> T {
        self.mem.get(OPTS + i as u64 * OPT_STEP)
    }

    /// Statuses of the first `n` options.
    pub(crate) fn statuses(&self, n: usize) -> Vec<u32> {
        (0..n)
            .map(|i| self.option::<NmReqOption>(i).nro_status)
            .collect()
    }

    /// Sends a request with a body and the options chained last; the body as it
    /// lies there afterwards goes to `body`.
    pub(crate) fn ctrl<T: FromBytes + IntoBytes + Immutable>(
        &mut self,
        reqtype: u16,
        name: &str,
        body: &mut T,
    ) -> Result<(), Errno> {
        self.mem.put(BODY, body);
        let mut header = header(reqtype, name);
        header.nr_body = BODY;
        let done = self.send(&header);
        *body = self.mem.get(BODY);
        done
    }

    /// Sends a request without a body.
    pub(crate) fn bare(&mut self, reqtype: u16, name: &str) -> Result<(), Errno> {
        self.send(&header(reqtype, name))
    }

    fn send(&mut self, given: &NmReqHeader) -> Result<(), Errno> {
        let mut header = *given;
        header.nr_options = self.first;
        self.mem.put(HDR, &header);
        let done = self.ioctl(NIOCCTRL, HDR);
        let back: NmReqHeader = self.mem.get(HDR);
        header.nr_name = back.nr_name;
        assert_eq!(back.as_bytes(), header.as_bytes(), "all but the name");
        done
    }

    /// The name in the header that came back.
    pub(crate) fn name(&self) -> String {
        let header: NmReqHeader = self.mem.get(HDR);
        String::from_utf8(header.name().to_vec()).unwrap()
    }

    /// The only registration that was asked for.
    pub(crate) fn registered(&self) -> &Register {
        let mut all = self.host.calls.iter().filter_map(|c| match c {
            Call::Register(r) => Some(r),
            _ => None,
        });
        let one = all.next().expect("asked to register");
        assert!(all.next().is_none(), "once");
        one
    }
}

/// A header without body and options.
pub(crate) fn header(reqtype: u16, name: &str) -> NmReqHeader {
    let mut header = NmReqHeader::new_zeroed();
    header.nr_version = NETMAP_API;
    header.nr_reqtype = reqtype;
    assert!(header.set_name(name.as_bytes()));
    header
}

/// The head of an option.
pub(crate) fn head(kind: u32, size: u64) -> NmReqOption {
    NmReqOption {
        nro_next: 0,
        nro_reqtype: kind,
        nro_status: 0,
        nro_size: size,
    }
}

/// An errno as a status.
pub(crate) fn status(e: Errno) -> u32 {
    e.0.unsigned_abs()
}
