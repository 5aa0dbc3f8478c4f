//! Programs in C that drive the interfaces they open.

use std::process::Command;

use netvale_testkit::Place;
use netvale_testkit::net::NetNs;

use crate::bed::{Running, Shim};

/// Runs a case of the program at both ends of a cable; it is told the server's
/// process.
fn wired(case: &str) {
    wired_by(case, "1");
}

/// `drive`: whether it drives what it opens.
fn wired_by(case: &str, drive: &str) {
    wired_in(Place::Trusted, "nic", case, drive);
}

fn wired_in(place: Place, program: &str, case: &str, drive: &str) {
    let test = format!("nic::{case}");
    let Some(net) = NetNs::new(&test) else {
        return;
    };
    net.veth("v0", &net, "v1", "");
    let Some(mut shim) = net.enter(|| Shim::new(place, program)) else {
        return;
    };
    let server = shim.bed.server().pid();
    let mut command = Command::new(&shim.program);
    command.arg(case);
    shim.dress(&mut command);
    command.env("NETVALE_TEST_SERVER", server.to_string());
    command.env("NETVALE_DRIVE", drive);
    let out = net.enter(|| Running::start(command).finish());
    // If it failed while the server stood still.
    if let Some(pid) = rustix::process::Pid::from_raw(server.cast_signed()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
    }
    assert!(
        out.status.success(),
        "{case}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    if !case.starts_with("orphaned") {
        shim.bed.assert_empty();
    }
}

#[test]
fn frames_pass_while_the_server_stands_still() {
    wired("alone");
}

#[test]
fn a_forked_child_drives_too_and_dies() {
    wired("forked");
}

#[test]
fn a_daemon_drives_what_its_parent_opened() {
    wired("daemons");
}

#[test]
fn a_sync_loop_leaves_to_the_server_what_only_the_server_can_do() {
    wired_in(Place::Trusted, "loops", "passes_on", "1");
}

#[test]
fn whoever_waits_is_told_that_the_server_died() {
    wired("orphaned");
}

#[test]
fn whoever_waits_for_what_the_server_drives_is_told_too() {
    wired_by("orphaned", "0");
}

#[test]
fn whoever_never_waits_for_long_is_told_as_well() {
    wired("orphaned_busy");
}

#[test]
fn whoever_never_waits_is_told_as_well() {
    wired("orphaned_sync");
}

#[test]
fn whoever_sends_by_the_server_is_told_that_it_died() {
    wired_by("orphaned_tx", "0");
}

#[test]
fn isolated_programs_are_told_as_well() {
    wired_in(Place::Isolated, "nic", "orphaned_far", "1");
}
