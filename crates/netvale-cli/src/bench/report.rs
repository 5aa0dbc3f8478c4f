//! Results: as JSON, and as a table.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::case::{Case, Context, Load, Unit, Work};
use super::machine::Machine;
use super::sample::Sample;
use super::stats::Spread;
use crate::output::{Align, Table};
use crate::units::float;

/// Name of this form of the results.
pub(super) const SCHEMA: &str = "netvale.bench.v1";
/// Cores farther apart than this (a cache line there and back, nanoseconds)
/// make two-core figures incomparable.
pub(super) const FAR_NS: u64 = 250;

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) schema: &'static str,
    pub(super) machine: Machine,
    pub(super) rounds: u32,
    pub(super) seconds_per_case: f64,
    pub(super) far_ns: u64,
    /// Cut short by a signal.
    pub(super) incomplete: bool,
    pub(super) cases: Vec<Outcome>,
}

/// What a case gave.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) group: &'static str,
    pub(super) context: Context,
    pub(super) two_cores: bool,
    pub(super) work: Work,
    /// Of `value`, `raw` and all in `rounds`.
    pub(super) unit: Unit,
    pub(super) value: Option<Spread>,
    /// What the raw limit gave in the same rounds.
    pub(super) raw: Option<Spread>,
    /// Value by raw limit, round by round.
    pub(super) ratio: Option<Spread>,
    /// CPU time of those who move the frames, nanoseconds: for a frame, a KiB
    /// of TCP or a round trip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_ns: Option<Spread>,
    /// The same of the raw limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) raw_cpu_ns: Option<Spread>,
    /// One by the other, round by round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_ratio: Option<Spread>,
    /// Median in bits of frames per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value_bps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency: Option<Latency>,
    pub(super) target: Option<String>,
    pub(super) target_met: Option<bool>,
    /// Rounds in which the two cores were far apart.
    pub(super) far_rounds: usize,
    /// Why it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) skipped: Option<String>,
    /// Why its figures are worth nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failed: Option<String>,
    pub(super) rounds: Vec<Round>,
}

/// What a raw limit gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Raw {
    pub(super) value: f64,
    /// As [`Outcome::cpu_ns`].
    pub(super) cpu_ns: Option<f64>,
}

/// One measurement of a case.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Round {
    pub(super) value: f64,
    pub(super) raw: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_ns: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) raw_cpu_ns: Option<f64>,
    pub(super) seconds: f64,
    pub(super) sent_frames: u64,
    pub(super) received_frames: u64,
    pub(super) dropped_frames: u64,
    /// Before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) core_distance_ns: Option<[u64; 2]>,
    pub(super) far: bool,
}

/// Round trips of all rounds together.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) ns_min: u64,
    pub(super) ns_p50: u64,
    pub(super) ns_p90: u64,
    pub(super) ns_p99: u64,
    pub(super) ns_p999: u64,
    pub(super) ns_max: u64,
    /// Upper bound in nanoseconds, and how many were in there: eight steps to
    /// the factor two.
    pub(super) buckets: Vec<(u64, u64)>,
}

impl Latency {
    fn of(h: &Histogram<u64>) -> Self {
        Self {
            count: h.len(),
            ns_min: h.min(),
            ns_p50: h.value_at_quantile(0.5),
            ns_p90: h.value_at_quantile(0.9),
            ns_p99: h.value_at_quantile(0.99),
            ns_p999: h.value_at_quantile(0.999),
            ns_max: h.max(),
            buckets: buckets(h),
        }
    }
}

/// The histogram in logarithmic steps, without empty ones at either end.
fn buckets(h: &Histogram<u64>) -> Vec<(u64, u64)> {
    let mut buckets: Vec<(u64, u64)> = Vec::new();
    let mut bound = 16.0f64;
    for value in h.iter_recorded() {
        let at = value.value_iterated_to();
        while float(at) > bound {
            bound *= 2f64.powf(0.125);
            if !buckets.is_empty() {
                buckets.push((whole(bound), 0));
            }
        }
        let n = value.count_since_last_iteration();
        match buckets.last_mut() {
            Some((_, count)) => *count += n,
            None => buckets.push((whole(bound), n)),
        }
    }
    buckets
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounds are positive and below 2^53"
)]
fn whole(bound: f64) -> u64 {
    bound.round() as u64
}

