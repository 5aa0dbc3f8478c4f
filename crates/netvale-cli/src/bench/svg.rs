//! Small charts as SVG text: lines and bars over categories, and histograms
//! over a logarithmic axis.

use std::fmt::Write;

use crate::units::float;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 46.0;
/// Height of one line of the legend, and its width.
const LEGEND_LINE: f64 = 18.0;
const LEGEND_WIDTH: f64 = 690.0;
/// Legible on white, and told apart also by those who see few colours.
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555",
];

/// One line, or the bars of one colour.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    pub(super) name: String,
    /// One value for each label, where there is one.
    pub(super) values: Vec<Option<f64>>,
    /// A limit: dashed.
    pub(super) dashed: bool,
}

/// A chart with categories along the x axis.
#[derive(Debug, Default)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x_title: String,
    pub(super) y_title: String,
    pub(super) labels: Vec<String>,
    pub(super) series: Vec<Series>,
}

impl Chart {
    /// Whether there is anything to show.
    pub(super) fn is_empty(&self) -> bool {
        self.series
            .iter()
            .all(|s| s.values.iter().all(Option::is_none))
    }

    /// Points joined by lines.
    pub(super) fn lines(&self) -> String {
        let frame = self.frame();
        let mut svg = frame.open();
        let step = frame.plot_width() / float(self.labels.len().max(1) as u64);
        let x = |i: usize| LEFT + step * (float(i as u64) + 0.5);
        svg += &self.labels_at(&frame, x);
        for (i, series) in self.series.iter().enumerate() {
            let points: Vec<_> = series
                .values
                .iter()
                .enumerate()
                .filter_map(|(k, v)| Some((x(k), frame.y((*v)?))))
                .collect();
            svg += &path(&points, COLOURS[i % COLOURS.len()], series.dashed);
            if !series.dashed {
                for (x, y) in points {
                    let _ = write!(
                        svg,
                        "<circle cx='{x:.1}' cy='{y:.1}' r='3' fill='{}'/>",
                        COLOURS[i % COLOURS.len()]
                    );
                }
            }
        }
        svg + "</svg>"
    }

    /// Bars side by side, with their values.
    pub(super) fn bars(&self) -> String {
        let frame = self.frame();
        let mut svg = frame.open();
        let step = frame.plot_width() / float(self.labels.len().max(1) as u64);
        let bar = step * 0.8 / float(self.series.len().max(1) as u64);
        svg += &self.labels_at(&frame, |i| LEFT + step * (float(i as u64) + 0.5));
        for (i, series) in self.series.iter().enumerate() {
            for (k, value) in series.values.iter().enumerate() {
                let Some(value) = *value else { continue };
                let x = LEFT + step * (float(k as u64) + 0.1) + bar * float(i as u64);
                let y = frame.y(value);
                let _ = write!(
                    svg,
                    "<rect x='{x:.1}' y='{y:.1}' width='{:.1}' height='{:.1}' fill='{}' \
                     fill-opacity='{}'/>",
                    bar * 0.94,
                    (frame.bottom() - y).max(0.0),
                    COLOURS[i % COLOURS.len()],
                    if series.dashed { "0.35" } else { "0.9" }
                );
                let _ = write!(
                    svg,
                    "<text x='{:.1}' y='{:.1}' class='v'>{}</text>",
                    x + bar * 0.47,
                    y - 4.0,
                    short(value)
                );
            }
        }
        svg + "</svg>"
    }

    fn frame(&self) -> Frame<'_> {
        let values = self.series.iter().flat_map(|s| &s.values).flatten();
        let most = values.fold(0.0f64, |most, &v| most.max(v));
        Frame {
            title: &self.title,
            x_title: &self.x_title,
            y_title: &self.y_title,
            names: self
                .series
                .iter()
                .map(|s| (s.name.as_str(), s.dashed))
                .collect(),
            step: tick(most),
            most: most.max(f64::MIN_POSITIVE) * 1.08,
        }
    }

    fn labels_at(&self, frame: &Frame<'_>, x: impl Fn(usize) -> f64) -> String {
        let mut svg = String::new();
        for (i, label) in self.labels.iter().enumerate() {
            let _ = write!(
                svg,
                "<text x='{:.1}' y='{:.1}' class='m'>{}</text>",
                x(i),
                frame.bottom() + 16.0,
                escape(label)
            );
        }
        svg
    }
}

