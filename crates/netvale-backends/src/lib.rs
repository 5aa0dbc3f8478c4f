//! What a port can be plugged into, one module and one feature each.
//!
//! Every module is a mechanism: it moves frames between memory and something
//! outside, and knows nothing of switches and registrations.
#![deny(unsafe_code)]

#[cfg(feature = "af_xdp")]
pub mod af_xdp;
pub mod batch;
#[cfg(feature = "bpf")]
pub mod bpf;
#[cfg(feature = "host")]
pub mod host;
#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "vxlan",
    feature = "netlink"
))]
mod net;
#[cfg(feature = "netlink")]
pub mod netlink;
#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "vxlan",
    feature = "netlink",
    feature = "bpf"
))]
mod oserr;
#[cfg(feature = "packet")]
pub mod packet;
#[cfg(feature = "pcap")]
pub mod pcap;
#[cfg(feature = "af_xdp")]
pub mod probe;
#[cfg(feature = "tap")]
pub mod tap;
#[cfg(feature = "vxlan")]
pub mod vxlan;

#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "vxlan",
    feature = "netlink"
))]
pub use net::sys::netns_cookie;
#[cfg(any(
    feature = "tap",
    feature = "packet",
    feature = "vxlan",
    feature = "netlink",
    feature = "bpf"
))]
pub use oserr::OsError;
