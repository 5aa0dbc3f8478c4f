//! Several processes on the same memory, and the same rings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use netvale_backends::af_xdp::{Frame, Xsk};
use netvale_backends::bpf::XdpMode;
use netvale_backends::host::WireSide;
use netvale_ring::layout::RegionGeom;
use netvale_shm::Memfd;
use netvale_shm::channel::Channel;
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, Rng, eventually};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::bed::{Cable, Port, SIZES, bytes_of, config, frame, part, redirect, region, umem};

const ROLE: &str = "NETVALE_XDP_ROLE";

/// Another process in a role, with a channel to it. Killed when dropped.
pub(crate) struct Other {
    child: Child,
    channel: Channel,
}

impl Other {
    pub(crate) fn start(role: &str) -> Self {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::another_process", "--nocapture"])
            .env(ROLE, role)
            .env_remove("NETVALE_SKIP_LOG")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn();
        Self {
            child: child.unwrap(),
            channel: ours.into(),
        }
    }

    pub(crate) fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) {
        self.channel.send(text.as_bytes(), fds).unwrap();
    }

    /// What it says; panics if it has ended.
    pub(crate) fn hear(&self) -> String {
        hear(&self.channel).0
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be dead
        let _ = self.child.wait();
    }
}

fn hear(channel: &Channel) -> (String, Vec<OwnedFd>) {
    let (mut buf, mut fds) = ([0; 256], Vec::new());
    let len = channel.recv(&mut buf, &mut fds).unwrap();
    (String::from_utf8(buf[..len].to_vec()).unwrap(), fds)
}

/// Does nothing unless this process was started by one of these tests.
#[test]
fn another_process() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let channel = Channel::from(stdin);
    match role.as_str() {
        "sender" => sender(&channel),
        "worker" => worker(&channel),
        "owner" => owner(&channel),
        "host owner" => host_owner(&channel),
        _ => panic!("no role {role}"),
    }
}

/// A region from another process.
fn received_region(fd: OwnedFd) -> (Memfd, RegionGeom) {
    let (_, geom) = region(128);
    (Memfd::from_fd(fd, geom.file_len()).unwrap(), geom)
}

/// Registers the memory itself and sends the buffers that it is told of.
fn sender(channel: &Channel) {
    let (_, mut fds) = hear(channel);
    let ns = NetNs::from_fd(fds.pop().unwrap());
    let (file, geom) = received_region(fds.pop().unwrap());
    let memory = part(&file, &geom, 2..32);
    let mut port = Port::open(&ns, "a", 0, &memory, 2..2, &config());
    loop {
        let (order, _) = hear(channel);
        let Some((buf, len)) = order.split_once(' ') else {
            return;
        };
        let desc = memory.tx_desc(Frame {
            buf: buf.parse().unwrap(),
            offset: 0,
            len: len.parse().unwrap(),
            more: false,
        });
        let tx = port.xsk.tx.as_mut().unwrap();
        tx.refresh().unwrap();
        assert!(tx.put(desc.unwrap()));
        tx.publish();
        eventually("it is sent", || {
            port.xsk.socket.kick_tx().unwrap();
            port.collect();
            port.free() > 0
        });
        channel.send(b"sent", &[]).unwrap();
        port = Port::of(port.xsk, &memory, 2..2);
    }
}

/// Works the rings of a socket that another process made: sends back what it
/// receives, from the buffer where it came.
fn worker(channel: &Channel) {
    let (_, mut fds) = hear(channel);
    let xsk = Xsk::from_fd(fds.pop().unwrap(), SIZES).unwrap();
    let (file, geom) = received_region(fds.pop().unwrap());
    let memory = umem(&file, &geom);
    let mut port = Port::of(xsk, &memory, 60..120);
    port.fill(30);
    channel.send(b"ready", &[]).unwrap();
    loop {
        let Some(pieces) = port.receive_in_place(PATIENCE) else {
            panic!("nothing comes");
        };
        let tx = port.xsk.tx.as_mut().unwrap();
        tx.refresh().unwrap();
        assert!(tx.put(memory.tx_desc(pieces[0]).unwrap()));
        tx.publish();
        let free = port.free();
        eventually("it is sent", || {
            port.xsk.socket.kick_tx().unwrap();
            port.collect();
            port.free() > free
        });
        let said = format!("{} {}", pieces[0].buf, pieces[0].len);
        if channel.send(said.as_bytes(), &[]).is_err() {
            return;
        }
    }
}

