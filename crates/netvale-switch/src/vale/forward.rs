//! Pass 3: every chain of a batch to its destination.

use netvale_ring::deliver::{Ent, Outlet, Source, deliver};
use netvale_ring::kring::Counter;
use netvale_ring::port::{Opts, PortKind, Rings};

use super::chain::{Chain, Merged, NIL};
use super::{Scratch, Sender};
use crate::convert::{self, Converter};
use crate::lookup;
use crate::switch::LookupKind;

impl Sender<'_> {
    /// Every chain to its destination.
    #[inline]
    pub(super) fn deliver(&self, scratch: &mut Scratch) {
        let flood = core::mem::replace(&mut scratch.flood, Chain::EMPTY);
        if flood.first != NIL {
            for p in (0..self.switch.top()).filter(|&p| p != self.seat.idx) {
                let chain = scratch.chains.get(usize::from(p)).copied();
                self.to_port(scratch, p, chain.unwrap_or(Chain::EMPTY), flood);
            }
        } else {
            for i in 0..scratch.touched.len() {
                let p = scratch.touched[i];
                let chain = scratch.chains[usize::from(p)];
                self.to_port(scratch, p, chain, flood);
            }
        }
        for p in scratch.touched.drain(..) {
            scratch.chains[usize::from(p)] = Chain::EMPTY;
        }
    }

    #[inline]
    fn to_port(&self, scratch: &mut Scratch, p: u16, own: Chain, flood: Chain) {
        let lost = |frames: u16| self.kring.count(Counter::DropNoDest, u64::from(frames));
        let Some(rec) = self
            .switch
            .port(p)
            .and_then(|id| id.rec(self.party.world))
            .filter(|rec| rec.kind() == PortKind::Vale)
        else {
            return lost(own.frames);
        };
        let rings = rec.rx();
        let (Some(unicast), Some(ring0)) = (rings.wrap(self.ring), rings.wrap(0)) else {
            return lost(own.frames);
        };
        let (unicast, ring0) = (self.outlet(unicast, p), self.outlet(ring0, p));
        let opts = rec.opts();
        let gives = self.from.gives && flood.first == NIL;
        if self.kind == LookupKind::HashToRing && rings.count > 1 {
            self.spread(scratch, own, (rings, p), opts, gives);
        } else if unicast == ring0 && flood.first != NIL && own.first != NIL {
            let both = Chain {
                frames: own.frames + flood.frames,
                slots: own.slots + flood.slots,
                ..own
            };
            let merged = Merged {
                a: own.walk(&scratch.ents).peekable(),
                b: flood.walk(&scratch.ents).peekable(),
            };
            return self.put(
                &scratch.ents,
                &mut scratch.converter,
                unicast,
                opts,
                both,
                merged,
                false,
            );
        } else if own.first != NIL {
            let walk = own.walk(&scratch.ents);
            self.put(
                &scratch.ents,
                &mut scratch.converter,
                unicast,
                opts,
                own,
                walk,
                gives,
            );
        }
        if flood.first != NIL {
            let walk = flood.walk(&scratch.ents);
            self.put(
                &scratch.ents,
                &mut scratch.converter,
                ring0,
                opts,
                flood,
                walk,
                false,
            );
        }
    }

    /// Spreads a chain over all rings of its destination by flow.
    fn spread(
        &self,
        scratch: &mut Scratch,
        own: Chain,
        (rings, p): (Rings, u16),
        opts: Opts,
        gives: bool,
    ) {
        let ents = &scratch.ents;
        let hdr = usize::from(self.opts.vnet_hdr);
        let ring_of = |i: usize| {
            let mut bytes = [0; 48];
            let ent = ents.get(i).copied().unwrap_or_default();
            let n = usize::from(ent.slot.len()).saturating_sub(hdr).min(48);
            let at = hdr + usize::from(ent.off);
            let _ = self.bufs.read(ent.slot.buf(), at, &mut bytes[..n]);
            lookup::flow_hash(&bytes) % u32::from(rings.count.max(1))
        };
        for r in 0..rings.count {
            let mine = own.walk(ents).filter(|&i| ring_of(i) == u32::from(r));
            let (mut frames, mut slots) = (0, 0);
            for i in mine.clone() {
                frames += 1;
                slots += u16::from(ents[i].frags);
            }
            if let Some(ring) = rings.get(r).filter(|_| frames > 0) {
                let sum = Chain {
                    frames,
                    slots,
                    ..own
                };
                let to = self.outlet(ring, p);
                self.put(ents, &mut scratch.converter, to, opts, sum, mine, gives);
            }
        }
    }

    #[inline]
    fn put(
        &self,
        ents: &[Ent],
        converter: &mut Converter,
        to: Outlet,
        opts: Opts,
        sum: Chain,
        chain: impl Iterator<Item = usize> + Clone,
        gives: bool,
    ) {
        if opts.vnet_hdr == self.opts.vnet_hdr {
            let from = Source { gives, ..self.from };
            let (frames, slots) = (u32::from(sum.frames), u32::from(sum.slots));
            deliver(self.party, &from, to, ents, chain, frames, slots);
        } else {
            let bad = convert::deliver(
                self.party,
                &self.from,
                to,
                ents,
                chain,
                (self.opts, opts),
                converter,
            );
            self.kring.count(Counter::DropOffload, bad);
        }
    }
}
