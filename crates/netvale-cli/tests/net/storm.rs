//! Nothing goes in circles: what is sent once comes out once wherever it goes,
//! and never where it came from.

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use netvale_backends::af_xdp::Redirect;
use netvale_backends::packet::PacketConfig;
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, within};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, sockopt};

use crate::host::{Host, Program, no_offloads, no_xdp};
use crate::station::Station;

/// Of the frames here: questions for addresses, and what no stack knows.
const TYPES: [u16; 2] = [0x0806, 0x88b5];
/// Frames that everyone sends.
const FRAMES: u32 = 60;
/// Frames that make sure that nothing is on its way any more. One that goes in
/// circles is back before the last of them.
const FENCES: u32 = 3;
const MOMENT: Duration = Duration::from_millis(20);

/// The stack of a host.
struct Stack {
    /// What it sends on one of its interfaces, as any program's packets.
    out: Station,
    /// What it receives on any of them: after all that could keep it away, and
    /// once if a bridge has it.
    ears: Vec<OwnedFd>,
    got: Vec<Vec<u8>>,
}

impl Stack {
    fn new(ns: &NetNs, interface: &str) -> Self {
        let config = PacketConfig {
            receive: false,
            qdisc_bypass: false,
            ..PacketConfig::new(interface)
        };
        let ear = |kind: u16| {
            let kind = NonZeroU32::new(kind.to_be().into()).map(Protocol::from_raw);
            let flags = SocketFlags::CLOEXEC;
            let socket =
                rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, kind);
            let socket = socket.unwrap();
            sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
            socket
        };
        Self {
            out: Station::with(ns, &config),
            ears: ns.enter(|| TYPES.map(ear).into()),
            got: Vec::new(),
        }
    }

    fn receive(&mut self) {
        let mut bytes = [0; 2048];
        for ear in &self.ears {
            while let Ok((n, _)) = rustix::net::recv(ear, &mut bytes[..], RecvFlags::DONTWAIT) {
                self.got.push(bytes[..n].to_vec());
            }
        }
    }
}

/// Who sends and receives.
enum Place {
    /// The other end of a cable.
    Wire(Station),
    Stack(Stack),
}

impl Place {
    fn wire(ns: &NetNs) -> Self {
        Self::Wire(Station::new(ns, "e"))
    }

    fn send(&mut self, frame: &[u8]) {
        match self {
            Self::Wire(station) => station.send(frame),
            // It may be kept from sending.
            Self::Stack(stack) => _ = stack.out.try_send(frame),
        }
    }

    fn got(&mut self) -> &mut Vec<Vec<u8>> {
        match self {
            Self::Wire(station) => {
                station.receive(Duration::ZERO);
                &mut station.got
            }
            Self::Stack(stack) => {
                stack.receive();
                &mut stack.got
            }
        }
    }
}

/// A frame that nobody answers and everybody gets. Those of the kind 4 are for
/// an unknown station.
fn frame(from: usize, number: u32, kind: u32) -> Vec<u8> {
    let of = number.to_be_bytes();
    let src = [2, 0x57, 0, 0, 0, u8::try_from(from).unwrap()];
    let mut bytes = match kind {
        0 | 1 => vec![0xff; 6],
        2 => vec![0x33, 0x33, 0, 0, 0, 0xfb],
        3 => vec![1, 0, 0x5e, 1, 2, of[3]],
        _ => vec![2, 0x57, 0xff, 0, of[2], of[3]], // nobody's
    };
    bytes.extend(src);
    if kind == 0 {
        // Who has this address?
        bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        bytes.extend(src);
        bytes.extend([10, 99, 0, 1, 0, 0, 0, 0, 0, 0, 10, 99, of[2], of[3]]);
    } else {
        bytes.extend([0x88, 0xb5]);
    }
    bytes.extend(of);
    bytes.resize(60 + number as usize % 7 * 200, of[3]);
    bytes
}

/// Several places, and how often each gets what each other sends.
struct Party<const N: usize> {
    places: [Place; N],
    copies: [[usize; N]; N],
    /// Frames for unknown stations are sent too; a stack behind a bridge of
    /// the kernel's does not get them.
    unknown: bool,
    sent: u32,
}

