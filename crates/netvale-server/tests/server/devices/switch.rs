//! Devices attached to switches.

use netvale_backends::batch::{Batch, BufPool};
use netvale_backends::netlink::ethtool::{Offload, set_offload};
use netvale_backends::packet::{PacketConfig, PacketSocket};
use netvale_backends::tap::{Tap, TapConfig};
use netvale_shm::Mem;
use std::net::Ipv4Addr;

use netvale_testkit::net::NetNs;
use netvale_testkit::{eventually, frame, skip, stream};
use netvale_wire::ip::Ipv4Hdr;
use netvale_wire::proto::{ErrorKind, Request};
use netvale_wire::vnet::{HdrLen, VnetHdr};

use super::{Host, attach, echo, is_plain, plain, receive, send, settle};

const A: &str = "10.77.0.1";
const B: &str = "10.77.0.2";

/// Everything that two namespaces can send each other.
fn everything(a: &NetNs, b: &NetNs, mtu: u32) {
    let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    for len in [0, 1000, 20_000] {
        assert!(echo(a, ip(B), len), "echo of {len}");
        assert!(echo(b, ip(A), len), "echo of {len}");
    }
    stream::tcp(a, b, &format!("{B}:5001"));
    stream::tcp(b, a, "[fd77::1]:5001");
    let longest = mtu as usize - 28;
    stream::udp(a, b, &format!("{A}:5002"), &format!("{B}:5002"), longest);
    stream::udp(b, a, "[fd77::2]:5002", "[fd77::1]:5002", longest - 20);
}

/// Two namespaces with a switch between two TAPs.
fn two_taps(test: &str, options: [&str; 2], mtu: u32) {
    let Some(host) = Host::new(test) else {
        return;
    };
    let (a, b) = (NetNs::make(), NetNs::make());
    for (tap, options, ns, address) in [("t0", options[0], &a, A), ("t1", options[1], &b, B)] {
        host.attach(&format!("vale0:tap:{tap}{options}"));
        host.hand_over(tap, ns, address, mtu);
    }
    everything(&a, &b, mtu);
    assert_eq!(host.names(), ["vale0:t0", "vale0:t1"]);
    let about: Vec<_> = host.bed.ports().into_iter().map(|p| p.device).collect();
    assert!(about[0].as_deref().unwrap().starts_with("TAP t0 (made"));
    for (about, option) in about.iter().flatten().zip(options) {
        let wanted = option.contains("uring");
        assert_eq!(about.contains("io_uring"), wanted, "{about}");
    }
    assert_eq!((host.detach("vale0:t0"), host.detach("vale0:t1")), (0, 1));
    assert_eq!(host.names(), Vec::<String>::new());
    host.bed.assert_sound();
    // A program that another test starts has its descriptor for an instant.
    eventually("it is gone", || {
        !a.try_ip("link show dev t0").status.success()
    });
}

#[test]
fn taps_with_offloads_join_namespaces() {
    let test = "devices::switch::taps_with_offloads_join_namespaces";
    two_taps(test, ["", ""], 1500);
}

#[test]
fn taps_with_offloads_and_long_packets_join_namespaces() {
    let test = "devices::switch::taps_with_offloads_and_long_packets_join_namespaces";
    two_taps(test, ["", ",vnet_hdr=10"], 9000);
}

#[test]
fn taps_without_offloads_join_namespaces() {
    let test = "devices::switch::taps_without_offloads_join_namespaces";
    two_taps(test, [",vnet_hdr=0", ",vnet_hdr=0"], 1500);
}

#[test]
fn taps_without_offloads_carry_long_packets() {
    let test = "devices::switch::taps_without_offloads_carry_long_packets";
    two_taps(test, [",vnet_hdr=0", ",vnet_hdr=0"], 9000);
}

#[test]
fn offloads_are_converted_where_one_side_has_none() {
    let test = "devices::switch::offloads_are_converted_where_one_side_has_none";
    two_taps(test, ["", ",vnet_hdr=0"], 1500);
}

#[test]
fn queues_are_rings() {
    let test = "devices::switch::queues_are_rings";
    two_taps(test, [",queues=2", ",queues=3"], 1500);
}

#[test]
fn taps_with_io_uring_join_namespaces() {
    let test = "devices::switch::taps_with_io_uring_join_namespaces";
    two_taps(test, [",uring", ",vnet_hdr=0,uring,queues=2"], 1500);
}

