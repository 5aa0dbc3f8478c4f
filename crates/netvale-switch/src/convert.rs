//! Delivery between ports whose virtio-net headers differ in length.
//!
//! | from | to | |
//! |---|---|---|
//! | 10 | 12 | header rewritten, the frame as it is |
//! | 0 | 10, 12 | an empty header in front |
//! | 10, 12 | 0 | header honoured: checksum computed, large frames cut into segments |
//!
//! This is the slow path: each frame is gathered, worked on in private memory
//! and written out.

use alloc::vec::Vec;

use netvale_ring::deliver::{Ent, Outlet, Source, Target, not_found};
use netvale_ring::monitor;
use netvale_ring::port::Opts;
use netvale_ring::resv::{Lease, Refused};
use netvale_ring::slot::{MAX_FRAGS, NS_MOREFRAG, Slot};
use netvale_ring::world::Party;
use netvale_wire::offload::{self, Plan};
use netvale_wire::vnet::{HdrLen, VnetHdr};

/// Private memory of the conversions, used again for every frame.
#[derive(Debug, Default)]
pub(crate) struct Converter {
    frame: Vec<u8>,
    out: Vec<u8>,
}

/// What a frame becomes.
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on the stack of the slow path"
)]
enum Form {
    /// One frame, in `Converter::out`.
    Whole,
    /// Segments, to be made one by one.
    Segments(Plan),
}

/// Delivers the frames of `chain` into `to`, converted from one header length
/// to the other. Returns how many frames contradicted their own headers; those
/// that found no room are counted at the destination.
pub(crate) fn deliver(
    party: &Party<'_>,
    from: &Source<'_>,
    to: Outlet,
    ents: &[Ent],
    chain: impl Iterator<Item = usize>,
    (src, dst): (Opts, Opts),
    conv: &mut Converter,
) -> u64 {
    let frames = chain;
    let Some(kring) = party.world.kring(to.ring) else {
        return 0;
    };
    let Some(map) = party.map_of(kring) else {
        kring.count_fault(frames.count() as u64);
        return 0;
    };
    let to = match Target::seated(party.world, to, kring, &map) {
        Ok(to) => to,
        Err(why) => {
            not_found(kring, why, frames.count() as u64);
            return 0;
        }
    };
    let (mut bad, mut full) = (0, 0);
    for i in frames {
        if full > 0 {
            full += 1; // order is kept: nothing overtakes a dropped frame
            continue;
        }
        gather(from, ents, i, &mut conv.frame);
        let Some(form) = conv.form(src, dst) else {
            bad += 1;
            continue;
        };
        let most = MAX_FRAGS as usize * room(&to);
        if conv.out.len() > most && matches!(form, Form::Whole) {
            bad += 1; // with its new header it is longer than a frame can be
            continue;
        }
        match put(party, &to, conv, &form) {
            Ok(()) => {}
            Err(Refused::Full | Refused::Closed) => full += 1,
            Err(why) => to.refuse(why, 1),
        }
    }
    kring.count_full(full);
    party.wake(kring);
    bad
}

/// The bytes of a frame, its header included.
fn gather(from: &Source<'_>, ents: &[Ent], first: usize, out: &mut Vec<u8>) {
    out.clear();
    let frags = ents.get(first).map_or(0, |e| usize::from(e.frags));
    for ent in ents.iter().skip(first).take(frags) {
        let at = out.len();
        out.resize(at + usize::from(ent.slot.len()), 0);
        let off = usize::from(ent.off);
        if !from.map.bufs().read(ent.slot.buf(), off, &mut out[at..]) {
            out.truncate(at);
        }
    }
}

impl Converter {
    /// Works out what `frame` becomes; `None` if it contradicts itself.
    fn form(&mut self, src: Opts, dst: Opts) -> Option<Form> {
        let src_len = HdrLen::new(u32::from(src.vnet_hdr)).ok()?;
        let dst_len = HdrLen::new(u32::from(dst.vnet_hdr)).ok()?;
        let hdr_bytes = usize::from(src.vnet_hdr);
        let hdr = if src_len.is_none() {
            None
        } else {
            Some(VnetHdr::parse(&self.frame, src_len)?)
        };
        let body = self.frame.get(hdr_bytes..)?;
        self.out.clear();
        if !dst_len.is_none() {
            self.out.resize(usize::from(dst.vnet_hdr), 0);
            if let Some(hdr) = hdr {
                hdr.write(&mut self.out, dst_len)?;
            }
            self.out.extend_from_slice(body);
            return Some(Form::Whole);
        }
        let hdr = hdr?;
        if !hdr.needs_csum() && hdr.gso_type == netvale_wire::vnet::GSO_NONE {
            self.out.extend_from_slice(body);
            return Some(Form::Whole);
        }
        if hdr.gso_type == netvale_wire::vnet::GSO_NONE {
            self.out.extend_from_slice(body);
            let (start, offset) = (usize::from(hdr.csum_start), usize::from(hdr.csum_offset));
            offload::finish_checksum(&mut self.out, start, offset).ok()?;
            return Some(Form::Whole);
        }
        let head = body.get(..body.len().min(offload::MAX_HEADER))?;
        let plan = offload::plan(&hdr, head, body.len(), dst.max_frame as usize).ok()?;
        // What `put` gathers segments from.
        self.frame.drain(..hdr_bytes);
        Some(Form::Segments(plan))
    }
}

