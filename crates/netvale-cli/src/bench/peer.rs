//! The other process of a case: `netvale bench-peer TASK`, with the task as
//! JSON. It says `ready` on stdout, works until stdin ends, and then says what
//! it saw, as JSON.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path as FsPath, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netvale::{Error, ErrorKind, Namespace, Port};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::case::Wait;
use super::devices::{self, DeviceTask};
use super::onecore::read;
use super::sample::{BROADCAST, broken, frame, station_mac};
use crate::exit::Code;
use crate::failure::{Result, io_error};

/// Name of the hidden command.
const COMMAND: &str = "bench-peer";
/// What an eventfd peer is told to end with.
pub(super) const END: u64 = 1 << 32;
/// Longest time that anybody sleeps without looking up.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Arguments of the hidden command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PeerArgs {
    /// What to do, as JSON
    task: String,
}

/// What a peer does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Task {
    /// Takes frames.
    Receive(Receive),
    /// Sends every frame back.
    Echo {
        ns: PathBuf,
        port: String,
        cpu: usize,
        wait: Wait,
    },
    /// A server, which ends with stdin.
    Server { ns: PathBuf },
    /// Something with devices.
    Device(DeviceTask),
    /// stdin and stdout are eventfds: answers each event with one.
    Eventfd { cpu: usize },
}

/// A receiver.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Receive {
    /// Directory of the namespace.
    pub(super) ns: PathBuf,
    pub(super) port: String,
    pub(super) cpu: usize,
    pub(super) wait: Wait,
    /// Compare the first 8 bytes of each frame with this; `None`: count only.
    pub(super) expected: Option<u64>,
    /// Tell the sender whenever so many frames have come.
    pub(super) answer_every: Option<u64>,
}

/// What a receiver saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Received {
    pub(super) frames: u64,
    /// Frames with other bytes than expected.
    pub(super) bad: u64,
    /// Frames dropped at its port.
    pub(super) dropped: u64,
}

/// Runs the hidden command.
pub(crate) fn run(args: &PeerArgs) -> Result<Code> {
    let task: Task = serde_json::from_str(&args.task)
        .map_err(|e| Error::new(ErrorKind::Usage, format!("not a task: {e}")))?;
    match task {
        Task::Receive(task) => {
            let mut port = Namespace::at(&task.ns)?.open(&task.port)?;
            netvale::pin_to_cpu(task.cpu)?;
            introduce(&mut port)?;
            let before = drops(&port)?;
            let stop = ready()?;
            let received = receive(&mut port, &task, before, &stop)?;
            crate::output::json(&received)?;
        }
        Task::Echo {
            ns,
            port,
            cpu,
            wait,
        } => {
            let mut port = Namespace::at(&ns)?.open(&port)?;
            netvale::pin_to_cpu(cpu)?;
            introduce(&mut port)?;
            let stop = ready()?;
            echo(&mut port, wait, &stop)?;
        }
        Task::Server { ns } => serve(ns)?,
        Task::Device(task) => {
            if let Some(received) = devices::run(task, ready)? {
                crate::output::json(&received)?;
            }
        }
        Task::Eventfd { cpu } => {
            netvale::pin_to_cpu(cpu)?;
            answer_events().map_err(|e| io_error("eventfd", &e.into()))?;
        }
    }
    Ok(Code::Done)
}

/// Runs a server in this process until stdin ends.
fn serve(ns: PathBuf) -> Result<()> {
    let failed = |e: io::Error| io_error("the server", &e);
    let end = rustix::stdio::stdin().try_clone_to_owned();
    let config = netvale_server::Config {
        service: true,
        ..netvale_server::Config::at(ns)
    };
    let server = netvale_server::Server::start(config, Some(end.map_err(failed)?))
        .map_err(|e| broken(&format!("the server: {e}")))?;
    crate::output::line("ready")?;
    Ok(server.run().map_err(failed)?)
}

/// Says so, and watches stdin from a thread that sleeps.
fn ready() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // End or error: either way nobody wants more.
        let _ = io::stdin().read_to_end(&mut rest);
        flag.store(true, Ordering::Release);
    });
    crate::output::line("ready")?;
    Ok(stop)
}

/// Lets the switch learn where the receiver is. The ends of a pipe know.
pub(super) fn introduce(port: &mut Port) -> Result<()> {
    if is_pipe(port.name()) {
        return Ok(());
    }
    let hello = frame(BROADCAST, station_mac(0), 60);
    let tx = port.tx(0);
    tx.push(&hello).map_err(|e| broken(&e.to_string()))?;
    tx.sync()?;
    Ok(())
}

fn is_pipe(name: &str) -> bool {
    name.contains(['{', '}'])
}

/// Takes frames until it is told to stop and no more come. `before`: frames
/// that its port had dropped before anything was sent to it.
pub(super) fn receive(
    port: &mut Port,
    task: &Receive,
    before: u64,
    stop: &AtomicBool,
) -> Result<Received> {
    let mut received = Received::default();
    let answer = frame(super::sample::sender_mac(0), station_mac(0), 60);
    let mut unanswered = 0;
    loop {
        let stopped = stop.load(Ordering::Acquire);
        let rx = port.rx(0);
        let frames = match task.expected {
            Some(expected) => read(rx, expected, false, &mut received.bad)?,
            None => {
                let there = rx.sync()?;
                u64::from(rx.discard(there).0)
            }
        };
        received.frames += frames;
        if let Some(every) = task.answer_every {
            unanswered += frames;
            if unanswered >= every {
                unanswered -= every;
                // The slots must be back before more comes.
                port.rx(0).sync()?;
                let tx = port.tx(0);
                tx.push(&answer).map_err(|e| broken(&e.to_string()))?;
                tx.sync()?;
            }
        }
        if frames == 0 {
            if stopped {
                break;
            }
            rest(port, task.wait)?;
        }
    }
    // Gives back what was taken last.
    port.rx(0).sync()?;
    received.dropped = drops(port)?.saturating_sub(before);
    Ok(received)
}

