//! `netvale attach`, `detach`, `newif`, `delif`: changes to a namespace.

use netvale::{PortInfo, RingConfig};
use serde::Serialize;

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::Result;
use crate::output;

/// What was typed after `attach`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Example:\n  \
    netvale newif p0 && netvale attach vale0:p0\n\n\
    Prints the port's index on the switch (0 to 253).")]
pub(crate) struct AttachArgs {
    /// Switch and port, as vale0:p0
    #[arg(value_name = "SWITCH:PORT")]
    spec: String,
    /// Attach the host's end of a device too
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
    Prints the index that the port had (0 to 253).")]
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
    Open it as netmap:p0, or attach it to a switch with: netvale attach vale0:p0")]
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

/// Attaches a persistent port to a switch.
pub(crate) fn attach(args: &AttachArgs, place: &Place) -> Result<Code> {
    let index = place.namespace()?.attach(&args.spec, args.host)?;
    show_index("netvale.attach.v1", &args.spec, index, args.json)
}

/// Detaches a port.
pub(crate) fn detach(args: &DetachArgs, place: &Place) -> Result<Code> {
    let index = place.namespace_if_running()?.detach(&args.spec)?;
    show_index("netvale.detach.v1", &args.spec, index, args.json)
}

fn show_index(schema: &'static str, name: &str, port_index: u32, json: bool) -> Result<Code> {
    if json {
        output::json(&Index {
            schema,
            name,
            port_index,
        })?;
    } else {
        output::line(&format!("{name} port_idx {port_index}"))?;
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
    Ok(Code::Done)
}
