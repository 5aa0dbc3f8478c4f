//! An ioctl over any image of the caller's memory: it ends, nothing panics, the
//! host is asked only what its trait promises, and the request comes back.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use netvale_control::{
    Attach, Bound, Errno, Host, Kloop, ListEntry, Memory, NewIf, Offsets, Port, Register, UserMem,
    ioctl,
};
use netvale_wire::abi::{
    NIOCCONFIG, NIOCCTRL, NIOCGINFO, NIOCREGIF, NmReqHeader, NmReqOption, reqtype,
};

/// Where memory begins: low, so that two bytes make a pointer.
const BASE: u64 = 64;
/// Bytes at the end that can be read only.
const READ_ONLY: usize = 256;

struct Mem(RefCell<Vec<u8>>);

impl Mem {
    fn range(&self, addr: u64, len: usize, end: usize) -> Result<usize, Errno> {
        let at = addr.checked_sub(BASE).ok_or(Errno::EFAULT)?;
        let at = usize::try_from(at).ok().ok_or(Errno::EFAULT)?;
        match at.checked_add(len) {
            Some(past) if past <= end => Ok(at),
            _ => Err(Errno::EFAULT),
        }
    }
}

impl UserMem for Mem {
    fn read(&self, addr: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let memory = self.0.borrow();
        let at = self.range(addr, bytes.len(), memory.len())?;
        bytes.copy_from_slice(&memory[at..at + bytes.len()]);
        Ok(())
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut memory = self.0.borrow_mut();
        let end = memory.len().saturating_sub(READ_ONLY);
        let at = self.range(addr, bytes.len(), end)?;
        memory[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// Succeeds or fails as the bits of `luck` say.
struct Fake {
    bound: Option<Bound>,
    luck: u8,
    asked: u32,
    undone: bool,
}

impl Fake {
    fn answer<T>(&mut self, value: T) -> Result<T, Errno> {
        // A request asks for a handful of things, however long its lists are.
        self.asked += 1;
        assert!(self.asked <= 8, "asked again and again");
        self.luck = self.luck.rotate_right(1);
        if self.luck & 0x80 == 0 {
            Ok(value)
        } else {
            Err(Errno(1 + i32::from(self.luck & 0x7f)))
        }
    }

    fn luck(&self, bit: u32) -> bool {
        self.luck >> bit & 1 == 0
    }
}

impl Host for Fake {
    fn bound(&self) -> Option<Bound> {
        self.bound
    }
    fn register(&mut self, want: &Register) -> Result<Bound, Errno> {
        assert!(self.bound.is_none());
        assert!(matches!(want.mode, 1..=4 | 7 | 8));
        assert!(want.mode == 7 || !want.name.is_empty());
        assert!(want.mode != 7 || want.mem_id != 0 || want.extmem.is_some());
        assert!(want.extmem.is_none() || want.mem_id == 0);
        if let Some(o) = want.offsets {
            assert!((1..=64).contains(&o.bits) && o.initial <= o.max);
            assert!(o.bits == 64 || o.max < 1 << o.bits);
        }
        let offsets = want.offsets.filter(|_| self.luck(0));
        let bound = Bound {
            bound: [want.extra_bufs & 3, 1],
            extmem: want.extmem.filter(|_| self.luck(1)).map(|e| e.memory),
            offsets: offsets.map(|o| Offsets {
                max: o.max | 1,
                ..o
            }),
            ..Bound::default()
        };
        let bound = self.answer(bound)?;
        self.bound = Some(bound);
        Ok(bound)
    }
    fn unregister(&mut self) {
        assert!(self.bound.take().is_some());
        self.undone = true;
    }
    fn port_info(&mut self, name: &str, mem_id: u16) -> Result<Port, Errno> {
        assert!(!name.is_empty());
        self.answer(Port {
            mem_id,
            ..Port::default()
        })
    }
    fn memory(&mut self, id: u16) -> Result<Memory, Errno> {
        self.answer(Memory {
            id,
            ..Memory::default()
        })
    }
    fn attach(&mut self, want: &Attach) -> Result<u32, Errno> {
        assert!(want.name.starts_with("vale"));
        self.answer(1)
    }
    fn detach(&mut self, name: &str) -> Result<u32, Errno> {
        assert!(name.starts_with("vale"));
        self.answer(1)
    }
    fn list(&mut self) -> Result<Vec<ListEntry>, Errno> {
        let entry = |bridge_idx, port_idx, name: &str| ListEntry {
            bridge_idx,
            port_idx,
            name: name.into(),
        };
        self.answer(vec![
            entry(1, 3, "vale1:long_name_of_a_port"),
            entry(0, 0, "vale0:a"),
        ])
    }
    fn set_port_hdr(&mut self, name: &str, len: u32) -> Result<(), Errno> {
        assert!(name.starts_with("vale") && matches!(len, 0 | 10 | 12));
        self.answer(())
    }
    fn port_hdr(&mut self, name: &str) -> Result<u32, Errno> {
        assert!(!name.is_empty());
        self.answer(12)
    }
    fn new_if(&mut self, name: &str, want: &NewIf) -> Result<NewIf, Errno> {
        assert!((1..16).contains(&name.len()) && !name.starts_with("vale"));
        self.answer(*want)
    }
    fn del_if(&mut self, name: &str) -> Result<(), Errno> {
        assert!(!name.is_empty());
        self.answer(())
    }
    fn polling(&mut self, name: &str, want: Option<(u32, u32, u32)>) -> Result<(), Errno> {
        assert!(name.starts_with("vale"));
        if let Some((mode, first, count)) = want {
            assert!(matches!(mode, 1 | 2) && count > 0 && first.checked_add(count).is_some());
        }
        self.answer(())
    }
    fn csb_enable(&mut self, atok: u64, ktoa: u64) -> Result<(), Errno> {
        assert!(self.bound.is_some_and(|b| b.bound != [0, 0]));
        assert!(atok != 0 && ktoa != 0 && (atok | ktoa) % 64 == 0);
        self.answer(())
    }
    fn kloop_running(&self) -> bool {
        !self.luck(2)
    }
    fn kloop_start(&mut self, want: &Kloop) -> Result<(), Errno> {
        let bound = self.bound.expect("bound");
        assert!(want.sleep_us <= 1_000_000);
        let rings = bound.bound[0] + bound.bound[1];
        if let Some(fds) = &want.eventfds {
            assert_eq!(fds.len(), rings as usize);
        }
        if want.direct_tx || want.direct_rx {
            let fds = want.eventfds.as_ref().expect("eventfds");
            assert!(fds.iter().all(|fd| fd.ioeventfd >= 0));
        }
        self.answer(())
    }
    fn kloop_stop(&mut self) {}
    fn config(&mut self, name: &str, data: &mut [u8; 256]) -> Result<(), Errno> {
        assert!((1..16).contains(&name.len()));
        data.reverse();
        self.answer(())
    }
}

fuzz_target!(|data: &[u8]| {
    let [choice, luck, place, image @ ..] = data else {
        return;
    };
    let cmd = [NIOCCTRL, NIOCREGIF, NIOCGINFO, NIOCCONFIG][usize::from(choice & 3)];
    let was_bound = choice & 4 != 0;
    let arg = match choice >> 3 & 3 {
        0..=2 => BASE + u64::from(place & !7),
        _ => u64::from(*place) << 2,
    };
    let memory = Mem(RefCell::new(image.to_vec()));
    let mut host = Fake {
        bound: was_bound.then(|| Bound {
            bound: [1, 1],
            ..Bound::default()
        }),
        luck: *luck,
        asked: 0,
        undone: false,
    };
    let mut before = [0; size_of::<NmReqHeader>()];
    let readable = memory.read(arg, &mut before).is_ok();
    let done = ioctl(&mut host, &memory, cmd, arg);
    if let Err(e) = done {
        assert!((1..=4095).contains(&e.0));
    }

    let mut after = [0; size_of::<NmReqHeader>()];
    if cmd == NIOCCTRL && readable && arg != 0 {
        memory.read(arg, &mut after).expect("still there");
        let kind = u16::from_ne_bytes([before[2], before[3]]);
        let writable = memory.write(arg, &after).is_ok();
        let binds = kind == reqtype::REGISTER && done.is_ok();
        assert_eq!(host.bound.is_some(), was_bound || binds);
        assert!(!host.undone || done.is_err());
        if !writable {
            assert_eq!(done, Err(Errno::EFAULT));
        } else {
            // All but the name; which ends.
            assert_eq!(after[..8], before[..8]);
            assert_eq!(after[71..], [&[0], &before[72..]].concat());
            restored(&memory, image, &before, arg);
        }
    }
});

/// The list of options leads the same way as before, as far as it touches
/// nothing else.
fn restored(memory: &Mem, image: &[u8], header: &[u8], arg: u64) {
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight"));
    let given = Mem(RefCell::new(image.to_vec()));
    let body = word(&header[80..88]);
    let mut used = vec![(arg, 88), (body, 64)];
    let mut nexts = Vec::new();
    let mut at = word(&header[72..80]);
    while at != 0 {
        let mut head = [0; size_of::<NmReqOption>()];
        if given.read(at, &mut head).is_err() || nexts.len() == 200 {
            break;
        }
        // An option's body is at most as long as a request may be.
        if used
            .iter()
            .any(|&(a, n)| at < a.saturating_add(n) && a < at.saturating_add(96))
        {
            return;
        }
        used.push((at, 96));
        let kind = u32::from_ne_bytes(head[8..12].try_into().expect("four"));
        if kind == 2 {
            return; // as long as it says
        }
        nexts.push((at, word(&head[..8])));
        at = word(&head[..8]);
    }
    for (at, next) in nexts {
        let mut head = [0; size_of::<NmReqOption>()];
        memory.read(at, &mut head).expect("still there");
        assert_eq!(word(&head[..8]), next);
    }
}