/// Reserves room for a frame in all its parts, writes and publishes it.
fn put(
    party: &Party<'_>,
    to: &Target<'_>,
    conv: &mut Converter,
    form: &Form,
) -> Result<(), Refused> {
    let size = room(to);
    if size == 0 {
        return Err(Refused::Full);
    }
    let slots_for = |len: usize| len.div_ceil(size).max(1);
    let need = match form {
        Form::Whole => slots_for(conv.out.len()),
        Form::Segments(plan) => (0..plan.segments())
            .map(|i| slots_for(plan.segment_len(i).unwrap_or(0)))
            .sum(),
    };
    let Ok(need) = u32::try_from(need) else {
        return Err(Refused::Full);
    };
    let lease = to.resv.reserve(party.owner, |free| {
        let same = to.kring.generation() == to.generation;
        if same && need <= free { need } else { 0 }
    })?;
    let mut at = lease.start.idx();
    let (mut frames, mut bytes) = (0, 0);
    match form {
        Form::Whole => {
            (frames, bytes) = (1, conv.out.len() as u64);
            write(to, &mut at, &conv.out);
        }
        Form::Segments(plan) => {
            for i in 0..plan.segments() {
                let len = plan.segment_len(i).unwrap_or(0);
                conv.out.resize(len.max(conv.out.len()), 0);
                let frame = &conv.frame;
                let read = |ofs: usize, dst: &mut [u8]| {
                    let src = frame.get(ofs..).and_then(|f| f.get(..dst.len()));
                    src.is_some_and(|src| {
                        dst.copy_from_slice(src);
                        true
                    })
                };
                // A segment that cannot be made leaves an empty slot: its
                // room was reserved, and the others are right.
                let made = plan.write_segment(i, read, &mut conv.out).unwrap_or(0);
                write_exact(to, &mut at, &conv.out[..made.min(len)], slots_for(len));
                frames += 1;
                bytes += made as u64;
            }
        }
    }
    finish(party, to, lease, frames, bytes);
    Ok(())
}

fn finish(party: &Party<'_>, to: &Target<'_>, lease: Lease, frames: u32, bytes: u64) {
    if to.kring.is_watched() {
        monitor::tap_lease(party, to, lease);
    }
    to.kring.set_sum(lease, frames, bytes);
    to.resv.publish(lease, lease.n, true);
}

/// Bytes that every slot of a ring can carry.
fn room(to: &Target<'_>) -> usize {
    to.map.geom.buf_size.saturating_sub(to.offsets.max()) as usize
}

fn write(to: &Target<'_>, at: &mut u32, frame: &[u8]) {
    let size = room(to);
    write_exact(to, at, frame, frame.len().div_ceil(size).max(1));
}

/// Writes a frame into exactly `slots` slots from `at` on.
fn write_exact(to: &Target<'_>, at: &mut u32, frame: &[u8], slots: usize) {
    let size = room(to);
    let mut parts = frame
        .chunks(size)
        .chain(core::iter::repeat_n(&[][..], slots));
    let total = u16::try_from(slots.min(MAX_FRAGS as usize)).unwrap_or(1) << 8;
    for i in 0..slots {
        let part = parts.next().unwrap_or_default();
        let buf = to.ring.slot(*at).buf();
        let off = to.offsets.at(to.ring, *at, to.map.geom.buf_size) as usize;
        let written = to.map.bufs().write(buf, off, part);
        let len = if written { part.len() } else { 0 };
        let more = if i + 1 < slots { NS_MOREFRAG } else { 0 };
        let slot = Slot::new(buf, u16::try_from(len).unwrap_or(0), total | more);
        to.ring.set_slot(*at, slot);
        *at = to.ring.next(*at);
    }
}
