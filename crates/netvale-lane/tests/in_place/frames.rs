//! Every byte of every frame, and where it lies.

use std::collections::BTreeSet;

use netvale_lane::Lane;
use netvale_ring::Slot;
use netvale_ring::slot::NS_BUF_CHANGED;
use netvale_testkit::{Rng, eventually};

use crate::bed::{Bed, Cable, Nic, User, bufs, frames};

/// Serves until so many frames have come.
fn receive(lane: &mut Lane, user: &mut User, n: usize) -> Vec<(Vec<u8>, Vec<u32>)> {
    let mut got = Vec::new();
    eventually("all frames come", || {
        lane.serve();
        lane.wake(true, true);
        got.extend(user.drain());
        got.len() >= n
    });
    got
}

#[test]
fn received_frames_stay_where_the_kernel_put_them() {
    let Some(mut cable) = Cable::new("frames::received_frames_stay_where_the_kernel_put_them")
    else {
        return;
    };
    let bed = Bed::new();
    let (nic, device) = Nic::open(&bed, &cable, "netmap:eth0");
    let mut user = bed.open("netmap:eth0");
    let mut lane = nic.lane(&bed, device);
    let mut rng = Rng::new(1);
    let first: BTreeSet<u32> = bufs(user_ring(&lane_ring(&nic))).into_iter().collect();
    let mut seen = 0;
    for round in 0..200 {
        let longest = if round % 2 == 0 { 9014 } else { 500 };
        let sent = frames(&mut rng, 12, longest);
        cable.far.send(&sent);
        let got = receive(&mut lane, &mut user, sent.len());
        for ((bytes, bufs), sent) in got.iter().zip(&sent) {
            assert!(bytes == sent);
            if round == 0 {
                let of = |b| nic.stock.contains(b) && !first.contains(b);
                assert!(bufs.iter().all(of), "a buffer that the kernel had");
            }
        }
        seen += got.len();
        bed.check();
    }
    assert_eq!(seen, 2400);
    assert_eq!(nic.hand_over.copied(), [0, 0]);
    nic.close(&bed, vec![lane], &user);
    bed.assert_empty();
}

/// The ring of which the lane's side has the buffers.
fn lane_ring(nic: &Nic) -> (netvale_ring::world::RegionMap, usize, u32) {
    let ring = &nic.reg.tx[0];
    let ofs = usize::try_from(ring.ofs).unwrap();
    (nic.map.clone(), ofs, u32::from(ring.slots))
}

fn user_ring(
    (map, ofs, slots): &(netvale_ring::world::RegionMap, usize, u32),
) -> netvale_ring::Ring<'_> {
    map.ring(*ofs, *slots).unwrap()
}

#[test]
fn sent_frames_leave_from_their_own_buffers_which_stay() {
    let Some(mut cable) = Cable::new("frames::sent_frames_leave_from_their_own_buffers_which_stay")
    else {
        return;
    };
    let bed = Bed::new();
    let (nic, device) = Nic::open(&bed, &cable, "netmap:eth0");
    let mut user = bed.open("netmap:eth0");
    let mut lane = nic.lane(&bed, device);
    let mut rng = Rng::new(2);
    let own = bufs(user.tx.ring());
    for _ in 0..100 {
        let sent = frames(&mut rng, 20, 3000);
        let mut got = Vec::new();
        let mut left = sent.iter();
        let mut next = left.next();
        eventually("all arrive", || {
            while let Some(frame) = next
                && user.queue(frame)
            {
                next = left.next();
            }
            user.tx.sync().unwrap();
            lane.serve();
            user.tx.sync().unwrap();
            got.extend(cable.far.receive());
            got.len() >= sent.len()
        });
        assert!(got == sent);
        assert_eq!(bufs(user.tx.ring()), own, "as programs of netmap expect it");
    }
    // Nothing was copied: no buffer of the stock has been touched.
    let mut head = [0; 60];
    for &buf in &nic.stock {
        assert!(nic.map.bufs().read(buf, 0, &mut head));
        assert_eq!(head, [0xa5; 60]);
    }
    assert_eq!(nic.hand_over.copied(), [0, 0]);
    bed.check();
    nic.close(&bed, vec![lane], &user);
    bed.assert_empty();
}

/// As `bridge` does it: buffers change places, and both are marked.
fn swap(from: &User, to: &User, n: u32) {
    let (rx, tx) = (from.rx.ring(), to.tx.ring());
    let (mut at, mut out) = (rx.head(), tx.head());
    for _ in 0..n {
        let (a, b) = (rx.slot(at), tx.slot(out));
        tx.set_slot(out, Slot::new(a.buf(), a.len(), a.flags() | NS_BUF_CHANGED));
        rx.set_slot(at, Slot::new(b.buf(), b.len(), NS_BUF_CHANGED));
        (at, out) = (rx.next(at), tx.next(out));
    }
    rx.set_head(at);
    tx.set_head(out);
}