impl<const N: usize> Party<N> {
    fn new(places: [Place; N], copies: [[usize; N]; N]) -> Self {
        Self {
            places,
            copies,
            unknown: true,
            sent: 0,
        }
    }

    fn send(&mut self, from: usize, kind: u32) -> Vec<u8> {
        self.sent += 1;
        let frame = frame(from, self.sent, kind);
        self.places[from].send(&frame);
        frame
    }

    /// Whether it has come everywhere.
    fn arrived(&mut self, from: usize, frame: &[u8]) -> bool {
        let wanted = self.copies[from];
        let mut all = self.places.iter_mut().zip(wanted);
        all.all(|(place, n)| place.got().iter().filter(|f| *f == frame).count() >= n)
    }

    /// Has all arrive that was sent, and all that it may have become.
    fn settle(&mut self, how: &str) {
        for _ in 0..FENCES {
            for from in 0..N {
                let fence = self.send(from, 0);
                let all = within(PATIENCE, || self.arrived(from, &fence));
                assert!(all, "{how}: {} frames, one of {from}'s is lost", self.sent);
            }
        }
    }

    /// Waits until whatever is between them carries.
    fn connect(&mut self, how: &str) {
        let end = Instant::now() + PATIENCE;
        for from in 0..N {
            loop {
                assert!(Instant::now() < end, "{how}: nothing passes from {from}");
                let hello = self.send(from, 0);
                std::thread::sleep(MOMENT);
                if self.arrived(from, &hello) {
                    break;
                }
            }
        }
        self.settle(how);
        self.places.iter_mut().for_each(|p| p.got().clear());
    }

    /// Everyone sends, and everyone gets what he should, and nothing else.
    fn storm(&mut self, how: &str) {
        self.connect(how);
        let mut sent: [Vec<Vec<u8>>; N] = std::array::from_fn(|_| Vec::new());
        let kinds = if self.unknown { 5 } else { 4 };
        for i in 0..FRAMES {
            for (from, sent) in sent.iter_mut().enumerate() {
                sent.push(self.send(from, i % kinds));
            }
            // Little fits into the stack's sockets.
            self.places.iter_mut().for_each(|p| _ = p.got());
        }
        let last: Vec<_> = sent.iter().filter_map(|all| all.last().cloned()).collect();
        for (from, last) in last.iter().enumerate() {
            let all = within(PATIENCE, || self.arrived(from, last));
            assert!(all, "{how}: the last frame of {from} is lost");
        }
        let first = self.sent;
        self.settle(how);
        for (to, place) in self.places.iter_mut().enumerate() {
            let got = std::mem::take(place.got());
            let mut wanted = 0;
            for (from, sent) in sent.iter().enumerate() {
                let n = self.copies[from][to];
                for frame in sent {
                    let came = got.iter().filter(|f| *f == frame).count();
                    assert_eq!(came, n, "{how}: from {from} to {to}");
                }
                wanted += n * (sent.len() + FENCES as usize);
            }
            assert_eq!(got.len(), wanted, "{how}: {to} after frame {first}");
        }
    }
}

/// Frames that each port has sent into its switch.
fn counted(host: &Host) -> Vec<(String, u64)> {
    let all = host.namespace().stats(None).unwrap();
    all.into_iter().map(|p| (p.name, p.tx_frames)).collect()
}

/// The frames that ports send stand still when nobody else sends.
#[track_caller]
fn assert_quiet<const N: usize>(host: &Host, party: &mut Party<N>, each: u64) {
    let before = counted(host);
    party.settle("counters");
    let after = counted(host);
    let more: u64 = std::iter::zip(&before, &after)
        .map(|(b, a)| a.1 - b.1)
        .sum();
    assert_eq!(
        more,
        each * u64::from(FENCES),
        "{before:?}\n{after:?}\nwith {N} places"
    );
}

/// A cable to `name` in the host's namespace, and its other end.
fn cable(host: &Host, name: &str) -> NetNs {
    let end = NetNs::make();
    host.ns.veth(name, &end, "e", "");
    no_offloads(&end, "e");
    end
}

