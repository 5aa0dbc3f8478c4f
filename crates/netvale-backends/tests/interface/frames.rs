//! Every byte of every frame, and no other.

use std::mem::MaybeUninit;
use std::time::Duration;

use netvale_backends::af_xdp::{BufLayout, CopyMode, Desc, RingSizes, Umem, Xsk, XskConfig};
use netvale_backends::bpf::XdpMode;
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, Rng, eventually};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType};

use crate::bed::{
    Cable, Port, SIZES, TYPE, UNTOUCHED, all_bytes, bytes_of, config, frame, part, redirect,
    region, umem,
};

const SOON: Duration = Duration::from_millis(100);

/// Frames of all sizes arrive whole at the beginning of their buffers, and no
/// byte of the memory changes but theirs.
fn exact(test: &str, mode: XdpMode) {
    let Some(cable) = Cable::new(test, 1, 1500) else {
        return;
    };
    let mut rng = Rng::new(7);
    let (tx_file, tx_geom) = region(64);
    let (rx_file, rx_geom) = region(64);
    let rx_umem = part(&rx_file, &rx_geom, 2..66);
    let mut a = Port::open(
        &cable.left,
        "a",
        0,
        &umem(&tx_file, &tx_geom),
        2..34,
        &config(),
    );
    let mut b = Port::open(&cable.right, "b", 0, &rx_umem, 2..66, &config());
    assert!(!b.xsk.socket.is_zero_copy().unwrap());
    let program = redirect(&cable.right, "b", 1, mode);
    assert_eq!(program.mode(), mode);
    program.connect(0, &b.xsk.socket).unwrap();
    b.fill(60);

    let mut expected = all_bytes(rx_umem.mem());
    assert!(expected.iter().all(|&byte| byte == UNTOUCHED));
    let sizes = [14, 60, 61, 64, 255, 256, 257, 1024, 1499, 1513, 1514];
    let random: Vec<_> = (0..40).map(|_| 14 + rng.below(1501)).collect();
    for size in sizes.into_iter().chain(random) {
        let sent = frame(&mut rng, size);
        a.send(&sent);
        let got = b.receive_in_place(PATIENCE).unwrap();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].offset, 0, "at the beginning of the buffer");
        assert_eq!(bytes_of(&rx_umem, got[0]), sent);
        let at = rx_geom.buf_ofs() + got[0].buf as usize * 2112;
        expected[at..at + sent.len()].copy_from_slice(&sent);
    }
    assert!(all_bytes(rx_umem.mem()) == expected, "other bytes changed");
    let counted = b.xsk.socket.statistics().unwrap();
    assert_eq!((counted.rx_dropped, counted.rx_invalid), (0, 0));
    assert_eq!(a.free(), 32, "all that was sent came back");
}

#[test]
fn native_frames_are_exact() {
    exact("frames::native_frames_are_exact", XdpMode::Native);
}

#[test]
fn generic_frames_are_exact() {
    exact("frames::generic_frames_are_exact", XdpMode::Generic);
}

/// A socket that sees what the stack gets of our EtherType.
fn stack(ns: &NetNs) -> rustix::fd::OwnedFd {
    let kind = u32::from(u16::from_be_bytes(TYPE).to_be());
    let protocol = Protocol::from_raw(kind.try_into().unwrap());
    let made =
        ns.enter(|| rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, Some(protocol)));
    made.unwrap()
}

fn stack_frame(stack: &rustix::fd::OwnedFd) -> Option<Vec<u8>> {
    let mut buf = [MaybeUninit::uninit(); 2048];
    let ((bytes, _), _) = rustix::net::recv(stack, &mut buf[..], RecvFlags::DONTWAIT).ok()?;
    Some(bytes.to_vec())
}

