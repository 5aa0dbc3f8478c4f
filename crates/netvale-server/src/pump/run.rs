//! The thread that serves lanes.
//!
//! It sleeps as a worker does: it looks for a while, says in the sleep words
//! of its rings that it sleeps, looks once more, and waits for its bell and
//! for its devices at once.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netvale_ring::kring::sleep;
use netvale_ring::world::Waker;
use netvale_shm::Doorbell;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::{Heard, Interest, Lane, News};
use crate::sleep::Idle;

/// Marks the thread's own bell among events; lanes have smaller numbers.
const OWN_BELL: u64 = u64::MAX;
/// Events taken at once; others are seen the next time.
const EVENTS: usize = 64;

/// The control thread's handle of a thread.
#[derive(Debug)]
pub(crate) struct Pump {
    bell: Arc<Doorbell>,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
    /// In whose name it sleeps.
    pub(crate) owner: u16,
    /// Lanes that it serves.
    lanes: Vec<u64>,
}

#[derive(Debug)]
enum Order {
    Add(Box<Lane>),
    Remove(Removal),
    /// Never sleep, or do.
    Spin(bool),
    End,
}

/// A lane that is to be given back.
#[derive(Debug)]
struct Removal {
    lane: u64,
    /// First what is queued goes to the device.
    sent: bool,
    to: SyncSender<Box<Lane>>,
}

impl Pump {
    /// Starts one that sleeps in the name of `owner`, on a processor if one
    /// is named. `news`: where it tells of devices that are gone.
    pub(crate) fn spawn(
        owner: u16,
        cpu: Option<usize>,
        bell: Arc<Doorbell>,
        waker: Arc<dyn Waker>,
        news: News,
    ) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(OWN_BELL);
        epoll::add(&epoll, &bell, data, epoll::EventFlags::IN)?;
        let thread = Thread {
            said: sleep::BELL + u32::from(owner),
            bell: Arc::clone(&bell),
            epoll,
            inbox,
            waker,
            news,
            lanes: Vec::new(),
            spin: false,
        };
        let thread = std::thread::Builder::new()
            .name("netvale-pump".into())
            .stack_size(512 * 1024)
            .spawn(move || {
                if let Some(cpu) = cpu {
                    pin(cpu);
                }
                thread.run();
            })?;
        Ok(Self {
            bell,
            orders,
            thread: Some(thread),
            owner,
            lanes: Vec::new(),
        })
    }

    /// How many lanes it serves.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Serves this one too from now on.
    pub(crate) fn add(&mut self, lane: Lane) {
        self.lanes.push(lane.id);
        self.order(Order::Add(Box::new(lane)));
    }

    /// Serves that one no longer, if it is one of its: when this returns its
    /// device is closed and its memory is not touched any more.
    pub(crate) fn remove(&mut self, lane: u64) {
        drop(self.take(lane));
    }

    /// As [`Pump::remove`], after what is queued has been sent.
    pub(crate) fn finish(&mut self, lane: u64) {
        drop(self.give(lane, true));
    }

    /// Serves that one no longer, and gives it back.
    pub(crate) fn take(&mut self, lane: u64) -> Option<Lane> {
        self.give(lane, false)
    }

    fn give(&mut self, lane: u64, sent: bool) -> Option<Lane> {
        let at = self.lanes.iter().position(|&l| l == lane)?;
        self.lanes.swap_remove(at);
        let (to, wait) = sync_channel(1);
        self.order(Order::Remove(Removal { lane, sent, to }));
        match wait.recv() {
            Ok(lane) => Some(*lane),
            Err(_) => {
                tracing::error!(lane, "the thread of a device has died");
                None
            }
        }
    }

    /// Whether it never sleeps.
    pub(crate) fn spin(&self, on: bool) {
        self.order(Order::Spin(on));
    }

    fn order(&self, order: Order) {
        // A dead thread is noticed by `give`, and when it is joined.
        let _ = self.orders.send(order);
        self.bell.ring();
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a device had died");
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        set.set(cpu);
    }
    if let Err(e) = sched_setaffinity(None, &set) {
        tracing::warn!(cpu, "cannot stay on that processor: {e}");
    }
}

/// The thread.
struct Thread {
    /// What it announces in sleep words.
    said: u32,
    bell: Arc<Doorbell>,
    epoll: OwnedFd,
    inbox: Receiver<Order>,
    waker: Arc<dyn Waker>,
    news: News,
    lanes: Vec<Seated>,
    spin: bool,
}

