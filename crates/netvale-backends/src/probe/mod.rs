//! What an interface can do for us, and what this process may do.
//!
//! [`Interface::look`] changes nothing. [`try_native`] attaches a program for
//! a moment, which some drivers answer with a reset of their queues, and
//! [`try_zero_copy`] binds a socket: they are for those who ask for them.

mod findings;
mod sys;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use netvale_shm::{HugePages, Memfd};
use rustix::net::{AddressFamily, SocketType, netdevice};
use rustix::thread::CapabilitySet;

pub use crate::bpf::XdpFeatures;
pub use findings::{Finding, Verdict};

use crate::OsError;
use crate::af_xdp::{BufLayout, CopyMode, RingSizes, Umem, Xsk, XskConfig, XskError, knows_tags};
use crate::bpf::{
    Asm, BpfError, IN_USER_NAMESPACE, LinkMessage, Program, ProgramKind, XdpMode, XdpState,
    attributes, in_user_namespace, tc_programs, xdp_state,
};

const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const XDP_PASS: i32 = 2;

/// An interface as the kernel and its driver describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Whether it is up.
    pub up: bool,
    /// Bytes of a packet without its Ethernet header.
    pub mtu: u32,
    /// Name of the driver, where it says.
    pub driver: Option<String>,
    /// Receive queues in use, or those that there are.
    pub rx_queues: u32,
    /// Transmit queues likewise.
    pub tx_queues: u32,
    /// Receive and transmit queues in use, where the driver says.
    pub channels: Option<(u32, u32)>,
    /// Slots of a receive and of a transmit ring, where the driver says.
    pub rings: Option<(u32, u32)>,
    /// What the driver or the stack does to packets.
    pub offloads: Offloads,
    /// XDP programs attached.
    pub xdp: XdpState,
    /// What the driver says of XDP (Linux 6.3), as far as the kernel lets it be
    /// used.
    pub features: Option<XdpFeatures>,
    /// tc programs on ingress and egress; `None` if the kernel has no tcx
    /// (before 6.6), or without the privilege to ask.
    pub tcx: Option<(Vec<String>, Vec<String>)>,
}

/// What is done to packets before a program sees them, or left to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// The device checks checksums.
    pub rx_checksum: bool,
    /// The device cuts large TCP packets.
    pub tso: bool,
    /// The stack cuts large packets late.
    pub gso: bool,
    /// The stack joins received packets.
    pub gro: bool,
    /// The device joins received packets.
    pub lro: bool,
    /// VLAN tags are taken off received packets.
    pub rx_vlan: bool,
}

impl Interface {
    /// Looks at an interface of this network namespace.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn look(name: &str) -> Result<Self, OsError> {
        let no = |e: std::io::Error| OsError::new("look at interface", name, e);
        let any = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)
            .map_err(|e| no(e.into()))?;
        let index = netdevice::name_to_index(any, name).map_err(|e| no(e.into()))?;
        let link = LinkMessage::ask(index).map_err(no)?;
        let number = |wanted: u16| {
            let mut all = attributes(&link.attributes);
            let (_, value) = all.find(|(kind, _)| *kind == wanted)?;
            Some(u32::from_ne_bytes(*value.first_chunk()?))
        };
        let channels = channels(name);
        let in_use = channels.filter(|&(rx, tx)| rx > 0 && tx > 0);
        let (rx_queues, tx_queues) = in_use.unwrap_or((
            number(IFLA_NUM_RX_QUEUES).unwrap_or(1),
            number(IFLA_NUM_TX_QUEUES).unwrap_or(1),
        ));
        Ok(Self {
            name: name.into(),
            index,
            up: link.flags & IFF_UP != 0,
            mtu: number(IFLA_MTU).unwrap_or(0),
            driver: driver(name),
            rx_queues,
            tx_queues,
            channels,
            rings: rings(name),
            offloads: offloads(name),
            xdp: xdp_state(index).unwrap_or_default(),
            features: features(index),
            tcx: tc_programs(index).ok(),
        })
    }
}

fn features(index: u32) -> Option<XdpFeatures> {
    let told = XdpFeatures::ask(index).ok()?;
    Some(XdpFeatures {
        // A driver is asked for them by a function that has to be found first.
        tells_tags: told.tells_tags && knows_tags(),
        ..told
    })
}

fn driver(name: &str) -> Option<String> {
    let mut info = sys::DriverInfo([0; 49]);
    sys::ask(name, &mut info).ok()?;
    // After the command come 32 bytes of text.
    let bytes = info.0.iter().skip(1).take(8).flat_map(|w| w.to_ne_bytes());
    let text: Vec<u8> = bytes.take_while(|&b| b != 0).collect();
    let text = String::from_utf8_lossy(&text).into_owned();
    (!text.is_empty()).then_some(text)
}

/// Queues in use: those for one direction and those for both.
fn channels(name: &str) -> Option<(u32, u32)> {
    let mut channels = sys::Channels([0; 9]);
    sys::ask(name, &mut channels).ok()?;
    let [_, _, _, _, _, rx, tx, _, both] = channels.0;
    Some((rx.saturating_add(both), tx.saturating_add(both)))
}

fn rings(name: &str) -> Option<(u32, u32)> {
    let mut rings = sys::Rings([0; 9]);
    sys::ask(name, &mut rings).ok()?;
    let [_, _, _, _, _, rx, _, _, tx] = rings.0;
    (rx > 0 && tx > 0).then_some((rx, tx))
}

