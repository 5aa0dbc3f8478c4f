//! The host stack of an interface, reached through a TAP.
//!
//! netmap's host rings on a stock kernel: what the host sends on interface X
//! is redirected to a TAP, from which a program reads it; what the program
//! writes to the TAP enters the stack as if X had received it. The TAP needs no
//! address; it must be up, in X's network namespace.
//!
//! ```text
//!   host stack
//!    |      ^
//!  egress ingress (gate)   <-- X                TAP
//!    |      ^------------ redirect, marked ---- ingress <-- write()
//!    +------------------- redirect, marked ---> egress  --> read()
//! ```
//!
//! Four programs, detached when [`HostLink`] is dropped or the process ends:
//! the host uses the interface itself again then.
//!
//! Frames go in circles if one is taken for another kind, so they carry a mark
//! while they are between the two interfaces:
//!
//! * X's egress lets marked frames pass: the program's own, if it sends them
//!   to the wire through an AF_PACKET socket with that `SO_MARK`. AF_XDP sends
//!   past it anyway.
//! * X's ingress takes the mark off. So a frame that the host routes back out
//!   of X counts as one of the host's.
//! * The TAP's egress drops what is not marked, such as what the host itself
//!   would announce on it.
//! * Generic XDP on X would see every injected frame again; both together are
//!   refused, whichever comes second.
//! * An AF_PACKET socket that receives from X must ignore marked and outgoing
//!   frames (`SKF_AD_MARK` in its filter, `PACKET_IGNORE_OUTGOING`).
//!
//! A TAP without offloads gets frames that are segmented and have their
//! checksums; one with virtio-net headers gets the host's large packets whole.

mod programs;

use crate::bpf::{
    BpfError, Cell, HOST_GATE, Link, Program, ProgramKind, interface_name, xdp_state,
};

/// Who takes the frames that arrive on the interface's wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireSide {
    /// AF_XDP, before the stack: what the stack still gets is meant for it.
    Xdp,
    /// An AF_PACKET socket, which gets copies: the stack gets nothing but what
    /// is injected.
    Packet,
}

/// How to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostConfig {
    /// Who takes what the wire brings.
    pub wire: WireSide,
    /// The mark of frames between the two interfaces, 1..2^31. No firewall
    /// rule of the host should use it.
    pub mark: u32,
}

impl HostConfig {
    /// The mark if there is no reason for another.
    pub const MARK: u32 = 0x6e76_0001;

    /// With the usual mark.
    #[must_use]
    pub const fn new(wire: WireSide) -> Self {
        Self {
            wire,
            mark: Self::MARK,
        }
    }
}

/// What has been counted since the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostCounters {
    /// Frames of the host that went to the TAP.
    pub captured: u64,
    /// Their bytes.
    pub captured_bytes: u64,
    /// Frames from the TAP that went to the host.
    pub injected: u64,
    /// Their bytes.
    pub injected_bytes: u64,
    /// Frames from the wire kept from the stack ([`WireSide::Packet`]).
    pub withheld: u64,
    /// Frames that the host tried to send on the TAP itself.
    pub foreign: u64,
}

/// The connection of an interface's host side to a TAP.
#[derive(Debug)]
pub struct HostLink {
    // Dropped in this order: first the host may send by itself again.
    _capture: Link,
    _inject: Link,
    _gate: Link,
    _guard: Link,
    control: Cell,
    counters: Cell,
    wire: WireSide,
    interface: u32,
}

impl HostLink {
    /// Connects an interface and a TAP, by their indices. What is written to
    /// the TAP reaches the host from now on, and with [`WireSide::Packet`]
    /// nothing else does. What the host sends comes to the TAP after
    /// [`HostLink::capture`], and goes to the wire until then.
    ///
    /// While it captures, a host whose frames nobody reads is cut off, also
    /// when somebody has deleted the TAP: drop the connection then.
    ///
    /// # Errors
    ///
    /// [`BpfError::Unsupported`] before Linux 6.6, [`BpfError::Loop`] if the
    /// interface has a generic XDP program, and the kernel's refusals.
    pub fn attach(interface: u32, tap: u32, config: HostConfig) -> Result<Self, BpfError> {
        if interface == tap || !(1..1 << 31).contains(&config.mark) {
            let object = format!("{} to its TAP", interface_name(interface));
            let why = std::io::Error::other("they are the same, or the mark is not 1..2^31");
            return Err(crate::OsError::new("connect", object, why).into());
        }
        if xdp_state(interface)?.generic.is_some() {
            return Err(BpfError::Loop {
                interface: interface_name(interface),
                present: "generic XDP",
            });
        }
        let control = Cell::new("nv_host_ctl", programs::CONTROL_WORDS)?;
        let counters = Cell::new("nv_host_count", programs::COUNTER_WORDS)?;
        control.write(&control_words(false, config.wire))?;
        let parts = programs::Parts {
            control: &control,
            counters: &counters,
            mark: config.mark,
        };
        let load = |name, insns: Vec<_>| Program::load(ProgramKind::Tc, name, &insns);
        let guard = load("nv_host_guard", parts.guard())?.attach_egress(tap)?;
        let gate = load(HOST_GATE, parts.gate())?.attach_ingress(interface)?;
        let inject = load("nv_host_in", parts.inject(interface))?.attach_ingress(tap)?;
        let capture = load("nv_host_out", parts.capture(tap))?.attach_egress(interface)?;
        Ok(Self {
            _capture: capture,
            _inject: inject,
            _gate: gate,
            _guard: guard,
            control,
            counters,
            wire: config.wire,
            interface,
        })
    }

    /// The interface's index.
    #[must_use]
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// Whether what the host sends goes to the TAP (or to the wire).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn capture(&self, on: bool) -> Result<(), BpfError> {
        self.control.write(&control_words(on, self.wire))
    }

    /// What has been counted.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn counters(&self) -> Result<HostCounters, BpfError> {
        let words = self.counters.read()?;
        let at = |i: usize| words.get(i).copied().unwrap_or(0);
        Ok(HostCounters {
            captured: at(programs::CAPTURED),
            captured_bytes: at(programs::CAPTURED + 1),
            injected: at(programs::INJECTED),
            injected_bytes: at(programs::INJECTED + 1),
            withheld: at(programs::WITHHELD),
            foreign: at(programs::FOREIGN),
        })
    }
}

fn control_words(capture: bool, wire: WireSide) -> [u64; programs::CONTROL_WORDS] {
    [u64::from(capture), u64::from(wire == WireSide::Packet)]
}
