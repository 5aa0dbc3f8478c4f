//! One queue of a device and the pair of rings that it feeds and drains.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use netvale_backends::batch::{Batch, BufPool, MAX_PIECES, Piece};
use netvale_ring::kring::Kring;
use netvale_ring::port::PortKind;
use netvale_ring::slot::{NS_MOREFRAG, Slot};
use netvale_ring::world::RegionMap;
use netvale_switch::domain::{Registration, RingInfo};
use netvale_switch::end::{Gear, RxEnd, SyncError, TxEnd};

use crate::books::MOST_SLOTS;
use crate::finish;
use crate::forward::Onward;
use crate::meter::Meter;
use crate::{DeviceLane, Dir, Interest, Loss, Losses, Pushed, Step, Trouble};

/// Slots moved in one direction before the other gets its turn: eight of the
/// longest frames.
const TURN: usize = MOST_SLOTS;
/// When to look again if another process was at the device, or if only time
/// makes room.
const SOON: Duration = Duration::from_micros(100);

/// What a round of a lane brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Frames or slots changed hands.
    pub moved: bool,
    /// The device is no more.
    pub gone: bool,
    /// Frames are to be passed on, and there is nowhere yet
    /// ([`Lane::set_onward`]).
    pub wants_onward: bool,
}

/// A queue with its rings.
pub struct Lane {
    /// Tells lanes of one thread apart.
    pub id: u64,
    device: Box<dyn DeviceLane>,
    tx: TxEnd,
    rx: RxEnd,
    pool: BufPool,
    /// Bytes of a buffer.
    room: u32,
    pipe: bool,
    /// The device may have frames.
    ready: bool,
    /// It had no room for frames the last time.
    full: bool,
    /// It does not say when it has.
    until: Option<Instant>,
    /// How often in a row there was no room for the device's frames.
    cramped: u32,
    free: Vec<Piece>,
    batch: Batch,
    out: Outgoing,
    /// Slots of what was received, and those with buffers that it left.
    order: Vec<Slot>,
    rest: Vec<Slot>,
    onward: Onward,
    /// A frame's bytes.
    bytes: Vec<u8>,
    losses: Losses,
    meter: Meter,
    /// Another process was at the device the last time.
    taken: bool,
    gone: bool,
    trouble: Option<String>,
}

#[derive(Debug, Default)]
struct Outgoing {
    batch: Batch,
    /// Behind each frame of the batch: the slot after it.
    ends: Vec<u32>,
}

impl Lane {
    /// `None` if the rings do not lie where they should.
    pub fn new(
        id: u64,
        gear: &Gear,
        reg: &Registration,
        (tx, rx): (&RingInfo, &RingInfo),
        map: &RegionMap,
        mut device: Box<dyn DeviceLane>,
        losses: &Losses,
    ) -> Option<Self> {
        let geom = map.geom;
        device.name(reg.owner);
        let losses = device.losses().unwrap_or_else(|| losses.clone());
        Some(Self {
            id,
            device,
            tx: TxEnd::new(gear, reg, tx, map)?,
            rx: RxEnd::new(gear, reg, rx, map)?,
            pool: BufPool::new(&map.mem, geom.buf_ofs(), geom.bufs, geom.buf_size)?,
            room: geom.buf_size,
            pipe: reg.kind == PortKind::Pipe,
            ready: true,
            full: false,
            until: None,
            cramped: 0,
            free: Vec::with_capacity(TURN),
            batch: Batch::with_capacity(TURN, TURN),
            out: Outgoing::default(),
            order: Vec::with_capacity(TURN),
            rest: Vec::with_capacity(TURN),
            onward: Onward::default(),
            bytes: Vec::new(),
            losses,
            meter: Meter::default(),
            taken: false,
            gone: false,
            trouble: None,
        })
    }