#[test]
fn a_switch_with_two_interfaces_and_the_host_behind_both() {
    const TEST: &str = "storm::a_switch_with_two_interfaces_and_the_host_behind_both";
    let Some(host) = Host::new(TEST) else { return };
    let ends = [cable(&host, "v0"), cable(&host, "v1")];
    host.ok(&["attach", "vale0", "v0", "--host"]);
    host.ok(&["vale-ctl", "-h", "vale0:v1"]);
    let [a, b] = ends.each_ref().map(Place::wire);
    // The host is at the switch twice: what a wire brings it gets twice, and
    // what it sends at one place it gets at the other.
    let stack = Place::Stack(Stack::new(&host.ns, "v0"));
    let copies = [[0, 1, 2], [1, 0, 2], [1, 1, 1]];
    let mut party = Party::new([a, b, stack], copies);
    party.storm("two interfaces and their host");
    assert_quiet(&host, &mut party, 3);
    host.assert_sound();
}

/// A bridge of the kernel's over these interfaces of the host.
pub(crate) fn kernel_bridge(host: &Host, stp: bool, members: &[&str]) {
    let stp = u8::from(stp);
    // Two seconds are the least.
    host.ns.ip(&format!(
        "link add br0 type bridge stp_state {stp} forward_delay {} mcast_snooping 0",
        u16::from(stp) * 200
    ));
    host.ns.ip("link set br0 up");
    for member in members {
        host.ns.ip(&format!("link set {member} master br0"));
    }
}

#[test]
fn a_bridge_of_the_kernel_behind_an_interface() {
    const TEST: &str = "storm::a_bridge_of_the_kernel_behind_an_interface";
    let Some(host) = Host::new(TEST) else { return };
    let ends = ["v0", "v1", "p0"].map(|name| cable(&host, name));
    host.ok(&["attach", "vale0", "v0", "--host"]);
    host.ok(&["attach", "vale0", "v1"]);
    kernel_bridge(&host, false, &["v0", "p0"]);
    let [a, b, c] = ends.each_ref().map(Place::wire);
    let stack = Place::Stack(Stack::new(&host.ns, "br0"));
    let copies = [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]];
    let mut party = Party::new([a, b, c, stack], copies);
    party.unknown = false;
    party.storm("a switch, an interface, the kernel's bridge");
    assert_quiet(&host, &mut party, 4);
    host.assert_sound();
}

#[test]
fn the_spanning_tree_cuts_a_loop_that_an_administrator_makes() {
    const TEST: &str = "storm::the_spanning_tree_cuts_a_loop_that_an_administrator_makes";
    let Some(host) = Host::new(TEST) else { return };
    let ends = ["v0", "v1"].map(|name| cable(&host, name));
    // Before the loop is closed: it listens before it forwards.
    kernel_bridge(&host, true, &["v0", "v1"]);
    host.ok(&["attach", "vale0", "v0", "--host"]);
    host.ok(&["attach", "vale0", "v1", "--host"]);
    let state = |name: &str| {
        let details = host.ns.ip(&format!("-d -o link show dev {name}"));
        let state = details.split(" bridge_slave state ").nth(1);
        let state = state.and_then(|s| s.split(' ').next());
        state
            .unwrap_or_else(|| panic!("no state: {details}"))
            .to_owned()
    };
    eventually("one way is open, the other is not", || {
        let mut states = ["v0", "v1"].map(state);
        states.sort();
        states == ["blocking", "forwarding"]
    });
    let [a, b] = ends.each_ref().map(Place::wire);
    let mut party = Party::new([a, b], [[0, 1], [1, 0]]);
    party.storm("the spanning tree");
    host.assert_sound();
}

/// How an interface's wire is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Native,
    /// The driver has no XDP.
    NoXdp,
    /// The same, with XDP in the stack.
    Generic,
    Packet,
}

/// An interface of the host's whose driver has no XDP: its other end, and what
/// is below.
pub(crate) fn without_xdp(host: &Host, name: &str, settings: &str) -> (NetNs, NetNs) {
    // What is below has a stack of its own, which listens too.
    let (end, below) = (NetNs::make(), NetNs::make());
    below.veth(name, &end, "e", settings);
    no_offloads(&end, "e");
    below.ip(&format!(
        "link add link {name} name m{name} type macvlan mode passthru"
    ));
    below.give(&format!("m{name}"), &host.ns);
    host.ns.ip(&format!("link set dev m{name} name {name}"));
    host.ns.ip(&format!("link set {name} promisc on up"));
    (end, below)
}

