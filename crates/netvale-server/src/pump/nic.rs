//! Network interfaces, and the host's stack behind them.

use std::os::fd::{AsFd, BorrowedFd};

use netvale_backends::af_xdp::Queues;
use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::bpf::{Asm, BpfError, Program, ProgramKind, Reg, Width, XdpMode};
use netvale_backends::host::{HostConfig, HostLink, WireSide};
use netvale_backends::netlink::ethtool::Offload;
use netvale_backends::netlink::{Link, Netlink, NetlinkError, ethtool};
use netvale_backends::packet::{Fanout, PacketConfig, PacketError, PacketSocket, Spread};
use netvale_backends::tap::{Make, Offloads, Tap, TapConfig, TapQueue};
use netvale_lane::xdp::{self, Arena, Fault, HandOver, Interface, Sockets};
use netvale_wire::proto::ErrorKind;
use netvale_wire::vnet::HdrLen;

use super::burst::Burst;
use super::slots::{self, How};
use super::tap::{Io, TapLane, TapWriter};
use super::vxlan::chains;
use super::{Device, DeviceLane, Keep, Loss, Pushed, Told, Trouble, Use};
use crate::listing::Refusal;

/// Longest frame that waits for segmentation, with header and VLAN tag.
pub(super) const LONGEST: usize = 12 + 18 + 65_536;
/// What there is room for at least without headers, should the MTU be raised.
const JUMBO: usize = 10_000;
/// Bytes of received frames that may wait in the kernel.
const RECEIVE_BUFFER: usize = 8 << 20;
/// `IFF_LOOPBACK`, among an interface's flags.
const LOOPBACK: u32 = 8;
/// A tc program's answer: drop it.
const TC_DROP: i32 = 2;
/// The other one: whatever else there is decides.
const TC_NEXT: i32 = -1;
/// Where `__sk_buff` has the mark.
const SKB_MARK: i16 = 8;

/// Takes an interface away from the stack, to be attached to a switch.
pub(super) fn open(name: &str, how: Use) -> Result<Device, Refusal> {
    let nic = Nic::find(name)?;
    // Large packets stay whole, which AF_XDP cannot do.
    let wire = nic.packet(HdrLen::MERGED, true, None)?;
    let rings = how.host.then_some([1, 1]);
    let take = Take {
        from_stack: true,
        from_wire: true,
    };
    let stack = nic.stack(HdrLen::MERGED, take, rings, false)?;
    let mut keep = wire.keep;
    let host = match how.host {
        true => Some(Box::new(Device {
            name: format!("{name}^"),
            lanes: stack.lanes,
            header: 12,
            about: format!("host stack of {name} through a TAP"),
            host: None,
            keep: stack.keep,
            index: None,
        })),
        false => {
            keep.add(stack.keep);
            None
        }
    };
    Ok(Device {
        name: name.into(),
        lanes: wire.lanes,
        header: wire.header,
        about: wire.about,
        host,
        keep,
        index: Some(nic.index),
    })
}

/// An interface of the system.
#[derive(Debug)]
pub(crate) struct Nic {
    pub(super) name: String,
    pub(crate) index: u32,
    pub(super) mtu: u32,
    queues: u16,
    /// VLAN tags are in the frames when XDP in the stack sees them.
    tags: bool,
}

/// What an interface's wire brings and takes.
#[derive(Debug)]
pub(crate) struct Wire {
    /// One for each queue.
    pub(crate) lanes: Vec<Box<dyn DeviceLane>>,
    pub(crate) about: String,
    /// Tells what becomes of it.
    pub(crate) keep: Keep,
    /// Length of the virtio-net header of its frames.
    header: u8,
}

/// What is done with the stack of the host behind an interface.
#[derive(Debug)]
pub(crate) struct Stack {
    /// What it sends and gets, for each pair of host rings.
    pub(crate) lanes: Vec<Box<dyn DeviceLane>>,
    /// By which it gets what is passed on to it.
    queue: Option<TapQueue>,
    /// Programs in the kernel.
    pub(crate) keep: Keep,
}

/// What is taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Take {
    /// What the host's stack sends.
    pub(crate) from_stack: bool,
    /// What arrives on the wire.
    pub(crate) from_wire: bool,
}

