//! A cable with a port of ours at each end.

use std::os::fd::AsFd;
use std::time::Duration;

use netvale_backends::af_xdp::{
    BufLayout, CopyMode, Frame, Redirect, RingSizes, Umem, Xsk, XskConfig,
};
use netvale_backends::bpf::{BpfError, XdpMode};
use netvale_ring::layout::{BUF_SIZE, RegionGeom};
use netvale_shm::{HugePages, Mem, Memfd};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, Rng, eventually, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};

/// An EtherType for experiments, which no stack answers.
pub(crate) const TYPE: [u8; 2] = [0x88, 0xb5];
/// What memory is filled with, to see what is touched.
pub(crate) const UNTOUCHED: u8 = 0xa5;

/// Two namespaces, `a` in one and `b` in the other.
pub(crate) struct Cable {
    pub(crate) left: NetNs,
    pub(crate) right: NetNs,
}

impl Cable {
    /// `None` where that is not possible, after it has been said.
    pub(crate) fn new(test: &str, queues: u32, mtu: u32) -> Option<Self> {
        let left = NetNs::new(test)?;
        let socket = rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None);
        if socket.is_err_and(|e| e == rustix::io::Errno::AFNOSUPPORT) {
            skip(test, "needs a kernel with CONFIG_XDP_SOCKETS");
            return None;
        }
        let right = NetNs::make();
        let settings = format!("mtu {mtu} numrxqueues {queues} numtxqueues {queues}");
        left.veth("a", &right, "b", &settings);
        Some(Self { left, right })
    }
}

/// A region in netmap's layout, all of it filled.
pub(crate) fn region(slots: u32) -> (Memfd, RegionGeom) {
    let geom = RegionGeom::private(4, slots, 0);
    let file = Memfd::create("test-region", geom.file_len(), HugePages::Never).unwrap();
    let mem = file.map().unwrap();
    assert!(mem.write(0, &vec![UNTOUCHED; mem.len()]));
    (file, geom)
}

/// The buffers of a region, for sockets.
pub(crate) fn umem(file: &Memfd, geom: &RegionGeom) -> Umem {
    let layout = BufLayout {
        first: geom.buf_ofs() as u64,
        stride: geom.buf_size,
        count: geom.bufs,
        usable: BUF_SIZE,
        huge: file.is_huge(),
    };
    Umem::new(file.map().unwrap(), layout).unwrap()
}

/// Some of them.
pub(crate) fn part(file: &Memfd, geom: &RegionGeom, bufs: std::ops::Range<u32>) -> Umem {
    let layout = umem(file, geom).layout();
    let part = Umem::part(file.map().unwrap(), layout, bufs).unwrap();
    assert!(part.pages().len() < part.mem().len());
    part
}

/// Small rings, which are passed many times.
pub(crate) const SIZES: RingSizes = RingSizes {
    rx: 16,
    tx: 8,
    fill: 64,
    completion: 8,
};

pub(crate) fn config() -> XskConfig {
    XskConfig {
        sizes: SIZES,
        copy: CopyMode::Copy,
        patience: PATIENCE,
        ..XskConfig::default()
    }
}

/// A socket and the buffers that are its to use.
pub(crate) struct Port {
    pub(crate) xsk: Xsk,
    pub(crate) umem: Umem,
    free: Vec<u32>,
}

impl Port {
    /// Opens one on a queue of an interface.
    pub(crate) fn open(
        ns: &NetNs,
        name: &str,
        queue: u32,
        umem: &Umem,
        bufs: std::ops::Range<u32>,
        config: &XskConfig,
    ) -> Self {
        let index = ns.index(name);
        let xsk = ns.enter(|| Xsk::open(umem, index, queue, config)).unwrap();
        Self::of(xsk, umem, bufs)
    }

