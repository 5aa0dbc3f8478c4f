//! AF_XDP: the bare loops, our loops, and the generator.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netvale::{Namespace, Port};
use netvale_backends::af_xdp::{
    BufLayout, CopyMode, Frame, Redirect, RingSizes, Umem, Xsk, XskConfig,
};
use netvale_backends::bpf::{Asm, Helper, Program, ProgramKind, Reg, XdpMode};
use netvale_backends::netlink::Netlink;
use netvale_shm::{HugePages, Memfd, Pool};

use super::space::Space;
use crate::bench::sample::{BROADCAST, broken, frame, sender_mac};
use crate::failure::Result;

/// Entries of each ring, and frames of each socket in each direction.
const ENTRIES: u32 = 2048;
/// Bytes of a buffer.
const FRAME: u32 = 2112;
/// Where the first buffer is.
const FIRST: usize = 4096;
/// Frames that are sent at once.
pub(super) const BATCH: u32 = 256;
/// Bytes of the frames of all these cases.
pub(super) const BYTES: u16 = 60;
/// Upper bits of a received descriptor's address are an offset.
const ADDRESS: u64 = (1 << 48) - 1;
/// Frames of one call of the generator: its end costs some milliseconds.
const BURST: u32 = 1 << 18;
/// Threads that make such calls.
const GENERATORS: usize = 2;
/// The same where only a moment is measured.
const SHORT_BURST: u32 = 1 << 14;

/// The frames of these cases.
pub(super) fn the_frame() -> Vec<u8> {
    frame(BROADCAST, sender_mac(0), BYTES)
}

