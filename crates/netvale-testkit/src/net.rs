//! Network namespaces for tests, with interfaces in them.
//!
//! A namespace has no name in the file system: only descriptors hold it, so
//! that it goes with the test, however that ends, and all that is in it.

use std::fs::File;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, UnshareFlags};

use crate::{eventually, skip};

/// A network namespace of its own: a loopback interface that is up, no IPv6
/// (its kernel would send frames nobody asked for).
#[derive(Debug)]
pub struct NetNs {
    file: File,
}

impl NetNs {
    /// Makes one. `None` without the privilege for it, after that has been
    /// announced for `test`.
    ///
    /// # Panics
    ///
    /// If it is not possible in spite of the privilege.
    #[must_use]
    pub fn new(test: &str) -> Option<Self> {
        if !may_administer() {
            skip(
                test,
                "needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN) to make network namespaces",
            );
            return None;
        }
        if Command::new("ip").arg("-V").output().is_err() {
            skip(test, "needs the program ip (package iproute2)");
            return None;
        }
        Some(Self::make())
    }

    /// Makes one more, where [`NetNs::new`] has made the first.
    ///
    /// # Panics
    ///
    /// Without the privilege.
    #[must_use]
    pub fn make() -> Self {
        let file = in_thread(|| {
            #[expect(deprecated, reason = "NEWNET alone leaves descriptors as they are")]
            rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let ns = Self { file };
        ns.set("ipv6/conf/default/disable_ipv6", "1");
        ns.set("ipv6/conf/all/disable_ipv6", "1");
        ns.ip("link set lo up");
        ns
    }

    /// Runs it in a thread that is in the namespace. Sockets made there stay
    /// in the namespace; programs started there are in it too.
    ///
    /// # Panics
    ///
    /// If `f` does, with the same message.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        in_thread(|| {
            move_into(&self.file);
            f()
        })
    }

    /// Has this thread in the namespace, and the programs and threads that it
    /// starts, until what is returned is dropped there.
    ///
    /// # Panics
    ///
    /// Without the privilege.
    #[must_use]
    pub fn stay(&self) -> Stay {
        let before = File::open("/proc/thread-self/ns/net").unwrap();
        move_into(&self.file);
        Stay { before }
    }

    /// One that another process has made, by a descriptor of it
    /// ([`AsFd`] gives that).
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { file: fd.into() }
    }

    /// `ip` with these arguments, separated by spaces; what it printed.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        let out = self.try_ip(args);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "ip {args}: {said}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// The same, for what may fail.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[must_use]
    pub fn try_ip(&self, args: &str) -> Output {
        self.enter(|| Command::new("ip").args(args.split(' ')).output().unwrap())
    }

    /// A cable: interface `name` here, `peer_name` in `peer`, both up.
    /// `settings` go to both ends (`numrxqueues 4 numtxqueues 4`, say).
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    #[track_caller]
    pub fn veth(&self, name: &str, peer: &Self, peer_name: &str, settings: &str) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), peer.file.as_raw_fd());
        let settings = if settings.is_empty() {
            String::new()
        } else {
            format!(" {}", settings.trim())
        };
        self.ip(&format!(
            "link add name {name}{settings} type veth peer name {peer_name}{settings} netns {there}"
        ));
        self.ip(&format!("link set dev {name} up"));
        peer.ip(&format!("link set dev {peer_name} up"));
    }

    /// The index of an interface.
    ///
    /// # Panics
    ///
    /// If there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn index(&self, name: &str) -> u32 {
        let found = self.enter(|| {
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
            rustix::net::netdevice::name_to_index(socket, name)
        });
        found.unwrap()
    }

    /// The Ethernet address of an interface.
    ///
    /// # Panics
    ///
    /// If there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn mac(&self, name: &str) -> [u8; 6] {
        let line = self.ip(&format!("-o link show dev {name}"));
        let text = line.split("link/ether ").nth(1).unwrap();
        let mut mac = [0; 6];
        for (byte, hex) in mac.iter_mut().zip(text[..17].split(':')) {
            *byte = u8::from_str_radix(hex, 16).unwrap();
        }
        mac
    }

    /// Sets a file below `/proc/sys/net`.
    ///
    /// # Panics
    ///
    /// If it is not there or will not have it.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{key}");
        let result = self.enter(|| std::fs::write(&path, value));
        if let Err(e) = result {
            panic!("{path}: {e}");
        }
    }

    /// Sends one echo request with `len` bytes of data from here. The time to
    /// the answer; `None` if there is none within `patience`, or a wrong one.
    ///
    /// # Panics
    ///
    /// Without raw sockets.
    #[must_use]
    pub fn ping(&self, to: Ipv4Addr, len: usize, patience: Duration) -> Option<Duration> {
        self.enter(|| ping(to.into(), len, patience))
    }

    /// The same by IPv6.
    ///
    /// # Panics
    ///
    /// Without raw sockets.
    #[must_use]
    pub fn ping6(&self, to: Ipv6Addr, len: usize, patience: Duration) -> Option<Duration> {
        self.enter(|| ping(to.into(), len, patience))
    }

    /// Whether somebody who listens in `to` can be reached by TCP from here in
    /// so much time.
    ///
    /// # Panics
    ///
    /// If the address is not one of `to`'s, or taken there.
    #[must_use]
    pub fn connects(&self, to: &Self, at: impl Into<SocketAddr>, patience: Duration) -> bool {
        let at = at.into();
        let listener = to.enter(|| TcpListener::bind(at)).unwrap();
        let reached = self.enter(|| TcpStream::connect_timeout(&at, patience));
        drop(listener);
        reached.is_ok()
    }

    /// Waits until these interfaces are up, and what they are connected to.
    ///
    /// # Panics
    ///
    /// If one is not there, or stays down.
    #[track_caller]
    pub fn wait_until_up(&self, names: &[&str]) {
        let up = |name: &&str| {
            let said = self.ip(&format!("-o link show dev {name}"));
            said.contains("LOWER_UP")
        };
        eventually("the interfaces are up", || names.iter().all(up));
    }

    /// Gives an interface its MTU and addresses, and switches it on. `n` is
    /// the last part of the addresses: 10.77.0.n/24 and fd77::n/64.
    ///
    /// # Panics
    ///
    /// If it is not there, or will not have them.
    #[track_caller]
    pub fn settle(&self, name: &str, n: u8, mtu: u32) {
        self.set(&format!("ipv6/conf/{name}/disable_ipv6"), "0");
        self.ip(&format!("link set dev {name} mtu {mtu} up"));
        self.ip(&format!("addr add 10.77.0.{n}/24 dev {name}"));
        self.ip(&format!("addr add fd77::{n}/64 dev {name} nodad"));
    }

    /// Gives an interface to another namespace.
    ///
    /// # Panics
    ///
    /// If it is not there, or cannot leave.
    #[track_caller]
    pub fn give(&self, name: &str, to: &Self) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), to.file.as_raw_fd());
        self.ip(&format!("link set dev {name} netns {there}"));
    }
}

