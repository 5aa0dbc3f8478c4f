//! Servers and clients as processes of their own: this program started again,
//! with one of the tests that are named after children as its main function.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use netvale_backends::pcap::{Writer, WriterConfig};
use netvale_server::remote::Remote;
use netvale_server::{Access, Config, Server};
use netvale_testkit::{PATIENCE, within};
use netvale_wire::proto::{ErrorKind, Reply, Request};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};

use crate::bed::{Bed, SOON, connect, eventually, list, refused, register, register_request, skip};

pub(crate) const DIR: &str = "NETVALE_TEST_DIR";
const FILES: &str = "NETVALE_TEST_FILES";

pub(crate) fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.stdin(Stdio::null());
    command
}

/// A server process, killed in the end.
pub(crate) struct ServerProcess {
    pub(crate) child: Child,
    pub(crate) dir: PathBuf,
}

impl ServerProcess {
    pub(crate) fn start(dir: &Path, files: Option<u64>) -> Self {
        let mut command = again("process::child_server");
        command.env(DIR, dir);
        if let Some(n) = files {
            command.env(FILES, n.to_string());
        }
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let this = Self {
            child,
            dir: dir.to_owned(),
        };
        assert!(eventually(SOON, || Remote::connect(dir, true).is_ok()));
        this
    }

    /// From now on it does nothing, until it is told to go on.
    pub(crate) fn stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
        let still = || {
            self.proc("stat")
                .rsplit(") ")
                .next()
                .unwrap()
                .starts_with('T')
        };
        assert!(eventually(SOON, still));
    }

    pub(crate) fn go_on(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    fn status(&self, key: &str) -> u64 {
        number(&self.proc("status"), key)
    }

    /// Times that its threads went to sleep of their own accord.
    fn naps(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .map(|t| {
                let status = std::fs::read_to_string(t.unwrap().path().join("status")).unwrap();
                number(&status, "voluntary_ctxt_switches")
            })
            .sum()
    }

    /// What its threads had of processors, nanoseconds.
    fn time(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .map(|t| {
                let stat = std::fs::read_to_string(t.unwrap().path().join("schedstat")).unwrap();
                let time = stat.split_whitespace().next().unwrap();
                time.parse::<u64>().unwrap()
            })
            .sum()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn number(status: &str, key: &str) -> u64 {
    let line = status.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn child_server() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    if let Ok(files) = std::env::var(FILES) {
        let most = files.parse().ok();
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
    }
    let mut config = Config::at(dir);
    config.service = true;
    Server::start(config, None).unwrap().run().unwrap();
}

#[test]
fn a_killed_server_leaves_no_obstacle() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("ns");
    let mut first = ServerProcess::start(&dir, None);
    let mut open = connect(&dir, false);
    register(&mut open, "vale0:a");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    open.reply().unwrap_err();
    assert!(!open.channel().is_open());
    assert!(dir.join("control").exists());
    let second = ServerProcess::start(&dir, None);
    assert!(list(&mut connect(&second.dir, false)).is_empty());
}

#[test]
fn a_killed_client_is_cleaned_up_after() {
    let tmp = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&tmp.path().join("ns"), None);
    let mut client = again("process::child_client")
        .env(DIR, &server.dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut watcher = connect(&server.dir, false);
    assert!(eventually(SOON, || list(&mut watcher).len() == 2));
    let pid = Pid::from_child(&client);
    kill_process(pid, Signal::KILL).unwrap();
    client.wait().unwrap();
    assert!(eventually(SOON, || list(&mut watcher).is_empty()));
}

#[test]
fn child_client() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let dir = Path::new(&dir);
    let (mut a, mut b) = (connect(dir, false), connect(dir, true));
    register(&mut a, "vale0:a");
    register(&mut b, "vale0:b");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn an_idle_server_is_small_and_sleeps() {
    let tmp = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&tmp.path().join("ns"), None);
    let (mut a, mut b) = (connect(&server.dir, false), connect(&server.dir, true));
    register(&mut a, "vale0:a");
    register(&mut b, "vale0:b");
    std::thread::sleep(Duration::from_millis(300));
    // It may have been kept from going to sleep.
    let sleeps = eventually(SOON, || {
        let before = server.naps();
        std::thread::sleep(Duration::from_secs(1));
        server.naps() == before
    });
    assert!(sleeps, "somebody wakes up for nothing");
    drop((a, b));
    std::thread::sleep(Duration::from_millis(100));
    let private = server.status("RssAnon") + server.status("RssFile");
    assert!(private <= 10 * 1024, "{private} KiB");
}

