//! What the tests stand on.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netvale_server::remote::Remote;
use netvale_server::{Config, Server};
use netvale_wire::proto::{PortInfo, Registered, Reply, Request, Seated, Wanted};

/// A server in a thread, with its directory.
pub(crate) struct Bed {
    _tmp: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Bed {
    /// With small tables and one change to the defaults.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("ns");
        let mut config = Config::at(&dir);
        config.service = true;
        change(&mut config);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = Server::start(config, Some(OwnedFd::from(theirs))).unwrap();
        let thread = std::thread::spawn(move || server.run().unwrap());
        Self {
            _tmp: tmp,
            dir,
            stop: ours,
            thread: Some(thread),
        }
    }

    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn connect(&self) -> Remote {
        connect(&self.dir, false)
    }

    pub(crate) fn ports(&self) -> Vec<PortInfo> {
        list(&mut self.connect())
    }

    /// Whether it ended by itself within this time.
    pub(crate) fn ends_within(&mut self, time: Duration) -> bool {
        let thread = self.thread.take().unwrap();
        let ended = eventually(time, || thread.is_finished());
        self.thread = Some(thread);
        ended
    }

    /// It still answers, and its books balance.
    pub(crate) fn assert_sound(&self) {
        let mut remote = self.connect();
        let (reply, _) = remote.ask(&Request::Check { after: None }).unwrap();
        let Reply::Check { problems, .. } = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(problems, Vec::<String>::new());
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.write_all(b"x").ok();
        if let Some(thread) = self.thread.take() {
            let fine = thread.join().is_ok();
            assert!(fine || std::thread::panicking(), "the server panicked");
        }
    }
}

pub(crate) fn connect(dir: &Path, isolated: bool) -> Remote {
    let (remote, hello, fds) = Remote::connect(dir, isolated).unwrap();
    let Reply::Hello { state, .. } = hello else {
        panic!("{hello:?}");
    };
    assert_eq!(fds.len(), usize::from(state.is_some()));
    remote
}

pub(crate) fn register_request(spec: &str) -> Request {
    Request::Register {
        spec: spec.into(),
        want: Wanted::default(),
    }
}

pub(crate) fn register(remote: &mut Remote, spec: &str) -> (Registered, Vec<OwnedFd>) {
    let (reply, fds) = remote.ask(&register_request(spec)).unwrap();
    match reply {
        Reply::Registered(r) => (r, fds),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn refused(remote: &mut Remote, request: &Request) -> netvale_wire::proto::ErrorKind {
    match remote.ask(request).unwrap().0 {
        Reply::Error { kind, .. } => kind,
        other => panic!("{other:?}"),
    }
}

/// The answer to who attached or detached this, the first port of its switch.
pub(crate) fn attached(name: &str) -> Reply {
    Reply::Attached {
        port_index: 0,
        ports: vec![Seated {
            name: name.into(),
            port_index: 0,
        }],
    }
}

pub(crate) fn list(remote: &mut Remote) -> Vec<PortInfo> {
    let mut all: Vec<PortInfo> = Vec::new();
    loop {
        let after = all.last().map(PortInfo::key);
        match remote.ask(&Request::List { after }).unwrap().0 {
            Reply::Ports { ports, more } => {
                all.extend(ports);
                if !more {
                    return all;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn eventually(time: Duration, mut what: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if what() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What must happen has happened by then, on the slowest machine.
pub(crate) const SOON: Duration = netvale_testkit::PATIENCE;

/// Says why a test could not run here.
pub(crate) fn skip(test: &str, reason: &str) {
    eprintln!("SKIP {test}: {reason}");
    if let Some(path) = std::env::var_os("NETVALE_SKIP_LOG") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        writeln!(file.unwrap(), "SKIP {test}: {reason}").unwrap();
    }
}