    pub(crate) fn of(xsk: Xsk, umem: &Umem, bufs: std::ops::Range<u32>) -> Self {
        Self {
            xsk,
            umem: umem.clone(),
            free: bufs.rev().collect(),
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Lends buffers to the kernel to receive into.
    pub(crate) fn fill(&mut self, count: usize) {
        let fill = self.xsk.fill.as_mut().unwrap();
        fill.refresh().unwrap();
        for _ in 0..count {
            let buf = self.free.pop().unwrap();
            assert!(fill.put(self.umem.fill_addr(buf).unwrap()));
        }
        fill.publish();
        if fill.needs_wakeup() {
            self.xsk.socket.kick_rx().unwrap();
        }
    }

    /// Sends one frame, in as many pieces as it takes, and waits until its
    /// buffers are back.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        let usable = self.umem.layout().usable as usize;
        let stride = self.umem.layout().stride as usize;
        let first = usize::try_from(self.umem.layout().first).unwrap();
        let tx = self.xsk.tx.as_mut().unwrap();
        tx.refresh().unwrap();
        let pieces = frame.chunks(usable).count();
        for (i, piece) in frame.chunks(usable).enumerate() {
            let buf = self.free.pop().unwrap();
            let at = first + buf as usize * stride;
            assert!(self.umem.mem().write(at, piece));
            let desc = self.umem.tx_desc(Frame {
                buf,
                offset: 0,
                len: u32::try_from(piece.len()).unwrap(),
                more: i + 1 < pieces,
            });
            assert!(tx.put(desc.unwrap()));
        }
        tx.publish();
        let free = self.free.len() + pieces;
        let sent = netvale_testkit::within(PATIENCE, || {
            if self.xsk.tx.as_ref().unwrap().needs_wakeup() {
                self.xsk.socket.kick_tx().unwrap();
            }
            self.collect();
            self.free.len() == free
        });
        assert!(sent, "{:?}", self.xsk.socket.statistics());
    }

    /// Takes back the buffers of what has been sent.
    pub(crate) fn collect(&mut self) {
        let done = self.xsk.completion.as_mut().unwrap();
        done.refresh().unwrap();
        while let Some(addr) = done.take() {
            self.free.push(self.umem.completed_buf(addr).unwrap());
        }
        done.release();
    }

    /// The pieces of the next frame where they lie; `None` if none comes in
    /// time.
    pub(crate) fn receive_in_place(&mut self, patience: Duration) -> Option<Vec<Frame>> {
        let timeout = Timespec::try_from(patience).unwrap();
        let rx = self.xsk.rx.as_mut().unwrap();
        if rx.refresh().unwrap() == 0 {
            let mut fds = [PollFd::from_borrowed_fd(
                self.xsk.socket.as_fd(),
                PollFlags::IN,
            )];
            poll(&mut fds, Some(&timeout)).unwrap();
            rx.refresh().unwrap();
        }
        let mut pieces = Vec::new();
        loop {
            let Some(desc) = rx.take() else {
                assert!(pieces.is_empty(), "a frame without its end");
                return None;
            };
            let frame = self.umem.locate(desc).unwrap();
            assert!(!pieces.contains(&frame));
            pieces.push(frame);
            if !desc.more {
                break;
            }
        }
        rx.release();
        Some(pieces)
    }

    /// The next frame's bytes.
    pub(crate) fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let pieces = self.receive_in_place(patience)?;
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.extend(bytes_of(&self.umem, piece));
            self.free.push(piece.buf);
        }
        Some(bytes)
    }
}

/// The bytes of a piece.
pub(crate) fn bytes_of(umem: &Umem, piece: Frame) -> Vec<u8> {
    let layout = umem.layout();
    let at =
        layout.first + u64::from(piece.buf) * u64::from(layout.stride) + u64::from(piece.offset);
    let mut bytes = vec![0; piece.len as usize];
    assert!(umem.mem().read(usize::try_from(at).unwrap(), &mut bytes));
    bytes
}

/// All of a piece of memory.
pub(crate) fn all_bytes(mem: &Mem) -> Vec<u8> {
    let mut bytes = vec![0; mem.len()];
    assert!(mem.read(0, &mut bytes));
    bytes
}

/// A frame to everybody with random contents.
pub(crate) fn frame(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, 1]);
    bytes.extend(TYPE);
    bytes.extend((bytes.len()..len).map(|_| rng.word().to_le_bytes()[0]));
    bytes
}

/// The program of an interface. What was attached before may be held a moment
/// longer by a process that another test is just starting.
pub(crate) fn redirect(ns: &NetNs, name: &str, queues: u32, mode: XdpMode) -> Redirect {
    let index = ns.index(name);
    let mut made = None;
    eventually("the place is free", || {
        match ns.enter(|| Redirect::attach(index, queues, mode)) {
            Err(BpfError::Busy { .. } | BpfError::Loop { .. }) => false,
            other => {
                made = Some(other);
                true
            }
        }
    });
    made.unwrap().unwrap()
}
