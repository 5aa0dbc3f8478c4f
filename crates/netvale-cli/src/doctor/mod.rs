//! `netvale doctor`: what this machine and its network interfaces offer, and
//! whether the namespace is sound.

mod devices;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use netvale::ErrorKind;
use netvale_server::remote::Remote;
use netvale_wire::proto::{Reply, Request};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Resource, geteuid, getrlimit};
use serde::Serialize;

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::Result;
use crate::output;

/// Oldest kernel that is tested.
const MIN_KERNEL: (u32, u32) = (5, 10);
/// Descriptors that a server with many ports needs.
const MIN_FILES: u64 = 1024;
/// Memory that device ports pin, bytes.
const MIN_MEMLOCK: u64 = 64 << 20;
/// 2 MiB pages that hold one region of the usual size.
const MIN_HUGE_PAGES: u64 = 16;

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Example:\n  \
    netvale doctor\n  \
    netvale doctor eth0\n\n\
    Without INTERFACE everything is looked at, each interface in one line; with\n\
    it only those, in full. Sizes are in MiB and in pages of 2 MiB. Ends with\n\
    status 1 if a check failed; warnings do not count. Something that keeps an\n\
    interface from being used is a failure if it was named, else a warning; one\n\
    that does not exist is status 3.")]
pub(crate) struct Args {
    /// Interfaces to look at [default: all, and the machine]
    #[arg(value_name = "INTERFACE")]
    interfaces: Vec<String>,
    /// Attach a program and bind a socket to see whether that works, which
    /// some drivers answer with a short loss of their link
    #[arg(long = "try", requires = "interfaces")]
    attempt: bool,
    /// Print JSON, one object per check; sizes are in the text, with units
    #[arg(long)]
    json: bool,
}

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
struct Check {
    schema: &'static str,
    check: &'static str,
    /// Of an interface: which, and what about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'static str>,
    status: Status,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

impl Check {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            schema: "netvale.check.v1",
            check,
            interface: None,
            subject: None,
            status: Status::Ok,
            detail: detail.into(),
            advice: None,
        }
    }

    fn warn(check: &'static str, detail: impl Into<String>, advice: &'static str) -> Self {
        Self {
            status: Status::Warn,
            advice: Some(advice),
            ..Self::ok(check, detail)
        }
    }

    fn fail(check: &'static str, detail: impl Into<String>, advice: &'static str) -> Self {
        Self {
            status: Status::Fail,
            ..Self::warn(check, detail, advice)
        }
    }
}

/// Runs `doctor`.
pub(crate) fn run(args: &Args, place: &Place) -> Result<Code> {
    let mut checks = Vec::new();
    if args.interfaces.is_empty() {
        checks.extend([
            kernel(),
            memfd(),
            huge_pages(),
            files(),
            memlock(),
            cpus(),
            programs(),
        ]);
        checks.extend(devices::general());
        checks.extend(namespace(place));
    }
    checks.extend(network(place, !args.interfaces.is_empty()));
    let scope = devices::Scope {
        names: &args.interfaces,
        attempt: args.attempt,
    };
    let reports = devices::interfaces(scope)?;
    let failed = checks.iter().any(|c| c.status == Status::Fail)
        || reports.iter().any(|r| r.status() == Status::Fail);
    if args.json {
        for check in checks.iter().chain(reports.iter().flat_map(|r| &r.checks)) {
            output::json(check)?;
        }
    } else {
        show(&checks, &reports, !args.interfaces.is_empty())?;
    }
    Ok(match failed {
        true => Code::Negative,
        false => Code::Done,
    })
}

/// For people; `closely`: every finding about interfaces.
fn show(checks: &[Check], reports: &[devices::Report], closely: bool) -> Result<()> {
    let show = |status: Status, what: &str, text: &str| {
        let word = match status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        output::line(&format!("{word:<5} {what:<13} {text}"))
    };
    for check in checks {
        show(check.status, check.check, &check.detail)?;
        if let Some(advice) = check.advice {
            output::line(&format!("{:20}{advice}", ""))?;
        }
    }
    for report in reports {
        if !closely {
            show(report.status(), &report.name, &report.summary())?;
            continue;
        }
        for check in &report.checks {
            let subject = check.subject.unwrap_or_default();
            let text = format!("{subject}: {}", check.detail);
            show(check.status, &report.name, &text)?;
        }
    }
    Ok(())
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    match version(&release) {
        Some(version) if version >= MIN_KERNEL => Check::ok("kernel", format!("Linux {release}")),
        _ => Check::warn(
            "kernel",
            format!("Linux {release}"),
            "5.10 is the oldest version that is tested",
        ),
    }
}

