//! Back ends against the kernel, each in network namespaces of its own.
#![cfg(all(
    feature = "tap",
    feature = "packet",
    feature = "netlink",
    feature = "vxlan",
    feature = "pcap"
))]
#![forbid(unsafe_code)]

#[cfg(test)]
mod common;
#[cfg(test)]
mod netlink;
#[cfg(test)]
mod packet;
#[cfg(test)]
mod pcap;
#[cfg(test)]
mod ring;
#[cfg(test)]
mod segments;
#[cfg(test)]
mod tap;
#[cfg(test)]
mod tcp;
#[cfg(test)]
mod vxlan;
#[cfg(test)]
mod whole;
