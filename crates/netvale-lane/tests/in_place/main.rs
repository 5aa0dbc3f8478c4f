//! Frames between a cable and rings, by AF_XDP in the rings' own buffers.
#![allow(missing_docs, reason = "tests")]

#[cfg(test)]
mod bed;
#[cfg(test)]
mod checksums;
#[cfg(test)]
mod death;
#[cfg(test)]
mod frames;
