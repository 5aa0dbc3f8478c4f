//! `netvale bench` from outside: a quick run, and its JSON.

use assert_cmd::Command;
use serde_json::Value;

fn netvale(words: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netvale"));
    command.args(words);
    command.timeout(std::time::Duration::from_secs(300));
    command.output().expect("the binary runs")
}

#[cfg(test)]
mod quick {
    use super::*;

    #[test]
    fn json_says_what_was_measured() {
        let dir = tempfile::tempdir().expect("a directory");
        let html = dir.path().join("chart.html");
        let output = netvale(&[
            "bench",
            "--quick",
            "--only",
            "vale 1 to 1, 60 B",
            "--json",
            "-",
            "--html",
            html.to_str().expect("plain name"),
        ]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let json: Value = serde_json::from_slice(&output.stdout).expect("one object");
        assert_eq!(json["schema"], "netvale.bench.v1");
        assert_eq!(json["rounds"], 1);
        let cases = json["cases"].as_array().expect("a list");
        assert_eq!(cases.len(), 2, "batch 1 and 512");
        for case in cases {
            let name = case["name"].as_str().expect("a name");
            assert!(case["failed"].is_null(), "{name}: {}", case["failed"]);
            assert!(case["value"]["median"].as_f64() > Some(0.0), "{name}");
            assert!(case["ratio"]["median"].as_f64() > Some(0.0), "{name}");
            let round = &case["rounds"][0];
            assert_eq!(round["sent_frames"], round["received_frames"], "{name}");
            assert!(case["target_met"].is_boolean(), "{name}");
        }
        let page = std::fs::read_to_string(html).expect("the chart");
        assert!(page.contains("<svg"));
    }

    #[test]
    fn the_list_needs_no_measurement() {
        let output = netvale(&["bench", "--list", "--only", "PIPE"]);
        assert_eq!(output.status.code(), Some(0));
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(names.lines().count() >= 8);
        assert!(names.lines().all(|name| name.contains("pipe")));
    }

    #[test]
    fn a_name_that_nothing_has_is_a_usage_error() {
        let output = netvale(&["bench", "--only", "no such case"]);
        assert_eq!(output.status.code(), Some(2));
    }
}

#[cfg(test)]
mod devices {
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{Child, Stdio};
    use std::time::Duration;

    use netvale_testkit::net::NetNs;
    use netvale_testkit::{eventually, skip};
    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    #[test]
    fn every_device_is_measured() {
        let test = "bench::devices::every_device_is_measured";
        if NetNs::new(test).is_none() {
            return;
        }
        let output = netvale(&["bench", "--devices", "--quick", "--json", "-"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let json: Value = serde_json::from_slice(&output.stdout).expect(&stderr);
        let cases = json["cases"].as_array().expect("a list");
        for case in cases {
            let name = case["name"].as_str().expect("a name");
            assert!(case["failed"].is_null(), "{name}: {}", case["failed"]);
            if let Some(why) = case["skipped"].as_str() {
                skip(&format!("{test}: {name}"), why);
                continue;
            }
            assert!(case["value"]["median"].as_f64() > Some(0.0), "{name}");
            let raw = &case["raw"]["median"];
            assert!(raw.is_null() || raw.as_f64() > Some(0.0), "{name}");
        }
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let names: Vec<_> = cases.iter().filter_map(|c| c["name"].as_str()).collect();
        for part in [
            "TAPs at a switch",
            "attach -h",
            "receive",
            "small frames",
            "replay",
        ] {
            assert!(names.iter().any(|name| name.contains(part)), "{names:?}");
        }
    }

    /// Processes that this one has started and that have not ended.
    fn children(child: &Child) -> Vec<String> {
        let parent = child.id().to_string();
        let processes = std::fs::read_dir("/proc").expect("procfs").flatten();
        let pids = processes.filter_map(|p| p.file_name().into_string().ok());
        pids.filter(|pid| {
            let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
            // Behind the name, which may hold anything: state and parent.
            let stat = stat.unwrap_or_default();
            let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            rest.split(' ').nth(1) == Some(&parent)
        })
        .collect()
    }

    #[test]
    fn nothing_stays_when_it_is_interrupted_or_killed() {
        let test = "bench::devices::nothing_stays_when_it_is_interrupted_or_killed";
        if NetNs::new(test).is_none() {
            return;
        }
        for signal in [Signal::INT, Signal::KILL] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut bench = std::process::Command::new(env!("CARGO_BIN_EXE_netvale"))
                .args(["bench", "--devices", "--only", "TAPs", "--rounds", "1000"])
                .args(["--seconds-per-case", "0.2"])
                .env("TMPDIR", dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the binary runs");
            let mut peers = Vec::new();
            eventually("server and bare loop run", || {
                peers = children(&bench);
                peers.len() >= 2
            });
            std::thread::sleep(Duration::from_millis(300));
            kill_process(Pid::from_child(&bench), signal).expect("it runs");
            let status = bench.wait().expect("it ends");
            if signal == Signal::INT {
                assert_eq!(status.code(), Some(130));
                let left = std::fs::read_dir(dir.path())
                    .expect("the directory")
                    .count();
                assert_eq!(left, 0, "files are left");
            } else {
                assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
            }
            eventually("the others end too", || {
                peers.iter().all(|pid| {
                    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
                    stat.map_or(true, |stat| stat.contains(") Z "))
                })
            });
        }
    }
}