#[test]
fn out_of_descriptors_it_says_so_and_recovers() {
    let tmp = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&tmp.path().join("ns"), Some(40));
    let mut open = Vec::new();
    let mut refusals = 0;
    for i in 0..60 {
        match Remote::connect(&server.dir, false) {
            Ok((mut remote, Reply::Hello { .. }, _)) => {
                let (reply, _) = remote
                    .ask(&register_request(&format!("vale0:p{i}")))
                    .unwrap();
                if let Reply::Error { kind, .. } = reply {
                    assert_eq!(kind, ErrorKind::NoMemory);
                    refusals += 1;
                }
                open.push(remote);
            }
            Ok((_, Reply::Error { kind, .. }, _)) => {
                assert_eq!(kind, ErrorKind::NoMemory);
                refusals += 1;
            }
            Ok((_, other, _)) => panic!("{other:?}"),
            // Told while it was still saying hello.
            Err(_) => refusals += 1,
        }
    }
    assert!(refusals > 0);
    open.truncate(2);
    let works = || {
        matches!(
            Remote::connect(&server.dir, false),
            Ok((_, Reply::Hello { .. }, _))
        )
    };
    assert!(eventually(SOON, works));
    let mut c = connect(&server.dir, false);
    let (reply, _) = c.ask(&Request::Check { after: None }).unwrap();
    assert!(matches!(reply, Reply::Check { problems, .. } if problems.is_empty()));
}

/// Descriptors run out at every step of it, which a limit of threads does at
/// one of them.
#[test]
fn a_device_that_cannot_be_served_is_given_back() {
    let tmp = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&tmp.path().join("ns"), None);
    let files = ["a.pcap", "b.pcap"].map(|name| {
        let path = tmp.path().join(name);
        let config = WriterConfig::default();
        Writer::create(&path, config).unwrap().finish().unwrap();
        register_request(&format!("pcap:{}", path.display()))
    });
    let mut clients = files.each_ref().map(|_| connect(&server.dir, false));
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.child.id()));
    let open = open.unwrap().count() as u64;
    let pid = Pid::from_child(&server.child);
    let mut refusals = 0;
    for (client, request) in clients.iter_mut().zip(&files) {
        let mut room = 0;
        loop {
            let limit = Rlimit {
                current: Some(open + room),
                maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
            };
            rustix::process::prlimit(Some(pid), Resource::Nofile, limit).unwrap();
            match client.ask(request).unwrap().0 {
                Reply::Registered(_) => break,
                Reply::Error { .. } => refusals += 1,
                other => panic!("{other:?}"),
            }
            room += 1;
            assert!(room < 100, "that many are not needed");
        }
    }
    assert!(refusals > 0);
    assert_eq!(list(&mut clients[0]).len(), 2);
    let (reply, _) = clients[0].ask(&Request::Check { after: None }).unwrap();
    assert!(matches!(reply, Reply::Check { problems, .. } if problems.is_empty()));
}