/// Frames from nowhere into the cable that ends here, for this time; the time
/// it took.
pub(super) fn generate(
    space: &Space,
    interface: &str,
    cpu: usize,
    time: Duration,
) -> Result<Duration> {
    let index = i32::try_from(space.index(interface)?).unwrap_or(0);
    space.enter(|| {
        let mut asm = Asm::new();
        asm.set(Reg::R1, index);
        asm.set(Reg::R2, 0);
        asm.call(Helper::Redirect);
        asm.exit();
        let kind = ProgramKind::Xdp { frags: false };
        let program = Program::load(kind, "nv_generator", &asm.finish())
            .map_err(|e| broken(&e.to_string()))?;
        let burst = if time < Duration::from_millis(100) {
            SHORT_BURST
        } else {
            BURST
        };
        netvale::pin_to_cpu(cpu)?;
        let start = Instant::now();
        let one = || -> Result<()> {
            while start.elapsed() < time {
                let done = program.generate(&the_frame(), burst);
                done.map_err(|e| broken(&e.to_string()))?;
            }
            Ok(())
        };
        // While the kernel waits at the end of one's call, another's goes on.
        std::thread::scope(|scope| {
            let all = [(); GENERATORS].map(|()| scope.spawn(one));
            all.into_iter().try_for_each(|thread| {
                let end = thread.join();
                end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        Ok(start.elapsed())
    })
}

/// A socket with memory, and the program that feeds it.
struct Bare {
    umem: Umem,
    pool: Pool,
    xsk: Xsk,
    _redirect: Option<Redirect>,
}

impl Bare {
    fn open(interface: &str, receive: bool) -> Result<Self> {
        let memory = umem().map_err(|e| broken(&e.to_string()))?;
        let index = index(interface)?;
        let xsk = Xsk::open(&memory.0, index, 0, &config());
        Self::connect(
            memory,
            xsk.map_err(|e| broken(&e.to_string()))?,
            index,
            receive,
        )
    }

    /// One that uses the memory of another.
    fn beside(first: &Self, interface: &str) -> Result<Self> {
        let index = index(interface)?;
        let xsk = Xsk::open_shared(&first.xsk.socket, index, 0, &config());
        let xsk = xsk.map_err(|e| broken(&e.to_string()))?;
        Self::connect((first.umem.clone(), first.pool.clone()), xsk, index, true)
    }

    fn connect((umem, pool): (Umem, Pool), xsk: Xsk, index: u32, receive: bool) -> Result<Self> {
        let failed = |e: netvale_backends::bpf::BpfError| broken(&e.to_string());
        let redirect = match receive {
            true => {
                let redirect = Redirect::attach(index, 1, XdpMode::Native).map_err(failed)?;
                redirect.connect(0, &xsk.socket).map_err(failed)?;
                Some(redirect)
            }
            false => None,
        };
        Ok(Self {
            umem,
            pool,
            xsk,
            _redirect: redirect,
        })
    }

    /// Lends these buffers to the kernel, to receive into.
    fn fill(&mut self, bufs: std::ops::Range<u32>) -> Result<()> {
        let fill = self.xsk.fill.as_mut().ok_or_else(no_ring)?;
        fill.refresh().map_err(|e| broken(&e.to_string()))?;
        let all = bufs.filter_map(|buf| self.umem.fill_addr(buf));
        let lent = all.take_while(|&addr| fill.put(addr)).count();
        fill.publish();
        match lent {
            0 => Err(no_ring().into()),
            _ => Ok(()),
        }
    }
}

fn umem() -> std::result::Result<(Umem, Pool), Box<dyn std::error::Error>> {
    let count = 2 * ENTRIES;
    let len = FIRST + count as usize * FRAME as usize;
    let len = len.next_multiple_of(4096);
    let mem = Memfd::create("netvale-bare", len, HugePages::Never)?.map()?;
    let layout = BufLayout {
        first: FIRST as u64,
        stride: FRAME,
        count,
        usable: FRAME,
        huge: false,
    };
    let bytes = the_frame();
    let pool = mem.pool(FIRST, count, FRAME).ok_or("no room")?;
    if !(0..count).all(|buf| pool.bufs().write(buf, 0, &bytes)) {
        return Err("no room".into());
    }
    Ok((Umem::new(mem, layout)?, pool))
}

fn config() -> XskConfig {
    XskConfig {
        sizes: RingSizes::all(ENTRIES),
        copy: CopyMode::Copy,
        tx_budget: Some(ENTRIES),
        ..XskConfig::default()
    }
}

fn index(interface: &str) -> Result<u32> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link(interface));
    Ok(link.map_err(|e| broken(&e.to_string()))?.index)
}

fn no_ring() -> netvale::Error {
    broken("a socket without a ring")
}

/// What a loop is told and tells: `ready` when it can begin.
type Ready = dyn FnOnce() -> Result<std::sync::Arc<AtomicBool>>;

/// Receives, looks into the frames if it `reads`, and gives the buffers back
/// at once. Frames.
pub(in crate::bench) fn bare_receive(
    interface: &str,
    reads: bool,
    ready: Box<Ready>,
) -> Result<u64> {
    let mut bare = Bare::open(interface, true)?;
    bare.fill(0..ENTRIES)?;
    let (Some(rx), Some(fill)) = (&mut bare.xsk.rx, &mut bare.xsk.fill) else {
        return Err(no_ring().into());
    };
    let stop = ready()?;
    let mut frames = 0;
    while !stop.load(Ordering::Relaxed) {
        if rx.refresh().map_err(|e| broken(&e.to_string()))? == 0 {
            std::hint::spin_loop();
            continue;
        }
        fill.refresh().map_err(|e| broken(&e.to_string()))?;
        while let Some(desc) = rx.take() {
            if reads && let Some(frame) = bare.umem.locate(desc) {
                std::hint::black_box(bare.pool.bufs().load(frame.buf, 0));
            }
            // There is room: it came from there.
            frames += u64::from(fill.put(desc.addr & ADDRESS));
        }
        rx.release();
        fill.publish();
    }
    Ok(frames)
}

/// Sends what is in one batch of buffers after the other, as many as a ring
/// has, as a program does that writes frames. Frames.
pub(in crate::bench) fn bare_send(interface: &str, ready: Box<Ready>) -> Result<u64> {
    let mut bare = Bare::open(interface, false)?;
    let descs: Vec<_> = (0..ENTRIES)
        .filter_map(|buf| desc(&bare.umem, buf))
        .collect();
    let mut batches = descs.chunks(BATCH as usize).cycle();
    let (Some(tx), Some(done)) = (&mut bare.xsk.tx, &mut bare.xsk.completion) else {
        return Err(no_ring().into());
    };
    let stop = ready()?;
    let mut frames = 0;
    while !stop.load(Ordering::Relaxed) {
        tx.refresh().map_err(|e| broken(&e.to_string()))?;
        let batch = batches.next().unwrap_or_default();
        frames += batch.iter().filter(|&&desc| tx.put(desc)).count() as u64;
        tx.publish();
        while !bare
            .xsk
            .socket
            .kick_tx()
            .map_err(|e| broken(&e.to_string()))?
        {}
        done.refresh().map_err(|e| broken(&e.to_string()))?;
        while done.take().is_some() {}
        done.release();
    }
    Ok(frames)
}

fn desc(umem: &Umem, buf: u32) -> Option<netvale_backends::af_xdp::Desc> {
    umem.tx_desc(Frame {
        buf,
        offset: 0,
        len: BYTES.into(),
        more: false,
    })
}

/// Sends out of one interface what comes from the other, without a copy, and
/// looks at each frame as whoever forwards does.
pub(in crate::bench) fn bare_forward(names: &[String; 2], ready: Box<Ready>) -> Result<u64> {
    let mut from = Bare::open(&names[0], true)?;
    let mut to = Bare::beside(&from, &names[1])?;
    from.fill(0..ENTRIES)?;
    let (Some(rx), Some(fill)) = (&mut from.xsk.rx, &mut from.xsk.fill) else {
        return Err(no_ring().into());
    };
    let (Some(tx), Some(done)) = (&mut to.xsk.tx, &mut to.xsk.completion) else {
        return Err(no_ring().into());
    };
    let stop = ready()?;
    let failed = |e: netvale_backends::af_xdp::RingCorrupt| broken(&e.to_string());
    let mut frames = 0;
    while !stop.load(Ordering::Relaxed) {
        // What has been sent is there to receive into again.
        if done.refresh().map_err(failed)? > 0 {
            fill.refresh().map_err(failed)?;
            while let Some(addr) = done.take() {
                let buf = to.umem.completed_buf(addr);
                let addr = buf.and_then(|buf| to.umem.fill_addr(buf));
                if !addr.is_some_and(|addr| fill.put(addr)) {
                    return Err(broken("a buffer is lost").into());
                }
            }
            done.release();
            fill.publish();
        }
        if rx.refresh().map_err(failed)? == 0 {
            std::hint::spin_loop();
            continue;
        }
        tx.refresh().map_err(failed)?;
        for _ in 0..BATCH {
            let Some(frame) = rx.take().and_then(|desc| from.umem.locate(desc)) else {
                break;
            };
            std::hint::black_box(from.pool.bufs().load(frame.buf, 0));
            // Every buffer is in one ring, and all have as many entries.
            if from.umem.tx_desc(frame).is_some_and(|desc| tx.put(desc)) {
                frames += 1;
            }
        }
        rx.release();
        tx.publish();
        to.xsk
            .socket
            .kick_tx()
            .map_err(|e| broken(&e.to_string()))?;
    }
    Ok(frames)
}

/// A client of the server takes frames. How many.
pub(in crate::bench) fn client_receive(
    (ns, port): (&std::path::Path, &str),
    reads: bool,
    ready: Box<Ready>,
) -> Result<u64> {
    let mut port = Namespace::at(ns)?.no_spawn().open(port)?;
    let stop = ready()?;
    let rx = port.rx(0);
    let mut frames = 0;
    while !stop.load(Ordering::Relaxed) {
        let there = rx.sync()?;
        if reads {
            while let Some(frame) = rx.next() {
                std::hint::black_box(frame.load_u64(0));
                frames += 1;
            }
        } else {
            frames += u64::from(rx.discard(there).0);
        }
    }
    Ok(frames)
}

/// A client of the server sends. Frames.
pub(in crate::bench) fn client_send(
    (ns, port): (&std::path::Path, &str),
    ready: Box<Ready>,
) -> Result<u64> {
    let namespace = Namespace::at(ns)?.no_spawn();
    let mut port = namespace.port(port).keep_buffers(true).open()?;
    let stop = ready()?;
    let tx = port.tx(0);
    tx.fill(&the_frame()).map_err(|e| broken(&e.to_string()))?;
    let mut frames = 0;
    while !stop.load(Ordering::Relaxed) {
        if tx.space() < BATCH {
            tx.sync()?;
        }
        frames += u64::from(tx.push_resident(BATCH, BYTES));
        tx.sync()?;
    }
    Ok(frames)
}

/// A client of the server forwards from one port to the other. Frames.
pub(in crate::bench) fn client_forward(
    (ns, names): (&std::path::Path, &[String; 2]),
    ready: Box<Ready>,
) -> Result<u64> {
    let namespace = Namespace::at(ns)?.no_spawn();
    let open = |name: &str| -> Result<Port> { Ok(namespace.open(name)?) };
    let [mut from, mut to] = [open(&names[0])?, open(&names[1])?];
    let stop = ready()?;
    let mut frames = 0;
    while !stop.load(Ordering::Relaxed) {
        let (rx, tx) = (from.rx(0), to.tx(0));
        rx.sync()?;
        if tx.space() < BATCH {
            tx.sync()?;
        }
        let moved = rx.forward(tx, BATCH);
        if moved > 0 {
            frames += u64::from(moved);
            tx.sync()?;
        }
    }
    Ok(frames)
}
