//! The `netvale` tool: every command of the project in one binary.
//!
//! The first word selects what to do: either a subcommand
//! (`netvale pkt-gen ...`) or the name the binary was started under
//! (`pkt-gen ...`, through a link), so that scripts written for netmap's own
//! tools keep working.
//!
//! Each command is a module with three parts: `Args` (what was typed), a
//! `Config` made from it by a pure function (what it means) and `run`. Data
//! goes to stdout, messages to stderr, and the exit status is one of
//! [`exit::Code`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod bench;
mod bridge;
mod capture;
mod cli;
mod control;
mod demo;
mod doctor;
mod exit;
mod failure;
mod fdb;
mod ls;
mod output;
mod pkt_gen;
mod run;
mod server_cmd;
mod server_log;
mod signals;
mod stats;
mod units;
mod vale_ctl;

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    let tool = cli::Tool::from_argv0(argv.first());
    match cli::main(tool, argv) {
        Ok(code) => code,
        Err(failure) => failure.report(tool.name()),
    }
}
