//! Sending through a switch: VALE's three passes.
//!
//! 1. Collect up to [`BATCH`] slots at a frame boundary, checking each.
//! 2. Look each frame up and append it to its destination's chain.
//! 3. For each destination: reserve, copy or swap, publish, wake
//!    ([`netvale_ring::deliver`]).
//!
//! A sender never waits: everything up to `head` is consumed, and what found
//! no room is counted at the destination.

mod chain;
mod collect;
mod forward;
mod route;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use netvale_ring::deliver::{Ent, Outlet, Source, Target, deliver_run, not_found};
use netvale_ring::kring::{Counter, Kring, KringId};
use netvale_ring::layout::SWITCH_PORTS;
use netvale_ring::monitor::{self, Run};
use netvale_ring::pipe::End;
use netvale_ring::port::{Opts, PortId, PortKind, Seat};
use netvale_ring::slot::{MAX_FRAGS, NS_MOREFRAG, RingWindow};
use netvale_ring::sync::{BadWords, prologue};
use netvale_ring::world::{Party, RegionMap, Waker, World};
use netvale_shm::Bufs;

use crate::convert::Converter;
use crate::end::Indirect;
use crate::fdb::is_station;
use crate::lookup::{self, Dest, FrameHead, Lookup};
use crate::switch::{LookupKind, Switch};
use chain::{Chain, NIL};
use collect::Fetch;
use route::{Key, Route, follow, measure};

/// Slots collected before they are forwarded.
pub const BATCH: usize = 1024;

/// Slots ahead whose frame is fetched while one is looked up.
const PREFETCH: usize = 8;

/// Longest run of like frames sent at once.
const RUN: u32 = 256;

/// Shortest one that is worth a reservation of its own, if others follow.
const MIN_RUN: u32 = 16;

/// A TX ring of a VALE port, its lock held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TxRing<'a> {
    pub(crate) end: End<'a>,
    pub(crate) port: PortId,
    /// Index among the port's TX rings.
    pub(crate) idx: u16,
}

/// A sender's private memory, used again for every batch.
pub(crate) struct Scratch {
    ents: Vec<Ent>,
    /// By port index.
    chains: Vec<Chain>,
    touched: Vec<u16>,
    flood: Chain,
    route: Option<Route>,
    lookup: Option<Arc<dyn Lookup>>,
    fetch: Fetch,
    converter: Converter,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = self.route.as_ref().map(|r| match r.flood {
            true => "everyone",
            false => "one port",
        });
        let mut f = f.debug_struct("Scratch");
        f.field("way", &way).finish_non_exhaustive()
    }
}

/// What all frames of a sync have in common.
struct Sender<'a> {
    party: &'a Party<'a>,
    switch: Switch<'a>,
    seat: Seat,
    ring: u16,
    opts: Opts,
    kring: Kring<'a>,
    bufs: Bufs<'a>,
    from: Source<'a>,
    kind: LookupKind,
    epoch: u8,
}

impl Scratch {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            ents: Vec::with_capacity(BATCH + MAX_FRAGS as usize),
            chains: vec![Chain::EMPTY; SWITCH_PORTS as usize],
            touched: Vec::with_capacity(64),
            flood: Chain::EMPTY,
            route: None,
            lookup: None,
            fetch: Fetch::default(),
            converter: Converter::default(),
        })
    }

    /// Sends one frame on the way of those before, if that is all there is to
    /// be done.
    #[inline(always)]
    pub(crate) fn send_one(
        &self,
        world: &World,
        own: &RegionMap,
        waker: &Arc<dyn Waker>,
        owner: u16,
        end: End<'_>,
    ) -> bool {
        let route = self.route.as_ref();
        route.is_some_and(|route| route::one(world, own, waker, owner, end, route))
    }

    pub(crate) fn set_lookup(&mut self, lookup: Arc<dyn Lookup>) {
        self.lookup = Some(lookup);
    }

    pub(crate) fn set_indirect(&mut self, from: Arc<dyn Indirect>) {
        self.fetch.set(from);
    }
}

