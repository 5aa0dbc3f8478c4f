//! Every byte layout netvale agrees on with somebody else.
//!
//! This crate is data only: it opens nothing, allocates only for names and
//! control messages, and never trusts the bytes it is given. All parsers are
//! total: any input yields a value or an error, never a panic.
//!
//! | module | layout | agreed with |
//! |---|---|---|
//! | [`abi`] | slots, rings, interface descriptors, ioctl requests | netmap programs (`net/netmap.h`, API 14) |
//! | [`name`] | port names such as `vale0:a` or `netmap:eth0-1/x` | users, libnetmap |
//! | [`mac`], [`eth`], [`ip`], [`l4`] | packet headers | the network (IEEE 802.3, RFC 791, 8200, 768, 9293) |
//! | [`checksum`] | Internet checksums | RFC 1071, RFC 1624 |
//! | [`vnet`], [`offload`] | virtio-net header and what it asks for | guests (virtio 1.2, section 5.1.6) |
//! | `proto` (feature, on by default) | control messages | netvale's own clients and server |
//!
//! ```
//! use netvale_wire::name::{PortKind, PortSpec, RingSel};
//!
//! let spec = PortSpec::parse("netmap:eth0-2/x").unwrap();
//! assert_eq!(spec.kind, PortKind::Nic { name: "eth0".into() });
//! assert_eq!(spec.rings, RingSel::One(2));
//! assert!(spec.flags.exclusive);
//! ```

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod abi;
pub mod checksum;
pub mod eth;
pub mod ip;
pub mod l4;
pub mod mac;
pub mod name;
pub mod offload;
#[cfg(feature = "proto")]
pub mod proto;
pub mod vnet;

mod bytes;

pub use bytes::HdrError;
