//! Interfaces that clients drive: their frames do not wait for the server.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use netvale::{Namespace, Port};
use netvale_testkit::net::{NetNs, Stay};
use netvale_testkit::{PATIENCE, Rng, eventually};
use netvale_wire::proto::{Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, kill_process};

use super::{Host, is_plain, plain, receive, send};
use crate::bed::{connect, register};
use crate::process::{DIR, ServerProcess, again};

const QUEUES: &str = "numrxqueues 2 numtxqueues 2";

/// A server of its own in a namespace with a cable, v0 to v1. The test is there
/// too: names of interfaces are those of where one is.
pub(super) struct Alone {
    pub(super) server: ServerProcess,
    ns: NetNs,
    _stay: Stay,
    _tmp: tempfile::TempDir,
}

impl Alone {
    pub(super) fn new(test: &str) -> Option<Self> {
        let ns = NetNs::new(test)?;
        ns.veth("v0", &ns, "v1", QUEUES);
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("ns");
        let stay = ns.stay();
        let server = ServerProcess::start(&dir, None);
        Some(Self {
            server,
            ns,
            _stay: stay,
            _tmp: tmp,
        })
    }

    /// The namespace of a server, in a process where no other test runs: the
    /// test begins again there. `None` where it has been begun, after it ended.
    pub(super) fn in_own_process(test: &str) -> Option<Namespace> {
        if let Some(dir) = std::env::var_os(DIR) {
            return Some(Namespace::at(Path::new(&dir)).unwrap().no_spawn());
        }
        let alone = Self::new(test)?;
        let mut command = again(test);
        let child = command.env(DIR, &alone.server.dir).stdout(Stdio::null());
        assert!(child.status().unwrap().success());
        None
    }

    pub(super) fn namespace(&self) -> Namespace {
        Namespace::at(&self.server.dir).unwrap().no_spawn()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.server.child)
    }

    /// From now on the server does nothing, until it is told to go on.
    fn stop(&self) -> Stopped {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", self.server.child.id());
        eventually("the server stands still", || {
            let stat = std::fs::read_to_string(&stat).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        });
        Stopped(self.pid())
    }

    fn assert_sound(&self) {
        let mut remote = connect(&self.server.dir, false);
        let (reply, _) = remote.ask(&Request::Check { after: None }).unwrap();
        let Reply::Check { problems, .. } = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(problems, Vec::<String>::new());
    }

    /// How many have a port open.
    fn owners(&self, port: &str) -> usize {
        let all = crate::bed::list(&mut connect(&self.server.dir, false));
        let port = all.into_iter().find(|p| p.name == port);
        port.map_or(0, |p| p.owners.len())
    }

    /// How the interface is driven, as people are told.
    fn about(&self, port: &str) -> String {
        let all = crate::bed::list(&mut connect(&self.server.dir, false));
        let port = all.into_iter().find(|p| p.name == port).unwrap();
        port.device.unwrap()
    }
}

/// Goes on when dropped.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Ends a thread and hands its panic on.
fn ended<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn count(ports: &mut [Port; 2], from: usize, bursts: u8) {
    let to = 1 - from;
    for burst in 0..bursts {
        for n in 0..100 {
            let bytes = plain(n, 60 + usize::from(burst) * 20);
            ports[from].tx(0).push(&bytes).unwrap();
        }
        ports[from].tx(0).sync().unwrap();
        for n in 0..100 {
            let got = super::open::receive_any(&mut ports[to], is_plain);
            assert_eq!((got[20], got.len()), (n, 60 + usize::from(burst) * 20));
        }
    }
}

