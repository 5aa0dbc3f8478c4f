//! `netvale attach`, `detach`, `newif`, `delif`: changes to a namespace.

use std::path::Path;

use netvale::{Error, ErrorKind, Namespace, PortInfo, RingConfig};
use netvale_server::remote::Remote;
use netvale_wire::proto::{self, Reply, Request, Seated};
use serde::Serialize;

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::{Failure, Result, io_error};
use crate::output;

/// What was typed after `attach`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Example:\n  \
    netvale newif p0 && netvale attach vale0:p0\n  \
    netvale attach vale0 tap:tap0\n  \
    netvale attach vale0 eth0 --host\n  \
    netvale attach vale0:lan enx001122334455\n\n\
    Prints the port's name and its index on the switch (0 to 4094); with --host\n\
    those of the host's port too. Devices:\n  \
    eth0                                               an interface, taken from the host\n  \
    tap:NAME[,vnet_hdr=0|10|12][,queues=N][,persist]   a TAP interface, made if need be\n  \
    pcap:FILE[,speed=X|max][,loop]                     a capture, replayed (speed in times)\n  \
    pcap:FILE,write[,rotate=MIB[,files=N]]             a capture, written\n  \
    vxlan:VNI@ADDRESS[,remote=ADDRESS]...              a tunnel to other hosts\n\n\
    A capture is sent once, with its own timing, unless speed and loop say\n\
    otherwise; of frames that it cut, what it kept is sent. A TAP with ,uring\n\
    gets bursts of small frames through io_uring: faster where system calls\n\
    are slow, and no slower elsewhere. A tunnel takes 50\n\
    bytes of each packet (70 over IPv6): give interfaces on its switch an MTU\n\
    of 1450. It has options local=ADDRESS[:PORT], learning=off, ageing=SECONDS,\n\
    station=MAC/ADDRESS[:PORT], fragment=on. Other ends that have one address and\n\
    several ports are not told apart: frames for stations behind them go to all\n\
    ends, unless station= says where. Tunnels of several networks share a local\n\
    address and port; what comes for no network is counted (dev_foreign).")]
pub(crate) struct AttachArgs {
    /// Switch and port, as vale0:p0; before a device the port's name, or only the
    /// switch: then it is like the device's
    #[arg(value_name = "SWITCH[:PORT]")]
    spec: String,
    /// Interface, or tap:, pcap:, vxlan: device
    #[arg(value_name = "DEVICE")]
    device: Option<String>,
    /// Attach the host's end of an interface too, as SWITCH:PORT^
    #[arg(long)]
    host: bool,
    /// Print JSON; the index has no unit
    #[arg(long)]
    json: bool,
}

/// What was typed after `detach`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Example:\n  \
    netvale detach vale0:p0\n\n\
    Prints the index that the port had (0 to 4094), and that of the host's port\n\
    if there was one.")]
pub(crate) struct DetachArgs {
    /// Switch and port, as vale0:p0
    #[arg(value_name = "SWITCH:PORT")]
    spec: String,
    /// Print JSON; the index has no unit
    #[arg(long)]
    json: bool,
}

/// What was typed after `newif`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Example:\n  \
    netvale newif p0 --tx-slots 512 --rx-slots 512\n\n\
    Open it as netmap:p0, or attach it to a switch with: netvale attach vale0:p0\n\n\
    An interface of the host, plugged into a switch:\n  \
    netvale newif v1 --link && netvale attach vale0:v1\n  \
    ip addr add 10.0.0.1/24 dev v1 && ip link set v1 up")]
pub(crate) struct NewifArgs {
    /// Name, up to 15 bytes
    #[arg(value_name = "NAME")]
    name: String,
    /// TX rings, 1 to 16 [default: 1]
    #[arg(
        long,
        value_name = "RINGS",
        default_value_t = 0,
        hide_default_value = true
    )]
    tx_rings: u16,
    /// RX rings, 1 to 16 [default: 1]
    #[arg(
        long,
        value_name = "RINGS",
        default_value_t = 0,
        hide_default_value = true
    )]
    rx_rings: u16,
    /// Slots of each TX ring, up to 4096 [default: 1024]
    #[arg(
        long,
        value_name = "SLOTS",
        default_value_t = 0,
        hide_default_value = true
    )]
    tx_slots: u16,
    /// Slots of each RX ring, up to 4096 [default: 1024]
    #[arg(
        long,
        value_name = "SLOTS",
        default_value_t = 0,
        hide_default_value = true
    )]
    rx_slots: u16,
    /// Memory region to live in [default: one of its own]
    #[arg(
        long,
        value_name = "ID",
        default_value_t = 0,
        hide_default_value = true
    )]
    mem_id: u16,
    /// Make it an interface of the host too, which ip link shows: its frames
    /// are the port's while that is attached (needs CAP_NET_ADMIN; as many TX as
    /// RX rings)
    #[arg(long)]
    link: bool,
    /// Print JSON; sizes in slots and bytes
    #[arg(long)]
    json: bool,
}

