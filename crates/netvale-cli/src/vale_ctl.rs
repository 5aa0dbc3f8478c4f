//! `netvale vale-ctl`: netmap's switch control, with its output and its exit
//! statuses.
//!
//! Scripts know two oddities, which are kept: a list without arguments ends
//! with status 1 although it succeeded, and so does every error, whatever
//! its class.

use netvale::{Error, ErrorKind, Namespace, PortInfo, RingConfig};

use netvale_wire::proto::{Request, Seated};

use crate::cli::Place;
use crate::control;
use crate::exit::Code;
use crate::failure::{Failure, Result};
use crate::ls;
use crate::output;
use crate::pkt_gen::parse_list;

/// What was typed.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    disable_help_flag = true,
    after_long_help = "Examples:\n  \
        vale-ctl -n p0 -C 512,512\n  \
        vale-ctl -a vale0:p0\n  \
        vale-ctl\n\n\
        Sizes are in slots, rings and bytes. Without an option, ports are listed\n\
        and the exit status is 1, as netmap's vale-ctl has it. Errors end with 1."
)]
pub(crate) struct Args {
    /// Detach a port
    #[arg(short = 'd', long, value_name = "SWITCH:PORT", group = "action")]
    detach: Option<String>,
    /// Attach a persistent port or a device
    #[arg(short = 'a', long, value_name = "SWITCH:PORT", group = "action")]
    attach: Option<String>,
    /// Attach a device and the host's end of it
    #[arg(short = 'h', long, value_name = "SWITCH:PORT", group = "action")]
    attach_host: Option<String>,
    /// Show the geometry of a port: slots, rings, memory in bytes
    #[arg(short = 'g', long, value_name = "PORT", group = "action")]
    get: Option<String>,
    /// Show the indexes of a port and its switch
    #[arg(short = 'l', long, value_name = "SWITCH:PORT", group = "action")]
    list: Option<String>,
    /// Create a persistent port
    #[arg(short = 'n', long, value_name = "NAME", group = "action")]
    new: Option<String>,
    /// Delete a persistent port
    #[arg(short = 'r', long, value_name = "NAME", group = "action")]
    remove: Option<String>,
    /// For -n: tx slots[,rx slots[,tx rings[,rx rings]]]; for -p: 1 (one
    /// thread) or 2 (one for each ring)[,first cpu[,cpus]]
    #[arg(short = 'C', long, value_name = "LIST")]
    config: Option<String>,
    /// Have the server poll a device; with -C mode,first cpu,cpus
    #[arg(short = 'p', long, value_name = "SWITCH:PORT", group = "action")]
    poll: Option<String>,
    /// Stop polling a device
    #[arg(short = 'P', long, value_name = "SWITCH:PORT", group = "action")]
    no_poll: Option<String>,
    /// For -n: memory to live in, by number or by the port it belongs to
    #[arg(short = 'm', long, value_name = "ID|PORT")]
    memory: Option<String>,
    /// For -n: make it an interface of the host too, as netmap does
    #[arg(long)]
    link: bool,
    /// Show the index of an attached port
    #[arg(short, long)]
    verbose: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
}

/// What it means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    ListAll,
    List(String),
    Get(String),
    Attach {
        spec: String,
        host: bool,
    },
    Detach(String),
    New {
        name: String,
        config: RingConfig,
        memory: Memory,
    },
    Remove(String),
    Poll {
        name: String,
        on: bool,
        /// Mode, first processor, processors.
        how: [u16; 3],
    },
}

/// Where a new port lives.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Memory {
    /// A region's number, 0 for one of its own.
    Id(u16),
    /// The region of this port.
    Of(String),
}

impl TryFrom<&Args> for Action {
    type Error = Failure;

    fn try_from(args: &Args) -> Result<Self> {
        if args.new.is_none() && args.memory.is_some() {
            return Err(Failure::usage("-m goes with -n"));
        }
        if args.new.is_none() && args.link {
            return Err(Failure::usage("--link goes with -n"));
        }
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        Ok(if args.detach.is_some() {
            Self::Detach(text(&args.detach))
        } else if args.attach.is_some() || args.attach_host.is_some() {
            let host = args.attach_host.is_some();
            let spec = if host {
                &args.attach_host
            } else {
                &args.attach
            };
            let spec = text(spec);
            Self::Attach { spec, host }
        } else if args.get.is_some() {
            Self::Get(text(&args.get))
        } else if args.list.is_some() {
            Self::List(text(&args.list))
        } else if args.remove.is_some() {
            Self::Remove(text(&args.remove))
        } else if args.poll.is_some() || args.no_poll.is_some() {
            let on = args.poll.is_some();
            Self::Poll {
                name: text(if on { &args.poll } else { &args.no_poll }),
                on,
                how: polling(args.config.as_deref())?,
            }
        } else if args.new.is_some() {
            Self::New {
                name: text(&args.new),
                config: RingConfig {
                    link: args.link,
                    ..ring_config(args.config.as_deref())?
                },
                memory: memory(args.memory.as_deref()),
            }
        } else {
            Self::ListAll
        })
    }
}

