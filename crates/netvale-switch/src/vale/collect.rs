//! Pass 1: slots of the sender's ring into entries, each checked.

use alloc::sync::Arc;
use alloc::vec::Vec;

use netvale_ring::Slot;
use netvale_ring::deliver::Ent;
use netvale_ring::layout::RESERVED_BUFS;
use netvale_ring::monitor::Run;
use netvale_ring::slot::{MAX_FRAGS, NS_BUF_CHANGED, NS_INDIRECT, NS_MOREFRAG};
use netvale_ring::world::RegionMap;

use super::{BATCH, NIL, Scratch, Sender, Sums};
use crate::end::Indirect;

impl Sender<'_> {
    /// Slots from `first` on, `left` at most, into entries. Returns how many
    /// were taken; they end with a frame's last slot.
    ///
    /// A frame with a bad slot is left out, and so is one of more than 64
    /// slots; one that `head` cuts off is sent as far as it is there. Data that
    /// lies elsewhere in the program's memory (NS_INDIRECT) is fetched into the
    /// slot's own buffer; if it cannot be, that slot is empty, and the frame is
    /// left out if its addresses were there.
    #[inline]
    pub(super) fn collect(
        &self,
        scratch: &mut Scratch,
        first: u32,
        left: u32,
        sums: &mut Sums,
    ) -> u32 {
        let (ring, count) = (self.from.ring, self.from.ring.count());
        let (bufs, size) = (self.from.map.geom.bufs, self.from.map.geom.buf_size);
        let Scratch { ents, fetch, .. } = scratch;
        ents.clear();
        let (mut at, mut taken) = (first, 0);
        let (mut start, mut chain, mut bad) = (0, 0u32, false);
        while taken < left {
            let mut slot = ring.slot(at);
            let (buf, len) = (slot.buf(), slot.len());
            let mut off = self.from.offsets.at(ring, at, size);
            if slot.has(NS_INDIRECT | NS_BUF_CHANGED) {
                if slot.has(NS_BUF_CHANGED) {
                    ring.set_slot(at, slot.with_flags(slot.flags() & !NS_BUF_CHANGED));
                }
                if slot.has(NS_INDIRECT) {
                    off = 0; // the word of an offset is an address here
                    if !fetch.slot(self.from.map, slot, ring.ptr(at)) {
                        let hdr = u16::from(self.opts.vnet_hdr);
                        let addresses = chain == 0 || chain == 1 && ents[start].slot.len() == hdr;
                        bad |= addresses || len > 0 && u32::from(len) > size;
                        slot = Slot::new(buf, 0, slot.flags());
                    }
                }
            }
            // One comparison for both ends of the range: 0 and 1 wrap.
            let fine = buf.wrapping_sub(RESERVED_BUFS) < bufs - RESERVED_BUFS
                && u32::from(slot.len()) + off <= size;
            bad |= !fine;
            chain += 1;
            taken += 1;
            sums.bytes += u64::from(len);
            if chain <= MAX_FRAGS {
                ents.push(Ent {
                    slot,
                    at: u16::try_from(at).unwrap_or(0),
                    frags: 0,
                    next: NIL,
                    off: u16::try_from(off).unwrap_or(u16::MAX),
                });
            }
            at = if at + 1 == count { 0 } else { at + 1 };
            if slot.has(NS_MOREFRAG) && taken < left {
                continue;
            }
            sums.frames += 1;
            if bad || chain > MAX_FRAGS {
                ents.truncate(start);
                sums.bad_slot += u64::from(bad);
                sums.chain += u64::from(!bad);
            } else if let Some(head) = ents.get_mut(start) {
                head.frags = u8::try_from(chain).unwrap_or(0);
            }
            start = ents.len();
            (chain, bad) = (0, false);
            if start >= BATCH {
                break;
            }
        }
        taken
    }
}

/// Brings data from where the program says that it is.
#[derive(Default)]
pub(super) struct Fetch {
    from: Option<Arc<dyn Indirect>>,
    /// What was fetched, on its way into a buffer.
    bytes: Vec<u8>,
}

impl Fetch {
    pub(super) fn set(&mut self, from: Arc<dyn Indirect>) {
        self.from = Some(from);
    }

    /// Fetches the data of a slot into its own buffer; `false` if it cannot be.
    #[cold]
    fn slot(&mut self, map: &RegionMap, slot: Slot, ptr: u64) -> bool {
        let Some(from) = &self.from else { return false };
        let len = usize::from(slot.len());
        if len > map.geom.buf_size as usize || !map.valid_buf(slot.buf()) {
            return false;
        }
        self.bytes.clear();
        self.bytes.resize(len, 0);
        from.fetch(ptr, &mut self.bytes) && map.bufs().write(slot.buf(), 0, &self.bytes)
    }

    /// The same for every slot of a run that asks for it.
    #[cold]
    pub(super) fn all(&mut self, run: Run<'_>) {
        if self.from.is_none() {
            return;
        }
        for i in 0..run.n {
            let at = (run.first + i) % run.ring.count();
            let slot = run.ring.slot(at);
            if slot.has(NS_INDIRECT) {
                self.slot(run.map, slot, run.ring.ptr(at));
            }
        }
    }
}
