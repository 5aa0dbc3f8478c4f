//! What monitors see, and what those that are watched notice of it.

#[cfg(test)]
mod common;

#[cfg(test)]
mod monitors {
    use netvale_ring::Slot;
    use netvale_ring::monitor;
    use netvale_ring::slot::{NS_BUF_CHANGED, NS_MOREFRAG, NS_TXMON};
    use netvale_switch::end::SyncError;

    use crate::common::{Bed, Port, drain, peek, queue, small, want};

    fn frame(dst: u8, src: u8, n: u8) -> Vec<u8> {
        let mut f = vec![n; 60];
        f[..6].copy_from_slice(&[2, 0, 0, 0, 0, dst]);
        f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src]);
        f
    }

    fn flags(port: &Port) -> Vec<u16> {
        let slots = peek(port, 0).into_iter().flat_map(|g| g.slots);
        slots.map(|s| s.1).collect()
    }

    fn numbers(port: &mut Port) -> Vec<u8> {
        drain(port, 0).iter().map(|g| g.bytes[20]).collect()
    }

    fn send(port: &mut Port, frames: impl Iterator<Item = u8>) {
        for n in frames {
            assert!(queue(port, 0, &[&frame(0xff, 1, n)]));
        }
        port.tx[0].sync().unwrap();
    }

    /// Buffers that an RX ring's slots name.
    fn bufs(port: &Port) -> Vec<u32> {
        let ring = port.rx[0].ring();
        (0..ring.count()).map(|i| ring.slot(i).buf()).collect()
    }

    #[test]
    fn a_monitor_whose_port_has_left_says_so() {
        let bed = Bed::new(small());
        let w = want(1, 1, 16, 16);
        let (mut a, b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let mut t = bed.open("vale0:a/t", &w);
        let mut z = bed.open("vale0:a/z", &w);
        let mut r = bed.open("vale0:b/r", &w);
        send(&mut a, 0..2);
        assert_eq!(t.rx[0].sync(), Ok(2));
        assert_eq!(z.rx[0].sync(), Ok(2));
        assert_eq!(r.rx[0].sync(), Ok(2));
        let mut woken = Vec::new();
        monitor::orphan(&bed.world, a.tx[0].kring(), true, |k| woken.push(k));
        monitor::orphan(&bed.world, a.rx[0].kring(), false, |k| woken.push(k));
        let [tid, zid] = [&t, &z].map(|m| m.reg.rx[0].kring);
        woken.sort();
        assert_eq!(woken, [tid, zid, zid], "z watches both rings");
        for m in [&mut t, &mut z] {
            // What came before is there, but no sync goes well any more.
            assert!(!m.rx[0].idle());
            assert_eq!(m.rx[0].sync(), Err(SyncError::Gone));
            m.rx[0].ring().set_head(1);
            assert_eq!(m.rx[0].sync(), Err(SyncError::Gone));
            assert_eq!(m.tx[0].sync(), Err(SyncError::Monitor));
        }
        assert_eq!(r.rx[0].sync(), Ok(2), "its port is still there");
        // A ring made anew of the same hidden state is not gone.
        bed.close(t);
        bed.close(z);
        bed.close(a);
        let mut a = bed.open("vale0:a", &w);
        let mut again: Vec<Port> = (0..3).map(|_| bed.open("vale0:a/rt", &w)).collect();
        send(&mut a, 5..6);
        for m in &mut again {
            assert_eq!(numbers(m), [5]);
        }
        for p in again.into_iter().chain([a, b, r]) {
            bed.close(p);
        }
        bed.check();
    }

    #[test]
    fn the_oldest_of_a_batch_are_skipped() {
        let bed = Bed::new(small());
        let w = want(1, 1, 64, 64);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let few = want(1, 1, 16, 8);
        let mut t = bed.open("vale0:a/t", &few);
        let mut r = bed.open("vale0:b/r", &few);
        let mut z = bed.open("vale0:b/z", &few);
        send(&mut a, 0..20);
        assert_eq!(numbers(&mut t), [13, 14, 15, 16, 17, 18, 19]);
        assert_eq!(numbers(&mut r), [13, 14, 15, 16, 17, 18, 19]);
        assert_eq!(bed.drops(&t)["rx_full"], 13);
        assert!(numbers(&mut z).is_empty(), "nothing was released");
        assert_eq!(drain(&mut b, 0).len(), 20);
        assert_eq!(numbers(&mut z), [13, 14, 15, 16, 17, 18, 19]);
        // Whole frames only: of three slots each, two fit into seven.
        let f = frame(0xff, 1, 9);
        for n in 0..4 {
            let mut f = f.clone();
            f[20] = n;
            assert!(queue(&a, 0, &[&f[..30], &f[30..40], &f[40..]]));
        }
        a.tx[0].sync().unwrap();
        t.rx[0].sync().unwrap();
        let more = NS_TXMON | NS_MOREFRAG;
        assert_eq!(flags(&t), [more, more, NS_TXMON, more, more, NS_TXMON]);
        assert_eq!(numbers(&mut t), [2, 3]);
        r.rx[0].sync().unwrap();
        let three = 3 << 8;
        let more = three | NS_MOREFRAG;
        assert_eq!(flags(&r), [more, more, three, more, more, three]);
        assert_eq!(numbers(&mut r), [2, 3]);
        bed.check();
    }

    #[test]
    fn flags_say_which_way_a_frame_went() {
        let bed = Bed::new(small());
        let w = want(1, 1, 16, 16);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let mut both = bed.open("vale0:a/rt", &w);
        send(&mut a, 0..1);
        send(&mut b, 1..2);
        both.rx[0].sync().unwrap();
        assert_eq!(flags(&both), [NS_TXMON, 1 << 8]);
        // The program's own bits 8 to 15 are copied as they are.
        let ring = a.tx[0].ring();
        let at = ring.head();
        let buf = ring.slot(at).buf();
        assert!(a.map.bufs().write(buf, 0, &frame(0xff, 1, 2)));
        ring.set_slot(at, Slot::new(buf, 60, 0x4200));
        ring.set_head(at + 1);
        a.tx[0].sync().unwrap();
        drain(&mut both, 0);
        let last = both.rx[0].ring().head() - 1;
        assert_eq!(both.rx[0].ring().slot(last).flags(), 0x4200 | NS_TXMON);
    }

    #[test]
    fn zero_copy_takes_buffers_when_their_user_is_done() {
        let bed = Bed::new(small());
        let w = want(1, 1, 16, 16);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let mut z = bed.open("vale0:b/z", &w);
        let mut out = bed.open("vale0:a/z", &w);
        send(&mut a, 0..3);
        // Sent: the frames are with the monitor, others in the sender's slots.
        out.rx[0].sync().unwrap();
        assert_eq!(flags(&out), [NS_TXMON; 3]);
        assert_eq!(numbers(&mut out), [0, 1, 2]);
        for i in 0..3 {
            assert!(a.tx[0].ring().slot(i).has(NS_BUF_CHANGED));
        }
        // Received: with the monitor once the receiver lets go of them.
        let before = (bufs(&b), bufs(&z));
        b.rx[0].sync().unwrap();
        z.rx[0].sync().unwrap();
        assert!(peek(&z, 0).is_empty());
        b.rx[0].ring().set_head(2);
        b.rx[0].sync().unwrap();
        assert_eq!(z.rx[0].sync(), Ok(2));
        let after = (bufs(&b), bufs(&z));
        assert_eq!(after.1[..2], before.0[..2], "the very buffers");
        assert_eq!(after.0[..2], before.1[..2], "for empty ones");
        assert_eq!(after.0[2..], before.0[2..]);
        for i in 0..3 {
            let changed = b.rx[0].ring().slot(i).has(NS_BUF_CHANGED);
            assert_eq!(changed, i < 2, "slot {i}");
        }
        assert_eq!(numbers(&mut z), [0, 1]);
        for p in [&a, &b, &z, &out] {
            bed.check_holders(p);
        }
        bed.check();
    }

    #[test]
    fn zero_copy_monitors_form_a_chain() {
        let bed = Bed::new(small());
        let w = want(1, 1, 16, 16);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let mut chain: Vec<Port> = (0..3).map(|_| bed.open("vale0:b/z", &w)).collect();
        let mut copy = bed.open("vale0:b/r", &w);
        for round in 0..4 {
            send(&mut a, round * 10..round * 10 + 10);
            let want: Vec<u8> = (round * 10..round * 10 + 10).collect();
            assert_eq!(numbers(&mut copy), want, "before the receiver has them");
            assert_eq!(numbers(&mut b), want);
            for z in &mut chain {
                assert_eq!(numbers(z), want);
            }
            for p in chain.iter().chain([&a, &b, &copy]) {
                bed.check_holders(p);
            }
        }
        // One leaves; the others go on.
        bed.close(chain.remove(1));
        send(&mut a, 90..95);
        assert_eq!(numbers(&mut b), [90, 91, 92, 93, 94]);
        for z in &mut chain {
            assert_eq!(numbers(z), [90, 91, 92, 93, 94]);
        }
        bed.check();
    }

    #[test]
    fn a_pipe_is_seen_when_its_receiver_lets_go() {
        let bed = Bed::new(small());
        let w = want(1, 1, 16, 16);
        let (mut p, mut q) = (bed.open("vale0:p{1", &w), bed.open("vale0:p}1", &w));
        let mut z = bed.open("vale0:p{1/z", &w);
        let mut t = bed.open("vale0:p{1/t", &w);
        let mut r = bed.open("vale0:p}1/r", &w);
        send(&mut p, 0..2);
        assert_eq!(numbers(&mut t), [0, 1], "as it is sent");
        assert_eq!(numbers(&mut r), [0, 1], "as it arrives");
        assert!(numbers(&mut z).is_empty());
        q.rx[0].sync().unwrap();
        q.rx[0].ring().set_head(1);
        q.rx[0].sync().unwrap();
        assert!(numbers(&mut z).is_empty(), "not taken back yet");
        assert!(!p.tx[0].idle());
        p.tx[0].sync().unwrap();
        z.rx[0].sync().unwrap();
        assert_eq!(flags(&z), [NS_TXMON]);
        assert_eq!(numbers(&mut z), [0]);
        assert!(p.tx[0].ring().slot(0).has(NS_BUF_CHANGED));
        bed.check();
    }
}
