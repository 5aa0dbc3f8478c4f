//! `netvale run`: starts an unmodified netmap program on this namespace.

mod elf;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use netvale::{Error, ErrorKind};

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::{Failure, Result, io_error};

/// The library that stands between the program and the C library.
const LIBRARY: &str = "libnetvale_preload.so";

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    netvale run -- pkt-gen -i vale0:a -f tx\n  \
    netvale run --stats -- bridge -i vale0:b -i vale1:b\n  \
    netvale run -- sh -c 'vale-ctl; lb -i vale0:c -p 4'\n\n\
    The program and all that it starts find /dev/netmap. Programs that are\n\
    linked statically or run with another user's rights cannot be helped, and\n\
    this says so. The exit status is the program's own.")]
pub(crate) struct Args {
    /// When a port is closed, tell its counters on standard error
    #[arg(long)]
    stats: bool,
    /// Do not explain on standard error why a request failed
    #[arg(long, short)]
    quiet: bool,
    /// Start the program even if the library cannot get into it
    #[arg(long)]
    force: bool,
    /// The program, and its arguments
    #[arg(
        value_name = "PROGRAM",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// Runs `run`: only comes back if the program could not be started.
pub(crate) fn run(args: &Args, place: &Place) -> Result<Code> {
    if place.is_embedded() {
        return Err(Failure::usage(
            "--embedded has no server, and a program of its own process needs one",
        ));
    }
    let (program, rest) = args
        .command
        .split_first()
        .ok_or_else(|| Failure::usage("which program?"))?;
    let library = library()?;
    let name = program.to_string_lossy();
    let path = elf::find(program).ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, format!("{name}: no such program"))
            .with_hint("give its path, or put its directory into PATH")
    })?;
    let obstacle = elf::inspect(&path).map_err(|e| io_error(&format!("cannot read {name}"), &e))?;
    if let Some(obstacle) = obstacle {
        let (what, advice) = obstacle.explain();
        if obstacle.is_fatal() && !args.force {
            let error = Error::new(ErrorKind::Unavailable, format!("{name} {what}"));
            return Err(error.with_hint(advice).into());
        }
        if !args.quiet {
            eprintln!("netvale: {name} {what}\nhint: {advice}");
        }
    }
    let mut command = Command::new(&path);
    command.arg0(program).args(rest);
    command.env("LD_PRELOAD", preloads(&library));
    if let Ok(exe) = std::env::current_exe() {
        command.env("NETVALE_SERVER", exe);
    }
    if let Some(dir) = place.dir() {
        let dir = std::path::absolute(dir)
            .map_err(|e| io_error(&format!("cannot use {}", dir.display()), &e))?;
        command.env("NETVALE_NS", dir);
    }
    if place.is_isolated() {
        command.env(netvale::registration::ISOLATED_VAR, "1");
    }
    if args.stats {
        command.env("NETVALE_STATS", "1");
    }
    if !args.quiet {
        command.env("NETVALE_EXPLAIN", "1");
    }
    let error = command.exec();
    Err(io_error(&format!("cannot start {name}"), &error).into())
}

/// The library first, then what was to be loaded anyway.
fn preloads(library: &std::path::Path) -> OsString {
    let mut all = library.as_os_str().to_owned();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|v| !v.is_empty()) {
        all.push(":");
        all.push(others);
    }
    all
}

/// Where the library is: beside this program, or where it was installed.
pub(crate) fn library() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("NETVALE_PRELOAD").filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let exe =
        std::env::current_exe().map_err(|e| io_error("cannot find this program's own file", &e))?;
    let dirs = exe.ancestors().skip(1).take(2);
    let near = dirs.flat_map(|d| [d.join(LIBRARY), d.join("lib/netvale").join(LIBRARY)]);
    near.into_iter().find(|p| p.is_file()).ok_or_else(|| {
        Error::new(
            ErrorKind::Unavailable,
            format!("{LIBRARY} is neither beside {} nor installed", exe.display()),
        )
        .with_hint("build it too (cargo build --release -p netvale-preload), or name it in NETVALE_PRELOAD")
    })
}
