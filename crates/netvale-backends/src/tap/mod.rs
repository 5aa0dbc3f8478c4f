//! TAP interfaces: an Ethernet interface of the host whose other end is here.
//!
//! 1. [`TapConfig`] says which interface, whether it is to be made or adopted,
//!    with how many queues, with which virtio-net header and offloads.
//! 2. [`Tap::open`] makes it so and holds the queues; [`Tap::from_fds`] takes
//!    over descriptors that a more privileged process opened.
//! 3. [`TapQueue`]s move batches of frames, each with one system call per
//!    frame; a [`TapUring`] moves a whole batch with one call.
//!
//! With a header of 10 or 12 bytes every frame begins with it
//! ([`netvale_wire::vnet`]), in both directions. Then the kernel may hand over
//! frames of up to 64 KiB and without checksums, and takes such frames: ten
//! times the rate of frames of 1500 bytes. Without a header the kernel segments
//! and completes what it hands over.
//!
//! The interface lives while a queue is open, or for ever if it is persistent.
//! Everything that acts on it by name does so in the network namespace of the
//! calling thread, where it was opened.
//!
//! Minimum kernel: 3.8 for several queues; 6.2 for segmentation of UDP, without
//! which [`Tap::offloads`] says that it is off.

mod queue;
mod sys;
mod uring;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use netvale_wire::mac::MacAddr;
use netvale_wire::vnet::HdrLen;
use rustix::fs::{Mode, OFlags};

use crate::OsError;
use crate::net::bad_name;
use crate::net::sys::Control;

pub use queue::{Packed, TapQueue};
pub use uring::{NoUring, TapUring, WORTH};

/// Most queues of one interface; the kernel's own limit.
pub const MAX_QUEUES: usize = 256;

/// Whether an interface has to exist already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Make {
    /// It is made; one of that name must not exist.
    New,
    /// It is adopted; it must exist.
    Adopt,
    /// It is adopted if it exists, else made.
    #[default]
    Either,
}

/// What the kernel may leave to the other side of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Checksums of TCP and UDP. The others need it.
    pub csum: bool,
    /// Segmentation of TCP over IPv4.
    pub tso4: bool,
    /// Segmentation of TCP over IPv6.
    pub tso6: bool,
    /// Segmentation of TCP with the congestion-window-reduced flag.
    pub tso_ecn: bool,
    /// Segmentation of UDP over IPv4 into datagrams.
    pub uso4: bool,
    /// Segmentation of UDP over IPv6 into datagrams.
    pub uso6: bool,
}

impl Offloads {
    /// None.
    pub const NONE: Self = Self {
        csum: false,
        tso4: false,
        tso6: false,
        tso_ecn: false,
        uso4: false,
        uso6: false,
    };
    /// All.
    pub const ALL: Self = Self {
        csum: true,
        tso4: true,
        tso6: true,
        tso_ecn: true,
        uso4: true,
        uso6: true,
    };

    /// These without the segmentation of UDP.
    #[must_use]
    pub const fn without_uso(self) -> Self {
        Self {
            uso4: false,
            uso6: false,
            ..self
        }
    }

    fn bits(self) -> u32 {
        [
            (self.csum, libc::TUN_F_CSUM),
            (self.tso4, libc::TUN_F_TSO4),
            (self.tso6, libc::TUN_F_TSO6),
            (self.tso_ecn, libc::TUN_F_TSO_ECN),
            (self.uso4, libc::TUN_F_USO4),
            (self.uso6, libc::TUN_F_USO6),
        ]
        .iter()
        .filter(|(on, _)| *on)
        .fold(0, |bits, (_, bit)| bits | bit)
    }
}

