//! Large packets stay whole on their way between a wire and the host behind an
//! interface.

use netvale_testkit::net::NetNs;
use netvale_testkit::stream;

use crate::host::{Host, no_offloads};

/// Bytes of one stream.
const BYTES: usize = 16 << 20;

/// Frames and bytes that ports have sent into their switch.
fn sent(host: &Host, port: &str) -> [u64; 2] {
    let stats = host.namespace().stats(Some(port)).unwrap();
    [stats[0].tx_frames, stats[0].tx_bytes]
}

/// An interface with the host behind it at a switch, and the stack at the
/// cable's other end.
fn cable(host: &Host, mtu: u32) -> NetNs {
    let a = NetNs::make();
    host.ns.veth("v0", &a, "e", &format!("mtu {mtu}"));
    a.settle("e", 1, mtu);
    host.ns.settle("v0", 2, mtu);
    host.ok(&["attach", "vale0", "v0", "--host"]);
    a
}

/// Average length of the frames of a stream, in both directions: into the
/// host, out of it.
fn averages(host: &Host, a: &NetNs, v6: bool) -> [u64; 2] {
    let (at_a, at_host) = match v6 {
        false => ("10.77.0.1:5001", "10.77.0.2:5001"),
        true => ("[fd77::1]:5001", "[fd77::2]:5001"),
    };
    let average = |port: &str, from: &NetNs, to: &NetNs, at: &str| {
        let before = sent(host, port);
        stream::tcp_one_way(from, to, at, BYTES);
        let after = sent(host, port);
        let bytes = after[1] - before[1];
        assert!(bytes >= BYTES as u64, "{port}: {bytes} bytes");
        bytes / (after[0] - before[0])
    };
    [
        average("vale0:v0", a, &host.ns, at_host),
        average("vale0:v0^", &host.ns, a, at_a),
    ]
}

#[test]
fn packets_stay_whole_between_a_wire_and_its_host() {
    const TEST: &str = "large::packets_stay_whole_between_a_wire_and_its_host";
    for mtu in [1500, 9000] {
        for v6 in [false, true] {
            let Some(host) = Host::new(TEST) else { return };
            let a = cable(&host, mtu);
            let whole = averages(&host, &a, v6);
            println!("MTU {mtu}, IPv6 {v6}: frames of {whole:?} bytes");
            for average in whole {
                assert!(average > 3 * u64::from(mtu), "MTU {mtu}: {whole:?} bytes");
            }
            // One that does not build them sends as many frames as go over a
            // wire. What the host sends is taken before anybody would cut it.
            no_offloads(&a, "e");
            no_offloads(&host.ns, "v0");
            let [cut, whole] = averages(&host, &a, v6);
            println!("MTU {mtu}, IPv6 {v6}: frames of {cut}, {whole} bytes without offloads");
            let longest = u64::from(mtu) + 14 + 12;
            assert!((longest / 2..=longest).contains(&cut), "MTU {mtu}: {cut}");
            assert!(whole > 3 * u64::from(mtu), "MTU {mtu}: {whole} bytes");
            host.assert_sound();
        }
    }
}
