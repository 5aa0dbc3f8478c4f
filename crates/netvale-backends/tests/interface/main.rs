//! AF_XDP, the host stack and probes, on cables between network namespaces.
#![cfg(all(
    feature = "af_xdp",
    feature = "host",
    feature = "tap",
    feature = "packet"
))]
#![forbid(unsafe_code)]

#[cfg(test)]
mod bed;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod host;
#[cfg(test)]
mod life;
#[cfg(test)]
mod probe;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod tags;