/// Which interface is wanted, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapConfig {
    /// Its name, up to 15 bytes. For a new one, `%d` stands for the first free
    /// number.
    pub name: String,
    /// Whether it is made or adopted.
    pub make: Make,
    /// Queues, 1 to [`MAX_QUEUES`]. More than one need an interface that was
    /// made for several.
    pub queues: usize,
    /// Made for several queues even if only one is opened now.
    pub multi_queue: bool,
    /// Whether it stays when the last queue is closed; `None` leaves it as is.
    pub persistent: Option<bool>,
    /// Whether frames to the host are handed over in batches (`IFF_NAPI`): a
    /// fifth faster for long streams of TCP, a third slower for small frames.
    pub napi: bool,
    /// Length of the virtio-net header in front of each frame.
    pub header: HdrLen,
    /// What may be left out of frames that the kernel hands over. Needs a header.
    pub offloads: Offloads,
    /// Hardware address of the host's side; `None` leaves it to the kernel.
    pub mac: Option<MacAddr>,
    /// Longest packet without the Ethernet header, bytes; `None` leaves it.
    pub mtu: Option<u32>,
    /// Whether the host's side is switched on; `None` leaves it.
    pub up: Option<bool>,
}

impl TapConfig {
    /// An interface of one queue, without header and offloads, switched on.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            make: Make::Either,
            queues: 1,
            multi_queue: false,
            persistent: None,
            napi: false,
            header: HdrLen::NONE,
            offloads: Offloads::NONE,
            mac: None,
            mtu: None,
            up: Some(true),
        }
    }
}