/// The interface of the host's that is used, and what has to live as long.
/// The namespace at the other end is the first.
fn interface(host: &Host, name: &str, how: How) -> (Vec<NetNs>, Option<Redirect>) {
    match how {
        How::Native => (vec![cable(host, name)], None),
        How::Packet => {
            let end = cable(host, name);
            (vec![end], Some(no_xdp(&host.ns, name)))
        }
        How::NoXdp | How::Generic => {
            let (end, below) = without_xdp(host, name, "");
            (vec![end, below], None)
        }
    }
}

/// `netvale bridge` between them.
fn bridge(host: &Host, name: &str, ports: [&str; 2]) -> Program {
    let [a, b] = ports.map(|port| format!("netmap:{port}"));
    let program = host.start(name, &["bridge", "-w", "0", "-i", &a, "-i", &b]);
    let ready = within(PATIENCE, || host.log(name).contains("Ready to go"));
    assert!(ready, "{}", host.log(name));
    program
}

#[test]
fn a_program_between_an_interface_and_its_host() {
    const TEST: &str = "storm::a_program_between_an_interface_and_its_host";
    for how in [How::Native, How::NoXdp, How::Generic, How::Packet] {
        let config = format!("generic_xdp = {}", how == How::Generic);
        let Some(host) = Host::configured(TEST, &config) else {
            return;
        };
        let (a, _taken) = interface(&host, "v0", how);
        let program = bridge(&host, "bridge", ["v0", "v0^"]);
        let stack = Place::Stack(Stack::new(&host.ns, "v0"));
        let mut party = Party::new([Place::wire(&a[0]), stack], [[0, 1], [1, 0]]);
        party.storm(&format!("{how:?}"));
        let driven = host.driven("v0");
        // XDP in the stack would see again what is given to the host.
        assert_eq!(
            driven.starts_with("by AF_XDP"),
            how == How::Native,
            "{how:?}: {driven}"
        );
        drop(program);
        host.assert_empty();
    }
}

#[test]
fn a_program_between_two_interfaces() {
    const TEST: &str = "storm::a_program_between_two_interfaces";
    for how in [How::Native, How::NoXdp, How::Generic, How::Packet] {
        let config = format!("generic_xdp = {}", how == How::Generic);
        let Some(host) = Host::configured(TEST, &config) else {
            return;
        };
        let (a, _taken) = interface(&host, "v0", how);
        let (b, _taken_too) = interface(&host, "v1", how);
        let program = bridge(&host, "bridge", ["v0", "v1"]);
        let driven = host.driven("v0");
        let by_xdp = driven.starts_with("by AF_XDP");
        let wanted = matches!(how, How::Native | How::Generic);
        assert_eq!(by_xdp, wanted, "{how:?}: {driven}");
        let in_stack = driven.contains("its driver has no XDP");
        assert_eq!(in_stack, how == How::Generic, "{how:?}: {driven}");
        // The host gets nothing, and what it sends goes nowhere.
        let stack = Place::Stack(Stack::new(&host.ns, "v0"));
        let copies = [[0, 1, 0], [1, 0, 0], [0, 0, 0]];
        let mut party = Party::new([Place::wire(&a[0]), Place::wire(&b[0]), stack], copies);
        party.storm(&format!("{how:?}"));
        drop(program);
        host.assert_empty();
    }
}

#[test]
fn programs_before_a_bridge_of_the_kernel() {
    const TEST: &str = "storm::programs_before_a_bridge_of_the_kernel";
    for how in [How::Native, How::Packet] {
        let Some(host) = Host::new(TEST) else { return };
        let (a, _taken) = interface(&host, "v0", how);
        let (b, _taken_too) = interface(&host, "v1", how);
        kernel_bridge(&host, false, &["v0", "v1"]);
        let programs = ["v0", "v1"].map(|name| bridge(&host, name, [name, &format!("{name}^")]));
        let stack = Place::Stack(Stack::new(&host.ns, "br0"));
        let copies = [[0, 1, 1], [1, 0, 1], [1, 1, 0]];
        let mut party = Party::new([Place::wire(&a[0]), Place::wire(&b[0]), stack], copies);
        party.unknown = false;
        party.storm(&format!("{how:?}"));
        drop(programs);
        host.assert_sound();
    }
}