/// A case while its rounds come in.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) case: Case,
    rounds: Vec<Round>,
    latency: Option<Histogram<u64>>,
    pub(super) skipped: Option<String>,
    failed: Option<String>,
}

impl Progress {
    pub(super) fn new(case: Case) -> Self {
        Self {
            case,
            rounds: Vec::new(),
            latency: None,
            skipped: None,
            failed: None,
        }
    }

    /// The case could not be measured, or lost what it must not.
    pub(super) fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }

    pub(super) fn add(&mut self, sample: Sample, raw: Option<Raw>, distance: Option<[u64; 2]>) {
        if let Some(why) = sample.problem {
            self.fail(why);
        }
        self.rounds.push(Round {
            value: sample.value,
            raw: raw.map(|raw| raw.value),
            cpu_ns: sample.cpu_ns,
            raw_cpu_ns: raw.and_then(|raw| raw.cpu_ns),
            seconds: sample.seconds,
            sent_frames: sample.sent,
            received_frames: sample.received,
            dropped_frames: sample.dropped,
            core_distance_ns: distance,
            far: distance.is_some_and(|d| d.into_iter().any(|ns| ns > FAR_NS)),
        });
        match (&mut self.latency, sample.latency_ns) {
            // Equal bounds, so this cannot fail.
            (Some(all), Some(new)) => drop(all.add(new)),
            (all @ None, new) => *all = new,
            _ => {}
        }
    }

    pub(super) fn finish(self) -> Outcome {
        let case = self.case;
        let values: Vec<f64> = self.rounds.iter().map(|r| r.value).collect();
        let raws: Vec<f64> = self.rounds.iter().filter_map(|r| r.raw).collect();
        let ratios: Vec<f64> = self
            .rounds
            .iter()
            .filter_map(|r| Some(r.value / r.raw.filter(|&raw| raw > 0.0)?))
            .collect();
        let (cpu, raw_cpu): (Vec<_>, Vec<_>) =
            self.rounds.iter().map(|r| (r.cpu_ns, r.raw_cpu_ns)).unzip();
        let cpu_ratios: Vec<f64> = cpu
            .iter()
            .zip(&raw_cpu)
            .filter_map(|(&cpu, &raw)| Some(cpu? / raw.filter(|&raw| raw > 0.0)?))
            .collect();
        let known =
            |all: Vec<Option<f64>>| Spread::of(&all.into_iter().flatten().collect::<Vec<f64>>());
        let (value, ratio) = (Spread::of(&values), Spread::of(&ratios));
        let median_ratio = ratio.map(|r| r.median);
        let met = value.and_then(|v| {
            let met = case.bounds.iter().map(|b| b.met(v.median, median_ratio));
            met.reduce(|a, b| Some(a? && b?)).flatten()
        });
        let target: Vec<_> = case.bounds.iter().map(|b| b.text(case.unit)).collect();
        Outcome {
            group: case.group,
            context: case.context(),
            two_cores: case.two_cores(),
            work: case.work,
            unit: case.unit,
            value_bps: bits_per_second(case.unit, case.load(), value),
            value,
            raw: Spread::of(&raws),
            ratio,
            cpu_ns: known(cpu),
            raw_cpu_ns: known(raw_cpu),
            cpu_ratio: Spread::of(&cpu_ratios),
            latency: self.latency.as_ref().map(Latency::of),
            target: (!target.is_empty()).then(|| target.join(", ")),
            target_met: met.filter(|_| self.failed.is_none()),
            far_rounds: self.rounds.iter().filter(|r| r.far).count(),
            skipped: self.skipped,
            failed: self.failed,
            rounds: self.rounds,
            name: case.name,
        }
    }
}

