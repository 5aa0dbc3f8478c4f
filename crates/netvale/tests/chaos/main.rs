//! Processes that die at any instant, or write where they must not, while
//! others go on with their work.
//!
//! `NETVALE_CHAOS_KILLS` says how many are killed (default 1000, or as many as
//! can be killed in 40 s), `NETVALE_SEED` repeats a run's choices.
#![forbid(unsafe_code)]

#[cfg(test)]
mod herd;
#[cfg(test)]
mod survivors;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use netvale::ErrorKind;
    use netvale_testkit::frame::{BROADCAST, mac, tagged, verify};
    use netvale_testkit::io::{recv, send, settled, take};
    use netvale_testkit::raw::Raw;
    use netvale_testkit::{Bed, Peer, Place, Rng, Spec, eventually};

    use super::herd::Herd;
    use super::survivors::{self, Survivors};

    const PEER: &str = "tests::peer";

    #[test]
    fn peer() {
        Peer::main();
    }

    fn kills(default: usize) -> usize {
        let asked = std::env::var("NETVALE_CHAOS_KILLS").ok();
        asked.map_or(default, |n| n.parse().unwrap())
    }

    /// Kills members of the herd until it is enough, or for too long.
    fn rampage(herd: &mut Herd, rng: &mut Rng, survivors: &Survivors, kills: usize, least: usize) {
        let start = Instant::now();
        let asked = std::env::var_os("NETVALE_CHAOS_KILLS").is_some();
        let mut killed = 0;
        while killed < kills && survivors.are_well() {
            if !asked && killed >= least && start.elapsed() > Duration::from_secs(40) {
                break;
            }
            std::thread::sleep(Duration::from_micros(rng.below(30_000) as u64));
            // Sometimes several at once.
            for _ in 0..if rng.percent(20) { 3 } else { 1 } {
                herd.kill_one(rng);
                killed += 1;
            }
        }
        eprintln!("{killed} kills in {:.1?}", start.elapsed());
    }

    #[test]
    fn trusted_processes_are_killed() {
        let bed = Place::Trusted.up();
        let mut rng = Rng::announced("trusted_processes_are_killed");
        let survivors = Survivors::start(&bed, "vale0", false);
        let mut herd = Herd::trusted(&bed, PEER);
        herd.fill(&mut rng);
        rampage(&mut herd, &mut rng, &survivors, kills(1000), 300);
        survivors.still_going();
        herd.end();
        let sources = survivors.end();
        assert!(
            sources > 20,
            "the killed hardly did anything: {sources} sources"
        );
        bed.assert_empty();
    }

    #[test]
    fn isolated_processes_are_killed() {
        let mut bed = Place::Trusted.up();
        let mut rng = Rng::announced("isolated_processes_are_killed");
        let survivors = Survivors::start(&bed, "vale0", true);
        let mut herd = Herd::isolated(&bed, PEER);
        herd.fill(&mut rng);
        rampage(&mut herd, &mut rng, &survivors, kills(1000) / 5, 60);
        survivors.still_going();
        herd.end();
        let sources = survivors.end();
        assert!(
            sources > 5,
            "the killed hardly did anything: {sources} sources"
        );
        assert!(bed.server().is_alive());
        bed.assert_empty();
    }

    /// What it does to its own memory is nobody else's trouble.
    #[test]
    fn a_hostile_isolated_client_harms_nobody() {
        let mut bed = Place::Isolated.up();
        let trusted = bed.handle(false);
        let mut evil: Vec<_> = (0..2)
            .map(|i| {
                let spec = Spec::new("hostile", bed.dir())
                    .set("port", format!("vale0:evil{i}"))
                    .set("seed", 7 + i);
                Peer::start(PEER, &spec)
            })
            .collect();
        eventually("they are there", || bed.ns().list().unwrap().len() == 2);
        let survivors = Survivors::start(&bed, "vale3", true);
        // On a switch of their own, served by the same worker: every frame.
        let mut a = bed.ns().open("vale7:a").unwrap();
        let mut b = bed.ns().open("vale7:b").unwrap();
        let mut c = trusted.open("vale7:c").unwrap();
        // On one switch with them: as long as there is room.
        let mut near = bed.ns().open("vale0:near").unwrap();
        let mut far = trusted.open("vale0:far").unwrap();
        let mut heard = 0;
        let end = Instant::now() + Duration::from_secs(4);
        let mut sent = 0;
        while Instant::now() < end {
            for _ in 0..100 {
                send(&mut a, &tagged(BROADCAST, mac(1), 100, 1, sent));
                sent += 1;
            }
            for i in sent - 100..sent {
                let want = tagged(BROADCAST, mac(1), 100, 1, i);
                assert_eq!(recv(&mut b), want);
                assert_eq!(recv(&mut c), want);
            }
            send(&mut near, &tagged(BROADCAST, mac(42), 100, 42, sent));
            far.rx(0).sync().unwrap();
            while let Some(f) = take(far.rx(0)) {
                // They may send on what they hear, and anything else.
                heard += usize::from(verify(&f).is_ok_and(|(source, _)| source == 42));
            }
            far.rx(0).sync().unwrap();
        }
        assert!(heard > 100, "{heard}");
        settled(&a, sent);
        for (p, frames) in [(&b, sent), (&c, sent)] {
            let s = p.stats().unwrap();
            assert_eq!(
                (s.rx_frames, s.drops.iter().map(|(_, n)| n).sum()),
                (frames, 0)
            );
        }
        for (i, evil) in evil.iter_mut().enumerate() {
            let s = bed.ns().stats(Some(&format!("vale0:evil{i}"))).unwrap();
            assert!(s[0].faults > 0, "{s:?}");
            assert!(evil.ended().is_none(), "it was thrown out");
        }
        eprintln!("{sent} frames beside hostile clients, {heard} among them");
        drop(evil);
        survivors.end();
        drop((a, b, c, near, far));
        assert!(bed.server().is_alive());
        bed.assert_empty();
    }

    /// Whoever shares memory may spoil it, but crashes nobody.
    #[test]
    fn a_scribbling_trusted_peer_crashes_nobody() {
        scribble(false);
    }

    /// Not even with the hidden state.
    #[test]
    fn a_peer_that_spoils_the_hidden_state_crashes_nobody() {
        scribble(true);
    }

    fn scribble(state: bool) {
        let mut rng = Rng::announced("scribble");
        let mut bed = Place::Trusted.up();
        let worker = |i: u32| {
            let spec = Spec::new("tolerant", bed.dir())
                .set("port", format!("vale0:w{i}"))
                .set("source", i)
                .set("to", (i + 1) % 3)
                .set("seed", i + 1);
            Peer::start(PEER, &spec)
        };
        let mut workers: Vec<_> = (0..3).map(worker).collect();
        eventually("they work", || {
            let all = bed.ns().stats(None).unwrap();
            all.len() == 3 && all.iter().all(|s| s.tx_frames > 100)
        });
        let spec = Spec::new("scribbler", bed.dir())
            .set("port", "vale1:evil")
            .set("rings", 16)
            .set("state", state)
            .set("seed", rng.word());
        let mut evil = Peer::start(PEER, &spec);
        eventually("it has spoilt something", || {
            let all = bed.ns().stats(None).unwrap();
            // Its own counters may be anything by then.
            all.iter().fold(0, |n, s| s.faults.saturating_add(n)) > 2
        });
        std::thread::sleep(Duration::from_secs(2));
        for w in &mut workers {
            assert_eq!(w.ended(), None, "a peer crashed");
        }
        evil.kill();
        // They neither crashed nor hang: they end when they are asked to.
        for w in &mut workers {
            assert!(w.finish().success());
        }
        assert!(bed.server().is_alive());
        if state {
            return; // what is left of it is nothing to build on
        }
        // Everything is as new for whoever comes now.
        eventually("they are gone", || bed.ns().list().unwrap().is_empty());
        let mut a = bed.ns().open("vale0:a").unwrap();
        let mut b = bed.ns().open("vale0:b").unwrap();
        for i in 0..3000 {
            let f = tagged(BROADCAST, mac(1), 100, 1, i);
            send(&mut a, &f);
            assert_eq!(recv(&mut b), f);
        }
    }

    /// Starts a process that stops in the middle of something.
    fn stopped(bed: &Bed, port: &str, at: &str, more: &[(&str, u32)]) -> Peer {
        let flag = bed
            .scratch()
            .join(format!("{at}-{}", more.iter().map(|m| m.1).sum::<u32>()));
        let mut spec = Spec::new("stopped", bed.dir())
            .set("port", port)
            .set("at", at)
            .set("flag", flag.display());
        for (key, value) in more {
            spec = spec.set(key, value);
        }
        let peer = Peer::start(PEER, &spec);
        eventually("it is there", || flag.exists());
        peer
    }

    fn rx_kring(bed: &Bed, port: &str) -> u32 {
        let mut raw = Raw::connect(bed.dir(), false);
        raw.register(port).0.rx[0].kring
    }

    #[test]
    fn a_reservation_of_the_dead_is_cleared() {
        let bed = Place::Trusted.up();
        let mut s = bed.ns().open("vale0:s").unwrap();
        let mut r = bed.ns().open("vale0:r").unwrap();
        let kring = rx_kring(&bed, "vale0:r");
        for (i, (slots, done)) in [(1, 0), (10, 0), (10, 4), (64, 63), (900, 1)]
            .into_iter()
            .enumerate()
        {
            let more = [("kring", kring), ("slots", slots), ("done", done)];
            let mut dying = stopped(&bed, &format!("vale1:dying{i}"), "reservation", &more);
            let frames: Vec<_> = (0..5)
                .map(|n| tagged(BROADCAST, mac(1), 60, 1, n))
                .collect();
            for f in &frames {
                send(&mut s, f);
            }
            // What it did publish can be seen, what stands behind it not yet.
            r.rx(0).sync().unwrap();
            assert_eq!(r.rx(0).available(), done);
            r.rx(0).discard(done);
            let got = std::thread::scope(|scope| {
                // Asleep: the repair wakes it.
                let sleeper = scope.spawn(|| {
                    eventually("frames", || {
                        r.wait_rx(Some(Duration::from_secs(20))).unwrap()
                    });
                    (0..5).map(|_| recv(&mut r)).collect::<Vec<_>>()
                });
                std::thread::sleep(Duration::from_millis(20));
                dying.kill();
                sleeper.join().unwrap()
            });
            assert_eq!(got, frames);
            r.rx(0).sync().unwrap();
        }
        drop((s, r));
        bed.assert_empty();
    }

    #[test]
    fn a_lock_of_the_dead_is_broken() {
        let bed = Place::Trusted.up();
        let mut s = bed.ns().open("vale0:s").unwrap();
        let mut r = bed.ns().open("vale0:r").unwrap();
        let mut dying = stopped(&bed, "vale0:s", "lock", &[]);
        let f = tagged(BROADCAST, mac(1), 60, 1, 1);
        s.tx(0).push(&f).unwrap();
        assert_eq!(s.tx(0).sync().unwrap(), 0);
        dying.kill();
        eventually("the ring goes on", || s.tx(0).sync().unwrap() == 1);
        assert_eq!(recv(&mut r), f);
        drop((s, r));
        bed.assert_empty();
    }

    #[test]
    fn a_half_done_exchange_loses_no_buffer() {
        let bed = Place::Trusted.up();
        for shared in [false, true] {
            for steps in 0..=4 {
                let mut s = bed.ns().open("vale0:s").unwrap();
                let mut r = bed.ns().open("vale0:r").unwrap();
                // Alone on its port, or one of two who have it open.
                let port = if shared { "vale0:s" } else { "vale1:x" };
                let kring = rx_kring(&bed, "vale0:r");
                let more = [("kring", kring), ("steps", steps)];
                let flag = bed.scratch().join(format!("exchange-{}", kring + steps));
                let mut dying = stopped(&bed, port, "exchange", &more);
                dying.kill();
                std::fs::remove_file(flag).unwrap();
                for i in 0..2500 {
                    let f = tagged(BROADCAST, mac(1), 60, 1, i);
                    send(&mut s, &f);
                    assert_eq!(recv(&mut r), f, "steps {steps}");
                }
                drop((s, r));
                bed.assert_empty();
            }
        }
    }

    #[test]
    fn a_half_done_forward_loses_no_buffer() {
        let bed = Place::Trusted.up();
        for kept in [None, Some("vale1:x")] {
            for steps in 0..=4 {
                // Both ports die, or somebody else has one of them open too.
                let other = kept.map(|name| bed.ns().open(name).unwrap());
                let flag = bed.scratch().join(format!("forward-{steps}"));
                let spec = Spec::new("stopped", bed.dir())
                    .set("port", "vale1:x")
                    .set("other", "vale2:y")
                    .set("at", "forward")
                    .set("steps", steps)
                    .set("flag", flag.display());
                let mut dying = Peer::start(PEER, &spec);
                eventually("it is there", || flag.exists());
                dying.kill();
                std::fs::remove_file(flag).unwrap();
                drop(other);
                bed.assert_empty();
            }
        }
    }

    #[test]
    fn a_process_out_of_descriptors_is_told() {
        for isolated in [false, true] {
            let bed = Place::Trusted.up();
            let spec = Spec::new("starved", bed.dir())
                .set("files", 40)
                .set("isolated", isolated);
            let mut peer = Peer::start(PEER, &spec);
            assert!(peer.finish().success());
            bed.assert_empty();
        }
    }

    #[test]
    fn what_is_used_up_is_told_and_comes_back() {
        let cases = [
            ("[limits]\nports = 16\n", 1, 64, "ports"),
            ("[limits]\nrings = 64\n", 4, 64, "rings"),
            ("[region]\nrings = 64\n", 4, 64, "rings"),
            ("[region]\nbufs = 9000\n", 1, 512, "buffers"),
            ("[limits]\nswitches = 4\n", 1, 64, "switches"),
            ("[region]\ninterfaces = 8\n", 1, 64, "interface"),
        ];
        for (settings, rings, slots, word) in cases {
            let bed = Place::Trusted.with(settings);
            for _ in 0..3 {
                let mut open = Vec::new();
                let refused = loop {
                    let name = format!("vale{}:a", open.len());
                    match bed
                        .ns()
                        .port(&name)
                        .rings(rings, rings)
                        .slots(slots, slots)
                        .open()
                    {
                        Ok(port) => open.push(port),
                        Err(e) => break e,
                    }
                    assert!(open.len() < 200, "{settings}: there is no limit");
                };
                assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
                let text = refused.to_string();
                assert!(text.contains(word) && !text.contains('\n'), "{text}");
                assert!(open.len() >= 4, "{settings}: {} {text}", open.len());
                bed.assert_sound();
                drop(open);
                bed.assert_empty();
            }
        }
    }

    #[test]
    fn survivors_notice_what_is_wrong() {
        // The judge itself: a frame that comes twice, and one that is not whole.
        let f = tagged(BROADCAST, mac(1), 60, 1, 1);
        let mut bad = f.clone();
        bad[30] ^= 1;
        for second in [&f, &bad] {
            let seen = std::panic::catch_unwind(|| {
                let mut order = survivors::order();
                order.see(&f, "here");
                order.see(second, "here");
            });
            assert!(seen.is_err());
        }
    }
}
