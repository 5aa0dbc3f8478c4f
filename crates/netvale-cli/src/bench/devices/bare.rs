//! The bare loops: the least that moving frames between the same devices
//! costs, by plain calls over the lowest layer, without rings, switch or
//! counters. They run in a process of their own, as the server does.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use netvale_backends::host::{HostConfig, HostLink, WireSide};
use netvale_backends::netlink::Netlink;
use netvale_backends::packet::{PacketConfig, PacketSocket};
use netvale_backends::tap::{Make, Offloads, Tap, TapConfig, TapQueue};
use netvale_wire::vnet::HdrLen;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::bench::sample::broken;
use crate::failure::{Result, io_error};

/// Longest frame that waits for segmentation, with header and VLAN tag.
const LONGEST: usize = 12 + 18 + 65_536;
/// Frames from one side before the other gets its turn.
const TURN: usize = 64;
/// Bytes of received frames that may wait in the kernel, as in the server.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Longest sleep without a look whether to end.
const LOOK_UP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// One side of a copy loop.
trait Side: AsFd {
    /// The next frame, with its virtio-net header, if there is one.
    fn read(&self, frame: &mut [u8]) -> Result<Option<usize>>;
    /// Sends one. What the kernel has no room for is lost.
    fn write(&self, frame: &[u8]) -> Result<()>;
}

impl Side for TapQueue {
    fn read(&self, frame: &mut [u8]) -> Result<Option<usize>> {
        Ok(Self::read(self, frame).map_err(|e| broken(&e.to_string()))?)
    }

    fn write(&self, frame: &[u8]) -> Result<()> {
        // `false`: refused.
        Self::write(self, frame).map_err(|e| broken(&e.to_string()))?;
        Ok(())
    }
}

impl Side for PacketSocket {
    fn read(&self, frame: &mut [u8]) -> Result<Option<usize>> {
        match rustix::net::recv(self, frame, RecvFlags::DONTWAIT) {
            Ok((n, _)) => Ok(Some(n)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(e) => Err(io_error("receive", &e.into()).into()),
        }
    }

    fn write(&self, frame: &[u8]) -> Result<()> {
        match rustix::net::send(self, frame, SendFlags::DONTWAIT) {
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => Ok(()),
            Err(e) => Err(io_error("send", &e.into()).into()),
        }
    }
}

/// A TAP whose frames have headers, with large packets whole.
pub(super) fn tap(name: &str) -> Result<TapQueue> {
    let config = TapConfig {
        make: Make::New,
        header: HdrLen::MERGED,
        offloads: Offloads::ALL,
        ..TapConfig::new(name)
    };
    let tap = Tap::open(&config).map_err(|e| broken(&e.to_string()))?;
    let queue = tap.into_queues().into_iter().next();
    Ok(queue.ok_or_else(|| broken("a TAP without a queue"))?)
}

/// Copies between two TAPs that it makes.
pub(in crate::bench) fn taps(
    names: &[String; 2],
    ready: impl FnOnce() -> Result<std::sync::Arc<AtomicBool>>,
) -> Result<()> {
    let [a, b] = [tap(&names[0])?, tap(&names[1])?];
    let stop = ready()?;
    copy(&a, &b, &stop)
}

/// Copies between the wire of an interface and the host's stack behind it.
pub(in crate::bench) fn host(
    interface: &str,
    ready: impl FnOnce() -> Result<std::sync::Arc<AtomicBool>>,
) -> Result<()> {
    let stack = tap("bare%d")?;
    let wire = PacketSocket::open(&PacketConfig {
        header: HdrLen::MERGED,
        leave_out_mark: Some(HostConfig::MARK),
        receive_buffer: Some(RECEIVE_BUFFER),
        ..PacketConfig::new(interface)
    });
    let wire = wire.map_err(|e| broken(&e.to_string()))?;
    let index = |name: &str| {
        let link = Netlink::open().and_then(|mut netlink| netlink.link(name));
        link.map_err(|e| broken(&e.to_string())).map(|l| l.index)
    };
    let (nic, tap) = (index(interface)?, index(stack.name())?);
    let link = HostLink::attach(nic, tap, HostConfig::new(WireSide::Packet))
        .and_then(|link| link.capture(true).map(|()| link));
    let _link = link.map_err(|e| broken(&e.to_string()))?;
    let stop = ready()?;
    copy(&stack, &wire, &stop)
}

/// Reads and writes frame by frame, and sleeps while there is none.
fn copy(a: &impl Side, b: &impl Side, stop: &AtomicBool) -> Result<()> {
    let mut frame = vec![0; LONGEST];
    while !stop.load(Ordering::Relaxed) {
        let ready = wait([a.as_fd(), b.as_fd()])?;
        if ready[0] {
            one_way(a, b, &mut frame)?;
        }
        if ready[1] {
            one_way(b, a, &mut frame)?;
        }
    }
    Ok(())
}

fn one_way(from: &impl Side, to: &impl Side, frame: &mut [u8]) -> Result<()> {
    for _ in 0..TURN {
        let Some(n) = from.read(frame)? else { break };
        to.write(frame.get(..n).unwrap_or_default())?;
    }
    Ok(())
}

/// Which of the two have frames.
fn wait(fds: [BorrowedFd<'_>; 2]) -> Result<[bool; 2]> {
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut fds, Some(&LOOK_UP)) {
        Ok(_) | Err(Errno::INTR) => Ok(fds.map(|fd| !fd.revents().is_empty())),
        Err(e) => Err(io_error("cannot poll", &e.into()).into()),
    }
}
