//! Compiling and running C programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A path below the crate's folder.
pub(crate) fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The C compiler, with our headers first. The tests need one anyway: it links
/// them.
pub(crate) fn cc() -> Command {
    compiler("CC", "cc")
}

/// The C++ compiler, if there is one.
pub(crate) fn cxx() -> Option<Command> {
    let is_there = compiler("CXX", "c++").arg("--version").output().is_ok();
    is_there.then(|| compiler("CXX", "c++"))
}

fn compiler(variable: &str, default: &str) -> Command {
    let program = std::env::var_os(variable).unwrap_or_else(|| default.into());
    let mut command = Command::new(program);
    command.arg("-I").arg(here("include"));
    command
}

/// Runs to a good end and gives what was printed.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let output = output(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{error}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs to any end.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// The folder into which cargo put the library before these tests began.
pub(crate) fn libraries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let deps = test.parent().unwrap();
    let library = deps.join("libnetvale_c.so");
    assert!(library.is_file(), "{} was not built", library.display());
    deps.to_owned()
}
