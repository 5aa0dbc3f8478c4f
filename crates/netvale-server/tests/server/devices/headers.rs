//! Programs that take virtio-net headers get the kernel's packets whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use netvale::{ErrorKind, Port};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, TempDir, eventually, stream};
use netvale_wire::proto::{self, Request};

use super::{Host, echo, join, settle};

const A: &str = "10.77.0.1";
const B: &str = "10.77.0.2";

/// Moves frames between two ports until told to stop.
struct Carrier {
    stop: Arc<AtomicBool>,
    /// Frames and bytes.
    moved: Arc<[AtomicU64; 2]>,
    thread: thread::JoinHandle<()>,
}

impl Carrier {
    fn start(mut ports: [Port; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let moved = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&moved));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut idle = true;
                for _ in 0..2 {
                    ports.swap(0, 1);
                    let [from, to] = &mut ports;
                    from.rx(0).sync().unwrap();
                    let tx = to.tx(0);
                    while let Some(frame) = from.rx(0).next() {
                        idle = false;
                        counted[0].fetch_add(1, Ordering::Relaxed);
                        counted[1].fetch_add(frame.len() as u64, Ordering::Relaxed);
                        // What does not fit is lost, as on a wire.
                        let _ = frame.forward(tx);
                    }
                    from.rx(0).sync().unwrap();
                    tx.sync().unwrap();
                }
                if idle {
                    thread::yield_now();
                }
            }
        });
        Self {
            stop,
            moved,
            thread,
        }
    }

    fn moved(&self) -> [u64; 2] {
        [0, 1].map(|i| self.moved[i].load(Ordering::Relaxed))
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        join(self.thread);
    }
}

/// Streams between two stacks, both ways, are whole, and so are their packets
/// on the way.
fn whole(carrier: &Carrier, a: &NetNs, b: &NetNs) {
    assert!(echo(a, B.parse().unwrap(), 20_000));
    for (to, from, at) in [
        (b, a, "10.77.0.2:5001"),
        (a, b, "10.77.0.1:5001"),
        (b, a, "[fd77::2]:5001"),
        (a, b, "[fd77::1]:5001"),
    ] {
        const BYTES: usize = 8 << 20;
        let before = carrier.moved();
        stream::tcp_one_way(from, to, at, BYTES);
        let after = carrier.moved();
        let [frames, bytes] = [0, 1].map(|i| after[i] - before[i]);
        assert!(bytes >= BYTES as u64, "{at}: {bytes} bytes");
        // Those that answer are counted, too.
        assert!(
            bytes / frames > 3 * 1500,
            "{at}: {frames} frames, {bytes} bytes"
        );
    }
}

#[test]
fn packets_of_interfaces_stay_whole() {
    let test = "devices::headers::packets_of_interfaces_stay_whole";
    for (len, isolated) in [(12, false), (10, false), (12, true)] {
        let Some(host) = Host::new(test) else { return };
        let ends = [NetNs::make(), NetNs::make()];
        let ns = host.namespace().isolated(isolated);
        let names = ["v0", "v1"];
        for ((end, name), address) in ends.iter().zip(names).zip([A, B]) {
            host.ns.veth(name, end, "e0", "");
            settle(end, "e0", address, 1500);
        }
        let ports = names.map(|name| {
            let port = ns.port(&format!("netmap:{name}"));
            port.vnet_hdr(len).open().unwrap()
        });
        assert_eq!(ports[0].info().vnet_hdr, len);
        assert_eq!(ns.vnet_hdr("netmap:v0").unwrap(), len);
        let about = host.bed.ports().remove(0).device.unwrap();
        assert!(about.contains("by AF_PACKET (no AF_XDP: frames"), "{about}");
        let carrier = Carrier::start(ports);
        whole(&carrier, &ends[0], &ends[1]);
        carrier.end();
        eventually("all is given back", || host.names().is_empty());
        host.bed.assert_sound();
    }
}

#[test]
fn packets_of_a_host_stay_whole() {
    let test = "devices::headers::packets_of_a_host_stay_whole";
    for len in [12, 10] {
        let Some(host) = Host::new(test) else { return };
        let a = NetNs::make();
        host.ns.veth("v0", &a, "e0", "");
        settle(&a, "e0", A, 1500);
        settle(&host.ns, "v0", B, 1500);
        let ns = host.namespace();
        let ports = ["netmap:v0", "netmap:v0^"];
        let ports = ports.map(|name| ns.port(name).vnet_hdr(len).open().unwrap());
        let carrier = Carrier::start(ports);
        whole(&carrier, &a, &host.ns);
        carrier.end();
        eventually("all is given back", || host.names().is_empty());
        host.bed.assert_sound();
    }
}