#[test]
fn taps_do_without_io_uring_where_it_is_forbidden() {
    let test = "devices::switch::taps_do_without_io_uring_where_it_is_forbidden";
    let thread = std::thread::spawn(move || {
        // Of this thread and the server that it starts: io_uring_setup.
        netvale_testkit::refuse(425).unwrap();
        bursts(test, "no io_uring: cannot make an io_uring for TAP t0");
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn bursts_pass_through_io_uring() {
    let test = "devices::switch::bursts_pass_through_io_uring";
    // Those of sandboxes may forbid it.
    let wanted = match netvale_backends::tap::TapUring::available() {
        true => ", io_uring)",
        false => "no io_uring",
    };
    bursts(test, wanted);
}

/// A program's frames reach a TAP in order, and whole, and are counted when
/// they do not.
fn bursts(test: &str, way: &str) {
    let Some(host) = Host::new(test) else {
        return;
    };
    host.attach("vale0:tap:t0,uring");
    let about = host.bed.ports().remove(0).device.unwrap();
    assert!(about.contains(way), "{about}");
    let config = PacketConfig {
        receive_buffer: Some(8 << 20),
        ..PacketConfig::new("t0")
    };
    let mut witness = host.ns.enter(|| PacketSocket::open(&config)).unwrap();
    let mut port = host.namespace().open("vale0:p").unwrap();
    let mut burst = |first: u64, n: u64| {
        let tx = port.tx(0);
        for seq in first..first + n {
            let len = 60 + usize::try_from(seq * 37 % 1400).unwrap();
            let (to, from) = (frame::BROADCAST, frame::mac(1));
            tx.push(&frame::tagged(to, from, len, 9, seq)).unwrap();
        }
        tx.sync().unwrap();
    };
    let pool = BufPool::new(&Mem::heap(64 << 11), 0, 32, 2048).unwrap();
    let mut next = 0;
    for n in [1, 2, 15, 16, 17, 100, 500] {
        burst(next, n);
        let (mut batch, end) = (Batch::new(), next + n);
        eventually("all frames come", || {
            batch.clear();
            (0..32).for_each(|buf| batch.push_buf(buf, 2048));
            for i in 0..witness.recv(&pool, &mut batch).unwrap() {
                let mut bytes = vec![0; batch.frame_len(i)];
                assert_eq!(batch.read(&pool, i, 0, &mut bytes), bytes.len());
                if let Ok((9, seq)) = frame::verify(&bytes) {
                    assert_eq!(seq, next, "in order");
                    next += 1;
                }
            }
            next == end
        });
    }
    host.ns.ip("link set dev t0 down");
    burst(next, 100);
    eventually("what is lost is counted", || {
        let stats = host.namespace().stats(Some("vale0:t0")).unwrap();
        let drops = &stats[0].drops;
        drops.iter().any(|&(why, n)| (why, n) == ("dev_down", 100))
    });
    host.bed.assert_sound();
}

#[test]
fn an_interface_is_taken_from_the_host_and_given_back() {
    let test = "devices::switch::an_interface_is_taken_from_the_host_and_given_back";
    let Some(host) = Host::new(test) else {
        return;
    };
    let (a, b) = (NetNs::make(), NetNs::make());
    host.ns.veth("v0", &a, "e0", "");
    settle(&a, "e0", A, 1500);
    settle(&host.ns, "v0", "10.77.0.9", 1500);
    let us: Ipv4Addr = "10.77.0.9".parse().unwrap();
    assert!(echo(&a, us, 0));
    host.attach("vale0:v0");
    host.attach("vale0:tap:t1");
    host.hand_over("t1", &b, B, 1500);
    everything(&a, &b, 1500);
    let moment = std::time::Duration::from_millis(200);
    assert!(a.ping(us, 0, moment).is_none(), "the host has lost it");
    assert!(host.ns.ping(A.parse().unwrap(), 0, moment).is_none());
    // With the host's stack as a third port.
    host.detach("vale0:v0");
    // Programs that other tests start hold descriptors for an instant.
    let again = || a.ping(us, 0, moment).is_some();
    eventually("the host has it again", again);
    host.ask(&attach("vale0:v0", true));
    assert_eq!(host.names().len(), 3);
    everything(&a, &b, 1500);
    for len in [0, 5000] {
        assert!(echo(&a, us, len));
        assert!(echo(&b, us, len));
        assert!(echo(&host.ns, A.parse().unwrap(), len));
        assert!(echo(&host.ns, B.parse().unwrap(), len));
    }
    stream::tcp(&host.ns, &a, &format!("{A}:5003"));
    stream::tcp(&b, &host.ns, "10.77.0.9:5003");
    let with_the_first = host.refusal(&Request::Detach {
        spec: "vale0:v0^".into(),
        nr: true,
    });
    assert_eq!(with_the_first.0, ErrorKind::Invalid);
    host.detach("vale0:v0");
    eventually("the host has it once more", again);
    assert!(echo(&host.ns, A.parse().unwrap(), 0));
    host.bed.assert_sound();
}

#[test]
fn interfaces_do_without_rings_where_there_are_many() {
    let test = "devices::switch::interfaces_do_without_rings_where_there_are_many";
    let Some(host) = Host::new(test) else {
        return;
    };
    let (a, b) = (NetNs::make(), NetNs::make());
    for i in 0..3 {
        let queues = "numrxqueues 16 numtxqueues 16";
        let (near, far) = (format!("v{i}"), format!("e{i}"));
        host.ns.veth(&near, &a, &far, queues);
        host.attach(&format!("vale{i}:{near}"));
    }
    let about = || host.bed.ports().into_iter().filter_map(|p| p.device);
    // Other tests of this process have rings too, and give them back at any time: which of the
    // three goes without is open, but all three cannot have had one.
    let none = "by AF_PACKET (no ring: no more than 32 queues";
    let without = about()
        .position(|a| a.contains(none))
        .expect("one has none");
    let rings = about().filter(|a| a.contains("by AF_PACKET (a ring)"));
    assert!(rings.count() <= 2);
    settle(&a, &format!("e{without}"), A, 1500);
    host.attach(&format!("vale{without}:tap:t1"));
    host.hand_over("t1", &b, B, 1500);
    everything(&a, &b, 1500);
    for i in 0..3 {
        host.detach(&format!("vale{i}:v{i}"));
    }
    eventually("what was given back can be had", || {
        host.attach("vale2:v2");
        let ring = about().any(|a| a.contains("by AF_PACKET (a ring)"));
        host.detach("vale2:v2");
        ring
    });
    host.bed.assert_sound();
}

#[test]
fn a_tunnel_reaches_the_kernels_vxlan_device() {
    let test = "devices::switch::a_tunnel_reaches_the_kernels_vxlan_device";
    let Some(host) = Host::new(test) else {
        return;
    };
    let (far, b) = (NetNs::make(), NetNs::make());
    host.ns.veth("left", &far, "right", "mtu 1600");
    host.ns.ip("addr add 10.88.0.1/24 dev left");
    far.ip("addr add 10.88.0.2/24 dev right");
    let made = far.try_ip(
        "link add vx0 type vxlan id 42 dstport 4789 remote 10.88.0.1 local 10.88.0.2 dev right",
    );
    if !made.status.success() {
        skip(test, "needs a kernel with vxlan (modprobe vxlan)");
        return;
    }
    // Else the kernel leaves the inner checksums to the cable.
    let off = far.enter(|| set_offload("right", Offload::TxChecksum, false));
    assert!(off.unwrap());
    settle(&far, "vx0", A, 1450);
    host.attach("vale0:vxlan:42@10.88.0.2,local=10.88.0.1");
    host.attach("vale0:tap:t1");
    host.hand_over("t1", &b, B, 1450);
    everything(&far, &b, 1450);
    assert_eq!(host.names(), ["vale0:vxlan42", "vale0:t1"]);
    host.detach("vale0:vxlan42");
    host.bed.assert_sound();
}

#[test]
fn tunnels_of_several_networks_share_a_port() {
    let test = "devices::switch::tunnels_of_several_networks_share_a_port";
    let Some(host) = Host::new(test) else {
        return;
    };
    let far = NetNs::make();
    host.ns.veth("left", &far, "right", "mtu 1600");
    host.ns.ip("addr add 10.88.0.1/24 dev left");
    far.ip("addr add 10.88.0.2/24 dev right");
    let off = far.enter(|| set_offload("right", Offload::TxChecksum, false));
    assert!(off.unwrap());
    // For each network a stack here and one there.
    let ends = [42, 43].map(|vni| {
        let (there, here) = (NetNs::make(), NetNs::make());
        let made = far.try_ip(&format!(
            "link add vx{vni} type vxlan id {vni} dstport 4789 remote 10.88.0.1 \
             local 10.88.0.2 dev right"
        ));
        if !made.status.success() {
            skip(test, "needs a kernel with vxlan (modprobe vxlan)");
            return None;
        }
        far.give(&format!("vx{vni}"), &there);
        let tap = format!("t{vni}");
        host.attach(&format!("vale{vni}:tap:{tap}"));
        host.hand_over(&tap, &here, B, 1450);
        Some((there, here))
    });
    let [Some(first), Some(second)] = ends else {
        return;
    };
    let tunnel = |vni: u8| format!("vale{vni}:vxlan:{vni}@10.88.0.2,local=10.88.0.1");
    let both = || {
        std::thread::scope(|scope| {
            scope.spawn(|| everything(&first.0, &first.1, 1450));
            everything(&second.0, &second.1, 1450);
        });
    };
    let stranger = |vni: u32| {
        let at = "10.88.0.2:0".parse::<std::net::SocketAddr>().unwrap();
        let socket = far.enter(|| std::net::UdpSocket::bind(at)).unwrap();
        let [_, a, b, c] = vni.to_be_bytes();
        let head = [8, 0, 0, 0, a, b, c, 0];
        let sent = socket.send_to(&[&head[..], &[0xff; 60]].concat(), "10.88.0.1:4789");
        assert_eq!(sent.unwrap(), 68);
    };
    let lost = || {
        let all = host.namespace().stats(None).unwrap();
        all.iter().map(|p| p.dropped("dev_foreign")).sum::<u64>()
    };
    host.attach(&tunnel(42));
    host.attach(&tunnel(43));
    // Not before: what stacks send of their own accord would be a stranger's to the other tunnel.
    settle(&first.0, "vx42", A, 1450);
    settle(&second.0, "vx43", A, 1450);
    both();
    assert_eq!(lost(), 0, "both are known");
    for _ in 0..3 {
        stranger(44);
    }
    eventually("strangers are counted", || lost() == 3);
    let again = host.refusal(&attach(&tunnel(42).replace("vale42:", "vale9:"), false));
    assert_eq!(again.0, ErrorKind::Busy);
    // The one that made the socket goes.
    host.detach("vale42:vxlan42");
    everything(&second.0, &second.1, 1450);
    host.attach(&tunnel(42));
    host.detach("vale43:vxlan43");
    everything(&first.0, &first.1, 1450);
    host.attach(&tunnel(43));
    both();
    host.detach("vale42:vxlan42");
    host.detach("vale43:vxlan43");
    let at = "10.88.0.1:4789".parse::<std::net::SocketAddr>().unwrap();
    eventually("the port is free", || {
        host.ns.enter(|| std::net::UdpSocket::bind(at)).is_ok()
    });
    host.bed.assert_sound();
}

#[test]
fn programs_and_devices_share_a_switch() {
    let test = "devices::switch::programs_and_devices_share_a_switch";
    let Some(host) = Host::new(test) else {
        return;
    };
    host.attach("vale0:tap:t0");
    settle(&host.ns, "t0", A, 1500);
    let mut port = host.namespace().open("vale0:p").unwrap();
    let there = plain(7, 300);
    send(&mut port, 0, &there);
    // What the host sends comes too; a raw socket would be no better witness.
    let us: Ipv4Addr = B.parse().unwrap();
    let moment = std::time::Duration::from_millis(50);
    assert!(host.ns.ping(us, 0, moment).is_none(), "nobody is there");
    let asks = |bytes: &[u8]| bytes.get(12..14) == Some(&[0x08, 0x06]);
    let arp = receive(&mut port, 0, asks);
    assert_eq!(arp[38..42], us.octets());
    let stats = port.stats().unwrap();
    assert_eq!(stats.tx_frames, 1);
    let counted = host.namespace().stats(Some("vale0:t0")).unwrap();
    assert!(counted[0].rx_frames >= 1 && !is_plain(&arp));
}

#[test]
fn what_an_interface_drops_is_counted_and_the_rest_goes_on() {
    let test = "devices::switch::what_an_interface_drops_is_counted_and_the_rest_goes_on";
    let Some(host) = Host::new(test) else {
        return;
    };
    let a = NetNs::make();
    host.ns.veth("v0", &a, "e0", "");
    a.ip("link set dev e0 mtu 1400");
    host.attach("vale0:v0");
    let mut far = host.namespace().open("vale0:p").unwrap();
    let mut near = a
        .enter(|| PacketSocket::open(&PacketConfig::new("e0")))
        .unwrap();
    let refused = |n| {
        eventually("what is dropped is counted", || {
            let stats = host.namespace().stats(Some("vale0:v0")).unwrap();
            stats[0].dropped("dev_refused") == n
        });
    };
    send(&mut far, 0, &plain(1, 1514));
    (2..52).for_each(|n| send(&mut far, 0, &plain(n, 100)));
    let pool = BufPool::new(&Mem::heap(64 << 11), 0, 32, 2048).unwrap();
    let (mut batch, mut next) = (Batch::new(), 2);
    eventually("the others come", || {
        batch.clear();
        (0..32).for_each(|buf| batch.push_buf(buf, 2048));
        for i in 0..near.recv(&pool, &mut batch).unwrap() {
            let mut bytes = vec![0; batch.frame_len(i)];
            assert_eq!(batch.read(&pool, i, 0, &mut bytes), bytes.len());
            if is_plain(&bytes) {
                assert_eq!(bytes, plain(next, 100));
                next += 1;
            }
        }
        next == 52
    });
    refused(1);
    a.ip("link set dev e0 down");
    (0..50).for_each(|n| send(&mut far, 0, &plain(n, 100)));
    refused(51);
    host.bed.assert_sound();
}

#[test]
fn a_packet_that_no_header_describes_does_not_end_reception() {
    let test = "devices::switch::a_packet_that_no_header_describes_does_not_end_reception";
    let Some(host) = Host::new(test) else {
        return;
    };
    let config = TapConfig {
        header: HdrLen::SHORT,
        ..TapConfig::new("t0")
    };
    let mut tap = host.ns.enter(|| Tap::open(&config)).unwrap().into_queues();
    let tap = tap.remove(0);
    host.ns.ip("link set dev t0 up");
    let about = || {
        let ports = host.bed.ports().into_iter();
        let wire = ports.filter(|p| p.name == "vale0:t0");
        wire.filter_map(|p| p.device).collect::<String>()
    };
    // Other tests of this process may have all rings for a moment.
    eventually("it has a ring", || {
        host.attach("vale0:t0");
        let ring = about() == "interface t0 by AF_PACKET (a ring)";
        if !ring {
            host.detach("vale0:t0");
        }
        ring
    });
    let mut port = host.namespace().open("vale0:p").unwrap();
    // UDP to be cut into fragments of IP.
    let mut odd = vec![0; 10 + 34];
    let vnet = VnetHdr {
        flags: 1,
        gso_type: 3,
        hdr_len: 42,
        gso_size: 1480,
        csum_start: 34,
        csum_offset: 6,
        ..VnetHdr::default()
    };
    vnet.write(&mut odd, HdrLen::SHORT).unwrap();
    odd[22..24].copy_from_slice(&[8, 0]);
    let to = "10.77.0.2".parse().unwrap();
    let ip = Ipv4Hdr::new("10.77.0.1".parse().unwrap(), to, 17, 4008).unwrap();
    ip.write(&mut odd[24..]).unwrap();
    odd.extend([0, 1, 0, 2, 0x0f, 0xa8, 0, 0]);
    odd.resize(10 + 42 + 4000, 0x55);
    let good = |n| [&[0; 10], &plain(n, 100)[..]].concat();
    let ended = || {
        let stats = host.namespace().stats(Some("vale0:t0")).unwrap();
        stats[0].dropped("dev_missed") > 0
    };
    for n in 1..4 {
        assert!(tap.write(&good(n)).unwrap());
        assert_eq!(receive(&mut port, 0, is_plain), plain(n, 100));
    }
    assert!(tap.write(&odd).unwrap());
    // Nobody but the kernel's drops wakes the server.
    eventually("what was dropped is counted", ended);
    let now = "interface t0 by AF_PACKET (a ring has ended: a packet came that no";
    eventually("it is told", || about().starts_with(now));
    eventually("frames come", || {
        assert!(tap.write(&good(9)).unwrap());
        port.wait_rx(Some(std::time::Duration::from_millis(20)))
            .unwrap()
    });
    assert_eq!(receive(&mut port, 0, is_plain), plain(9, 100));
    host.bed.assert_sound();
}