impl Stack {
    /// Where frames go that are passed on to the stack, if it is connected.
    ///
    /// # Errors
    ///
    /// As [`Nic::wire`].
    pub(crate) fn onward(&self) -> Result<Option<Box<dyn DeviceLane>>, Refusal> {
        let writer = self.queue.as_ref().map(TapQueue::writer).transpose();
        let writer = writer.map_err(|e| super::tap::refusal(&e))?;
        Ok(writer.map(|q| Box::new(TapWriter::new(q)) as Box<dyn DeviceLane>))
    }
}

impl Nic {
    /// The interface of this name.
    ///
    /// # Errors
    ///
    /// There is none, or it is the loopback interface.
    pub(crate) fn find(name: &str) -> Result<Self, Refusal> {
        let link = link(name)?;
        if link.flags & LOOPBACK != 0 {
            // It has no wire: what its stack sends comes back to it, and all
            // that talk to 127.0.0.1 would be cut off.
            let message = format!("{name}: the host's programs need the loopback interface");
            return Err(Refusal::new(ErrorKind::Invalid, message));
        }
        let tags = leaves_tags(&link);
        let queues = queues(&link).used();
        Ok(Self {
            name: link.name,
            index: link.index,
            mtu: link.mtu,
            tags,
            queues: u16::try_from(queues).unwrap_or(1), // few
        })
    }

    /// It has another name now.
    pub(crate) fn renamed(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }

    /// Opens something by the name that the interface has now: the one that we
    /// know may be another's, if we have not heard of that yet.
    fn by_name<T>(&self, open: impl FnOnce(&str) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let now = || -> Result<String, Refusal> {
            let link = Netlink::open().and_then(|mut netlink| netlink.link_at(self.index));
            Ok(link.map_err(|e| link_refusal(&e))?.name)
        };
        let name = now()?;
        let opened = open(&name)?;
        if now()? != name {
            let message = format!("{name} is being renamed");
            return Err(Refusal::new(ErrorKind::Busy, message));
        }
        Ok(opened)
    }

    /// Whether VLAN tags are still in frames when XDP in the stack sees them.
    pub(crate) fn leaves_tags(&self) -> bool {
        self.tags
    }

    /// Queues that are used.
    pub(crate) fn queues(&self) -> u16 {
        self.queues
    }

    /// Buffers that all queues together need beside those of rings, to be
    /// received into and sent from in place.
    pub(crate) fn stock(&self) -> u32 {
        let queues = u32::from(self.queues);
        queues * Sockets::stock(queues)
    }

    /// Whether it has no more receive queues than get sockets: AF_XDP has the
    /// frames of those only, AF_PACKET has all.
    ///
    /// # Errors
    ///
    /// It has more, maybe since a moment ago.
    pub(crate) fn is_all_heard(&self) -> Result<(), String> {
        let link = Netlink::open().and_then(|mut netlink| netlink.link_at(self.index));
        let Ok(link) = link else {
            return Ok(()); // it goes, which others notice
        };
        let queues = queues(&link);
        let Some(receive) = queues.unheard(self.queues.into()) else {
            return Ok(());
        };
        let (may, remedy) = match queues.channels {
            Some(_) => ("receives", "; fewer: ethtool -L"),
            None => ("may receive", ""),
        };
        Err(format!(
            "it {may} into {receive} queues, and sockets have the frames of {} only{remedy}",
            self.queues
        ))
    }

    /// Opens AF_XDP sockets: of frames in the arena, unless there is none.
    /// `ring`: bytes of a ring's buffers.
    ///
    /// # Errors
    ///
    /// Why not; nothing is left behind.
    pub(crate) fn sockets_in(
        &self,
        arena: Result<Arena<'_>, String>,
        ring: u32,
    ) -> Result<Sockets, Fault> {
        // The kernel copies what it sends, but for this driver.
        let driver = self.by_name(|name| Ok(ethtool::driver(name).ok().flatten()));
        let driver = driver.map_err(|e| Fault::Other(e.message))?;
        let interface = Interface {
            index: self.index,
            queues: self.queues.into(),
            mtu: self.mtu,
            sends_in_place: driver.is_some_and(|d| d == "virtio_net"),
        };
        xdp::open(&interface, arena, ring)
    }