/// Why a TAP could not be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The name cannot be an interface's.
    #[error("TAP name {name:?} is not usable: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A new interface was wanted and one exists.
    #[error("interface {name} exists already; choose another name or adopt it")]
    Exists {
        /// The interface.
        name: String,
    },
    /// An interface was to be adopted and there is none.
    #[error("there is no interface {name} to adopt in this network namespace")]
    Missing {
        /// The interface.
        name: String,
    },
    /// The number of queues is impossible.
    #[error("TAP {name} cannot have {queues} queues; 1 to 256 are possible")]
    Queues {
        /// The interface.
        name: String,
        /// Queues wanted.
        queues: usize,
    },
    /// Offloads without a header.
    #[error("TAP {name}: offloads need a virtio-net header of 10 or 12 bytes")]
    OffloadsNeedHeader {
        /// The interface.
        name: String,
    },
    /// The existing interface is of another kind.
    #[error(
        "interface {name} exists, but not as a TAP with {wanted}; \
         delete it, or ask for what it is"
    )]
    Mismatch {
        /// The interface.
        name: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A descriptor is not a queue of a TAP.
    #[error("the descriptor is no queue of a TAP: {why}")]
    NotATap {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The interface has been deleted. Nothing will ever come again.
    #[error("TAP {name} has been deleted")]
    Gone {
        /// The interface.
        name: String,
    },
    /// The interface is switched off on the host's side.
    #[error("TAP {name} is down; switch it on with: ip link set {name} up")]
    Down {
        /// The interface.
        name: String,
    },
    /// Another refusal of the kernel.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// An open TAP interface with its queues.
#[derive(Debug)]
pub struct Tap {
    name: String,
    made: bool,
    offloads: Offloads,
    header: HdrLen,
    queues: Vec<TapQueue>,
}

impl Tap {
    /// Makes or adopts an interface and opens its queues.
    ///
    /// On an error nothing that this call made is left behind.
    ///
    /// # Errors
    ///
    /// [`TapError`]. Without `CAP_NET_ADMIN` only an interface that belongs to
    /// the user can be adopted.
    pub fn open(config: &TapConfig) -> Result<Self, TapError> {
        let name = &config.name;
        validate(config)?;
        let exists =
            rustix::net::netdevice::name_to_index(control("ask about", name)?, name).is_ok();
        match config.make {
            Make::New if exists => return Err(TapError::Exists { name: name.clone() }),
            Make::Adopt if !exists => return Err(TapError::Missing { name: name.clone() }),
            _ => {}
        }
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
        if config.queues > 1 || config.multi_queue {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        if config.napi {
            flags |= libc::IFF_NAPI;
        }
        if !config.header.is_none() {
            flags |= libc::IFF_VNET_HDR;
        }
        let exclusive = if exists { 0 } else { libc::IFF_TUN_EXCL };
        let first = attach(name, flags | exclusive, exists)?;
        let mut tap = Self {
            name: first.1,
            made: !exists,
            offloads: Offloads::NONE,
            header: config.header,
            queues: Vec::with_capacity(config.queues),
        };
        tap.add(first.0)?;
        while tap.queues.len() < config.queues {
            let (fd, _) = attach(&tap.name, flags, true)?;
            tap.add(fd)?;
        }
        tap.set_offloads(config.offloads)?;
        tap.set_up(config)?;
        // Last: what fails before leaves nothing behind.
        if let (Some(keep), Some(queue)) = (config.persistent, tap.queues.first()) {
            sys::number(queue.as_fd(), sys::Number::Persist, u32::from(keep))
                .map_err(|e| OsError::new("make persistent", format!("TAP {}", tap.name), e))?;
        }
        Ok(tap)
    }

    /// Takes over queues that somebody else opened. The header is the one they
    /// were given; offloads stay as they are and are reported as none.
    ///
    /// # Errors
    ///
    /// [`TapError::NotATap`] if there are none, if one of them is something
    /// else, or if they belong to different interfaces.
    pub fn from_fds(fds: Vec<OwnedFd>) -> Result<Self, TapError> {
        let mut tap: Option<Self> = None;
        for fd in fds {
            let (name, flags) = sys::get_iff(fd.as_fd()).map_err(|e| not_a_tap(&e))?;
            let flags = i32::from(flags);
            if flags & libc::IFF_TAP == 0 || flags & libc::IFF_NO_PI == 0 {
                return Err(TapError::NotATap {
                    why: "it carries IP packets (TUN) or packet information",
                });
            }
            let header = match flags & libc::IFF_VNET_HDR {
                0 => HdrLen::NONE,
                _ => header_of(&fd)?,
            };
            rustix::io::ioctl_fionbio(&fd, true)
                .map_err(|e| OsError::new("make non-blocking", format!("TAP {name}"), e))?;
            let tap = tap.get_or_insert_with(|| Self {
                name: name.clone(),
                made: false,
                offloads: Offloads::NONE,
                header,
                queues: Vec::new(),
            });
            if tap.name != name || tap.header != header {
                return Err(TapError::NotATap {
                    why: "the queues are not of one interface with one header length",
                });
            }
            tap.queues.push(TapQueue::new(fd, tap.name.clone(), header));
        }
        tap.ok_or(TapError::NotATap {
            why: "there is none",
        })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether [`Tap::open`] made it.
    #[must_use]
    pub fn made(&self) -> bool {
        self.made
    }

    /// Length of the header in front of each frame.
    #[must_use]
    pub fn header(&self) -> HdrLen {
        self.header
    }

    /// The offloads in force.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// The queues.
    #[must_use]
    pub fn queues(&self) -> &[TapQueue] {
        &self.queues
    }

    /// The queues, each to be used where it is wanted. The interface stays as
    /// long as one of them (or as it is persistent).
    #[must_use]
    pub fn into_queues(self) -> Vec<TapQueue> {
        self.queues
    }

    /// Hardware address of the host's side.
    ///
    /// # Errors
    ///
    /// [`TapError::Os`]: the interface is gone or in another namespace.
    pub fn mac(&self) -> Result<MacAddr, TapError> {
        let mac = control("ask about", &self.name)?.mac(&self.name);
        Ok(MacAddr(mac.map_err(|e| self.os("read the address of", e))?))
    }

    /// Its longest packet, bytes.
    ///
    /// # Errors
    ///
    /// As for [`Tap::mac`].
    pub fn mtu(&self) -> Result<u32, TapError> {
        let mtu = control("ask about", &self.name)?.mtu(&self.name);
        Ok(mtu.map_err(|e| self.os("read the MTU of", e))?)
    }

    /// Changes what the kernel may leave out; what it agreed to.
    ///
    /// # Errors
    ///
    /// [`TapError::OffloadsNeedHeader`], or the kernel's refusal.
    pub fn set_offloads(&mut self, wanted: Offloads) -> Result<Offloads, TapError> {
        if self.header.is_none() {
            if wanted != Offloads::NONE {
                return Err(TapError::OffloadsNeedHeader {
                    name: self.name.clone(),
                });
            }
            return Ok(wanted);
        }
        let Some(queue) = self.queues.first() else {
            return Ok(self.offloads);
        };
        // Before 6.2 the kernel knows no segmentation of UDP, and refuses all
        // that it does not know.
        let mut refused = None;
        for try_this in [wanted, wanted.without_uso()] {
            match sys::number(queue.as_fd(), sys::Number::Offload, try_this.bits()) {
                Ok(()) => {
                    self.offloads = try_this;
                    return Ok(try_this);
                }
                Err(e) => refused = Some(e),
            }
        }
        let e = refused.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
        Err(self.os("set the offloads of", e).into())
    }

    fn add(&mut self, fd: OwnedFd) -> Result<(), TapError> {
        if !self.header.is_none() {
            let len = i32::try_from(self.header.get()).unwrap_or(0);
            sys::int_at(fd.as_fd(), sys::IntAt::SetHdrLen, len)
                .and_then(|_| sys::int_at(fd.as_fd(), sys::IntAt::SetLittleEndian, 1))
                .map_err(|e| self.os("set the header length of", e))?;
        }
        let queue = TapQueue::new(fd, self.name.clone(), self.header);
        self.queues.push(queue);
        Ok(())
    }

    fn set_up(&self, config: &TapConfig) -> Result<(), TapError> {
        let name = &self.name;
        let control = control("configure", name)?;
        if let Some(mac) = config.mac {
            control
                .set_mac(name, mac.0)
                .map_err(|e| self.os("set the address of", e))?;
        }
        if let Some(mtu) = config.mtu {
            control
                .set_mtu(name, mtu)
                .map_err(|e| self.os("set the MTU of", e))?;
        }
        if let Some(up) = config.up {
            control
                .set_up(name, up)
                .map_err(|e| self.os("switch on or off", e))?;
        }
        Ok(())
    }

    fn os(&self, what: &'static str, e: io::Error) -> OsError {
        OsError::new(what, format!("TAP {}", self.name), e)
    }
}

fn validate(config: &TapConfig) -> Result<(), TapError> {
    let name = config.name.clone();
    if let Some(why) = bad_name(&name) {
        return Err(TapError::Name { name, why });
    }
    let percents = name.matches('%').count();
    if percents > 0 && (percents > 1 || !name.contains("%d") || config.make == Make::Adopt) {
        let why = "a percent sign is allowed only as one %d, for an interface to be made";
        return Err(TapError::Name { name, why });
    }
    if config.queues == 0 || config.queues > MAX_QUEUES {
        let queues = config.queues;
        return Err(TapError::Queues { name, queues });
    }
    if config.header.is_none() && config.offloads != Offloads::NONE {
        return Err(TapError::OffloadsNeedHeader { name });
    }
    Ok(())
}

/// Opens the device and attaches it; the interface's full name.
fn attach(name: &str, flags: i32, exists: bool) -> Result<(OwnedFd, String), TapError> {
    let object = || format!("TAP {name}");
    let open = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", open, Mode::empty()).map_err(|e| {
        let e = OsError::new("open /dev/net/tun for", object(), e);
        match e.errno() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
                e.hint("load the module tun, or give the container the device")
            }
            _ => e,
        }
    })?;
    // The flags fit: the highest is bit 15.
    let bits = u16::try_from(flags).unwrap_or(u16::MAX);
    match sys::set_iff(fd.as_fd(), name, bits) {
        Ok(full) => Ok((fd, full)),
        Err(e) => Err(match e.raw_os_error() {
            // Made by somebody else between the question and now.
            Some(libc::EBUSY) if flags & libc::IFF_TUN_EXCL != 0 => TapError::Exists {
                name: name.to_owned(),
            },
            Some(libc::EINVAL) if exists => TapError::Mismatch {
                name: name.to_owned(),
                wanted: match flags & libc::IFF_MULTI_QUEUE {
                    0 => "one queue",
                    _ => "several queues",
                },
            },
            Some(libc::EBUSY) if exists => OsError::new("attach to", object(), e)
                .hint("another program holds its queues; end it, or make it multi-queue")
                .into(),
            Some(libc::E2BIG) => OsError::new("open another queue of", object(), e)
                .hint("it has as many queues as the kernel allows")
                .into(),
            _ => OsError::new(if exists { "attach to" } else { "create" }, object(), e).into(),
        }),
    }
}

