//! The examples compile, link in every way, and run.
//!
//! A namespace of its own for each run; its server starts with the first
//! program and ends with the last.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::cc::{cc, here, libraries, run};
use netvale_testkit::{TempDir, eventually, program};

const ALL: [&str; 7] = [
    "send",
    "receive",
    "forward",
    "firewall",
    "pipes",
    "legacy",
    "multislot",
];
/// What the static library needs besides itself.
const PRIVATE: [&str; 3] = ["-lpthread", "-ldl", "-lm"];

/// Where programs get the library from.
#[derive(Clone, Copy)]
pub(crate) enum Link {
    Shared,
    Static,
    /// Not linked, but loaded before all others.
    Preloaded,
}

/// A folder with programs and a namespace.
pub(crate) struct Bench {
    dir: TempDir,
    link: Link,
}

impl Bench {
    pub(crate) fn new(link: Link) -> Self {
        let dir = TempDir::new();
        let library = libraries().join("libnetvale_c.so");
        for name in ["libnetvale.so", "libnetvale.so.0"] {
            std::os::unix::fs::symlink(&library, dir.path().join(name)).unwrap();
        }
        Self { dir, link }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn build(&self, example: &str) -> PathBuf {
        let program = self.path().join(example);
        let mut cc = cc();
        cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
        cc.arg(&program)
            .arg(here("examples").join(example).with_extension("c"));
        match self.link {
            Link::Shared => {
                let rpath = format!("-Wl,-rpath,{}", self.path().display());
                cc.arg("-L").arg(self.path()).args(["-lnetvale", &rpath]);
            }
            Link::Static => {
                cc.arg(libraries().join("libnetvale_c.a")).args(PRIVATE);
            }
            Link::Preloaded => {}
        }
        run(&mut cc);
        program
    }

    fn command(&self, example: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.build(example));
        command.args(args).env("NETVALE_NS", self.path().join("ns"));
        command.env("NETVALE_SERVER", program());
        if matches!(self.link, Link::Preloaded) {
            command.env("LD_PRELOAD", libraries().join("libnetvale_preload.so"));
        }
        command
    }

    /// Runs an example to its end.
    #[track_caller]
    fn run(&self, example: &str) -> String {
        run(&mut self.command(example, &[]))
    }

    /// Starts one and waits until it is ready.
    pub(crate) fn start(&self, example: &str, args: &[&str]) -> Running {
        let mut command = self.command(example, args);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{example}: {line}");
        Running {
            child,
            output,
            line,
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The server ends after its last client, and takes its socket with it.
        if !std::thread::panicking() {
            let socket = self.path().join("ns/control");
            eventually("the server ends", || !socket.exists());
        }
    }
}

pub(crate) struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    line: String,
}

impl Running {
    /// The process.
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// Waits for its end and gives what it said.
    pub(crate) fn end(mut self) -> String {
        self.output.read_to_string(&mut self.line).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.line);
        std::mem::take(&mut self.line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended, if all went well
        let _ = self.child.wait();
    }
}

fn all_run(bench: &Bench) {
    assert_eq!(bench.run("legacy"), "sent 100, received 100\n");
    assert_eq!(
        bench.run("multislot"),
        "50 of 50 frames of 9000 bytes came back whole\n"
    );
    assert_eq!(bench.run("pipes"), "10000 messages through vale0:pipes{1\n");
    // Pipes lose nothing, so the numbers are exact.
    let receive = bench.start("receive", &["vale0:p}2", "5000"]);
    let forward = bench.start("forward", &["vale0:p}1", "vale0:p{2", "5000"]);
    let sent = run(&mut bench.command("send", &["vale0:p{1", "5000"]));
    assert_eq!(sent, "sent 5000 frames\n");
    assert_eq!(receive.end(), "ready\nreceived 5000 frames, 300000 bytes\n");
    assert_eq!(forward.end(), "ready, zero-copy\nforwarded 5000 frames\n");
    // Between switches.
    let receive = bench.start("receive", &["vale1:b", "1"]);
    let forward = bench.start("forward", &["vale0:a", "vale1:a", "1"]);
    run(&mut bench.command("send", &["vale0:b", "1"]));
    assert_eq!(receive.end(), "ready\nreceived 1 frames, 60 bytes\n");
    assert!(forward.end().ends_with("forwarded 1 frames\n"));
}

#[test]
fn examples_run_with_the_shared_library() {
    all_run(&Bench::new(Link::Shared));
}

#[test]
fn examples_run_with_the_static_library() {
    all_run(&Bench::new(Link::Static));
}

/// The header-only library needs nothing linked.
#[test]
fn the_older_library_runs_under_the_shim() {
    let bench = Bench::new(Link::Preloaded);
    assert_eq!(bench.run("legacy"), "sent 100, received 100\n");
}

#[test]
fn every_example_is_tried_and_described() {
    let readme = std::fs::read_to_string(here("examples/README.md")).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(here("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "c") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(
                readme.contains(&format!("`{name}.c`")),
                "{name} is not in the README"
            );
            found.push(name);
        }
    }
    found.sort();
    let mut all = ALL;
    all.sort_unstable();
    assert_eq!(found, all);
}

/// What a program finds in the library: the helper functions, and the calls
/// that it would otherwise find in libc.
#[test]
fn the_library_has_its_name_and_symbols() {
    let source = "
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv)
{
	void *lib = dlopen(argv[1], RTLD_NOW);
	int i;

	for (i = 2; i < argc; i++) {
		Dl_info info;
		void *at = lib ? dlsym(lib, argv[i]) : 0;

		if (!at || !dladdr(at, &info) || __builtin_strcmp(info.dli_fname, argv[1]))
			printf(\"%s\\n\", argv[i]);
	}
	return argc < 3;
}
";
    let dir = TempDir::new();
    let (file, program) = (dir.path().join("find.c"), dir.path().join("find"));
    std::fs::write(&file, source).unwrap();
    run(cc()
        .args(["-D_GNU_SOURCE", "-o"])
        .arg(&program)
        .arg(&file)
        .arg("-ldl"));
    let header = std::fs::read_to_string(here("include/libnetmap.h")).unwrap();
    // Words before a parenthesis that opens no manual section.
    let mut names: Vec<&str> = header
        .match_indices('(')
        .filter(|(at, _)| !header[*at..].starts_with("(3)"))
        .filter_map(|(at, _)| {
            header[..at]
                .rsplit(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
        })
        .filter(|word| {
            ["nmport_", "nmreq_", "nmctx_"]
                .iter()
                .any(|p| word.starts_with(p))
        })
        // Macros and inline functions.
        .filter(|word| !["nmreq_foreach_option", "nmctx_ferror"].contains(word))
        .collect();
    names.sort_unstable();
    names.dedup();
    assert!(
        names.len() >= 40,
        "only {} functions in the header",
        names.len()
    );
    names.extend(["netvale_version", "nmctx_threadsafe"]);
    names.extend([
        "open", "openat", "close", "ioctl", "mmap", "munmap", "poll", "select",
    ]);
    names.extend(["epoll_ctl", "epoll_wait", "dup", "dup2", "fcntl"]);
    let library = libraries().join("libnetvale_c.so");
    let missing = run(Command::new(&program).arg(&library).args(names));
    assert_eq!(missing, "", "not exported");
}