    /// How a wire by AF_XDP is described.
    pub(crate) fn about(&self, sockets: &Sockets) -> String {
        format!("interface {} by AF_XDP ({})", self.name, sockets.about())
    }

    /// Opens the wire by AF_PACKET: without a header, with frames that programs
    /// of netmap's take. `why`: not by AF_XDP.
    ///
    /// # Errors
    ///
    /// Why not; nothing is left behind.
    pub(crate) fn wire(&self, receive: bool, header: HdrLen, why: &str) -> Result<Wire, Refusal> {
        tracing::info!(interface = self.name, "no AF_XDP: {why}");
        let mut wire = self.packet(header, receive, Some(why))?;
        if usize::from(wire.header) != header.get() {
            // The kernel has the shorter one only.
            let name = self.name.clone();
            return Err(packet_refusal(&PacketError::HeaderLen { name }));
        }
        // Frames that no socket can tell from other queues' come by one ring,
        // but all rings send.
        let missing = usize::from(self.queues).saturating_sub(wire.lanes.len());
        if missing > 0 {
            let senders = |name: &str| {
                let config = config(name, header, false);
                (0..missing).map(|_| socket(&config)).collect()
            };
            let senders: Vec<_> = self.by_name(senders)?;
            let lane = |(socket, _)| NicLane::boxed(socket, LONGEST);
            wire.lanes.extend(senders.into_iter().map(lane));
        }
        Ok(wire)
    }

    /// Has frames go to these sockets until what is kept goes; in the stack if
    /// the driver cannot and `generic` allows it, which is said.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn redirect(
        &self,
        sockets: &[HandOver],
        generic: bool,
    ) -> Result<(Keep, XdpMode), String> {
        let redirect = xdp::redirect(self.index, sockets, generic)?;
        if let (Some(why), false) = (redirect.why_no_tags(), self.tags) {
            tracing::info!(
                interface = self.name,
                "VLAN tags beside frames would be lost ({why}): the parameter admode 2 avoids \
                 it, or what netvale doctor says"
            );
        }
        let (mut keep, mode) = (Keep::default(), redirect.mode());
        keep.add(redirect);
        Ok((keep, mode))
    }

    /// Opens the wire by AF_PACKET. `why`: not by AF_XDP.
    fn packet(&self, header: HdrLen, receive: bool, why: Option<&str>) -> Result<Wire, Refusal> {
        let how = How {
            why: why.map(|why| format!("no AF_XDP: {why}")),
            ..How::default()
        };
        self.by_name(|name| self.packet_as(name, header, receive, how))
    }

    fn packet_as(
        &self,
        name: &str,
        header: HdrLen,
        receive: bool,
        mut how: How,
    ) -> Result<Wire, Refusal> {
        let config = config(name, header, receive);
        let (lanes, header) = match (header.is_none(), receive) {
            (true, true) => (slots::whole(self, &config, &mut how)?, header),
            (false, true) => slots::headed(self, &config, &mut how)?,
            (_, false) => {
                let sockets = self.sockets(&config, socket)?;
                let header = sockets.first().map_or(header, |s| s.1);
                let lane = |(socket, _)| NicLane::boxed(socket, LONGEST);
                (sockets.into_iter().map(lane).collect(), header)
            }
        };
        let mut keep = Keep::default();
        keep.tells(&how.failure);
        Ok(Wire {
            lanes,
            about: how.about(name),
            keep,
            header: u8::try_from(header.get()).unwrap_or(0),
        })
    }

    /// A socket for each queue; for what all of them receive together if the
    /// interface cannot spread its frames (while it is down, for one).
    pub(super) fn sockets<S>(
        &self,
        config: &PacketConfig,
        open: impl Fn(&PacketConfig) -> Result<S, Refusal>,
    ) -> Result<Vec<S>, Refusal> {
        if !config.receive {
            return (0..self.queues).map(|_| open(config)).collect();
        }
        if self.queues > 1 {
            let mixed = std::process::id() ^ self.index << 8;
            let spread = PacketConfig {
                fanout: Some(Fanout {
                    group: u16::try_from(mixed & 0xffff).unwrap_or(0),
                    spread: Spread::Queue,
                }),
                ..config.clone()
            };
            match (0..self.queues).map(|_| open(&spread)).collect() {
                Ok(all) => return Ok(all),
                Err(e) => tracing::warn!(interface = self.name, "one queue only: {}", e.message),
            }
        }
        Ok(vec![open(config)?])
    }

    /// Where frames of the host's go that are passed on to the wire.
    ///
    /// # Errors
    ///
    /// As [`Nic::wire`].
    pub(crate) fn onward(&self, header: HdrLen) -> Result<Box<dyn DeviceLane>, Refusal> {
        let sender = |name: &str| {
            socket(&PacketConfig {
                header,
                receive: false,
                queue_mark: Some(HostConfig::MARK),
                ..PacketConfig::new(name)
            })
        };
        let (socket, _) = self.by_name(sender)?;
        Ok(NicLane::boxed(socket, 1))
    }

    /// Connects the host's stack to so many TX and RX host rings, if that is
    /// wanted, and keeps from it, and from the wire, what is taken.
    ///
    /// # Errors
    ///
    /// As [`Nic::wire`].
    pub(crate) fn stack(
        &self,
        header: HdrLen,
        take: Take,
        host: Option<[u16; 2]>,
        by_xdp: bool,
    ) -> Result<Stack, Refusal> {
        let mut stack = Stack {
            lanes: Vec::new(),
            queue: None,
            keep: Keep::default(),
        };
        let withhold = take.from_wire && !by_xdp;
        if let Some(rings) = host {
            let (queues, tap) = self.host_tap(header, rings[1])?;
            let wire = match withhold {
                true => WireSide::Packet,
                false => WireSide::Xdp,
            };
            let joined = HostLink::attach(self.index, tap, HostConfig::new(wire));
            let joined = joined.map_err(|e| bpf_refusal(&e))?;
            joined
                .capture(take.from_stack)
                .map_err(|e| bpf_refusal(&e))?;
            stack.keep.add(joined);
            stack.queue = queues
                .first()
                .map(TapQueue::writer)
                .transpose()
                .map_err(|e| super::tap::refusal(&e))?;
            stack.lanes = host_lanes(header, rings, queues)?;
            return Ok(stack);
        }
        for (wanted, egress) in [(withhold, false), (take.from_stack, true)] {
            if wanted {
                let gate = gate(self.index, egress).map_err(|e| bpf_refusal(&e))?;
                stack.keep.add(gate);
            }
        }
        Ok(stack)
    }
}

