//! The results as one HTML file with charts in it, which loads nothing else.

use std::fmt::Write;

use super::case::{Context, Path, Unit, Wait, Work};
use super::report::{Outcome, Report};
use super::svg::{Chart, Histograms, Series, escape};

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:1500px;\
margin:24px auto;padding:0 20px}\
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:28px 0 8px}\
p{margin:4px 0;color:#444}\
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(560px,1fr));gap:18px}\
svg{width:100%;height:auto;border:1px solid #ddd;border-radius:6px;background:#fff}\
svg text{font:12px system-ui,sans-serif;fill:#333}\
svg .t{font-size:15px;font-weight:600;fill:#111}svg .m{text-anchor:middle}\
svg .e{text-anchor:end}svg .v{text-anchor:middle;font-size:10px}\
svg .g{stroke:#e4e4e4}svg .a{stroke:#777}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
td,th{white-space:nowrap;padding:3px 10px;border-bottom:1px solid #e4e4e4;text-align:right}\
td:first-child,th:first-child{text-align:left}\
.met{color:#00703c}.not{color:#b00020}.group td{font-weight:600;background:#f6f6f6}";

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let (met, all) = report.targets();
    let mut page = format!(
        "<!doctype html><html lang='en'><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width'>\
         <title>netvale bench</title><style>{STYLE}</style>\
         <h1>netvale bench</h1><p>{}</p>\
         <p>Medians of {} rounds of {} s for each case. {met} of {all} targets met. \
         Dashed and pale: the raw limit, measured in the same rounds.</p>",
        escape(&report.machine.text()),
        report.rounds,
        report.seconds_per_case,
    );
    if !report.machine.optimised {
        page += "<p class='not'>Not a release build: the figures mean nothing.</p>";
    }
    page += &targets(report);
    page += "<h2>Rates</h2><div class='grid'>";
    for chart in lines(report).iter().filter(|c| !c.is_empty()) {
        page += &chart.lines();
    }
    for chart in bars(report).iter().filter(|c| !c.is_empty()) {
        page += &chart.bars();
    }
    page += "</div>";
    let histograms = histograms(report);
    if histograms.iter().any(|h| !h.series.is_empty()) {
        page += "<h2>Round trips</h2><div class='grid'>";
        for histogram in histograms.iter().filter(|h| !h.series.is_empty()) {
            page += &histogram.curves();
        }
        page += "</div>";
    }
    page += &everything(report);
    page + "</html>\n"
}

/// A number and its unit, as people read it.
fn shown(unit: Unit, value: f64) -> String {
    let (number, name) = unit.shown(value);
    if number.abs() < 10.0 {
        format!("{number:.3} {name}")
    } else {
        format!("{number:.1} {name}")
    }
}

fn targets(report: &Report) -> String {
    let mut rows = String::new();
    for case in &report.cases {
        let (Some(target), Some(value)) = (&case.target, case.value) else {
            continue;
        };
        let (class, word) = match case.target_met {
            Some(true) => ("met", "met"),
            Some(false) => ("not", "not met"),
            None => ("not", "failed"),
        };
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td class='{class}'>{word}</td></tr>",
            escape(&name(case)),
            shown(case.unit, value.median),
            case.raw
                .map_or(String::new(), |r| shown(case.unit, r.median)),
            case.ratio
                .map_or(String::new(), |r| format!("{:.2}", r.median)),
            escape(target),
        );
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>Targets</h2><table><tr><th>case</th><th>median</th><th>raw limit</th>\
         <th>ratio</th><th>target</th><th></th></tr>{rows}</table>"
    )
}

/// The case's name, marked if its cores were far apart.
fn name(case: &Outcome) -> String {
    if case.far_rounds == 0 {
        return case.name.clone();
    }
    format!(
        "{} (far {}/{})",
        case.name,
        case.far_rounds,
        case.rounds.len()
    )
}

fn everything(report: &Report) -> String {
    let mut rows = String::new();
    let mut group = "";
    for case in &report.cases {
        if case.group != group {
            group = case.group;
            let _ = write!(
                rows,
                "<tr class='group'><td colspan='7'>{}</td></tr>",
                escape(group)
            );
        }
        let trouble = case.failed.as_ref().or(case.skipped.as_ref());
        let cell = |value: Option<f64>| value.map_or(String::new(), |v| shown(case.unit, v));
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td class='not'>{}</td></tr>",
            escape(&name(case)),
            cell(case.value.map(|v| v.median)),
            cell(case.value.map(|v| v.min)),
            cell(case.value.map(|v| v.max)),
            cell(case.raw.map(|r| r.median)),
            case.ratio
                .map_or(String::new(), |r| format!("{:.2}", r.median)),
            trouble.map_or(String::new(), |why| escape(why)),
        );
    }
    format!(
        "<h2>All cases</h2><table><tr><th>case</th><th>median</th><th>min</th><th>max</th>\
         <th>raw limit</th><th>ratio</th><th></th></tr>{rows}</table>"
    )
}

/// Looks a case up by what it does.
fn find(report: &Report, wanted: impl Fn(&Work) -> bool) -> Option<&Outcome> {
    report.cases.iter().find(|c| wanted(&c.work))
}

fn mpps(case: Option<&Outcome>) -> Option<f64> {
    Some(case?.value?.median / 1e6)
}

fn raw_mpps(case: Option<&Outcome>) -> Option<f64> {
    Some(case?.raw?.median / 1e6)
}

/// One to one on one core, frames copied.
fn one_to_one(report: &Report, len: u16, batch: u32) -> Option<&Outcome> {
    find(report, |work| match work {
        Work::Switch {
            senders: 1,
            receivers: 1,
            load,
        } => (load.frame_bytes, load.batch_frames) == (len, batch) && !load.reads && !load.moves,
        _ => false,
    })
}

fn stream(
    report: &Report,
    at: (Path, Context, bool),
    len: u16,
    batch: u32,
    reads: bool,
) -> Option<&Outcome> {
    let (on, who, sleeping) = at;
    find(report, |work| match work {
        Work::Stream {
            path,
            context,
            one_core,
            load,
        } => {
            (*path, *context, *one_core) == (on, who, sleeping)
                && (load.frame_bytes, load.batch_frames, load.reads) == (len, batch, reads)
                && (on == Path::Pipe || !load.moves)
        }
        _ => false,
    })
}

fn series(name: &str, values: impl Iterator<Item = Option<f64>>) -> Series {
    Series {
        name: name.into(),
        values: values.collect(),
        dashed: false,
    }
}

fn limit(name: &str, values: impl Iterator<Item = Option<f64>>) -> Series {
    Series {
        dashed: true,
        ..series(name, values)
    }
}

const BATCHES: [u32; 7] = [1, 4, 16, 64, 256, 512, 1024];
const STREAM_BATCHES: [u32; 4] = [16, 64, 256, 512];
const SIZES: [u16; 7] = [60, 128, 256, 512, 1024, 1514, 9000];

fn labels<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn lines(report: &Report) -> Vec<Chart> {
    let mut one_core: Vec<_> = [60, 256, 1514]
        .into_iter()
        .map(|len| {
            let values = BATCHES.iter().map(|&b| mpps(one_to_one(report, len, b)));
            series(&format!("{len} B"), values)
        })
        .collect();
    let raw = |len| move |&b: &u32| raw_mpps(one_to_one(report, len, b));
    one_core.push(limit(
        "raw limit, 60 B, batch 512",
        BATCHES.iter().map(raw(60)),
    ));
    let two_cores = |title: &str, context| {
        let at = (Path::Switch, context, false);
        let of = |reads| move |&b: &u32| stream(report, at, 60, b, reads);
        let rates = |reads| STREAM_BATCHES.iter().map(of(reads)).map(mpps);
        let raws = |reads| STREAM_BATCHES.iter().map(of(reads)).map(raw_mpps);
        Chart {
            title: title.into(),
            x_title: "frames per sync".into(),
            y_title: "Mpps received".into(),
            labels: labels(&STREAM_BATCHES),
            series: vec![
                series("receiver reads each frame", rates(true)),
                series("receiver counts frames", rates(false)),
                limit("raw limit, reads", raws(true)),
                limit("raw limit, counts", raws(false)),
            ],
        }
    };
    vec![
        Chart {
            title: "VALE, 1 to 1, copied, one core".into(),
            x_title: "frames per sync".into(),
            y_title: "Mpps".into(),
            labels: labels(&BATCHES),
            series: one_core,
        },
        two_cores("VALE, two processes on two cores, 60 B", Context::Trusted),
        two_cores("VALE, two threads on two cores, 60 B", Context::Embedded),
        batches(report),
        stations(report),
    ]
}

/// Pipes, sleepers and isolated ports by batch.
fn batches(report: &Report) -> Chart {
    let one_core_pipe = |&batch: &u32| {
        mpps(find(
            report,
            |w| matches!(w, Work::Pipe { load } if load.batch_frames == batch),
        ))
    };
    let isolated = |&batch: &u32| {
        mpps(find(report, |w| {
            matches!(w, Work::Isolated { load }
                if (load.frame_bytes, load.batch_frames) == (60, batch))
        }))
    };
    let of = |at, reads| move |&b: &u32| mpps(stream(report, at, 60, b, reads));
    let processes = (Path::Pipe, Context::Trusted, false);
    let sleepers = (Path::Switch, Context::Trusted, true);
    let all = STREAM_BATCHES.iter();
    Chart {
        title: "Pipes, sleepers, isolated ports, 60 B".into(),
        x_title: "frames per sync".into(),
        y_title: "Mpps".into(),
        labels: labels(&STREAM_BATCHES),
        series: vec![
            series("pipe, one core", all.clone().map(one_core_pipe)),
            series("pipe, two processes", all.clone().map(of(processes, false))),
            series("isolated VALE", all.clone().map(isolated)),
            series("VALE, two sleepers, one core", all.map(of(sleepers, true))),
        ],
    }
}

fn stations(report: &Report) -> Chart {
    const STATIONS: [u32; 5] = [1, 64, 1024, 16_384, 65_536];
    let behind = |wanted: u16| {
        move |&n: &u32| {
            mpps(find(report, |w| {
                matches!(w, Work::Stations { stations, ports, .. }
                    if (*stations, *ports) == (n, wanted))
            }))
        }
    };
    Chart {
        title: "VALE, random destinations, one core, 60 B".into(),
        x_title: "stations".into(),
        y_title: "Mpps".into(),
        labels: labels(&STATIONS),
        series: vec![
            series("behind one port", STATIONS.iter().map(behind(1))),
            series("behind 64 ports", STATIONS.iter().map(behind(64))),
        ],
    }
}

fn bars(report: &Report) -> Vec<Chart> {
    let gbps = |len: u16, mpps: Option<f64>| Some(mpps? * 1e6 * f64::from(len) * 8.0 / 1e9);
    let at = (Path::Switch, Context::Trusted, false);
    let one = |&len: &u16| gbps(len, mpps(one_to_one(report, len, 512)));
    let one_raw = |&len: &u16| gbps(len, raw_mpps(one_to_one(report, len, 512)));
    let two = |&len: &u16| gbps(len, mpps(stream(report, at, len, 256, true)));
    let two_raw = |&len: &u16| gbps(len, raw_mpps(stream(report, at, len, 256, true)));
    let chart = |title: &str, series| Chart {
        title: title.into(),
        x_title: "frame, bytes".into(),
        y_title: "Gbit/s".into(),
        labels: labels(&SIZES),
        series,
    };
    vec![
        chart(
            "VALE, 1 to 1, one core, batch 512",
            vec![
                series("netvale", SIZES.iter().map(one)),
                limit("raw limit", SIZES.iter().map(one_raw)),
            ],
        ),
        chart(
            "VALE, two processes, two cores, batch 256",
            vec![
                series("netvale", SIZES.iter().map(two)),
                limit("raw limit", SIZES.iter().map(two_raw)),
            ],
        ),
    ]
}

fn histograms(report: &Report) -> Vec<Histograms> {
    let chosen = |wanted: &dyn Fn(&Work) -> bool| -> Vec<_> {
        let cases = report.cases.iter().filter(|c| wanted(&c.work));
        cases
            .filter_map(|c| Some((c.name.clone(), c.latency.as_ref()?.buckets.clone())))
            .map(|(name, buckets)| (name.replace("ping-pong, ", ""), buckets))
            .collect()
    };
    let polling: &dyn Fn(&Work) -> bool = &|work| {
        matches!(
            work,
            Work::PingPong {
                wait: Wait::Poll,
                ..
            } | Work::SyncLatency
        )
    };
    let sleeping: &dyn Fn(&Work) -> bool = &|work| match work {
        Work::PingPong { wait, .. } => *wait != Wait::Poll,
        Work::Raw { limit } => matches!(limit, super::case::Limit::Eventfd { .. }),
        _ => false,
    };
    vec![
        Histograms {
            title: "Polling".into(),
            series: chosen(polling),
        },
        Histograms {
            title: "Sleeping, and bare eventfds".into(),
            series: chosen(sleeping),
        },
    ]
}

#[cfg(test)]
mod tests {
    use crate::bench::report::tests::example;

    #[test]
    fn the_page_stands_alone_and_is_whole() {
        let page = super::page(&example());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(page.matches("<svg").count() >= 8);
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains("NaN"));
        assert!(page.contains("vale 1 to 1, 60 B, batch 512"));
    }
}
