//! Namespaces for tests.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use netvale::{Namespace, NamespaceConfig};

use crate::{TempDir, eventually};

/// Who runs the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This process; there is no server.
    Embedded,
    /// Each process for itself, on shared memory.
    Trusted,
    /// The server, for a client that it does not trust.
    Isolated,
}

impl Place {
    /// A fresh namespace.
    #[must_use]
    pub fn up(self) -> Bed {
        Bed::new(self, None)
    }

    /// One with other settings: TOML as the server reads it. Embedded ones
    /// cannot have any.
    #[must_use]
    pub fn with(self, settings: &str) -> Bed {
        Bed::new(self, Some(settings))
    }
}

/// A namespace in one of the contexts, its directory, and its server.
#[derive(Debug)]
pub struct Bed {
    place: Place,
    // Before the directory: the server ends first.
    ns: Namespace,
    server: Option<Server>,
    dir: Option<TempDir>,
}

impl Bed {
    fn new(place: Place, settings: Option<&str>) -> Self {
        if place == Place::Embedded {
            assert!(settings.is_none(), "only servers have settings");
            let config = NamespaceConfig {
                huge: false,
                ..NamespaceConfig::default()
            };
            return Self {
                place,
                ns: Namespace::embedded_with(config).unwrap(),
                server: None,
                dir: None,
            };
        }
        let dir = TempDir::new();
        let server = Server::start(&dir.path().join("ns"), settings);
        Self {
            place,
            ns: namespace(server.dir()).isolated(place == Place::Isolated),
            server: Some(server),
            dir: Some(dir),
        }
    }

    /// The context.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// The namespace; ports that it opens are in the bed's context.
    #[must_use]
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// A handle of the same namespace, with connections of its own.
    ///
    /// # Panics
    ///
    /// If it is embedded.
    #[must_use]
    pub fn handle(&self, isolated: bool) -> Namespace {
        namespace(self.dir()).isolated(isolated)
    }

    /// The namespace's directory.
    ///
    /// # Panics
    ///
    /// If it is embedded.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.server.as_ref().unwrap().dir()
    }

    /// A directory for whatever the test writes.
    ///
    /// # Panics
    ///
    /// If it is embedded.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// The server.
    ///
    /// # Panics
    ///
    /// If it is embedded.
    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().unwrap()
    }

    /// The books balance. Only at a quiet moment.
    ///
    /// # Panics
    ///
    /// If they do not.
    #[track_caller]
    pub fn assert_sound(&self) {
        let report = self.ns.check().unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
    }

    /// Buffers given out, all regions together.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    #[must_use]
    pub fn buffers_in_use(&self) -> u64 {
        let regions = self.ns.check().unwrap().regions;
        regions.iter().map(|r| r.buffers - r.free).sum()
    }

    /// Waits until every port is gone, and looks whether everything has been
    /// given back.
    ///
    /// # Panics
    ///
    /// If not.
    #[track_caller]
    pub fn assert_empty(&self) {
        eventually("the last port is gone", || {
            self.ns.list().unwrap().is_empty()
        });
        self.assert_sound();
        // The two that nobody ever gets, of each region that is there.
        let regions = self.ns.check().unwrap().regions;
        for r in regions {
            assert!(
                r.buffers - r.free <= 2 && r.in_rings == 0 && r.extra == 0,
                "something was not given back: {r:?}"
            );
        }
    }
}

fn namespace(dir: &Path) -> Namespace {
    // The bed's own server or none.
    Namespace::at(dir).unwrap().no_spawn()
}

/// A server process, killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    /// Starts one in this directory and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    #[must_use]
    pub fn start(dir: &Path, settings: Option<&str>) -> Self {
        let mut command = Command::new(program());
        // Under other names the program is another tool.
        std::os::unix::process::CommandExt::arg0(&mut command, "netvale");
        let file = dir.with_extension("toml");
        let huge = "huge_pages = \"never\"\n";
        std::fs::write(&file, format!("{huge}{}", settings.unwrap_or_default())).unwrap();
        command.args(["server", "--foreground", "--ns"]).arg(dir);
        command.arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.env("RUST_LOG", "error");
        let child = command.spawn().unwrap();
        let this = Self {
            child,
            dir: dir.into(),
        };
        let ns = namespace(dir);
        eventually("the server answers", || ns.list().is_ok());
        this
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// kill -9.
    ///
    /// # Panics
    ///
    /// If it had ended before.
    pub fn kill(&mut self) {
        assert!(self.is_alive(), "the server has died by itself");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may be dead
        let _ = self.child.wait();
    }
}

/// The `netvale` program of this build: `NETVALE_SERVER`, or the one beside
/// the test programs. It and the library for `netvale run` are built if they
/// are not there.
///
/// # Panics
///
/// If it cannot be built.
#[must_use]
pub fn program() -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    if let Some(path) = std::env::var_os("NETVALE_SERVER").filter(|p| !p.is_empty()) {
        return path.into();
    }
    let exe = std::env::current_exe().unwrap();
    // target/debug/deps/test-0123
    let profile = exe.ancestors().nth(2).unwrap();
    let path = profile.join("netvale");
    let _one_at_a_time = BUILDING.lock();
    if !path.is_file() || !profile.join("libnetvale_preload.so").is_file() {
        build(profile);
    }
    assert!(
        path.is_file(),
        "{} was not built: name the program in NETVALE_SERVER",
        path.display()
    );
    path
}

/// Other test programs may do this at the same time: cargo has a lock.
fn build(profile: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--package",
        "netvale-cli",
        "--package",
        "netvale-preload",
    ]);
    match profile.file_name() {
        Some(name) if name != "debug" => command.arg("--profile").arg(name),
        _ => &mut command, // the dev profile's folder is called otherwise
    };
    command.arg("--target-dir").arg(profile.parent().unwrap());
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(command.status().unwrap().success(), "cannot build netvale");
}
