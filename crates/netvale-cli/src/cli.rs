//! The command line as a whole: which command, in which namespace.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind as ClapKind;
use clap::{Args, Parser, Subcommand};
use netvale::{Error, ErrorKind, Namespace};

use crate::exit::Code;
use crate::failure::{Failure, Result};
use crate::{
    bench, bridge, capture, control, demo, doctor, fdb, ls, pkt_gen, run, server_cmd, stats,
    vale_ctl,
};

/// The name the binary was started under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `netvale COMMAND`, and every name that is not one of the others.
    Netvale,
    /// netmap's packet generator.
    PktGen,
    /// netmap's bridge.
    Bridge,
    /// netmap's switch control.
    ValeCtl,
    /// Wireshark's way to our ports.
    Extcap,
}

impl Tool {
    /// From `argv[0]`.
    pub(crate) fn from_argv0(argv0: Option<&OsString>) -> Self {
        let name = argv0
            .and_then(|path| Path::new(path).file_name())
            .and_then(|name| name.to_str());
        match name {
            Some("pkt-gen") => Self::PktGen,
            Some("bridge") => Self::Bridge,
            Some("vale-ctl") => Self::ValeCtl,
            Some("netvale-extcap") => Self::Extcap,
            _ => Self::Netvale,
        }
    }

    /// The name that messages begin with.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Netvale => "netvale",
            Self::PktGen => "pkt-gen",
            Self::Bridge => "bridge",
            Self::ValeCtl => "vale-ctl",
            Self::Extcap => "netvale-extcap",
        }
    }
}

/// Where the ports live. Valid before and after the command's name.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Namespace")]
pub(crate) struct Place {
    /// Directory of the namespace [default: $NETVALE_NS or the user's own]
    #[arg(long, global = true, value_name = "PATH")]
    ns: Option<PathBuf>,
    /// Map only the port's own memory, even for the same user
    #[arg(long, global = true)]
    isolated: bool,
    /// Private namespace inside this process: no server, ends with it
    #[arg(long, global = true, conflicts_with_all = ["ns", "isolated"])]
    embedded: bool,
}

impl Place {
    /// The namespace, with a server started if there is none yet.
    pub(crate) fn namespace(&self) -> Result<Namespace> {
        let namespace = match &self.ns {
            _ if self.embedded => Namespace::embedded(),
            Some(path) => Namespace::at(path),
            None => Namespace::from_env(),
        }?;
        Ok(if self.isolated {
            namespace.isolated(true)
        } else {
            namespace
        })
    }

    /// The namespace, for commands that only look: no server is started.
    pub(crate) fn namespace_if_running(&self) -> Result<Namespace> {
        Ok(self.namespace()?.no_spawn())
    }

    /// The namespace's directory, if the command line says it.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.ns.as_deref()
    }

    /// True if the command line says where.
    pub(crate) fn is_given(&self) -> bool {
        self.ns.is_some()
    }

    /// True for `--isolated`.
    pub(crate) fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// True for `--embedded`.
    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded
    }
}

/// Fast packet I/O on stock Linux: netmap's ports and the VALE switch in user
/// space, with no kernel module.
///
/// Ports are named as in netmap: vale0:a is port a of switch vale0, vale0:a{1
/// and vale0:a}1 are the two ends of a pipe. The first port that is opened in
/// a namespace starts its server, the last one that is closed ends it.
#[derive(Debug, Parser)]
#[command(
    name = "netvale",
    version,
    max_term_width = 80,
    arg_required_else_help = true,
    after_long_help = "Examples:\n  \
        netvale demo\n  \
        netvale pkt-gen -i vale0:b -f rx &\n  \
        netvale pkt-gen -i vale0:a -f tx -n 1000000\n  \
        netvale ls\n\n\
        Exit status: 0 done; 1 ran, but the answer is negative; 2 usage;\n\
        3 privilege, feature, device, port or server missing; 4 I/O or\n\
        system failure; 5 a peer broke the protocol; 128+n cut short by\n\
        signal n."
)]
struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send or receive packets at full rate, or measure round trips
    PktGen(Box<pkt_gen::Args>),
    /// Forward frames between two ports, in both directions
    Bridge(bridge::Args),
    /// netmap's switch control, with its options and its output
    ValeCtl(vale_ctl::Args),
    /// Write what a port sends and receives to a capture file
    Capture(capture::Args),
    /// Start an unmodified netmap program on this namespace
    Run(run::Args),
    /// List the ports of the namespace
    Ls(ls::Args),
    /// Attach a port or a device to a switch
    Attach(control::AttachArgs),
    /// Detach a port from its switch
    Detach(control::DetachArgs),
    /// Create a persistent port
    Newif(control::NewifArgs),
    /// Delete a persistent port
    Delif(control::DelifArgs),
    /// Show the counters of one port or of all
    Stats(stats::Args),
    /// Show the stations that a switch has learned
    Fdb(fdb::Args),
    /// Check this machine, the namespace and its buffers
    Doctor(doctor::Args),
    /// Run, stop or show the namespace's server
    Server(server_cmd::ServerArgs),
    /// Measure, with machine-readable results
    Bench(bench::BenchArgs),
    /// The other process of a measurement
    #[command(hide = true)]
    BenchPeer(bench::PeerArgs),
    /// Show what this machine can do, in seconds and without privilege
    Demo(demo::Args),
}

/// Generate, receive, echo and time packets on a port.
///
/// The options are those of netmap's pkt-gen.
#[derive(Debug, Parser)]
#[command(name = "pkt-gen", version, max_term_width = 80)]
struct PktGenTool {
    #[command(flatten)]
    args: pkt_gen::Args,
    #[command(flatten)]
    place: Place,
}

