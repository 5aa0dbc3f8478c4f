//! Whether those who share the memory are alive, and where.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

/// Whether a process is gone, as far as this one may know: also if its parent
/// has not asked yet how it ended. There is none with number 0.
#[must_use]
pub fn is_dead(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return true };
    match pidfd_open(pid, PidfdFlags::empty()) {
        // It can be read as soon as the process has ended.
        Ok(process) => {
            let mut fds = [PollFd::new(&process, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())) == Ok(1)
        }
        // Also where such descriptors are forbidden, or used up.
        Err(e) => e == Errno::SRCH || test_kill_process(pid) == Err(Errno::SRCH),
    }
}

/// Number of the network namespace that this thread is in, where the kernel
/// says it.
#[must_use]
pub fn net_ns() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let there = std::fs::metadata("/proc/thread-self/ns/net");
    there.ok().map(|meta| meta.ino())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::is_dead;

    #[test]
    fn who_was_killed_is_dead_before_its_parent_asks() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        assert!(!is_dead(pid) && !is_dead(std::process::id()));
        child.kill().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while !is_dead(pid) && Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(is_dead(pid));
        child.wait().unwrap();
        assert!(is_dead(pid) && is_dead(0));
    }
}
