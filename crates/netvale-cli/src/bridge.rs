//! `netvale bridge`: netmap's bridge.

use std::thread;
use std::time::{Duration, Instant};

use netvale::{Error, ErrorKind, Port, RxRing, TxRing};
use serde::Serialize;

use crate::cli::Place;
use crate::exit::Code;
use crate::failure::{Failure, Result};
use crate::output;
use crate::pkt_gen::port_name;
use crate::signals::{POLL_PERIOD, Stop};
use crate::units::{per_second, scaled};

/// Frames per batch that was not given, and the most.
const DEFAULT_BATCH: u32 = 1024;
const MAX_BATCH: u32 = 8192;
/// Seconds for the link to come up that were not given, and the most.
const DEFAULT_WAIT_S: u64 = 4;
const MAX_WAIT_S: u64 = 100;
/// How often the statistics are printed.
const STATS_PERIOD: Duration = Duration::from_secs(1);
/// How long a bridge of two ports sleeps on one of them while the other may
/// get frames, when both have been silent.
const NAP: Duration = Duration::from_micros(200);

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_long_help = "Examples:\n  \
        bridge -i vale0:a -i vale1:b\n  \
        bridge -c -b 256 vale0:a vale1:b\n  \
        bridge -L -i vale0:a\n\n\
        Frames move without a copy when both ports share their memory. With one\n\
        port, it is bridged to the host's end of the same device (PORT^)."
)]
pub(crate) struct Args {
    /// Port; give it twice for the two ends
    #[arg(short = 'i', long, value_name = "PORT")]
    port: Vec<String>,
    /// Most frames per batch, 1 to 8192 [default: 1024]
    #[arg(short, long, value_name = "FRAMES")]
    batch: Option<u32>,
    /// Seconds to wait for the link, up to 100
    /// [default: 0 between vale ports, else 4]
    #[arg(short, long, value_name = "S")]
    wait_s: Option<u64>,
    /// Copy frames even if they could be moved
    #[arg(short, long)]
    copy: bool,
    /// More messages
    #[arg(short, long)]
    verbose: bool,
    /// Send frames back out of the port they came from
    #[arg(short = 'L', long)]
    loopback: bool,
    /// Print frames per second and bits per second each second
    #[arg(long)]
    stats: bool,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Ports and batch, instead of -i and -b
    #[arg(value_name = "PORT|FRAMES")]
    positional: Vec<String>,
}

/// What it means.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Config {
    a: String,
    /// `None`: back out of `a`.
    b: Option<String>,
    batch: u32,
    wait: Duration,
    copy: bool,
    verbose: bool,
    stats: bool,
    json: bool,
}

impl TryFrom<Args> for Config {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self> {
        let mut names = args.port;
        let mut batch = args.batch;
        for word in args.positional {
            if names.len() < 2 {
                names.push(word);
            } else if batch.is_none() {
                batch = Some(word.parse().map_err(|e| {
                    Failure::usage(format!("'{word}' is not a number of frames: {e}"))
                })?);
            } else {
                return Err(Failure::usage(format!("unexpected argument '{word}'")));
            }
        }
        let mut names = names.iter().map(|name| port_name(name));
        let (Some(a), b, None) = (names.next(), names.next(), names.next()) else {
            return Err(Failure::usage("a bridge has one or two ports: -i A -i B"));
        };
        let batch = batch.unwrap_or(DEFAULT_BATCH);
        if !(1..=MAX_BATCH).contains(&batch) {
            return Err(Failure::usage(format!("batch {batch}: 1 to {MAX_BATCH}")));
        }
        let b = match b {
            Some(_) if args.loopback => {
                return Err(Failure::usage("-L bridges one port to itself"));
            }
            Some(b) if b == a => {
                return Err(Failure::usage(format!("{a} twice; -L sends frames back")));
            }
            Some(b) => Some(b),
            None if args.loopback => None,
            None if a.starts_with("vale") => {
                return Err(Failure::usage(format!(
                    "{a} has no host end: give a second port, or -L"
                )));
            }
            None => Some(format!("{a}^")),
        };
        let virtual_only = [Some(&a), b.as_ref()]
            .into_iter()
            .flatten()
            .all(|name| name.starts_with("vale"));
        let wait = match args.wait_s {
            Some(s) if s <= MAX_WAIT_S => s,
            None if virtual_only => 0,
            _ => DEFAULT_WAIT_S,
        };
        Ok(Self {
            a,
            b,
            batch,
            wait: Duration::from_secs(wait),
            copy: args.copy,
            verbose: args.verbose,
            stats: args.stats,
            json: args.json,
        })
    }
}