/// Forward frames between two ports, in both directions.
///
/// The options are those of netmap's bridge.
#[derive(Debug, Parser)]
#[command(name = "bridge", version, max_term_width = 80)]
struct BridgeTool {
    #[command(flatten)]
    args: bridge::Args,
    #[command(flatten)]
    place: Place,
}

/// List, create, attach and detach ports of VALE switches.
///
/// The options and the output are those of netmap's vale-ctl.
#[derive(Debug, Parser)]
#[command(name = "vale-ctl", version, max_term_width = 80)]
struct ValeCtlTool {
    #[command(flatten)]
    args: vale_ctl::Args,
    #[command(flatten)]
    place: Place,
}

/// Parses the command line and runs the command.
pub(crate) fn main(tool: Tool, argv: Vec<OsString>) -> Result<ExitCode> {
    match tool {
        Tool::Netvale => {
            let cli = parse::<Cli>(argv)?;
            match cli {
                Some(cli) => run_command(cli.command, &cli.place),
                None => Ok(Code::Done.into()),
            }
        }
        Tool::PktGen => match parse::<PktGenTool>(argv)? {
            Some(t) => Ok(pkt_gen::run(t.args, &t.place)?.into()),
            None => Ok(Code::Done.into()),
        },
        Tool::Bridge => match parse::<BridgeTool>(argv)? {
            Some(t) => Ok(bridge::run(t.args, &t.place)?.into()),
            None => Ok(Code::Done.into()),
        },
        Tool::ValeCtl => match parse::<ValeCtlTool>(argv)? {
            Some(t) => Ok(vale_ctl::run(&t.args, &t.place)?.into()),
            None => Ok(Code::Done.into()),
        },
        Tool::Extcap => match parse::<capture::extcap::Tool>(argv)? {
            Some(t) => Ok(capture::extcap::run(&t)?.into()),
            None => Ok(Code::Done.into()),
        },
    }
}

fn run_command(command: Command, place: &Place) -> Result<ExitCode> {
    let code = match command {
        Command::PktGen(args) => pkt_gen::run(*args, place),
        Command::Bridge(args) => bridge::run(args, place),
        Command::ValeCtl(args) => vale_ctl::run(&args, place),
        Command::Capture(args) => capture::run(&args, place),
        Command::Run(args) => run::run(&args, place),
        Command::Ls(args) => ls::run(&args, place),
        Command::Attach(args) => control::attach(&args, place),
        Command::Detach(args) => control::detach(&args, place),
        Command::Newif(args) => control::newif(&args, place),
        Command::Delif(args) => control::delif(&args, place),
        Command::Stats(args) => stats::run(&args, place),
        Command::Fdb(args) => fdb::run(&args, place),
        Command::Doctor(args) => doctor::run(&args, place),
        Command::Demo(args) => demo::run(&args),
        Command::Server(args) => return server_cmd::run(&args, place),
        Command::Bench(args) => bench::run(&args),
        Command::BenchPeer(args) => bench::run_peer(&args),
    }?;
    Ok(code.into())
}

/// `None` if the help or the version was asked for, and is printed.
fn parse<P: Parser>(argv: Vec<OsString>) -> Result<Option<P>> {
    let error = match P::try_parse_from(argv) {
        Ok(parsed) => return Ok(Some(parsed)),
        Err(error) => error,
    };
    match error.kind() {
        ClapKind::DisplayHelp | ClapKind::DisplayVersion => match error.print() {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
            _ => Ok(None),
        },
        ClapKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // clap writes this to stderr; nobody is left to tell if it cannot.
            let _ = error.print();
            Err(Failure::Reported(Code::Usage))
        }
        _ => Err(Failure::Error(one_line(&error))),
    }
}

/// clap's paragraph as one line and one hint.
fn one_line(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let mut cause = String::new();
    for line in text.lines().take_while(|line| !line.trim().is_empty()) {
        if !cause.is_empty() {
            cause.push(' ');
        }
        cause += line.trim().trim_start_matches("error: ");
    }
    let tip = text.lines().find_map(|l| l.trim().strip_prefix("tip: "));
    let hint = tip.unwrap_or("--help lists the options");
    Error::new(ErrorKind::Usage, cause).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
        PktGenTool::command().debug_assert();
        BridgeTool::command().debug_assert();
        ValeCtlTool::command().debug_assert();
        capture::extcap::Tool::command().debug_assert();
    }

    #[test]
    fn the_name_selects_the_tool() {
        for (argv0, tool) in [
            ("netvale", Tool::Netvale),
            ("/usr/bin/pkt-gen", Tool::PktGen),
            ("./bridge", Tool::Bridge),
            ("vale-ctl", Tool::ValeCtl),
            ("/x/netvale-extcap", Tool::Extcap),
            ("something", Tool::Netvale),
        ] {
            assert_eq!(Tool::from_argv0(Some(&argv0.into())), tool);
        }
        assert_eq!(Tool::from_argv0(None), Tool::Netvale);
    }

    #[test]
    fn errors_are_one_line() {
        let error = Cli::try_parse_from(["netvale", "ls", "--jso"]).expect_err("no such option");
        let error = one_line(&error);
        assert_eq!(error.to_string(), "unexpected argument '--jso' found");
        assert!(error.hint().is_some_and(|hint| hint.contains("--json")));
        let error = Cli::try_parse_from(["netvale", "fdb"]).expect_err("no switch");
        assert!(!one_line(&error).to_string().contains('\n'));
    }
}