/// Frames dropped at this port, for whatever reason.
pub(super) fn drops(port: &Port) -> Result<u64> {
    Ok(port.stats()?.all_dropped())
}

/// Waits for frames, in one of three ways.
pub(super) fn rest(port: &mut Port, wait: Wait) -> Result<()> {
    match wait {
        Wait::Poll => {}
        Wait::Adaptive => {
            port.wait_rx(Some(LOOK_UP))?;
        }
        Wait::Sleep => {
            if port.arm()? {
                let slept = {
                    let mut fds = [PollFd::from_borrowed_fd(port.as_fd(), PollFlags::IN)];
                    poll(&mut fds, Timespec::try_from(LOOK_UP).ok().as_ref())
                };
                port.disarm();
                match slept {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(io_error("cannot poll", &e.into()).into()),
                }
            }
        }
    }
    Ok(())
}

/// Sends every frame back to where it came from, without a copy.
fn echo(port: &mut Port, wait: Wait, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let (tx, rx) = port.tx_rx(0, 0);
        let mut any = rx.sync()? > 0;
        while let Some(mut frame) = rx.next() {
            let mut ends = [0; 12];
            frame.read(0, &mut ends);
            ends.rotate_left(6);
            frame.write(0, &ends);
            any = true;
            if frame.forward(tx).is_err() {
                break;
            }
        }
        if any {
            tx.sync()?;
        } else {
            rest(port, wait)?;
        }
    }
    Ok(())
}

/// Bare eventfds: the least that waking each other costs.
fn answer_events() -> rustix::io::Result<()> {
    let mut word = [0; 8];
    loop {
        rustix::io::read(rustix::stdio::stdin(), &mut word)?;
        if u64::from_ne_bytes(word) >= END {
            return Ok(());
        }
        rustix::io::write(rustix::stdio::stdout(), &1u64.to_ne_bytes())?;
    }
}

/// A running peer. Ended when it is dropped.
pub(super) struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Peer {
    /// Starts one and waits until it is ready.
    pub(super) fn start(task: &Task) -> Result<Self> {
        let mut peer = Self::spawn(task, Stdio::piped(), Stdio::piped())?;
        peer.stdin = peer.child.stdin.take();
        peer.stdout = peer.child.stdout.take().map(BufReader::new);
        let said = peer.line()?;
        if said.trim() == "ready" {
            return Ok(peer);
        }
        Err(broken("the other process did not start").into())
    }

    /// Starts one whose standard streams are eventfds.
    pub(super) fn with_events(task: &Task, ask: OwnedFd, answer: OwnedFd) -> Result<Self> {
        Self::spawn(task, ask.into(), answer.into())
    }

    fn spawn(task: &Task, stdin: Stdio, stdout: Stdio) -> Result<Self> {
        let task = serde_json::to_string(task).map_err(io::Error::from)?;
        let failed = |e: io::Error| io_error("cannot start another process", &e);
        let child = Command::new(this_program().map_err(failed)?)
            .args([COMMAND, &task])
            .stdin(stdin)
            .stdout(stdout)
            .spawn()
            .map_err(failed)?;
        Ok(Self {
            child,
            stdin: None,
            stdout: None,
        })
    }

    /// Its number.
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if let Some(stdout) = &mut self.stdout {
            stdout
                .read_line(&mut line)
                .map_err(|e| io_error("cannot hear the other process", &e))?;
        }
        Ok(line)
    }

    /// Tells it to stop; what it saw.
    pub(super) fn finish(mut self) -> Result<Received> {
        drop(self.stdin.take());
        let line = self.line()?;
        let received = serde_json::from_str(&line)
            .map_err(|e| broken(&format!("the other process failed: {e}")))?;
        let _ = self.child.wait();
        Ok(received)
    }

    /// Waits until it ends by itself.
    pub(super) fn wait(mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Ok(None) = self.child.try_wait() {
            // It may not look at stdin at all.
            std::thread::sleep(Duration::from_millis(20));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Also when the file was replaced meanwhile, as by a build.
fn this_program() -> io::Result<PathBuf> {
    let link = FsPath::new("/proc/self/exe");
    if link.exists() {
        Ok(link.into())
    } else {
        std::env::current_exe()
    }
}

/// Sends to a peer what it waits for.
pub(super) fn write_event(fd: impl AsFd, n: u64) -> Result<()> {
    rustix::io::write(fd, &n.to_ne_bytes())
        .map_err(|e| io_error("cannot write to an eventfd", &e.into()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_survives_the_command_line() {
        let task = Task::Receive(Receive {
            ns: "/run/a b".into(),
            port: "vale0:r".into(),
            cpu: 1,
            wait: Wait::Poll,
            expected: Some(u64::MAX),
            answer_every: None,
        });
        let text = serde_json::to_string(&task).expect("plain data");
        let Ok(Task::Receive(back)) = serde_json::from_str(&text) else {
            panic!("{text}");
        };
        assert_eq!(back.expected, Some(u64::MAX));
        assert_eq!(back.port, "vale0:r");
    }

    #[test]
    fn pipes_are_told_by_their_names() {
        assert!(is_pipe("vale0:p{1"));
        assert!(!is_pipe("vale0:p"));
    }
}
