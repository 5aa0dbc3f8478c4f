//! Who else sleeps on a ring.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use netvale_ring::world::Waker;
use netvale_switch::domain::{Config, Want};
use netvale_switch::end::{RxEnd, TxEnd};
use netvale_wire::name::PortSpec;

use super::*;
use crate::backend::Backend;
use crate::embedded::Embedded;
use crate::rx::RxRing;
use crate::tx::TxRing;
use crate::{Error, ErrorKind};

/// An owner that sleeps elsewhere.
const OTHER: u32 = sleep::BELL + 999;
const SHORT: Option<Duration> = Some(Duration::from_millis(1));

/// What wakers were told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<u32>>);

impl Told {
    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Waker for Told {
    fn wake(&self, word: &AtomicU32, said: u32) {
        self.0.lock().unwrap().push(said);
        if said == sleep::FUTEX {
            futex::wake(word, u32::MAX);
        }
    }
}

struct Seat {
    shared: Arc<Shared>,
    tx: Vec<TxRing>,
    rx: Vec<RxRing>,
    told: Arc<Told>,
}

fn open(ns: &Embedded, name: &str, rings: u16) -> Seat {
    let want = Want {
        tx_rings: rings,
        rx_rings: rings,
        ..Want::default()
    };
    let a = ns.register(&PortSpec::parse(name).unwrap(), &want, false);
    let mut a = a.unwrap();
    let told = Arc::new(Told::default());
    let gear = a.gear.as_mut().unwrap();
    gear.waker = Arc::clone(&told) as Arc<dyn Waker>;
    let gear = gear.clone();
    let shared = Arc::new(Shared {
        reg: a.reg,
        map: a.map,
        gear: a.gear,
        bell: a.bell,
        kick: a.kick,
        watch: None,
        served: a.served,
        keep: a.keep,
    });
    let (reg, map) = (&shared.reg, &shared.map);
    let tx = reg.tx.iter().map(|r| {
        let end = TxEnd::new(&gear, reg, r, map);
        TxRing::new(&shared, r, end, None).unwrap()
    });
    let rx = reg.rx.iter().map(|r| {
        let end = RxEnd::new(&gear, reg, r, map);
        RxRing::new(&shared, r, end, None).unwrap()
    });
    Seat {
        tx: tx.collect(),
        rx: rx.collect(),
        shared: Arc::clone(&shared),
        told,
    }
}

fn says(ring: &impl Awaited) -> u32 {
    ring.kring().unwrap().sleep_word().futex().load(Relaxed)
}

/// A sleeper of this kind is on the first ring; who waits on all of them wakes
/// it and leaves nothing behind.
fn displaces<R: Awaited>(shared: &Shared, rings: &mut [R], told: &Told, said: u32) {
    let word = rings[0].kring().unwrap().sleep_word();
    assert!(word.announce(said, told));
    assert!(told.take().is_empty());
    let mut spin = Spin::default();
    assert!(!until_ready(shared, rings, &mut spin, SHORT).unwrap());
    assert_eq!(told.take(), [said]);
    assert!(rings.iter().all(|r| says(r) == sleep::AWAKE));
    assert!(!until_ready(shared, rings, &mut spin, SHORT).unwrap());
    assert!(told.take().is_empty());
}

#[test]
fn a_displaced_sleeper_is_woken() {
    let ns = Embedded::new(Config::default()).unwrap();
    for said in [sleep::FUTEX, OTHER] {
        // One ring is slept on as a word, two by their bell.
        for rings in [1, 2] {
            let mut p = open(&ns, "vale0:p", rings);
            displaces(&p.shared, &mut p.rx, &p.told, said);
            let mut end = open(&ns, "vale0:q{1", rings);
            let _other = open(&ns, "vale0:q}1", rings);
            for tx in &mut end.tx {
                while tx.space() > 0 {
                    tx.push(&[0; 60]).unwrap();
                    tx.sync().unwrap();
                }
            }
            displaces(&end.shared, &mut end.tx, &end.told, said);
        }
    }
}

#[test]
fn a_bell_displaces_too() {
    let ns = Embedded::new(Config::default()).unwrap();
    for said in [sleep::FUTEX, OTHER] {
        let mut p = open(&ns, "vale0:p", 1);
        let word = p.rx[0].kring().unwrap().sleep_word();
        assert!(word.announce(said, &*p.told));
        assert!(announce(&p.shared, &mut p.rx).unwrap());
        assert_eq!(p.told.take(), [said]);
        assert!(recall(&p.shared, &p.rx));
        assert_eq!(says(&p.rx[0]), sleep::AWAKE);
    }
}

/// A ring where something happens between the announcement and the sleep.
struct Eventful<'a> {
    ring: &'a RxRing,
    told: &'a Told,
    fails: bool,
}