fn bits_per_second(unit: Unit, load: Option<Load>, value: Option<Spread>) -> Option<f64> {
    let (Unit::Pps, Some(load), Some(value)) = (unit, load, value) else {
        return None;
    };
    Some(value.median * f64::from(load.frame_bytes) * 8.0)
}

impl Outcome {
    fn verdict(&self) -> String {
        match (&self.failed, &self.skipped, self.target_met) {
            (Some(why), _, _) => format!("FAILED: {why}"),
            (_, Some(why), _) => format!("skipped: {why}"),
            (_, _, Some(true)) => "met".into(),
            (_, _, Some(false)) => "not met".into(),
            _ => String::new(),
        }
    }
}

impl Report {
    /// True if a case failed.
    pub(super) fn failed(&self) -> bool {
        self.cases.iter().any(|c| c.failed.is_some())
    }

    /// The whole table, with a line about the machine.
    pub(super) fn table(&self) -> String {
        let cpu = self.cases.iter().any(|c| c.cpu_ns.is_some());
        let mut columns = vec![
            ("CASE", Align::Left),
            ("MEDIAN", Align::Right),
            ("", Align::Left),
            ("MIN", Align::Right),
            ("MAX", Align::Right),
            ("Gbit/s", Align::Right),
            ("RAW", Align::Right),
            ("RATIO", Align::Right),
            ("TARGET", Align::Left),
            ("", Align::Left),
        ];
        if cpu {
            let of_cpu = ["CPU ns", "RAW CPU"].map(|name| (name, Align::Right));
            columns.splice(8..8, of_cpu);
        }
        let mut table = Table::new(&columns);
        let mut group = "";
        for case in &self.cases {
            if case.group != group {
                group = case.group;
                table.row(vec![format!("-- {group}")]);
            }
            table.row(row(case, cpu));
        }
        let mut text = format!("{}\n\n{}\n", self.machine.text(), table.render());
        let (met, all) = self.targets();
        text += &format!("\n{met} of {all} targets met");
        let far: usize = self.cases.iter().map(|c| c.far_rounds).sum();
        if far > 0 {
            text += &format!(
                "; (far): in so many rounds a cache line took more than {FAR_NS} ns \
                 there and back between the two cores"
            );
        }
        if !self.machine.optimised {
            text += "; this is not a release build: the figures mean nothing";
        }
        text
    }

    /// Targets met, and all.
    pub(super) fn targets(&self) -> (usize, usize) {
        let known = || self.cases.iter().filter_map(|c| c.target_met);
        (known().filter(|&met| met).count(), known().count())
    }
}