#[test]
fn a_replay_that_nobody_reads_takes_no_time() {
    let tmp = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&tmp.path().join("ns"), None);
    let file = tmp.path().join("a.pcap");
    let mut writer = Writer::create(&file, WriterConfig::default()).unwrap();
    // More than there is room for.
    let frames = 5000_u32;
    for i in 0..frames {
        writer.write(0, &[&i.to_le_bytes(), &[0; 60]], 0).unwrap();
    }
    writer.finish().unwrap();
    let ns = netvale::Namespace::at(&server.dir).unwrap().no_spawn();
    let mut port = ns.open(&format!("pcap:{}", file.display())).unwrap();
    let is_still = || {
        let before = server.time();
        std::thread::sleep(Duration::from_millis(300));
        server.time() == before
    };
    assert!(within(PATIENCE, is_still), "somebody looks for room");
    // Room is noticed, each time.
    let (mut at, mut bytes) = (0, Vec::new());
    let end = std::time::Instant::now() + PATIENCE;
    while at < frames && std::time::Instant::now() < end {
        while let Some(frame) = port.rx(0).next() {
            bytes.clear();
            frame.read_to(&mut bytes);
            assert_eq!(bytes[..4], at.to_le_bytes());
            at += 1;
        }
        port.wait_rx(Some(Duration::from_millis(20))).unwrap();
    }
    assert_eq!(at, frames);
}

#[test]
fn strangers_are_fenced_in() {
    const TEST: &str = "strangers_are_fenced_in";
    if !rustix::process::geteuid().is_root() {
        return skip(TEST, "needs root to be somebody else");
    }
    let bed = Bed::with(|c| {
        c.access = Some(Access {
            group: None,
            mode: 0o666,
        });
        c.user_connections = 8;
    });
    let parent = bed.dir.parent().unwrap();
    std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut ours = connect(&bed.dir, true);
    register(&mut ours, "vale0:ours");
    let mut trusted = bed.connect();
    register(&mut trusted, "vale0:trusted");
    // A copy, because strangers may not be able to enter the build's folder. By another process:
    // programs that other tests start would have our open file for an instant, and what somebody
    // may write to cannot be executed.
    let me = parent.join("stranger");
    let mut copy = Command::new("cp");
    copy.arg(std::env::current_exe().unwrap()).arg(&me);
    assert!(copy.status().unwrap().success());
    std::fs::set_permissions(&me, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&me)
        .args(["--exact", "process::child_stranger", "--nocapture"])
        .env(DIR, &bed.dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        return skip(TEST, "setpriv is not here");
    };
    let (mut out, mut err) = (String::new(), String::new());
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    let ended = child.wait().unwrap();
    if !out.contains("running 1 test") {
        return skip(TEST, &format!("cannot run as another user: {}", err.trim()));
    }
    assert!(ended.success(), "{out}\n{err}");
    bed.assert_sound();
}

#[test]
fn child_stranger() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let dir = Path::new(&dir);
    // It is isolated, though it did not ask for it.
    let (mut c, hello, fds) = Remote::connect(dir, false).unwrap();
    assert!(matches!(hello, Reply::Hello { state: None, .. }) && fds.is_empty());
    for (request, kind) in [
        (register_request("vale0:ours"), ErrorKind::Denied),
        (register_request("vale0:ours/r"), ErrorKind::Denied),
        (register_request("vale0:trusted/t"), ErrorKind::Denied),
        (register_request("vale0:trusted"), ErrorKind::Busy),
        (Request::Shutdown { force: true }, ErrorKind::Denied),
        (Request::DelIf { name: "x".into() }, ErrorKind::Denied),
        (
            Request::Region {
                id: 1,
                generation: 1,
            },
            ErrorKind::Denied,
        ),
        (
            Request::Info {
                spec: "vale9:n".into(),
            },
            ErrorKind::NotFound,
        ),
    ] {
        assert_eq!(refused(&mut c, &request), kind, "{request:?}");
    }
    let (reg, fds) = register(&mut c, "vale0:mine");
    assert_eq!(fds.len(), 3);
    assert_eq!(reg.region.shared, None);
    // No more connections than allowed.
    let mut open = Vec::new();
    for _ in 0..20 {
        match Remote::connect(dir, false) {
            Ok((remote, Reply::Hello { .. }, _)) => open.push(remote),
            Ok((_, Reply::Error { kind, .. }, _)) => assert_eq!(kind, ErrorKind::NoMemory),
            Ok((_, other, _)) => panic!("{other:?}"),
            Err(_) => {} // hung up before we could say hello
        }
    }
    assert_eq!(open.len(), 7);
    assert!(
        std::fs::read_dir(dir).is_err(),
        "the directory can be listed"
    );
}
