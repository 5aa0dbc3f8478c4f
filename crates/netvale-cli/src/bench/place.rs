//! A namespace with a server of its own, for the cases that need one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use netvale::{Error, ErrorKind, Namespace, Port};
use netvale_server::remote::Remote;
use netvale_wire::proto::{Reply, Request};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::failure::{Result, io_error};

/// What the names of our directories begin with.
const PREFIX: &str = "netvale-bench-";

/// A namespace in a directory of its own. Its server runs as long as this.
pub(super) struct Place {
    dir: Directory,
    namespace: Namespace,
    /// Keeps the server; an idle port.
    _keeper: Port,
    switches: AtomicU32,
}

impl Place {
    pub(super) fn new() -> Result<Self> {
        let dir = directory("ns")?;
        let namespace = Namespace::at(dir.path().join("ns"))?;
        let keeper = namespace.port("vale0:keeper").slots(64, 64).open()?;
        Ok(Self {
            dir,
            namespace,
            _keeper: keeper,
            switches: AtomicU32::new(1),
        })
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("ns")
    }

    /// A directory where no server runs yet.
    pub(super) fn fresh(&self) -> PathBuf {
        let n = self.switches.fetch_add(1, Ordering::Relaxed);
        self.dir.path().join(format!("cold{n}"))
    }

    /// Name of a switch that no case has used: the one before may still be
    /// about to go.
    pub(super) fn switch(&self) -> String {
        format!("vale{}", self.switches.fetch_add(1, Ordering::Relaxed))
    }

    /// The server's process.
    pub(super) fn server(&self) -> Result<Pid> {
        let unreachable = |e| io_error("cannot ask the server", &e);
        let (mut remote, _, _) = Remote::connect(&self.path(), false).map_err(unreachable)?;
        let (reply, _) = remote.ask(&Request::Status).map_err(unreachable)?;
        let pid = match reply {
            Reply::Status(status) => i32::try_from(status.pid).ok().and_then(Pid::from_raw),
            _ => None,
        };
        Ok(pid.ok_or_else(|| Error::new(ErrorKind::Peer, "the server does not say who it is"))?)
    }

    /// Restricts all threads of the server to these CPUs.
    pub(super) fn pin_server(&self, cpus: &[usize]) -> Result<()> {
        pin_all(self.server()?, cpus)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The server ends by itself; what it leaves behind is nothing that
        // anybody else knows of.
        let _ = self.namespace.shutdown(true);
    }
}

/// A directory that is deleted when this is dropped.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A directory that only we may enter. Those of benchmarks that were killed
/// are deleted.
pub(super) fn directory(what: &str) -> Result<Directory> {
    use std::os::unix::fs::DirBuilderExt;
    let temp = std::env::temp_dir();
    for entry in std::fs::read_dir(&temp).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_abandoned) {
            // Another user's stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let dir = temp.join(format!("{PREFIX}{what}-{}", std::process::id()));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(|e| io_error(&format!("cannot make {}", dir.display()), &e))?;
    Ok(Directory(dir))
}

/// Whether a directory of this name belongs to a benchmark that is no more.
fn is_abandoned(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX);
    let pid = rest.and_then(|rest| rest.rsplit('-').next()?.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

fn proc_dir(pid: Pid) -> PathBuf {
    Path::new("/proc").join(pid.as_raw_nonzero().to_string())
}

/// Directories of a process's threads.
fn tasks(pid: Pid) -> Result<Vec<PathBuf>> {
    let dir = proc_dir(pid).join("task");
    let failed = |e| io_error(&format!("cannot read {}", dir.display()), &e);
    let entries = std::fs::read_dir(&dir).map_err(failed)?;
    Ok(entries.filter_map(|e| Some(e.ok()?.path())).collect())
}

/// Resident memory of a process, bytes.
pub(super) fn resident_bytes(pid: Pid) -> Result<u64> {
    let text = status(&proc_dir(pid))?;
    Ok(field(&text, "VmRSS:").unwrap_or(0) * 1024)
}

/// How often its threads were switched to.
pub(super) fn switches(pid: Pid) -> Result<u64> {
    let mut sum = 0;
    for task in tasks(pid)? {
        let text = status(&task)?;
        sum += field(&text, "voluntary_ctxt_switches:").unwrap_or(0);
        sum += field(&text, "nonvoluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(sum)
}

/// Restricts all threads of a process to these CPUs.
pub(super) fn pin_all(pid: Pid, cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    for task in tasks(pid)? {
        let name = task.file_name().and_then(|n| n.to_str());
        let thread = name.and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
        // A thread that has ended meanwhile needs no CPU.
        let _ = sched_setaffinity(thread, &set);
    }
    Ok(())
}

/// CPU time that its threads have used, in the kernel too. Nanoseconds.
pub(super) fn cpu_ns(pid: Pid) -> Result<u64> {
    let mut sum = 0;
    for task in tasks(pid)? {
        // A thread may have ended meanwhile.
        let text = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        let time = text.split_whitespace().next();
        sum += time.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

fn status(dir: &Path) -> Result<String> {
    let path = dir.join("status");
    Ok(std::fs::read_to_string(&path)
        .map_err(|e| io_error(&format!("cannot read {}", path.display()), &e))?)
}

/// The number in the line of `/proc/PID/status` that begins with this name.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_the_dead_are_abandoned() {
        let of = |pid: u32| format!("{PREFIX}ns-{pid}");
        assert!(!is_abandoned(&of(std::process::id())));
        assert!(is_abandoned(&of(u32::MAX)), "no process has that number");
        assert!(!is_abandoned("netvale-bench-x") && !is_abandoned("else-4294967295"));
    }

    #[test]
    fn fields_of_status_are_found() {
        let text = "Name:\tx\nVmRSS:\t    1234 kB\nvoluntary_ctxt_switches:\t7\n\
                    nonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(field(text, "VmRSS:"), Some(1234));
        assert_eq!(field(text, "voluntary_ctxt_switches:"), Some(7));
        assert_eq!(field(text, "VmSwap:"), None);
    }
}