/// A thread is in a namespace: see [`NetNs::stay`].
#[derive(Debug)]
pub struct Stay {
    before: File,
}

impl Drop for Stay {
    fn drop(&mut self) {
        move_into(&self.before);
    }
}

fn move_into(ns: &File) {
    let kind = Some(LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(ns.as_fd(), kind).unwrap();
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether this process may make namespaces and interfaces in them.
#[must_use]
pub fn may_administer() -> bool {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN | CapabilitySet::NET_RAW;
    rustix::thread::capabilities(None).is_ok_and(|held| held.effective.contains(needed))
}

fn in_thread<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| match scope.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn ping(to: IpAddr, len: usize, patience: Duration) -> Option<Duration> {
    static SEQUENCE: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(1);

    let flags = SocketFlags::CLOEXEC;
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
    };
    let socket = rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol)).unwrap();
    let seq = SEQUENCE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut echo = vec![request, 0, 0, 0, 0x6e, 0x76];
    echo.extend(seq.to_be_bytes());
    echo.extend((0..len).map(|i| i.to_le_bytes()[0]));
    // By IPv6 the kernel does it, for the addresses are part of it.
    let sum = netvale_wire::checksum::checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());

    let start = Instant::now();
    let address = SocketAddr::new(to, 0);
    if rustix::net::sendto(&socket, &echo, SendFlags::empty(), &address).is_err() {
        return None; // no way there
    }
    let mut buf = vec![MaybeUninit::uninit(); len + 256];
    loop {
        let left = patience.checked_sub(start.elapsed())?;
        let timeout = rustix::event::Timespec::try_from(left).ok()?;
        let mut poll = [rustix::event::PollFd::new(
            &socket,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut poll, Some(&timeout)).unwrap();
        let Ok(((packet, _), _)) = rustix::net::recv(&socket, &mut buf[..], RecvFlags::DONTWAIT)
        else {
            continue;
        };
        let header = match to {
            IpAddr::V4(_) => usize::from(packet[0] & 15) * 4,
            IpAddr::V6(_) => 0, // not given to us
        };
        let Some(answer) = packet.get(header..) else {
            continue;
        };
        let ours = answer.get(..1) == Some(&[reply]) && answer.get(4..8) == echo.get(4..8);
        if ours {
            return (answer[8..] == echo[8..]).then(|| start.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cables_carry_and_go_with_their_namespaces() {
        let Some(a) = NetNs::new("net::tests::cables_carry_and_go_with_their_namespaces") else {
            return;
        };
        let b = NetNs::make();
        a.veth("left", &b, "right", "numrxqueues 2 numtxqueues 2");
        a.ip("addr add 10.9.0.1/24 dev left");
        b.ip("addr add 10.9.0.2/24 dev right");
        let second = Duration::from_secs(5);
        assert!(a.ping(Ipv4Addr::new(10, 9, 0, 2), 900, second).is_some());
        assert!(b.ping(Ipv4Addr::new(10, 9, 0, 1), 0, second).is_some());
        let nobody = a.ping(Ipv4Addr::new(10, 9, 0, 3), 0, Duration::from_millis(50));
        assert!(nobody.is_none());
        assert_ne!(a.mac("left"), b.mac("right"));
        drop(b);
        eventually("the cable goes with one end", || {
            !a.try_ip("link show dev left").status.success()
        });
    }
}