    /// What to watch.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.fd()
    }

    /// Why it is gone.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether it is.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// The device has news.
    pub fn wake(&mut self, readable: bool, writable: bool) {
        self.ready |= readable || (writable && self.device.edges());
        // Some devices say so all the time.
        self.full &= !(writable && self.until.is_none());
    }

    /// What to be told: what the device has and there is no room for would wake
    /// us again and again.
    pub fn interest(&self) -> Interest {
        // A device that says when to ask again would wake us before that.
        let full = self.full && self.until.is_none() && self.device.due().is_none();
        Interest {
            readable: !self.ready,
            writable: full,
            edges: self.device.edges(),
        }
    }

    /// When to look again though nobody rings.
    pub fn due(&self) -> Option<Instant> {
        match (self.gone, self.taken) {
            (true, _) => None,
            (false, true) => Some(Instant::now() + SOON),
            // Time does not make room. The second look came after the thread
            // had been announced: whoever makes room wakes it.
            (false, false) if self.waits_for_room() && self.cramped > 1 => self.until,
            (false, false) => self.until.into_iter().chain(self.device.due()).min(),
        }
    }

    /// Only time brings frames, which would not let the thread sleep, and for
    /// those that are there a pipe's receiver has to make room.
    fn waits_for_room(&self) -> bool {
        self.pipe && self.cramped > 0 && self.device.fd().is_none()
    }

    /// Rings on whose sleep words the thread must be announced.
    pub fn krings(&self) -> impl Iterator<Item = Kring<'_>> {
        // A pipe's receiver need not tell of slots that nobody waits for.
        let waits = self.pipe && (self.ready || self.waits_for_room());
        let tx = waits.then(|| self.tx.kring());
        tx.into_iter().chain([self.rx.kring()])
    }

    /// A ring on whose sleep word it must be announced that frames may have to
    /// be passed on.
    pub fn frames_kring(&self) -> Option<Kring<'_>> {
        let may = self.tx.receiver().is_some_and(Kring::may_forward);
        (may && !self.ready).then(|| self.tx.kring())
    }

    /// Whether the program passes frames on by releasing them. Only
    /// [`Lane::serve`] does that: one that is served otherwise must be left to
    /// whoever has somewhere to pass them on to.
    pub fn passes_on(&self) -> bool {
        self.tx.receiver().is_some_and(Kring::forwards)
    }

    /// Where frames go that the program passes on by releasing them; `None`:
    /// they wait.
    pub fn set_onward(&mut self, device: Option<Box<dyn DeviceLane>>) {
        self.onward.set(device);
    }

    /// The thread is awake.
    pub fn disarm(&self, said: u32) {
        self.rx.kring().sleep_word().disarm(said);
        if self.pipe {
            self.tx.kring().sleep_word().disarm(said);
        }
    }

    /// Nothing moves: what the device has collected goes out.
    pub fn rest(&mut self) {
        self.device.rest();
        if let Some((why, lost)) = self.device.left_out() {
            self.losses.count(why, lost);
        }
    }

    /// It is not served any more.
    pub fn give_up(&mut self) {
        self.gone = true;
    }

    /// One turn in each direction.
    pub fn serve(&mut self) -> Round {
        if self.gone {
            return Round::default();
        }
        self.taken = false;
        // One that begins is due at the moment that it is asked.
        let due = self.device.due();
        let began = self.meter.begin();
        // Not worth a look at the clock for nothing.
        let waits = due.is_some() || self.until.is_some();
        let now = began.or_else(|| waits.then(Instant::now));
        let timed = due.zip(now).is_some_and(|(due, now)| now >= due);
        let paused = self.until.take_if(|until| now >= Some(*until));
        self.full &= !timed && paused.is_none();
        let mut moved = self.onward.serve(&mut self.tx, &self.pool, &self.losses);
        if self.ready || timed {
            moved |= self.pull();
        }
        moved |= self.push();
        if moved {
            self.meter.moved(began, self.tx.kring());
        }
        Round {
            moved,
            gone: self.gone,
            wants_onward: self.onward.wanted(),
        }
    }

    /// A turn to the device only: for what lanes that were served later have
    /// sent to this one.
    pub fn serve_rest(&mut self) -> Round {
        let mut moved = false;
        if !self.gone && !self.has_nothing_to_send() {
            let began = self.meter.begin();
            moved = self.push();
            if moved {
                self.meter.moved(began, self.tx.kring());
            }
        }
        Round {
            moved,
            gone: self.gone,
            wants_onward: self.onward.wanted(),
        }
    }

    /// A turn from the device only, for whoever is at it anyway: looks even if
    /// nobody said that the device is readable. Whether anything moved.
    pub fn serve_in(&mut self) -> bool {
        if self.gone || self.passes_on() || self.device.is_idle(Dir::In) {
            return false;
        }
        self.pull()
    }

    /// All that is queued goes to the device. Whether anything moved.
    pub fn serve_out(&mut self) -> bool {
        if self.gone || self.has_nothing_to_send() {
            return false;
        }
        self.full = false;
        let mut turns = self.rx.ring().count() as usize / TURN + 1;
        let mut moved = false;
        while turns > 0 && self.push() {
            moved = true;
            turns -= 1;
        }
        moved
    }

    /// Nothing to take, nothing to give back.
    fn has_nothing_to_send(&self) -> bool {
        self.rx.idle() && !self.is_queued() && self.device.is_idle(Dir::Out)
    }

    /// Frames were shown to us that the device had no room for.
    fn is_queued(&self) -> bool {
        let ring = self.rx.ring();
        ring.head() != ring.tail()
    }

    /// The device has no room for what is queued.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Gives the device back, without its rings.
    #[must_use]
    pub fn into_device(self) -> Box<dyn DeviceLane> {
        self.device
    }

    /// Whether a direction of the device is ours until it is left.
    fn enter(&mut self, dir: Dir) -> bool {
        match self.device.enter(dir) {
            Ok(ours) => {
                self.taken |= !ours;
                if ours {
                    self.finish(dir);
                }
                ours
            }
            Err(e) => {
                self.fail(e);
                false
            }
        }
    }

    /// Does what another process may not have come to do.
    fn finish(&mut self, dir: Dir) {
        let Some(step) = self.device.unfinished(dir, &mut self.order) else {
            return;
        };
        match dir {
            Dir::In => {
                let ring = self.tx.ring();
                if ring.head() == step.first && step.head < ring.count() {
                    self.fill(step);
                    let _ = self.tx.sync(); // words are put right the next time
                }
            }
            Dir::Out => {
                let ring = self.rx.ring();
                if step.head < ring.count() {
                    ring.set_head(step.head);
                }
            }
        }
    }

    /// From the device into the switch or pipe.
    fn pull(&mut self) -> bool {
        if !self.enter(Dir::In) {
            return false;
        }
        let moved = self.pull_ours();
        self.device.leave(Dir::In);
        moved
    }

    fn pull_ours(&mut self) -> bool {
        if self.pipe {
            // Gets back what was released.
            let _ = self.tx.sync();
        }
        let ring = self.tx.ring();
        let (first, tail) = (ring.head(), self.onward.limit(ring));
        if first >= ring.count() || tail >= ring.count() {
            let _ = self.tx.sync(); // puts the words right
            return false;
        }
        self.free.clear();
        self.batch.clear();
        // Room for the longest frame, or the whole of a small ring.
        let need = self.device.longest().div_ceil(self.room as usize);
        let most = match self.device.slots() {
            Some(slots) => slots.max(need),
            None => need.saturating_mul(self.device.appetite()),
        };
        let most = most.clamp(1, TURN);
        let mut at = first;
        while at != tail && self.free.len() < most {
            let (buf, len) = (ring.slot(at).buf(), self.room);
            self.free.push(Piece { buf, off: 0, len });
            at = ring.next(at);
        }
        let most = ring.count() as usize - 1;
        if self.free.len() < need.clamp(1, MAX_PIECES.min(most)) {
            self.cramped = self.cramped.saturating_add(1);
            return false;
        }
        self.cramped = 0;
        let n = match self.device.pull(&self.pool, &self.free, &mut self.batch) {
            Ok(n) => n.min(self.batch.len()),
            Err(e) => {
                self.fail(e);
                0
            }
        };
        if let Some((why, lost)) = self.device.left_out() {
            self.losses.count(why, lost);
        }
        if n == 0 {
            // What is there and found no room is not told of again.
            self.ready = self.device.edges() && !self.device.is_drained();
            return false;
        }
        if self.device.may_be_unfinished() {
            finish::checksums(&self.pool, &self.batch, n, &mut self.bytes);
        }
        if self.device.is_drained() {
            self.ready = false;
        }
        let step = self.place(first, n);
        if let Err(e) = self.device.commit(Dir::In, step, &self.order) {
            self.fail(e);
            return false;
        }
        self.fill(step);
        if step.head != first {
            let _ = self.tx.sync(); // words are put right the next time
        }
        true
    }

    /// Works out the slots for the first `n` frames of the batch. Buffers
    /// change places so that what is used comes first.
    fn place(&mut self, first: u32, n: usize) -> Step {
        self.order.clear();
        self.rest.clear();
        let batch = &self.batch;
        let mut lost = 0;
        for i in 0..batch.len() {
            let chain = batch.chain(i);
            let good = i < n && !batch.truncated(i);
            lost += u64::from(i < n && !good);
            let used = if good { batch.frame_len(i) } else { 0 };
            let mut left = used;
            for piece in chain {
                let len = left.min(piece.len as usize);
                left -= len;
                if len == 0 {
                    self.rest.push(Slot::new(piece.buf, 0, 0));
                    continue;
                }
                let flags = if left > 0 { NS_MOREFRAG } else { 0 };
                let len = u16::try_from(len).unwrap_or(u16::MAX);
                self.order.push(Slot::new(piece.buf, len, flags));
            }
        }
        if lost > 0 {
            self.losses.count(Loss::Long, lost);
        }
        // Those behind the last chain stay where they are.
        let used = u32::try_from(self.order.len()).unwrap_or(0);
        self.order.append(&mut self.rest);
        let count = self.tx.ring().count();
        Step {
            first,
            head: (first + used) % count.max(1),
        }
    }

    /// Fills slots as worked out, and shows them.
    fn fill(&self, step: Step) {
        let ring = self.tx.ring();
        let mut at = step.first;
        for &slot in &self.order {
            ring.set_slot(at, slot);
            at = ring.next(at);
        }
        ring.set_head(step.head);
    }

    /// From the switch or pipe to the device.
    fn push(&mut self) -> bool {
        // Not worth a lock.
        if self.has_nothing_to_send() {
            return false;
        }
        if !self.enter(Dir::Out) {
            return false;
        }
        let moved = self.push_ours();
        self.device.leave(Dir::Out);
        moved
    }

    fn push_ours(&mut self) -> bool {
        let tail = match self.rx.sync() {
            Ok(tail) => tail,
            // Words put right show their frames the next time.
            Err(SyncError::BadWords) => return true,
            Err(_) => return false,
        };
        let ring = self.rx.ring();
        let first = ring.head();
        if first == tail {
            if let Err(e) = self.device.poke() {
                self.fail(e);
            }
            return false;
        }
        if self.full || first >= ring.count() || tail >= ring.count() {
            return false;
        }
        self.out.collect(&self.rx, first, tail, self.room);
        let out = &self.out;
        let pushed = match self.device.push(&self.pool, &out.batch) {
            Ok(pushed) => pushed,
            Err(Trouble::Down) => {
                let lost = out.batch.len() as u64;
                self.losses.count(Loss::Down, lost);
                Pushed {
                    done: out.batch.len(),
                    ..Pushed::default()
                }
            }
            Err(e) => {
                self.fail(e);
                return false;
            }
        };
        if pushed.refused > 0 {
            self.losses.count(Loss::Refused, pushed.refused);
        }
        self.full = pushed.done < self.out.batch.len();
        self.until = (self.full && pushed.wait).then(|| Instant::now() + SOON);
        let end = match pushed.done {
            // Only empty slots.
            0 if self.out.batch.len() == 0 => self.out.ends.last().copied(),
            0 => None,
            n if n >= self.out.batch.len() => self.out.ends.last().copied(),
            n => self.out.ends.get(n - 1).copied(),
        };
        let Some(end) = end else { return false };
        let step = Step { first, head: end };
        if let Err(e) = self.device.commit(Dir::Out, step, &[]) {
            self.fail(e);
            return false;
        }
        self.rx.ring().set_head(end);
        let _ = self.rx.sync(); // the slots go back at once
        true
    }

    fn fail(&mut self, trouble: Trouble) {
        self.ready = false;
        if let Trouble::Gone(why) = trouble {
            self.gone = true;
            self.trouble = Some(why);
        }
    }
}

