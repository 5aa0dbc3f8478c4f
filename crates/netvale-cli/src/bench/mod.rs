//! `netvale bench`: measurements beside the raw limits of the machine, with
//! machine-readable results.
//!
//! [`list`] says what is measured and what it should reach, [`run`] measures
//! round by round (every case once in each round, next to the raw loop that it
//! is compared with), and [`report`] and [`html`] show what came out.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

mod case;
mod devices;
mod html;
mod latency;
mod limits;
mod list;
mod machine;
mod onecore;
mod peer;
mod place;
mod report;
mod sample;
mod stats;
mod stream;
mod svg;

pub(crate) use peer::{PeerArgs, run as run_peer};

use crate::exit::Code;
use crate::failure::{Failure, Result, io_error};
use crate::output;
use crate::signals::Stop;
use crate::units::float;
use case::{Case, Context, Limit, Work};
use devices::{Beds, DeviceWork};
use machine::Machine;
use place::Place;
use report::{FAR_NS, Progress, Raw, Report, SCHEMA};
use sample::{Sample, on_cpu};
use stream::Stream;

/// Most rounds, and longest time for a case.
const MAX_ROUNDS: u32 = 1000;
const MAX_SECONDS: f64 = 600.0;
/// Longest time that a raw limit counts as measured beside a case.
const RAW_FRESH: Duration = Duration::from_secs(1);
/// Longest time that is spent on a raw limit at once.
const RAW_TIME: Duration = Duration::from_millis(250);
/// How often the progress is told when stderr is no terminal.
const TELL: Duration = Duration::from_secs(15);
/// `--quick`: one round of this many seconds for each case.
const QUICK_SECONDS: f64 = 0.02;
/// The same of devices: their frames are under way for longer.
const QUICK_DEVICE_SECONDS: f64 = 0.1;

/// What was typed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    netvale bench --list\n  \
    netvale bench --only 'vale 1 to 1' --rounds 3\n  \
    netvale bench --json results.json --html chart.html\n  \
    sudo netvale bench --devices\n\n\
    Every round measures each case once, next to a bare loop that does the\n\
    least that the same work costs on this machine (the raw limit). Rates are\n\
    medians over the rounds, in millions of frames per second (Mpps); RATIO is\n\
    rate by raw limit. Two-core figures depend on where the host puts the two\n\
    cores; their distance is measured before and after. Ends with status 1 if\n\
    frames were lost that must not be, or a case could not be measured.")]
pub(crate) struct BenchArgs {
    /// Only cases whose name contains this; may be repeated
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Seconds for each case in each round
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    seconds_per_case: f64,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
    /// Write all figures as JSON; - for stdout, instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write charts as one HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// List the cases instead of measuring them
    #[arg(long)]
    list: bool,
    /// Devices, beside bare loops over the same mechanisms; needs root
    #[arg(long)]
    devices: bool,
    /// A few cases, one round of a moment each: only whether they work
    #[arg(long, conflicts_with_all = ["seconds_per_case", "rounds"])]
    quick: bool,
}

/// What it means.
#[derive(Debug)]
struct Config {
    cases: Vec<Case>,
    time: Duration,
    rounds: u32,
}

impl Config {
    fn new(args: &BenchArgs) -> Result<Self> {
        if !(args.seconds_per_case > 0.0 && args.seconds_per_case <= MAX_SECONDS) {
            return Err(Failure::usage(format!(
                "{} seconds: more than 0, up to {MAX_SECONDS}",
                args.seconds_per_case
            )));
        }
        if !(1..=MAX_ROUNDS).contains(&args.rounds) {
            return Err(Failure::usage(format!(
                "{} rounds: 1 to {MAX_ROUNDS}",
                args.rounds
            )));
        }
        let all = match args.devices {
            true => devices::all(),
            false => list::all(),
        };
        let cases: Vec<Case> = all
            .into_iter()
            .filter(|c| (c.quick || !args.quick) && case::selected(&args.only, &c.name))
            .collect();
        if cases.is_empty() {
            return Err(Failure::Error(
                netvale::Error::new(netvale::ErrorKind::Usage, "no case has such a name")
                    .with_hint("netvale bench --list shows them"),
            ));
        }
        let (seconds, rounds) = match (args.quick, args.devices) {
            (true, false) => (QUICK_SECONDS, 1),
            (true, true) => (QUICK_DEVICE_SECONDS, 1),
            (false, _) => (args.seconds_per_case, args.rounds),
        };
        Ok(Self {
            cases,
            time: Duration::from_secs_f64(seconds),
            rounds,
        })
    }
}

