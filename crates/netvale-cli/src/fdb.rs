//! `netvale fdb`: what a switch has learned.

use netvale_wire::mac::MacAddr;
use serde::Serialize;

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::Result;
use crate::output::{self, Align, Table};

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Example:\n  \
    netvale fdb vale0\n\n\
    Ages are in ageing periods of the switch, 0 is heard in this one.")]
pub(crate) struct Args {
    /// Switch, as vale0
    #[arg(value_name = "SWITCH")]
    switch: String,
    /// Print JSON, one object per station; ages in ageing periods
    #[arg(long)]
    json: bool,
}

/// A station for programs.
#[derive(Debug, Serialize)]
struct Line<'a> {
    schema: &'static str,
    switch: &'a str,
    mac: String,
    port: &'a str,
    port_index: u32,
    age_periods: u8,
}

/// Runs `fdb`.
pub(crate) fn run(args: &Args, place: &Place) -> Result<Code> {
    let switch = args.switch.trim_end_matches(':');
    let mut stations = place.namespace_if_running()?.fdb(switch)?;
    stations.sort_by_key(|s| (s.port_idx, s.mac));
    let mut table = Table::new(&[
        ("MAC", Align::Left),
        ("PORT", Align::Left),
        ("INDEX", Align::Right),
        ("AGE", Align::Right),
    ]);
    for station in &stations {
        let mac = MacAddr(station.mac).to_string();
        if args.json {
            output::json(&Line {
                schema: "netvale.station.v1",
                switch,
                mac,
                port: &station.port,
                port_index: station.port_idx,
                age_periods: station.age,
            })?;
        } else {
            table.row(vec![
                mac,
                station.port.clone(),
                station.port_idx.to_string(),
                station.age.to_string(),
            ]);
        }
    }
    if !args.json {
        if stations.is_empty() {
            output::note("no stations");
        } else {
            output::line(&table.render())?;
        }
    }
    Ok(Code::Done)
}
