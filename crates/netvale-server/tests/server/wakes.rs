//! Those who sleep, and whose wake-up is lost on the way.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use netvale::{Namespace, Port};
use netvale_ring::kring::{Kring, KringId, sleep};
use netvale_ring::world::World;
use netvale_testkit::raw::Raw;
use netvale_testkit::{PATIENCE, eventually};
use netvale_wire::proto::{Reply, Request, Wanted};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bed::{self, Bed, connect};
use crate::process::ServerProcess;

/// A port in two switches: a thread of the server carries frames between them.
fn join_switches(dir: &Path) {
    let mut remote = connect(dir, false);
    let new = Request::NewIf {
        name: "p".into(),
        want: Wanted::default(),
        region: None,
        link: false,
    };
    assert_eq!(remote.ask(&new).unwrap().0, Reply::Done);
    for spec in ["vale0:p", "vale1:p"] {
        let attach = Request::Attach {
            spec: spec.into(),
            nr: true,
            host: false,
            mem_id: 0,
            port: None,
        };
        let (reply, _) = remote.ask(&attach).unwrap();
        assert_eq!(reply, bed::attached(spec));
    }
}

fn krings(world: &World) -> impl Iterator<Item = Kring<'_>> {
    (0..1024).filter_map(|id| world.kring(KringId(id)))
}

fn send(port: &mut Port, n: u8) {
    let mut frame = [n; 60];
    frame[..6].fill(0xff);
    frame[6] = 2;
    port.tx(0).push(&frame).unwrap();
    port.tx(0).sync().unwrap();
}

fn receive(port: &mut Port, n: u8) {
    assert!(port.wait_rx(Some(PATIENCE)).unwrap(), "nothing came");
    let frame = port.rx(0).next().unwrap();
    assert_eq!(frame.load_u64(20).to_le_bytes()[0], n);
}

#[test]
fn one_who_dies_before_it_rings_leaves_nobody_asleep() {
    let bed = Bed::new();
    join_switches(&bed.dir);
    let ns = Namespace::at(&bed.dir).unwrap().no_spawn();
    let (mut a, mut b) = (ns.open("vale0:a").unwrap(), ns.open("vale1:b").unwrap());
    // It waits as programs with a loop of their own do, for as long as it takes.
    let mut polls = ns.open("vale0:c").unwrap();
    assert!(polls.arm().unwrap());
    let mut dying = Raw::connect(&bed.dir, false);
    dying.register("vale2:dying");
    let world = dying.world();
    // It has published something, says that it will wake who sleeps there, and
    // dies: the thread, and the program.
    let mut sleepers = BTreeSet::new();
    eventually("both are asleep", || {
        sleepers.extend(krings(&world).filter_map(|k| k.sleep_word().take()));
        sleepers.len() == 2
    });
    assert!(sleepers.iter().all(|&said| said >= sleep::BELL));
    drop((dying, world));
    let fd = polls.as_fd();
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut polled, Some(&patience)).unwrap(), 1);
    polls.disarm();
    send(&mut a, 1);
    receive(&mut b, 1);
    bed.assert_sound();
}

#[test]
fn a_sleeper_whose_bell_could_not_be_had_is_woken_later() {
    let tmp = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&tmp.path().join("ns"), None);
    join_switches(&server.dir);
    let ns = Namespace::at(&server.dir).unwrap().no_spawn();
    let (mut a, mut b) = (ns.open("vale0:a").unwrap(), ns.open("vale1:b").unwrap());
    let world = Raw::connect(&server.dir, false).world();
    // The first time the sender has no connection for questions yet, then it
    // has one that was not answered.
    for n in 1..=2 {
        eventually("the thread sleeps", || {
            krings(&world).any(|k| k.sleep_word().futex().load(Relaxed) >= sleep::BELL)
        });
        server.stop();
        send(&mut a, n);
        server.go_on();
        receive(&mut b, n);
        b.rx(0).sync().unwrap();
    }
}