fn offloads(name: &str) -> Offloads {
    const LRO: u32 = 1 << 15;
    const RX_VLAN: u32 = 1 << 8;
    fn value<Q: sys::Question>(name: &str, mut question: Q) -> u32 {
        match sys::ask(name, &mut question) {
            Ok(()) => question.words().get(1).copied().unwrap_or(0),
            Err(_) => 0, // a driver without the question has not the offload
        }
    }
    let flags = value(name, sys::Flags([0; 2]));
    Offloads {
        rx_checksum: value(name, sys::RxChecksum([0; 2])) != 0,
        tso: value(name, sys::Tso([0; 2])) != 0,
        gso: value(name, sys::Gso([0; 2])) != 0,
        gro: value(name, sys::Gro([0; 2])) != 0,
        lro: flags & LRO != 0,
        rx_vlan: flags & RX_VLAN != 0,
    }
}

/// Attaches a program that lets everything pass, and detaches it at once.
///
/// # Errors
///
/// Why that is not possible.
pub fn try_native(index: u32) -> Result<(), BpfError> {
    let mut asm = Asm::new();
    asm.answer(XDP_PASS);
    let kind = ProgramKind::Xdp { frags: true };
    Program::load(kind, "nv_probe", &asm.finish())?
        .attach_xdp(index, XdpMode::Native)
        .map(drop)
}

/// Binds a socket with zero copy to a queue, and closes it.
///
/// # Errors
///
/// Why that is not possible: most drivers cannot.
pub fn try_zero_copy(index: u32, queue: u32) -> Result<(), XskError> {
    const LEN: usize = 2 << 20;
    let no = |e: Box<dyn Error + Send + Sync>| {
        OsError::new("make", "memory to try zero copy", std::io::Error::other(e))
    };
    let file = Memfd::create("nv-probe", LEN, HugePages::Auto).map_err(|e| no(e.into()))?;
    let layout = BufLayout {
        first: 4096,
        stride: 2112,
        count: 64,
        usable: 2112,
        huge: file.is_huge(),
    };
    let umem = Umem::new(file.map().map_err(|e| no(e.into()))?, layout)?;
    let config = XskConfig {
        sizes: RingSizes::all(64),
        copy: CopyMode::ZeroCopy,
        patience: Duration::ZERO,
        ..XskConfig::default()
    };
    Xsk::open(&umem, index, queue, &config).map(drop)
}

/// What this process may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Privileges {
    /// CAP_NET_ADMIN: attach programs, make TAPs.
    pub net_admin: bool,
    /// CAP_NET_RAW: AF_XDP and AF_PACKET sockets.
    pub net_raw: bool,
    /// CAP_BPF (or CAP_SYS_ADMIN, which contains it): load programs.
    pub bpf: bool,
    /// Whether programs are loaded with it: capabilities that hold in a user
    /// namespace only do not suffice.
    pub loads: bool,
    /// What the kernel said, if it refused one.
    pub refusal: Option<String>,
    /// CAP_IPC_LOCK: register memory beyond the limit of locked memory.
    pub ipc_lock: bool,
}

impl Privileges {
    /// Those of the calling thread; none where the kernel does not say.
    #[must_use]
    pub fn look() -> Self {
        let Ok(held) = rustix::thread::capabilities(None) else {
            return Self::default();
        };
        let has = |cap| held.effective.contains(cap);
        let net_admin = has(CapabilitySet::NET_ADMIN);
        let bpf = has(CapabilitySet::BPF) || has(CapabilitySet::SYS_ADMIN);
        // Without the capabilities it would be refused for want of them.
        let asked = (net_admin && bpf).then(load);
        Self {
            net_admin,
            net_raw: has(CapabilitySet::NET_RAW),
            bpf,
            loads: match &asked {
                Some(loaded) => loaded.is_ok(),
                None => !in_user_namespace(),
            },
            refusal: asked.and_then(Result::err).as_ref().map(refusal),
            ipc_lock: has(CapabilitySet::IPC_LOCK),
        }
    }

    /// Whether AF_XDP with a program of ours is possible.
    #[must_use]
    pub fn suffice(&self) -> bool {
        self.net_admin && self.net_raw && self.bpf && self.loads
    }
}

/// Has the kernel take a program of ours, which is attached to nothing.
fn load() -> Result<(), BpfError> {
    let mut asm = Asm::new();
    asm.answer(XDP_PASS);
    Program::load(ProgramKind::Tc, "nv_probe", &asm.finish()).map(drop)
}

/// What the kernel said, without the advice to become root, which we are.
fn refusal(e: &BpfError) -> String {
    match (e, e.source()) {
        (BpfError::Os(_), Some(answer)) => answer.to_string(),
        _ => e.in_a_line(),
    }
}

impl fmt::Display for Privileges {
    /// Those that are missing, by name. CAP_IPC_LOCK is not: all works without.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("CAP_NET_ADMIN", self.net_admin),
            ("CAP_NET_RAW", self.net_raw),
            ("CAP_BPF", self.bpf),
        ];
        let missing: Vec<_> = all.iter().filter(|c| !c.1).map(|c| c.0).collect();
        match (missing.is_empty(), self.loads) {
            (_, false) if in_user_namespace() => f.write_str(IN_USER_NAMESPACE),
            (true, false) => {
                f.write_str("the kernel refuses BPF programs")?;
                let why = self.refusal.as_ref();
                why.map_or(Ok(()), |why| write!(f, ": {why}"))
            }
            (true, true) => f.write_str("all that is needed"),
            (false, _) => write!(f, "missing: {}", missing.join(", ")),
        }
    }
}
