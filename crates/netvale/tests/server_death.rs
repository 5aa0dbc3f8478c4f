//! The server dies; whoever does without it goes on, the others are told.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use netvale::{ErrorKind, Port};
    use netvale_testkit::frame::{BROADCAST, mac, tagged};
    use netvale_testkit::io::{recv, send, take};
    use netvale_testkit::raw::Raw;
    use netvale_testkit::{Bed, PATIENCE, Peer, Place, Server, Spec, eventually};

    const PEER: &str = "tests::peer";

    #[test]
    fn peer() {
        Peer::main();
    }

    fn exchange(a: &mut Port, b: &mut Port, n: u64) {
        for i in 0..n {
            let f = tagged(BROADCAST, mac(1), 60 + i.min(1400) as usize, 1, i);
            send(a, &f);
            assert_eq!(recv(b), f);
        }
    }

    /// Frames to one who sleeps.
    fn wake(a: &mut Port, b: &mut Port, n: u64) {
        for i in 0..n {
            let f = tagged(BROADCAST, mac(1), 60, 1, i);
            std::thread::scope(|s| {
                let sleeper = s.spawn(|| b.wait_rx(Some(PATIENCE)).unwrap());
                std::thread::sleep(Duration::from_millis(5));
                send(a, &f);
                assert!(sleeper.join().unwrap());
            });
            assert_eq!(recv(b), f);
            b.rx(0).sync().unwrap();
        }
    }

    /// Takes what is left until the port says that it is over.
    fn told(port: &mut Port) -> netvale::Error {
        loop {
            match port.wait_rx(None) {
                Err(e) => return e,
                Ok(_) => while take(port.rx(0)).is_some() {},
            }
        }
    }

    #[test]
    fn trusted_traffic_goes_on() {
        let mut bed = Place::Trusted.up();
        let mut a = bed.ns().open("vale0:a").unwrap();
        let mut b = bed.ns().open("vale0:b").unwrap();
        let mut c = bed.ns().port("vale1:c").rings(1, 2).open().unwrap();
        let mut d = bed.ns().open("vale1:d").unwrap();
        let mut p = bed.ns().open("vale0:x{1").unwrap();
        let mut q = bed.ns().open("vale0:x}1").unwrap();
        let mut m = bed.ns().open("vale0:a/t").unwrap();
        exchange(&mut a, &mut b, 10);
        bed.server().kill();
        exchange(&mut a, &mut b, 2000);
        exchange(&mut b, &mut a, 100);
        exchange(&mut p, &mut q, 2000);
        q.rx(0).sync().unwrap();
        wake(&mut a, &mut b, 5);
        wake(&mut p, &mut q, 5);
        // It sleeps on its doorbell, which nobody can get any more: it looks
        // up now and then.
        wake(&mut d, &mut c, 3);
        m.rx(0).sync().unwrap();
        assert!(m.rx(0).available() > 100);
        // Closing what is left is no trouble either.
        drop((a, b, c, d, p, q, m));
    }

    #[test]
    fn control_operations_say_so() {
        let mut bed = Place::Trusted.up();
        let port = bed.ns().open("vale0:a").unwrap();
        bed.server().kill();
        let errors = [
            bed.ns().list().map(|_| ()).unwrap_err(),
            bed.ns().open("vale0:b").map(|_| ()).unwrap_err(),
            port.stats().map(|_| ()).unwrap_err(),
            bed.ns().check().map(|_| ()).unwrap_err(),
            bed.handle(false).list().map(|_| ()).unwrap_err(),
        ];
        for e in errors {
            assert_eq!(e.kind(), ErrorKind::Disconnected, "{e}");
            assert!(!e.to_string().contains('\n'), "{e}");
            assert!(e.hint().is_some(), "{e}");
        }
    }

    #[test]
    fn isolated_ports_are_told() {
        let mut bed = Place::Isolated.up();
        let mut a = bed.ns().open("vale0:a").unwrap();
        let mut b = bed.ns().port("vale0:b").rings(1, 2).open().unwrap();
        let mut p = bed.ns().port("vale0:x{1").slots(4, 4).open().unwrap();
        exchange(&mut a, &mut b, 10);
        while p.tx(0).push(&[0xff; 60]).is_ok() {}
        std::thread::scope(|s| {
            // One of them is asleep when it happens, without an end in sight.
            let sleeper = s.spawn(|| told(&mut b));
            std::thread::sleep(Duration::from_millis(50));
            bed.server().kill();
            let e = sleeper.join().unwrap();
            assert_eq!(e.kind(), ErrorKind::Disconnected, "{e}");
            assert!(e.hint().is_some(), "{e}");
        });
        let e = told(&mut a);
        assert_eq!(e.kind(), ErrorKind::Disconnected, "{e}");
        let e = p.wait_tx(Some(PATIENCE)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Disconnected, "{e}");
    }

    #[test]
    fn a_successor_starts_afresh() {
        let mut bed = Place::Trusted.up();
        let isolated = bed.handle(true);
        let mut a = bed.ns().open("vale0:a").unwrap();
        let mut b = bed.ns().open("vale0:b").unwrap();
        let mut i = isolated.open("vale0:i").unwrap();
        exchange(&mut a, &mut b, 10);
        bed.server().kill();
        let dir = bed.dir().to_owned();
        let next = Server::start(&dir, None);
        let ns = bed.handle(false);
        assert_eq!(ns.list().unwrap(), []);
        // The same names, next to those of the dead.
        let mut c = ns.open("vale0:a").unwrap();
        let mut d = ns.open("vale0:b").unwrap();
        exchange(&mut c, &mut d, 500);
        exchange(&mut a, &mut b, 500);
        assert!(c.rx(0).sync().unwrap() + d.rx(0).sync().unwrap() == 0);
        // A handle from before is told once and works again.
        let first = bed.ns().list();
        assert!(first.is_ok() || bed.ns().list().is_ok(), "{first:?}");
        let e = told(&mut i);
        assert_eq!(e.kind(), ErrorKind::Disconnected, "{e}");
        drop((a, b, i));
        // The end of the old ones is nothing to the new server.
        assert_eq!(ns.list().unwrap().len(), 2);
        exchange(&mut c, &mut d, 100);
        drop((c, d));
        bed.assert_empty();
        drop(next);
    }

    /// Nobody is left to clear a dead sender's reservation: the receiver does.
    fn an_orphan(sleeps: bool) {
        let mut bed = Place::Trusted.up();
        let mut s = bed.ns().open("vale0:s").unwrap();
        let mut r = bed.ns().open("vale0:r").unwrap();
        let mut dying = stop_in_reservation(&bed);
        bed.server().kill();
        dying.kill();
        let frames: Vec<_> = (0..5)
            .map(|n| tagged(BROADCAST, mac(1), 60, 1, n))
            .collect();
        for f in &frames {
            send(&mut s, f);
        }
        let end = Instant::now() + PATIENCE;
        let mut got = Vec::new();
        while got.len() < 5 {
            assert!(Instant::now() < end, "stuck behind the dead");
            if sleeps {
                r.wait_rx(Some(Duration::from_secs(1))).unwrap();
            }
            r.rx(0).sync().unwrap();
            got.extend(take(r.rx(0)));
        }
        assert_eq!(got, frames);
        exchange(&mut s, &mut r, 3000);
    }

    fn stop_in_reservation(bed: &Bed) -> Peer {
        let mut raw = Raw::connect(bed.dir(), false);
        let kring = raw.register("vale0:r").0.rx[0].kring;
        let flag = bed.scratch().join("flag");
        let spec = Spec::new("stopped", bed.dir())
            .set("port", "vale1:dying")
            .set("at", "reservation")
            .set("kring", kring)
            .set("slots", 10)
            .set("done", 0)
            .set("flag", flag.display());
        let peer = Peer::start(PEER, &spec);
        eventually("it has reserved", || flag.exists());
        peer
    }

    #[test]
    fn an_orphan_in_the_way_of_one_who_polls() {
        an_orphan(false);
    }

    #[test]
    fn an_orphan_in_the_way_of_one_who_sleeps() {
        an_orphan(true);
    }

    /// A server that it started itself is no different.
    #[test]
    fn on_demand_servers_are_replaced() {
        let bed = Place::Trusted.up();
        let dir = bed.scratch().join("other");
        // The server's program is where the library looks for it, or named.
        let _ = netvale_testkit::program();
        let ns = netvale::Namespace::at(&dir).unwrap();
        let mut a = ns.open("vale0:a").unwrap();
        let mut b = ns.open("vale0:b").unwrap();
        exchange(&mut a, &mut b, 100);
        ns.shutdown(true).unwrap();
        let mut c = None;
        eventually("another server is there", || {
            c = ns.open("vale0:a").ok();
            c.is_some()
        });
        exchange(&mut a, &mut b, 100);
        assert_eq!(ns.list().unwrap().len(), 1);
        drop((a, b, c, ns));
        eventually("the last server ends", || !dir.join("lock").exists());
    }
}
