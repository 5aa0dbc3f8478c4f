//! `netvale demo`: what this machine can do, measured in seconds.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use netvale::Error;
use serde::Serialize;

mod limit;
mod measure;

use crate::exit::Code;
use crate::failure::{Failure, Result};
use crate::output::{self, Align, Table};
use crate::signals::Stop;
use crate::units::{float, mpps_gbps, scaled};
use measure::{Measured, Progress};

/// Longest demo, seconds.
const MAX_SECONDS: f64 = 3600.0;
/// Time for measuring what the machine could do at most, for each row.
const LIMIT_TIME: Duration = Duration::from_millis(100);

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Example:\n  \
    netvale demo --seconds 3\n\n\
    A sender and a receiver, each on a CPU of its own if there are two, in this\n\
    process: no server, no privilege. Rates are in millions of frames per second\n\
    (Mpps) and in Gbit/s. Beside each rate stands what the bare memory of this\n\
    machine allows for the same work. Ends with status 1 if no frame arrived or\n\
    one arrived with other bytes than it was sent with.")]
pub(crate) struct Args {
    /// Seconds to measure, all rows together
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// Print JSON, one object per row; frames and bits per second
    #[arg(long)]
    json: bool,
}

/// How frames get from one port to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Path {
    /// Through a switch, copied.
    Copy,
    /// Through a switch, by exchanging buffers.
    Move,
    /// Through a pipe.
    Pipe,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    label: &'static str,
    pub(super) path: Path,
    pub(super) len: u16,
}

const CASES: [Case; 4] = [
    Case {
        label: "switch, copy",
        path: Path::Copy,
        len: 60,
    },
    Case {
        label: "switch, copy",
        path: Path::Copy,
        len: 1514,
    },
    Case {
        label: "switch, zero-copy",
        path: Path::Move,
        len: 1514,
    },
    Case {
        label: "pipe",
        path: Path::Pipe,
        len: 60,
    },
];

/// One row for programs.
#[derive(Debug, Serialize)]
struct Line {
    schema: &'static str,
    path: Path,
    frame_bytes: u16,
    cpus: usize,
    seconds: f64,
    sent_frames: u64,
    received_frames: u64,
    rx_pps: f64,
    rx_bps: f64,
    limit_pps: Option<f64>,
    checked_frames: u64,
    corrupt_frames: u64,
}

/// Runs the demo.
pub(crate) fn run(args: &Args) -> Result<Code> {
    if !(args.seconds > 0.0 && args.seconds <= MAX_SECONDS) {
        return Err(Failure::usage(format!(
            "{} seconds: more than 0, up to {MAX_SECONDS}",
            args.seconds
        )));
    }
    let stop = Stop::on_signals()?;
    let cpus = measure::cpus()?;
    let live = !args.json && io::stderr().is_terminal();
    let each = Duration::from_secs_f64(args.seconds / float(CASES.len() as u64));
    let mut lines = Vec::new();
    for case in CASES {
        if stop.requested() {
            break;
        }
        let show = |progress: Progress| {
            if live {
                show_progress(case, &progress);
            }
        };
        let measured = measure::run(case, each, &cpus, &stop, show)?;
        let limit = limit::pps(case, cpus.len(), LIMIT_TIME);
        let line = line(case, cpus.len(), measured, limit);
        if args.json {
            output::json(&line)?;
        }
        lines.push((case, line));
    }
    if live {
        // Leaves no trace of the line of progress.
        eprint_flush("\r\x1b[K");
    }
    if !args.json {
        output::line(&table(&lines))?;
        output::line(&conclusion(&lines, cpus.len()))?;
    }
    if stop.requested() && lines.len() < CASES.len() {
        return Ok(stop.cut_short().unwrap_or(Code::Negative));
    }
    let good = |(_, line): &(Case, Line)| line.received_frames > 0 && line.corrupt_frames == 0;
    Ok(if lines.iter().all(good) {
        Code::Done
    } else {
        Code::Negative
    })
}

fn line(case: Case, cpus: usize, measured: Measured, limit_pps: Option<f64>) -> Line {
    let rx_pps = measured.pps();
    Line {
        schema: "netvale.demo.v1",
        path: case.path,
        frame_bytes: case.len,
        cpus: cpus.min(2),
        seconds: measured.seconds,
        sent_frames: measured.sent,
        received_frames: measured.received,
        rx_pps,
        rx_bps: rx_pps * f64::from(case.len) * 8.0,
        limit_pps,
        checked_frames: measured.checked,
        corrupt_frames: measured.corrupt,
    }
}

fn table(lines: &[(Case, Line)]) -> String {
    let mut table = Table::new(&[
        ("PATH", Align::Left),
        ("FRAME", Align::Right),
        ("Mpps", Align::Right),
        ("Gbit/s", Align::Right),
        ("LIMIT Mpps", Align::Right),
        ("OF LIMIT", Align::Right),
    ]);
    for (case, line) in lines {
        let (mpps, gbps) = mpps_gbps(line.rx_pps, f64::from(line.frame_bytes));
        let limit = line.limit_pps.filter(|&pps| pps > 0.0);
        table.row(vec![
            case.label.to_owned(),
            format!("{} B", line.frame_bytes),
            format!("{mpps:.2}"),
            format!("{gbps:.2}"),
            limit.map_or_else(|| "-".to_owned(), |pps| format!("{:.2}", pps / 1e6)),
            limit.map_or_else(
                || "-".to_owned(),
                |pps| format!("{:.0} %", 100.0 * line.rx_pps / pps),
            ),
        ]);
    }
    table.render()
}

fn conclusion(lines: &[(Case, Line)], cpus: usize) -> String {
    let sum = |count: fn(&Line) -> u64| lines.iter().map(|(_, line)| count(line)).sum::<u64>();
    let (received, checked) = (sum(|l| l.received_frames), sum(|l| l.checked_frames));
    let corrupt = sum(|l| l.corrupt_frames);
    let threads = if cpus > 1 {
        "two threads on two CPUs"
    } else {
        "one thread on one CPU"
    };
    format!(
        "{received} frames received by {threads}; \
         {checked} compared byte by byte, {corrupt} corrupt."
    )
}

fn show_progress(case: Case, progress: &Progress) {
    eprint_flush(&format!(
        "\r\x1b[K{} {} B: {}pps",
        case.label,
        case.len,
        scaled(progress.pps)
    ));
}

fn eprint_flush(text: &str) {
    let mut err = io::stderr().lock();
    // A lost line of progress is no loss.
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// An error of the demo itself.
fn broken(message: &str) -> Error {
    Error::new(netvale::ErrorKind::Io, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_compares_with_the_limit() {
        let measured = Measured {
            sent: 2_000_000,
            received: 1_000_000,
            seconds: 1.0,
            checked: 10,
            corrupt: 0,
        };
        let with = line(CASES[0], 2, measured, Some(4e6));
        let without = line(CASES[3], 2, measured, None);
        let text = table(&[(CASES[0], with), (CASES[3], without)]);
        assert!(text.contains("25 %"), "{text}");
        assert!(text.contains("0.48"), "{text}");
        assert!(text.lines().count() == 3);
    }
}
