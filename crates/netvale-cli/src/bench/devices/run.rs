//! The other process's side: what moves frames, or sends and takes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::{Xdp, bare, small, xdp};
use crate::bench::peer::Received;
use crate::failure::Result;

/// How often the watcher of a tool looks.
const LOOK_UP: Duration = Duration::from_millis(20);

/// What a process does for a measurement of devices.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::bench) enum DeviceTask {
    /// Makes two TAPs and copies between them.
    Taps { names: [String; 2] },
    /// Copies between an interface's wire and the host.
    Host { interface: String },
    /// Makes a TAP and writes into it.
    TapWriter { name: String },
    /// A client of the server of `ns` sends.
    Sender {
        ns: PathBuf,
        port: String,
        cpu: usize,
    },
    /// `bridge IF IF^` with a server of its own.
    Rings { ns: PathBuf, interface: String },
    /// Sends, receives or forwards: as a client of the server of `ns`, or with
    /// bare sockets.
    Xdp {
        what: Xdp,
        ns: Option<PathBuf>,
        names: [String; 2],
        cpu: usize,
    },
}

/// Does it, until told to stop; what it saw if that is of interest. `ready` is
/// called when frames may come.
pub(in crate::bench) fn run(
    task: DeviceTask,
    ready: fn() -> Result<Arc<AtomicBool>>,
) -> Result<Option<Received>> {
    match task {
        DeviceTask::Taps { names } => bare::taps(&names, ready)?,
        DeviceTask::Host { interface } => bare::host(&interface, ready)?,
        DeviceTask::TapWriter { name } => return counted(small::write_tap(&name, ready)),
        DeviceTask::Sender { ns, port, cpu } => {
            let ready = Box::new(move || {
                netvale::pin_to_cpu(cpu)?;
                ready()
            });
            return counted(xdp::client_send((&ns, &port), ready));
        }
        DeviceTask::Rings { ns, interface } => rings(&ns, &interface, &ready()?)?,
        DeviceTask::Xdp {
            what,
            ns,
            names,
            cpu,
        } => {
            let ready = Box::new(move || {
                netvale::pin_to_cpu(cpu)?;
                ready()
            });
            return counted(match (what, &ns) {
                (Xdp::Receive, None) => xdp::bare_receive(&names[0], false, ready),
                (Xdp::Read, None) => xdp::bare_receive(&names[0], true, ready),
                (Xdp::Send, None) => xdp::bare_send(&names[0], ready),
                (Xdp::Forward, None) => xdp::bare_forward(&names, ready),
                (Xdp::Receive, Some(ns)) => xdp::client_receive((ns, &names[0]), false, ready),
                (Xdp::Read, Some(ns)) => xdp::client_receive((ns, &names[0]), true, ready),
                (Xdp::Send, Some(ns)) => xdp::client_send((ns, &names[0]), ready),
                (Xdp::Forward, Some(ns)) => xdp::client_forward((ns, &names), ready),
            });
        }
    }
    Ok(None)
}

/// Nothing but how many.
fn counted(frames: Result<u64>) -> Result<Option<Received>> {
    Ok(Some(Received {
        frames: frames?,
        ..Received::default()
    }))
}

/// The tool as users run it, in this process.
fn rings(ns: &std::path::Path, interface: &str, stop: &Arc<AtomicBool>) -> Result<()> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_UP);
        }
        // As a user ends it.
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::TERM);
    });
    let ns = ns.display().to_string();
    let (wire, host) = (
        format!("netmap:{interface}"),
        format!("netmap:{interface}^"),
    );
    let words = [
        "netvale", "--ns", &ns, "bridge", "-w", "0", "-i", &wire, "-i", &host,
    ];
    crate::cli::main(crate::cli::Tool::Netvale, words.map(Into::into).to_vec())?;
    Ok(())
}