#[test]
fn frames_pass_while_the_server_stands_still() {
    let test = "devices::driven::frames_pass_while_the_server_stands_still";
    let Some(alone) = Alone::new(test) else {
        return;
    };
    let ns = alone.namespace();
    let mut ends = ["netmap:v0", "netmap:v1"].map(|name| ns.open(name).unwrap());
    let about = alone.about("v0");
    assert!(about.contains("by AF_XDP"), "{about}");
    let stopped = alone.stop();
    for round in 0..8 {
        count(&mut ends, round % 2, 5);
    }
    // One that sleeps is woken, by its own means and by poll of its descriptor.
    let [a, b] = &mut ends;
    std::thread::scope(|s| {
        let waits = s.spawn(|| receive(b, 0, is_plain));
        std::thread::sleep(Duration::from_millis(50));
        send(a, 0, &plain(7, 99));
        assert_eq!(ended(waits).len(), 99);
    });
    while !b.arm().unwrap() {
        b.disarm();
        while b.rx(0).next().is_some() || b.rx(1).next().is_some() {}
    }
    send(a, 0, &plain(8, 98));
    let fd = b.as_fd();
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(
        rustix::event::poll(&mut polled, Some(&patience)).unwrap(),
        1
    );
    b.disarm();
    assert_eq!(super::open::receive_any(b, is_plain).len(), 98);
    drop(stopped);
    let stats = ns.stats(Some("netmap:v0")).unwrap();
    assert!(stats[0].tx_frames >= 2000, "{stats:?}");
    drop(ends);
    eventually("all is given back", || {
        crate::bed::list(&mut connect(&alone.server.dir, false)).is_empty()
    });
    alone.assert_sound();
}

#[test]
fn two_clients_drive_a_queue_each() {
    let test = "devices::driven::two_clients_drive_a_queue_each";
    let Some(alone) = Alone::new(test) else {
        return;
    };
    let ns = alone.namespace();
    let mut one = ns.open("netmap:v0-0").unwrap();
    let mut two = ns.open("netmap:v0-1").unwrap();
    let mut far = ns.open("netmap:v1").unwrap();
    let mut sniffer = ns.open("netmap:v0/rt").unwrap();
    let _stopped = alone.stop();
    for round in 0..20u8 {
        for (port, len) in [(&mut one, 70), (&mut two, 80)] {
            send(port, 0, &plain(round, len));
            let got = super::open::receive_any(&mut far, is_plain);
            assert_eq!((got[20], got.len()), (round, len));
        }
        // A frame comes on the queue that the other end sent it on.
        for (port, queue, len) in [(&mut one, 0, 90), (&mut two, 1, 100)] {
            send(&mut far, queue, &plain(round, len));
            let got = receive(port, 0, is_plain);
            assert_eq!((got[20], got.len()), (round, len));
        }
    }
    // Who monitors the port has seen them all.
    let mut seen = [0; 4];
    let end = Instant::now() + PATIENCE;
    while seen.iter().sum::<u32>() < 80 && Instant::now() < end {
        let got = super::open::receive_any(&mut sniffer, is_plain);
        seen[got.len() / 10 - 7] += 1;
    }
    assert_eq!(seen, [20; 4]);
}

/// A client in a process of its own.
struct Driver(Child);