/// Whether programs of netmap's C interface can be started here.
fn programs() -> Check {
    let library = match crate::run::library() {
        Ok(library) => library,
        Err(e) => {
            return Check::warn(
                "programs",
                e.to_string(),
                "unmodified netmap programs need it: cargo build --release -p netvale-preload",
            );
        }
    };
    // With the library in it, a shell finds the device that is not there.
    let shell = Command::new("/bin/sh")
        .args(["-c", "test -c /dev/netmap"])
        .env("LD_PRELOAD", &library)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if shell.is_ok_and(|s| s.success()) {
        return Check::ok("programs", "netvale run works");
    }
    Check::fail(
        "programs",
        format!("{} cannot be loaded into /bin/sh", library.display()),
        "is it for this machine, and readable?",
    )
}

/// Major and minor number of a release name.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn memfd() -> Check {
    const ADVICE: &str = "regions need memfd_create and seals; a seccomp filter may forbid them";
    let sealed = rustix::fs::memfd_create(
        "netvale-doctor",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )
    .and_then(|fd| {
        rustix::fs::ftruncate(&fd, 4096)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
    });
    match sealed {
        Ok(()) => Check::ok("memfd", "sealed shared memory works"),
        Err(e) => Check::fail("memfd", format!("no sealed shared memory: {e}"), ADVICE),
    }
}

fn huge_pages() -> Check {
    const ADVICE: &str = "regions then use 4 KiB pages; for huge ones: sysctl vm.nr_hugepages=64";
    let read = |name| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
        fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    match (read("free_hugepages"), read("nr_hugepages")) {
        (Some(free), Some(all)) => {
            let detail = format!("{free} of {all} pages of 2 MiB are free");
            if free >= MIN_HUGE_PAGES {
                Check::ok("huge pages", detail)
            } else {
                Check::warn("huge pages", detail, ADVICE)
            }
        }
        _ => Check::warn("huge pages", "this kernel has none of 2 MiB", ADVICE),
    }
}

fn files() -> Check {
    match getrlimit(Resource::Nofile).current {
        Some(n) if n < MIN_FILES => Check::warn(
            "open files",
            format!("at most {n}"),
            "each port takes up to four; raise it with: ulimit -n 4096",
        ),
        limit => Check::ok("open files", format!("at most {}", or_unlimited(limit))),
    }
}

fn memlock() -> Check {
    let limit = getrlimit(Resource::Memlock).current;
    let mib = limit.map(|bytes| bytes >> 20);
    match limit {
        Some(bytes) if bytes < MIN_MEMLOCK && !geteuid().is_root() => Check::warn(
            "locked memory",
            format!("at most {} MiB", bytes >> 20),
            "enough for VALE ports and pipes; devices may need: ulimit -l 65536",
        ),
        _ => Check::ok(
            "locked memory",
            mib.map_or("unlimited".to_owned(), |mib| format!("at most {mib} MiB")),
        ),
    }
}

fn or_unlimited(limit: Option<u64>) -> String {
    limit.map_or("unlimited".to_owned(), |n| n.to_string())
}

fn cpus() -> Check {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => Check::warn(
            "cpus",
            "one",
            "sender and receiver take turns: rates are about half",
        ),
        n => Check::ok("cpus", n.to_string()),
    }
}

