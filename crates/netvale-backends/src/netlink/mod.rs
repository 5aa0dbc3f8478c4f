//! Interfaces, as the kernel tells them over rtnetlink and ethtool.
//!
//! 1. [`Netlink`] asks for links, makes, changes and deletes them. It blocks,
//!    for as long as the kernel takes to answer.
//! 2. [`LinkWatch`] tells of changes; its descriptor is for `poll`. Open it
//!    before the first [`Netlink::links`], so that nothing is missed between,
//!    and ask again after [`LinkEvent::Lost`].
//! 3. [`ethtool`] tells and sets what drivers do: rings, channels, offloads.
//!
//! Each belongs to the network namespace of the thread that opened it.

pub mod ethtool;
mod socket;
mod watch;

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netvale_wire::mac::MacAddr;

use crate::OsError;
use crate::net::bad_name;
use socket::Socket;

pub use watch::{LinkEvent, LinkWatch};

/// Why the kernel was not asked, or what it refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The name cannot be an interface's.
    #[error("interface name {name:?} is not usable: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no such interface.
    #[error("there is no interface {name} in this network namespace; see: ip link")]
    Missing {
        /// Its name or number.
        name: String,
    },
    /// There is one of that name.
    #[error("interface {name} exists already; choose another name")]
    Exists {
        /// The name.
        name: String,
    },
    /// The kernel refused, with or without an explanation.
    #[error("{error}{said}")]
    Refused {
        /// What was asked.
        #[source]
        error: OsError,
        /// The kernel's explanation, after a colon; or nothing.
        said: String,
    },
    /// The list changed all the time while it was read.
    #[error("cannot {what}: it changes too fast; try again later")]
    Restless {
        /// What was asked.
        what: &'static str,
    },
    /// The kernel's message has a form that is not known here.
    #[error("the kernel's answer is not understood ({why}); this kernel may be too new")]
    Unreadable {
        /// What is wrong with it.
        why: String,
    },
    /// A socket failed.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// Whether packets can pass an interface (RFC 2863).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OperState {
    /// The driver does not say; it usually works.
    #[default]
    Unknown,
    /// They pass.
    Up,
    /// They do not.
    Down,
    /// They do not, because of what is below.
    LowerDown,
    /// It waits for something else.
    Dormant,
    /// It is tested.
    Testing,
    /// Some of it is missing.
    NotPresent,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its number, which stays when the name changes.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it has one of Ethernet's kind.
    pub mac: Option<MacAddr>,
    /// Longest packet, bytes.
    pub mtu: u32,
    /// All flags (`IFF_*`).
    pub flags: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether its cable or peer is there.
    pub carrier: bool,
    /// Whether packets can pass.
    pub state: OperState,
    /// `veth`, `bridge`, `tun` and so on; none for hardware.
    pub kind: Option<String>,
    /// The interface below or at the other end.
    pub lower: Option<u32>,
    /// Which namespace `lower` is in, if another: a number that is valid in
    /// this one.
    pub lower_netns: Option<i32>,
    /// The bridge (or bond) that it belongs to.
    pub controller: Option<u32>,
    /// Transmit queues.
    pub tx_queues: u32,
    /// Receive queues.
    pub rx_queues: u32,
}

/// What kind of link to make.
#[derive(Debug, Clone, Copy)]
pub enum NewLink<'a> {
    /// A cable with another end.
    Veth {
        /// The other end's name.
        peer: &'a str,
        /// The other end's namespace, if another.
        peer_netns: Option<BorrowedFd<'a>>,
        /// Queues in each direction at both ends; 0 leaves it to the kernel.
        queues: u32,
    },
    /// A bridge without ports.
    Bridge,
    /// An interface that swallows everything.
    Dummy,
}

/// What is to change; `None` leaves it as is.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange<'a> {
    /// Switched on or off.
    pub up: Option<bool>,
    /// Longest packet, bytes.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<MacAddr>,
    /// Name; the kernel may want the interface down for it.
    pub name: Option<&'a str>,
    /// The bridge to join, or 0 to leave it.
    pub controller: Option<u32>,
    /// The namespace to move to.
    pub netns: Option<BorrowedFd<'a>>,
}

