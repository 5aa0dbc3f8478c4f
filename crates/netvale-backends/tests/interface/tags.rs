//! VLAN tags that the other end keeps beside its frames.

use std::process::Command;
use std::time::Duration;

use netvale_backends::af_xdp::{Redirect, XskConfig};
use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::bpf::XdpMode;
use netvale_backends::packet::{PacketConfig, PacketSocket};
use netvale_backends::probe::{Interface, Verdict};
use netvale_shm::{HugePages, Memfd};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, frame, skip, within};

use crate::bed::{Cable, Port, config, redirect, region, umem};

const SOON: Duration = Duration::from_millis(50);
/// Longer than a buffer.
const MTU: u32 = 9000;
/// Room for that and two tags.
const ROOM: u32 = 9216;

/// What is behind the addresses of frames.
const TAGS: [&[u8]; 4] = [
    &[0x81, 0, 0x60, 5],
    &[0x88, 0xa8, 0, 7],
    &[0x88, 0xa8, 0, 7, 0x81, 0, 0xf0, 9],
    &[],
];

/// A bridge before the left end of the cable, and a station behind it: a tag
/// that comes in there goes on beside the frame.
fn station(left: &NetNs) -> NetNs {
    let station = NetNs::make();
    left.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
    left.ip(&format!("link set br0 mtu {MTU} up"));
    left.veth("x", &station, "e", &format!("mtu {MTU}"));
    left.ip("link set dev x master br0");
    left.ip("link set dev a master br0");
    station
}

/// An interface as the stack has it.
struct Packets {
    socket: PacketSocket,
    pool: BufPool,
    batch: Batch,
}

impl Packets {
    fn open(ns: &NetNs, name: &str) -> Self {
        let file = Memfd::create("test-tags", ROOM as usize, HugePages::Never).unwrap();
        let socket = ns.enter(|| PacketSocket::open(&PacketConfig::new(name)));
        Self {
            socket: socket.unwrap(),
            pool: BufPool::new(&file.map().unwrap(), 0, 1, ROOM).unwrap(),
            batch: Batch::new(),
        }
    }

    fn one(&mut self, len: u32) {
        self.batch.clear();
        self.batch
            .push(&[Piece {
                buf: 0,
                off: 0,
                len,
            }])
            .unwrap();
    }

    fn send(&mut self, frame: &[u8]) {
        self.one(u32::try_from(frame.len()).unwrap());
        let written = self.batch.write(&self.pool, 0, 0, frame);
        assert_eq!(written, frame.len());
        let sent = self.socket.send(&self.pool, &self.batch, 0).unwrap();
        assert_eq!((sent.next, sent.refused), (1, 0));
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        self.one(ROOM);
        if self.socket.recv(&self.pool, &mut self.batch).unwrap() == 0 {
            return None;
        }
        let mut bytes = vec![0; self.batch.frame_len(0)];
        let read = self.batch.read(&self.pool, 0, 0, &mut bytes);
        assert_eq!(read, bytes.len());
        Some(bytes)
    }
}

#[test]
fn they_are_put_back_for_sockets_and_left_to_the_stack() {
    const TEST: &str = "tags::they_are_put_back_for_sockets_and_left_to_the_stack";
    let Some(cable) = Cable::new(TEST, 1, MTU) else {
        return;
    };
    let program = redirect(&cable.right, "b", 1, XdpMode::Native);
    if program.why_no_tags().is_some() {
        skip(TEST, "needs a kernel that tells programs of tags (6.8)");
        return;
    }
    let station = station(&cable.left);
    let (file, geom) = region(64);
    let several = XskConfig {
        multi_buffer: true,
        ..config()
    };
    let memory = umem(&file, &geom);
    let mut port = Port::open(&cable.right, "b", 0, &memory, 2..66, &several);
    port.fill(60);
    let mut sender = Packets::open(&station, "e");
    let mut stack = Packets::open(&cable.right, "b");
    let lens = [60, 61, 64, 65, 300, 1514, 2105, 2108, 2109, 2112, 8900];
    // While the queue has a socket, and while it has none.
    for connected in [false, true, false] {
        match connected {
            true => program.connect(0, &port.xsk.socket).unwrap(),
            false => program.disconnect(0).unwrap(),
        }
        let all = TAGS
            .into_iter()
            .flat_map(|tags| lens.map(|len| (tags, len)));
        for (seq, (tags, len)) in (0..).zip(all) {
            let sent = frame::tagged(frame::BROADCAST, frame::mac(1), len, 9, seq);
            let whole = [&sent[..12], tags, &sent[12..]].concat();
            let mut seen = Vec::new();
            let came = within(PATIENCE, || {
                // Again: the bridge has to notice that its ports are there.
                sender.send(&whole);
                let got = match connected {
                    true => port.receive(SOON),
                    false => stack.receive(),
                };
                port.fill(port.free().saturating_sub(4));
                seen.extend(got);
                seen.last() == Some(&whole)
            });
            assert!(came, "{connected}:\n{whole:02x?}\n{seen:02x?}");
        }
    }
}

const HIDDEN: &str = "NETVALE_TAGS_HIDDEN";

#[test]
fn a_kernel_that_does_not_say_how_they_are_told_is_no_good() {
    const TEST: &str = "tags::a_kernel_that_does_not_say_how_they_are_told_is_no_good";
    let Some(cable) = Cable::new(TEST, 1, MTU) else {
        return;
    };
    // Its type information is read once in a process.
    let hide = "mount --bind /dev/null /sys/kernel/btf/vmlinux || exit 77; exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", hide])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tags::where_the_kernel_does_not_say",
            "--nocapture",
        ])
        .env(HIDDEN, "1")
        .env_remove("NETVALE_SKIP_LOG");
    match cable.right.enter(|| command.output()) {
        Ok(out) if out.status.code() != Some(77) => {
            assert!(out.status.success(), "{out:?}");
        }
        _ => skip(TEST, "needs unshare -m, and type information of the kernel"),
    }
}

/// Does nothing unless this process was started by the test before.
#[test]
fn where_the_kernel_does_not_say() {
    if std::env::var_os(HIDDEN).is_none() {
        return;
    }
    let b = Interface::look("b").unwrap();
    assert!(b.features.is_none_or(|f| !f.tells_tags));
    let found = b.findings();
    let tags = found.iter().find(|f| f.what == "VLAN tags");
    assert!(
        tags.is_none_or(|f| f.verdict == Verdict::Limited),
        "{found:?}"
    );
    let program = Redirect::attach(b.index, 1, XdpMode::Native).unwrap();
    assert!(program.why_no_tags().is_some());
}
