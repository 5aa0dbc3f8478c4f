//! The binary from outside: command lines, exit statuses and output.
//!
//! Objective of each module: `lines` needs nothing but the binary; `embedded`
//! runs ports inside one process; `server` runs several processes in one
//! namespace.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;

const BIN: &str = env!("CARGO_BIN_EXE_netvale");

/// Runs `netvale` with these words, in a namespace of its own.
fn netvale(words: &str) -> Output {
    let mut command = Command::new(BIN);
    command.env("NETVALE_NS", "/nonexistent/netvale-test");
    command.args(words.split_whitespace());
    command.timeout(std::time::Duration::from_secs(60));
    command.output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

/// A link to the binary under another name.
fn link(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::os::unix::fs::symlink(BIN, &path).expect("a link");
    path
}

#[cfg(test)]
mod lines {
    use super::*;

    #[test]
    fn every_command_has_help_with_units() {
        for (command, unit) in [
            ("pkt-gen", "packets per second"),
            ("bridge", "Seconds"),
            ("vale-ctl", "slots"),
            ("ls", "bytes"),
            ("attach", "index"),
            ("detach", "index"),
            ("stats", "per\nsecond"),
            ("fdb", "ageing periods"),
            ("doctor", "MiB"),
            ("demo", "Gbit/s"),
            ("newif", "Slots"),
            ("delif", "bytes"),
        ] {
            let output = netvale(&format!("{command} --help"));
            assert_eq!(status(&output), Some(0), "{command}");
            let text = stdout(&output);
            assert!(text.contains("Usage:"), "{command}");
            assert!(text.contains(unit), "{command}: no {unit:?} in\n{text}");
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(80), "{command}: {widest:?} columns");
        }
        for command in ["server", "bench"] {
            let output = netvale(&format!("{command} --help"));
            assert_eq!(status(&output), Some(0), "{command}");
        }
    }

    #[test]
    fn mistakes_end_with_2_and_one_line() {
        for (line, cause) in [
            ("--bogus", "unexpected argument '--bogus'"),
            ("frobnicate", "unrecognized subcommand 'frobnicate'"),
            ("pkt-gen --bogus", "unexpected argument '--bogus'"),
            ("pkt-gen -i vale0:a -l 15", "frame size 15"),
            ("pkt-gen -i vale0:a -n x", "invalid value 'x'"),
            ("pkt-gen -i vale0:a -I", "-I (frames by pointer)"),
            ("pkt-gen -f tx", "no port given"),
            ("bridge -i vale0:a", "no host end"),
            ("fdb", "<SWITCH>"),
            ("stats --watch --interval-ms 0", "interval of 0"),
            ("demo --seconds 0", "0 seconds"),
            ("ls --ns /x --embedded", "cannot be used with"),
        ] {
            let output = netvale(line);
            assert_eq!(status(&output), Some(2), "{line}");
            assert!(output.stdout.is_empty(), "{line}");
            let text = stderr(&output);
            let first = text.lines().next().unwrap_or_default();
            assert!(first.starts_with("netvale: "), "{line}: {first}");
            assert!(first.contains(cause), "{line}: {first}");
            for rest in text.lines().skip(1) {
                assert!(rest.starts_with("hint: "), "{line}: {rest}");
            }
        }
    }

    #[test]
    fn no_argument_prints_usage() {
        for line in ["", "pkt-gen", "bridge"] {
            let output = netvale(line);
            assert_eq!(status(&output), Some(2), "{line:?}");
            assert!(stderr(&output).contains("Usage:"), "{line:?}");
        }
    }

    #[test]
    fn version_is_printed() {
        let output = netvale("--version");
        assert_eq!(status(&output), Some(0));
        assert!(stdout(&output).contains(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn the_name_selects_the_tool() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["pkt-gen", "bridge", "vale-ctl"] {
            let tool = link(dir.path(), name);
            let output = Command::new(&tool).arg("--help").output().expect("runs");
            assert_eq!(status(&output), Some(0), "{name}");
            assert!(stdout(&output).contains(&format!("Usage: {name}")));
            let output = Command::new(&tool).arg("--bogus").output().expect("runs");
            assert_eq!(status(&output), Some(2), "{name}");
            assert!(stderr(&output).starts_with(&format!("{name}: ")));
        }
    }

    #[test]
    fn a_closed_stdout_is_no_error() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let status = std::process::Command::new(BIN)
            .args(["pkt-gen", "--help"])
            .stdout(writer)
            .status()
            .expect("runs");
        assert_eq!(status.code(), Some(0));
    }

    #[test]
    fn null_needs_no_port() {
        let output = netvale("pkt-gen -i null -f tx -n 100000");
        assert_eq!(status(&output), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(text.contains("Sent 100000 packets 6000000 bytes"), "{text}");
        assert!(text.contains("Speed: "), "{text}");
    }

    #[test]
    fn unusable_pcap_files_are_named() {
        let output = netvale("pkt-gen -i null -f tx -P /dev/null");
        assert_eq!(status(&output), Some(4), "{}", stderr(&output));
        assert!(stderr(&output).contains("cannot read /dev/null"));
    }
}

#[cfg(test)]
mod embedded {
    use super::*;

    #[test]
    fn the_demo_delivers() {
        let output = netvale("demo --seconds 0.8 --json");
        assert_eq!(status(&output), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert_eq!(text.lines().count(), 4);
        for line in text.lines() {
            assert!(line.contains(r#""schema":"netvale.demo.v1""#), "{line}");
            assert!(line.contains(r#""corrupt_frames":0"#), "{line}");
            assert!(!line.contains(r#""received_frames":0,"#), "{line}");
        }
        let output = netvale("demo --seconds 0.4");
        assert_eq!(status(&output), Some(0));
        assert!(stdout(&output).contains("0 corrupt"));
    }

    #[test]
    fn every_way_of_sending_counts_right() {
        for options in [
            "-n 10000",
            "-n 1000 -l 60 -l 1514",
            "-n 1000 -s 10.0.0.1:1-10.0.0.9:99 -d 10.1.0.1:5-10.1.3.0:9",
            "-n 1000 -z -Z -6",
            "-n 1000 -F 3 -l 1514",
            "-n 1000 -l 9000",
            "-n 100 -R 10k",
            "-n 1001 -p 2",
            "-n 1000 -o 4",
            "-n 1000 -r",
        ] {
            let output = netvale(&format!("pkt-gen --embedded -i vale0:a -f tx {options}"));
            assert_eq!(status(&output), Some(0), "{options}: {}", stderr(&output));
            let count = options.split_whitespace().nth(1).expect("-n N");
            let sent = format!("Sent {count} packets");
            let text = stdout(&output);
            assert!(text.contains(&sent), "{options}: {text}");
            assert!(text.contains("Speed: "), "{options}: {text}");
        }
    }

    #[test]
    fn json_has_a_schema_and_units() {
        let output = netvale("pkt-gen --embedded -i vale0:a -f tx -n 5000 --json");
        let text = stdout(&output);
        let last = text.lines().last().unwrap_or_default();
        for part in [
            r#""schema":"netvale.pkt-gen.summary.v1""#,
            r#""packets":5000"#,
            r#""rate_pps":"#,
            r#""rate_bps":"#,
        ] {
            assert!(last.contains(part), "{last}");
        }
    }

    #[test]
    fn names_too_long_are_usage_errors() {
        let output = netvale("pkt-gen --embedded -i vale0:abcdefghijklmnopqrstuvwxyz -f tx -n 1");
        assert_eq!(status(&output), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).starts_with("netvale: "));
    }

    #[test]
    fn the_doctor_looks_inside() {
        let output = netvale("doctor --embedded --json");
        let text = stdout(&output);
        for check in ["kernel", "memfd", "cpus", "server", "conservation"] {
            assert!(text.contains(&format!(r#""check":"{check}""#)), "{text}");
        }
        assert_eq!(status(&output), Some(0), "{text}");
    }

    #[test]
    fn an_empty_list_ends_with_1_only_in_vale_ctl() {
        assert_eq!(status(&netvale("ls --embedded")), Some(0));
        assert_eq!(status(&netvale("vale-ctl --embedded")), Some(1));
        let output = netvale("vale-ctl --embedded -d vale0:none");
        assert_eq!(status(&output), Some(1));
        assert!(stderr(&output).starts_with("failed to detach vale0:none: "));
    }
}

#[cfg(test)]
mod server {
    use super::*;
    use std::process::{Child, Stdio};
    use std::time::{Duration, Instant};

    /// A namespace that ends with the test.
    struct Space {
        dir: tempfile::TempDir,
    }

    impl Space {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            Self { dir }
        }

        fn command(&self, words: &str) -> std::process::Command {
            let mut command = std::process::Command::new(BIN);
            command.env("NETVALE_NS", self.dir.path());
            command.args(words.split_whitespace());
            command
        }

        fn run(&self, words: &str) -> Output {
            self.command(words).output().expect("runs")
        }

        fn start(&self, words: &str) -> Running {
            let mut command = self.command(words);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            Running(Some(command.spawn().expect("starts")))
        }

        /// Waits until `name` is listed.
        fn wait_for(&self, name: &str) {
            let end = Instant::now() + Duration::from_secs(20);
            while !stdout(&self.run("ls")).contains(name) {
                assert!(Instant::now() < end, "{name} does not come");
                std::thread::sleep(Duration::from_millis(20));
            }
        }

        /// Waits until a port's counter `what` has come to `n`.
        fn wait_for_frames(&self, port: &str, what: &str, n: u64) {
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                let stats = stdout(&self.run(&format!("stats {port} --json")));
                let stats: Option<serde_json::Value> = serde_json::from_str(&stats).ok();
                let now = stats.and_then(|s| s.get(what)?.as_u64());
                if now.is_some_and(|now| now >= n) {
                    return;
                }
                assert!(Instant::now() < end, "{port}: {what} {now:?}, not {n}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// A process that does not outlive a failed test.
    struct Running(Option<Child>);

    impl Running {
        fn finish(mut self) -> Output {
            let child = self.0.take().expect("still running");
            let pid = i32::try_from(child.id()).expect("a pid");
            let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || tell.send(child.wait_with_output()));
            // What it printed tells why it waits.
            let output = told
                .recv_timeout(Duration::from_secs(60))
                .unwrap_or_else(|_late| {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    told.recv().expect("ends")
                });
            output.expect("ends")
        }

        fn interrupt(&self) {
            let child = self.0.as_ref().expect("still running");
            let pid = i32::try_from(child.id()).expect("a pid");
            let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
            rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("sent");
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            if let Some(child) = &mut self.0 {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    #[test]
    fn packets_cross_processes() {
        let space = Space::new();
        // Room for all of them, for a switch does not wait for a receiver.
        let receiver = space.start("pkt-gen -i vale0:b -f rxseq -n 2000 -W -C 64,4096");
        space.wait_for("vale0:b");
        let sent = space.run("pkt-gen -i vale0:a -f txseq -n 2000 -R 20k");
        assert_eq!(status(&sent), Some(0), "{}", stderr(&sent));
        let received = receiver.finish();
        assert_eq!(status(&received), Some(0), "{}", stdout(&received));
        assert!(stdout(&received).contains("Received 2000 packets"));
        assert!(stdout(&received).contains("0 gaps, 0 lost"));
    }

    #[test]
    fn ping_gets_its_answers() {
        let space = Space::new();
        let pong = space.start("pkt-gen -i vale0:b -f pong -n 200 -W");
        space.wait_for("vale0:b");
        let ping = space.run("pkt-gen -i vale0:a -f ping -n 200 --json");
        assert_eq!(status(&ping), Some(0), "{}", stderr(&ping));
        assert!(stdout(&ping).contains(r#""replies":200,"lost":0"#));
        assert!(pong.finish().status.success());
    }

    #[test]
    fn captures_hold_what_was_sent() {
        let space = Space::new();
        let file = space.dir.path().join("a.pcap");
        let file = file.display();
        let receiver = space.start(&format!("pkt-gen -i vale0:b -f rx -n 100 -W -P {file}"));
        space.wait_for("vale0:b");
        space.run("pkt-gen -i vale0:a -f tx -n 100 -R 10k -l 100");
        assert!(receiver.finish().status.success());
        // 24 bytes of header, and 16 before each packet.
        let bytes = std::fs::metadata(file.to_string()).expect("a file").len();
        assert_eq!(bytes, 24 + 100 * (16 + 100));
        let again = space.run(&format!("pkt-gen -i vale0:a -f tx -n 250 -P {file}"));
        assert!(stdout(&again).contains("Sent 250 packets 25000 bytes"));
    }

    #[test]
    fn signals_end_with_the_summary() {
        let space = Space::new();
        let child = space.start("pkt-gen -i vale0:a -f tx -R 1000");
        // Then it hears signals.
        space.wait_for_frames("vale0:a", "tx_frames", 1);
        child.interrupt();
        let output = child.finish();
        assert_eq!(status(&output), Some(0));
        assert!(stdout(&output).contains("Speed: "));
        let child = space.start("pkt-gen -i vale0:b -f tx -R 1000 -n 1000000");
        space.wait_for_frames("vale0:b", "tx_frames", 1);
        child.interrupt();
        let output = child.finish();
        assert_eq!(status(&output), Some(130));
    }

    #[test]
    fn persistent_ports_live_and_die() {
        let space = Space::new();
        let made = space.run("newif p0 --tx-slots 256 --rx-slots 128 --json");
        assert_eq!(status(&made), Some(0), "{}", stderr(&made));
        assert!(stdout(&made).contains(r#""tx_slots":256,"rx_slots":128"#));
        assert_ne!(status(&space.run("newif p0")), Some(0));
        let attached = space.run("attach vale0:p0");
        assert_eq!(status(&attached), Some(0), "{}", stderr(&attached));
        let listed = space.run("vale-ctl");
        assert_eq!(status(&listed), Some(1));
        assert_eq!(stdout(&listed), "vale0:p0 bridge_idx 0 port_idx 0\n");
        let shown = space.run("vale-ctl -l vale0:p0");
        assert_eq!(stdout(&shown), "bridge_idx: 0\nport_idx:   0\n");
        assert_ne!(status(&space.run("delif p0")), Some(0));
        assert_eq!(status(&space.run("vale-ctl -d vale0:p0")), Some(0));
        assert_eq!(status(&space.run("delif p0")), Some(0));
    }

    #[test]
    fn bridges_join_switches() {
        let space = Space::new();
        let receiver = space.start("pkt-gen -i vale1:b -f rx -W");
        space.wait_for("vale1:b");
        // Ports of their own: the server may not know yet that the first
        // bridge has ended.
        for (options, port, frames) in [("", "x", 500), ("-c", "y", 1000)] {
            let ends = format!("-i vale0:{port} -i vale1:{port}");
            let bridge = space.start(&format!("bridge {options} {ends} --json"));
            space.wait_for(&format!("vale1:{port}"));
            let sent = space.run("pkt-gen -i vale0:a -f tx -n 500 -R 10k");
            assert_eq!(status(&sent), Some(0), "{}", stderr(&sent));
            // Those that are on their way to it when it ends are not counted.
            space.wait_for_frames("vale1:b", "rx_frames", frames);
            bridge.interrupt();
            let output = bridge.finish();
            assert_eq!(status(&output), Some(0), "{}", stderr(&output));
            assert!(stdout(&output).contains(r#""a_to_b_frames":500"#));
        }
        receiver.interrupt();
        let received = receiver.finish();
        assert!(stdout(&received).contains("Received 1000 packets"));
    }
}
