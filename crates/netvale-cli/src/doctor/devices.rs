//! What devices can be used here: privileges, features of the kernel, and what
//! each network interface can do.
//!
//! Interfaces are those of the network namespace that the command runs in; a
//! server started by the same user there has the same ones and the same
//! privileges.

use netvale::{Error, ErrorKind};
use netvale_backends::netlink::{Link, Netlink};
use netvale_backends::packet::{PacketConfig, PacketRing, RingConfig};
use netvale_backends::probe::{Finding, Interface, Privileges, Verdict};
use netvale_backends::probe::{try_native, try_zero_copy};
use netvale_backends::tap::{self, TapUring};

use super::{Check, Status};
use crate::failure::Result;

const GRANT: &str = "run the server as root, or: setcap \
                     cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep $(command -v netvale)";
/// To a server with the capabilities, whose programs the kernel refuses.
const LEAVE: &str = "run the server outside of the container, or without its seccomp filter";

/// What opens interfaces.
fn remedy(mine: &Privileges) -> &'static str {
    match mine.loads {
        true => GRANT,
        false => LEAVE,
    }
}

/// What holds for all of them.
pub(super) fn general() -> Vec<Check> {
    let mine = Privileges::look();
    let mut checks = vec![privileges(&mine), taps(&mine), af_packet(&mine), uring()];
    checks.extend(
        mine.findings()
            .into_iter()
            .filter(|f| f.what == "locked memory")
            .map(|f| Check::warn("pinned memory", f.text, GRANT)),
    );
    checks
}

fn privileges(mine: &Privileges) -> Check {
    match mine.suffice() {
        true => Check::ok("privileges", "interfaces and TAPs can be attached"),
        // Ports and pipes of programs need none of them.
        false => {
            let what = match mine.net_admin {
                true => "TAPs can be attached, but no interfaces and host stacks",
                false => "no interfaces, host stacks and new TAPs",
            };
            Check::warn("privileges", format!("{what}: {mine}"), remedy(mine))
        }
    }
}

fn taps(mine: &Privileges) -> Check {
    match tap::supported() {
        Ok(true) if mine.net_admin => {
            Check::ok("tap", "several queues, large frames of TCP stay whole")
        }
        Ok(true) => Check::warn(
            "tap",
            "only TAPs that belong to this user can be adopted",
            "to make them: CAP_NET_ADMIN; or as root: ip tuntap add dev t0 mode tap user $USER",
        ),
        Ok(false) => Check::warn(
            "tap",
            "the kernel's TAPs have neither several queues nor large frames",
            "they need Linux 3.8",
        ),
        Err(e) => Check::warn(
            "tap",
            chain(&e),
            "load the module tun, or give the container /dev/net/tun",
        ),
    }
}

fn af_packet(mine: &Privileges) -> Check {
    // Frames are also to be kept from the host's stack.
    match mine.suffice() {
        true => Check::ok("af_packet", "every interface can be driven by it"),
        false => Check::warn(
            "af_packet",
            "no interface can be driven by it",
            remedy(mine),
        ),
    }
}

fn uring() -> Check {
    match TapUring::available() {
        true => Check::ok("io_uring", "allowed (used by tap:NAME,uring)"),
        false => Check::warn(
            "io_uring",
            "not allowed: tap:NAME,uring is as without uring",
            "sysctl kernel.io_uring_disabled=0, or a seccomp profile that allows it",
        ),
    }
}

/// Which interfaces to look at, and how closely.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// Those of these names, or all.
    pub(super) names: &'a [String],
    /// Tries what drivers do not say.
    pub(super) attempt: bool,
}

/// What was found about an interface.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) name: String,
    pub(super) checks: Vec<Check>,
}

impl Report {
    /// The worst of its findings.
    pub(super) fn status(&self) -> Status {
        let worst = |s: Status| self.checks.iter().any(|c| c.status == s);
        match (worst(Status::Fail), worst(Status::Warn)) {
            (true, _) => Status::Fail,
            (_, true) => Status::Warn,
            _ => Status::Ok,
        }
    }

    /// All in one line, without advice.
    pub(super) fn summary(&self) -> String {
        let brief = |c: &Check| {
            // What comes after these explains.
            let end = c.detail.find([':', '(']).unwrap_or(c.detail.len());
            let text = c.detail.get(..end).unwrap_or_default().trim();
            match c.subject.unwrap_or_default() {
                "interface" | "frame size" => text.to_owned(),
                subject => format!("{subject} {text}"),
            }
        };
        let all: Vec<_> = self.checks.iter().map(brief).collect();
        all.join("; ")
    }
}