/// Histograms over nanoseconds: bound and count.
#[derive(Debug, Default)]
pub(super) struct Histograms {
    pub(super) title: String,
    pub(super) series: Vec<(String, Vec<(u64, u64)>)>,
}

impl Histograms {
    /// Curves of the share of each bucket.
    pub(super) fn curves(&self) -> String {
        let share = |buckets: &[(u64, u64)]| -> Vec<(f64, f64)> {
            let all: u64 = buckets.iter().map(|(_, n)| n).sum();
            let part = |n| 100.0 * float(n) / float(all.max(1));
            buckets
                .iter()
                .map(|&(at, n)| (float(at), part(n)))
                .collect()
        };
        let shares: Vec<_> = self.series.iter().map(|(_, b)| share(b)).collect();
        let points = || shares.iter().flatten();
        let most = points().fold(0.0f64, |m, p| m.max(p.1));
        let low = points()
            .map(|p| p.0)
            .reduce(f64::min)
            .unwrap_or(1.0)
            .max(1.0);
        let high = points()
            .filter(|p| p.1 >= 0.1)
            .fold(low * 10.0, |m, p| m.max(p.0));
        let frame = Frame {
            title: &self.title,
            x_title: "round trip",
            y_title: "% of round trips",
            names: self
                .series
                .iter()
                .map(|(n, _)| (n.as_str(), false))
                .collect(),
            step: tick(most),
            most: most.max(1.0) * 1.08,
        };
        let (from, to) = (low.log10() - 0.1, high.log10() + 0.1);
        let x = |ns: f64| {
            let at = ((ns.log10() - from) / (to - from)).clamp(0.0, 1.0);
            LEFT + at * frame.plot_width()
        };
        let mut svg = frame.open();
        for ns in log_ticks(from, to) {
            let _ = write!(
                svg,
                "<line x1='{0:.1}' x2='{0:.1}' y1='{TOP}' y2='{1:.1}' class='g'/>\
                 <text x='{0:.1}' y='{2:.1}' class='m'>{3}</text>",
                x(ns),
                frame.bottom(),
                frame.bottom() + 16.0,
                time(ns)
            );
        }
        for (i, share) in shares.iter().enumerate() {
            let line: Vec<_> = share
                .iter()
                .filter(|p| p.0 <= high)
                .map(|&(ns, part)| (x(ns), frame.y(part)))
                .collect();
            svg += &path(&line, COLOURS[i % COLOURS.len()], false);
        }
        svg + "</svg>"
    }
}

/// Axes, title and legend.
struct Frame<'a> {
    title: &'a str,
    x_title: &'a str,
    y_title: &'a str,
    names: Vec<(&'a str, bool)>,
    /// Distance of two lines of the grid.
    step: f64,
    /// Value at the upper edge.
    most: f64,
}