/// One line of statistics, or the last line.
#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: &'static str,
    t_s: f64,
    a: &'a str,
    b: &'a str,
    zero_copy: bool,
    a_to_b_frames: u64,
    b_to_a_frames: u64,
    a_to_b_pps: f64,
    b_to_a_pps: f64,
}

/// Runs the bridge.
pub(crate) fn run(args: Args, place: &Place) -> Result<Code> {
    let config = Config::try_from(args)?;
    let namespace = place.namespace()?;
    let a = namespace.open(&config.a)?;
    let b = config
        .b
        .as_deref()
        .map(|name| namespace.open(name))
        .transpose()?;
    let stop = Stop::on_signals()?;
    let zero_copy = !config.copy && b.as_ref().is_none_or(|b| a.same_region(b));
    if !config.json {
        let supported = if zero_copy {
            "supported"
        } else {
            "NOT supported"
        };
        output::line(&format!("------- zerocopy {supported}"))?;
        output::line(&format!(
            "Wait {} secs for link to come up...",
            config.wait.as_secs()
        ))?;
    }
    stop.sleep(config.wait);
    if !config.json {
        let end = |port: &Port| format!("{} 0x0/{}", port.name(), port.rx_count());
        let other = b.as_ref().map_or_else(|| end(&a), end);
        output::line(&format!("Ready to go, {} <-> {other}.", end(&a)))?;
    }
    let mut bridge = Bridge {
        config: &config,
        stop: &stop,
        zero_copy,
        start: Instant::now(),
        ways: [0; 2],
        shown: (Instant::now(), [0; 2]),
        scratch: Vec::new(),
    };
    match b {
        Some(b) => bridge.run_between(a, b)?,
        None => bridge.run_loopback(a)?,
    }
    bridge.report(true)?;
    Ok(Code::Done)
}

struct Bridge<'a> {
    config: &'a Config,
    stop: &'a Stop,
    zero_copy: bool,
    start: Instant,
    /// Frames from a to b, and from b to a.
    ways: [u64; 2],
    /// When statistics were shown last, and what they were.
    shown: (Instant, [u64; 2]),
    scratch: Vec<u8>,
}

impl Bridge<'_> {
    fn run_between(&mut self, mut a: Port, mut b: Port) -> Result<()> {
        let mut idle = Instant::now();
        while !self.stop.requested() {
            let there = self.one_way(&mut a, &mut b)?;
            let back = self.one_way(&mut b, &mut a)?;
            self.ways[0] += u64::from(there);
            self.ways[1] += u64::from(back);
            if there + back > 0 {
                idle = Instant::now();
            } else if idle.elapsed() > NAP {
                sleep_on_both(&mut a, &mut b)?;
            } else {
                thread::yield_now();
            }
            self.report(false)?;
        }
        Ok(())
    }

    /// Moves what `from` has to `to`, each ring to the one of its number.
    fn one_way(&mut self, from: &mut Port, to: &mut Port) -> Result<u32> {
        let mut moved = 0;
        for i in 0..from.rx_count() {
            let rx = from.rx(i);
            if rx.sync()? == 0 {
                continue;
            }
            let tx = to.tx(i % to.tx_count().max(1));
            if tx.space() == 0 {
                tx.sync()?;
            }
            moved += self.ring(rx, tx)?;
            rx.sync()?;
            tx.sync()?;
        }
        Ok(moved)
    }

    fn run_loopback(&mut self, mut port: Port) -> Result<()> {
        while !self.stop.requested() {
            let mut moved = 0;
            for i in 0..port.rx_count() {
                let tx = i % port.tx_count().max(1);
                let (tx, rx) = port.tx_rx(tx, i);
                rx.sync()?;
                moved += self.ring(rx, tx)?;
                rx.sync()?;
                tx.sync()?;
            }
            self.ways[0] += u64::from(moved);
            if moved == 0 {
                port.wait_rx(Some(POLL_PERIOD))?;
            }
            self.report(false)?;
        }
        Ok(())
    }

    fn ring(&mut self, rx: &mut RxRing, tx: &mut TxRing) -> Result<u32> {
        if self.zero_copy {
            return Ok(rx.forward(tx, self.config.batch));
        }
        let mut moved = 0;
        while moved < self.config.batch && tx.space() > 0 {
            let Some(frame) = rx.next() else {
                break;
            };
            frame.read_to(&mut self.scratch);
            moved += 1;
            if tx.push(&self.scratch).is_err() {
                // More slots than are free: make room once, then give up.
                tx.sync()?;
                if tx.push(&self.scratch).is_err() && self.config.verbose {
                    output::note("a frame did not fit into the other port");
                }
            }
        }
        Ok(moved)
    }

    /// Shows statistics when they are due; the totals at the end.
    fn report(&mut self, last: bool) -> Result<()> {
        let (then, old) = if last {
            (self.start, [0; 2])
        } else {
            self.shown
        };
        let wanted = last || self.config.stats;
        if !wanted || (!last && then.elapsed() < STATS_PERIOD) {
            return Ok(());
        }
        let seconds = then.elapsed().as_secs_f64();
        let rate = |i: usize| per_second(self.ways[i] - old[i], seconds);
        let (there, back) = (rate(0), rate(1));
        if self.config.json {
            output::json(&Report {
                schema: if last {
                    "netvale.bridge.summary.v1"
                } else {
                    "netvale.bridge.interval.v1"
                },
                t_s: self.start.elapsed().as_secs_f64(),
                a: &self.config.a,
                b: self.config.b.as_deref().unwrap_or(&self.config.a),
                zero_copy: self.zero_copy,
                a_to_b_frames: self.ways[0],
                b_to_a_frames: self.ways[1],
                a_to_b_pps: there,
                b_to_a_pps: back,
            })?;
        } else if last {
            output::line(&format!(
                "Forwarded {} frames there and {} back in {seconds:.2} seconds.",
                self.ways[0], self.ways[1]
            ))?;
        } else {
            output::note(&format!(
                "{}pps there, {}pps back",
                scaled(there),
                scaled(back)
            ));
        }
        self.shown = (Instant::now(), self.ways);
        Ok(())
    }
}