fn row(case: &Outcome, cpu: bool) -> Vec<String> {
    let number = |value: f64| {
        let (value, _) = case.unit.shown(value);
        if value.abs() < 10.0 {
            format!("{value:.3}")
        } else {
            format!("{value:.1}")
        }
    };
    let spread = |f: fn(Spread) -> f64| case.value.map_or(String::new(), |s| number(f(s)));
    let mut name = case.name.clone();
    if case.far_rounds > 0 {
        name += &format!(" (far {}/{})", case.far_rounds, case.rounds.len());
    }
    let unit = case.value.map_or("", |_| case.unit.shown(0.0).1);
    let mut row = vec![
        name,
        spread(|s| s.median),
        unit.to_owned(),
        spread(|s| s.min),
        spread(|s| s.max),
        case.value_bps
            .map_or(String::new(), |bps| format!("{:.1}", bps / 1e9)),
        case.raw.map_or(String::new(), |raw| number(raw.median)),
        case.ratio
            .map_or(String::new(), |r| format!("{:.2}", r.median)),
        case.target.clone().unwrap_or_default(),
        case.verdict(),
    ];
    if cpu {
        let ns =
            |spread: Option<Spread>| spread.map_or(String::new(), |s| format!("{:.0}", s.median));
        row.splice(8..8, [ns(case.cpu_ns), ns(case.raw_cpu_ns)]);
    }
    row
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::list;
    use crate::bench::sample::histogram;

    /// A report as a run could give it.
    pub(in crate::bench) fn example() -> Report {
        let cases = list::all().into_iter().map(|case| {
            let unit = case.unit;
            let mut progress = Progress::new(case);
            for round in 1..=3u32 {
                let value = match unit {
                    Unit::Pps => 30e6 * f64::from(round),
                    Unit::Bps => 100e9,
                    Unit::Ns => 400.0,
                    _ => 1.0,
                };
                let mut sample = Sample::of(value);
                if unit == Unit::Ns {
                    let mut h = histogram().expect("valid bounds");
                    for ns in 300..2000u64 {
                        h.saturating_record(ns * u64::from(round));
                    }
                    sample = Sample::latency(h, 0.1);
                }
                let raw = Raw {
                    value: 2.0 * value,
                    cpu_ns: None,
                };
                progress.add(sample, Some(raw), Some([100, 240]));
            }
            progress.finish()
        });
        Report {
            schema: SCHEMA,
            machine: Machine::look().expect("a machine"),
            rounds: 3,
            seconds_per_case: 0.5,
            far_ns: FAR_NS,
            incomplete: false,
            cases: cases.collect(),
        }
    }

    #[test]
    fn the_schema_holds_what_it_promises() {
        let json = serde_json::to_value(example()).expect("plain data");
        assert_eq!(json["schema"], SCHEMA);
        for key in [
            "cpu_model",
            "cpus",
            "kernel",
            "huge_pages_total",
            "date",
            "git_rev",
        ] {
            assert!(!json["machine"][key].is_null(), "{key}");
        }
        let case = |name: &str| {
            let cases = json["cases"].as_array().expect("a list");
            cases
                .iter()
                .find(|c| c["name"] == name)
                .expect(name)
                .clone()
        };
        let copy = case("vale 1 to 1, 60 B, batch 512");
        assert_eq!(copy["unit"], "pps");
        assert_eq!(copy["value"]["median"], 60e6);
        assert_eq!(copy["ratio"]["median"], 0.5);
        assert_eq!(copy["value_bps"], 60e6 * 480.0);
        assert_eq!(copy["target_met"], false);
        assert_eq!(copy["work"]["load"]["frame_bytes"], 60);
        assert_eq!(copy["rounds"].as_array().map(Vec::len), Some(3));
        assert_eq!(copy["rounds"][0]["core_distance_ns"][1], 240);
        let ping = case("ping-pong, vale, polling, two cores");
        assert_eq!(ping["latency"]["count"], 3 * 1700);
    }

    #[test]
    fn a_failure_is_no_success() {
        let case = list::all().into_iter().find(|c| !c.bounds.is_empty());
        let mut progress = Progress::new(case.expect("a case with a target"));
        let mut sample = Sample::of(1e12);
        sample.require(false, || "3 frames lost".into());
        let raw = Raw {
            value: 1e12,
            cpu_ns: None,
        };
        progress.add(sample, Some(raw), Some([100, 300]));
        let outcome = progress.finish();
        assert_eq!(outcome.failed.as_deref(), Some("3 frames lost"));
        assert_eq!((outcome.target_met, outcome.far_rounds), (None, 1));
        assert!(outcome.verdict().starts_with("FAILED"));
    }

    #[test]
    fn the_table_has_a_row_for_each_case() {
        let report = example();
        let text = report.table();
        for case in &report.cases {
            assert!(text.contains(&case.name), "{}", case.name);
        }
        assert!(text.contains("targets met"));
    }

    #[test]
    fn buckets_hold_every_value() {
        let mut h = histogram().expect("valid bounds");
        for ns in [20, 21, 500, 501, 100_000] {
            h.saturating_record(ns);
        }
        let buckets = buckets(&h);
        assert_eq!(buckets.iter().map(|(_, n)| n).sum::<u64>(), 5);
        assert!(buckets.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(buckets.first().is_some_and(|(_, n)| *n > 0));
    }
}
