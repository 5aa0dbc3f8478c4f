//! Network namespaces to measure in.
//!
//! They have no name: only descriptors and processes hold them, so they go,
//! with all that is in them, when the benchmark ends, however it ends.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;

use netvale::{Error, ErrorKind};
use netvale_backends::netlink::ethtool::{Offload, set_offload};
use netvale_backends::netlink::{LinkChange, Netlink, NetlinkError, NewLink};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, UnshareFlags};

use crate::bench::sample::broken;
use crate::failure::{Result, io_error};

/// Bytes of a TCP segment's frame.
const MTU: u32 = 1500;

/// A network namespace.
#[derive(Debug)]
pub(super) struct Space {
    file: File,
}

impl Space {
    /// Makes one with a loopback interface, and no IPv6: its kernel would send
    /// frames that nobody asked for.
    pub(super) fn new() -> Result<Self> {
        let made = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                #[expect(deprecated, reason = "NEWNET alone leaves descriptors as they are")]
                rustix::thread::unshare(UnshareFlags::NEWNET)?;
                File::open("/proc/thread-self/ns/net")
            });
            thread
                .join()
                .unwrap_or_else(|p| std::panic::resume_unwind(p))
        });
        let file = made.map_err(|e| io_error("cannot make a network namespace", &e))?;
        let space = Self { file };
        space.enter(|| {
            for which in ["default", "all"] {
                // Not there in kernels without IPv6.
                let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                let _ = std::fs::write(path, "1");
            }
            up("lo")
        })?;
        Ok(space)
    }

    /// Runs it in a thread that is in the namespace. Sockets made there, and
    /// processes started there, stay in it.
    pub(super) fn enter<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(self.file.as_fd(), kind)
                    .map_err(|e| io_error("cannot enter a network namespace", &e.into()))?;
                f()
            });
            thread
                .join()
                .unwrap_or_else(|p| std::panic::resume_unwind(p))
        })
    }

    /// A cable from here to another namespace, both ends switched on.
    pub(super) fn cable(&self, name: &str, to: &Self, peer: &str) -> Result<()> {
        self.enter(|| {
            let kind = NewLink::Veth {
                peer,
                peer_netns: Some(to.file.as_fd()),
                queues: 1,
            };
            netlink()?.create(name, kind).map_err(|e| no_link(&e))?;
            up(name)
        })?;
        to.enter(|| up(peer))
    }

    /// Gives an interface to another namespace, where it is switched on.
    pub(super) fn hand_over(&self, name: &str, to: &Self) -> Result<()> {
        self.enter(|| {
            change(
                name,
                &LinkChange {
                    netns: Some(to.file.as_fd()),
                    ..LinkChange::default()
                },
            )
        })?;
        to.enter(|| up(name))
    }

    /// A bridge of the kernel's that joins these interfaces.
    pub(super) fn bridge(&self, name: &str, ports: &[&str]) -> Result<()> {
        self.enter(|| {
            let made = netlink()?.create(name, NewLink::Bridge);
            let controller = Some(made.map_err(|e| no_link(&e))?.index);
            for port in ports {
                let join = LinkChange {
                    controller,
                    ..LinkChange::default()
                };
                change(port, &join)?;
            }
            up(name)
        })
    }

    /// Gives an interface an address in a network of 256.
    pub(super) fn address(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        self.enter(|| {
            let arguments = format!("addr add {address}/24 dev {name}");
            let out = Command::new("ip").args(arguments.split(' ')).output();
            let out = out.map_err(|e| {
                io_error("cannot start ip", &e).with_hint("it is in the package iproute2")
            })?;
            if out.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&out.stderr);
            Err(broken(&format!("ip {arguments}: {}", said.trim())).into())
        })
    }

    /// An interface segments what it sends, and completes its checksums,
    /// itself.
    pub(super) fn no_offloads(&self, name: &str) -> Result<()> {
        self.enter(|| {
            for offload in [Offload::Gso, Offload::Tso, Offload::TxChecksum] {
                set_offload(name, offload, false).map_err(|e| no_link(&e))?;
            }
            Ok(())
        })
    }

    /// The number of an interface.
    pub(super) fn index(&self, name: &str) -> Result<u32> {
        self.enter(|| Ok(netlink()?.link(name).map_err(|e| no_link(&e))?.index))
    }

    /// Frames that an interface has received.
    pub(super) fn received(&self, name: &str) -> Result<u64> {
        self.enter(|| {
            let text = std::fs::read_to_string("/proc/thread-self/net/dev")
                .map_err(|e| io_error("cannot read /proc/net/dev", &e))?;
            let frames = received(&text, name);
            Ok(frames.ok_or_else(|| broken(&format!("no counters of {name}")))?)
        })
    }
}

/// The second number behind the interface's name.
fn received(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        let (who, numbers) = line.split_once(':')?;
        (who.trim() == name).then_some(numbers)
    })?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn netlink() -> Result<Netlink> {
    Ok(Netlink::open().map_err(|e| no_link(&e))?)
}

fn up(name: &str) -> Result<()> {
    let up = LinkChange {
        up: Some(true),
        mtu: (name != "lo").then_some(MTU),
        ..LinkChange::default()
    };
    change(name, &up)
}

fn change(name: &str, what: &LinkChange<'_>) -> Result<()> {
    let mut netlink = netlink()?;
    let index = netlink.link(name).map_err(|e| no_link(&e))?.index;
    Ok(netlink.change(index, what).map_err(|e| no_link(&e))?)
}

fn no_link(e: &NetlinkError) -> Error {
    broken(&e.to_string())
}

/// Why nothing can be measured here.
pub(super) fn need_privilege() -> Result<()> {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN | CapabilitySet::NET_RAW;
    if rustix::thread::capabilities(None).is_ok_and(|held| held.effective.contains(needed)) {
        return Ok(());
    }
    let why = "devices are measured in network namespaces, which only root can make";
    Err(Error::new(ErrorKind::Unavailable, why)
        .with_hint("unshare --user --map-root-user netvale bench --devices (without XDP)")
        .into())
}

/// Whether programs may be loaded into the kernel: not in user namespaces.
pub(super) fn is_real_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs\n    \
                    lo:  10  2 0 0\n  ab1: 7 99 0\n   b1:5 98 0\n";
        assert_eq!(received(text, "b1"), Some(98));
        assert_eq!(received(text, "ab1"), Some(99));
        assert_eq!(received(text, "1"), None);
    }
}
