//! Real interfaces on the real kernel, through the program and its server, in
//! network namespaces of the tests' own.
#![forbid(unsafe_code)]

#[cfg(test)]
#[expect(dead_code, reason = "for tests to come")]
mod host;
#[cfg(test)]
mod matrix;
