//! The project's automation.
//!
//! * `cargo xtask check` proves the rules that no compiler checks: layers,
//!   where unsafe code may be, licences, orphaned files, forbidden text.
//! * `cargo xtask ci` is the local gate: formatting, lints, documentation and
//!   the checks above. The tests themselves are run by `./test`.
//! * `cargo xtask install` builds the product and installs it below a prefix.

#![forbid(unsafe_code)]

mod check;
mod ci;
mod failure;
mod install;
mod lexer;
mod metadata;
mod policy;
mod spdx;
mod tree;

use std::process::ExitCode;

use crate::failure::Failure;

const USAGE: &str = "\
usage: cargo xtask <command>

commands:
  check   check the rules of CONTRIBUTING.md that no compiler checks
  ci      run the gate: fmt, clippy, doc, check
  install --prefix DIR [--release]
          build programs, libraries, headers and manual pages, and put them there
  help    print this text

exit status: 0 all is well, 1 a rule is broken, 2 wrong usage or no answer
";

/// The answer is "no": a rule is broken or a step of the gate failed.
const EXIT_NEGATIVE: u8 = 1;
/// There is no answer: wrong usage, or a tool could not be run.
const EXIT_NO_ANSWER: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["check"] => check::run(),
        ["ci"] => ci::run(),
        ["install", args @ ..] => match install::Args::parse(args) {
            Some(args) => install::run(&args),
            None => {
                eprint!("xtask: install needs --prefix DIR\n\n{USAGE}");
                return ExitCode::from(EXIT_NO_ANSWER);
            }
        },
        ["help" | "-h" | "--help"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [] => {
            eprint!("{USAGE}");
            return ExitCode::from(EXIT_NO_ANSWER);
        }
        [other, ..] => {
            eprintln!("xtask: cannot understand '{other}'\n\n{USAGE}");
            return ExitCode::from(EXIT_NO_ANSWER);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_NEGATIVE),
        Err(error) => {
            report(&error);
            ExitCode::from(EXIT_NO_ANSWER)
        }
    }
}

/// Prints an error and what caused it on one line.
fn report(error: &Failure) {
    let mut line = format!("xtask: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        line.push_str(": ");
        line.push_str(&inner.to_string());
        cause = inner.source();
    }
    eprintln!("{line}");
}
