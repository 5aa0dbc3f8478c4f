//! Network interfaces, and the host's stack behind them.

use std::os::fd::{AsFd, BorrowedFd};

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::bpf::{Asm, BpfError, Program, ProgramKind};
use netvale_backends::host::{HostConfig, HostLink, WireSide};
use netvale_backends::netlink::{Netlink, NetlinkError};
use netvale_backends::packet::{PacketConfig, PacketError, PacketSocket};
use netvale_backends::tap::{Make, Offloads, Tap, TapConfig};
use netvale_wire::proto::ErrorKind;
use netvale_wire::vnet::HdrLen;

use super::tap::TapLane;
use super::vxlan::chains;
use super::{Device, DeviceLane, Keep, Pushed, Trouble, Use};
use crate::listing::Refusal;

/// Longest frame that waits for segmentation, with header and VLAN tag.
const LONGEST: usize = 12 + 18 + 65_536;
/// Frames asked for at once.
const AT_ONCE: usize = 256;
/// Bytes of received frames that may wait in the kernel.
const RECEIVE_BUFFER: usize = 8 << 20;
/// A tc program's answer: drop it.
const TC_DROP: i32 = 2;

/// Takes an interface away from the stack.
pub(super) fn open(name: &str, how: Use) -> Result<Device, Refusal> {
    let link = Netlink::open()
        .and_then(|mut netlink| netlink.link(name))
        .map_err(|e| link_refusal(&e))?;
    let header = if how.headers { HdrLen::MERGED } else { HdrLen::NONE };
    let mark = how.host.then_some(HostConfig::MARK);
    let config = PacketConfig {
        header,
        leave_out_mark: mark,
        mark,
        receive_buffer: Some(RECEIVE_BUFFER),
        ..PacketConfig::new(name)
    };
    // First: what the stack loses from here on is received.
    let (socket, header) = socket(config)?;
    let mut keep = Keep::default();
    let mut host = None;
    if how.host {
        let mut side = host_side(name)?;
        let (tap, index) = (side.0.as_str(), link.index);
        let tap_index = Netlink::open()
            .and_then(|mut netlink| netlink.link(tap))
            .map_err(|e| link_refusal(&e))?
            .index;
        let joined = HostLink::attach(index, tap_index, HostConfig::new(WireSide::Packet))
            .map_err(|e| bpf_refusal(&e))?;
        joined.capture(true).map_err(|e| bpf_refusal(&e))?;
        side.1.keep.add(joined);
        host = Some(Box::new(side.1));
    } else {
        for egress in [false, true] {
            keep.add(gate(link.index, egress).map_err(|e| bpf_refusal(&e))?);
        }
    }
    let longest = match how.headers {
        true => LONGEST,
        false => 10_000.max(link.mtu as usize + 18),
    };
    let about = format!("interface {name} by AF_PACKET");
    Ok(Device {
        name: name.into(),
        lanes: vec![Box::new(NicLane { socket, longest })],
        header: u8::try_from(header.get()).unwrap_or(0),
        about,
        host,
        keep,
    })
}

/// The socket, with the shorter header if the kernel has no longer one.
fn socket(config: PacketConfig) -> Result<(PacketSocket, HdrLen), Refusal> {
    let older = PacketConfig {
        header: HdrLen::SHORT,
        ..config.clone()
    };
    let opened = match PacketSocket::open(&config) {
        Err(PacketError::HeaderLen { .. }) => {
            PacketSocket::open(&older).map(|socket| (socket, older.header))
        }
        opened => opened.map(|socket| (socket, config.header)),
    };
    opened.map_err(|e| packet_refusal(&e))
}

/// Keeps frames from the stack, or the stack's from the wire.
fn gate(index: u32, egress: bool) -> Result<netvale_backends::bpf::Link, BpfError> {
    let mut asm = Asm::new();
    asm.answer(TC_DROP);
    let program = Program::load(ProgramKind::Tc, "nv_nic_gate", &asm.finish())?;
    match egress {
        true => program.attach_egress(index),
        false => program.attach_ingress(index),
    }
}

/// The TAP through which the host's stack is reached: its name and itself.
fn host_side(interface: &str) -> Result<(String, Device), Refusal> {
    let config = TapConfig {
        make: Make::New,
        header: HdrLen::MERGED,
        offloads: Offloads::ALL,
        ..TapConfig::new("nvhost%d")
    };
    let tap = Tap::open(&config).map_err(|e| super::tap::refusal(&e))?;
    let name = tap.name().to_owned();
    let lanes = tap.into_queues().into_iter();
    let lanes = lanes.map(|queue| Box::new(TapLane::new(queue, LONGEST)) as Box<dyn DeviceLane>);
    let device = Device {
        name: format!("{interface}^"),
        lanes: lanes.collect(),
        header: 12,
        about: format!("host stack of {interface} through TAP {name}"),
        host: None,
        keep: Keep::default(),
    };
    Ok((name, device))
}

#[derive(Debug)]
struct NicLane {
    socket: PacketSocket,
    longest: usize,
}

impl DeviceLane for NicLane {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn longest(&self) -> usize {
        self.longest
    }

    fn pull(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, Trouble> {
        chains(free, self.longest, AT_ONCE, batch);
        self.socket.recv(pool, batch).map_err(|e| trouble(&e))
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        let sent = self.socket.send(pool, batch, 0).map_err(|e| trouble(&e))?;
        Ok(Pushed {
            done: sent.next,
            refused: sent.refused as u64,
        })
    }
}

fn trouble(e: &PacketError) -> Trouble {
    match e {
        PacketError::Down { .. } => Trouble::Down,
        e => Trouble::Gone(crate::files::chain(e)),
    }
}

fn packet_refusal(e: &PacketError) -> Refusal {
    let kind = match e {
        PacketError::Missing { .. } | PacketError::Gone { .. } => ErrorKind::NotFound,
        PacketError::Name { .. } => ErrorKind::Invalid,
        PacketError::HeaderLen { .. } => ErrorKind::Unsupported,
        PacketError::Os(e) => return Refusal::backend(e.errno(), e),
        _ => ErrorKind::Other,
    };
    Refusal::new(kind, crate::files::chain(e))
}

fn link_refusal(e: &NetlinkError) -> Refusal {
    let kind = match e {
        NetlinkError::Missing { .. } => ErrorKind::NotFound,
        NetlinkError::Name { .. } => ErrorKind::Invalid,
        NetlinkError::Os(e) => return Refusal::backend(e.errno(), e),
        _ => ErrorKind::Os,
    };
    Refusal::new(kind, crate::files::chain(e))
}

fn bpf_refusal(e: &BpfError) -> Refusal {
    let kind = match e {
        BpfError::Os(e) => return Refusal::backend(e.errno(), e),
        BpfError::Busy { .. } | BpfError::Loop { .. } => ErrorKind::Busy,
        BpfError::Unsupported { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Os,
    };
    Refusal::new(kind, crate::files::chain(e))
}
