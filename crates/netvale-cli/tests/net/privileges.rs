//! What each kind of device needs, and how its lack is told.

use std::process::Command;

use netvale_testkit::net::{NetNs, may_administer};
use netvale_testkit::skip;

use crate::host::Host;

/// Devices, and all capabilities that each needs: as in SECURITY.md.
const NEEDS: [(&str, &[&str]); 6] = [
    ("attach vale0 pcap:DIR/out.pcap,write", &[]),
    ("attach vale0 vxlan:7@10.88.0.2,local=10.88.0.1", &[]),
    ("attach vale0 tap:t0", &["net_admin"]),
    ("attach vale0 v0", &["net_admin", "net_raw", "bpf"]),
    ("attach vale0 v0 --host", &["net_admin", "net_raw", "bpf"]),
    ("open netmap:v0", &["net_admin", "net_raw", "bpf"]),
];

/// The program with these capabilities and no other.
fn confined(capabilities: &[&str]) -> Command {
    let mut set = String::from("-all");
    for capability in capabilities {
        set = format!("{set},+{capability}");
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", &set, "--inh-caps", "-all"]);
    command.arg(env!("CARGO_BIN_EXE_netvale"));
    command
}

/// A server that has these capabilities and no other, and the other end of its
/// interface's cable.
fn host(test: &str, capabilities: &[&str]) -> Option<(Host, NetNs)> {
    let ns = NetNs::new(test)?;
    if Command::new("setpriv").arg("--version").output().is_err() {
        skip(test, "needs the program setpriv (package util-linux)");
        return None;
    }
    let other = NetNs::make();
    ns.veth("v0", &other, "e", "");
    ns.ip("addr add 10.88.0.1/24 dev v0");
    Some((Host::starting(ns, confined(capabilities)), other))
}

/// Does it, and undoes it. Why not, if it is not allowed.
fn attempt(host: &Host, what: &str) -> Result<(), String> {
    let what = what.replace("DIR", host.dir.path().to_str().unwrap());
    let words: Vec<&str> = what.split(' ').collect();
    if let ["open", name] = words[..] {
        return match host.ns.enter(|| host.namespace().open(name)) {
            Ok(mut port) => {
                port.tx(0).sync().unwrap();
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        };
    }
    let out = host.run(&words);
    if !out.status.success() {
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(3), "a privilege is missing: {said}");
        return Err(said);
    }
    let said = String::from_utf8(out.stdout).unwrap();
    let name = said.split(" port_idx").next().unwrap();
    let name = match name.split_once(':') {
        Some((switch, device)) if device.starts_with("pcap") => format!("{switch}:out"),
        Some((switch, device)) if device.starts_with("vxlan") => format!("{switch}:vxlan7"),
        Some((switch, device)) => format!("{switch}:{}", device.trim_start_matches("tap:")),
        None => panic!("{said}"),
    };
    host.ok(&["detach", &name]);
    Ok(())
}

#[test]
fn every_device_works_with_what_it_needs() {
    const TEST: &str = "privileges::every_device_works_with_what_it_needs";
    for needed in [&[][..], &["net_admin"], &["net_admin", "net_raw", "bpf"]] {
        let Some((host, _there)) = host(TEST, needed) else {
            return;
        };
        for (what, needs) in NEEDS {
            if needs.iter().all(|c| needed.contains(c)) {
                let done = attempt(&host, what);
                assert!(done.is_ok(), "{what} with {needed:?}: {done:?}");
            }
        }
        if needed.len() == 3 {
            let how = host.driven("v0");
            assert!(how.starts_with("by AF_XDP"), "{how}: {}", host.log(""));
            let said = doctor(&host, needed);
            assert!(said.starts_with("ok "), "{said}");
        }
        host.assert_empty();
    }
}

#[test]
fn what_is_missing_is_named() {
    const TEST: &str = "privileges::what_is_missing_is_named";
    const ALL: [&str; 3] = ["net_admin", "net_raw", "bpf"];
    for missing in ALL {
        let held: Vec<&str> = ALL.into_iter().filter(|c| *c != missing).collect();
        let Some((host, _there)) = host(TEST, &held) else {
            return;
        };
        for (what, needs) in NEEDS {
            let done = attempt(&host, what);
            if !needs.contains(&missing) {
                assert!(done.is_ok(), "{what} without {missing}: {done:?}");
                continue;
            }
            let said = done.expect_err(what);
            let name = format!("CAP_{}", missing.to_uppercase());
            assert!(said.contains(&name), "{what} without {missing}: {said}");
            assert_eq!(said.trim_end().lines().count(), 1, "{what}: {said}");
        }
        host.assert_empty();
        let name = format!("CAP_{}", missing.to_uppercase());
        let missed = doctor(&host, &held);
        assert!(missed.contains(&name), "{missed}");
        assert!(!missed.contains("CAP_IPC_LOCK"), "it is optional: {missed}");
        let taps = missed.contains("TAPs can be attached, but no interfaces");
        assert_eq!(taps, missing != "net_admin", "{missed}");
        // Asked about the interface, it does not say yes either.
        let (code, said) = examine(&host, &held, "v0");
        assert_eq!(code, Some(1), "{said}");
        let line = said.lines().find(|l| l.contains("privileges: ")).unwrap();
        assert!(line.starts_with("fail") && line.contains(&name), "{said}");
    }
}

#[test]
fn root_of_a_user_namespace_is_told_that_it_does_not_suffice() {
    const TEST: &str = "privileges::root_of_a_user_namespace_is_told_that_it_does_not_suffice";
    let unshare = || {
        let mut command = Command::new("unshare");
        command.arg("-Urn");
        command
    };
    if !unshare()
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        return skip(TEST, "needs unshare -Urn (package util-linux)");
    }
    let dir = netvale_testkit::TempDir::new();
    let script = "ip link add e0 type veth peer name e1 && ip link set e0 up || exit 7
        $0 doctor e0 | grep 'e0.*privileges: '
        $0 attach vale0 tap:t0 && $0 detach vale0:t0
        $0 attach vale0 e0 2>&1
        echo status $?";
    let out = unshare()
        .args(["sh", "-c", script, env!("CARGO_BIN_EXE_netvale")])
        .env("NETVALE_NS", dir.path().join("ns"))
        .output()
        .unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    if out.status.code() == Some(7) {
        return skip(TEST, "needs veth interfaces and the program ip");
    }
    let lines: Vec<&str> = said.lines().collect();
    let why = "BPF programs need the capabilities outside of this user namespace";
    assert!(lines[0].starts_with("fail "), "{said}");
    assert!(lines[0].contains(why), "{said}");
    assert!(said.contains("vale0:t"), "TAPs work: {said}");
    let refused = lines[lines.len() - 2];
    assert!(refused.contains(why), "{said}");
    assert_eq!(lines.last(), Some(&"status 3"), "{said}");
}

