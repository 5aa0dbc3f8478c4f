//! Other processes: this test program started again, in a role.
//!
//! A test program that uses them has a test that calls [`Peer::main`], which
//! does nothing unless it is such a process, and names that test to
//! [`Peer::start`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::{PATIENCE, roles, within};

const SPEC: &str = "NETVALE_PEER";
/// What a process that fails says first, on its standard output.
const FAILED: &str = "PEER FAILED: ";

/// What a process is to do: a role and its settings.
#[derive(Debug, Clone, Default)]
pub struct Spec(BTreeMap<String, String>);

impl Spec {
    /// A role in the namespace of this directory.
    #[must_use]
    pub fn new(role: &str, dir: &Path) -> Self {
        Self::default()
            .set("role", role)
            .set("dir", dir.to_str().unwrap())
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Display) -> Self {
        let value = value.to_string();
        assert!(!value.contains(['\n', '=']), "{key}: {value}");
        self.0.insert(key.into(), value);
        self
    }

    /// A setting.
    ///
    /// # Panics
    ///
    /// If it is not there.
    #[must_use]
    pub fn get(&self, key: &str) -> &str {
        match self.0.get(key) {
            Some(value) => value,
            None => panic!("the role needs {key}"),
        }
    }

    /// A number; `None` if it is not there.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key).map(|v| v.parse().unwrap())
    }

    /// Whether it is set to `true`.
    #[must_use]
    pub fn is(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|v| v == "true")
    }

    fn to_text(&self) -> String {
        let lines = self.0.iter().map(|(k, v)| format!("{k}={v}\n"));
        lines.collect()
    }

    fn from_text(text: &str) -> Self {
        let pairs = text.lines().filter_map(|l| l.split_once('='));
        Self(pairs.map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// A process in a role, killed when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
}

impl Peer {
    /// Starts one. `test` is the name of the test that calls [`Peer::main`].
    ///
    /// # Panics
    ///
    /// If that is not possible.
    #[must_use]
    pub fn start(test: &str, spec: &Spec) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(SPEC, spec.to_text())
            .env_remove("NETVALE_SKIP_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Self {
            child: command.spawn().unwrap(),
        }
    }

    /// Plays the role, if this process has one.
    pub fn main() {
        if let Ok(text) = std::env::var(SPEC) {
            die_with_parent();
            say_first();
            roles::play(&Spec::from_text(&text));
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    ///
    /// If the system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// kill -9, and waits until it is dead.
    ///
    /// # Panics
    ///
    /// If it had ended before, or had begun to fail.
    #[track_caller]
    pub fn kill(&mut self) {
        if let Some(status) = self.ended() {
            panic!("the process has ended by itself: {status}");
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut said = Vec::new();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_end(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said);
        if let Some((_, why)) = said.split_once(FAILED) {
            panic!("the process was failing: {why}");
        }
    }

    /// Closes its standard input, which asks it to end; how it did.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn finish(&mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        let mut status = None;
        let ended = within(PATIENCE, || {
            status = self.ended();
            status.is_some()
        });
        assert!(ended, "the process hangs");
        status.unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be dead
        let _ = self.child.wait();
    }
}

/// To fail takes a process some time, in which it may be killed.
fn say_first() {
    let then = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        println!("{FAILED}{info}");
        let _ = std::io::stdout().flush();
        then(info);
    }));
}

/// A test that is killed leaves no process behind.
fn die_with_parent() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        roles::asked_to_end();
    });
}
