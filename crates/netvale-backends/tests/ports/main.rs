//! Back ends against the kernel, each in network namespaces of its own.
#![cfg(all(
    feature = "tap",
    feature = "packet",
    feature = "netlink",
    feature = "vxlan",
    feature = "pcap"
))]

mod common;
mod netlink;
mod packet;
mod pcap;
mod ring;
mod tap;
mod tcp;
mod vxlan;
