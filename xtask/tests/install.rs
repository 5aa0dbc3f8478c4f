//! What `cargo xtask install` puts somewhere is enough to build and run a C
//! program, with nothing else of this tree.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use netvale_testkit::{TempDir, skip};

    fn has(program: &str) -> bool {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null());
        command.stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    }

    fn output(command: &mut Command) -> String {
        let out = command.output().unwrap();
        assert!(out.status.success(), "{command:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn an_installed_tree_builds_programs() {
        for tool in ["cc", "pkg-config"] {
            if !has(tool) {
                let why = format!("needs {tool}: apt-get install gcc libc6-dev pkg-config");
                skip("an_installed_tree_builds_programs", &why);
                return;
            }
        }
        let tmp = TempDir::new();
        let prefix = tmp.path().join("prefix");
        output(
            Command::new(env!("CARGO_BIN_EXE_xtask"))
                .args(["install", "--prefix"])
                .arg(&prefix),
        );
        let pkg_config = |name: &str, what: &str| {
            let mut command = Command::new("pkg-config");
            command.args([what, name]);
            command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
            let words = output(&mut command);
            let words = words.split_whitespace().map(str::to_owned);
            words.collect::<Vec<_>>()
        };
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/netvale-c/examples");
        let ns = tmp.path().join("ns");
        for name in ["netvale", "libnetmap"] {
            let program = tmp.path().join(name);
            output(
                Command::new("cc")
                    .arg("-o")
                    .arg(&program)
                    .arg(examples.join("legacy.c"))
                    .args(pkg_config(name, "--cflags"))
                    .args(pkg_config(name, "--libs")),
            );
            let said = output(
                Command::new(&program)
                    .env("LD_LIBRARY_PATH", prefix.join("lib"))
                    .env("NETVALE_SERVER", prefix.join("bin/netvale"))
                    .env("NETVALE_NS", &ns),
            );
            assert_eq!(said, "sent 100, received 100\n", "{name}");
        }
        // The installed tool finds the installed library.
        output(Command::new(prefix.join("bin/netvale")).args([
            "run",
            "--",
            "sh",
            "-c",
            "test -c /dev/netmap",
        ]));
        let end = Instant::now() + Duration::from_secs(10);
        while ns.join("control").exists() {
            assert!(Instant::now() < end, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