impl Nic {
    /// The TAP through which the host's stack is reached: its queues and its
    /// index.
    ///
    /// It has a queue for each RX host ring that gets frames: netmap gives the
    /// frames of the interface's queue `q` to ring `q` modulo the rings, so
    /// there are never more than the interface has queues.
    fn host_tap(&self, header: HdrLen, rx: u16) -> Result<(Vec<TapQueue>, u32), Refusal> {
        let plain = header.is_none();
        let config = TapConfig {
            make: Make::New,
            queues: usize::from(rx.min(self.queues).max(1)),
            header,
            offloads: if plain { Offloads::NONE } else { Offloads::ALL },
            ..TapConfig::new("nvhost%d")
        };
        let tap = Tap::open(&config).map_err(|e| super::tap::refusal(&e))?;
        let index = link(tap.name())?.index;
        Ok((tap.into_queues(), index))
    }
}

/// Lanes for pairs of host rings: TX rings without a queue of their own share
/// those of the others.
fn host_lanes(
    header: HdrLen,
    [tx, rx]: [u16; 2],
    queues: Vec<TapQueue>,
) -> Result<Vec<Box<dyn DeviceLane>>, Refusal> {
    let longest = if header.is_none() { JUMBO } else { LONGEST };
    let received = queues.len().min(rx.into());
    let mut writers: Vec<Box<dyn DeviceLane>> = Vec::new();
    for queue in queues.iter().cycle().take(tx.into()).skip(received) {
        let writer = queue.writer().map_err(|e| super::tap::refusal(&e))?;
        writers.push(Box::new(TapWriter::new(writer)));
    }
    let mut lanes: Vec<Box<dyn DeviceLane>> = Vec::new();
    for queue in queues.into_iter().take(received) {
        lanes.push(Box::new(TapLane::new(Io::Plain(queue), longest)));
    }
    lanes.append(&mut writers);
    Ok(lanes)
}

