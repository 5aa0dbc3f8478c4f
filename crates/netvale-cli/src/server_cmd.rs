//! `netvale server`: runs a namespace's server in the foreground.

use std::process::ExitCode;

/// Arguments of `netvale server`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServerArgs {}

/// Runs the server until it is told to end.
pub(crate) fn run(_args: &ServerArgs) -> Result<ExitCode, netvale::Error> {
    Err(netvale::Error::new(
        netvale::ErrorKind::Unavailable,
        "this build has no server",
    ))
}