/// What was typed after `delif`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Example:\n  \
    netvale delif p0\n\n\
    Refused while the port is open or attached. Names have up to 15 bytes.")]
pub(crate) struct DelifArgs {
    /// Name, up to 15 bytes
    #[arg(value_name = "NAME")]
    name: String,
    /// Print JSON: the name
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Index<'a> {
    schema: &'static str,
    name: &'a str,
    port_index: u32,
}

#[derive(Debug, Serialize)]
struct Made<'a> {
    schema: &'static str,
    name: &'a str,
    tx_rings: u16,
    rx_rings: u16,
    tx_slots: u16,
    rx_slots: u16,
    buffer_bytes: u32,
    memory_bytes: u64,
    memory_id: u16,
}

#[derive(Debug, Serialize)]
struct Deleted<'a> {
    schema: &'static str,
    name: &'a str,
}

/// Attaches a persistent port or a device to a switch.
pub(crate) fn attach(args: &AttachArgs, place: &Place) -> Result<Code> {
    let (switch, port) = match args.spec.split_once(':') {
        Some((switch, port)) => (switch, Some(port)),
        None => (args.spec.as_str(), None),
    };
    let spec = match (&args.device, port) {
        (Some(device), _) => format!("{switch}:{}", absolute(device)?),
        (None, Some(_)) => args.spec.clone(),
        (None, None) => {
            let text = "attach what? As in: netvale attach vale0:p0, or netvale attach vale0 eth0";
            return Err(Failure::usage(text));
        }
    };
    let port = port.filter(|_| args.device.is_some());
    let ports = attach_as(&place.namespace()?, &spec, args.host, port)?;
    show_seats("netvale.attach.v1", &ports, args.json)
}

/// Detaches a port.
pub(crate) fn detach(args: &DetachArgs, place: &Place) -> Result<Code> {
    let ports = detach_spec(&place.namespace_if_running()?, &args.spec)?;
    show_seats("netvale.detach.v1", &ports, args.json)
}

/// Attaches what `spec` says. Its port, and the one of the host's stack.
pub(crate) fn attach_spec(namespace: &Namespace, spec: &str, host: bool) -> Result<Vec<Seated>> {
    attach_as(namespace, spec, host, None)
}

/// The same; `port` is a name for a device's port.
fn attach_as(
    namespace: &Namespace,
    spec: &str,
    host: bool,
    port: Option<&str>,
) -> Result<Vec<Seated>> {
    let Some(dir) = namespace.path() else {
        return Ok(vec![seated(spec, namespace.attach(spec, host)?)]);
    };
    let request = Request::Attach {
        spec: spec.into(),
        nr: true,
        host,
        mem_id: 0,
        port: port.map(str::to_owned),
    };
    seats(namespace, dir, &request)
}

/// Detaches it; the ports that there were.
pub(crate) fn detach_spec(namespace: &Namespace, spec: &str) -> Result<Vec<Seated>> {
    let Some(dir) = namespace.path() else {
        return Ok(vec![seated(spec, namespace.detach(spec)?)]);
    };
    let request = Request::Detach {
        spec: spec.into(),
        nr: true,
    };
    seats(namespace, dir, &request)
}

fn seats(namespace: &Namespace, dir: &Path, request: &Request) -> Result<Vec<Seated>> {
    match ask(namespace, dir, request)? {
        Reply::Attached { ports, .. } => Ok(ports),
        _ => Err(unexpected().into()),
    }
}

fn seated(name: &str, port_index: u32) -> Seated {
    Seated {
        name: name.into(),
        port_index,
    }
}

