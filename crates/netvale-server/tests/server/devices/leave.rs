//! Queues that a client drives, and then no more: because its server ended,
//! because the socket was closed, or because it could not begin.

use std::os::fd::AsFd;

use netvale::{ErrorKind, Namespace, Port};
use netvale_testkit::{PATIENCE, eventually};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::driven::Alone;
use super::open::receive_any;
use super::{Host, is_plain, plain, send};
use crate::bed::Bed;

/// Waits until it is told why there is nothing to wait for.
fn told(port: &mut Port) -> ErrorKind {
    let end = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < end {
        match port.wait_rx(Some(PATIENCE)) {
            Ok(_) => while port.rx(0).next().is_some() {},
            Err(e) => return e.kind(),
        }
    }
    panic!("it was told nothing");
}

#[test]
fn who_drives_goes_on_sending_when_the_server_was_told_to_end() {
    let test = "leave::who_drives_goes_on_sending_when_the_server_was_told_to_end";
    let Some(host) = Host::new(test) else {
        return;
    };
    host.ns.veth("v0", &host.ns, "v1", "");
    let mut near = host.namespace().open("netmap:v0").unwrap();
    let other = host.ns.enter(Bed::new);
    let others = Namespace::at(&other.dir).unwrap().no_spawn();
    let mut far = others.open("netmap:v1").unwrap();
    send(&mut near, 0, &plain(1, 60));
    assert_eq!(receive_any(&mut far, is_plain)[20], 1);
    let Host { bed, ns: _ns } = host;
    drop(bed);
    // More than there is room for in the ring and at the socket.
    for n in 0..100 {
        for _ in 0..32 {
            let end = std::time::Instant::now() + PATIENCE;
            while near.tx(0).push(&plain(n, 60)).is_err() {
                assert!(std::time::Instant::now() < end, "it stands still");
                near.tx(0).wait(Some(PATIENCE)).unwrap();
            }
        }
        near.tx(0).sync().unwrap();
        receive_any(&mut far, |b| is_plain(b) && b[20] == n);
    }
    assert_eq!(told(&mut near), ErrorKind::Disconnected);
}

#[test]
fn a_closed_socket_with_frames_in_it_keeps_nobody_awake() {
    let test = "leave::a_closed_socket_with_frames_in_it_keeps_nobody_awake";
    let Some(host) = Host::with(test, |config| config.generic_xdp = true) else {
        return;
    };
    host.ns.veth("v0", &host.ns, "v1", "");
    if !host.macvlan(test, "v0") {
        return;
    }
    let ns = host.namespace();
    let mut slow = ns.open("netmap:v0m").unwrap();
    let mut far = ns.open("netmap:v1").unwrap();
    let readable = |port: &Port| {
        let fd = port.as_fd();
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).unwrap() > 0
    };
    // More than its ring holds, so that some stay in the socket.
    send(&mut far, 0, &plain(1, 60));
    eventually("frames are there", || readable(&slow));
    for _ in 0..60 {
        for _ in 0..100 {
            while far.tx(0).push(&plain(1, 60)).is_err() {
                far.tx(0).sync().unwrap();
            }
        }
        far.tx(0).sync().unwrap();
    }
    // In the stack frames for the host would come back: the server closes it.
    let rings = ns.open("netmap:v0m^").unwrap();
    eventually("it sleeps", || {
        while slow.rx(0).next().is_some() {}
        let sleeps = slow.arm().unwrap();
        let awake = sleeps && readable(&slow);
        slow.disarm();
        sleeps && !awake
    });
    // The server drives it from now on, in both directions.
    send(&mut far, 0, &plain(2, 110));
    receive_any(&mut slow, |b| is_plain(b) && b.len() == 110);
    send(&mut slow, 0, &plain(3, 120));
    receive_any(&mut far, |b| is_plain(b) && b.len() == 120);
    drop((slow, far, rings));
    eventually("all is given back", || host.names().is_empty());
    host.bed.assert_sound();
}

fn limit(most: Option<u64>) {
    let now = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: most.or(now.maximum),
        maximum: now.maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[test]
fn who_has_no_descriptors_left_is_served() {
    let test = "devices::leave::who_has_no_descriptors_left_is_served";
    // Nobody else needs descriptors there.
    let Some(ns) = Alone::in_own_process(test) else {
        return;
    };
    let mut far = ns.open("netmap:v1").unwrap();
    let (mut opened, mut refused) = (0, 0);
    // From one with which nothing can be opened to one with which all can be.
    let first = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    for most in first..first + 30 {
        limit(Some(most));
        let port = ns.open("netmap:v0");
        limit(None);
        let Ok(mut near) = port else {
            refused += 1;
            continue;
        };
        opened += 1;
        for queue in 0..2 {
            send(&mut far, queue, &plain(1, 100));
            receive_any(&mut near, |b| is_plain(b) && b.len() == 100);
        }
        drop(near);
    }
    assert!(opened > 4 && refused > 0, "{opened}, {refused}");
}
