//! The threads that run the engine for isolated ports.
//!
//! A worker goes round its ports and gives each one sync a ring, which the
//! engine bounds to one ring's worth of slots: whatever a client writes or
//! however often it rings, it gets its turn and no more.
//!
//! Before it sleeps, a worker says so in each port's bell page (for the
//! client) and in the sleep word of each ring (for senders), then looks once
//! more. Nobody who finds it awake makes a system call.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use netvale_ring::bell::Bell;
use netvale_ring::kring::{Counter, Kring, sleep};
use netvale_ring::port::PortKind;
use netvale_ring::world::{RegionMap, Waker};
use netvale_shm::Doorbell;
use netvale_switch::domain::Registration;
use netvale_switch::end::{Gear, RxEnd, SyncError, TxEnd};
use rustix::event::epoll;
use rustix::io::Errno;

use crate::sleep::Idle;

/// The control thread's handle of a worker.
#[derive(Debug)]
pub(crate) struct Worker {
    bell: Arc<Doorbell>,
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    /// Ports that it serves.
    pub(crate) ports: usize,
}

#[derive(Debug)]
enum Command {
    Add(Box<Client>),
    Remove(u16, SyncSender<()>),
    End,
}

/// A registration that a worker serves.
#[derive(Debug)]
pub(crate) struct Client {
    owner: u16,
    map: RegionMap,
    tx: Vec<Sending>,
    rx: Vec<RxEnd>,
    /// Rings the client.
    bell: Doorbell,
    /// Rung by the client.
    kick: Doorbell,
    /// Serving it went wrong once.
    broken: bool,
}

#[derive(Debug)]
struct Sending {
    end: TxEnd,
    /// A pipe: its receiver gives slots back, which the client must be shown.
    pipe: bool,
    /// `head` of which nothing was left to send.
    done: Option<u32>,
}

impl Client {
    /// `None` if its rings do not lie where the registration says.
    pub(crate) fn new(
        gear: &Gear,
        reg: &Registration,
        map: &RegionMap,
        bell: OwnedFd,
        kick: OwnedFd,
    ) -> Option<Self> {
        let pipe = reg.kind == PortKind::Pipe;
        let sends = reg.kind != PortKind::Monitor;
        let tx = reg.tx.iter().filter(|_| sends).map(|r| {
            Some(Sending {
                end: TxEnd::new(gear, reg, r, map)?,
                pipe,
                done: None,
            })
        });
        let rx = reg.rx.iter().map(|r| RxEnd::new(gear, reg, r, map));
        Bell::at(&map.mem, &map.geom)?;
        Some(Self {
            owner: reg.owner,
            map: map.clone(),
            tx: tx.collect::<Option<_>>()?,
            rx: rx.collect::<Option<_>>()?,
            bell: bell.into(),
            kick: kick.into(),
            broken: false,
        })
    }

    fn page(&self) -> Option<Bell<'_>> {
        Bell::at(&self.map.mem, &self.map.geom)
    }

    /// One sync a ring; whether anything moved, and whether somebody sleeps
    /// who waits for it.
    fn serve(&mut self) -> (bool, bool) {
        let mut moved = false;
        for tx in &mut self.tx {
            moved |= tx.serve();
        }
        for rx in &mut self.rx {
            let before = rx.ring().tail();
            moved |= match rx.sync() {
                Ok(tail) => tail != before,
                // Another worker is at it, for another registration of this
                // ring: come again.
                Err(SyncError::Locked) => true,
                Err(_) => false,
            };
        }
        (moved, moved && self.page().is_some_and(Bell::must_wake))
    }

    /// Whether both are registrations of one port: they share its bell page.
    fn is_same_port(&self, other: &Self) -> bool {
        (self.map.id, self.map.generation) == (other.map.id, other.map.generation)
    }

    /// Rings on whose sleep words the worker must be announced.
    fn krings(&self) -> impl Iterator<Item = Kring<'_>> {
        let tx = self.tx.iter().filter(|t| t.pipe);
        tx.map(|t| t.end.kring())
            .chain(self.rx.iter().map(RxEnd::kring))
    }
}