impl Frame<'_> {
    fn plot_width(&self) -> f64 {
        WIDTH - LEFT - RIGHT
    }

    fn bottom(&self) -> f64 {
        HEIGHT - BOTTOM
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom() - (value / self.most).clamp(0.0, 1.0) * (self.bottom() - TOP)
    }

    fn per_line(&self) -> usize {
        let long = self.names.iter().any(|(name, _)| name.len() > 28);
        if long { 2 } else { 3 }
    }

    fn open(&self) -> String {
        let legend = self.names.len().div_ceil(self.per_line());
        let height = HEIGHT + LEGEND_LINE * float(legend as u64) + 6.0;
        let mut svg = format!(
            "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{}'>",
            escape(self.title)
        );
        let _ = write!(
            svg,
            "<text x='{LEFT}' y='20' class='t'>{}</text>",
            escape(self.title)
        );
        let mut value = 0.0;
        while value <= self.most {
            let y = self.y(value);
            let _ = write!(
                svg,
                "<line x1='{LEFT}' x2='{:.1}' y1='{y:.1}' y2='{y:.1}' class='g'/>\
                 <text x='{:.1}' y='{:.1}' class='e'>{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                short(value)
            );
            value += self.step;
        }
        let _ = write!(
            svg,
            "<line x1='{LEFT}' x2='{:.1}' y1='{1:.1}' y2='{1:.1}' class='a'/>\
             <text x='{2:.1}' y='{3:.1}' class='m'>{4}</text>\
             <text transform='translate(14 {5:.1}) rotate(-90)' class='m'>{6}</text>",
            WIDTH - RIGHT,
            self.bottom(),
            LEFT + self.plot_width() / 2.0,
            self.bottom() + 36.0,
            escape(self.x_title),
            (TOP + self.bottom()) / 2.0,
            escape(self.y_title)
        );
        for (i, (name, dashed)) in self.names.iter().enumerate() {
            let column = LEGEND_WIDTH / float(self.per_line() as u64);
            let x = 24.0 + column * float((i % self.per_line()) as u64);
            let y = HEIGHT + 8.0 + LEGEND_LINE * float((i / self.per_line()) as u64);
            let _ = write!(
                svg,
                "<line x1='{x:.1}' x2='{:.1}' y1='{y:.1}' y2='{y:.1}' stroke='{}' \
                 stroke-width='3'{}/><text x='{:.1}' y='{:.1}' class='l'>{}</text>",
                x + 22.0,
                COLOURS[i % COLOURS.len()],
                dash(*dashed),
                x + 28.0,
                y + 4.0,
                escape(name)
            );
        }
        svg
    }
}

fn dash(dashed: bool) -> &'static str {
    if dashed {
        " stroke-dasharray='6 4'"
    } else {
        ""
    }
}

fn path(points: &[(f64, f64)], colour: &str, dashed: bool) -> String {
    if points.is_empty() {
        return String::new();
    }
    let list: Vec<_> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    format!(
        "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'{}/>",
        list.join(" "),
        dash(dashed)
    )
}

/// Round times between two powers of ten: more of each decade if there are few.
fn log_ticks(from: f64, to: f64) -> Vec<f64> {
    let steps: &[f64] = match to - from {
        wide if wide > 3.5 => &[1.0],
        _ => &[1.0, 2.0, 5.0],
    };
    let mut ticks = Vec::new();
    let mut power = from.floor();
    while power <= to {
        let inside = |&ns: &f64| (from..=to).contains(&ns.log10());
        ticks.extend(steps.iter().map(|s| s * 10f64.powf(power)).filter(inside));
        power += 1.0;
    }
    ticks
}

/// A round distance that divides `most` into about five.
fn tick(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.iter().find(|&&s| s * power >= rough);
    step.unwrap_or(&10.0) * power
}

/// Three digits are enough for an eye.
fn short(value: f64) -> String {
    let text = if value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    match text.split_once('.') {
        Some((whole, rest)) if rest.bytes().all(|b| b == b'0') => whole.to_owned(),
        _ => text,
    }
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.0} us", ns / 1e3),
        ns => format!("{:.0} ms", ns / 1e6),
    }
}

/// Text inside of markup.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        for (most, step) in [
            (0.0, 1.0),
            (9.0, 2.0),
            (150.0, 50.0),
            (0.3, 0.1),
            (100.0, 20.0),
        ] {
            assert!((tick(most) - step).abs() < 1e-9, "{most}: {}", tick(most));
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.0, "0"), (0.125, "0.12"), (12.34, "12.3"), (150.2, "150")] {
            assert_eq!(short(value), text);
        }
        assert_eq!(log_ticks(1.9, 3.1), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(log_ticks(1.0, 5.0), [10.0, 100.0, 1e3, 1e4, 1e5]);
        assert_eq!(time(500.0), "500 ns");
        assert_eq!(time(20e3), "20 us");
    }

    #[test]
    fn charts_are_closed_and_escaped() {
        let chart = Chart {
            title: "a < b".into(),
            labels: vec!["1".into(), "2".into()],
            series: vec![Series {
                name: "x & y".into(),
                values: vec![Some(1.0), None],
                dashed: false,
            }],
            ..Chart::default()
        };
        for svg in [chart.lines(), chart.bars()] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
            assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
        }
        assert!(!chart.is_empty());
        assert!(Chart::default().is_empty());
        let none = Histograms::default().curves();
        assert!(!none.contains("NaN") && !none.contains("inf"));
    }
}