#[test]
fn a_bridge_of_two_interfaces_moves_buffers_and_no_bytes() {
    const TEST: &str = "frames::a_bridge_of_two_interfaces_moves_buffers_and_no_bytes";
    let (Some(mut left), Some(mut right)) = (Cable::new(TEST), Cable::new(TEST)) else {
        return;
    };
    let bed = Bed::new();
    let (nic_a, a) = Nic::open(&bed, &left, "netmap:a");
    let (nic_b, b) = Nic::open(&bed, &right, "netmap:b");
    let (mut user_a, mut user_b) = (bed.open("netmap:a"), bed.open("netmap:b"));
    let (mut lane_a, mut lane_b) = (nic_a.lane(&bed, a), nic_b.lane(&bed, b));
    let mut rng = Rng::new(3);
    for _ in 0..150 {
        let sent = frames(&mut rng, 20, 5000);
        left.far.send(&sent);
        let mut got = Vec::new();
        eventually("all arrive", || {
            lane_a.wake(true, true);
            lane_a.serve();
            user_a.rx.sync().unwrap();
            user_b.tx.sync().unwrap();
            let (rx, tx) = (user_a.rx.ring(), user_b.tx.ring());
            let room = tx.span(tx.head(), tx.tail());
            swap(&user_a, &user_b, rx.span(rx.head(), rx.tail()).min(room));
            user_b.tx.sync().unwrap();
            user_a.rx.sync().unwrap();
            lane_b.serve();
            user_b.tx.sync().unwrap();
            got.extend(right.far.receive());
            got.len() >= sent.len()
        });
        assert!(got == sent);
    }
    assert_eq!(
        (nic_a.hand_over.copied(), nic_b.hand_over.copied()),
        ([0; 2], [0; 2])
    );
    bed.check();
    nic_a.close(&bed, vec![lane_a], &user_a);
    nic_b.close(&bed, vec![lane_b], &user_b);
    bed.assert_empty();
}

#[test]
fn buffers_of_other_ports_are_copied_right() {
    let Some(mut cable) = Cable::new("frames::buffers_of_other_ports_are_copied_right") else {
        return;
    };
    let bed = Bed::new();
    let (nic, device) = Nic::open(&bed, &cable, "netmap:eth0");
    let mut user = bed.open("netmap:eth0");
    let other = bed.open("vale0:x");
    let mut lane = nic.lane(&bed, device);
    // Every other buffer of both directions is exchanged for one of the port.
    let strange = bufs(other.tx.ring());
    for (i, &buf) in (0..).zip(&strange[..64]) {
        let hidden = lane_ring(&nic);
        let ring = if i < 32 {
            user.tx.ring()
        } else {
            user_ring(&hidden)
        };
        let at = i % 32 * 4;
        let own = ring.slot(at).buf();
        ring.set_slot(at, Slot::new(buf, 0, 0));
        other.tx.ring().set_slot(i, Slot::new(own, 0, 0));
    }
    bed.check();
    let mut rng = Rng::new(4);
    for _ in 0..60 {
        let sent = frames(&mut rng, 10, 5000);
        cable.far.send(&sent);
        let got = receive(&mut lane, &mut user, sent.len());
        assert!(got.iter().map(|(bytes, _)| bytes).eq(&sent));
        let mut got = Vec::new();
        for frame in &sent {
            eventually("there is room", || {
                user.tx.sync().unwrap();
                lane.serve();
                user.tx.sync().unwrap();
                user.queue(frame)
            });
        }
        eventually("all arrive", || {
            user.tx.sync().unwrap();
            lane.serve();
            got.extend(cable.far.receive());
            got.len() >= sent.len()
        });
        assert!(got == sent);
        bed.check();
    }
    let [received, sent] = nic.hand_over.copied();
    assert!(received > 100 && sent > 100, "{received}, {sent}");
    nic.close(&bed, vec![lane], &user);
    bed.close(&other);
    bed.assert_empty();
}

#[test]
fn what_an_interface_that_is_down_was_to_send_is_never_sent() {
    const TEST: &str = "frames::what_an_interface_that_is_down_was_to_send_is_never_sent";
    let Some(mut cable) = Cable::new(TEST) else {
        return;
    };
    let bed = Bed::new();
    let (nic, device) = Nic::open(&bed, &cable, "netmap:eth0");
    let mut user = bed.open("netmap:eth0");
    let mut lane = nic.lane(&bed, device);
    let mut rng = Rng::new(5);
    let sent = frames(&mut rng, 30, 3000);
    cable.near.ip("link set dev a down");
    sent[..15].iter().for_each(|f| assert!(user.queue(f)));
    user.tx.sync().unwrap();
    lane.serve();
    let down = nic.hand_over.losses().list()[1];
    assert_eq!(down, ("dev_down", 15));
    cable.near.ip("link set dev a up");
    let mut got = Vec::new();
    user.tx.sync().unwrap();
    sent[15..].iter().for_each(|f| assert!(user.queue(f)));
    eventually("the others arrive", || {
        user.tx.sync().unwrap();
        lane.serve();
        got.extend(cable.far.receive());
        got.len() >= 15
    });
    assert!(got == sent[15..]);
    bed.check();
    nic.close(&bed, vec![lane], &user);
    bed.assert_empty();
}
