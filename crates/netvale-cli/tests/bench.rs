//! `netvale bench` from outside: a quick run, and its JSON.

use assert_cmd::Command;
use serde_json::Value;

fn netvale(words: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netvale"));
    command.args(words);
    command.timeout(std::time::Duration::from_secs(60));
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