fn header_of(fd: &OwnedFd) -> Result<HdrLen, TapError> {
    let len = sys::int_at(fd.as_fd(), sys::IntAt::GetHdrLen, 0).map_err(|e| not_a_tap(&e))?;
    u32::try_from(len)
        .ok()
        .and_then(|len| HdrLen::new(len).ok())
        .ok_or(TapError::NotATap {
            why: "its virtio-net header is neither 10 nor 12 bytes long",
        })
}

fn not_a_tap(e: &io::Error) -> TapError {
    TapError::NotATap {
        why: match e.raw_os_error() {
            Some(libc::EBADFD) => "it is attached to no interface",
            _ => "it is another kind of file",
        },
    }
}

fn control(what: &'static str, name: &str) -> Result<Control, TapError> {
    Control::new().map_err(|e| OsError::new(what, format!("TAP {name}"), e).into())
}

/// Whether this kernel's TAPs know virtio-net headers and several queues.
///
/// # Errors
///
/// [`TapError::Os`] if `/dev/net/tun` cannot be opened or asked.
pub fn supported() -> Result<bool, TapError> {
    let os = |e: io::Error| OsError::new("ask", "/dev/net/tun", e);
    let fd = rustix::fs::open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| os(e.into()))?;
    let features = sys::int_at(fd.as_fd(), sys::IntAt::GetFeatures, 0).map_err(os)?;
    let need = libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    Ok(features & need == need)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_wishes_are_refused_before_anything_is_made() {
        let with = |change: &dyn Fn(&mut TapConfig)| {
            let mut config = TapConfig::new("nvx0");
            change(&mut config);
            Tap::open(&config).unwrap_err().to_string()
        };
        assert!(with(&|c| c.name = "a/b".into()).contains("slash"));
        assert!(with(&|c| c.name = "a%s".into()).contains("%d"));
        assert!(with(&|c| c.name = "%d%d".into()).contains("one %d"));
        assert!(with(&|c| c.queues = 0).contains("0 queues"));
        assert!(with(&|c| c.queues = 257).contains("257 queues"));
        assert!(with(&|c| c.offloads = Offloads::ALL).contains("header"));
        let why = "a percent sign is allowed only as one %d, for an interface to be made";
        let adopt = with(&|c| (c.name, c.make) = ("a%d".into(), Make::Adopt));
        assert!(adopt.contains(why));
    }

    #[test]
    fn only_taps_are_taken_over() {
        assert!(matches!(
            Tap::from_fds(vec![]),
            Err(TapError::NotATap { .. })
        ));
        let null = std::fs::File::open("/dev/null").unwrap();
        let e = Tap::from_fds(vec![null.into()]).unwrap_err();
        assert!(e.to_string().contains("another kind of file"), "{e}");
    }
}
