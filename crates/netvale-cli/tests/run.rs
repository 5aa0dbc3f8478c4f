//! `netvale run`: programs get a device, and those that cannot are told.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use netvale_testkit::{Bed, Place, program, skip};

    fn examples() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../netvale-c")
    }

    /// A C program of ours, or `None` (and a note) without a compiler.
    fn compile(bed: &Bed, test: &str, args: &[&str]) -> Option<PathBuf> {
        let to = bed.scratch().join("program");
        let mut cc = Command::new("cc");
        cc.arg("-o")
            .arg(&to)
            .arg("-I")
            .arg(examples().join("include"));
        cc.arg(examples().join("examples/legacy.c")).args(args);
        match cc.output() {
            Ok(out) if out.status.success() => Some(to),
            Ok(out) if args.is_empty() => panic!("{out:?}"),
            _ => {
                skip(
                    test,
                    "needs a C compiler and a static C library: apt-get install gcc libc6-dev",
                );
                None
            }
        }
    }

    fn run(bed: &Bed, args: &[&str], program_and_args: &[&str]) -> Output {
        // The one that testkit built has the library beside it.
        let mut command = Command::new(program());
        command.env("NETVALE_NS", bed.dir()).arg("run").args(args);
        command.arg("--").args(program_and_args);
        command.output().unwrap()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn an_unmodified_program_finds_its_device() {
        let bed = Place::Trusted.up();
        let Some(path) = compile(&bed, "an_unmodified_program_finds_its_device", &[]) else {
            return;
        };
        let path = path.to_str().unwrap();
        for args in [&["--stats"][..], &["--stats", "--isolated"]] {
            let out = run(&bed, args, &[path]);
            assert!(out.status.success(), "{args:?}: {out:?}");
            assert_eq!(text(&out.stdout), "sent 100, received 100\n", "{args:?}");
            let said = text(&out.stderr);
            assert!(said.contains("sent 100 frames"), "{args:?}: {said}");
            assert!(said.contains("received 100 frames"), "{args:?}: {said}");
        }
        bed.assert_sound();
    }

    #[test]
    fn the_status_is_the_programs_own_and_children_have_the_device_too() {
        let bed = Place::Trusted.up();
        let script = "sh -c 'test -c /dev/netmap' && exit 42";
        let out = run(&bed, &[], &["sh", "-c", script]);
        assert_eq!(out.status.code(), Some(42), "{out:?}");
    }

    #[test]
    fn a_refused_request_is_explained_unless_nobody_wants_to_know() {
        let bed = Place::Trusted.up();
        let Some(path) = compile(
            &bed,
            "a_refused_request_is_explained_unless_nobody_wants_to_know",
            &[],
        ) else {
            return;
        };
        let path = path.to_str().unwrap();
        let nowhere = ["--ns", "/proc/nowhere"];
        let out = run(&bed, &nowhere, &[path]);
        assert!(!out.status.success());
        assert!(text(&out.stderr).contains("netvale: "), "{out:?}");
        let out = run(&bed, &["--ns", "/proc/nowhere", "-q"], &[path]);
        assert!(!out.status.success());
        assert!(!text(&out.stderr).contains("netvale: "), "{out:?}");
    }

    #[test]
    fn programs_that_cannot_be_helped_are_named() {
        let bed = Place::Trusted.up();
        let out = run(&bed, &[], &["/nonexistent/program"]);
        assert_eq!(out.status.code(), Some(3), "{out:?}");
        assert!(text(&out.stderr).contains("/nonexistent/program: no such program"));
        let test = "programs_that_cannot_be_helped_are_named";
        let Some(path) = compile(&bed, test, &["-static"]) else {
            return;
        };
        let path = path.to_str().unwrap();
        let out = run(&bed, &[], &[path]);
        assert_eq!(out.status.code(), Some(3), "{out:?}");
        let said = text(&out.stderr);
        assert!(said.contains("is linked statically"), "{said}");
        assert!(said.contains("hint: "), "{said}");
        // It may be started all the same; it has no device then.
        let out = run(&bed, &["--force"], &[path]);
        assert!(!out.status.success());
        assert_ne!(out.status.code(), Some(3), "{out:?}");
        // A script is as good as what interprets it.
        let script = bed.scratch().join("script");
        std::fs::write(&script, format!("#!{path}\n")).unwrap();
        let mut mode = Command::new("chmod");
        assert!(mode.arg("+x").arg(&script).status().unwrap().success());
        let out = run(&bed, &[], &[script.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(3), "{out:?}");
    }
}
