//! Who gets what, what is refused with which error, and that everything comes
//! back.
#![expect(
    clippy::assertions_on_result_states,
    reason = "only whether it was refused matters"
)]
#![allow(missing_docs, reason = "tests")]

#[cfg(test)]
mod arena;
#[cfg(test)]
mod bed;
#[cfg(test)]
#[path = "../common/mod.rs"]
mod common;
#[cfg(test)]
mod death;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod monitors;
#[cfg(test)]
mod nr;
#[cfg(test)]
mod pipes;
#[cfg(test)]
mod ports;