/// Looks at interfaces. Something in the way of one that was named is a
/// failure, else a warning.
///
/// # Errors
///
/// One that was named does not exist.
pub(super) fn interfaces(scope: Scope<'_>) -> Result<Vec<Report>> {
    let bad = match scope.names {
        [] => Status::Warn,
        _ => Status::Fail,
    };
    let mut reports = Vec::new();
    for name in names(scope)? {
        let found = match Interface::look(&name) {
            Ok(found) => found,
            // It went while we looked at others.
            Err(_) if scope.names.is_empty() => continue,
            Err(e) => {
                let text = chain(&e);
                return Err(Error::new(ErrorKind::Unavailable, text)
                    .with_hint("netvale doctor and ip link show the interfaces that are here")
                    .into());
            }
        };
        let mut all = found.findings();
        if !scope.names.is_empty() {
            // Without names they are a check of their own.
            all.extend(Privileges::look().findings());
        }
        if scope.attempt {
            all.extend(attempts(&found));
        }
        let checks = all.into_iter().map(|f| check(&name, f, bad)).collect();
        reports.push(Report { name, checks });
    }
    Ok(reports)
}

/// The interfaces in question, without the loopback.
fn names(scope: Scope<'_>) -> Result<Vec<String>> {
    if !scope.names.is_empty() {
        return Ok(scope.names.to_vec());
    }
    const IFF_LOOPBACK: u32 = 8;
    let links = Netlink::open().and_then(|mut netlink| netlink.links());
    let links = links.map_err(|e| Error::new(ErrorKind::Io, chain(&e)))?;
    let wanted = |l: &Link| l.flags & IFF_LOOPBACK == 0 && l.mac.is_some();
    let mut names: Vec<_> = links.into_iter().filter(wanted).map(|l| l.name).collect();
    names.sort();
    Ok(names)
}

fn attempts(interface: &Interface) -> [Finding; 3] {
    let native = match try_native(interface.index) {
        Ok(()) => (Verdict::Good, "a program was attached, and detached".into()),
        Err(e) => (Verdict::Limited, chain(&e)),
    };
    let zero_copy = match try_zero_copy(interface.index, 0) {
        Ok(()) => (Verdict::Good, "a socket was bound to queue 0".into()),
        Err(e) => (Verdict::Limited, chain(&e)),
    };
    let config = PacketConfig {
        promiscuous: false,
        ..PacketConfig::new(&interface.name)
    };
    let ring = match PacketRing::open(&config, RingConfig::for_mtu(interface.mtu, 0)) {
        Ok(_) => (Verdict::Good, "AF_PACKET can receive through one".into()),
        Err(e) => (Verdict::Limited, chain(&e)),
    };
    [
        ("native XDP, tried", native),
        ("zero copy, tried", zero_copy),
        ("packet ring, tried", ring),
    ]
    .map(|(what, (verdict, text))| Finding {
        what,
        verdict,
        text,
    })
}

fn check(name: &str, finding: Finding, bad: Status) -> Check {
    let status = match finding.verdict {
        Verdict::Good => Status::Ok,
        Verdict::Limited => Status::Warn,
        Verdict::Bad => bad,
    };
    Check {
        status,
        interface: Some(name.to_owned()),
        subject: Some(finding.what),
        ..Check::ok("interface", finding.text)
    }
}

/// An error with its causes, in one line.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let said = c.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = c.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unprivileged_are_told_what_to_do() {
        let none = Privileges::default();
        let check = privileges(&none);
        assert_eq!(check.status, Status::Warn);
        assert!(check.detail.contains("CAP_NET_ADMIN"), "{}", check.detail);
        assert!(!check.detail.contains("IPC_LOCK"), "it is optional");
        assert_eq!(af_packet(&none).status, Status::Warn);
        let taps = privileges(&Privileges {
            net_admin: true,
            loads: true,
            ..none.clone()
        });
        assert!(taps.detail.starts_with("TAPs can be"), "{}", taps.detail);
        assert!(taps.advice.is_some_and(|a| a.contains("setcap")));
        // All capabilities, but those of a user namespace.
        let root = privileges(&Privileges {
            net_admin: true,
            net_raw: true,
            bpf: true,
            ..none
        });
        assert_eq!(root.status, Status::Warn);
        assert!(root.detail.contains("BPF programs"), "{}", root.detail);
        assert!(root.advice.is_some_and(|a| !a.contains("setcap")));
    }

    #[test]
    fn a_summary_has_the_verdicts_without_their_reasons() {
        let finding = |what, text: &str| Finding {
            what,
            verdict: Verdict::Limited,
            text: text.into(),
        };
        let one = check(
            "e",
            finding("interface", "driver x; it is down"),
            Status::Fail,
        );
        let two = check("e", finding("AF_XDP", "generic only: no"), Status::Fail);
        let report = Report {
            name: "e".into(),
            checks: vec![one, two],
        };
        assert_eq!(
            report.summary(),
            "driver x; it is down; AF_XDP generic only"
        );
        assert_eq!(report.status(), Status::Warn);
    }
}
