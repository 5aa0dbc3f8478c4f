//! Starting a server when there is none.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::link::{Link, Welcome};
use crate::{Error, ErrorKind, Result};

/// Longest time until a server must have come up.
const PATIENCE: Duration = Duration::from_secs(5);
/// First and longest pause before another attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Connects, starting servers until one is there. Many may do this at once:
/// the servers agree among themselves which one stays.
pub(super) fn link_or_start(dir: &Path) -> Result<Link> {
    Ok(open_or_start(dir, true)?.0)
}

/// The same, with what the server said.
pub(super) fn open_or_start(dir: &Path, isolated: bool) -> Result<(Link, Welcome)> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let missing = match Link::open(dir, isolated) {
            Ok(opened) => return Ok(opened),
            // Not there, or about to end.
            Err(e) if e.kind() == ErrorKind::Disconnected => e,
            Err(e) => return Err(e),
        };
        if Instant::now() >= deadline {
            return Err(missing);
        }
        match start(dir, deadline)? {
            Outcome::Ready => {}
            // Somebody else's is starting or ending.
            Outcome::Taken => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

enum Outcome {
    Ready,
    Taken,
}

fn start(dir: &Path, deadline: Instant) -> Result<Outcome> {
    let exe = executable()?;
    let mut child = Command::new(&exe)
        // Under other names the program is another tool.
        .arg0("netvale")
        // The server must not stand on the shim that may have started it.
        .env_remove("LD_PRELOAD")
        .args(["server", "--on-demand", "--ns"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::io(format_args!("cannot run {}", exe.display()), e))?;
    let said = listen(&mut child, deadline);
    // It ends as soon as the server runs on its own.
    let _ = child.wait();
    match said.trim() {
        "ready" => Ok(Outcome::Ready),
        "taken" => Ok(Outcome::Taken),
        "" => Err(Error::new(
            ErrorKind::Disconnected,
            format!("the server that {} started did not come up", exe.display()),
        )
        .with_hint("run it to see why: netvale server --foreground")),
        why => Err(Error::new(
            ErrorKind::Disconnected,
            format!("the server did not start: {why}"),
        )),
    }
}

/// What the server says of itself: one line, then it closes the pipe.
fn listen(child: &mut Child, deadline: Instant) -> String {
    let mut said = Vec::new();
    let Some(mut pipe) = child.stdout.take() else {
        return String::new();
    };
    let mut buf = [0; 512];
    while said.len() < 4096 && !said.ends_with(b"\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
        let ts = Timespec::try_from(left).ok();
        match rustix::event::poll(&mut fds, ts.as_ref()) {
            Ok(0) => break,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        }
        match pipe.read(&mut buf) {
            Ok(n @ 1..) => said.extend_from_slice(&buf[..n]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// The program that has the server in it.
fn executable() -> Result<PathBuf> {
    const NAME: &str = "netvale";
    if let Some(path) = std::env::var_os("NETVALE_SERVER").filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let current = std::env::current_exe().ok();
    let mut candidates = Vec::new();
    if let Some(exe) = &current {
        if exe.file_name().is_some_and(|n| n == NAME) {
            return Ok(exe.clone());
        }
        // Beside us, or one up: test programs are in target/debug/deps.
        candidates.extend(exe.ancestors().skip(1).take(2).map(|d| d.join(NAME)));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    candidates.extend(std::env::split_paths(&path).map(|d| d.join(NAME)));
    let found = candidates.into_iter().find(|p| p.is_file());
    found.ok_or_else(|| {
        Error::new(
            ErrorKind::Disconnected,
            "no server runs, and the netvale program that could start one was not found",
        )
        .with_hint("put netvale into PATH, or name it in NETVALE_SERVER")
    })
}