/// Hardware does, unless it takes them out. Software devices get frames from
/// where the stack has taken the tags out already, and XDP cannot see those.
fn leaves_tags(link: &Link) -> bool {
    let takes = || ethtool::offload(&link.name, Offload::RxVlan);
    link.kind.is_none() && matches!(takes(), Ok(None | Some(false)))
}

fn queues(link: &Link) -> Queues {
    let channels = ethtool::channels(&link.name).ok().flatten();
    Queues {
        channels: channels.map(|c| (c.rx, c.tx)),
        made: link.rx_queues,
    }
}

fn link(name: &str) -> Result<Link, Refusal> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link(name));
    link.map_err(|e| link_refusal(&e))
}

/// How a wire is opened by AF_PACKET.
fn config(name: &str, header: HdrLen, receive: bool) -> PacketConfig {
    PacketConfig {
        header,
        receive,
        // What is given to the host's stack is not the wire's. Ours needs
        // no mark where no tc program sees it.
        leave_out_mark: Some(HostConfig::MARK),
        qdisc_bypass: true,
        queue_mark: Some(HostConfig::MARK),
        receive_buffer: Some(RECEIVE_BUFFER),
        ..PacketConfig::new(name)
    }
}

/// The socket, with the shorter header if the kernel has no longer one.
pub(super) fn socket(config: &PacketConfig) -> Result<(PacketSocket, HdrLen), Refusal> {
    let older = PacketConfig {
        header: HdrLen::SHORT,
        ..config.clone()
    };
    let opened = match PacketSocket::open(config) {
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
    if egress {
        // Ours pass, and nobody else sees whose they are.
        let stacks = asm.label();
        asm.load(Width::Word, Reg::R2, Reg::R1, SKB_MARK);
        asm.jump_if_not(Reg::R2, HostConfig::MARK.cast_signed(), stacks);
        asm.store(Width::Word, Reg::R1, SKB_MARK, 0);
        asm.answer(TC_NEXT);
        asm.place(stacks);
    }
    asm.answer(TC_DROP);
    let program = Program::load(ProgramKind::Tc, "nv_nic_gate", &asm.finish())?;
    match egress {
        true => program.attach_egress(index),
        false => program.attach_ingress(index),
    }
}

#[derive(Debug)]
pub(super) struct NicLane {
    socket: PacketSocket,
    longest: usize,
    burst: Burst,
    /// Of packets that no header describes.
    told: Told,
}

impl NicLane {
    pub(super) fn boxed(socket: PacketSocket, longest: usize) -> Box<dyn DeviceLane> {
        Box::new(Self {
            socket,
            longest,
            burst: Burst::new(),
            told: Told::default(),
        })
    }
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
        chains(free, self.longest, self.burst.frames(), batch);
        let got = self.socket.recv(pool, batch).map_err(|e| trouble(&e))?;
        self.burst.took(got);
        Ok(got)
    }

    fn is_drained(&self) -> bool {
        // Or all came that was asked for: then the descriptor says whether
        // there is more.
        true
    }

    fn left_out(&mut self) -> Option<(Loss, u64)> {
        self.told.since(Loss::Odd, self.socket.odd())
    }

    fn appetite(&self) -> usize {
        self.burst.frames()
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        let sent = self.socket.send(pool, batch, 0);
        sent.map(Pushed::from).map_err(|e| trouble(&e))
    }
}

pub(super) fn trouble(e: &PacketError) -> Trouble {
    match e {
        PacketError::Down { .. } => Trouble::Down,
        e => Trouble::Gone(crate::files::chain(e)),
    }
}

pub(super) fn packet_refusal(e: &PacketError) -> Refusal {
    let kind = match e {
        PacketError::Missing { .. } | PacketError::Gone { .. } => ErrorKind::NotFound,
        PacketError::Name { .. } => ErrorKind::Invalid,
        PacketError::HeaderLen { .. } => ErrorKind::Unsupported,
        PacketError::Os(e) => return Refusal::backend(e.errno(), e),
        _ => ErrorKind::Other,
    };
    Refusal::new(kind, crate::files::chain(e))
}

pub(crate) fn link_refusal(e: &NetlinkError) -> Refusal {
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