/// A connection to the kernel's interfaces.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens one, for the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Os`]: out of descriptors.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::open(0, None)?,
        })
    }

    /// All interfaces.
    ///
    /// # Errors
    ///
    /// [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self
            .socket
            .ask("list", "the interfaces", message, NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// The interface of this name.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Missing`] if there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.one(name, message)
    }

    /// The interface of this number.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Missing`] if there is none.
    pub fn link_at(&mut self, index: u32) -> Result<Link, NetlinkError> {
        self.one(&format!("number {index}"), message_for(index))
    }

    /// Makes an interface, switched off.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Exists`] or the kernel's refusal.
    pub fn create(&mut self, name: &str, kind: NewLink<'_>) -> Result<Link, NetlinkError> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let info = match kind {
            NewLink::Bridge => vec![LinkInfo::Kind(InfoKind::Bridge)],
            NewLink::Dummy => vec![LinkInfo::Kind(InfoKind::Dummy)],
            NewLink::Veth {
                peer,
                peer_netns,
                queues,
            } => {
                check_name(peer)?;
                let mut other = LinkMessage::default();
                other
                    .attributes
                    .push(LinkAttribute::IfName(peer.to_owned()));
                if let Some(netns) = peer_netns {
                    let fd = netns.as_raw_fd();
                    other.attributes.push(LinkAttribute::NetNsFd(fd));
                }
                if queues > 0 {
                    for end in [&mut message, &mut other] {
                        end.attributes.push(LinkAttribute::NumTxQueues(queues));
                        end.attributes.push(LinkAttribute::NumRxQueues(queues));
                    }
                }
                vec![
                    LinkInfo::Kind(InfoKind::Veth),
                    LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
                ]
            }
        };
        message.attributes.push(LinkAttribute::LinkInfo(info));
        let message = RouteNetlinkMessage::NewLink(message);
        self.socket
            .ask("create interface", name, message, NLM_F_CREATE | NLM_F_EXCL)?;
        self.link(name)
    }

    /// Deletes an interface.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Missing`] or the kernel's refusal: hardware cannot be
    /// deleted.
    pub fn delete(&mut self, index: u32) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelLink(message_for(index));
        let object = format!("number {index}");
        self.socket.ask("delete interface", &object, message, 0)?;
        Ok(())
    }

    /// Changes an interface, all at once as far as the kernel can.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Missing`] or the kernel's refusal; changes before the
    /// refused one may have been made.
    pub fn change(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        let mut message = message_for(index);
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up {
                LinkFlags::Up
            } else {
                LinkFlags::empty()
            };
        }
        let attributes = &mut message.attributes;
        if let Some(name) = change.name {
            check_name(name)?;
            attributes.push(LinkAttribute::IfName(name.to_owned()));
        }
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.mac.map(|m| LinkAttribute::Address(m.0.to_vec())));
        attributes.extend(change.controller.map(LinkAttribute::Controller));
        attributes.extend(change.netns.map(|n| LinkAttribute::NetNsFd(n.as_raw_fd())));
        let object = format!("number {index}");
        let message = RouteNetlinkMessage::SetLink(message);
        self.socket.ask("change interface", &object, message, 0)?;
        Ok(())
    }

    fn one(&mut self, object: &str, message: LinkMessage) -> Result<Link, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(message);
        let answers = self.socket.ask("ask about interface", object, message, 0)?;
        answers
            .into_iter()
            .find_map(link_of)
            .ok_or_else(|| NetlinkError::Missing {
                name: object.to_owned(),
            })
    }
}

fn message_for(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn check_name(name: &str) -> Result<(), NetlinkError> {
    match bad_name(name) {
        None => Ok(()),
        Some(why) => Err(NetlinkError::Name {
            name: name.to_owned(),
            why,
        }),
    }
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(m) | RouteNetlinkMessage::DelLink(m) => read(m),
        _ => None,
    }
}

/// The link that a message is about as a whole. `None` if it tells part of it:
/// what a bridge has to do with it ("deleted" when it leaves), or what a
/// wireless driver has to say, which comes without a name.
fn read(message: LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        flags: flags.bits(),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) if bytes.len() == 6 => {
                link.mac = MacAddr::from_slice(&bytes);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::OperState(state) => link.state = state_of(state),
            LinkAttribute::Link(index) => link.lower = Some(index),
            LinkAttribute::LinkNetNsId(id) => link.lower_netns = Some(id),
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::NumTxQueues(n) => link.tx_queues = n,
            LinkAttribute::NumRxQueues(n) => link.rx_queues = n,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn state_of(state: State) -> OperState {
    match state {
        State::Up => OperState::Up,
        State::Down => OperState::Down,
        State::LowerLayerDown => OperState::LowerDown,
        State::Dormant => OperState::Dormant,
        State::Testing => OperState::Testing,
        State::NotPresent => OperState::NotPresent,
        _ => OperState::Unknown,
    }
}