/// Owns a socket and the program of an interface until it is killed.
fn owner(channel: &Channel) {
    let (_, mut fds) = hear(channel);
    let ns = NetNs::from_fd(fds.pop().unwrap());
    let (file, geom) = region(128);
    let memory = umem(&file, &geom);
    let port = Port::open(&ns, "b", 0, &memory, 2..60, &config());
    let program = redirect(&ns, "b", 1, XdpMode::Native);
    program.connect(0, &port.xsk.socket).unwrap();
    channel.send(b"ready", &[]).unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Owns the host side of an interface until it is killed, and does nothing.
fn host_owner(channel: &Channel) {
    let (_, mut fds) = hear(channel);
    let ns = NetNs::from_fd(fds.pop().unwrap());
    let (_tap, link) = crate::host::connect(&ns, WireSide::Packet);
    link.capture(true).unwrap();
    channel.send(b"ready", &[]).unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn two_processes_register_the_same_memory() {
    let Some(cable) = Cable::new("processes::two_processes_register_the_same_memory", 1, 1500)
    else {
        return;
    };
    let (file, geom) = region(128);
    let memory = part(&file, &geom, 100..164);
    let mut b = Port::open(&cable.right, "b", 0, &memory, 100..164, &config());
    let program = redirect(&cable.right, "b", 1, XdpMode::Native);
    program.connect(0, &b.xsk.socket).unwrap();
    b.fill(40);
    let other = Other::start("sender");
    other.send("use these", &[file.as_fd(), cable.left.as_fd()]);
    let mut rng = Rng::new(1);
    for buf in 2..32_u32 {
        // Written here, sent there: in the same memory.
        let sent = frame(&mut rng, 60 + 47 * buf as usize);
        let at = geom.buf_ofs() + buf as usize * 2112;
        assert!(memory.mem().write(at, &sent));
        other.send(&format!("{buf} {}", sent.len()), &[]);
        assert_eq!(other.hear(), "sent");
        let got = b.receive_in_place(PATIENCE).unwrap();
        assert!(bytes_of(&memory, got[0]) == sent);
    }
}

#[test]
fn a_socket_is_worked_by_another_process() {
    let Some(cable) = Cable::new("processes::a_socket_is_worked_by_another_process", 1, 1500)
    else {
        return;
    };
    let (file, geom) = region(128);
    let memory = umem(&file, &geom);
    let mut a = Port::open(&cable.left, "a", 0, &memory, 2..50, &config());
    let from_there = redirect(&cable.left, "a", 1, XdpMode::Native);
    from_there.connect(0, &a.xsk.socket).unwrap();
    a.fill(30);
    // Made and connected here; the rings are used there only.
    let b = Port::open(&cable.right, "b", 0, &memory, 60..60, &config());
    let program = redirect(&cable.right, "b", 1, XdpMode::Native);
    program.connect(0, &b.xsk.socket).unwrap();
    let mut other = Other::start("worker");
    other.send("use these", &[file.as_fd(), b.xsk.socket.as_fd()]);
    assert_eq!(other.hear(), "ready");
    let mut rng = Rng::new(1);
    for _ in 0..20 {
        let len = 60 + rng.below(1400);
        let sent = frame(&mut rng, len);
        a.send(&sent);
        let said = other.hear();
        let (buf, len) = said.split_once(' ').unwrap();
        assert_eq!(len.parse::<usize>().unwrap(), sent.len());
        let there = Frame {
            buf: buf.parse().unwrap(),
            offset: 0,
            len: len.parse().unwrap(),
            more: false,
        };
        assert!(bytes_of(&memory, there) == sent, "seen in place here");
        assert!(
            a.receive(PATIENCE) == Some(sent),
            "sent from the place there"
        );
    }
    // The socket survives its worker, and a new one goes on.
    other.kill();
    let other = Other::start("worker");
    other.send("use these", &[file.as_fd(), b.xsk.socket.as_fd()]);
    assert_eq!(other.hear(), "ready");
    let sent = frame(&mut rng, 333);
    a.send(&sent);
    assert!(other.hear().ends_with(" 333"));
    assert!(a.receive(PATIENCE) == Some(sent));
}