#[test]
fn each_queue_has_its_socket_and_the_rest_goes_to_the_stack() {
    const TEST: &str = "frames::each_queue_has_its_socket_and_the_rest_goes_to_the_stack";
    let Some(cable) = Cable::new(TEST, 4, 1500) else {
        return;
    };
    let mut rng = Rng::new(3);
    let (file, geom) = region(128);
    let memory = umem(&file, &geom);
    // Of one registration, each socket with rings of its own.
    let index = cable.left.index("a");
    let first = Port::open(&cable.left, "a", 0, &memory, 2..12, &config());
    let mut senders = vec![first];
    for queue in 1..4 {
        let shared = senders[0].xsk.socket.clone();
        let xsk = cable
            .left
            .enter(|| Xsk::open_shared(&shared, index, queue, &config()));
        let bufs = 2 + queue * 10..12 + queue * 10;
        senders.push(Port::of(xsk.unwrap(), &memory, bufs));
    }
    // The same memory, registered once more for each.
    let mut receivers: Vec<Port> = (0..3)
        .map(|queue| {
            let bufs = 50 + queue * 20..70 + queue * 20;
            Port::open(&cable.right, "b", queue, &memory, bufs, &config())
        })
        .collect();
    let program = redirect(&cable.right, "b", 4, XdpMode::Native);
    for (queue, port) in (0..).zip(&mut receivers) {
        program.connect(queue, &port.xsk.socket).unwrap();
        port.fill(16);
    }
    let no_queue = program.connect(4, &receivers[0].xsk.socket).unwrap_err();
    assert!(no_queue.to_string().contains("queue 4"), "{no_queue}");

    let others = stack(&cable.right);
    for round in 0..8 {
        for (queue, sender) in senders.iter_mut().enumerate() {
            let sent = frame(&mut rng, 100 + round);
            sender.send(&sent);
            if let Some(port) = receivers.get_mut(queue) {
                assert_eq!(port.receive(PATIENCE), Some(sent));
            } else {
                let mut got = None;
                eventually("the stack gets what no socket gets", || {
                    got = stack_frame(&others);
                    got.is_some()
                });
                assert_eq!(got, Some(sent));
            }
            for (other, port) in receivers.iter_mut().enumerate() {
                assert!(other == queue || port.receive(Duration::ZERO).is_none());
            }
        }
    }
    // A queue that is given back is the stack's.
    program.disconnect(1).unwrap();
    program.disconnect(1).unwrap();
    let sent = frame(&mut rng, 99);
    senders[1].send(&sent);
    eventually("the stack gets its queue back", || {
        stack_frame(&others).is_some()
    });
    assert_eq!(receivers[1].receive(SOON), None);
}

#[test]
fn large_frames_travel_in_pieces() {
    for (name, mode) in [("native", XdpMode::Native), ("generic", XdpMode::Generic)] {
        let Some(cable) = Cable::new("frames::large_frames_travel_in_pieces", 1, 9000) else {
            return;
        };
        let several = XskConfig {
            multi_buffer: true,
            ..config()
        };
        let mut rng = Rng::new(11);
        let (file, geom) = region(128);
        let memory = umem(&file, &geom);
        let mut a = Port::open(&cable.left, "a", 0, &memory, 2..52, &several);
        let mut b = Port::open(&cable.right, "b", 0, &memory, 52..130, &several);
        let program = redirect(&cable.right, "b", 1, mode);
        program.connect(0, &b.xsk.socket).unwrap();
        for size in [60, 2112, 2113, 4224, 4225, 8900, 9014] {
            b.fill(6);
            let sent = frame(&mut rng, size);
            a.send(&sent);
            let pieces = b.receive_in_place(PATIENCE).unwrap();
            assert_eq!(pieces.len(), size.div_ceil(2112), "{name}, {size} bytes");
            assert!(pieces.iter().all(|p| p.offset == 0));
            let got: Vec<u8> = pieces.iter().flat_map(|&p| bytes_of(&memory, p)).collect();
            assert!(got == sent, "{name}, {size} bytes");
            // The rest of the six stays lent; what was used is done with.
            while b.receive_in_place(Duration::ZERO).is_some() {}
        }
    }
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let Some(cable) = Cable::new("frames::what_does_not_fit_is_dropped_and_counted", 1, 9000)
    else {
        return;
    };
    let several = XskConfig {
        multi_buffer: true,
        sizes: RingSizes { tx: 64, ..SIZES },
        tx_budget: Some(256), // as far as the ring goes
        ..config()
    };
    let mut rng = Rng::new(5);
    let (file, geom) = region(128);
    let memory = umem(&file, &geom);
    let mut a = Port::open(&cable.left, "a", 0, &memory, 2..52, &several);
    let mut b = Port::open(&cable.right, "b", 0, &memory, 52..130, &config());
    let program = redirect(&cable.right, "b", 1, XdpMode::Native);
    program.connect(0, &b.xsk.socket).unwrap();

    // No buffers: none arrives, and none later.
    a.send(&frame(&mut rng, 100));
    assert_eq!(b.receive(SOON), None);
    eventually("it is counted", || {
        b.xsk.socket.statistics().unwrap().rx_fill_empty > 0
    });
    // Longer than a buffer for a socket that takes one piece.
    b.fill(60);
    a.send(&frame(&mut rng, 3000));
    assert_eq!(b.receive(SOON), None);
    eventually("it is counted", || {
        b.xsk.socket.statistics().unwrap().rx_dropped > 0
    });
    // Outside the memory.
    let tx = a.xsk.tx.as_mut().unwrap();
    tx.refresh().unwrap();
    assert!(tx.put(Desc {
        addr: 1 << 47,
        len: 60,
        more: false
    }));
    tx.publish();
    let _ = a.xsk.socket.kick_tx(); // the kernel may say that it sent nothing
    eventually("the kernel refuses it", || {
        a.xsk.socket.statistics().unwrap().tx_invalid == 1
    });
    // The kernel may give it back like one that it has sent; it is no buffer.
    let done = a.xsk.completion.as_mut().unwrap();
    done.refresh().unwrap();
    while let Some(addr) = done.take() {
        assert_eq!((addr, memory.completed_buf(addr)), (1 << 47, None));
    }
    done.release();
    // What fits arrives after all that.
    let sent = frame(&mut rng, 2000);
    a.send(&sent);
    assert_eq!(b.receive(PATIENCE), Some(sent));
}

