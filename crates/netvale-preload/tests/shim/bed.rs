//! A namespace with a program that runs in it under the shim.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use netvale_testkit::{Bed, Place, skip};

/// Longest time that a program may take.
const PATIENCE: Duration = Duration::from_secs(110);

/// The shim of this build.
pub(crate) fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    // Built as what this test depends on: beside it, in target/debug/deps.
    let path = exe.parent().unwrap().join("libnetvale_preload.so");
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c")
}

/// Builds a program; `None` if there is no compiler.
pub(crate) fn compile(program: &str, into: &Path) -> Option<PathBuf> {
    let out = into.join(program);
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../netvale-c/include");
    let done = Command::new("cc")
        .args(["-O1", "-w", "-pthread", "-o"])
        .arg(&out)
        .arg("-I")
        .arg(headers)
        .arg(sources().join(program).with_extension("c"))
        .output();
    match done {
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "{program}.c: {said}");
            Some(out)
        }
        Err(e) => {
            skip(
                program,
                &format!("no C compiler (cc: {e}): install gcc or clang"),
            );
            None
        }
    }
}

/// A namespace, and a program for it.
pub(crate) struct Shim {
    pub(crate) bed: Bed,
    pub(crate) program: PathBuf,
}

impl Shim {
    /// `None` if the program cannot be built here.
    pub(crate) fn new(place: Place, program: &str) -> Option<Self> {
        let bed = place.up();
        let program = compile(program, bed.scratch())?;
        Some(Self { bed, program })
    }

    /// Starts a case of the program.
    pub(crate) fn start(&self, case: &str) -> Running {
        let mut command = Command::new(&self.program);
        command.arg(case);
        self.dress(&mut command);
        Running::start(command)
    }

    /// Has a command run in this namespace, under the shim.
    pub(crate) fn dress(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("NETVALE_NS", self.bed.dir())
            .env("NETVALE_EXPLAIN", "1")
            .env_remove("NETVALE_STATS")
            .current_dir(self.bed.scratch());
        match self.bed.place() {
            Place::Isolated => command.env("NETVALE_ISOLATED", "1"),
            _ => command.env_remove("NETVALE_ISOLATED"),
        };
    }
}

/// A process group, killed as a whole when dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(Some(child))
    }

    /// kill -9, all of it.
    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        if let Some(group) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Output {
        let end = Instant::now() + PATIENCE;
        while self.0.as_mut().unwrap().try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "the program hangs");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a case of a program; afterwards nothing of it is left.
pub(crate) fn shimmed(place: Place, program: &str, case: &str) {
    let Some(shim) = Shim::new(place, program) else {
        return;
    };
    let out = shim.start(case).finish();
    assert!(
        out.status.success(),
        "{program} {case}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    shim.bed.assert_empty();
}
