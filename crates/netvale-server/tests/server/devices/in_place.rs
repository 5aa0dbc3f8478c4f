//! AF_XDP in the region's own buffers: what it takes, and that it is given
//! back.

use std::thread;
use std::time::Duration;

use netvale::Port;
use netvale_backends::batch::{Batch, BufPool};
use netvale_backends::packet::{PacketConfig, PacketSocket};
use netvale_lane::xdp::{Interface, Memory, Sockets};
use netvale_testkit::eventually;
use netvale_wire::eth::{EthHdr, ethertype};
use netvale_wire::ip::{Ipv4Hdr, proto};
use netvale_wire::mac::MacAddr;
use netvale_wire::proto::{RegionBooks, Reply, Request};
use netvale_wire::vnet::{F_NEEDS_CSUM, GSO_TCPV4, HdrLen, VnetHdr};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::{Host, is_plain, join, plain};

impl Host {
    /// With a cable from v0 to v1.
    fn with_cable(test: &str) -> Option<Self> {
        let host = Self::new(test)?;
        host.ns.veth("v0", &host.ns, "v1", "");
        Some(host)
    }

    /// How a port's frames move.
    fn about(&self, port: &str) -> String {
        let mut all = self.bed.ports().into_iter();
        let port = all.find(|p| p.name == port);
        port.and_then(|p| p.device).unwrap_or_default()
    }

    fn books(&self) -> RegionBooks {
        match self.ask(&Request::Check { after: None }) {
            Reply::Check { regions, .. } => regions.into_iter().next().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn wait_until_closed(&self) {
        eventually("all is closed", || self.names().is_empty());
    }
}

fn exact(from: &mut Port, to: &mut Port) {
    for n in 0..100_u8 {
        let bytes = plain(n, 60 + usize::from(n) * 14);
        from.tx(0).push(&bytes).unwrap();
        from.tx(0).sync().unwrap();
        assert!(super::open::receive_any(to, is_plain) == bytes);
    }
}

/// The near end of its cable.
fn interface(host: &Host) -> Interface {
    Interface {
        index: host.ns.index("v0"),
        queues: 1,
        mtu: 1500,
        sends_in_place: false,
    }
}

#[test]
fn the_stock_is_in_the_books_and_comes_back() {
    let Some(host) = Host::with_cable("in_place::the_stock_is_in_the_books_and_comes_back") else {
        return;
    };
    let ns = host.namespace();
    for _ in 0..5 {
        let mut opened = None;
        // The kernel takes its time to free a queue, and the server's patience has an end.
        eventually("they are opened so again", || {
            opened = None;
            host.wait_until_closed();
            opened = Some(["netmap:v0", "netmap:v1"].map(|name| ns.open(name).unwrap()));
            let in_place =
                |name: &&str| host.about(name).contains("; buffers of the region itself");
            ["v0", "v1"].iter().all(in_place)
        });
        let mut ends = opened.unwrap();
        let [a, b] = &mut ends;
        exact(a, b);
        exact(b, a);
        assert_eq!(host.books().extra, 2 * 4096);
        host.bed.assert_sound();
        drop(ends);
        host.wait_until_closed();
        let books = host.books();
        assert_eq!((books.extra, books.free), (0, books.bufs - 2));
        host.bed.assert_sound();
    }
}

#[test]
fn a_queue_that_is_still_busy_keeps_others_from_nothing() {
    const TEST: &str = "in_place::a_queue_that_is_still_busy_keeps_others_from_nothing";
    let Some(host) = Host::with_cable(TEST) else {
        return;
    };
    let interface = interface(&host);
    // Patience has an end, which a machine with much to do may come to.
    eventually("it waits for the queue, and others are served", || {
        let memory = Memory::own(512, 2112).unwrap();
        let Ok(other) = host.ns.enter(|| Sockets::open(&interface, &memory)) else {
            return false; // still that of the last round
        };
        let ns = host.namespace();
        let waits = thread::spawn(move || ns.open("netmap:v0").unwrap());
        thread::sleep(Duration::from_millis(100));
        for _ in 0..50 {
            assert!(matches!(host.ask(&Request::Status), Reply::Status(_)));
        }
        let early = waits.is_finished();
        drop(other);
        let port = join(waits);
        let by_xdp = host.about("v0").contains("by AF_XDP");
        drop(port);
        host.wait_until_closed();
        !early && by_xdp
    });
    // Who waits may also leave.
    let memory = Memory::own(512, 2112).unwrap();
    let mut other = None;
    eventually("the queue is free", || {
        other = host.ns.enter(|| Sockets::open(&interface, &memory)).ok();
        other.is_some()
    });
    let leaves = host.bed.connect();
    let request = crate::bed::register_request("netmap:v0");
    let message = netvale_wire::proto::encode(&request).unwrap();
    leaves.channel().send(&message, &[]).unwrap();
    drop(leaves);
    host.wait_until_closed();
    host.bed.assert_sound();
}

/// Runs it without the right to lock more than so many bytes.
fn limited<R: Send + 'static>(limit: u64, f: impl FnOnce() -> R + Send + 'static) -> R {
    let old = getrlimit(Resource::Memlock);
    let new = Rlimit {
        current: Some(limit),
        ..old
    };
    setrlimit(Resource::Memlock, new).unwrap();
    let done = thread::spawn(|| {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        sets.permitted.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, sets).unwrap();
        f()
    });
    let done = done.join();
    setrlimit(Resource::Memlock, old).unwrap();
    done.unwrap()
}

