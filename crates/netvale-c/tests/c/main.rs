//! The C side: headers, manual pages, and C programs with the library.
//!
//! Nothing of the Rust crate is used here, so that no symbol of the library
//! gets into this program. What is tested are files and C programs.
#![forbid(unsafe_code)]

#[cfg(test)]
mod cc;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod firewall;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod man;
