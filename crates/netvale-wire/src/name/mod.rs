//! Port names: what users and programs write to say which port they mean.
//!
//! ```text
//! spec   := "netmap:" name [pipe] mods opts      a network interface
//!         | "vale" id ":" name [pipe] mods opts  a port of a switch
//!         | "null" [":" name] tail               no device, memory only
//!         | kind ":" arg tail                    a back end, see BackendKind
//!         | "vxlan:" N "@" arg tail              a tunnel
//! name   := characters other than - * ^ / @ { }
//! pipe   := "{" id | "}" id                      master, slave
//! id     := characters of A-Z a-z 0-9 _
//! mods   := [mode] ("@" memid | "/" flag+)*
//! mode   := "^" [N] | "*" | "-" N                host, both, one ring
//! flag   := x z t r T R
//! tail   := ["@" memid] opts                     "@" in arg is written "@@"
//! opts   := ("@" option)*
//! option := "conf:" key "=" N ("," key "=" N)*
//!         | "share=" spec | "share:" spec | "share:port=" spec
//!         | "extmem=" file | "extmem:file=" file ("," key "=" N)*
//!         | "offset=" N | "offset:initial=" N [",bits=" N]
//! ```
//!
//! The first two forms are netmap's own, as its library libnetmap and then its
//! kernel module read them. Where the two disagree, a name is accepted if both
//! accept it. Differences, all of them refusals of what netmap would misread:
//!
//! * numbers must be decimal and in range; netmap reads garbage as 0 and cuts
//!   large region numbers to 16 bits;
//! * an interface name has no `:`, no `&`, no space and no control character,
//!   because no interface can be called so or netmap's own tests forbid it;
//! * a switch port and a pipe need a name, even before modifiers (a name in a
//!   request may lack the former, see [`PortSpec::from_nr_name`]);
//! * an option's key needs a value, and a trailing comma is an error;
//! * a pipe has no host rings: the kernel refuses them, so does this parser.

mod error;
mod opts;
mod parse;
#[cfg(test)]
mod tests;

pub use error::NameError;
pub use opts::{Conf, ExtMem, Offset, PortOpts};

use crate::abi::{mode, regflags};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

/// Longest specification, bytes. Bounds what a back end's argument can hold.
pub const MAX_SPEC: usize = 4096;
/// Longest name a netmap request can carry, bytes.
pub const MAX_NR_NAME: usize = 63;
/// Longest switch name with its `vale`, bytes.
pub const MAX_SWITCH: usize = 15;
/// Longest port part of a switch port's name, bytes.
pub const MAX_PORT: usize = 15;

/// A parsed port specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// What the port belongs to; for a pipe, the pipe's parent, or its
    /// parent's if that is a pipe too.
    pub kind: PortKind,
    /// The end of a pipe, if the specification names one.
    pub pipe: Option<Pipe>,
    /// Rings to bind.
    pub rings: RingSel,
    /// Registration flags.
    pub flags: PortFlags,
    /// Region to use; `None` for the port's own. Never 0.
    pub mem_id: Option<u16>,
    /// Options after the modifiers.
    pub opts: PortOpts,
}

impl PortSpec {
    /// Parses a specification.
    ///
    /// # Errors
    ///
    /// [`NameError`] says what is wrong, where, and what is allowed there.
    pub fn parse(spec: &str) -> Result<Self, NameError> {
        parse::spec(spec)
    }

    /// Parses a name as it stands in a netmap request: no `netmap:` in front,
    /// no modifiers or options behind, so that `eth-1` is an interface.
    ///
    /// As netmap's kernel module does, this takes some names that no
    /// specification can say: a pipe whose parent is a pipe (`a{1{2`: the last
    /// `{` counts, or if there is none the last `}`), a pipe name of any
    /// characters, and a switch port that has no name (`vale0:`).
    ///
    /// # Errors
    ///
    /// [`NameError`], as [`parse`](Self::parse).
    pub fn from_nr_name(name: &str) -> Result<Self, NameError> {
        parse::nr_name(name)
    }

    /// A specification of `kind` with everything else at its default.
    #[must_use]
    pub fn new(kind: PortKind) -> Self {
        Self {
            kind,
            pipe: None,
            rings: RingSel::All,
            flags: PortFlags::default(),
            mem_id: None,
            opts: PortOpts::default(),
        }
    }