/// Has the server poll a device without sleeping, or stop that.
pub(crate) fn poll(namespace: &Namespace, request: &Request) -> Result<()> {
    let Some(dir) = namespace.path() else {
        let message = "without a server no device is polled";
        return Err(Error::new(ErrorKind::Unavailable, message).into());
    };
    match ask(namespace, dir, request)? {
        Reply::Done => Ok(()),
        _ => Err(unexpected().into()),
    }
}

/// Asks the server of a namespace, which is started if the namespace says so.
fn ask(namespace: &Namespace, dir: &Path, request: &Request) -> Result<Reply> {
    // Connects, and so starts the server.
    namespace.list()?;
    let gone = |e| io_error("cannot ask the server", &e);
    let (mut remote, hello, _) = Remote::connect(dir, false).map_err(gone)?;
    for reply in [hello, remote.ask(request).map_err(gone)?.0] {
        match reply {
            Reply::Error {
                kind,
                message,
                hint,
            } => {
                let error = Error::new(kind_of(kind), message);
                return Err(match hint {
                    Some(hint) => error.with_hint(hint).into(),
                    None => error.into(),
                });
            }
            Reply::Hello { .. } => {}
            reply => return Ok(reply),
        }
    }
    Err(unexpected().into())
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Peer, "unexpected answer of the server")
}

pub(crate) fn kind_of(kind: proto::ErrorKind) -> ErrorKind {
    match kind {
        proto::ErrorKind::NotFound | proto::ErrorKind::End | proto::ErrorKind::Missing => {
            ErrorKind::NotFound
        }
        proto::ErrorKind::Busy => ErrorKind::Busy,
        proto::ErrorKind::Invalid => ErrorKind::Usage,
        proto::ErrorKind::Exists => ErrorKind::Exists,
        proto::ErrorKind::NoMemory => ErrorKind::NoSpace,
        proto::ErrorKind::Denied | proto::ErrorKind::Unsupported | proto::ErrorKind::NoDevice => {
            ErrorKind::Unavailable
        }
        proto::ErrorKind::Protocol => ErrorKind::Peer,
        _ => ErrorKind::Io,
    }
}

/// A device with the path of its file as the server can find it.
fn absolute(device: &str) -> Result<String> {
    let Some(path) = device.strip_prefix("pcap:").filter(|p| !p.starts_with('/')) else {
        return Ok(device.into());
    };
    let here = std::env::current_dir();
    let here = here.map_err(|e| io_error("cannot find the current directory", &e))?;
    Ok(format!("pcap:{}/{path}", here.display()))
}

fn show_seats(schema: &'static str, ports: &[Seated], json: bool) -> Result<Code> {
    for Seated { name, port_index } in ports {
        if json {
            output::json(&Index {
                schema,
                name,
                port_index: *port_index,
            })?;
        } else {
            output::line(&format!("{name} port_idx {port_index}"))?;
        }
    }
    Ok(Code::Done)
}

/// Creates a persistent port.
pub(crate) fn newif(args: &NewifArgs, place: &Place) -> Result<Code> {
    let config = RingConfig {
        tx_rings: args.tx_rings,
        rx_rings: args.rx_rings,
        tx_slots: args.tx_slots,
        rx_slots: args.rx_slots,
        mem_id: args.mem_id,
        link: args.link,
    };
    let info = place.namespace()?.new_interface(&args.name, &config)?;
    if args.json {
        output::json(&made(&args.name, &info))?;
    } else {
        output::line(&format!(
            "{} tx {}x{} rx {}x{} mem {}",
            args.name, info.tx_rings, info.tx_slots, info.rx_rings, info.rx_slots, info.mem_id
        ))?;
    }
    Ok(Code::Done)
}

fn made<'a>(name: &'a str, info: &PortInfo) -> Made<'a> {
    Made {
        schema: "netvale.newif.v1",
        name,
        tx_rings: info.tx_rings,
        rx_rings: info.rx_rings,
        tx_slots: info.tx_slots,
        rx_slots: info.rx_slots,
        buffer_bytes: info.buf_size,
        memory_bytes: info.memsize,
        memory_id: info.mem_id,
    }
}

/// Deletes a persistent port.
pub(crate) fn delif(args: &DelifArgs, place: &Place) -> Result<Code> {
    place.namespace_if_running()?.delete_interface(&args.name)?;
    if args.json {
        output::json(&Deleted {
            schema: "netvale.delif.v1",
            name: &args.name,
        })?;
    }
    Ok(Code::Done)
}
