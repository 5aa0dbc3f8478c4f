//! `netvale ls`: the ports of a namespace.

use netvale::{ErrorKind, PortEntry};
use netvale_wire::mac::MacAddr;
use serde::Serialize;

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::Result;
use crate::output::{self, Align, Table};

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    netvale ls\n  \
    netvale ls --json | jq .name\n\n\
    Sizes are in slots and bytes. An empty list is no error.")]
pub(crate) struct Args {
    /// Print JSON, one object per port; sizes in slots and bytes
    #[arg(long)]
    json: bool,
}

/// A port for programs.
#[derive(Debug, Serialize)]
struct Line<'a> {
    schema: &'static str,
    name: &'a str,
    switch: Option<&'a str>,
    switch_index: u32,
    port_index: u32,
    kind: &'a str,
    context: &'a str,
    owner_pid: u32,
    owner_pids: &'a [u32],
    tx_rings: u16,
    rx_rings: u16,
    tx_slots: u16,
    rx_slots: u16,
    buffer_bytes: u32,
    memory_bytes: u64,
    memory_id: u16,
    vnet_hdr_bytes: u8,
    device: Option<&'a str>,
    /// The interface behind the device.
    link: Option<LinkLine<'a>>,
}

/// An interface for programs.
#[derive(Debug, Serialize)]
struct LinkLine<'a> {
    name: &'a str,
    up: bool,
    mtu_bytes: u32,
    mac: Option<String>,
}

/// Runs `ls`.
pub(crate) fn run(args: &Args, place: &Place) -> Result<Code> {
    let ports = ports(place)?;
    if args.json {
        for port in &ports {
            output::json(&Line::from(port))?;
        }
        return Ok(Code::Done);
    }
    if ports.is_empty() {
        output::note("no ports");
        return Ok(Code::Done);
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("SWITCH", Align::Left),
        ("INDEX", Align::Right),
        ("KIND", Align::Left),
        ("CONTEXT", Align::Left),
        ("PID", Align::Right),
        ("TX", Align::Right),
        ("RX", Align::Right),
        ("MEM", Align::Right),
        ("DEVICE", Align::Left),
    ]);
    for port in &ports {
        let info = &port.info;
        let on_switch = port.switch.is_some();
        table.row(vec![
            port.name.clone(),
            port.switch.clone().unwrap_or_else(|| "-".to_owned()),
            if on_switch {
                port.port_idx.to_string()
            } else {
                "-".to_owned()
            },
            port.kind.clone(),
            port.context.clone(),
            pids(&port.owner_pids),
            format!("{}x{}", info.tx_rings, info.tx_slots),
            format!("{}x{}", info.rx_rings, info.rx_slots),
            info.mem_id.to_string(),
            device(port),
        ]);
    }
    output::line(&table.render())?;
    Ok(Code::Done)
}

/// Who has it open.
fn pids(pids: &[u32]) -> String {
    if pids.is_empty() {
        return "-".to_owned();
    }
    let words: Vec<_> = pids.iter().map(u32::to_string).collect();
    words.join(",")
}

/// What serves a port, and how the interface is.
fn device(port: &PortEntry) -> String {
    let mut text = port.device.clone().unwrap_or_else(|| "-".to_owned());
    if let Some(link) = &port.link {
        let state = if link.up { "up" } else { "down" };
        if !text.contains(&link.name) {
            text += &format!(", now {}", link.name);
        }
        text += &format!(", {state}, MTU {}", link.mtu);
        if let Some(mac) = link.mac {
            text += &format!(", {}", MacAddr(mac));
        }
    }
    text
}

/// The ports; none if no server runs.
pub(crate) fn ports(place: &Place) -> Result<Vec<PortEntry>> {
    match place.namespace_if_running()?.list() {
        Err(error) if error.kind() == ErrorKind::Disconnected => Ok(Vec::new()),
        ports => Ok(ports?),
    }
}

impl<'a> From<&'a PortEntry> for Line<'a> {
    fn from(port: &'a PortEntry) -> Self {
        Self {
            schema: "netvale.port.v1",
            name: &port.name,
            switch: port.switch.as_deref(),
            switch_index: port.switch_idx,
            port_index: port.port_idx,
            kind: &port.kind,
            context: &port.context,
            owner_pid: port.owner_pid,
            owner_pids: &port.owner_pids,
            tx_rings: port.info.tx_rings,
            rx_rings: port.info.rx_rings,
            tx_slots: port.info.tx_slots,
            rx_slots: port.info.rx_slots,
            buffer_bytes: port.info.buf_size,
            memory_bytes: port.info.memsize,
            memory_id: port.info.mem_id,
            vnet_hdr_bytes: port.info.vnet_hdr,
            device: port.device.as_deref(),
            link: port.link.as_ref().map(|l| LinkLine {
                name: &l.name,
                up: l.up,
                mtu_bytes: l.mtu,
                mac: l.mac.map(|mac| MacAddr(mac).to_string()),
            }),
        }
    }
}