/// Runs the benchmarks.
pub(crate) fn run(args: &BenchArgs) -> Result<Code> {
    let config = Config::new(args)?;
    if args.list {
        let names: Vec<_> = config.cases.iter().map(|c| c.name.as_str()).collect();
        output::line(&names.join("\n"))?;
        return Ok(Code::Done);
    }
    let stop = Stop::on_signals()?;
    let report = measure(config, &stop)?;
    if let Some(path) = &args.html {
        write_file(path, &html::page(&report))?;
    }
    let to_stdout = args.json.as_ref().is_some_and(|p| p.as_os_str() == "-");
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).map_err(io::Error::from)?;
        if to_stdout {
            output::line(&text)?;
        } else {
            write_file(path, &(text + "\n"))?;
        }
    }
    if !to_stdout {
        output::line(&report.table())?;
    }
    Ok(match stop.cut_short() {
        Some(code) if report.incomplete => code,
        _ if report.failed() => Code::Negative,
        _ => Code::Done,
    })
}

fn write_file(path: &PathBuf, text: &str) -> Result<()> {
    Ok(fs::write(path, text)
        .map_err(|e| io_error(&format!("cannot write {}", path.display()), &e))?)
}

/// What all cases need.
struct Bench {
    cpus: Vec<usize>,
    /// The sender's and the receiver's; the same if there is only one.
    pair: [usize; 2],
    time: Duration,
    /// Started when it is first needed.
    place: Option<Place>,
    /// What raw limits gave last.
    limits: HashMap<Limit, (Instant, Raw)>,
    /// Made when they are first needed.
    beds: Option<Beds>,
}

fn measure(config: Config, stop: &Stop) -> Result<Report> {
    let machine = Machine::look()?;
    let cpus = machine.cpus.clone();
    let mut bench = Bench {
        pair: [cpus[0], *cpus.get(1).unwrap_or(&cpus[0])],
        cpus,
        time: config.time,
        place: None,
        limits: HashMap::new(),
        beds: None,
    };
    let mut all: Vec<_> = config.cases.into_iter().map(Progress::new).collect();
    let mut meter = Meter::new(all.len() as u64 * u64::from(config.rounds));
    'rounds: for _ in 0..config.rounds {
        for progress in &mut all {
            if stop.requested() {
                break 'rounds;
            }
            meter.next(&progress.case.name);
            bench.measure(progress);
        }
    }
    meter.end();
    Ok(Report {
        schema: SCHEMA,
        machine,
        rounds: config.rounds,
        seconds_per_case: config.time.as_secs_f64(),
        far_ns: FAR_NS,
        incomplete: stop.requested(),
        cases: all.into_iter().map(Progress::finish).collect(),
    })
}

impl Bench {
    /// Measures a case once, beside its raw limit.
    fn measure(&mut self, progress: &mut Progress) {
        if progress.case.two_cores() && self.cpus.len() < 2 {
            progress.skipped = Some("needs two CPUs".into());
            return;
        }
        let raw = progress.case.raw.map(|limit| self.limit(limit));
        let raw = raw.transpose();
        let apart = progress.case.two_cores();
        let before = apart.then(|| self.distance());
        let sample = self.sample(&progress.case);
        let distance = before.map(|before| [before, self.distance()]);
        match (raw, sample) {
            (Ok(raw), Ok(sample)) => progress.add(sample, raw, distance),
            (Err(failure), _) | (_, Err(failure)) if devices::is_unavailable(&failure) => {
                progress.skipped = Some(explain(&failure));
            }
            (Err(failure), _) | (_, Err(failure)) => progress.fail(explain(&failure)),
        }
    }

    fn distance(&self) -> u64 {
        netvale::raw::core_distance_ns(self.pair[0], self.pair[1])
    }

    /// What the raw limit gives now, or gave a moment ago.
    fn limit(&mut self, limit: Limit) -> Result<Raw> {
        if let Some((when, value)) = self.limits.get(&limit)
            && when.elapsed() < RAW_FRESH
        {
            return Ok(*value);
        }
        let sample = match limit {
            // As long as the case: it takes a while to find its speed.
            Limit::Device(work) => self.device(work)?,
            _ => limits::measure(limit, self.pair, self.time.min(RAW_TIME))?,
        };
        let raw = Raw {
            value: sample.value,
            cpu_ns: sample.cpu_ns,
        };
        if let Some(why) = sample.problem {
            return Err(sample::broken(&format!("the bare loop: {why}")).into());
        }
        self.limits.insert(limit, (Instant::now(), raw));
        Ok(raw)
    }

    fn device(&mut self, work: DeviceWork) -> Result<Sample> {
        if self.beds.is_none() {
            self.beds = Some(Beds::new()?);
        }
        let beds = self.beds.as_mut();
        let beds = beds.ok_or_else(|| sample::broken("no devices"))?;
        beds.measure(work, self.pair, self.time)
    }