/// A lane and what is watched for it.
struct Seated {
    lane: Box<Lane>,
    /// `None`: nothing is watched.
    watched: Option<Interest>,
    /// It has been told that it wants somewhere to pass frames on to.
    wants: bool,
}

impl Thread {
    fn run(mut self) {
        let mut idle = Idle::new();
        let mut events = Vec::with_capacity(EVENTS);
        // What woke the thread need not be asked for again.
        let mut looked = false;
        loop {
            if !std::mem::take(&mut looked) {
                self.watch(false);
                self.look(&mut events, Some(Duration::ZERO));
            }
            let Some(moved) = self.go_round() else { return };
            if moved {
                idle.moved();
                continue;
            }
            let looks_on = idle.looks_on() || self.spin;
            if looks_on && !self.lanes.is_empty() {
                // Lets one run that shares our processor and has work for us.
                std::thread::yield_now();
                continue;
            }
            for seated in &mut self.lanes {
                seated.lane.rest();
            }
            self.announce();
            match self.go_round() {
                None => return,
                Some(true) => {}
                Some(false) => {
                    let due = self.lanes.iter().filter_map(|s| s.lane.due()).min();
                    let time = due.map(|due| due.saturating_duration_since(Instant::now()));
                    self.watch(true);
                    self.look(&mut events, time);
                    looked = true;
                    idle.slept();
                }
            }
            self.recall();
            idle.moved();
        }
    }

    /// Serves every lane once, and obeys between two. Whether anything moved;
    /// `None` to end.
    fn go_round(&mut self) -> Option<bool> {
        let mut moved = self.obey()?;
        let mut i = 0;
        while i < self.lanes.len() {
            moved |= self.serve(i, Lane::serve);
            i += 1;
            moved |= self.obey()?;
        }
        // What later lanes sent to earlier ones need not wait for another look
        // at the devices.
        let again = if moved { self.lanes.len() } else { 0 };
        for i in 0..again {
            self.serve(i, Lane::serve_rest);
        }
        Some(moved)
    }

    fn serve(&mut self, i: usize, how: fn(&mut Lane) -> netvale_lane::Round) -> bool {
        let Some(seated) = self.lanes.get_mut(i).filter(|s| !s.lane.is_gone()) else {
            return false;
        };
        // A mistake of ours that one device brings to light must not end the
        // service of the others.
        let lane = &mut seated.lane;
        let (moved, why) = match catch_unwind(AssertUnwindSafe(|| how(lane))) {
            Ok(round) if round.gone => {
                let why = lane.trouble().unwrap_or("gone");
                (round.moved, Some(why.to_owned()))
            }
            Ok(round) => {
                if round.wants_onward && !std::mem::replace(&mut seated.wants, true) {
                    self.news.tell(lane.id, Heard::WantsOnward);
                }
                (round.moved, None)
            }
            Err(_) => (false, Some("its service failed".into())),
        };
        if let Some(why) = why {
            seated.lane.give_up();
            let id = seated.lane.id;
            self.unwatch(i);
            self.news.tell(id, Heard::Gone(why));
        }
        moved
    }

    /// Whether there was an order; `None` to end.
    fn obey(&mut self) -> Option<bool> {
        let mut any = false;
        while let Ok(order) = self.inbox.try_recv() {
            any = true;
            match order {
                Order::End => return None,
                Order::Add(lane) => self.lanes.push(Seated {
                    lane,
                    watched: None,
                    wants: false,
                }),
                Order::Remove(removal) => self.remove(&removal),
                Order::Spin(on) => self.spin = on,
            }
        }
        Some(any)
    }

    fn remove(&mut self, removal: &Removal) {
        let mut seated = self.lanes.iter();
        let Some(i) = seated.position(|s| s.lane.id == removal.lane) else {
            return;
        };
        if removal.sent {
            self.serve(i, |lane| netvale_lane::Round {
                moved: lane.serve_out(),
                ..netvale_lane::Round::default()
            });
        }
        self.unwatch(i);
        let lane = self.lanes.swap_remove(i).lane;
        lane.disarm(self.said);
        let _ = removal.to.send(lane); // whoever asked waits for it
    }

