//! Receiving through blocks that the kernel fills.

mod sys;

use std::os::fd::{AsFd, BorrowedFd};

use netvale_wire::vnet::HdrLen;

use super::{Base, PacketConfig, PacketError, PacketSent, PacketStats, Tag};
use crate::batch::{Batch, BufPool};
use crate::net::mmsg::{Messages, Out};
use crate::net::sys::set_int;

/// How large a ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    /// Bytes of a block, a power of two of at least 64 KiB (the longest frame
    /// must fit); rounded up.
    pub block_len: u32,
    /// Blocks, at least 2.
    pub blocks: u32,
    /// A block that is not full is handed over after this many milliseconds,
    /// at least 1: the longest delay of a single frame.
    pub patience_ms: u32,
}

impl Default for RingConfig {
    /// 16 blocks of 256 KiB, 1 ms.
    fn default() -> Self {
        Self {
            block_len: 256 << 10,
            blocks: 16,
            patience_ms: 1,
        }
    }
}

/// A frame that still lies in the kernel's block.
#[derive(Debug, Clone, Copy)]
pub struct RingFrame<'a> {
    /// Its bytes, without the tag.
    pub data: &'a [u8],
    /// Its whole length, bytes; more than `data` has if it was cut.
    pub len: usize,
    /// When it came, nanoseconds since 1970.
    pub time_ns: u64,
    /// The VLAN tag that stands behind the addresses, if it has one.
    pub tag: Option<Tag>,
}

/// A packet socket that receives through a ring of blocks.
///
/// Frames come in blocks: a lone one after [`RingConfig::patience_ms`].
#[derive(Debug)]
pub struct PacketRing {
    // Before the socket, so that it is unmapped first.
    blocks: sys::Blocks,
    base: Base,
    tx: Messages,
    outs: Vec<Out>,
}

impl PacketRing {
    /// Opens a socket with a ring. It never blocks: wait with `poll` on its
    /// descriptor.
    ///
    /// # Errors
    ///
    /// [`PacketError::RingWithHeader`] if the configuration has a virtio-net
    /// header, the others as for [`PacketSocket`](super::PacketSocket::open).
    pub fn open(config: &PacketConfig, ring: RingConfig) -> Result<Self, PacketError> {
        if config.header != HdrLen::NONE {
            return Err(PacketError::RingWithHeader {
                name: config.interface.clone(),
            });
        }
        let base = Base::open(config)?;
        let block_len = ring.block_len.clamp(64 << 10, 1 << 30).next_power_of_two();
        let blocks = ring.blocks.clamp(2, 1 << 16);
        const FRAME: u32 = 2048; // only the kernel's arithmetic uses it
        let request = libc::tpacket_req3 {
            tp_block_size: block_len,
            tp_block_nr: blocks,
            tp_frame_size: FRAME,
            tp_frame_nr: (block_len / FRAME).saturating_mul(blocks),
            tp_retire_blk_tov: ring.patience_ms.max(1),
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        const VERSION_3: i32 = 2;
        let fd = base.fd.as_fd();
        set_int(fd, libc::SOL_PACKET, libc::PACKET_VERSION, VERSION_3)
            .and_then(|()| super::sys::make_ring(fd, &request))
            .map_err(|e| {
                base.os("make a packet ring for interface", e)
                    .hint("make it smaller")
            })?;
        let mapped = sys::Blocks::map(fd, block_len as usize, blocks as usize)
            .map_err(|e| base.os("map the packet ring of interface", e))?;
        base.start(config)?;
        Ok(Self {
            blocks: mapped,
            base,
            tx: Messages::default(),
            outs: Vec::new(),
        })
    }

    /// The next frame where it lies, if there is one.
    ///
    /// # Errors
    ///
    /// [`PacketError::Down`], [`PacketError::Gone`] or [`PacketError::Os`]:
    /// there is none and none will come.
    pub fn next_frame(&mut self) -> Result<Option<RingFrame<'_>>, PacketError> {
        if let Some(frame) = self.blocks.next() {
            return Ok(Some(frame));
        }
        match rustix::net::sockopt::socket_error(&self.base.fd) {
            Ok(Ok(())) => Ok(None),
            Ok(Err(e)) | Err(e) => Err(self.base.error("receive from", e.into())),
        }
    }

    /// Copies frames into the chains of `batch` in order, with their VLAN
    /// tags; how many.
    ///
    /// # Errors
    ///
    /// As for [`PacketRing::next_frame`].
    pub fn recv(&mut self, pool: &BufPool, batch: &mut Batch) -> Result<usize, PacketError> {
        for i in 0..batch.len() {
            let frame = match self.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(i),
                Err(_) if i > 0 => return Ok(i),
                Err(e) => return Err(e),
            };
            copy(pool, batch, i, &frame);
        }
        Ok(batch.len())
    }

    /// As [`PacketSocket::send`](super::PacketSocket::send).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send(
        &mut self,
        pool: &BufPool,
        batch: &Batch,
        first: usize,
    ) -> Result<PacketSent, PacketError> {
        self.base
            .send(&mut self.tx, &mut self.outs, pool, batch, first)
    }

    /// What came and what was dropped since the socket was opened.
    ///
    /// # Errors
    ///
    /// [`PacketError::Os`].
    pub fn stats(&mut self) -> Result<PacketStats, PacketError> {
        self.base.stats()
    }
}

impl AsFd for PacketRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.base.fd.as_fd()
    }
}

fn copy(pool: &BufPool, batch: &mut Batch, i: usize, frame: &RingFrame<'_>) {
    const ADDRESSES: usize = 12;
    let tag: &[u8] = match &frame.tag {
        Some(tag) if frame.data.len() >= ADDRESSES => tag,
        _ => &[],
    };
    let room = batch.room(i);
    let total = frame.data.len() + tag.len();
    let cut = frame.data.len() < frame.len;
    batch.set_len(i, total.min(room), total > room || cut);
    let (head, body) = frame.data.split_at(frame.data.len().min(ADDRESSES));
    let mut at = 0;
    for part in [head, tag, body] {
        batch.write(pool, i, at, part);
        at += part.len();
    }
}