impl Awaited for Eventful<'_> {
    const WHAT: For = For::Rx;

    fn look(&mut self) -> Result<bool> {
        if self.fails {
            return Err(Error::new(ErrorKind::Disconnected, "gone"));
        }
        let word = self.ring.kring().unwrap().sleep_word();
        word.announce(OTHER, self.told);
        Ok(false)
    }

    fn kring(&self) -> Option<Kring<'_>> {
        self.ring.kring()
    }

    fn repair(&mut self) {}
}

#[test]
fn who_is_displaced_leaves_the_place_to_the_other() {
    let ns = Embedded::new(Config::default()).unwrap();
    for rings in [1, 2] {
        let p = open(&ns, "vale0:p", rings);
        let eventful = |ring| Eventful {
            ring,
            told: &p.told,
            fails: false,
        };
        let mut watched: Vec<_> = p.rx.iter().map(eventful).collect();
        let time = Duration::from_millis(1);
        assert!(sleep(&p.shared, &mut watched, time).unwrap().outdone);
        assert!(p.rx.iter().all(|r| says(r) == OTHER));
        let own = if rings == 1 {
            sleep::FUTEX
        } else {
            said(&p.shared)
        };
        assert_eq!(p.told.take(), vec![own; usize::from(rings)]);
    }
}

#[test]
fn a_failed_look_leaves_no_announcement() {
    let ns = Embedded::new(Config::default()).unwrap();
    for rings in [1, 2] {
        let p = open(&ns, "vale0:p", rings);
        let fails = |ring| Eventful {
            ring,
            told: &p.told,
            fails: true,
        };
        let mut watched: Vec<_> = p.rx.iter().map(fails).collect();
        let failed = sleep(&p.shared, &mut watched, Duration::from_secs(1)).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Disconnected);
        assert!(p.rx.iter().all(|r| says(r) == sleep::AWAKE));
    }
}

#[cfg(feature = "af-xdp")]
mod gone {
    use std::os::fd::AsFd;

    use super::*;

    /// A namespace whose server is gone.
    #[derive(Debug)]
    struct Gone;

    impl crate::backend::Keep for Gone {
        fn alive(&self) -> bool {
            false
        }
    }

    /// A ring without frames, or space, which the server brings or others.
    struct Idle(bool);

    impl Awaited for Idle {
        const WHAT: For = For::Tx;

        fn look(&mut self) -> Result<bool> {
            Ok(false)
        }

        fn kring(&self) -> Option<Kring<'_>> {
            None
        }

        fn needs_server(&self) -> bool {
            self.0
        }

        fn repair(&mut self) {}
    }

    #[test]
    fn who_waits_is_told_that_the_server_is_gone_if_it_takes_the_server() {
        let ns = Embedded::new(Config::default()).unwrap();
        let Seat { shared, tx, rx, .. } = open(&ns, "vale0:p", 1);
        drop((tx, rx));
        let mut shared = Arc::into_inner(shared).unwrap();
        shared.watch = Some(crate::drive::Watch::new(shared.bell.as_fd()).unwrap());
        shared.keep = Arc::new(Gone);
        assert!(announce(&shared, &mut [Idle(false), Idle(false)]).unwrap());
        let told = announce(&shared, &mut [Idle(false), Idle(true)]).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Disconnected);
        // At a device all takes it, but at queues that are driven.
        shared.served = true;
        assert!(announce(&shared, &mut [Idle(false), Idle(false)]).unwrap());
        shared.watch = None;
        let told = announce(&shared, &mut [Idle(false), Idle(false)]).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Disconnected);
    }
}
