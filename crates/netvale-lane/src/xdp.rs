//! AF_XDP sockets of an interface.
//!
//! Registering memory pins all of it, and the shared region is sparse and
//! larger than what may be pinned; also its buffers wander between ports. So
//! each socket has a small pool of its own, and a frame is copied once between
//! that and a slot's buffer: the kernel's copy before it costs ten times that.

use std::os::fd::{AsFd, BorrowedFd};

use netvale_backends::af_xdp::{
    BufLayout, CopyMode, Frame, Redirect, RingSizes, Umem, Xsk, XskConfig,
};
use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::bpf::XdpMode;
use netvale_shm::{HugePages, Memfd, Pool};

use crate::{DeviceLane, Pushed, Trouble, chain};

/// Entries of each ring, and frames in each direction.
const ENTRIES: u32 = 2048;
/// Bytes of a frame: as in regions.
const FRAME: u32 = 2112;
/// Where the first frame is; the kernel wants room before it.
const FIRST: usize = 4096;
/// Longest packet without Ethernet header and VLAN tags that fits.
pub const LONGEST_MTU: u32 = FRAME - 26;
/// Frames received at once.
const AT_ONCE: u32 = 256;

/// The sockets of all queues, and the program that feeds them if frames are
/// wanted at all.
pub fn open(
    index: u32,
    queues: u32,
    receive: bool,
) -> Result<(Vec<Box<dyn DeviceLane>>, Option<Redirect>), String> {
    let said = |e: &dyn std::error::Error| chain(e);
    let redirect = match receive {
        true => Some(Redirect::attach(index, queues, XdpMode::Native).map_err(|e| said(&e))?),
        false => None,
    };
    let mut lanes = Vec::new();
    for queue in 0..queues {
        let lane = XdpLane::open(index, queue)?;
        if let Some(redirect) = &redirect {
            let connected = redirect.connect(queue, &lane.xsk.socket);
            connected.map_err(|e| said(&e))?;
        }
        lanes.push(Box::new(lane) as Box<dyn DeviceLane>);
    }
    Ok((lanes, redirect))
}

#[derive(Debug)]
struct XdpLane {
    xsk: Xsk,
    umem: Umem,
    frames: Pool,
    /// Frames that the kernel does not have.
    free: Vec<u32>,
    /// To be told once more that there are frames to send.
    kick: bool,
}

impl XdpLane {
    fn open(index: u32, queue: u32) -> Result<Self, String> {
        let count = 2 * ENTRIES;
        let len = FIRST + count as usize * FRAME as usize;
        let file = Memfd::create("netvale-xdp", len.next_multiple_of(4096), HugePages::Never);
        let mem = file.and_then(|f| f.map()).map_err(|e| chain(&e))?;
        let frames = mem.pool(FIRST, count, FRAME);
        let frames = frames.ok_or("no room for frames")?;
        let layout = BufLayout {
            first: FIRST as u64,
            stride: FRAME,
            count,
            usable: FRAME,
            huge: false,
        };
        let umem = Umem::new(mem, layout).map_err(|e| chain(&e))?;
        let config = XskConfig {
            sizes: RingSizes::all(ENTRIES),
            copy: CopyMode::Copy,
            tx_budget: Some(ENTRIES),
            ..XskConfig::default()
        };
        let xsk = Xsk::open(&umem, index, queue, &config).map_err(|e| chain(&e))?;
        let mut lane = Self {
            xsk,
            umem,
            frames,
            free: (ENTRIES..count).collect(),
            kick: false,
        };
        for frame in 0..ENTRIES {
            lane.fill(frame);
        }
        lane.show_filled()?;
        Ok(lane)
    }

    /// Lends a frame to the kernel, to receive into.
    fn fill(&mut self, frame: u32) {
        let addr = self.umem.fill_addr(frame);
        let lent = addr.is_some_and(|addr| match &mut self.xsk.fill {
            Some(fill) => fill.put(addr) || (fill.refresh().is_ok() && fill.put(addr)),
            None => false,
        });
        if !lent {
            self.free.push(frame); // to send with
        }
    }

