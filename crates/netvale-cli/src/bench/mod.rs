//! `netvale bench`: measurements with machine-readable results.

use std::process::ExitCode;

/// Arguments of `netvale bench`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchArgs {}

/// Runs the benchmarks.
pub(crate) fn run(_args: &BenchArgs) -> Result<ExitCode, netvale::Error> {
    Err(netvale::Error::new(
        netvale::ErrorKind::Unavailable,
        "this build has no benchmarks",
    ))
}
