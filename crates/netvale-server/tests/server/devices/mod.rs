//! Devices as ports, in network namespaces of the tests' own.

mod driven;
mod files;
mod headers;
mod host;
mod in_place;
mod leave;
mod life;
mod links;
mod open;
mod still;
mod switch;

use std::thread::JoinHandle;

use netvale::{Namespace, Port};
use netvale_server::Config;
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, within};
use netvale_wire::proto::{ErrorKind, Reply, Request};

use crate::bed::Bed;

/// A server in a network namespace.
pub(super) struct Host {
    pub(super) bed: Bed,
    pub(super) ns: NetNs,
}

impl Host {
    /// `None` without the privilege, after that has been announced.
    pub(super) fn new(test: &str) -> Option<Self> {
        Self::with(test, |_| {})
    }

    pub(super) fn with(test: &str, change: impl FnOnce(&mut Config) + Send) -> Option<Self> {
        let ns = NetNs::new(test)?;
        let bed = ns.enter(|| Bed::with(change));
        Some(Self { bed, ns })
    }

    pub(super) fn namespace(&self) -> Namespace {
        Namespace::at(&self.bed.dir).unwrap().no_spawn()
    }

    pub(super) fn ask(&self, request: &Request) -> Reply {
        self.bed.connect().ask(request).unwrap().0
    }

    pub(super) fn attach(&self, spec: &str) -> u32 {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            match self.ask(&attach(spec, false)) {
                Reply::Attached { port_index, .. } => return port_index,
                // A program that the test starts has the old descriptor for an
                // instant, between fork and exec.
                Reply::Error { message, .. }
                    if message.contains("holds its queues") && std::time::Instant::now() < end => {}
                other => panic!("{spec}: {other:?}"),
            }
        }
    }

    pub(super) fn detach(&self, spec: &str) -> u32 {
        let spec = spec.into();
        match self.ask(&Request::Detach { spec, nr: true }) {
            Reply::Attached { port_index, .. } => port_index,
            other => panic!("{other:?}"),
        }
    }

    /// Why a request is refused, and how that is said.
    pub(super) fn refusal(&self, request: &Request) -> (ErrorKind, String) {
        match self.ask(request) {
            Reply::Error { kind, message, .. } => (kind, message),
            other => panic!("{request:?}: {other:?}"),
        }
    }

    /// Names of all ports.
    pub(super) fn names(&self) -> Vec<String> {
        self.bed.ports().into_iter().map(|p| p.name).collect()
    }

    /// An interface over another whose driver has no XDP, and the other's name
    /// with an `m`. `false` where there are none, after that has been announced.
    pub(super) fn macvlan(&self, test: &str, over: &str) -> bool {
        let made = self.ns.try_ip(&format!(
            "link add link {over} name {over}m type macvlan mode passthru"
        ));
        if !made.status.success() {
            netvale_testkit::skip(test, "needs a kernel with macvlan interfaces");
            return false;
        }
        self.ns.ip(&format!("link set dev {over}m up"));
        true
    }

    /// Gives a TAP of this host to another namespace, with an address.
    pub(super) fn hand_over(&self, tap: &str, to: &NetNs, address: &str, mtu: u32) {
        self.ns.give(tap, to);
        settle(to, tap, address, mtu);
    }
}

/// Gives an interface its MTU and address, and switches it on.
pub(super) fn settle(ns: &NetNs, name: &str, address: &str, mtu: u32) {
    ns.set(&format!("ipv6/conf/{name}/disable_ipv6"), "0");
    ns.ip(&format!("link set dev {name} mtu {mtu} up"));
    ns.ip(&format!("addr add {address}/24 dev {name}"));
    let last = address.rsplit('.').next().unwrap();
    ns.ip(&format!("addr add fd77::{last}/64 dev {name} nodad"));
}

pub(super) fn attach(spec: &str, host: bool) -> Request {
    Request::Attach {
        spec: spec.into(),
        nr: true,
        host,
        mem_id: 0,
        port: None,
    }
}

/// Whether echo requests are answered. One may be lost, as on any network.
pub(super) fn echo(ns: &NetNs, to: std::net::Ipv4Addr, len: usize) -> bool {
    let second = std::time::Duration::from_secs(1);
    within(PATIENCE, || ns.ping(to, len, second).is_some())
}

/// Sends a frame, whole.
pub(super) fn send(port: &mut Port, ring: usize, bytes: &[u8]) {
    let tx = port.tx(ring);
    tx.push(bytes).unwrap();
    tx.sync().unwrap();
}

/// Waits for a frame that is wanted; others are let go.
pub(super) fn receive(port: &mut Port, ring: usize, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let end = std::time::Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    while std::time::Instant::now() < end {
        while let Some(frame) = port.rx(ring).next() {
            bytes.clear();
            frame.read_to(&mut bytes);
            if wanted(&bytes) {
                port.rx(ring).sync().unwrap();
                return bytes;
            }
        }
        port.wait_rx(Some(std::time::Duration::from_millis(20)))
            .unwrap();
    }
    panic!("nothing of what was wanted came");
}

/// A frame of a type that no stack answers.
pub(super) fn plain(number: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![number; len];
    bytes[..6].fill(0xff);
    bytes[6..12].copy_from_slice(&[2, 0x4e, 0, 0, 1, number]);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

/// Whether a frame is of [`plain`]'s type.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    bytes.get(12..14) == Some(&[0x88, 0xb5])
}

/// Ends a thread and hands its panic on.
pub(super) fn join<T>(thread: JoinHandle<T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