/// What `netvale doctor` has to say on privileges.
fn doctor(host: &Host, capabilities: &[&str]) -> String {
    let (_, said) = run_doctor(host, confined(capabilities).arg("doctor"));
    let line = said.lines().find(|l| l.contains(" privileges "));
    line.unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// And on an interface.
fn examine(host: &Host, capabilities: &[&str], name: &str) -> (Option<i32>, String) {
    run_doctor(host, confined(capabilities).args(["doctor", name]))
}

fn run_doctor(host: &Host, command: &mut Command) -> (Option<i32>, String) {
    command.env("NETVALE_NS", host.dir.path().join("ns"));
    let out = host.ns.enter(|| command.output()).unwrap();
    (out.status.code(), String::from_utf8(out.stdout).unwrap())
}

#[test]
fn an_ordinary_user_is_told_what_to_do() {
    const TEST: &str = "privileges::an_ordinary_user_is_told_what_to_do";
    if !may_administer() {
        // Then the user is one already, in the network that there is.
        let dir = netvale_testkit::TempDir::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_netvale"));
        command.args(["attach", "vale0", "tap:nvnone0"]);
        command.env("NETVALE_NS", dir.path().join("ns"));
        let out = command.output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(
            !out.status.success() && said.contains("CAP_NET_ADMIN"),
            "{said}"
        );
        return;
    }
    let Some((host, _there)) = host(TEST, &[]) else {
        return;
    };
    for (what, needs) in NEEDS {
        match attempt(&host, what) {
            Ok(()) => assert!(needs.is_empty(), "{what} was allowed"),
            Err(said) => {
                assert!(!needs.is_empty(), "{what}: {said}");
                assert!(said.contains("run as root or with CAP_"), "{what}: {said}");
                assert_eq!(said.trim_end().lines().count(), 1, "{what}: {said}");
            }
        }
    }
    host.assert_empty();
}
