//! A network namespace with a server in it, and programs beside it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use netvale::Namespace;
use netvale_backends::af_xdp::Redirect;
use netvale_backends::bpf::XdpMode;
use netvale_backends::netlink::ethtool::{Offload, set_offload};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, TempDir, eventually, skip, within};

/// A network namespace with a server in it.
pub(crate) struct Host {
    pub(crate) ns: NetNs,
    pub(crate) dir: TempDir,
    pub(crate) server: Program,
}

impl Host {
    /// `None` without the privilege, after that has been announced.
    pub(crate) fn new(test: &str) -> Option<Self> {
        Some(Self::in_ns(NetNs::new(test)?))
    }

    /// One more, where the first has been made.
    pub(crate) fn make() -> Self {
        Self::in_ns(NetNs::make())
    }

    fn in_ns(ns: NetNs) -> Self {
        Self::starting(ns, Command::new(env!("CARGO_BIN_EXE_netvale")))
    }

    /// With a server of this configuration.
    pub(crate) fn configured(test: &str, text: &str) -> Option<Self> {
        let (ns, dir) = (NetNs::new(test)?, TempDir::new());
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        let program = Command::new(env!("CARGO_BIN_EXE_netvale"));
        let server = Self::serve(&ns, &dir, program);
        Some(Self { ns, dir, server })
    }

    /// With a server that `program` starts: it ends with the program's path.
    pub(crate) fn starting(ns: NetNs, program: Command) -> Self {
        let dir = TempDir::new();
        let server = Self::serve(&ns, &dir, program);
        Self { ns, dir, server }
    }

    fn serve(ns: &NetNs, dir: &TempDir, mut command: Command) -> Program {
        command.args(["server", "--foreground"]);
        let config = dir.path().join("config.toml");
        if config.exists() {
            command.arg("--config").arg(config);
        }
        command.env("NETVALE_NS", dir.path().join("ns"));
        command.env("RUST_LOG", "info");
        let log = dir.path().join("log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let server = Program(ns.enter(|| command.spawn()).unwrap());
        let there = Namespace::at(dir.path().join("ns")).unwrap().no_spawn();
        let up = within(PATIENCE, || there.list().is_ok());
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        assert!(up, "the server does not come up: {log}");
        server
    }

    /// Another server, after the first has ended.
    pub(crate) fn restart(&mut self) {
        let program = Command::new(env!("CARGO_BIN_EXE_netvale"));
        self.server = Self::serve(&self.ns, &self.dir, program);
    }

    /// A command in the namespace.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netvale"));
        command.args(args);
        command.env("NETVALE_NS", self.dir.path().join("ns"));
        command.env("RUST_LOG", "info").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        self.ns.enter(|| command.output()).unwrap()
    }

    /// What it printed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {said}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// Starts one that runs for a while. What it says goes to `NAME.log` in
    /// the directory.
    pub(crate) fn start(&self, name: &str, args: &[&str]) -> Program {
        let log = File::create(self.dir.path().join(format!("{name}.log"))).unwrap();
        let mut command = self.command(args);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Program(self.ns.enter(|| command.spawn()).unwrap())
    }

    /// What the program of this name has said, or the server: `""`.
    pub(crate) fn log(&self, name: &str) -> String {
        let file = match name {
            "" => "log".into(),
            name => format!("{name}.log"),
        };
        let bytes = std::fs::read(self.dir.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn namespace(&self) -> Namespace {
        let path = self.dir.path().join("ns");
        Namespace::at(path).unwrap().no_spawn()
    }

    /// Names of all ports.
    pub(crate) fn names(&self) -> Vec<String> {
        let list = self.namespace().list().unwrap();
        list.into_iter().map(|port| port.name).collect()
    }

    /// How an interface is driven, as the server's log has it.
    pub(crate) fn driven(&self, interface: &str) -> String {
        let (log, start) = (self.log(""), format!("device=\"interface {interface} "));
        let line = log
            .lines()
            .rev()
            .find_map(|l| Some(l.split_once(&start)?.1));
        line.unwrap_or_default().trim_end_matches('"').to_owned()
    }

    /// Gives a TAP to another namespace, with addresses that end in `n`.
    pub(crate) fn hand_over(&self, tap: &str, to: &NetNs, n: u8, mtu: u32) {
        self.ns.give(tap, to);
        to.settle(tap, n, mtu);
    }

    /// Nothing is lost: every buffer is in one place.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let mut problems = Vec::new();
        let sound = within(std::time::Duration::from_secs(10), || {
            problems = self.namespace().check().unwrap().problems;
            problems.is_empty()
        });
        assert!(sound, "{problems:?}; the server: {}", self.log(""));
    }

    /// No port is left, and every buffer is free.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        let mut left = Vec::new();
        let empty = within(PATIENCE, || {
            left = self.names();
            left.is_empty()
        });
        assert!(empty, "{left:?}");
        self.assert_sound();
        // Two of each region are nobody's. Sockets may be closed a moment later.
        let mut left = Vec::new();
        let free = within(PATIENCE, || {
            left = self.namespace().check().unwrap().regions;
            left.retain(|r| r.buffers - r.free > 2 || r.in_rings > 0);
            left.is_empty()
        });
        assert!(free, "{left:?}");
    }
}

