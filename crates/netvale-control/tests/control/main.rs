//! The control ABI against a made-up host and a made-up memory.
#![forbid(unsafe_code)]

#[cfg(test)]
mod fake;
#[cfg(test)]
mod kloop;
#[cfg(test)]
mod legacy;
#[cfg(test)]
mod options;
#[cfg(test)]
mod prologue;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod register;
#[cfg(test)]
mod requests;