    fn sample(&mut self, case: &Case) -> Result<Sample> {
        let (pair, time) = (self.pair, self.time);
        let here = |f: &(dyn Fn() -> Result<Sample> + Sync)| on_cpu(pair[0], f);
        match case.work {
            Work::Switch {
                senders,
                receivers,
                load,
            } => here(&|| onecore::switch(senders, receivers, load, time)),
            Work::Pipe { load } => here(&|| onecore::pipe(load, time)),
            Work::Monitored { monitor, load } => here(&|| onecore::monitored(monitor, load, time)),
            Work::Stations {
                stations,
                ports,
                load,
            } => here(&|| onecore::stations(stations, ports, load, time)),
            Work::Ports {
                ports,
                broadcast,
                load,
            } => here(&|| onecore::ports(ports, broadcast, load, time)),
            Work::SyncLatency => here(&|| onecore::sync_latency(time)),
            Work::Stream {
                path,
                context,
                one_core,
                load,
            } => {
                let stream = Stream {
                    path,
                    one_core,
                    load,
                };
                let place = match context {
                    Context::Embedded => None,
                    _ => Some(self.place()?),
                };
                stream.measure(pair, time, place)
            }
            Work::Isolated { load } => {
                let cpus = self.cpus.clone();
                stream::isolated(load, pair, &cpus, time, self.place()?)
            }
            Work::PingPong {
                path,
                wait,
                one_core,
            } => {
                let cpus = if one_core { [pair[0]; 2] } else { pair };
                latency::ping_pong(path, wait, cpus, time, self.place()?)
            }
            Work::Open { running } => latency::open(running, self.place()?),
            Work::IdleMemory => latency::idle_memory(self.place()?),
            Work::IdleWakeups => latency::idle_wakeups(time, self.place()?),
            Work::Device(work) => self.device(work),
            Work::Raw { limit } => limits::measure(limit, pair, time),
        }
    }

    fn place(&mut self) -> Result<&Place> {
        if self.place.is_none() {
            self.place = Some(Place::new()?);
        }
        self.place
            .as_ref()
            .ok_or_else(|| sample::broken("no namespace").into())
    }
}

/// A failure in one line.
fn explain(failure: &Failure) -> String {
    match failure {
        Failure::Error(error) => error.to_string(),
        Failure::StdoutClosed => "stdout was closed".into(),
        Failure::Reported(_) => "failed".into(),
    }
}

/// Which case runs, and how long all will take.
struct Meter {
    total: u64,
    at: u64,
    start: Instant,
    live: bool,
    told: Option<Instant>,
}

impl Meter {
    fn new(total: u64) -> Self {
        Self {
            total,
            at: 0,
            start: Instant::now(),
            live: io::stderr().is_terminal(),
            told: None,
        }
    }

    fn next(&mut self, name: &str) {
        let left = self.left();
        self.at += 1;
        let text = format!("[{}/{}{left}] {name}", self.at, self.total);
        if self.live {
            eprint_flush(&format!("\r\x1b[K{text}"));
        } else if self.told.is_none_or(|told| told.elapsed() >= TELL) {
            self.told = Some(Instant::now());
            output::note(&text);
        }
    }

    /// `, 3:20 left`, once that can be told.
    fn left(&self) -> String {
        if self.at < 3 {
            return String::new();
        }
        let each = self.start.elapsed().as_secs_f64() / float(self.at);
        let seconds = each * float(self.total - self.at);
        format!(
            ", {:.0}:{:02.0} left",
            (seconds / 60.0).floor(),
            seconds % 60.0
        )
    }

    fn end(&self) {
        if self.live {
            eprint_flush("\r\x1b[K");
        }
    }
}

fn eprint_flush(text: &str) {
    let mut err = io::stderr().lock();
    // A lost line of progress is no loss.
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Tool {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn config(words: &str) -> Result<Config> {
        let words = ["bench"].into_iter().chain(words.split_whitespace());
        Config::new(&Tool::try_parse_from(words).expect("valid words").args)
    }

    #[test]
    fn arguments_choose_cases_and_times() {
        let all = config("").unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((all.rounds, all.time), (5, Duration::from_millis(500)));
        assert!(all.cases.len() > 100, "{}", all.cases.len());
        let few = config("--only PIPE --rounds 2").unwrap_or_else(|e| panic!("{e:?}"));
        assert!(few.cases.iter().all(|c| c.name.contains("pipe")));
        let quick = config("--quick").unwrap_or_else(|e| panic!("{e:?}"));
        assert!(quick.cases.len() < all.cases.len() / 2);
        assert_eq!(quick.rounds, 1);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            "--rounds 0",
            "--seconds-per-case 0",
            "--seconds-per-case nan",
            "--only nothing-is-called-so",
        ] {
            assert!(matches!(config(words), Err(Failure::Error(_))), "{words}");
        }
        Tool::try_parse_from(["bench", "--quick", "--rounds", "2"]).unwrap_err();
    }
}