/// A program that runs, killed when dropped.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// It ends by itself, because of an error.
    #[track_caller]
    pub(crate) fn fails(&mut self, when: &str) {
        let mut status = None;
        let ended = within(PATIENCE, || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "{when}: it goes on");
        assert!(!status.unwrap().success(), "{when}: {status:?}");
    }

    /// kill -9.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        assert!(self.is_alive(), "it has ended by itself");
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

/// Switches all offloads of an interface off, as `ethtool -K`.
#[track_caller]
pub(crate) fn no_offloads(ns: &NetNs, name: &str) {
    // What the driver does not have is off.
    let all = [
        Offload::Tso,
        Offload::Gso,
        Offload::Gro,
        Offload::TxChecksum,
    ];
    for offload in all {
        let off = ns.enter(|| set_offload(name, offload, false)).unwrap();
        assert!(off, "{name}: {offload:?} stays on");
    }
}

/// Takes the place of an interface's XDP program, with one that lets everything
/// pass: so a server drives it by AF_PACKET.
pub(crate) fn no_xdp(ns: &NetNs, name: &str) -> Redirect {
    let index = ns.index(name);
    let taken = ns.enter(|| Redirect::attach(index, 1, XdpMode::Native));
    taken.unwrap()
}

/// Whether there is iperf3; if not, that is announced.
pub(crate) fn has_iperf(test: &str) -> bool {
    let there = Command::new("iperf3").arg("-v").output().is_ok();
    if !there {
        skip(
            test,
            "needs the program iperf3 (package iperf3) for the rates",
        );
    }
    there
}

/// Rates by iperf3 from `client` to `server` and back at the same time,
/// Mbit/s.
#[track_caller]
pub(crate) fn iperf(client: &NetNs, server: &NetNs, to: &str, args: &[&str]) -> [f64; 2] {
    // One for each run: after one it is busy for a while.
    let mut command = Command::new("iperf3");
    command.args(["-s", "-1"]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Program(server.enter(|| command.spawn()).unwrap());
    eventually("iperf3 listens", || {
        let sockets = server.enter(|| std::fs::read_to_string("/proc/thread-self/net/tcp6"));
        // Its port, and the state of a socket that listens.
        let is_it = |line: &str| line.contains(":1451 ") && line.contains(" 0A ");
        sockets.unwrap_or_default().lines().any(is_it)
    });
    let mut command = Command::new("iperf3");
    command.args(["-J", "--bidir", "-c", to]).args(args);
    let out = client.enter(|| command.stdin(Stdio::null()).output());
    let text = String::from_utf8(out.unwrap().stdout).unwrap();
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(
        said["error"].is_null(),
        "iperf3 {args:?}: {}",
        said["error"]
    );
    ["sum_received", "sum_received_bidir_reverse"].map(|sum| {
        let bits = said["end"][sum]["bits_per_second"].as_f64();
        bits.unwrap_or_else(|| panic!("no {sum}: {text}")) / 1e6
    })
}

/// Files that a process has open, by what they are.
pub(crate) fn descriptors(pid: u32) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let dir = Path::new("/proc").join(pid.to_string()).join("fd");
    for entry in std::fs::read_dir(dir).unwrap() {
        let target = entry.and_then(|e| std::fs::read_link(e.path()));
        // One that has been closed meanwhile is none.
        let Ok(target) = target else { continue };
        let text = target.to_string_lossy();
        // Sockets and pipes have a number each.
        let numbered = ["socket:[", "pipe:["].iter().any(|k| text.starts_with(k));
        let kind = match text.split_once(":[") {
            Some((kind, _)) if numbered => kind,
            _ => &text,
        };
        *all.entry(kind.to_owned()).or_default() += 1;
    }
    all
}
