//! `netvale server`: runs, stops and shows a namespace's server.
//!
//! A server in the background is made in two steps. The first process, which
//! the client or the user started, marks what it inherited as not to be handed
//! down, starts the second one and is gone, so that nobody has to wait for a
//! child. The second one leaves the terminal's session, says one line about
//! how it went (`ready`, `taken`, or why not) and goes to work.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Args, Subcommand};
use netvale::{Error, ErrorKind};
use netvale_server::remote::Remote;
use netvale_server::{Config, DirError, Server, StartError};
use netvale_wire::proto::{Reply, Request, Status};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

use crate::cli::Place;
use crate::control::kind_of;
use crate::exit::Code;
use crate::failure::{Result, io_error};
use crate::output;
use crate::server_log::Log;

/// Arguments of `netvale server`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Without options the server runs in the background until it is stopped.\n\
                  Clients start one of their own accord, which ends with the last port.\n\
                  Both write the file log in the namespace's directory.",
    after_long_help = "Without options the server runs in the background until it is stopped.\n\
    Clients start one of their own accord, which ends with the last port. Both\n\
    write the file log in the namespace's directory, which stays when they end;\n\
    one of more than 1 MiB is begun anew.\n\n\
    A configuration, of which every line may be missing:\n\n  \
    isolated = false           # true: trust nobody\n  \
    workers = 1                # threads that serve isolated ports\n  \
    pumps = 1                  # threads that serve devices\n  \
    huge_pages = \"auto\"        # auto, never, require\n  \
    ageing_seconds = 300       # of stations; 0: never forgotten\n  \
    mode = \"0660\"              # of the socket, which opens it to others\n  \
    group = \"netvale\"\n  \
    link_ports = false         # true: persistent ports show in ip link\n  \
    generic_xdp = false        # true: faster where drivers have no XDP, but\n  \
                               # VLAN tags may be lost\n\n  \
    [region]                   # memory that trusted ports share\n  \
    bufs = 1700000             # buffers, of 2112 bytes\n  \
    device_bufs = 16384        # that AF_XDP uses in place; 0: none\n\n  \
    [[port]]                   # persistent ports\n  \
    name = \"p0\"\n  \
    attach = \"vale0\"\n  \
    link = true                # this one shows in ip link\n\n  \
    [[attach]]                 # devices, in this order\n  \
    switch = \"vale0\"\n  \
    device = \"eth0\"            # or tap:t0, pcap:/FILE,loop, vxlan:42@192.0.2.7\n  \
    port = \"wire\"              # its port's name, else one like the device's\n  \
    host = true                # the host stack behind it too\n  \
    cpus = [2, 3]              # threads of its own on these processors\n  \
    region = 0                 # memory of its rings, 0: the shared region\n\n\
    What is wrong is told with its line. The file is read once, at the start;\n\
    afterwards netvale attach, detach, newif and delif change what there is."
)]
pub(crate) struct ServerArgs {
    #[command(subcommand)]
    command: Option<ServerCommand>,
    /// Stay in the foreground and log to stderr (RUST_LOG selects what)
    #[arg(long)]
    foreground: bool,
    /// The same, for an init system
    #[arg(long)]
    service: bool,
    /// Settings, TOML
    #[arg(long, value_name = "FILE", conflicts_with = "on_demand")]
    config: Option<PathBuf>,
    /// Log more
    #[arg(long, short)]
    verbose: bool,
    /// End when nobody needs it any more
    #[arg(long, hide = true)]
    on_demand: bool,
    /// Second step of a start in the background
    #[arg(long, hide = true, conflicts_with_all = ["foreground", "service"])]
    detached: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum ServerCommand {
    /// End the server
    Stop {
        /// Even while ports are open
        #[arg(long)]
        force: bool,
    },
    /// Show how the server is
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Longest time that a server may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the command.
pub(crate) fn run(args: &ServerArgs, place: &Place) -> Result<ExitCode> {
    if place.is_embedded() {
        let message = "an embedded namespace has no server";
        return Err(Error::new(ErrorKind::Usage, message).into());
    }
    match &args.command {
        Some(ServerCommand::Stop { force }) => {
            place.namespace_if_running()?.shutdown(*force)?;
            if !netvale_server::remote::wait_until_gone(&dir(place)?, END_PATIENCE) {
                return Err(Error::new(ErrorKind::Io, "the server is still ending").into());
            }
        }
        Some(ServerCommand::Status { json }) => status(place, *json)?,
        None if args.detached => return Ok(work_detached(args, place).into()),
        None if args.foreground || args.service => work(args, place)?,
        None => launch(args, place)?,
    }
    Ok(Code::Done.into())
}

/// The directory of the namespace, whatever the working directory will be.
fn dir(place: &Place) -> Result<PathBuf> {
    let namespace = place.namespace()?;
    let path = namespace.path().unwrap_or(Path::new(""));
    Ok(std::path::absolute(path).map_err(|e| io_error(&path.display().to_string(), &e))?)
}

fn config(args: &ServerArgs, place: &Place) -> Result<Config> {
    let mut config = Config::at(dir(place)?);
    if let Some(path) = &args.config {
        // The place on the command line is the stronger one.
        let given = place.is_given().then(|| config.namespace.clone());
        let usage = |e: &dyn std::error::Error| Error::new(ErrorKind::Usage, chain(e));
        config = Config::load(path, config).map_err(|e| usage(&e))?;
        if let Some(dir) = given {
            config.namespace = dir;
        }
    }
    config.isolated |= place.is_isolated();
    config.service = !args.on_demand;
    Ok(config)
}

/// First step of a start in the background.
fn launch(args: &ServerArgs, place: &Place) -> Result<()> {
    netvale_shm::inherit::only_stdio();
    let exe = std::env::current_exe().map_err(|e| io_error("cannot find this program", &e))?;
    let mut command = Command::new(exe);
    command
        .arg0("netvale")
        .args(["server", "--detached"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    if place.is_given() || args.config.is_none() {
        command.arg("--ns").arg(dir(place)?);
    }
    if place.is_isolated() {
        command.arg("--isolated");
    }
    if args.verbose {
        command.arg("--verbose");
    }
    if let Some(path) = &args.config {
        let path =
            std::path::absolute(path).map_err(|e| io_error(&path.display().to_string(), &e))?;
        command.arg("--config").arg(path);
    }
    let failed = |e: io::Error| io_error("cannot start the server", &e);
    if args.on_demand {
        // Whoever asked reads what the second step says.
        command.arg("--on-demand").spawn().map_err(failed)?;
        return Ok(());
    }
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut said = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut said).map_err(failed)?;
    }
    match said.trim() {
        "ready" => Ok(()),
        "taken" => Err(Error::new(ErrorKind::Busy, "a server runs already")
            .with_hint("netvale server status")
            .into()),
        "" => Err(Error::new(ErrorKind::Io, "the server ended while it started").into()),
        why => {
            // It ends with the status that it would have in the foreground.
            let status = child.wait().map_err(failed)?;
            let kind = match status.code() {
                Some(2) => ErrorKind::Usage,
                Some(3) => ErrorKind::Unavailable,
                Some(5) => ErrorKind::Peer,
                _ => ErrorKind::Io,
            };
            Err(Error::new(kind, why).into())
        }
    }
}

/// Second step: works until told to end. Says on stdout how the start went,
/// and by its exit status.
fn work_detached(args: &ServerArgs, place: &Place) -> Code {
    // Fails if we lead a process group: then nobody's terminal is at stake.
    let _ = rustix::process::setsid();
    let server = config(args, place).and_then(|mut config| {
        log_to_file(args, &mut config);
        start(config, args)
    });
    let said = match &server {
        Ok(_) => "ready".into(),
        Err(crate::failure::Failure::Error(e)) if e.kind() == ErrorKind::Busy => "taken".into(),
        Err(crate::failure::Failure::Error(e)) => e.to_string().replace('\n', " "),
        Err(_) => "failed".to_owned(),
    };
    // If nobody listens any more, nobody needs to know.
    let _ = writeln!(io::stdout(), "{said}");
    match server {
        Ok(server) => {
            let _ = rustix::process::chdir("/");
            leave_stdio();
            // Clients see the end of their connections.
            if let Err(e) = server.run() {
                tracing::error!("the server cannot go on: {e}");
            }
            Code::Done
        }
        Err(crate::failure::Failure::Error(e)) => Code::from_error(&e),
        Err(_) => Code::Failure,
    }
}

/// Nobody sees the stderr of a server in the background.
fn log_to_file(args: &ServerArgs, config: &mut Config) {
    let Ok(dir) = std::path::absolute(&config.namespace) else {
        return;
    };
    let log = Log::of(&dir);
    config.log = Some(log.path().to_owned());
    let filter = match args.on_demand {
        // The variable is that of whoever happened to be the first.
        true => EnvFilter::new("info"),
        false => filter(args),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || log.clone())
        .with_ansi(false)
        .with_target(false)
        .init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
}

fn filter(args: &ServerArgs) -> EnvFilter {
    let level = if args.verbose { "debug" } else { "info" };
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level))
}