    /// The name a netmap request carries: no `netmap:`, no modifiers.
    /// [`from_nr_name`](Self::from_nr_name) reads it back. At most
    /// [`MAX_NR_NAME`] bytes, except for a back end with a long argument.
    #[must_use]
    pub fn port_name(&self) -> String {
        let mut name = match &self.kind {
            PortKind::Nic { name } => name.clone(),
            other => other.to_string(),
        };
        if let Some(pipe) = &self.pipe {
            name.push_str(&pipe.to_string());
        }
        name
    }

    /// The name of the one port that is meant. As
    /// [`port_name`](Self::port_name), but on a switch the host's side of an
    /// interface is a port of its own, which is called `vale0:eth0^`.
    #[must_use]
    pub fn whole_name(&self) -> String {
        let mut name = self.port_name();
        if matches!(self.kind, PortKind::Vale { .. })
            && self.pipe.is_none()
            && self.rings == RingSel::Host
        {
            name.push('^');
        }
        name
    }

    /// What a pipe belongs to: the name without the pipe.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let pipe = self.pipe.as_ref()?;
        Some(Self {
            pipe: pipe.under.as_deref().cloned(),
            ..Self::new(self.kind.clone())
        })
    }

    /// `nr_mode` of a register request, see [`mode`].
    #[must_use]
    pub const fn nr_mode(&self) -> u32 {
        match (&self.kind, self.rings) {
            (PortKind::Null { .. }, _) => mode::NULL,
            (_, RingSel::All) => mode::ALL_NIC,
            (_, RingSel::Host) => mode::SW,
            (_, RingSel::HostOne(_)) => mode::ONE_SW,
            (_, RingSel::NicAndHost) => mode::NIC_SW,
            (_, RingSel::One(_)) => mode::ONE_NIC,
        }
    }

    /// `nr_ringid` of a register request.
    #[must_use]
    pub const fn nr_ringid(&self) -> u16 {
        match self.rings {
            RingSel::One(ring) | RingSel::HostOne(ring) => ring,
            RingSel::All | RingSel::Host | RingSel::NicAndHost => 0,
        }
    }
}

impl FromStr for PortSpec {
    type Err = NameError;

    fn from_str(spec: &str) -> Result<Self, NameError> {
        Self::parse(spec)
    }
}

/// Writes the canonical form; [`PortSpec::parse`] reads it back to an equal
/// value, unless only a request can carry the name.
impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            PortKind::Nic { name } => write!(f, "netmap:{name}")?,
            PortKind::Vale { .. } => write!(f, "{}", self.kind)?,
            PortKind::Null { name } => write!(f, "null:{}", name.replace('@', "@@"))?,
            PortKind::Backend { kind, arg } => {
                write!(f, "{}:{}", kind.prefix(), arg.replace('@', "@@"))?;
            }
        }
        if let Some(pipe) = &self.pipe {
            write!(f, "{pipe}")?;
        }
        write!(f, "{}{}", self.rings, self.flags)?;
        if let Some(id) = self.mem_id {
            write!(f, "@{id}")?;
        }
        write!(f, "{}", self.opts)
    }
}

/// What a port belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// A port of a switch.
    Vale {
        /// The switch, `vale` included.
        switch: String,
        /// The part after the colon.
        port: String,
    },
    /// A network interface, or a persistent port with that name.
    Nic {
        /// Interface name.
        name: String,
    },
    /// No device: rings and buffers only.
    Null {
        /// Arbitrary, may be empty.
        name: String,
    },
    /// Something that netmap has no name for.
    Backend {
        /// What it is.
        kind: BackendKind,
        /// What follows the colon; its syntax is the back end's own.
        arg: String,
    },
}

/// Writes the name as requests carry it, back ends with their prefix.
impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vale { switch, port } => write!(f, "{switch}:{port}"),
            Self::Nic { name } => f.write_str(name),
            Self::Null { name } => write!(f, "null:{name}"),
            Self::Backend { kind, arg } => write!(f, "{}:{arg}", kind.prefix()),
        }
    }
}

/// Back ends that a specification can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// `tap:NAME`: a TAP interface.
    Tap,
    /// `pcap:FILE`: a capture file.
    Pcap,
    /// `vhost-user:SOCKET`: a virtual machine's network card.
    VhostUser,
    /// `vfio:PCI-ADDRESS`: a network card driven from user space.
    Vfio,
    /// `vxlan:...`: a tunnel.
    Vxlan,
}