impl Sending {
    fn serve(&mut self) -> bool {
        let ring = self.end.ring();
        let (head, tail) = (ring.head(), ring.tail());
        if self.done == Some(head) && !self.pipe {
            return false;
        }
        let start = Instant::now();
        let sent = self.end.sync();
        // After a fault the ring was put right: its words are others now.
        let ring = self.end.ring();
        let now = (ring.head(), ring.tail());
        self.done = match sent {
            Ok(0) => Some(head),
            Ok(_) => {
                let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(0);
                self.end.kring().count(Counter::CpuNs, ns);
                None
            }
            Err(SyncError::Locked) => return true,
            Err(_) => Some(now.0),
        };
        matches!(sent, Ok(1..)) || now.1 != tail
    }
}

impl Worker {
    /// Starts one that sleeps in the name of `owner`.
    pub(crate) fn spawn(
        owner: u16,
        bell: Arc<Doorbell>,
        waker: Arc<dyn Waker>,
    ) -> io::Result<Self> {
        let (commands, orders) = channel();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &bell,
            epoll::EventData::new_u64(OWN_BELL),
            epoll::EventFlags::IN,
        )?;
        let round = Round {
            said: sleep::BELL + u32::from(owner),
            bell: Arc::clone(&bell),
            epoll,
            orders,
            waker,
            clients: Vec::new(),
            twins: 0,
        };
        let thread = std::thread::Builder::new()
            .name("netvale-worker".into())
            .stack_size(512 * 1024)
            .spawn(move || round.run())?;
        Ok(Self {
            bell,
            commands,
            thread: Some(thread),
            ports: 0,
        })
    }

    /// Serves this one too from now on.
    pub(crate) fn add(&mut self, client: Client) {
        self.ports += 1;
        self.command(Command::Add(Box::new(client)));
    }

    /// Serves that one no longer; when this returns its memory is not touched
    /// any more. Waits for one sync at most.
    pub(crate) fn remove(&mut self, owner: u16) {
        self.ports = self.ports.saturating_sub(1);
        let (done, wait) = sync_channel(1);
        self.command(Command::Remove(owner, done));
        if wait.recv().is_err() {
            tracing::error!(owner, "the worker of an isolated port has died");
        }
    }

    fn command(&self, command: Command) {
        // A dead worker is noticed by `remove`.
        let _ = self.commands.send(command);
        self.bell.ring();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.command(Command::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker had died");
        }
    }
}

/// A worker's thread.
struct Round {
    /// What it announces in sleep words.
    said: u32,
    bell: Arc<Doorbell>,
    epoll: OwnedFd,
    orders: Receiver<Command>,
    waker: Arc<dyn Waker>,
    clients: Vec<Client>,
    /// Pairs of clients that share a port.
    twins: usize,
}

/// Marks the worker's own bell among events; owners are smaller.
const OWN_BELL: u64 = u64::MAX;

impl Round {
    fn run(mut self) {
        let mut idle = Idle::new();
        loop {
            let Some(moved) = self.go_round() else { return };
            if moved {
                idle.moved();
                continue;
            }
            if idle.looks_on() && !self.clients.is_empty() {
                // Lets a client run that shares our CPU.
                std::thread::yield_now();
                continue;
            }
            self.announce();
            match self.go_round() {
                None => return,
                Some(true) => self.recall(),
                Some(false) => {
                    self.wait();
                    self.recall();
                    idle.slept();
                }
            }
            idle.moved();
        }
    }

    /// Serves every port once, and obeys between two ports. Whether anything
    /// moved; `None` to end.
    fn go_round(&mut self) -> Option<bool> {
        let mut moved = self.obey()?;
        let mut i = 0;
        while i < self.clients.len() {
            moved |= self.serve(i);
            i += 1;
            moved |= self.obey()?;
        }
        Some(moved)
    }