fn leave_stdio() {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null");
    if let Ok(null) = null {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Works in the foreground until told to end.
fn work(args: &ServerArgs, place: &Place) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(filter(args))
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let server = start(config(args, place)?, args)?;
    Ok(server
        .run()
        .map_err(|e| io_error("the server cannot go on", &e))?)
}

fn start(config: Config, args: &ServerArgs) -> Result<Server> {
    let (stop, signal) = UnixStream::pair().map_err(|e| io_error("cannot catch signals", &e))?;
    for number in [SIGINT, SIGTERM] {
        let end = signal
            .try_clone()
            .map_err(|e| io_error("cannot catch signals", &e))?;
        signal_hook::low_level::pipe::register(number, end)
            .map_err(|e| io_error("cannot catch signals", &e))?;
    }
    let file = args.config.as_deref();
    let started = Server::start(config, Some(OwnedFd::from(stop)));
    Ok(started.map_err(|e| start_error(&e, file))?)
}

/// `file`: the configuration.
fn start_error(e: &StartError, file: Option<&Path>) -> Error {
    let kind = match e {
        StartError::Dir(DirError::Taken { .. }) => ErrorKind::Busy,
        StartError::Dir(DirError::Unsafe { .. } | DirError::NoGroup(_)) => ErrorKind::Unavailable,
        StartError::Domain(_) => ErrorKind::NoSpace,
        StartError::Port { kind, .. } | StartError::Device { kind, .. } => match kind_of(*kind) {
            // That would say that another server has the namespace.
            ErrorKind::Busy => ErrorKind::Io,
            kind => kind,
        },
        _ => ErrorKind::Io,
    };
    match (e, file) {
        // As mistakes that are found when the file is read.
        (StartError::Port { .. } | StartError::Device { .. }, Some(file)) => {
            Error::new(kind, format!("{}: {}", file.display(), chain(e)))
        }
        _ => Error::new(kind, chain(e)),
    }
}

/// An error and its causes in one line.
fn chain(e: &dyn std::error::Error) -> String {
    let mut line = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        line = format!("{line}: {e}");
        cause = e.source();
    }
    line
}