/// Sends everything up to `head`. Slots taken.
#[inline(never)]
pub(crate) fn txsync(
    party: &Party<'_>,
    tx: &TxRing<'_>,
    scratch: &mut Scratch,
) -> Result<u32, BadWords> {
    let (ring, kring) = (tx.end.ring, tx.end.kring);
    let (hwcur, hwtail) = kring.hw();
    let head = prologue(ring, party.own, hwcur, hwtail).inspect_err(|_| {
        kring.count(Counter::FaultWords, 1);
    })?;
    let n = ring.span(hwcur, head);
    if n == 0 {
        return Ok(0);
    }
    // Taken before it is sent: should we die in between, another handle of this
    // port does not send it once more.
    kring.set_hw(head, hwtail);
    let run = Run {
        ring,
        map: party.own,
        first: hwcur,
        n,
    };
    let watched = kring.is_watched();
    if watched {
        scratch.fetch.all(run); // so that monitors see what is sent
        monitor::tap_copy(party, kring, true, run);
    }
    // With no monitors about, the way of the last batch may serve again.
    let done = match &scratch.route {
        Some(route) if !watched => follow(party, tx, route, hwcur, n),
        _ => 0,
    };
    if done < n {
        let first = (hwcur + done) % ring.count();
        match sender(party, tx) {
            Some(sender) => sender.send(scratch, first, n - done),
            None => count_lost(
                kring,
                Run {
                    first,
                    n: n - done,
                    ..run
                },
            ),
        }
    }
    if watched {
        monitor::tap_zcopy(party, kring, tx.end.id, true, run);
    }
    kring.count(Counter::Syncs, 1);
    let tail = if head == 0 {
        ring.count() - 1
    } else {
        head - 1
    };
    kring.set_hw(head, tail);
    ring.set_tail(tail);
    Ok(n)
}

fn sender<'a>(party: &'a Party<'a>, tx: &TxRing<'a>) -> Option<Sender<'a>> {
    let rec = tx.port.rec(party.world)?;
    let seat = rec.seat()?;
    let opts = rec.opts();
    let switch = Switch::at(party.world, seat.switch)?;
    Some(Sender {
        party,
        switch,
        seat,
        ring: tx.idx,
        opts,
        kring: tx.end.kring,
        bufs: party.own.bufs(),
        from: Source {
            kring: tx.end.id,
            ring: tx.end.ring,
            map: party.own,
            // Monitors are shown the sender's buffers once more afterwards.
            gives: opts.gives_buffers && !tx.end.kring.is_watched(),
            offsets: tx.end.kring.offsets(),
        },
        kind: switch.lookup(),
        epoch: party.world.epoch(),
    })
}

/// A port that is attached to no switch discards what it sends.
#[cold]
fn count_lost(kring: Kring<'_>, run: Run<'_>) {
    let slots = (0..run.n).map(|i| run.ring.slot((run.first + i) % run.ring.count()));
    let (mut frames, mut bytes) = (0, 0);
    for slot in slots {
        frames += u64::from(!slot.has(NS_MOREFRAG));
        bytes += u64::from(slot.len());
    }
    kring.count(Counter::Frames, frames);
    kring.count(Counter::Bytes, bytes);
    kring.count(Counter::DropNoDest, frames);
}

/// Sums of one sync, stored once at its end.
#[derive(Default)]
struct Sums {
    frames: u64,
    bytes: u64,
    bad_slot: u64,
    chain: u64,
    runt: u64,
    no_dest: u64,
    flooded: u64,
}

