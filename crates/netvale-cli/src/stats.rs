//! `netvale stats`: counters of ports.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use netvale::{ErrorKind, Namespace, PortStats};
use serde::Serialize;

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::{Failure, Result};
use crate::output::{self, Align, Table};
use crate::signals::Stop;
use crate::units::{per_second, scaled};

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    netvale stats\n  \
    netvale stats vale0:a --watch\n  \
    netvale stats --json --watch --interval-ms 500\n\n\
    Counts are frames and bytes since the port was opened, rates are per\n\
    second. Each dropped frame is counted once, with its reason; those\n\
    that begin with dev_ were lost between a port and its device.")]
pub(crate) struct Args {
    /// Port, as vale0:a [default: all]
    #[arg(value_name = "PORT")]
    name: Option<String>,
    /// Show rates again and again, until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Milliseconds between two outputs of --watch
    #[arg(long, value_name = "MS", default_value_t = 1000, requires = "watch")]
    interval_ms: u64,
    /// Print JSON, one object per port; frames, bytes and frames per second
    #[arg(long)]
    json: bool,
}

/// Counters of a port for programs.
#[derive(Debug, Serialize)]
struct Line<'a> {
    schema: &'static str,
    name: &'a str,
    tx_frames: u64,
    tx_bytes: u64,
    tx_syncs: u64,
    rx_frames: u64,
    rx_bytes: u64,
    drop_frames: BTreeMap<&'a str, u64>,
    faults: u64,
    cpu_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_pps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_pps: Option<f64>,
}

/// Runs `stats`.
pub(crate) fn run(args: &Args, place: &Place) -> Result<Code> {
    if args.interval_ms == 0 {
        return Err(Failure::usage("an interval of 0 ms"));
    }
    let namespace = place.namespace_if_running()?;
    if !args.watch {
        let stats = read(&namespace, args.name.as_deref())?;
        show(args, &stats, None)?;
        return Ok(Code::Done);
    }
    let stop = Stop::on_signals()?;
    let mut before = (Instant::now(), read(&namespace, args.name.as_deref())?);
    loop {
        stop.sleep(Duration::from_millis(args.interval_ms));
        if stop.requested() {
            return Ok(Code::Done);
        }
        let now = (Instant::now(), read(&namespace, args.name.as_deref())?);
        let seconds = (now.0 - before.0).as_secs_f64();
        show(args, &now.1, Some((&before.1, seconds)))?;
        before = now;
    }
}

/// The counters; none if no server runs and no port was named.
fn read(namespace: &Namespace, name: Option<&str>) -> Result<Vec<PortStats>> {
    match namespace.stats(name) {
        Err(error) if error.kind() == ErrorKind::Disconnected && name.is_none() => Ok(Vec::new()),
        stats => Ok(stats?),
    }
}

fn show(args: &Args, stats: &[PortStats], before: Option<(&[PortStats], f64)>) -> Result<()> {
    let old: HashMap<&str, &PortStats> = before
        .map(|(stats, _)| stats.iter().map(|s| (s.name.as_str(), s)).collect())
        .unwrap_or_default();
    let rates = |now: &PortStats| {
        let (_, seconds) = before?;
        let old = old.get(now.name.as_str())?;
        // A port that was opened again counts from zero.
        let tx = now.tx_frames.saturating_sub(old.tx_frames);
        let rx = now.rx_frames.saturating_sub(old.rx_frames);
        Some((per_second(tx, seconds), per_second(rx, seconds)))
    };
    if args.json {
        for s in stats {
            let rates = rates(s);
            output::json(&Line {
                schema: "netvale.stats.v1",
                name: &s.name,
                tx_frames: s.tx_frames,
                tx_bytes: s.tx_bytes,
                tx_syncs: s.tx_syncs,
                rx_frames: s.rx_frames,
                rx_bytes: s.rx_bytes,
                drop_frames: s.drops.iter().map(|&(reason, n)| (reason, n)).collect(),
                faults: s.faults,
                cpu_ns: s.cpu_ns,
                tx_pps: rates.map(|(tx, _)| tx),
                rx_pps: rates.map(|(_, rx)| rx),
            })?;
        }
        return Ok(());
    }
    if stats.is_empty() {
        output::note("no ports");
        return Ok(());
    }
    let (tx, rx) = match before {
        Some(_) => ("TX/s", "RX/s"),
        None => ("TX FRAMES", "RX FRAMES"),
    };
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        (tx, Align::Right),
        (rx, Align::Right),
        ("TX BYTES", Align::Right),
        ("RX BYTES", Align::Right),
        ("CPU MS", Align::Right),
        ("DROPS", Align::Left),
    ]);
    for s in stats {
        let (tx, rx) = match (before, rates(s)) {
            (Some(_), Some((tx, rx))) => (scaled(tx), scaled(rx)),
            (Some(_), None) => ("-".to_owned(), "-".to_owned()),
            (None, _) => (s.tx_frames.to_string(), s.rx_frames.to_string()),
        };
        table.row(vec![
            s.name.clone(),
            tx.trim_end().to_owned(),
            rx.trim_end().to_owned(),
            s.tx_bytes.to_string(),
            s.rx_bytes.to_string(),
            (s.cpu_ns / 1_000_000).to_string(),
            drops(s),
        ]);
    }
    if before.is_some() && io::stdout().is_terminal() {
        // Home and clear, so that the table stays where it is.
        output::line(&format!("\x1b[H\x1b[J{}", table.render()))
    } else {
        output::line(&table.render())
    }
}

/// `reason=frames` of each reason that occurred.
fn drops(stats: &PortStats) -> String {
    let mut words: Vec<_> = stats
        .drops
        .iter()
        .filter(|(_, frames)| *frames > 0)
        .map(|(reason, frames)| format!("{reason}={frames}"))
        .collect();
    if stats.faults > 0 {
        words.push(format!("faults={}", stats.faults));
    }
    if words.is_empty() {
        words.push("-".to_owned());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_drops_that_occurred_are_shown() {
        let mut stats = PortStats {
            drops: vec![("rx_full", 0), ("tx_runt", 3)],
            ..PortStats::default()
        };
        assert_eq!(drops(&stats), "tx_runt=3");
        stats.faults = 1;
        assert_eq!(drops(&stats), "tx_runt=3 faults=1");
        assert_eq!(drops(&PortStats::default()), "-");
    }
}