/// One thread on the first processor, unless the list says otherwise.
fn polling(list: Option<&str>) -> Result<[u16; 3]> {
    let given = list.map_or(Ok(Vec::new()), parse_list)?;
    if given.len() > 3 {
        return Err(Failure::usage("-C: one to three numbers for -p"));
    }
    let mut how = [1, 0, 1];
    how[..given.len()].copy_from_slice(&given);
    Ok(how)
}

fn ring_config(list: Option<&str>) -> Result<RingConfig> {
    let mut values = [0; 4];
    let given = list.map_or(Ok(Vec::new()), parse_list)?;
    if given.len() > values.len() {
        return Err(Failure::usage("-C: one to four numbers"));
    }
    values[..given.len()].copy_from_slice(&given);
    let [tx_slots, rx_slots, tx_rings, rx_rings] = values;
    Ok(RingConfig {
        tx_rings,
        rx_rings,
        tx_slots,
        rx_slots,
        ..RingConfig::default()
    })
}

fn memory(text: Option<&str>) -> Memory {
    match text.map(|text| (text, text.parse())) {
        None => Memory::Id(0),
        Some((_, Ok(id))) => Memory::Id(id),
        Some((name, Err(_))) => Memory::Of(name.to_owned()),
    }
}

/// Runs vale-ctl.
pub(crate) fn run(args: &Args, place: &Place) -> Result<Code> {
    let action = Action::try_from(args)?;
    match action {
        Action::ListAll => list_all(place),
        Action::List(name) => list(place, &name),
        Action::Get(name) => told("get info for", &name, show_info(place, &name)),
        Action::Attach { spec, host } => {
            let ports = place
                .namespace()
                .and_then(|n| control::attach_spec(&n, &spec, host));
            let shown = ports.and_then(|p| show_attached(args.verbose, &p));
            told("attach", &spec, shown)
        }
        Action::Detach(spec) => {
            let detached = place.namespace_if_running();
            let detached = detached.and_then(|n| control::detach_spec(&n, &spec).map(drop));
            told("detach", &spec, detached)
        }
        Action::New {
            name,
            config,
            memory,
        } => {
            let created = place
                .namespace()
                .and_then(|n| create(&n, &name, config, &memory));
            told("create", &name, created)
        }
        Action::Remove(name) => {
            let removed = place.namespace_if_running();
            let removed = removed.and_then(|n| Ok(n.delete_interface(&name)?));
            told("delete", &name, removed)
        }
        Action::Poll { name, on, how } => {
            let [mode, first_cpu, cpus] = how.map(u32::from);
            let request = Request::Polling {
                name: name.clone(),
                on,
                mode,
                first_cpu,
                cpus,
            };
            let done = place.namespace_if_running();
            let done = done.and_then(|n| control::poll(&n, &request));
            told("poll", &name, done)
        }
    }
}

fn list_all(place: &Place) -> Result<Code> {
    let mut ports = ls::ports(place)?;
    ports.retain(|port| port.switch.is_some());
    ports.sort_by_key(|port| (port.switch_idx, port.port_idx));
    for port in ports {
        output::line(&format!(
            "{} bridge_idx {} port_idx {}",
            port.name, port.switch_idx, port.port_idx
        ))?;
    }
    Ok(Code::Negative)
}

fn list(place: &Place, name: &str) -> Result<Code> {
    let found = ls::ports(place).and_then(|ports| {
        let port = ports.into_iter().find(|port| port.name == name);
        port.ok_or_else(|| {
            let message = format!("there is no port {name}");
            Error::new(ErrorKind::NotFound, message).into()
        })
    });
    let shown = found.and_then(|port| {
        output::line(&format!("bridge_idx: {}", port.switch_idx))?;
        output::line(&format!("port_idx:   {}", port.port_idx))
    });
    told("list", name, shown)
}