/// The namespace's directory, its server and its books.
fn namespace(place: &Place) -> Vec<Check> {
    let namespace = match place.namespace_if_running() {
        Ok(namespace) => namespace,
        Err(failure) => {
            let detail = match failure {
                crate::failure::Failure::Error(e) => e.to_string(),
                other => format!("{other:?}"),
            };
            let advice = "name another directory with --ns or NETVALE_NS";
            return vec![Check::fail("namespace", detail, advice)];
        }
    };
    let mut checks = Vec::new();
    if let Some(path) = namespace.path() {
        checks.push(directory(path));
    }
    match namespace.list() {
        Ok(ports) => {
            let what = if place.is_embedded() {
                "inside this process"
            } else {
                "running"
            };
            checks.push(Check::ok(
                "server",
                format!("{what}, {} ports", ports.len()),
            ));
        }
        Err(error) if error.kind() == ErrorKind::Disconnected => {
            checks.push(Check::ok("server", "not running; the first port starts it"));
            return checks;
        }
        Err(error) => {
            let advice = "see its messages, or use another namespace with --ns";
            checks.push(Check::fail("server", error.to_string(), advice));
            return checks;
        }
    }
    checks.push(conservation(namespace.check()));
    checks
}

/// Whether the server's devices would be those that are looked at here.
/// `named`: some of them were asked for.
fn network(place: &Place, named: bool) -> Option<Check> {
    let namespace = place.namespace_if_running().ok()?;
    let (mut remote, _, _) = Remote::connect(namespace.path()?, true).ok()?;
    let Reply::Status(status) = remote.ask(&Request::Status).ok()?.0 else {
        return None;
    };
    let elsewhere = status.net_ns? != netvale_shm::process::net_ns()?;
    let make = if named { Check::fail } else { Check::warn };
    elsewhere.then(|| {
        make(
            "network",
            "the server is in another network namespace, and so are its devices",
            "for those of this one: name another directory with --ns or NETVALE_NS",
        )
    })
}

fn conservation(report: netvale::Result<netvale::CheckReport>) -> Check {
    match report {
        Ok(report) if report.problems.is_empty() => {
            let buffers: u64 = report.regions.iter().map(|r| r.buffers).sum();
            let free: u64 = report.regions.iter().map(|r| r.free).sum();
            let regions = report.regions.len();
            Check::ok(
                "conservation",
                format!("{buffers} buffers in {regions} regions, each in one place; {free} free"),
            )
        }
        Ok(report) => Check::fail(
            "conservation",
            report.problems.join("; "),
            "while ports are busy this may pass; if it stays, it is a bug",
        ),
        Err(error) => Check::fail("conservation", error.to_string(), "the check did not run"),
    }
}

fn directory(path: &Path) -> Check {
    const ADVICE: &str = "anyone who can write there can read your packets: chmod 700 it";
    let shown = path.display();
    match fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => {
            Check::fail("namespace", format!("{shown} is no directory"), ADVICE)
        }
        Ok(meta) if meta.uid() != geteuid().as_raw() && !geteuid().is_root() => Check::warn(
            "namespace",
            format!("{shown} belongs to user {}", meta.uid()),
            "ports will be isolated ones, if the server lets you in",
        ),
        Ok(meta) if meta.mode() & 0o022 != 0 => Check::fail(
            "namespace",
            format!("{shown} has mode {:03o}", meta.mode() & 0o777),
            ADVICE,
        ),
        Ok(_) => Check::ok("namespace", shown.to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Check::ok("namespace", format!("{shown} (does not exist yet)"))
        }
        Err(e) => Check::fail("namespace", format!("{shown}: {e}"), ADVICE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        for (release, expected) in [
            ("6.8.0-45-generic", Some((6, 8))),
            ("5.10.0+", Some((5, 10))),
            ("4.19", Some((4, 19))),
            ("strange", None),
        ] {
            assert_eq!(version(release), expected);
        }
    }

    #[test]
    fn problems_fail() {
        let mut report = netvale::CheckReport::default();
        assert_eq!(conservation(Ok(report.clone())).status, Status::Ok);
        report.problems.push("buffer 7 is in two places".into());
        let check = conservation(Ok(report));
        assert_eq!(check.status, Status::Fail);
        assert!(check.detail.contains("buffer 7"));
    }

    #[test]
    fn open_directories_fail() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let mode = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).expect("chmod");
            directory(dir.path()).status
        };
        assert_eq!(mode(0o700), Status::Ok);
        assert_eq!(mode(0o777), Status::Fail);
        assert_eq!(directory(&dir.path().join("none")).status, Status::Ok);
    }
}