    fn show_filled(&mut self) -> Result<(), String> {
        let Some(fill) = &mut self.xsk.fill else {
            return Ok(());
        };
        fill.publish();
        if fill.needs_wakeup() {
            // `false` asks for another time, which the next frame brings.
            self.xsk.socket.kick_rx().map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Takes back frames that have been sent.
    fn reap(&mut self) -> Result<(), Trouble> {
        let Some(done) = &mut self.xsk.completion else {
            return Ok(());
        };
        done.refresh().map_err(|e| Trouble::Gone(e.to_string()))?;
        while let Some(addr) = done.take() {
            self.free.extend(self.umem.completed_buf(addr));
        }
        done.release();
        Ok(())
    }

    /// Copies frame `i` of a batch into one of ours, and queues it. `None`
    /// without room; `false` if the frame cannot be sent.
    fn queue(&mut self, pool: &BufPool, batch: &Batch, i: usize) -> Option<bool> {
        let len = batch.frame_len(i);
        let mut pieces = batch.pieces(i);
        let (Some(piece), None) = (pieces.next(), pieces.next()) else {
            return Some(false); // longer than the interface takes
        };
        let frame = *self.free.last()?;
        let copied = self
            .frames
            .bufs()
            .copy_from(frame, pool.bufs(), piece.buf, len);
        let desc = self.umem.tx_desc(Frame {
            buf: frame,
            offset: 0,
            len: piece.len,
            more: false,
        });
        let Some(desc) = desc.filter(|_| copied && len >= 14) else {
            return Some(false);
        };
        let tx = self.xsk.tx.as_mut()?;
        let put = tx.put(desc) || (tx.refresh().is_ok() && tx.put(desc));
        put.then(|| {
            self.free.pop();
            true
        })
    }

    fn kick(&mut self) -> Result<(), Trouble> {
        match self.xsk.socket.kick_tx() {
            Ok(all) => {
                self.kick = !all;
                Ok(())
            }
            Err(e) => Err(trouble(&e)),
        }
    }
}

impl DeviceLane for XdpLane {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.xsk.socket.as_fd())
    }

    fn longest(&self) -> usize {
        FRAME as usize
    }

    fn pull(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, Trouble> {
        if self.kick {
            self.kick()?;
        }
        let Some(rx) = &mut self.xsk.rx else {
            return Ok(0);
        };
        let there = rx.refresh().map_err(|e| Trouble::Gone(e.to_string()))?;
        let mut taken = Vec::new();
        for piece in free.iter().take(there.min(AT_ONCE) as usize) {
            let Some(desc) = rx.take() else { break };
            let Some(frame) = self.umem.locate(desc) else {
                return Err(Trouble::Gone("a descriptor outside the memory".into()));
            };
            taken.push(frame.buf);
            // The driver's own headroom would move it; then it is not ours.
            let whole = frame.offset == 0 && !frame.more && frame.len <= piece.len;
            let (len, from) = (frame.len as usize, self.frames.bufs());
            if whole && pool.bufs().copy_from(piece.buf, from, frame.buf, len) {
                batch.push_buf(piece.buf, frame.len);
            } else {
                batch.push_buf(piece.buf, 0);
            }
        }
        rx.release();
        let any = !taken.is_empty();
        taken.into_iter().for_each(|frame| self.fill(frame));
        if any {
            self.show_filled().map_err(Trouble::Gone)?;
        }
        Ok(batch.len())
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        self.reap()?;
        let mut pushed = Pushed::default();
        for i in 0..batch.len() {
            match self.queue(pool, batch, i) {
                Some(true) => {}
                Some(false) => pushed.refused += 1,
                None => break,
            }
            pushed.done += 1;
        }
        if let Some(tx) = &mut self.xsk.tx {
            tx.publish();
        }
        self.kick()?;
        Ok(pushed)
    }

    fn due(&self) -> Option<std::time::Instant> {
        // The kernel had no room: again, and soon.
        self.kick.then(std::time::Instant::now)
    }
}

fn trouble(e: &std::io::Error) -> Trouble {
    const ENETDOWN: i32 = 100;
    match e.raw_os_error() {
        Some(ENETDOWN) => Trouble::Down,
        _ => Trouble::Gone(format!("AF_XDP: {e}")),
    }
}
