//! `./test` itself: a stand-in for cargo prints what real runs print, and the
//! script must sum it up, and must not call a bad run good.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output, Stdio};
    use std::sync::{Mutex, PoisonError};
    use std::time::{Duration, Instant};

    const GOOD: &str = "echo 'test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured'";

    /// A process that is being started has our open files for a moment, and a
    /// script that anybody has open for writing cannot be executed. So nobody
    /// writes scripts while another starts a process.
    static WRITING_OR_STARTING: Mutex<()> = Mutex::new(());

    fn start(command: &mut Command) -> Output {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let guard = WRITING_OR_STARTING
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn().unwrap();
        drop(guard);
        child.wait_with_output().unwrap()
    }

    /// A repository with nothing but the script, and a cargo that runs the
    /// given shell code for `cargo test`.
    struct Scene {
        dir: PathBuf,
    }

    impl Scene {
        fn new(name: &str, on_test: &str) -> Self {
            let _guard = WRITING_OR_STARTING
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
            let name = format!("nvscript-{}-{name}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(dir.join("bin")).unwrap();
            fs::create_dir_all(dir.join(".ci")).unwrap();
            fs::create_dir_all(dir.join("tmp")).unwrap();
            fs::copy(root.join("test"), dir.join("test")).unwrap();
            let cargo = dir.join("bin/cargo");
            let text = format!(
                "#!/bin/bash\necho \"$@\" >>\"$SCENE/calls\"\n\
                 if [[ $1 == build ]]; then exit \"${{BUILD_STATUS:-0}}\"; fi\n{on_test}\n"
            );
            fs::write(&cargo, text).unwrap();
            fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
            Self { dir }
        }

        fn run(&self, args: &[&str], env: &[(&str, &str)]) -> Run {
            let path = std::env::var("PATH").unwrap();
            let mut command = Command::new(self.dir.join("test"));
            command
                .args(args)
                .env("PATH", format!("{}:{path}", self.dir.join("bin").display()))
                .env("SCENE", &self.dir)
                .env("CARGO_TARGET_DIR", self.dir.join("target"))
                .env("TMPDIR", self.dir.join("tmp"))
                .env_remove("CI")
                .env_remove("NETVALE_TEST_LIMIT_S")
                .envs(env.iter().copied());
            Run::new(&start(&mut command))
        }

        fn calls(&self) -> String {
            fs::read_to_string(self.dir.join("calls")).unwrap()
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let removed = fs::remove_dir_all(&self.dir);
            if !std::thread::panicking() {
                removed.unwrap();
            }
        }
    }

    #[derive(Debug)]
    struct Run {
        good: bool,
        text: String,
        last: String,
    }

    impl Run {
        fn new(output: &Output) -> Self {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
            let last = stdout.lines().last().unwrap_or("").to_owned();
            Self {
                good: output.status.success(),
                text,
                last,
            }
        }
    }

    #[test]
    fn results_of_all_stages_are_summed() {
        let scene = Scene::new("sum", GOOD);
        let run = scene.run(&[], &[]);
        assert_eq!(run.last, "15 passed, 0 failed, 0 skipped", "{run:?}");
        assert!(run.good, "{run:?}");
        assert!(
            run.text.contains("test result: ok. 5 passed"),
            "live output: {run:?}"
        );
        let calls = scene.calls();
        assert!(
            calls.contains("build --workspace --all-targets\n"),
            "{calls}"
        );
        assert!(calls.contains("test --workspace"), "{calls}");
        assert!(calls.contains("test --profile=release-test"), "{calls}");
        assert!(calls.contains("--test=loom"), "{calls}");
        assert_eq!(fs::read_dir(scene.dir.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn quick_leaves_out_the_release_profile() {
        let scene = Scene::new("quick", GOOD);
        let run = scene.run(&["--quick"], &[]);
        assert_eq!(run.last, "5 passed, 0 failed, 0 skipped", "{run:?}");
        assert!(
            run.good && !scene.calls().contains("--profile=release-test"),
            "{run:?}"
        );
    }

    #[test]
    fn failures_fail_the_run() {
        let failing = "echo 'test result: FAILED. 3 passed; 2 failed; 0 ignored'; exit 101";
        let run = Scene::new("fail", failing).run(&["--quick"], &[]);
        assert_eq!(run.last, "3 passed, 2 failed, 0 skipped", "{run:?}");
        assert!(!run.good);
    }

    #[test]
    fn a_crash_without_a_result_is_a_failure() {
        let run = Scene::new("crash", &format!("{GOOD}; exit 101")).run(&["--quick"], &[]);
        assert_eq!(run.last, "5 passed, 1 failed, 0 skipped", "{run:?}");
        assert!(!run.good);
    }

    #[test]
    fn a_failed_build_is_a_failure() {
        let run = Scene::new("build", GOOD).run(&[], &[("BUILD_STATUS", "101")]);
        assert_eq!(run.last, "0 passed, 1 failed, 0 skipped", "{run:?}");
        assert!(!run.good);
    }

    #[test]
    fn a_run_without_tests_is_a_failure() {
        let run = Scene::new("none", "exit 0").run(&["--quick"], &[]);
        assert!(!run.good, "{run:?}");
    }

    const SKIPPING: &str = "\
        echo 'SKIP xdp::bind: needs CAP_NET_ADMIN' >>\"$NETVALE_SKIP_LOG\"\n\
        echo 'SKIP xdp::bind: needs CAP_NET_ADMIN' >>\"$NETVALE_SKIP_LOG\"\n\
        echo 'SKIP vmm::boot: no /dev/kvm' >>\"$NETVALE_SKIP_LOG\"\n\
        echo 'test src/lib.rs - f (line 3) ... ignored'\n\
        echo 'test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured'";

    #[test]
    fn skips_are_counted_once_and_listed() {
        let run = Scene::new("skip", SKIPPING).run(&["--quick"], &[]);
        assert_eq!(run.last, "3 passed, 0 failed, 3 skipped", "{run:?}");
        assert!(run.good);
        for line in [
            "xdp::bind: needs CAP_NET_ADMIN",
            "vmm::boot: no /dev/kvm",
            "(line 3): marked",
        ] {
            assert!(run.text.contains(line), "{line}: {run:?}");
        }
    }

    #[test]
    fn ci_refuses_skips_that_are_not_listed() {
        let scene = Scene::new("ci", SKIPPING);
        let run = scene.run(&["--quick"], &[("CI", "true")]);
        assert_eq!(run.last, "3 passed, 3 failed, 3 skipped", "{run:?}");
        assert!(!run.good);

        let list = "# comment\nxdp::*\tno such driver\nvmm::boot\tno virtualisation\n\
                    src/lib.rs*\tneeds a network card\n";
        fs::write(scene.dir.join(".ci/allowed-skips"), list).unwrap();
        let run = scene.run(&["--quick"], &[("CI", "true")]);
        assert_eq!(run.last, "3 passed, 0 failed, 3 skipped", "{run:?}");
        assert!(run.good);
    }

    #[test]
    fn a_skip_without_a_reason_is_a_failure() {
        let scene = Scene::new(
            "mute",
            &format!("echo 'SKIP a::b:' >>$NETVALE_SKIP_LOG; {GOOD}"),
        );
        let run = scene.run(&["--quick"], &[]);
        assert_eq!(run.last, "5 passed, 1 failed, 0 skipped", "{run:?}");
    }

    #[test]
    fn a_leftover_folder_is_a_failure() {
        let scene = Scene::new("folder", &format!("mkdir $TMPDIR/ns; {GOOD}"));
        let run = scene.run(&["--quick"], &[]);
        assert_eq!(run.last, "5 passed, 1 failed, 0 skipped", "{run:?}");
        assert!(run.text.contains("left behind: "), "{run:?}");
        assert_eq!(fs::read_dir(scene.dir.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_leftover_server_is_ended_and_is_a_failure() {
        let server = "mkdir -p $CARGO_TARGET_DIR/debug\n\
                      cp /bin/sleep $CARGO_TARGET_DIR/debug/netvale\n\
                      setsid $CARGO_TARGET_DIR/debug/netvale 300 & echo $! >$SCENE/pid";
        let scene = Scene::new("server", &format!("{server}; {GOOD}"));
        let run = scene.run(&["--quick"], &[]);
        assert_eq!(run.last, "5 passed, 1 failed, 0 skipped", "{run:?}");
        assert!(run.text.contains("left running: "), "{run:?}");
        let pid = fs::read_to_string(scene.dir.join("pid")).unwrap();
        // It may be a zombie until somebody collects it; a zombie has no program.
        let program = || fs::read_link(format!("/proc/{}/exe", pid.trim()));
        let end = Instant::now() + Duration::from_secs(30);
        while let Ok(program) = program() {
            assert!(Instant::now() < end, "{program:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_run_that_does_not_end_is_ended() {
        let scene = Scene::new("hang", "exec sleep 300");
        let run = scene.run(&["--quick"], &[("NETVALE_TEST_LIMIT_S", "2")]);
        assert_eq!(run.last, "0 passed, 1 failed, 0 skipped", "{run:?}");
        assert!(run.text.contains("did not end within"), "{run:?}");
    }

    #[test]
    fn wrong_usage_is_refused() {
        let scene = Scene::new("usage", GOOD);
        assert!(!scene.run(&["--fast"], &[]).good);
        let help = scene.run(&["--help"], &[]);
        assert!(
            help.good && help.text.contains("./test --quick"),
            "{help:?}"
        );
    }

    /// `.ci/run` with stand-ins for what it calls.
    fn ci_run(name: &str, failing: &str) -> (bool, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let scene = Scene::new(name, "");
        let stub = format!(
            "#!/bin/bash\ncall=\"${{0##*/}} $*\"\necho \"$call\" >>\"$SCENE/calls\"\n\
             [[ $call != '{failing}' ]]\n"
        );
        let guard = WRITING_OR_STARTING
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        fs::copy(root.join(".ci/run"), scene.dir.join(".ci/run")).unwrap();
        // Written over, not created: both are executable already.
        fs::write(scene.dir.join("test"), &stub).unwrap();
        fs::write(scene.dir.join("bin/cargo"), &stub).unwrap();
        drop(guard);
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(scene.dir.join(".ci/run"));
        command
            .env(
                "PATH",
                format!("{}:{path}", scene.dir.join("bin").display()),
            )
            .env("SCENE", &scene.dir);
        (start(&mut command).status.success(), scene.calls())
    }

    #[test]
    fn every_stage_is_a_command() {
        let (good, calls) = ci_run("stages", "");
        assert!(good);
        assert_eq!(
            calls,
            "test \ncargo xtask ci\ncargo build --release\ncargo run --release -- demo\n"
        );
    }

    #[test]
    fn a_failed_stage_ends_the_run() {
        let (good, calls) = ci_run("stop", "cargo xtask ci");
        assert!(!good);
        assert_eq!(calls, "test \ncargo xtask ci\n");
    }
}