impl Sender<'_> {
    fn send(&self, scratch: &mut Scratch, first: u32, n: u32) {
        let mut sums = Sums::default();
        let (mut at, mut left) = (first, n);
        while left > 0 {
            let run = self.run(&mut scratch.route, at, left, &mut sums);
            if run > 0 {
                at = (at + run) % self.from.ring.count();
                left -= run;
                continue;
            }
            let taken = self.collect(scratch, at, left, &mut sums);
            self.look_up(scratch, &mut sums);
            self.deliver(scratch);
            at = (at + taken) % self.from.ring.count();
            left -= taken;
        }
        for (c, v) in [
            (Counter::Frames, sums.frames),
            (Counter::Bytes, sums.bytes),
            (Counter::DropSlot, sums.bad_slot),
            (Counter::DropChain, sums.chain),
            (Counter::DropRunt, sums.runt),
            (Counter::DropNoDest, sums.no_dest),
            (Counter::Flooded, sums.flooded),
        ] {
            self.kring.count(c, v);
        }
    }

    /// The common case: single-slot frames from one station to one place. If
    /// they are all that is left, or many, sends them with no list at all.
    /// Returns how many; 0 if the long way must be gone.
    #[inline]
    fn run(&self, route: &mut Option<Route>, first: u32, left: u32, sums: &mut Sums) -> u32 {
        if self.opts.vnet_hdr != 0
            || !self.from.offsets.is_none()
            || !matches!(self.kind, LookupKind::Learning | LookupKind::Static)
        {
            return 0;
        }
        let Some(key) = self.key(first) else { return 0 };
        let Some((n, bytes)) = measure(&self.from, first, left, key) else {
            return 0;
        };
        let (dst, src) = (key.0 & 0xffff_ffff_ffff, key.0 >> 48 | key.1 << 16);
        let fdb = self.switch.fdb();
        let dest = match self.kind {
            LookupKind::Learning => {
                fdb.learn(src, self.seat.idx, self.epoch);
                lookup::learned(fdb, dst)
            }
            _ => lookup::entered(fdb, dst),
        };
        match dest {
            Dest::Port(p) if p != self.seat.idx => {
                let topology = self.party.world.topology();
                match self.rings_of(p, self.ring) {
                    Some((_, opts)) if opts.vnet_hdr != 0 => return 0, // to be converted
                    Some((ring, _)) => {
                        self.with_target(ring, n, |to| {
                            deliver_run(self.party, &self.from, to, first, n, bytes);
                            *route = self.route(topology, key, to, false);
                        });
                    }
                    None => sums.no_dest += u64::from(n),
                }
            }
            Dest::All => {
                if !self.flood_run(route, key, (first, n, bytes)) {
                    return 0;
                }
                sums.flooded += u64::from(n);
            }
            Dest::Port(_) | Dest::Drop => sums.no_dest += u64::from(n),
        }
        sums.frames += u64::from(n);
        sums.bytes += bytes;
        n
    }

    /// The addresses of the frame in slot `at`, as loaded.
    #[inline]
    fn key(&self, at: u32) -> Option<Key> {
        let (a, b) = self.bufs.head(self.from.ring.slot(at).buf(), 0)?;
        Some((a, b & 0xffff_ffff))
    }

    /// A ring of the port in seat `p`.
    #[inline]
    fn outlet(&self, ring: KringId, p: u16) -> Outlet {
        let seat = Seat {
            idx: p,
            ..self.seat
        };
        Outlet { ring, seat }
    }

    fn with_target(&self, to: Outlet, n: u32, f: impl FnOnce(&Target<'_>)) {
        let Some(kring) = self.party.world.kring(to.ring) else {
            return;
        };
        let Some(map) = self.party.map_of(kring) else {
            return kring.count_fault(n.into());
        };
        match Target::seated(self.party.world, to, kring, &map) {
            Ok(to) => f(&to),
            Err(why) => not_found(kring, why, n.into()),
        }
    }

    /// What a later sync needs to send to the same place without a search:
    /// only if the destination lies in our own region, its frames begin at
    /// their buffers' first bytes, and nobody watches it. `flood`: it is where
    /// frames for everyone go, because it is everyone.
    fn route(&self, topology: u64, key: Key, to: &Target<'_>, flood: bool) -> Option<Route> {
        if to.map.id != self.from.map.id
            || to.map.generation != self.from.map.generation
            || to.kring.is_watched()
            || !to.offsets.is_none()
        {
            return None;
        }
        let (dst, src) = (key.0 & 0xffff_ffff_ffff, key.0 >> 48 | key.1 << 16);
        let fdb = self.switch.fdb();
        Some(Route {
            topology,
            key,
            fdb: Switch::fdb_window(self.party.world, self.seat.switch)?,
            epoch: self.epoch,
            dst: match flood {
                true => None,
                false => Some(fdb.probe(dst)?),
            },
            src: match self.kind {
                LookupKind::Learning if is_station(src) => Some(fdb.probe(src)?),
                _ => None,
            },
            kring: self.party.world.kring_window(to.id)?,
            ring: RingWindow::at(&to.map.mem, to.kring.geom().ofs, to.ring.count())?,
            generation: to.generation,
            gives: self.from.gives && !flood,
            flood,
        })
    }

    /// Sends a run to every other port; `false` (and nothing sent) if one of
    /// them wants the frames converted.
    fn flood_run(
        &self,
        route: &mut Option<Route>,
        key: Key,
        (first, n, bytes): (u32, u32, u64),
    ) -> bool {
        let topology = self.party.world.topology();
        let others = (0..self.switch.top())
            .filter(|&p| p != self.seat.idx)
            .filter_map(|p| self.rings_of(p, 0));
        let mut count = 0;
        for (_, opts) in others.clone() {
            if opts.vnet_hdr != 0 {
                return false;
            }
            count += 1;
        }
        let from = Source {
            gives: false, // a buffer can be given to one only
            ..self.from
        };
        // A station that is not known yet may become known without a change of
        // the topology, a group address may not.
        let stays = count == 1 && key.0 & 1 != 0 && matches!(self.kind, LookupKind::Learning);
        for (ring, _) in others {
            self.with_target(ring, n, |to| {
                deliver_run(self.party, &from, to, first, n, bytes);
                if stays {
                    *route = self.route(topology, key, to, true);
                }
            });
        }
        true
    }

    /// Ring `ring` (modulo their number) of port `p`, and its options.
    #[inline]
    fn rings_of(&self, p: u16, ring: u16) -> Option<(Outlet, Opts)> {
        let rec = self.switch.port(p)?.rec(self.party.world)?;
        let is_vale = rec.kind() == PortKind::Vale;
        is_vale.then_some((self.outlet(rec.rx().wrap(ring)?, p), rec.opts()))
    }

    /// Pass 2: each frame to its destination's chain.
    #[inline]
    fn look_up(&self, scratch: &mut Scratch, sums: &mut Sums) {
        let Scratch {
            ents,
            chains,
            touched,
            flood,
            lookup,
            ..
        } = scratch;
        let hdr = u16::from(self.opts.vnet_hdr);
        // Addresses and answer of the frame before: most batches have runs.
        let mut last = (u64::MAX, u64::MAX, Dest::Drop);
        let mut i = 0;
        while i < ents.len() {
            if let Some(ahead) = ents.get(i + PREFETCH) {
                self.bufs.prefetch(ahead.slot.buf());
            }
            let head = ents[i];
            let frags = usize::from(head.frags).max(1);
            let next = i + frags;
            // The frame proper begins behind the header, perhaps in slot two.
            let (ent, off) = match head.slot.len() {
                len if len > hdr => (head, hdr),
                len if len == hdr && frags > 1 => (ents[i + 1], 0),
                _ => {
                    sums.runt += 1;
                    i = next;
                    continue;
                }
            };
            let words = self.head(ent.slot.buf(), usize::from(ent.off) + usize::from(off));
            let Some((a, b)) = words.filter(|_| ent.slot.len() - off >= 14) else {
                sums.runt += 1;
                i = next;
                continue;
            };
            let dst = a & 0xffff_ffff_ffff;
            let src = a >> 48 | (b & 0xffff_ffff) << 16;
            if src != last.1 && matches!(self.kind, LookupKind::Learning | LookupKind::HashToRing) {
                self.switch.fdb().learn(src, self.seat.idx, self.epoch);
            }
            // Who sends to itself has just been learned, to be found here.
            let anew = src != last.1 && (src == dst || self.kind == LookupKind::Custom);
            if dst != last.0 || anew {
                last.2 = self.decide(lookup.as_deref(), dst, src, b);
            }
            (last.0, last.1) = (dst, src);
            let (at, frags) = (u16::try_from(i).unwrap_or(0), head.frags);
            match last.2 {
                Dest::Port(p) if p != self.seat.idx => match chains.get_mut(usize::from(p)) {
                    Some(chain) => {
                        if chain.first == NIL {
                            touched.push(p);
                        }
                        chain.append(ents, at, frags);
                    }
                    None => sums.no_dest += 1,
                },
                Dest::All => {
                    flood.append(ents, at, frags);
                    sums.flooded += 1;
                }
                Dest::Port(_) | Dest::Drop => sums.no_dest += 1,
            }
            i = next;
        }
    }

    /// The first 16 bytes of a frame, of which 14 must be inside the buffer.
    #[inline]
    fn head(&self, buf: u32, at: usize) -> Option<(u64, u64)> {
        self.bufs.head(buf, at).or_else(|| {
            let mut b = [0; 16];
            let read = self.bufs.read(buf, at, &mut b[..14]);
            let [lo, hi] = [0, 8].map(|i| b[i..].first_chunk().copied().unwrap_or_default());
            read.then(|| (u64::from_le_bytes(lo), u64::from_le_bytes(hi)))
        })
    }

    #[inline]
    fn decide(&self, custom: Option<&dyn Lookup>, dst: u64, src: u64, b: u64) -> Dest {
        let fdb = self.switch.fdb();
        let dest = match self.kind {
            LookupKind::Learning | LookupKind::HashToRing => lookup::learned(fdb, dst),
            LookupKind::Static => lookup::entered(fdb, dst),
            LookupKind::Custom => custom.map_or(Dest::Drop, |l| {
                // Bytes 12 and 13 of the frame, in network order.
                let [_, _, _, _, hi, lo, ..] = b.to_le_bytes();
                let ethertype = u16::from_be_bytes([hi, lo]);
                l.lookup(&FrameHead {
                    dst,
                    src,
                    ethertype,
                    port: self.seat.idx,
                    ring: self.ring,
                })
            }),
        };
        match dest {
            // A port that left: nobody has taken its index yet.
            Dest::Port(p) if self.switch.port(p).is_none() => Dest::Drop,
            other => other,
        }
    }
}