    fn serve(&mut self, i: usize) -> bool {
        let Some(client) = self.clients.get_mut(i).filter(|c| !c.broken) else {
            return false;
        };
        // A mistake of ours that one client's words bring to light must not
        // end the service of the others.
        match catch_unwind(AssertUnwindSafe(|| client.serve())) {
            Ok((moved, wake)) => {
                if wake {
                    self.ring(i);
                }
                moved
            }
            Err(_) => {
                tracing::error!(
                    owner = client.owner,
                    "a port is no longer served: the engine failed"
                );
                client.broken = true;
                false
            }
        }
    }

    /// Rings the clients of a port: all of them, since the bell page does not
    /// say which one sleeps.
    fn ring(&self, i: usize) {
        let client = &self.clients[i];
        if self.twins == 0 {
            client.bell.ring();
            return;
        }
        for c in self.clients.iter().filter(|c| c.is_same_port(client)) {
            c.bell.ring();
        }
    }

    /// Whether there was an order; `None` to end.
    fn obey(&mut self) -> Option<bool> {
        let mut any = false;
        while let Ok(order) = self.orders.try_recv() {
            any = true;
            match order {
                Command::End => return None,
                Command::Add(client) => self.add(*client),
                Command::Remove(owner, done) => {
                    self.remove(owner);
                    let _ = done.send(()); // whoever asked waits for it
                }
            }
        }
        Some(any)
    }

    fn add(&mut self, client: Client) {
        let data = epoll::EventData::new_u64(u64::from(client.owner));
        if let Err(e) = epoll::add(&self.epoll, &client.kick, data, epoll::EventFlags::IN) {
            // Served whenever the worker is awake for others.
            tracing::error!(owner = client.owner, "cannot listen to a port's bell: {e}");
        }
        self.twins += self.count_twins(&client);
        self.clients.push(client);
    }

    fn count_twins(&self, client: &Client) -> usize {
        let same = self.clients.iter().filter(|c| c.is_same_port(client));
        same.count()
    }

    fn remove(&mut self, owner: u16) {
        let Some(i) = self.clients.iter().position(|c| c.owner == owner) else {
            return;
        };
        // What it queued last, though it has ended without waiting for us: at
        // most one ring's worth, as in every turn.
        self.serve(i);
        let client = self.clients.swap_remove(i);
        self.twins -= self.count_twins(&client);
        for kring in client.krings() {
            kring.sleep_word().disarm(self.said);
        }
        // Not there if it was never added or hung up.
        let _ = epoll::delete(&self.epoll, &client.kick);
    }

    /// Says that the worker is about to sleep.
    fn announce(&self) {
        for client in &self.clients {
            if let Some(page) = client.page() {
                page.worker_sleeps(true);
            }
            for kring in client.krings() {
                kring.sleep_word().announce(self.said, &*self.waker);
            }
        }
    }

    /// Says that it is awake again.
    fn recall(&self) {
        for client in &self.clients {
            if let Some(page) = client.page() {
                page.worker_sleeps(false);
            }
            for kring in client.krings() {
                kring.sleep_word().disarm(self.said);
            }
        }
    }

    /// Sleeps until somebody rings.
    fn wait(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            None,
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => {
                // Cannot happen with a live descriptor; do not burn a CPU.
                tracing::error!("worker cannot wait: {e}");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        for event in events {
            let (flags, data) = (event.flags, event.data.u64());
            if data == OWN_BELL {
                self.bell.clear();
                continue;
            }
            let Some(client) = self.clients.iter().find(|c| u64::from(c.owner) == data) else {
                continue;
            };
            // Once is enough: what is left makes the next wait short.
            client.kick.clear();
            if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                let _ = epoll::delete(&self.epoll, &client.kick);
            }
        }
    }
}

/// Bells heard at once; others are heard the next time.
const EVENTS: usize = 64;