#[test]
fn a_frame_goes_on_through_another_interface_from_where_it_lies() {
    let test = "frames::a_frame_goes_on_through_another_interface_from_where_it_lies";
    let Some(cable) = Cable::new(test, 1, 1500) else {
        return;
    };
    let third = NetNs::make();
    cable.right.veth("c", &third, "d", "mtu 1500");
    let (file, geom) = region(128);
    let memory = umem(&file, &geom);
    let mut a = Port::open(&cable.left, "a", 0, &memory, 2..12, &config());
    let mut b = Port::open(&cable.right, "b", 0, &memory, 12..22, &config());
    let mut d = Port::open(&third, "d", 0, &memory, 22..42, &config());
    // One registration for both sides of the middle.
    let index = cable.right.index("c");
    let open = |config: &XskConfig| {
        cable
            .right
            .enter(|| Xsk::open_shared(&b.xsk.socket, index, 0, config))
    };
    let mut c = Port::of(open(&config()).unwrap(), &memory, 0..0);
    // Another for the same queue has no rings of buffers of its own.
    let sending = XskConfig {
        sizes: RingSizes {
            rx: 0,
            tx: 64,
            fill: 0,
            completion: 0,
        },
        ..config()
    };
    let first = c.xsk.socket.clone();
    let second = cable
        .right
        .enter(|| Xsk::open_shared(&first, index, 0, &sending))
        .unwrap();
    assert!(second.rx.is_none() && second.fill.is_none() && second.completion.is_none());

    let into = redirect(&cable.right, "b", 1, XdpMode::Native);
    into.connect(0, &b.xsk.socket).unwrap();
    let out = redirect(&third, "d", 1, XdpMode::Native);
    out.connect(0, &d.xsk.socket).unwrap();
    b.fill(8);
    d.fill(16);
    let mut rng = Rng::new(2);
    let mut tx = [c.xsk.tx.take().unwrap(), second.tx.unwrap()];
    for round in 0..16 {
        let sent = frame(&mut rng, 500 + round);
        a.send(&sent);
        let frame = b.receive_in_place(PATIENCE).unwrap()[0];
        let tx = &mut tx[round % 2];
        tx.refresh().unwrap();
        assert!(tx.put(memory.tx_desc(frame).unwrap()));
        tx.publish();
        tx.socket().kick_tx().unwrap();
        assert_eq!(d.receive(PATIENCE), Some(sent));
        // Its buffer comes back there and receives here again.
        eventually("it has been sent", || {
            c.collect();
            c.free() == round + 1
        });
        let fill = b.xsk.fill.as_mut().unwrap();
        fill.refresh().unwrap();
        assert!(fill.put(memory.fill_addr(frame.buf).unwrap()));
        fill.publish();
    }
}

#[test]
fn without_zero_copy_the_best_is_a_copy() {
    let Some(cable) = Cable::new("frames::without_zero_copy_the_best_is_a_copy", 1, 1500) else {
        return;
    };
    let (file, geom) = region(64);
    for huge in [false, true] {
        let layout = BufLayout {
            huge, // the kernel is asked for zero copy only then
            ..umem(&file, &geom).layout()
        };
        let memory = Umem::new(file.map().unwrap(), layout).unwrap();
        let best = XskConfig {
            copy: CopyMode::Best,
            ..config()
        };
        let port = Port::open(&cable.right, "b", 0, &memory, 2..10, &best);
        assert!(!port.xsk.socket.is_zero_copy().unwrap());
    }
}