impl Outgoing {
    /// Takes whole frames out of slots `first..tail`.
    fn collect(&mut self, rx: &RxEnd, first: u32, tail: u32, room: u32) {
        self.batch.clear();
        self.ends.clear();
        let ring = rx.ring();
        let mut chain = [Piece {
            buf: 0,
            off: 0,
            len: 0,
        }; MAX_PIECES];
        let (mut at, mut pieces, mut slots, mut good) = (first, 0, 0, true);
        let mut empty_end = None;
        while at != tail && slots < TURN {
            let slot = ring.slot(at);
            at = ring.next(at);
            slots += 1;
            let fits = u32::from(slot.len()) <= room;
            // The commonest: a whole frame.
            if pieces == 0 && good && fits && slot.len() > 0 && !slot.has(NS_MOREFRAG) {
                self.batch.push_buf(slot.buf(), slot.len().into());
                self.ends.push(at);
                empty_end = None;
                continue;
            }
            good &= fits;
            if slot.len() > 0 {
                match chain.get_mut(pieces) {
                    Some(piece) => {
                        *piece = Piece {
                            buf: slot.buf(),
                            off: 0,
                            len: slot.len().into(),
                        };
                        pieces += 1;
                    }
                    None => good = false,
                }
            }
            if slot.has(NS_MOREFRAG) && at != tail {
                continue;
            }
            let whole = chain.get(..pieces).unwrap_or_default();
            if good && pieces > 0 && self.batch.push(whole).is_ok() {
                self.ends.push(at);
                empty_end = None;
            } else if let Some(end) = self.ends.last_mut() {
                *end = at; // goes with the frame before
            } else {
                empty_end = Some(at);
            }
            (pieces, good) = (0, true);
        }
        if slots == TURN && self.ends.is_empty() {
            empty_end = Some(at); // longer than any frame
        }
        if self.ends.is_empty() {
            self.ends.extend(empty_end);
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("id", &self.id)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}
