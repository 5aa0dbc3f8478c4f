//! Whoever serves a socket may end at any instant; the next goes on.

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_lane::{DeviceLane, Dir, Lane, Step};
use netvale_ring::Slot;
use netvale_testkit::{Rng, eventually};

use crate::bed::{Bed, Cable, Nic, SLOTS, User, frames};

/// Number of the registration that dies.
const DEAD: u16 = 77;

fn pool(nic: &Nic) -> BufPool {
    let geom = nic.map.geom;
    BufPool::new(&nic.map.mem, geom.buf_ofs(), geom.bufs, geom.buf_size).unwrap()
}

/// Serves one direction each, as a client does.
fn heirs(bed: &Bed, nic: &Nic) -> [Lane; 2] {
    nic.take_over(bed).map(|device| nic.lane(bed, device))
}

fn drain(lanes: &mut [Lane; 2], user: &mut User, n: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    eventually("all frames come", || {
        lanes[0].serve_in();
        got.extend(user.drain().into_iter().map(|(bytes, _)| bytes));
        got.len() >= n
    });
    got
}

/// Up to which point the receiver comes before it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// It has exchanged buffers.
    Exchange,
    /// It has committed that.
    Commit,
    /// It has filled some of the slots.
    Slots,
}

#[test]
fn a_receiver_that_dies_loses_nothing_and_doubles_nothing() {
    let Some(mut cable) = Cable::new("death::a_receiver_that_dies_loses_nothing") else {
        return;
    };
    let bed = Bed::new();
    let (nic, device) = Nic::open(&bed, &cable, "netmap:eth0");
    let mut user = bed.open("netmap:eth0");
    drop(device);
    let mut lanes = heirs(&bed, &nic);
    let mut rng = Rng::new(1);
    for round in 0..60 {
        let at = [At::Exchange, At::Commit, At::Slots][round % 3];
        let sent = frames(&mut rng, 10, 3000);
        cable.far.send(&sent);
        eventually("something is there to be received", || {
            let [mut dying, _] = nic.take_over(&bed);
            dying.name(DEAD);
            let there = dies(&nic, &mut dying, at);
            assert_eq!(nic.hand_over.break_locks(DEAD), 1);
            there
        });
        assert!(drain(&mut lanes, &mut user, 10) == sent, "{at:?}");
        assert_eq!(user.drain(), []);
        bed.check();
    }
    assert_eq!(nic.hand_over.copied(), [0, 0]);
    let stock = bed.with(|d| d.settle_stock(nic.reg.tx[0].kring));
    assert_eq!(stock.len(), 600);
    nic.close(&bed, lanes.into(), &user);
    bed.assert_empty();
}

/// Receives, and stops there. Whether there was anything to receive.
fn dies(nic: &Nic, dying: &mut impl DeviceLane, at: At) -> bool {
    assert_eq!(dying.enter(Dir::In), Ok(true));
    let ring = nic
        .map
        .ring(usize::try_from(nic.reg.tx[0].ofs).unwrap(), SLOTS.into());
    let ring = ring.unwrap();
    let mut slots = Vec::new();
    if let Some(step) = dying.unfinished(Dir::In, &mut slots) {
        assert!(ring.head() == step.head || slots.is_empty() || ring.head() == step.first);
    }
    let (mut free, mut i) = (Vec::new(), ring.head());
    while i != ring.tail() {
        let (buf, off, len) = (ring.slot(i).buf(), 0, 2112);
        free.push(Piece { buf, off, len });
        i = ring.next(i);
    }
    let mut batch = Batch::new();
    let n = dying.pull(&pool(nic), &free, &mut batch).unwrap();
    if n == 0 || at == At::Exchange {
        return n > 0;
    }
    slots.clear();
    for i in 0..n {
        let chain = batch.chain(i);
        for (k, piece) in chain.iter().enumerate() {
            let more = if k + 1 < chain.len() { 0x20 } else { 0 };
            slots.push(Slot::new(
                piece.buf,
                u16::try_from(piece.len).unwrap(),
                more,
            ));
        }
    }
    let first = ring.head();
    let used = u32::try_from(slots.len()).unwrap();
    let head = (first + used) % ring.count();
    dying.commit(Dir::In, Step { first, head }, &slots).unwrap();
    if at == At::Slots {
        let some = slots.len() / 2 + 1;
        for (k, &slot) in (0..).zip(&slots[..some]) {
            ring.set_slot((first + k) % ring.count(), slot);
        }
    }
    true
}

#[test]
fn a_sender_that_dies_doubles_nothing() {
    let Some(mut cable) = Cable::new("death::a_sender_that_dies_doubles_nothing") else {
        return;
    };
    let bed = Bed::new();
    let (nic, device) = Nic::open(&bed, &cable, "netmap:eth0");
    let mut user = bed.open("netmap:eth0");
    drop(device);
    let [_, mut out] = heirs(&bed, &nic);
    let mut rng = Rng::new(2);
    for round in 0..40 {
        let sent = frames(&mut rng, 10, 3000);
        for frame in &sent {
            eventually("there is room", || {
                user.tx.sync().unwrap();
                user.queue(frame)
            });
        }
        user.tx.sync().unwrap();
        // It sends the first frames, and dies before or after that is
        // committed, but before the slots are given back.
        let mut hidden = nic_rx(&bed, &nic);
        hidden.sync().unwrap();
        let ring = hidden.ring();
        let (first, mut batch) = (ring.head(), Batch::new());
        let (mut at, mut chain) = (first, Vec::new());
        while batch.len() < 5 {
            let slot = ring.slot(at);
            chain.push(Piece {
                buf: slot.buf(),
                off: 0,
                len: slot.len().into(),
            });
            at = ring.next(at);
            if !slot.has(0x20) {
                batch.push(&chain).unwrap();
                chain.clear();
            }
        }
        let [_, mut dying] = nic.take_over(&bed);
        dying.name(DEAD);
        assert_eq!(dying.enter(Dir::Out), Ok(true));
        let _ = dying.unfinished(Dir::Out, &mut Vec::new());
        let pushed = dying.push(&pool(&nic), &batch).unwrap();
        assert_eq!((pushed.done, pushed.refused), (5, 0));
        if round % 2 == 0 {
            let step = Step { first, head: at };
            dying.commit(Dir::Out, step, &[]).unwrap();
        }
        drop((dying, hidden));
        assert_eq!(nic.hand_over.break_locks(DEAD), 1);
        let mut got = Vec::new();
        eventually("the rest arrives", || {
            out.serve_out();
            user.tx.sync().unwrap();
            got.extend(cable.far.receive());
            got.len() >= sent.len()
        });
        assert!(got == sent, "round {round}: {} frames", got.len());
        assert_eq!(cable.far.receive(), Vec::<Vec<u8>>::new());
    }
    bed.check();
    nic.close(&bed, vec![out], &user);
    bed.assert_empty();
}

fn nic_rx(bed: &Bed, nic: &Nic) -> netvale_switch::end::RxEnd {
    let ring = &nic.reg.rx[0];
    netvale_switch::end::RxEnd::new(&bed.gear, &nic.reg, ring, &nic.map).unwrap()
}
