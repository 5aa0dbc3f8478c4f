//! A server in a directory of its own, asked as clients ask it.
#![forbid(unsafe_code)]

#[cfg(test)]
mod bed;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod isolated;
#[cfg(test)]
mod life;
#[cfg(test)]
mod netmap;
#[cfg(test)]
mod process;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod wakes;