    /// Watches the devices for what their lanes wait for; `exactly`: for no
    /// more than that, which would keep the thread from sleeping.
    fn watch(&mut self, exactly: bool) {
        for seated in &mut self.lanes {
            let lane = &seated.lane;
            let Some(fd) = lane.fd().filter(|_| !lane.is_gone()) else {
                continue;
            };
            let wanted = lane.interest();
            let fine = |have: Interest| match exactly || have.edges != wanted.edges {
                true => have == wanted,
                false => have.readable >= wanted.readable && have.writable >= wanted.writable,
            };
            if seated.watched.is_some_and(fine) {
                continue;
            }
            let mut flags = epoll::EventFlags::empty();
            flags.set(epoll::EventFlags::IN, wanted.readable);
            flags.set(epoll::EventFlags::OUT, wanted.writable);
            if wanted.edges && wanted.readable {
                // Always writable, it shows whatever it is woken for.
                flags |= epoll::EventFlags::OUT | epoll::EventFlags::ET;
            }
            let data = epoll::EventData::new_u64(lane.id);
            let done = match seated.watched {
                None => epoll::add(&self.epoll, fd, data, flags),
                Some(_) => epoll::modify(&self.epoll, fd, data, flags),
            };
            match done {
                Ok(()) => seated.watched = Some(wanted),
                Err(e) => tracing::error!(lane = lane.id, "cannot wait for a device: {e}"),
            }
        }
    }