/// With less lockable memory there is less in place; what was locked is let go
/// of. The limit is the process's, so one test has them all.
#[test]
fn what_may_be_locked_decides_how_frames_move() {
    const TEST: &str = "in_place::what_may_be_locked_decides_how_frames_move";
    if getrlimit(Resource::Memlock)
        .maximum
        .is_some_and(|most| most < 7 << 20)
    {
        netvale_testkit::skip(TEST, "needs a hard limit of locked memory of 7 MiB");
        return;
    }
    for (bytes, times, how) in [
        (7 << 20, 4, "; buffers of the region itself"),
        (
            5 << 20,
            3,
            "; frames are copied once more: only 5120 KiB may be locked",
        ),
        (
            3 << 20,
            3,
            "; frames are copied once more: only 3072 KiB may be locked",
        ),
        (64 << 10, 1, "by AF_PACKET (no AF_XDP: cannot register"),
    ] {
        limited(bytes, move || {
            let Some(host) = Host::with_cable(TEST) else {
                return;
            };
            let ns = host.namespace();
            for _ in 0..times {
                // What was locked before is let go of after a while.
                eventually("it is opened so again", || {
                    let port = ns.open("netmap:v0").unwrap();
                    let about = host.about("v0");
                    drop(port);
                    host.wait_until_closed();
                    about.contains(how)
                });
            }
            if bytes == 7 << 20 {
                // Of buffers that are larger there are too few.
                let key = "larger buffers".into();
                let geom = [64, 64, 64 << 10, 8192, 3840];
                let mut remote = host.bed.connect();
                let (reply, _) = remote.ask(&Request::NewRegion { key, geom }).unwrap();
                let Reply::Region(region) = reply else {
                    panic!("{reply:?}");
                };
                let in_it = |name: &str| ns.open(&format!("{name}@{}", region.id)).unwrap();
                let stays = in_it("vale0:a");
                eventually("it is said why it is not in place", || {
                    let port = in_it("netmap:v0");
                    let about = host.about("v0");
                    drop(port);
                    eventually("it is closed", || host.names() == ["vale0:a"]);
                    about.contains("only 7168 KiB may be locked")
                });
                drop(stays);
                host.wait_until_closed();
            }
            if bytes == 3 << 20 {
                let (mut a, b) = (ns.open("netmap:v0").unwrap(), ns.open("netmap:v1"));
                let mut b = b.unwrap();
                exact(&mut a, &mut b);
                exact(&mut b, &mut a);
            }
            host.bed.assert_sound();
        });
    }
}

/// Buffers of all sizes take large frames, whether they are in place or every
/// piece is copied.
#[test]
fn large_frames_fit_into_buffers_of_any_size() {
    const TEST: &str = "in_place::large_frames_fit_into_buffers_of_any_size";
    let copied = "; frames are copied once more: the configuration says so";
    for (size, device_bufs, how) in [
        (1536, 0, "by AF_PACKET (no AF_XDP: buffers have 1536 bytes"),
        (2048, 0, copied),
        (4096, 0, copied),
        (4608, 0, copied),
        (4608, 1, "; buffers of the region itself"),
    ] {
        let Some(host) = Host::with(TEST, |c| c.device_bufs = device_bufs) else {
            return;
        };
        host.ns.veth("v0", &host.ns, "v1", "");
        for name in ["v0", "v1"] {
            host.ns.ip(&format!("link set dev {name} mtu 9000"));
        }
        let key = format!("buffers of {size}");
        let geom = [64, 64, 64 << 10, 16 << 10, size];
        let mut remote = host.bed.connect();
        let (reply, _) = remote.ask(&Request::NewRegion { key, geom }).unwrap();
        let Reply::Region(region) = reply else {
            panic!("{reply:?}");
        };
        let ns = host.namespace();
        let near = ns.open(&format!("netmap:v0@{}", region.id)).unwrap();
        let mut ends = [near, ns.open("netmap:v1").unwrap()];
        let about = host.about("v0");
        assert!(about.contains(how), "{size}: {about}");
        for len in [60, 1514, 2048, 4096, 4097, 4608, 8192, 9014] {
            let bytes = plain(1, len);
            for (from, to, frag) in [(0, 1, size), (1, 0, 2048)] {
                let tx = ends[from].tx(0);
                tx.push_frags(&bytes, frag as usize).unwrap();
                tx.sync().unwrap();
                let got = super::open::receive_any(&mut ends[to], is_plain);
                assert!(got == bytes, "frame of {len} bytes, buffers of {size}");
            }
        }
        drop(ends);
        host.wait_until_closed();
        host.bed.assert_sound();
    }
}

