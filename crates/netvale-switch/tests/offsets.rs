//! Frames that begin behind the first byte of their buffer.

#[cfg(test)]
mod common;

#[cfg(test)]
mod offset {
    use netvale_ring::kring::Kring;
    use netvale_ring::offsets::{self, Offsets};
    use netvale_ring::slot::{NS_BUF_CHANGED, NS_MOREFRAG};
    use netvale_ring::{Ring, Slot};
    use netvale_switch::domain::Want;

    use crate::common::{Bed, Port, small, want};

    const MASK: u64 = 0xffff;
    const BUF: u16 = 2112;

    fn frame(dst: u8, src: u8, len: usize) -> Vec<u8> {
        let mut f: Vec<u8> = (0..len).map(|i| i.to_le_bytes()[0] ^ src).collect();
        f[..6].copy_from_slice(&[2, 0, 0, 0, 0, dst]);
        f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src]);
        f
    }

    /// Gives a ring offsets up to `max`, all slots `initial`.
    fn enable(bed: &Bed, (kring, ring): (Kring<'_>, Ring<'_>), max: u32, initial: u32) {
        offsets::enable(&bed.world, kring, ring, Offsets::new(MASK, max), 0);
        offsets::fill(kring, ring, initial);
    }

    fn tx(p: &Port) -> (Kring<'_>, Ring<'_>) {
        (p.tx[0].kring(), p.tx[0].ring())
    }

    fn rx(p: &Port) -> (Kring<'_>, Ring<'_>) {
        (p.rx[0].kring(), p.rx[0].ring())
    }

    /// Queues a frame, each part at its offset.
    fn put(p: &Port, parts: &[(&[u8], u32)]) {
        let ring = p.tx[0].ring();
        let mut at = ring.head();
        for (i, (part, off)) in parts.iter().enumerate() {
            let buf = ring.slot(at).buf();
            // Bits that are not the offset's are the program's.
            ring.set_ptr(at, 0xabcd_0000 | u64::from(*off));
            if (*off as usize) + part.len() <= usize::from(BUF) {
                assert!(p.map.bufs().write(buf, *off as usize, part));
            }
            let more = if i + 1 < parts.len() { NS_MOREFRAG } else { 0 };
            ring.set_slot(at, Slot::new(buf, u16::try_from(part.len()).unwrap(), more));
            at = ring.next(at);
        }
        ring.set_head(at);
    }

    /// What arrived: each slot's bytes from its offset on, and the offset.
    fn take(p: &mut Port, o: Offsets) -> Vec<(Vec<u8>, u32)> {
        p.rx[0].sync().unwrap();
        let ring = p.rx[0].ring();
        let (mut at, mut out) = (ring.head(), Vec::new());
        while at != ring.tail() {
            let (slot, off) = (ring.slot(at), o.of(ring.ptr(at)));
            let mut b = vec![0; usize::from(slot.len())];
            assert!(p.map.bufs().read(slot.buf(), off as usize, &mut b));
            out.push((b, off));
            at = ring.next(at);
        }
        ring.set_head(at);
        p.rx[0].sync().unwrap();
        out
    }

    #[test]
    fn a_switch_copies_from_offset_to_offset() {
        let bed = Bed::new(small());
        let w = want(1, 1, 64, 64);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let o = Offsets::new(MASK, 256);
        put(&b, &[(&frame(0xff, 2, 60), 0)]);
        b.tx[0].sync().unwrap();
        take(&mut a, Offsets::NONE);
        // A way that was found before must not be taken afterwards.
        for _ in 0..2 {
            put(&a, &[(&frame(2, 1, 60), 0)]);
            a.tx[0].sync().unwrap();
        }
        assert_eq!(take(&mut b, Offsets::NONE).len(), 2);

        let f = frame(2, 1, 100);
        // Only the receiver has offsets: its own, up to alike modulo 64.
        enable(&bed, rx(&b), 256, 10);
        for n in [1, 30] {
            for _ in 0..n {
                put(&a, &[(&f, 0)]);
            }
            a.tx[0].sync().unwrap();
            assert_eq!(take(&mut b, o), vec![(f.clone(), 64); n]);
        }
        // Both: 10 becomes 10 + (100 - 10) % 64.
        enable(&bed, tx(&a), 200, 0);
        put(&a, &[(&f, 100)]);
        a.tx[0].sync().unwrap();
        assert_eq!(take(&mut b, o), [(f.clone(), 36)]);
        // Cut to the sender's largest; 200 % 64 == 8.
        put(&a, &[(&f, 250)]);
        a.map
            .bufs()
            .write(
                a.tx[0].ring().slot(a.tx[0].ring().head() - 1).buf(),
                200,
                &f,
            )
            .then_some(())
            .unwrap();
        a.tx[0].sync().unwrap();
        assert_eq!(take(&mut b, o), [(f.clone(), 72)]);
        // The receiver may not move it up: it stays at its own.
        enable(&bed, rx(&b), 256, 250);
        put(&a, &[(&f, 0)]);
        a.tx[0].sync().unwrap();
        assert_eq!(take(&mut b, o), [(f.clone(), 256)], "alike and allowed");
        put(&a, &[(&f, 5)]);
        a.tx[0].sync().unwrap();
        assert_eq!(take(&mut b, o), [(f.clone(), 250)], "261 is more than 256");
        // Several slots, with offsets of their own.
        enable(&bed, rx(&b), 256, 0);
        put(&a, &[(&f[..40], 3), (&f[40..50], 128), (&f[50..], 63)]);
        a.tx[0].sync().unwrap();
        let got = take(&mut b, o);
        let whole: Vec<u8> = got.iter().flat_map(|g| g.0.clone()).collect();
        let at: Vec<u32> = got.iter().map(|g| g.1).collect();
        assert_eq!((whole, at), (f.clone(), vec![3, 0, 63]));
        // The sender's words are untouched.
        let ring = a.tx[0].ring();
        assert_eq!(ring.ptr(ring.head() - 1), 0xabcd_0000 | 63);
        bed.check();
    }

    #[test]
    fn the_usable_length_is_less_by_the_offset() {
        let bed = Bed::new(small());
        let w = want(1, 1, 64, 64);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        enable(&bed, tx(&a), 2112, 0);
        let longest = frame(0xff, 1, usize::from(BUF) - 100);
        put(&a, &[(&longest, 100)]);
        let mut far = frame(0xff, 1, usize::from(BUF) - 99);
        put(&a, &[(&far, 100)]);
        // A frame of 14 bytes at the very end of its buffer.
        far.truncate(14);
        put(&a, &[(&far, u32::from(BUF) - 14)]);
        a.tx[0].sync().unwrap();
        let got = take(&mut b, Offsets::NONE);
        assert_eq!(got, [(longest.clone(), 0), (far, 0)]);
        assert_eq!(bed.drops(&a)["tx_bad_slot"], 1);
        // At the receiver: a slot that has no room for it is empty.
        enable(&bed, rx(&b), 128, 128);
        put(&a, &[(&longest, 100)]);
        a.tx[0].sync().unwrap();
        let got = take(&mut b, Offsets::new(MASK, 128));
        assert_eq!(got, [(Vec::new(), 128)]);
    }

    #[test]
    fn buffers_are_not_given_away_and_headers_are_converted() {
        let bed = Bed::new(small());
        let w = Want {
            gives_buffers: true,
            accepts_vnet_hdr: true,
            ..want(1, 1, 64, 64)
        };
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let mut c = bed.open(
            "vale0:c",
            &Want {
                vnet_hdr: Some(12),
                ..w
            },
        );
        let o = Offsets::new(MASK, 512);
        enable(&bed, tx(&a), 512, 0);
        enable(&bed, rx(&b), 512, 64);
        enable(&bed, rx(&c), 512, 32);
        let f = frame(0xff, 1, 400);
        put(&a, &[(&f, 70)]);
        let mine = a.tx[0].ring().slot(0).buf();
        a.tx[0].sync().unwrap();
        assert_eq!(a.tx[0].ring().slot(0).buf(), mine);
        assert_eq!(take(&mut b, o), [(f.clone(), 70)]);
        let got = take(&mut c, o);
        assert_eq!(got.len(), 1);
        assert_eq!((&got[0].0[..12], &got[0].0[12..]), (&[0; 12][..], &f[..]));
        assert_eq!(got[0].1, 32);
        bed.check_holders(&a);
        bed.check_holders(&b);
        // A runt is one whatever the buffer holds before it.
        put(&a, &[(&f[..13], 70)]);
        a.tx[0].sync().unwrap();
        assert_eq!(bed.drops(&a)["tx_runt"], 1);
        bed.check();
    }

    #[test]
    fn copy_monitors_have_offsets_of_their_own() {
        let bed = Bed::new(small());
        let w = want(1, 1, 64, 64);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let (mut t, mut r) = (bed.open("vale0:a/t", &w), bed.open("vale0:b/r", &w));
        enable(&bed, tx(&a), 256, 0);
        enable(&bed, rx(&b), 256, 64);
        enable(&bed, rx(&r), 1024, 1000);
        let f = frame(0xff, 1, 1500);
        put(&a, &[(&f, 33)]);
        a.tx[0].sync().unwrap();
        assert_eq!(take(&mut b, Offsets::new(MASK, 256)), [(f.clone(), 97)]);
        assert_eq!(take(&mut t, Offsets::NONE), [(f.clone(), 0)]);
        // Cut to what its own buffer has left.
        let got = take(&mut r, Offsets::new(MASK, 1024));
        assert_eq!(got, [(f[..1112].to_vec(), 1000)]);
        bed.check();
    }

    #[test]
    fn a_pipe_hands_ptr_on_and_keeps_the_larger_offset() {
        let bed = Bed::new(small());
        let w = want(1, 1, 16, 16);
        let (mut p, mut q) = (bed.open("vale0:p{1", &w), bed.open("vale0:p}1", &w));
        let f = frame(2, 1, 100);
        // Without offsets `ptr` is anybody's, in both directions.
        p.tx[0].ring().set_ptr(0, 0x1234_5678_9abc);
        let buf = p.tx[0].ring().slot(0).buf();
        p.tx[0]
            .ring()
            .set_slot(0, Slot::new(buf, 60, NS_BUF_CHANGED));
        p.tx[0].ring().set_head(1);
        p.tx[0].sync().unwrap();
        q.rx[0].sync().unwrap();
        assert_eq!(q.rx[0].ring().ptr(0), 0x1234_5678_9abc);
        assert_eq!(q.rx[0].ring().slot(0).flags(), NS_BUF_CHANGED);
        assert_eq!(p.tx[0].ring().slot(0).flags(), 0);
        q.rx[0].ring().set_ptr(0, 77);
        q.rx[0].ring().set_head(1);
        q.rx[0].sync().unwrap();
        assert_eq!(p.tx[0].ring().ptr(0), 77);
        assert_eq!(p.tx[0].ring().slot(0).flags(), NS_BUF_CHANGED);
        assert_eq!(q.rx[0].ring().slot(0).flags(), 0);

        let o = Offsets::new(MASK, 256);
        enable(&bed, tx(&p), 256, 0);
        enable(&bed, rx(&q), 256, 32);
        put(&p, &[(&f, 200)]);
        put(&p, &[(&f, 16)]);
        p.tx[0].sync().unwrap();
        q.rx[0].sync().unwrap();
        let ring = q.rx[0].ring();
        assert_eq!(ring.ptr(1), 0xabcd_0000 | 200, "the other bits travel");
        assert_eq!(ring.ptr(2), 0xabcd_0000 | 32, "the larger one");
        assert_eq!(ring.slot(1), p.tx[0].ring().slot(1));
        // Back again: the receiver's 256 is more than the sender's 200.
        ring.set_ptr(1, 5000);
        assert_eq!(take(&mut q, o).len(), 2);
        assert_eq!(o.of(p.tx[0].ring().ptr(1)), 256);
        // What does not fit behind the offset is empty.
        put(&p, &[(&[7; 2000], 200)]);
        p.tx[0].sync().unwrap();
        assert!(take(&mut q, o)[0].0.is_empty());
        assert_eq!(bed.drops(&p)["tx_bad_slot"], 1);
        bed.check();
    }

    #[test]
    fn programs_read_them_in_their_ring() {
        let bed = Bed::new(small());
        let a = bed.open("vale0:a", &want(1, 1, 16, 16));
        let word = |ofs: usize| {
            let at = usize::try_from(a.reg.tx[0].ofs).unwrap() + ofs;
            let word = a.map.mem.word(at).unwrap();
            word.load(std::sync::atomic::Ordering::Relaxed)
        };
        assert_eq!((word(56), word(64)), (0, 0));
        let (kring, ring) = tx(&a);
        let o = Offsets::new(0x1_0000_00ff, 128);
        offsets::enable(&bed.world, kring, ring, o, 1 << 33);
        assert_eq!((word(56), word(64)), (0x1_0000_00ff, 1 << 33));
        assert_eq!(kring.offsets(), o);
        assert_eq!(kring.geom().slots, 16);
        offsets::enable(&bed.world, kring, ring, Offsets::NONE, 0);
        assert_eq!((word(56), word(64)), (0, 0));
        assert!(kring.offsets().is_none());
        assert_eq!((ring.head(), ring.tail()), (0, 15));
    }
}