    fn unwatch(&mut self, i: usize) {
        if let Some(seated) = self.lanes.get_mut(i)
            && seated.watched.take().is_some()
            && let Some(fd) = seated.lane.fd()
        {
            // Not there if the device took itself away.
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    /// Says that the thread is about to sleep.
    fn announce(&self) {
        for seated in &self.lanes {
            for kring in seated.lane.krings() {
                kring.sleep_word().announce(self.said, &*self.waker);
            }
            if let Some(kring) = seated.lane.frames_kring() {
                let word = kring.sleep_word();
                word.announce_for_frames(self.said, &*self.waker);
            }
        }
    }

    /// Says that it is awake again.
    fn recall(&self) {
        self.lanes.iter().for_each(|s| s.lane.disarm(self.said));
    }

    /// Waits for the bell and the devices, for this time at most.
    fn look(&mut self, events: &mut Vec<epoll::Event>, time: Option<Duration>) {
        events.clear();
        let spare = rustix::buffer::spare_capacity(events);
        let timeout = time.and_then(|t| Timespec::try_from(t).ok());
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => {
                // Cannot happen with a live descriptor; do not burn a CPU.
                tracing::error!("a device's thread cannot wait: {e}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        for event in events {
            let (flags, id) = (event.flags, event.data.u64());
            if id == OWN_BELL {
                self.bell.clear();
                continue;
            }
            let wrong = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
            if let Some(seated) = self.lanes.iter_mut().find(|s| s.lane.id == id) {
                let readable = flags.intersects(epoll::EventFlags::IN | wrong);
                let writable = flags.intersects(epoll::EventFlags::OUT | wrong);
                seated.lane.wake(readable, writable);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use netvale_backends::batch::{Batch, BufPool, Piece};
    use netvale_lane::Dir;
    use netvale_shm::HugePages;
    use netvale_switch::domain::{Config, Domain, Want};
    use netvale_switch::end::Gear;
    use netvale_wire::name::PortSpec;

    use super::*;
    use crate::bells::Bells;
    use crate::files::FileSource;
    use crate::pump::{DeviceLane, Losses, Pushed, Trouble};
    use crate::regions::{SharedRegions, as_source};

    /// Fails when it is asked to send, once it is told so.
    #[derive(Debug)]
    struct Bad(Arc<AtomicBool>);

    impl DeviceLane for Bad {
        fn fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn longest(&self) -> usize {
            60
        }

        fn pull(&mut self, _: &BufPool, _: &[Piece], _: &mut Batch) -> Result<usize, Trouble> {
            Ok(0)
        }

        fn push(&mut self, _: &BufPool, _: &Batch) -> Result<Pushed, Trouble> {
            Ok(Pushed::default())
        }

        fn poke(&mut self) -> Result<(), Trouble> {
            assert!(!self.0.load(Relaxed), "as it should");
            Ok(())
        }
    }

    fn domain() -> (Domain<FileSource>, Arc<Bells>, Gear) {
        let domain = Domain::new(Config::default(), FileSource::new(HugePages::Never)).unwrap();
        let (regions, bells) = (Arc::<SharedRegions>::default(), Arc::<Bells>::default());
        let gear = Gear {
            world: domain.world().clone(),
            source: as_source(&regions),
            waker: Arc::clone(&bells) as Arc<dyn Waker>,
        };
        (domain, bells, gear)
    }

    /// A lane of a new port.
    fn lane(
        domain: &mut Domain<FileSource>,
        gear: &Gear,
        (id, name): (u64, &str),
        device: Box<dyn DeviceLane>,
    ) -> Lane {
        let owner = domain.add_owner(1, false).unwrap();
        let spec = PortSpec::parse(name).unwrap();
        let reg = domain.register(owner, &spec, &Want::default()).unwrap();
        let map = &domain.region(reg.region, reg.region_gen).unwrap().0;
        let rings = (&reg.tx[0], &reg.rx[0]);
        Lane::new(id, gear, &reg, rings, map, device, &Losses::default()).unwrap()
    }

    /// Needs its time for each of so many frames that it has, and then for
    /// nothing.
    #[derive(Debug)]
    struct Slow {
        frames: Arc<AtomicU64>,
        due: Option<Instant>,
    }

    const TIME: Duration = Duration::from_millis(2);

    impl DeviceLane for Slow {
        fn fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn longest(&self) -> usize {
            60
        }

        fn pull(
            &mut self,
            _: &BufPool,
            free: &[Piece],
            batch: &mut Batch,
        ) -> Result<usize, Trouble> {
            std::thread::sleep(TIME);
            let left = self.frames.load(Relaxed);
            if left == 0 {
                return Ok(0);
            }
            self.frames.store(left - 1, Relaxed);
            batch.push_buf(free[0].buf, 60);
            Ok(1)
        }

        fn due(&self) -> Option<Instant> {
            self.due
        }

        fn is_idle(&self, dir: Dir) -> bool {
            dir == Dir::Out
        }

        fn push(&mut self, _: &BufPool, _: &Batch) -> Result<Pushed, Trouble> {
            Ok(Pushed::default())
        }
    }

    #[test]
    fn what_a_device_costs_is_its_ports_time() {
        // One that says that it has frames, and one that is asked at its time.
        for due in [None, Some(Instant::now())] {
            let (mut domain, _bells, gear) = domain();
            let frames = Arc::new(AtomicU64::new(0));
            let device = Box::new(Slow {
                frames: Arc::clone(&frames),
                due,
            });
            let mut lane = lane(&mut domain, &gear, (1, "vale0:a"), device);
            let spent = || {
                let ns = domain.stats(Some("vale0:a"))[0].cpu_ns;
                Duration::from_nanos(ns)
            };
            assert!(!lane.serve().moved);
            assert_eq!(spent(), Duration::ZERO, "nothing was done");
            let rounds = 40;
            frames.store(rounds.into(), Relaxed);
            for round in 1..=rounds {
                lane.wake(due.is_none(), false);
                assert!(lane.serve().moved);
                assert!(spent() >= TIME * round, "{:?}", spent());
            }
            let before = spent();
            assert!(!lane.serve().moved);
            assert_eq!(spent(), before, "nothing was done");
        }
    }

    #[test]
    fn a_lane_that_fails_at_the_end_does_not_end_the_others() {
        let (mut domain, bells, gear) = domain();
        let bad = Arc::new(AtomicBool::new(false));
        let mut lane = |id, name, bad: Arc<AtomicBool>| {
            lane(&mut domain, &gear, (id, name), Box::new(Bad(bad)))
        };
        let first = lane(1, "vale0:a", Arc::clone(&bad));
        let second = lane(2, "vale0:b", Arc::default());
        let bell = Arc::new(Doorbell::new().unwrap());
        let (to, heard) = channel();
        let news = News::new(to, Arc::clone(&bell));
        let waker = Arc::clone(&bells) as Arc<dyn Waker>;
        let mut pump = Pump::spawn(9, None, bell, waker, news).unwrap();
        pump.add(first);
        pump.add(second);
        bad.store(true, Relaxed);
        pump.finish(1);
        assert!(matches!(heard.recv(), Ok((1, Heard::Gone(_)))));
        assert_eq!(pump.take(2).map(|lane| lane.id), Some(2));
        assert_eq!(pump.lanes(), 0);
    }
}