/// A packet of a tunnel that its sender left uncut, which AF_PACKET cannot
/// describe as what it is.
fn uncut(host: &Host) -> bool {
    let [far, near] = ["v0", "v1"].map(|name| MacAddr(host.ns.mac(name)));
    let made = host.ns.try_ip(
        "link add vx0 type vxlan id 42 dstport 4789 remote 10.77.0.2 local 10.77.0.1 dev v1",
    );
    if !made.status.success() {
        return false;
    }
    host.ns.ip("addr add 10.77.0.1/24 dev v1");
    host.ns.ip(&format!(
        "neigh add 10.77.0.2 lladdr {far} dev v1 nud permanent"
    ));
    host.ns.ip("link set vx0 up");
    let config = PacketConfig {
        header: HdrLen::SHORT,
        ..PacketConfig::new("vx0")
    };
    let mut tunnel = host.ns.enter(|| PacketSocket::open(&config)).unwrap();
    let mut frame = vec![0; 10 + 54 + 4000];
    let hdr = VnetHdr {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHdr::default()
    };
    hdr.write(&mut frame, HdrLen::SHORT).unwrap();
    let eth = EthHdr::new(far, near, ethertype::IPV4);
    eth.write(&mut frame[10..]).unwrap();
    let [a, b] = [[10, 78, 0, 1], [10, 78, 0, 2]].map(Into::into);
    let ip = Ipv4Hdr::new(a, b, proto::TCP, 4020).unwrap();
    ip.write(&mut frame[24..]).unwrap();
    frame[44 + 12] = 0x50;
    let pool = BufPool::new(&netvale_shm::Mem::heap(8192), 0, 1, 8192).unwrap();
    let mut batch = Batch::new();
    batch.push_buf(0, u32::try_from(frame.len()).unwrap());
    batch.write(&pool, 0, 0, &frame);
    tunnel.send(&pool, &batch, 0).unwrap().next == 1
}

#[test]
fn what_cannot_be_made_whole_is_counted() {
    const TEST: &str = "in_place::what_cannot_be_made_whole_is_counted";
    let Some(host) = Host::with_cable(TEST) else {
        return;
    };
    let interface = interface(&host);
    let memory = Memory::own(512, 2112).unwrap();
    let held = host.ns.enter(|| Sockets::open(&interface, &memory));
    let ns = host.namespace();
    let port = ns.open("netmap:v0").unwrap();
    let about = host.about("v0");
    assert!(about.contains("by AF_PACKET"), "{about}");
    if !uncut(&host) {
        netvale_testkit::skip(TEST, "needs a kernel with vxlan (modprobe vxlan)");
        return;
    }
    eventually("it is counted", || {
        let stats = ns.stats(Some("netmap:v0")).unwrap();
        stats[0].drops.contains(&("dev_odd", 1))
    });
    drop((port, held));
}

#[test]
fn a_driver_without_xdp_leaves_it_to_the_stack_unless_that_would_loop() {
    const TEST: &str = "in_place::a_driver_without_xdp_leaves_it_to_the_stack";
    let Some(host) = Host::with(TEST, |config| config.generic_xdp = true) else {
        return;
    };
    host.ns.veth("v0", &host.ns, "v1", "");
    if !["v0", "v1"].iter().all(|end| host.macvlan(TEST, end)) {
        return;
    }
    let ns = host.namespace();
    let mut ends = ["netmap:v0m", "netmap:v1m"].map(|name| ns.open(name).unwrap());
    let about = host.about("v0m");
    assert!(
        about.contains("by AF_XDP") && about.contains("its driver has no XDP"),
        "{about}"
    );
    let [a, b] = &mut ends;
    exact(a, b);
    exact(b, a);
    // What is given to the host would come back. Whoever asks for that may
    // leave before it is granted.
    let leaves = host.bed.connect();
    let request = crate::bed::register_request("netmap:v0m^");
    let message = netvale_wire::proto::encode(&request).unwrap();
    leaves.channel().send(&message, &[]).unwrap();
    drop(leaves);
    eventually("it is left to AF_PACKET", || {
        host.about("v0m").contains("by AF_PACKET (no AF_XDP:")
    });
    let about = host.about("v0m");
    assert!(about.contains("would come back"), "{about}");
    exact(a, b);
    exact(b, a);
    let rings = ns.open("netmap:v0m^").unwrap();
    exact(a, b);
    exact(b, a);
    drop((ends, rings));
    host.wait_until_closed();
    host.bed.assert_sound();
}