/// Sleeps until one of two ports has frames.
fn sleep_on_both(a: &mut Port, b: &mut Port) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    // Both doorbells must be armed before the sleep, and a frame that came in
    // between must prevent it.
    let asleep = a.arm()? && b.arm()?;
    if asleep {
        let mut fds = [
            PollFd::new(&*a, PollFlags::IN),
            PollFd::new(&*b, PollFlags::IN),
        ];
        let timeout = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(POLL_PERIOD.subsec_nanos()),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                let message = format!("cannot wait for frames: {e}");
                return Err(Error::new(ErrorKind::Io, message).into());
            }
        }
    }
    a.disarm();
    b.disarm();
    Ok(())
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

    fn config(line: &str) -> Result<Config, String> {
        let words = ["bridge"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        Config::try_from(line.args).map_err(|failure| match failure {
            Failure::Error(error) => error.to_string(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn ports_by_option_or_by_position() {
        let by_option = config("-i vale0:a -i vale1:b -b 256").expect("valid");
        let by_position = config("vale0:a vale1:b 256").expect("valid");
        assert_eq!(by_option, by_position);
        assert_eq!(by_option.batch, 256);
        assert_eq!(by_option.wait, Duration::ZERO);
        let mixed = config("-i vale0:a -c vale1:b").expect("valid");
        assert_eq!((mixed.batch, mixed.copy), (1024, true));
    }

    #[test]
    fn one_port_is_bridged_to_the_host() {
        let c = config("-i eth0").expect("valid");
        assert_eq!(
            (c.a.as_str(), c.b.as_deref()),
            ("netmap:eth0", Some("netmap:eth0^"))
        );
        assert_eq!(c.wait.as_secs(), 4);
        assert_eq!(config("-L vale0:a").expect("valid").b, None);
        assert_eq!(config("-w 101 eth0").expect("valid").wait.as_secs(), 4);
        assert_eq!(
            config("-w 7 vale0:a vale0:b")
                .expect("valid")
                .wait
                .as_secs(),
            7
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (line, cause) in [
            ("-c", "one or two ports"),
            ("-i a -i b -i c", "one or two ports"),
            ("-i vale0:a", "no host end"),
            ("vale0:a vale0:a", "twice"),
            ("-L vale0:a vale0:b", "to itself"),
            ("-b 0 vale0:a vale0:b", "batch 0"),
            ("-b 8193 vale0:a vale0:b", "batch 8193"),
            ("vale0:a vale0:b x", "'x' is not a number"),
            ("vale0:a vale0:b 5 6", "unexpected argument '6'"),
        ] {
            let error = config(line).expect_err(line);
            assert!(error.contains(cause), "{line}: {error}");
        }
    }
}
