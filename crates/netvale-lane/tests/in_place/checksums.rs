//! Checksums that a sender left to the interface: finished, and looked for
//! only while there may be some.

use netvale_lane::Lane;
use netvale_testkit::eventually;
use netvale_wire::checksum::{pseudo_v4, pseudo_v6};
use netvale_wire::offload::unfinished;

use crate::bed::{Bed, Cable, Nic, User};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a frame is like.
#[derive(Debug, Clone, Copy)]
struct Kind {
    tags: usize,
    v6: bool,
    /// Words of IPv4 options.
    options: u8,
    protocol: u8,
    /// Whether its checksum was left to the interface.
    left: bool,
    /// Whether a receiver has to look to know that.
    suspected: bool,
}

/// One with this number in it.
fn frame(kind: Kind, number: u16) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    (0..kind.tags).for_each(|_| f.extend([0x81, 0, 0, 7]));
    let len: u16 = 60;
    let pseudo = if kind.v6 {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        f.extend(len.to_be_bytes());
        f.extend([kind.protocol, 64]);
        f.extend([0xfd; 32]);
        let ip = [0xfd; 16].into();
        pseudo_v6(ip, ip, kind.protocol, len.into())
    } else {
        f.extend([8, 0, 0x45 + kind.options, 0]);
        let options = 4 * u16::from(kind.options);
        f.extend((len + 20 + options).to_be_bytes());
        f.extend([0, 1, 0x40, 0, 64, kind.protocol, 0, 0]);
        f.extend([10, 1, 2, 3, 200, 5, 6, 7]);
        f.extend(vec![1; options.into()]);
        let (a, b) = ([10, 1, 2, 3].into(), [200, 5, 6, 7].into());
        pseudo_v4(a, b, kind.protocol, len)
    };
    let start = f.len();
    f.resize(start + usize::from(len), 0x5a);
    f[start..start + 2].copy_from_slice(&number.to_be_bytes());
    let at = start + if kind.protocol == TCP { 16 } else { 6 };
    let field = pseudo.fold() ^ if kind.left { 0 } else { 0x1111 };
    f[at..at + 2].copy_from_slice(&field.to_be_bytes());
    f
}

/// What is to come out of it.
fn finished(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(left) = unfinished(&frame, frame.len()) {
        let mut message = frame[left.start..left.end].to_vec();
        let value = left.finish(&mut message).unwrap();
        let at = left.start + left.offset;
        frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
    frame
}

/// Sends these and receives them again.
fn pass(cable: &mut Cable, lane: &mut Lane, user: &mut User, sent: &[Vec<u8>]) {
    for some in sent.chunks(30) {
        cable.far.send(some);
        let mut got = Vec::new();
        eventually("all come", || {
            lane.wake(true, true);
            lane.serve();
            user.rx.sync().unwrap();
            let ring = user.rx.ring();
            let mut at = ring.head();
            while at != ring.tail() {
                let slot = ring.slot(at);
                let mut bytes = vec![0; slot.len().into()];
                assert!(user.map.bufs().read(slot.buf(), 0, &mut bytes));
                // Not what the stack says by itself.
                if bytes.get(..6) == Some(&[2, 0, 0, 0, 0, 2]) {
                    got.push(bytes);
                }
                at = ring.next(at);
            }
            ring.set_head(at);
            user.rx.sync().unwrap();
            got.len() >= some.len()
        });
        let right: Vec<_> = some.iter().cloned().map(finished).collect();
        assert!(got == right);
    }
}

#[test]
fn what_was_left_is_finished_and_the_rest_is_not_looked_at() {
    const TEST: &str = "checksums::what_was_left_is_finished_and_the_rest_is_not_looked_at";
    let Some(mut cable) = Cable::new(TEST) else {
        return;
    };
    let bed = Bed::new();
    let (nic, device) = Nic::open(&bed, &cable, "netmap:eth0");
    let mut user = bed.open("netmap:eth0");
    let mut lane = nic.lane(&bed, device);
    let plain = Kind {
        tags: 0,
        v6: false,
        options: 0,
        protocol: UDP,
        left: false,
        suspected: false,
    };
    let of = |kind: Kind, n: u16| -> Vec<Vec<u8>> { (0..n).map(|i| frame(kind, i)).collect() };
    // The stack's own frames may be counted at any time.
    let counted = |nic: &Nic| nic.hand_over.suspected(0).unwrap();
    let kinds = [
        Kind {
            protocol: TCP,
            ..plain
        },
        plain,
        Kind {
            left: true,
            suspected: true,
            ..plain
        },
        Kind {
            left: true,
            suspected: true,
            protocol: TCP,
            ..plain
        },
        Kind {
            left: true,
            suspected: true,
            options: 3,
            ..plain
        },
        Kind {
            left: true,
            suspected: true,
            v6: true,
            ..plain
        },
        Kind {
            left: true,
            suspected: true,
            tags: 1,
            protocol: TCP,
            ..plain
        },
    ];
    for round in 0..3 {
        // Until nobody looks any more.
        pass(&mut cable, &mut lane, &mut user, &of(plain, 4200));
        for kind in kinds {
            let before = counted(&nic);
            let sent = of(kind, 20);
            assert_eq!(finished(sent[0].clone()) != sent[0], kind.left);
            pass(&mut cable, &mut lane, &mut user, &sent);
            let n = counted(&nic) - before;
            assert_eq!(n >= 20, kind.suspected, "{round}, {kind:?}: {n}");
        }
        // The same from another process's lane, in the next round.
        if round == 0 {
            lane = nic.lane(&bed, nic.take_over(&bed).into_iter().next().unwrap());
        }
    }
    nic.close(&bed, vec![lane], &user);
    bed.assert_empty();
}