#[test]
fn packets_that_are_passed_on_stay_whole() {
    let test = "devices::headers::packets_that_are_passed_on_stay_whole";
    let Some(host) = Host::new(test) else { return };
    let a = NetNs::make();
    host.ns.veth("v0", &a, "e0", "");
    settle(&a, "e0", A, 1500);
    settle(&host.ns, "v0", B, 1500);
    let port = host.namespace().port("netmap:v0*").vnet_hdr(12).open();
    let mut port = port.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let guard = thread::spawn(move || {
        let mut longest = 0;
        while !stopped.load(Ordering::Relaxed) {
            let _ = port.wait_rx(Some(std::time::Duration::from_millis(20)));
            for i in 0..port.rx_count() {
                while let Some(frame) = port.rx(i).next() {
                    longest = longest.max(frame.len());
                    frame.pass_on();
                }
                port.rx(i).sync().unwrap();
            }
        }
        longest
    });
    assert!(echo(&a, B.parse().unwrap(), 1000));
    stream::tcp(&a, &host.ns, &format!("{B}:5001"));
    stream::tcp(&host.ns, &a, "[fd77::1]:5001");
    stop.store(true, Ordering::Relaxed);
    let longest = join(guard);
    assert!(longest > 30_000, "{longest} bytes");
}

#[test]
fn another_header_than_the_devices_is_refused() {
    let test = "devices::headers::another_header_than_the_devices_is_refused";
    let Some(host) = Host::new(test) else { return };
    let (ns, a) = (host.namespace(), NetNs::make());
    host.ns.veth("v0", &a, "e0", "numrxqueues 2 numtxqueues 2");
    let refused = |name: &str, len: u8, word: &str| {
        let e = ns.port(name).vnet_hdr(len).open().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{name}: {e}");
        assert!(e.to_string().contains(word), "{name}: {e}");
    };
    // netmap's request is for ports of switches, and knows no others.
    let set = |name: &str| {
        let name = name.to_owned();
        host.refusal(&Request::SetHdr { name, len: 12 }).0
    };
    assert_eq!(set("v0"), proto::ErrorKind::NotFound);
    let plain = ns.open("netmap:v0-0").unwrap();
    assert_eq!(ns.vnet_hdr("netmap:v0").unwrap(), 0);
    assert_eq!(set("v0"), proto::ErrorKind::NotFound);
    refused("netmap:v0-1", 12, "a virtio-net header of 0 bytes, not 12");
    let zero = ns.port("netmap:v0-1").vnet_hdr(0).open().unwrap();
    drop((plain, zero));
    eventually("it is closed", || host.names().is_empty());
    let whole = ns.port("netmap:v0-0").vnet_hdr(10).open().unwrap();
    refused("netmap:v0-1", 12, "a virtio-net header of 10 bytes, not 12");
    refused("netmap:v0-1", 0, "a virtio-net header of 10 bytes, not 0");
    let e = ns.open("netmap:v0-1").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io, "as netmap has it: {e}");
    let same = ns.port("netmap:v0-1").vnet_hdr(10).open().unwrap();
    let any = ns.port("netmap:v0-1").accept_vnet_hdr().open().unwrap();
    assert_eq!((same.info().vnet_hdr, any.info().vnet_hdr), (10, 10));
    drop((whole, same, any));
    eventually("it is closed", || host.names().is_empty());
    // Devices with one of their own, and without any.
    let dir = TempDir::new();
    let file = dir.path().join("out.pcap");
    refused("tap:t0,vnet_hdr=10", 12, "a virtio-net header of 10 bytes");
    refused("tap:t0,vnet_hdr=0", 12, "a virtio-net header of 0 bytes");
    refused(&format!("pcap:{},write", file.display()), 12, "of 0 bytes");
    assert!(within_none(&host), "nothing is left");
    let tap = ns.port("tap:t0").vnet_hdr(10).open().unwrap();
    assert_eq!(tap.info().vnet_hdr, 10);
    host.bed.assert_sound();
}

fn within_none(host: &Host) -> bool {
    netvale_testkit::within(PATIENCE, || host.names().is_empty())
}