impl Driver {
    fn start(alone: &Alone) -> Self {
        let mut command = again("devices::driven::child_driver");
        command.env(DIR, &alone.server.dir).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets go of all that has come. Another's handle of the same rings may have
/// moved their words: each ring is put right once.
fn drain(port: &mut Port) {
    let mut faults = 0;
    for ring in 0..port.tx_count() {
        faults += u32::from(port.tx(ring).sync().is_err());
    }
    loop {
        match port.wait_rx(Some(Duration::from_millis(20))) {
            Ok(false) => break,
            Ok(true) => {}
            Err(_) => faults += 1,
        }
        for ring in 0..port.rx_count() {
            while port.rx(ring).next().is_some() {}
        }
    }
    assert!(faults <= 4, "{faults}");
}

/// Sends and receives until it is killed.
#[test]
fn child_driver() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let ns = Namespace::at(Path::new(&dir)).unwrap().no_spawn();
    let mut port = ns.open("netmap:v0").unwrap();
    // Without an end of its own.
    for n in (0..=u8::MAX).cycle() {
        for ring in 0..2 {
            for _ in 0..32 {
                let _ = port.tx(ring).push(&plain(n, 200));
            }
            port.tx(ring).sync().unwrap();
            port.rx(ring).sync().unwrap();
            while port.rx(ring).next().is_some() {}
        }
    }
}

/// Traffic goes to and from a child, which is killed at any instant: what it
/// had is there for whoever comes next.
#[test]
fn a_killed_driver_takes_nothing_along() {
    let test = "devices::driven::a_killed_driver_takes_nothing_along";
    let Some(alone) = Alone::new(test) else {
        return;
    };
    let mut rng = Rng::announced("killed drivers");
    let ns = alone.namespace();
    let mut far = ns.open("netmap:v1").unwrap();
    let flood = |far: &mut Port, until: Instant| {
        while Instant::now() < until {
            for ring in 0..2 {
                while far.tx(ring).push(&plain(1, 120)).is_ok() {}
                far.tx(ring).sync().unwrap();
                far.rx(ring).sync().unwrap();
                while far.rx(ring).next().is_some() {}
            }
        }
    };
    for round in 0..8 {
        // In every other round somebody else has the same rings open.
        let mut heir = (round % 2 == 1).then(|| ns.open("netmap:v0").unwrap());
        let mut child = Driver::start(&alone);
        super::open::receive_any(&mut far, |b| is_plain(b) && b.len() == 200);
        let time = Duration::from_micros(500 + 100 * rng.below(300) as u64);
        flood(&mut far, Instant::now() + time);
        child.kill();
        let left = usize::from(heir.is_some());
        if left > 0 {
            eventually("the server knows of the death", || {
                alone.owners("v0") == left
            });
        }
        // The kernel takes its time to free a queue, and the server's patience has an end.
        if heir.is_none() {
            eventually("it is by AF_XDP again", || {
                if heir.take().is_some() {
                    eventually("it is closed", || alone.owners("v0") == 0);
                }
                heir = Some(ns.open("netmap:v0").unwrap());
                alone.about("v0").contains("by AF_XDP")
            });
        }
        let near = heir.as_mut().unwrap();
        drain(&mut far);
        drain(near);
        let about = alone.about("v0");
        assert!(about.contains("by AF_XDP"), "{about}");
        let stopped = alone.stop();
        for n in 0..20 {
            for ring in 0..2 {
                send(near, ring, &plain(n, 300));
                let wanted = |b: &[u8]| is_plain(b) && b.len() == 300 && b[20] == n;
                super::open::receive_any(&mut far, wanted);
                send(&mut far, ring, &plain(n, 310));
                let wanted = |b: &[u8]| is_plain(b) && b.len() == 310 && b[20] == n;
                super::open::receive_any(near, wanted);
            }
        }
        drop(stopped);
        drop(heir);
        eventually("it is closed", || {
            crate::bed::list(&mut connect(&alone.server.dir, false)).len() == 1
        });
        alone.assert_sound();
    }
}

#[test]
fn the_server_serves_whoever_does_not_drive() {
    let test = "devices::driven::the_server_serves_whoever_does_not_drive";
    let Some(host) = Host::new(test) else {
        return;
    };
    host.ns.veth("v0", &host.ns, "v1", QUEUES);
    let ns = host.namespace();
    let mut near = ns.open("netmap:v0").unwrap();
    let mut far = ns.open("netmap:v1").unwrap();
    let received = || ns.stats(Some("netmap:v0")).unwrap()[0].rx_frames;
    for round in 0..3u8 {
        // The first client does nothing, and frames come for the second.
        let mut second = host.bed.connect();
        let (registered, _) = register(&mut second, "netmap:v0");
        assert!(registered.drivable);
        let before = received();
        send(&mut far, 0, &plain(round, 100));
        eventually("the frame is there", || received() > before);
        // It drives what it asks for, and says when it no longer does.
        for (queue, on) in [(0, true), (1, true), (0, false)] {
            let (reply, files) = second.ask(&Request::Drive { queue, on }).unwrap();
            assert_eq!(matches!(reply, Reply::Driven(_)), on);
            assert_eq!(files.is_empty(), !on);
        }
        let before = received();
        send(&mut far, 0, &plain(round, 101));
        eventually("the next is there as well", || received() > before);
        let none = second.ask(&Request::Drive { queue: 2, on: true }).unwrap();
        assert!(matches!(none.0, Reply::Error { .. }), "{none:?}");
        drop(second);
        let got = super::open::receive_any(&mut near, |b| is_plain(b) && b.len() == 101);
        assert_eq!(got[20], round);
        send(&mut near, 1, &plain(round, 102));
        super::open::receive_any(&mut far, |b| is_plain(b) && b.len() == 102);
    }
    // An isolated client gets no socket, and its frames all the same.
    drop(near);
    eventually("it is closed", || host.names() == ["v1"]);
    let mut isolated = ns.port("netmap:v0").isolated(true).open().unwrap();
    send(&mut isolated, 0, &plain(1, 110));
    super::open::receive_any(&mut far, |b| is_plain(b) && b.len() == 110);
    send(&mut far, 1, &plain(1, 111));
    super::open::receive_any(&mut isolated, |b| is_plain(b) && b.len() == 111);
    let mut fenced = connect(&host.bed.dir, true);
    let (registered, _) = register(&mut fenced, "netmap:v0");
    assert!(!registered.drivable);
    let asked = fenced.ask(&Request::Drive { queue: 0, on: true }).unwrap();
    assert!(matches!(asked.0, Reply::Error { .. }), "{asked:?}");
    drop((isolated, fenced, far));
    eventually("all is given back", || host.names().is_empty());
    host.bed.assert_sound();
}

/// For each epoll instance of this process, how many descriptors it watches.
fn watched() -> Vec<usize> {
    let fds = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let infos = fds.filter_map(|fd| std::fs::read_to_string(fd.unwrap().path()).ok());
    let counts = infos.map(|info| info.matches("tfd:").count());
    counts.filter(|&n| n > 0).collect()
}

/// Every instance that watches a socket makes sending by it slower.
#[test]
fn sockets_are_watched_only_when_somebody_waits() {
    let test = "devices::driven::sockets_are_watched_only_when_somebody_waits";
    // No other test has instances there.
    let Some(ns) = Alone::in_own_process(test) else {
        return;
    };
    let mut port = ns.open("netmap:v0").unwrap();
    send(&mut port, 0, &plain(1, 100));
    assert_eq!(watched(), [1; 3], "the bell, for frames, space and both");
    port.wait_rx(Some(Duration::from_millis(1))).unwrap();
    let mut counts = watched();
    counts.sort_unstable();
    assert_eq!(counts, [1, 1, 3], "two queues");
}

#[test]
fn a_queue_that_is_left_to_the_server_is_left_in_both_directions() {
    let test = "devices::driven::a_queue_that_is_left_to_the_server_is_left_in_both_directions";
    let Some(alone) = Alone::new(test) else {
        return;
    };
    let ns = alone.namespace();
    let mut near = ns.open("netmap:v0").unwrap();
    let mut far = ns.open("netmap:v1").unwrap();
    // Frames of queue 0 are passed on from now on, those of queue 1 are not.
    send(&mut far, 0, &plain(1, 100));
    eventually("a frame comes", || {
        near.wait_rx(Some(Duration::from_millis(20))).unwrap();
        near.rx(0).next().map(|frame| frame.pass_on()).is_some()
    });
    near.rx(0).sync().unwrap();
    let stopped = alone.stop();
    send(&mut near, 1, &plain(2, 102));
    let got = super::open::receive_any(&mut far, is_plain);
    assert_eq!(got.len(), 102);
    send(&mut near, 0, &plain(3, 103));
    let moment = Some(Duration::from_millis(50));
    far.wait_rx(moment).unwrap();
    assert!(far.rx(0).next().is_none(), "this client sent it");
    drop(stopped);
    let got = super::open::receive_any(&mut far, is_plain);
    assert_eq!(got.len(), 103);
    send(&mut far, 0, &plain(4, 104));
    let got = super::open::receive_any(&mut near, is_plain);
    assert_eq!(got.len(), 104);
    drop((near, far));
    eventually("all is given back", || {
        crate::bed::list(&mut connect(&alone.server.dir, false)).is_empty()
    });
    alone.assert_sound();
}

#[test]
fn who_waits_at_a_tap_is_told_that_the_server_died() {
    let test = "devices::driven::who_waits_at_a_tap_is_told_that_the_server_died";
    let Some(mut alone) = Alone::new(test) else {
        return;
    };
    let ns = alone.namespace();
    let mut waits = ns.open("tap:t0").unwrap();
    let mut polls = ns.open("tap:t1").unwrap();
    let mut switched = ns.open("vale0:a").unwrap();
    assert!(polls.arm().unwrap());
    polls.disarm();
    let told = std::thread::scope(|s| {
        let waits = s.spawn(|| {
            loop {
                // What the host sends of its own accord.
                match waits.wait_rx(None) {
                    Ok(_) => while waits.rx(0).next().is_some() {},
                    Err(e) => return e.kind(),
                }
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        alone.server.child.kill().unwrap();
        alone.server.child.wait().unwrap();
        ended(waits)
    });
    assert_eq!(told, netvale::ErrorKind::Disconnected);
    let told = polls.arm().unwrap_err();
    assert_eq!(told.kind(), netvale::ErrorKind::Disconnected);
    // Programs at a switch do without.
    assert!(!switched.wait_rx(Some(Duration::from_millis(700))).unwrap());
}

#[test]
fn a_driver_is_told_that_its_interface_is_gone() {
    let test = "devices::driven::a_driver_is_told_that_its_interface_is_gone";
    let Some(alone) = Alone::new(test) else {
        return;
    };
    let ns = alone.namespace();
    let mut ends = ["netmap:v0", "netmap:v1"].map(|name| ns.open(name).unwrap());
    count(&mut ends, 0, 1);
    let [mut near, far] = ends;
    // Switched off, it loses frames and says so; then it comes back.
    alone.ns.ip("link set dev v0 down");
    let lost = |ns: &Namespace| {
        let stats = ns.stats(Some("netmap:v0")).unwrap();
        let down = stats[0].drops.iter().find(|d| d.0 == "dev_down");
        down.map_or(0, |d| d.1)
    };
    eventually("the loss is counted", || {
        send(&mut near, 0, &plain(1, 60));
        lost(&ns) > 0
    });
    alone.ns.ip("link set dev v0 up");
    let mut ends = [near, far];
    eventually("frames pass again", || {
        send(&mut ends[0], 0, &plain(9, 400));
        let moment = Some(Duration::from_millis(20));
        ends[1].wait_rx(moment).unwrap();
        let mut bytes = Vec::new();
        let mut any = false;
        for ring in 0..2 {
            while let Some(frame) = ends[1].rx(ring).next() {
                bytes.clear();
                frame.read_to(&mut bytes);
                any |= bytes.len() == 400;
            }
        }
        any
    });
    // It sleeps when the end comes.
    let [mut near, far] = ends;
    std::thread::scope(|s| {
        let waits = s.spawn(|| {
            loop {
                if let Err(e) = near.wait_rx(None) {
                    return e.kind();
                }
                for ring in 0..2 {
                    while near.rx(ring).next().is_some() {}
                }
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        alone.ns.ip("link del dev v0");
        assert_eq!(ended(waits), netvale::ErrorKind::Disconnected);
    });
    drop((near, far));
    eventually("all is given back", || {
        crate::bed::list(&mut connect(&alone.server.dir, false)).is_empty()
    });
    alone.assert_sound();
}
