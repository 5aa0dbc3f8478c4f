//! Real interfaces on the real kernel, through the program and its server, in
//! network namespaces of the tests' own.
#![forbid(unsafe_code)]

#[cfg(test)]
mod cycles;
#[cfg(test)]
mod host;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod large;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod privileges;
#[cfg(test)]
mod station;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod vanish;
#[cfg(test)]
mod vlan;
