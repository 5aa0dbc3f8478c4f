//! The library and the tool against servers that they start themselves.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};
    use std::time::{Duration, Instant};

    use netvale::{ErrorKind, Namespace, Port};

    /// What must happen has happened by then, on the slowest machine.
    const SOON: Duration = netvale_testkit::PATIENCE;

    struct Place {
        _tmp: tempfile::TempDir,
        dir: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let tmp = tempfile::tempdir().unwrap();
            Self {
                dir: tmp.path().join("ns"),
                _tmp: tmp,
            }
        }

        fn namespace(&self) -> Namespace {
            Namespace::at(&self.dir).unwrap()
        }

        fn command(&self, args: &[&str]) -> Command {
            let mut command = Command::new(env!("CARGO_BIN_EXE_netvale"));
            command.args(args).env("NETVALE_NS", &self.dir);
            command
        }

        fn run(&self, args: &[&str]) -> Output {
            self.command(args).output().unwrap()
        }

        fn server(&self) -> Option<u64> {
            let out = self.run(&["server", "status", "--json"]);
            let status: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
            status["pid"].as_u64()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            self.run(&["server", "stop", "--force"]);
        }
    }

    fn eventually(mut what: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + SOON;
        while !what() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    fn frame(dst: u8, src: u8) -> [u8; 60] {
        let mut f = [0; 60];
        f[..12].copy_from_slice(&[2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src]);
        f[12] = 0x88;
        f
    }

    /// Sends frames one by one, each to a receiver that sleeps.
    fn wakes(from: &mut Port, to: &mut Port, n: u32) {
        for i in 0..n {
            let sender = std::thread::scope(|s| {
                let receiver = s.spawn(|| to.wait_rx(Some(SOON)));
                std::thread::sleep(Duration::from_millis(if i % 2 == 0 { 2 } else { 0 }));
                from.tx(0).push(&frame(9, 1)).unwrap();
                from.tx(0).sync().unwrap();
                receiver.join().unwrap().unwrap()
            });
            assert!(sender, "frame {i} woke nobody");
            let mut got = 0;
            while to.rx(0).next().is_some() {
                got += 1;
            }
            to.rx(0).sync().unwrap();
            assert_eq!(got, 1);
        }
    }

    #[test]
    fn frames_wake_sleepers_in_every_context() {
        let place = Place::new();
        let trusted = place.namespace();
        let isolated = place.namespace().isolated(true);
        for (i, (a, b)) in [
            (&trusted, &trusted),
            (&isolated, &isolated),
            (&trusted, &isolated),
            (&isolated, &trusted),
        ]
        .into_iter()
        .enumerate()
        {
            let mut a = a.open(&format!("vale{i}:a")).unwrap();
            // With two rings the receiver sleeps on its doorbell, not on a word.
            let mut b = b
                .port(&format!("vale{i}:b"))
                .rings(1, if i % 2 == 0 { 1 } else { 2 })
                .open()
                .unwrap();
            wakes(&mut a, &mut b, 20);
        }
        let report = trusted.check().unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
    }

    #[test]
    fn another_process_wakes_us_by_our_doorbell() {
        let place = Place::new();
        let ns = place.namespace();
        let mut b = ns.port("vale0:b").rings(1, 2).open().unwrap();
        for _ in 0..3 {
            let mut sender = place
                .command(&["pkt-gen", "-i", "vale0:a", "-f", "tx", "-n", "1"])
                .spawn()
                .unwrap();
            assert!(b.wait_rx(Some(SOON)).unwrap());
            for i in 0..2 {
                while b.rx(i).next().is_some() {}
                b.rx(i).sync().unwrap();
            }
            sender.wait().unwrap();
        }
    }

    #[test]
    fn many_start_one_server() {
        let place = Place::new();
        let all: Vec<_> = (0..12)
            .map(|i| place.command(&["newif", &format!("p{i}")]).spawn().unwrap())
            .collect();
        for mut child in all {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(place.namespace().list().unwrap().len(), 12);
    }

    #[test]
    fn it_comes_on_demand_and_goes() {
        // The machine may stand still in one of them.
        let quick = (0..5).any(|_| {
            let place = Place::new();
            let none = place.namespace().no_spawn().list().unwrap_err();
            assert_eq!(none.kind(), ErrorKind::Disconnected);
            let start = Instant::now();
            let port = place.namespace().open("vale0:a").unwrap();
            let cold = start.elapsed();
            let start = Instant::now();
            let other = place.namespace().open("vale0:b").unwrap();
            let warm = start.elapsed();
            eprintln!("first port after {cold:?}, second after {warm:?}");
            assert!(place.server().is_some());
            drop((port, other));
            assert!(eventually(|| !place.dir.join("lock").exists()));
            cold < Duration::from_secs(2) && warm < Duration::from_secs(1)
        });
        assert!(quick);
    }

    #[test]
    fn the_end_of_the_server_is_noticed_and_survived() {
        let place = Place::new();
        let ns = place.namespace();
        let mut isolated = place.namespace().isolated(true).open("vale0:i").unwrap();
        let mut port = ns.open("vale0:a").unwrap();
        let pid = place.server().unwrap();
        let killed = Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        let gone = ns.list().unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Disconnected, "{gone}");
        assert!(gone.hint().is_some());
        assert!(eventually(|| isolated
            .wait_rx(Some(Duration::from_millis(50)))
            .is_err()));
        // A trusted port needs the server for nothing but its end.
        port.tx(0).push(&frame(1, 2)).unwrap();
        port.tx(0).sync().unwrap();
        let again = place.namespace();
        again.open("vale0:a").unwrap();
        assert!(place.server().unwrap() != pid);
    }

    #[test]
    fn start_status_stop() {
        let place = Place::new();
        let code = |args: &[&str]| place.run(args).status.code();
        assert_eq!(code(&["server", "status"]), Some(3));
        assert_eq!(code(&["server", "stop"]), Some(3));
        assert_eq!(code(&["server"]), Some(0));
        assert_eq!(code(&["server"]), Some(4));
        let out = place.run(&["server", "status"]);
        assert!(String::from_utf8_lossy(&out.stdout).contains("until it is stopped"));
        let out = place.run(&["server", "status", "--json"]);
        let line = String::from_utf8(out.stdout).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains(r#""schema":"netvale.server.v1""#), "{line}");
        for missing in [
            &["stats", "vale0:nosuch"][..],
            &["detach", "vale0:nosuch"],
            &["delif", "nosuch", "--json"],
            &["attach", "vale0", "nosuch0"],
            &["pkt-gen", "-i", "netmap:nosuch0", "-f", "rx"],
        ] {
            let out = place.run(missing);
            assert_eq!(out.status.code(), Some(3), "{missing:?}: {out:?}");
        }
        let port = place.namespace().open("vale0:a").unwrap();
        assert_eq!(code(&["server", "stop"]), Some(4));
        let at = place.dir.to_str().unwrap();
        assert_eq!(code(&["server", "--ns", at, "stop", "--force"]), Some(0));
        // Gone when `stop` is over: the next one starts at once.
        assert_eq!(code(&["server"]), Some(0));
        drop(port);
    }

    /// Nobody sees what it says on stderr.
    #[test]
    fn a_server_in_the_background_writes_a_log() {
        let place = Place::new();
        let log = place.dir.join("log");
        let read = || std::fs::read_to_string(&log).unwrap();
        let port = place.namespace().open("vale0:a").unwrap();
        let out = place.run(&["server", "status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(status["log"].as_str(), log.to_str());
        let out = place.run(&["server", "status"]);
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains(log.to_str().unwrap()), "{text}");
        let device = format!("pcap:{}", place.dir.join("f.pcapng").display());
        let attach = ["attach", "vale0", &format!("{device},write")];
        assert_eq!(place.run(&attach).status.code(), Some(0));
        let said = read();
        assert!(
            said.contains("listening") && said.contains("attached"),
            "{said}"
        );
        // It is there when the server is not.
        drop(port);
        assert_eq!(place.run(&["server", "stop"]).status.code(), Some(0));
        assert!(read().starts_with(&said), "{}", read());
        // One that cannot be written is no reason not to start.
        std::fs::remove_file(&log).unwrap();
        std::fs::create_dir(&log).unwrap();
        assert_eq!(place.run(&["server"]).status.code(), Some(0));
    }

    #[test]
    fn settings_are_read_and_mistakes_explained() {
        let place = Place::new();
        let file = place.dir.with_extension("toml");
        std::fs::write(
            &file,
            "isolated = true\n[[port]]\nname = \"p0\"\nattach = \"vale0\"\n",
        )
        .unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(
            place.run(&["server", "--config", file]).status.code(),
            Some(0)
        );
        let ns = place.namespace();
        assert_eq!(ns.list().unwrap()[0].name, "vale0:p0");
        assert_eq!(ns.open("vale0:a").unwrap().context(), "isolated");
        let elsewhere = Place::new();
        let attach =
            |device: &str| format!("[[attach]]\nswitch = \"vale0\"\ndevice = \"{device}\"\n");
        let capture = attach(&format!("pcap:{file}.pcapng,write"));
        for (text, code, causes) in [
            ("[limits]\nprots = 1\n", 2, &["line 2", "`ports`"][..]),
            (&attach("nosuch0"), 3, &["nosuch0"]),
            (&format!("{capture}{capture}"), 4, &["line 4", "attached"]),
        ] {
            std::fs::write(file, text).unwrap();
            for how in [
                &["server", "--config", file][..],
                &["server", "--foreground", "--config", file],
            ] {
                let out = elsewhere.run(how);
                let said = String::from_utf8_lossy(&out.stderr);
                assert_eq!(out.status.code(), Some(code), "{how:?}: {said}");
                let place = format!("{file}: line ");
                assert!(said.contains(&place), "{how:?}: {said}");
                let all = causes.iter().all(|cause| said.contains(cause));
                assert!(all, "{how:?}: {said}");
            }
        }
    }

    /// A lock or a pipe of whoever happened to start the server must not live
    /// as long as the server does.
    #[test]
    fn the_server_keeps_nothing_of_its_starter() {
        let place = Place::new();
        let lock = place.dir.with_extension("lock");
        let script = "exec 9>\"$1\"; flock 9 || exit 9; \"$2\" newif p0";
        let started = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&lock)
            .arg(env!("CARGO_BIN_EXE_netvale"))
            .env("NETVALE_NS", &place.dir)
            .status()
            .unwrap();
        if started.code() == Some(9) {
            eprintln!("SKIP the_server_keeps_nothing_of_its_starter: no flock here");
            return;
        }
        assert!(started.success());
        let pid = place.server().unwrap();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let targets: Vec<PathBuf> = open
            .filter_map(|e| std::fs::read_link(e.ok()?.path()).ok())
            .collect();
        assert!(
            !targets.iter().any(|t| t == Path::new(&lock)),
            "{targets:?}"
        );
        assert!(
            targets
                .iter()
                .filter(|t| *t == Path::new("/dev/null"))
                .count()
                >= 3
        );
    }
}