impl BackendKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Tap,
        Self::Pcap,
        Self::VhostUser,
        Self::Vfio,
        Self::Vxlan,
    ];

    /// What stands before the colon.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Pcap => "pcap",
            Self::VhostUser => "vhost-user",
            Self::Vfio => "vfio",
            Self::Vxlan => "vxlan",
        }
    }

    /// Inverse of [`prefix`](Self::prefix).
    #[must_use]
    pub fn from_prefix(prefix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.prefix() == prefix)
    }
}

/// One end of a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pipe {
    /// Which end.
    pub role: PipeRole,
    /// The pipe's name under its parent.
    pub id: String,
    /// The end of a pipe that is this one's parent: only in names of requests.
    pub under: Option<Box<Self>>,
}

/// Writes what follows the name of the parent.
impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(under) = &self.under {
            write!(f, "{under}")?;
        }
        write!(f, "{}{}", self.role.brace(), self.id)
    }
}

/// The two ends of a pipe; they differ in name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PipeRole {
    /// Written `{`.
    Master,
    /// Written `}`.
    Slave,
}

impl PipeRole {
    /// The character that stands before the pipe's name.
    #[must_use]
    pub const fn brace(self) -> char {
        match self {
            Self::Master => '{',
            Self::Slave => '}',
        }
    }

    /// The other end.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Master => Self::Slave,
            Self::Slave => Self::Master,
        }
    }
}

/// Rings to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RingSel {
    /// All hardware rings.
    #[default]
    All,
    /// `^`: all host rings.
    Host,
    /// `^N`: host ring pair N.
    HostOne(u16),
    /// `*`: hardware and host rings.
    NicAndHost,
    /// `-N`: hardware ring pair N.
    One(u16),
}

impl fmt::Display for RingSel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Host => f.write_str("^"),
            Self::HostOne(ring) => write!(f, "^{ring}"),
            Self::NicAndHost => f.write_str("*"),
            Self::One(ring) => write!(f, "-{ring}"),
        }
    }
}

/// Registration flags that a specification can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PortFlags {
    /// `/x`: keep others out.
    pub exclusive: bool,
    /// `/z`: monitor by exchanging buffers.
    pub zcopy_mon: bool,
    /// `/t`: monitor what the port transmits.
    pub mon_tx: bool,
    /// `/r`: monitor what the port receives.
    pub mon_rx: bool,
    /// `/T`: bind transmit rings only.
    pub tx_only: bool,
    /// `/R`: bind receive rings only.
    pub rx_only: bool,
}

impl PortFlags {
    /// Letters in canonical order with their bits.
    const TABLE: [(char, u64); 6] = [
        ('x', regflags::EXCLUSIVE),
        ('z', regflags::ZCOPY_MON),
        ('t', regflags::MONITOR_TX),
        ('r', regflags::MONITOR_RX),
        ('T', regflags::TX_RINGS_ONLY),
        ('R', regflags::RX_RINGS_ONLY),
    ];

    /// `nr_flags` of a register request, see [`regflags`].
    #[must_use]
    pub fn bits(self) -> u64 {
        let set = [
            self.exclusive,
            self.zcopy_mon,
            self.mon_tx,
            self.mon_rx,
            self.tx_only,
            self.rx_only,
        ];
        let bits = set.into_iter().zip(Self::TABLE);
        bits.filter(|(on, _)| *on)
            .fold(0, |all, (_, (_, bit))| all | bit)
    }

    /// Inverse of [`bits`](Self::bits); other bits are ignored.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            exclusive: bits & regflags::EXCLUSIVE != 0,
            zcopy_mon: bits & regflags::ZCOPY_MON != 0,
            mon_tx: bits & regflags::MONITOR_TX != 0,
            mon_rx: bits & regflags::MONITOR_RX != 0,
            tx_only: bits & regflags::TX_RINGS_ONLY != 0,
            rx_only: bits & regflags::RX_RINGS_ONLY != 0,
        }
    }

    /// Whether the registration is a monitor.
    #[must_use]
    pub const fn is_monitor(self) -> bool {
        self.zcopy_mon || self.mon_tx || self.mon_rx
    }

    /// Sets the flag that `letter` stands for; `None` if it stands for none.
    fn set(self, letter: char) -> Option<Self> {
        let (_, bit) = Self::TABLE.into_iter().find(|(c, _)| *c == letter)?;
        Some(Self::from_bits(self.bits() | bit))
    }
}

impl fmt::Display for PortFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits();
        if bits != 0 {
            f.write_str("/")?;
        }
        for (letter, bit) in Self::TABLE {
            if bits & bit != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}
