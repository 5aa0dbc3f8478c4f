//! Monitors.

use netvale::ErrorKind;
use netvale_testkit::frame::{BROADCAST, mac, tagged};
use netvale_testkit::io::{drain, quiet, recv, recv_n, send, settled};
use netvale_testkit::{Bed, Place, eventually};

pub(crate) fn what_is_sent_and_what_arrives(bed: &Bed) {
    let open = |n| bed.ns().open(n).unwrap();
    let (mut a, mut b) = (open("vale0:a"), open("vale0:b"));
    let (mut r, mut t, mut rt) = (open("vale0:a/r"), open("vale0:a/t"), open("vale0:a/rt"));
    for i in 0..50 {
        let there = tagged(mac(2), mac(1), 60 + i * 40, 1, i as u64);
        let back = tagged(mac(1), mac(2), 60 + i * 30, 2, i as u64);
        send(&mut a, &there);
        assert_eq!(recv(&mut b), there);
        assert_eq!(recv(&mut t), there);
        assert_eq!(recv(&mut rt), there);
        // Seen before the port itself has looked.
        send(&mut b, &back);
        assert_eq!(recv(&mut r), back);
        assert_eq!(recv(&mut rt), back);
        assert_eq!(recv(&mut a), back);
    }
    let big = tagged(mac(2), mac(1), 9000, 1, 100);
    send(&mut a, &big);
    assert_eq!(recv(&mut b), big);
    assert_eq!(recv(&mut t), big);
    assert_eq!(recv(&mut rt), big);
    for p in [&mut a, &mut b, &mut r, &mut t, &mut rt] {
        quiet(p);
    }
    // Another comes, others go: nobody else is disturbed.
    drop(t);
    let mut t = open("vale0:a/t");
    let f = tagged(mac(2), mac(1), 60, 1, 101);
    send(&mut a, &f);
    assert_eq!(
        (recv(&mut t), recv(&mut rt), recv(&mut b)),
        (f.clone(), f.clone(), f)
    );
    quiet(&mut r);
}

pub(crate) fn an_overflow_keeps_the_newest(bed: &Bed) {
    let mut a = bed.ns().open("vale0:a").unwrap();
    let mut b = bed.ns().open("vale0:b").unwrap();
    let mut m = bed.ns().port("vale0:a/t").slots(16, 16).open().unwrap();
    let frames: Vec<_> = (0..100).map(|i| tagged(mac(2), mac(1), 60, 1, i)).collect();
    for f in &frames {
        a.tx(0).push(f).unwrap();
    }
    a.tx(0).sync().unwrap();
    assert_eq!(recv_n(&mut b, 100), frames);
    settled(&a, 100);
    // The worker may have seen the batch in parts.
    let got = drain(&mut m);
    if bed.place() == Place::Isolated {
        assert!(got.len() >= 15, "{}", got.len());
        assert!(got.iter().all(|f| frames.contains(f)));
    } else {
        assert_eq!(got, frames[85..]);
    }
    let f = tagged(mac(2), mac(1), 60, 1, 200);
    send(&mut a, &f);
    assert_eq!(recv(&mut m), f);
}

pub(crate) fn zero_copy(bed: &Bed) {
    let mut a = bed.ns().open("vale0:a").unwrap();
    let mut b = bed.ns().open("vale0:b").unwrap();
    let opened = bed.ns().open("vale0:b/z");
    if bed.place() == Place::Isolated {
        let e = opened.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
        return;
    }
    let (mut z1, mut z2) = (opened.unwrap(), bed.ns().open("vale0:b/z").unwrap());
    assert!(z1.same_region(&b));
    for i in 0..3000 {
        let f = tagged(BROADCAST, mac(1), 60 + i % 1400, 1, i as u64);
        send(&mut a, &f);
        assert_eq!(recv(&mut b), f);
        // Seen when the program gives it back, not before.
        if i % 100 == 0 {
            quiet(&mut z1);
        }
        b.rx(0).sync().unwrap();
        assert_eq!(recv(&mut z1), f);
        z1.rx(0).sync().unwrap();
        assert_eq!(recv(&mut z2), f);
    }
    let f = tagged(BROADCAST, mac(2), 60, 2, 1);
    send(&mut b, &f);
    assert_eq!(recv(&mut a), f);
    assert_eq!(recv(&mut z1), f);
    bed.assert_sound();
    drop(b);
    bed.assert_sound();
}

pub(crate) fn they_need_something_to_watch(bed: &Bed) {
    let kind = |name: &str| bed.ns().open(name).unwrap_err().kind();
    assert_eq!(kind("vale0:a/r"), ErrorKind::NotFound);
    let mut a = bed.ns().open("vale0:a").unwrap();
    let mut m = bed.ns().open("vale0:a/rt").unwrap();
    let name = m.name().to_owned();
    assert!(name.starts_with("vale0:a/rt#"), "{name}");
    // It cannot send.
    m.tx(0).push(&[0; 60]).ok();
    let sent = m.tx(0).sync();
    if bed.place() != Place::Isolated {
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::Usage);
    }
    quiet(&mut a);
    // What it watches goes; it stays, and closes like any other.
    drop(a);
    eventually("the port is gone", || bed.ns().list().unwrap().len() == 1);
    drop(m);
}