fn status(place: &Place, json: bool) -> Result<()> {
    let dir = dir(place)?;
    let no_server = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::new(
            ErrorKind::Disconnected,
            format!("no server runs in {}", dir.display()),
        ),
        _ => io_error("cannot ask the server", &e),
    };
    let (mut remote, hello, _) = Remote::connect(&dir, true).map_err(no_server)?;
    if let Reply::Error { message, .. } = hello {
        return Err(Error::new(ErrorKind::Unavailable, message).into());
    }
    let Reply::Status(status) = remote.ask(&Request::Status).map_err(no_server)?.0 else {
        return Err(Error::new(ErrorKind::Peer, "unexpected answer of the server").into());
    };
    if json {
        return output::json(&Line {
            schema: "netvale.server.v1",
            status: &status,
        });
    }
    output::line(&table(&dir, &status))
}

/// A server for programs.
#[derive(Debug, Serialize)]
struct Line<'a> {
    schema: &'static str,
    #[serde(flatten)]
    status: &'a Status,
}

/// The network namespace of a server, as `readlink /proc/PID/ns/net` shows it.
fn network(net_ns: Option<u64>) -> String {
    match (net_ns, netvale_shm::process::net_ns()) {
        (None, _) => "not known".into(),
        (Some(n), Some(here)) if n != here => format!("net:[{n}], not the one of this command"),
        (Some(n), _) => format!("net:[{n}]"),
    }
}

fn table(dir: &Path, s: &Status) -> String {
    let mode = if s.service {
        "until it is stopped"
    } else {
        "until nobody needs it"
    };
    [
        ("namespace", dir.display().to_string()),
        ("process", s.pid.to_string()),
        ("release", s.release.clone()),
        ("stays", mode.into()),
        ("uptime", format!("{} s", s.uptime_s)),
        ("connections", s.connections.to_string()),
        (
            "open ports",
            format!("{} ({} isolated)", s.registrations, s.isolated),
        ),
        ("ports", s.ports.to_string()),
        ("workers", s.workers.to_string()),
        ("bad requests", s.bad_requests.to_string()),
        ("refused", s.refused.to_string()),
        ("network", network(s.net_ns)),
        ("log", s.log.clone().unwrap_or_else(|| "its stderr".into())),
    ]
    .map(|(key, value)| format!("{key:<13} {value}"))
    .join("\n")
}