fn show_info(place: &Place, name: &str) -> Result<()> {
    let info: PortInfo = place.namespace()?.info(name)?;
    // The missing colon is netmap's.
    output::line(&format!(
        "memsize:    {}\ntx_slots:   {}\nrx_slots:   {}\ntx_rings:   {}\n\
         rx_rings    {}\nmem_id:     {}",
        info.memsize, info.tx_slots, info.rx_slots, info.tx_rings, info.rx_rings, info.mem_id
    ))
}

fn show_attached(verbose: bool, ports: &[Seated]) -> Result<()> {
    if let Some(port) = ports.first().filter(|_| verbose) {
        output::line(&format!("port_index: {}", port.port_index))?;
    }
    Ok(())
}

fn create(namespace: &Namespace, name: &str, config: RingConfig, memory: &Memory) -> Result<()> {
    let mem_id = match memory {
        Memory::Id(id) => *id,
        Memory::Of(port) => namespace.info(port)?.mem_id,
    };
    let config = RingConfig { mem_id, ..config };
    namespace.new_interface(name, &config)?;
    Ok(())
}

/// Tells an error in netmap's words, with the cause as a hint.
fn told(action: &str, name: &str, result: Result<()>) -> Result<Code> {
    match result {
        Ok(()) => Ok(Code::Done),
        Err(Failure::Error(error)) => {
            output::note(&format!(
                "failed to {action} {name}: {}",
                match (action, error.kind()) {
                    // So netmap has it for what a switch cannot be given.
                    ("attach", ErrorKind::NotFound) => errno_text(ErrorKind::Usage),
                    (_, kind) => errno_text(kind),
                }
            ));
            output::note(&format!(
                "hint: {}",
                error
                    .hint()
                    .map_or_else(|| error.to_string(), |hint| format!("{error}; {hint}"))
            ));
            Err(Failure::Reported(Code::Negative))
        }
        Err(other) => Err(other),
    }
}

/// What the C library says for the errno that netmap gives.
fn errno_text(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Usage => "Invalid argument",
        ErrorKind::NotFound => "No such device or address",
        ErrorKind::Busy => "Device or resource busy",
        ErrorKind::Exists => "File exists",
        ErrorKind::NoSpace => "Cannot allocate memory",
        ErrorKind::Unavailable => "Operation not supported",
        ErrorKind::Disconnected => "No such device",
        ErrorKind::Peer => "Protocol error",
        _ => "Input/output error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn action(line: &str) -> Result<Action, String> {
        let words = ["vale-ctl"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        Action::try_from(&line.args).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn options_are_netmaps() {
        let attach = |host| Action::Attach {
            spec: "vale0:p0".into(),
            host,
        };
        let poll = |on, how| Action::Poll {
            name: "vale0:p0".into(),
            on,
            how,
        };
        for (line, expected) in [
            ("", Action::ListAll),
            ("-l vale0:a", Action::List("vale0:a".into())),
            ("-g vale0:a", Action::Get("vale0:a".into())),
            ("-a vale0:p0", attach(false)),
            ("-h vale0:p0", attach(true)),
            ("-v -d vale0:p0", Action::Detach("vale0:p0".into())),
            ("-r p0", Action::Remove("p0".into())),
            ("-p vale0:p0 -C 2,1", poll(true, [2, 1, 1])),
            ("-p vale0:p0", poll(true, [1, 0, 1])),
            ("-P vale0:p0", poll(false, [1, 0, 1])),
        ] {
            assert_eq!(action(line).as_ref(), Ok(&expected), "{line}");
        }
    }

    #[test]
    fn new_ports_take_a_geometry() {
        let config = RingConfig {
            tx_slots: 512,
            rx_slots: 256,
            tx_rings: 2,
            ..RingConfig::default()
        };
        let new = |memory| Action::New {
            name: "p0".into(),
            config,
            memory,
        };
        for (line, memory) in [
            ("-n p0 -C 512,256,2", Memory::Id(0)),
            ("-n p0 -C 512,256,2 -m 7", Memory::Id(7)),
            (
                "-n p0 -C 512,256,2 -m vale0:a",
                Memory::Of("vale0:a".into()),
            ),
        ] {
            assert_eq!(action(line), Ok(new(memory)), "{line}");
        }
        for line in ["-n p0 -C 1,2,3,4,5", "-n p0 -C x", "-m 7", "-a x -d y"] {
            assert!(action(line).is_err(), "{line}");
        }
    }
}
