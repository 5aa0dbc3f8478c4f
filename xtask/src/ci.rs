//! The local gate. What it accepts, the project's CI accepts.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::{check, tree};

/// The last step, which runs in this process.
const CHECK: &str = "cargo xtask check";

/// A cargo command of the gate.
struct Step {
    /// Arguments of cargo.
    args: &'static [&'static str],
    /// Whether the command resolves dependencies, so that `--locked` applies.
    resolves: bool,
    /// Arguments that stand behind `--locked`.
    tail: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// What to do when it fails.
    fix: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        args: &["fmt", "--all", "--check"],
        resolves: false,
        tail: &[],
        env: &[],
        fix: "cargo fmt --all",
    },
    Step {
        args: &["clippy", "--workspace", "--all-targets"],
        resolves: true,
        tail: &["--", "-D", "warnings"],
        env: &[],
        fix: "cargo clippy --workspace --all-targets --fix --allow-dirty, then the rest by hand",
    },
    // Libraries only: the program is called `netvale` like the library, and
    // their pages would overwrite each other.
    Step {
        args: &["doc", "--workspace", "--no-deps", "--lib"],
        resolves: true,
        tail: &[],
        env: &[("RUSTDOCFLAGS", "-D warnings")],
        fix: "correct the comments named above, then \
              RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --lib",
    },
];

/// Runs all steps and stops at the first that fails.
///
/// # Errors
///
/// When a step cannot be run at all.
pub(crate) fn run() -> Result<bool, Failure> {
    let root = tree::root();
    let locked = tree::is_tracked(&root, "Cargo.lock");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let begin = Instant::now();
    for step in STEPS {
        let args = arguments(step, locked);
        let shown = shown(step, &args);
        println!("==> {shown}");
        let start = Instant::now();
        let status = Command::new(&cargo)
            .current_dir(&root)
            .args(&args)
            .envs(step.env.iter().copied())
            .status()
            .map_err(|source| Failure::Spawn {
                command: shown.clone(),
                source,
            })?;
        if !conclude(&shown, status.success(), start.elapsed(), step.fix) {
            return Ok(false);
        }
    }
    println!("==> {CHECK}");
    let start = Instant::now();
    let good = check::run()?;
    let fix = "do what the last part of each line says, then cargo xtask check";
    if !conclude(CHECK, good, start.elapsed(), fix) {
        return Ok(false);
    }
    println!("gate passed in {:.1} s", begin.elapsed().as_secs_f64());
    Ok(true)
}

fn arguments(step: &Step, locked: bool) -> Vec<&'static str> {
    let mut args = step.args.to_vec();
    if locked && step.resolves {
        args.push("--locked");
    }
    args.extend(step.tail);
    args
}

/// The command as one would type it.
fn shown(step: &Step, args: &[&str]) -> String {
    let mut line = String::new();
    for (name, value) in step.env {
        line.push_str(&format!("{name}='{value}' "));
    }
    line.push_str("cargo ");
    line.push_str(&args.join(" "));
    line
}

fn conclude(shown: &str, good: bool, took: Duration, fix: &str) -> bool {
    let took = took.as_secs_f64();
    if good {
        println!("    ok in {took:.1} s");
    } else {
        println!("    FAILED in {took:.1} s: {shown}\n    fix: {fix}");
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_goes_before_the_arguments_of_the_compiler() {
        let clippy = &STEPS[1];
        assert_eq!(
            arguments(clippy, true),
            [
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings"
            ]
        );
        assert!(!arguments(clippy, false).contains(&"--locked"));
        assert!(!arguments(&STEPS[0], true).contains(&"--locked"));
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let doc = &STEPS[2];
        assert_eq!(
            shown(doc, &arguments(doc, false)),
            "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --lib"
        );
    }
}
