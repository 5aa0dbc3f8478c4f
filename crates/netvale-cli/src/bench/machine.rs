//! On what it was measured.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::sample::broken;
use crate::failure::{Result, io_error};

/// Where and when the figures were taken. What cannot be found out is empty.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) cpu_model: String,
    /// CPUs that this process may use.
    pub(super) cpus: Vec<usize>,
    pub(super) kernel: String,
    /// Vendor of the hypervisor, `none` on bare metal.
    pub(super) hypervisor: String,
    /// Frequency governor of the first CPU.
    pub(super) governor: String,
    pub(super) memory_mb: u64,
    pub(super) huge_pages_total: u64,
    pub(super) huge_pages_free: u64,
    pub(super) transparent_huge_pages: String,
    pub(super) shmem_huge_pages: String,
    /// Processes that wanted to run when the measurement began, over the last
    /// minute.
    pub(super) load_average: f64,
    /// Commit of the source tree, with `+` if it was changed.
    pub(super) git_rev: String,
    pub(super) version: String,
    pub(super) optimised: bool,
    /// UTC.
    pub(super) date: String,
}

impl Machine {
    pub(super) fn look() -> Result<Self> {
        let cpuinfo = read("/proc/cpuinfo");
        let meminfo = read("/proc/meminfo");
        let of = |text: &str, name: &str| number(&line_of(text, name));
        Ok(Self {
            cpu_model: line_of(&cpuinfo, "model name"),
            cpus: cpus()?,
            kernel: read("/proc/sys/kernel/osrelease"),
            hypervisor: hypervisor(&cpuinfo),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_mb: of(&meminfo, "MemTotal") * 1024 / 1_000_000,
            huge_pages_total: of(&meminfo, "HugePages_Total"),
            huge_pages_free: of(&meminfo, "HugePages_Free"),
            transparent_huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            shmem_huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")),
            load_average: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0.0),
            git_rev: git_rev(),
            version: env!("CARGO_PKG_VERSION").into(),
            optimised: !cfg!(debug_assertions),
            date: utc(SystemTime::now()),
        })
    }

    /// One line for people.
    pub(super) fn text(&self) -> String {
        let huge = if self.huge_pages_total > 0 {
            "huge pages"
        } else {
            "4 KiB pages"
        };
        format!(
            "{}, {} CPUs, Linux {}, hypervisor: {}, {huge}, {}{}",
            or(&self.cpu_model, "unknown CPU"),
            self.cpus.len(),
            self.kernel,
            self.hypervisor,
            self.date,
            if self.git_rev.is_empty() {
                String::new()
            } else {
                format!(", {}", self.git_rev)
            }
        )
    }
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

/// CPUs that this process may use, at least one.
pub(super) fn cpus() -> Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)
        .map_err(|e| io_error("cannot tell which CPUs may be used", &e.into()))?;
    let cpus: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect();
    if cpus.is_empty() {
        return Err(broken("no CPU may be used").into());
    }
    Ok(cpus)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

/// What stands behind the colon of the first line that begins with this name.
fn line_of(text: &str, name: &str) -> String {
    let line = text.lines().find(|l| l.starts_with(name));
    let value = line.and_then(|l| l.split_once(':')).map(|(_, value)| value);
    value.unwrap_or("").trim().to_owned()
}

fn number(text: &str) -> u64 {
    text.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// `always [madvise] never` as `madvise`.
fn chosen(text: &str) -> String {
    let inner = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or_else(String::new, |(chosen, _)| chosen.to_owned())
}

fn hypervisor(cpuinfo: &str) -> String {
    let vendor = read("/sys/class/dmi/id/sys_vendor");
    let inside = line_of(cpuinfo, "flags")
        .split(' ')
        .any(|f| f == "hypervisor");
    match (inside, vendor.is_empty()) {
        (false, _) => "none".into(),
        (true, true) => "unknown".into(),
        (true, false) => vendor,
    }
}

/// Of the tree that this was built from, if it is still there.
fn git_rev() -> String {
    let tree = env!("CARGO_MANIFEST_DIR");
    if !Path::new(tree).is_dir() {
        return String::new();
    }
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(tree).args(args).output();
        let output = output.ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(rev) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return String::new();
    };
    let changed = git(&["status", "--porcelain"]).is_some_and(|s| !s.is_empty());
    if changed { format!("{rev}+") } else { rev }
}

/// `2026-02-28T23:59:59Z`.
pub(super) fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Year, month and day of a day counted from 1 January 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that a leap day is the last of one.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_772_323_200, "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn kernel_files_are_understood() {
        let info = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu hypervisor\n";
        assert_eq!(line_of(info, "model name"), "Some CPU @ 2 GHz");
        assert_ne!(hypervisor(info), "none");
        assert_eq!(hypervisor("flags : fpu\n"), "none");
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen(""), "");
        assert_eq!(number("24105 kB"), 24105);
    }
}
