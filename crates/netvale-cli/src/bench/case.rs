//! What is measured: cases, what they are compared with, what they should reach.

use serde::{Deserialize, Serialize};

use super::devices::DeviceWork;

/// Who moves the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Context {
    /// This process alone.
    Embedded,
    /// Two processes that share the namespace's memory.
    Trusted,
    /// A worker of the server.
    Isolated,
}

/// The frames of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Load {
    /// Bytes of a frame.
    pub(super) frame_bytes: u16,
    /// Frames queued for each sync; at most what fits into a ring.
    pub(super) batch_frames: u32,
    /// The receiver reads the first 8 bytes of each frame and compares them.
    pub(super) reads: bool,
    /// The sender gives its buffers away instead of having them copied.
    pub(super) moves: bool,
}

impl Load {
    pub(super) const fn new(frame_bytes: u16, batch_frames: u32) -> Self {
        Self {
            frame_bytes,
            batch_frames,
            reads: false,
            moves: false,
        }
    }

    pub(super) const fn reads(mut self, yes: bool) -> Self {
        self.reads = yes;
        self
    }

    pub(super) const fn moves(mut self) -> Self {
        self.moves = true;
        self
    }
}

/// What a frame passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Path {
    Switch,
    Pipe,
}

/// How someone waits for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wait {
    /// Looks again and again.
    Poll,
    /// `wait_rx`: spins as long as that pays, then sleeps.
    Adaptive,
    /// Sleeps on the port's descriptor, always.
    Sleep,
}

/// A monitor on the receiving port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Monitor {
    Copy,
    ZeroCopy,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Work {
    /// One thread has all ports of a switch. With more than one receiver
    /// frames are broadcast; with none they have nowhere to go.
    Switch {
        senders: u16,
        receivers: u16,
        load: Load,
    },
    /// One thread has both ends of a pipe.
    Pipe { load: Load },
    /// `Switch`, 1 to 1, and a monitor.
    Monitored { monitor: Monitor, load: Load },
    /// One thread; each frame for a random one of many stations, spread over
    /// the receiving ports. The sender writes each destination.
    Stations {
        stations: u32,
        ports: u16,
        load: Load,
    },
    /// One thread; two of many ports exchange frames, or one sends to all.
    Ports {
        ports: u16,
        broadcast: bool,
        load: Load,
    },
    /// One thread: a single frame from push to next.
    SyncLatency,
    /// A sender and a receiver, as threads or as processes; polling on two
    /// cores, or sleeping on one.
    Stream {
        path: Path,
        context: Context,
        one_core: bool,
        load: Load,
    },
    /// One client thread has an isolated sender and receiver; the server's
    /// threads have the other core.
    Isolated { load: Load },
    /// A frame there and back between two processes.
    PingPong {
        path: Path,
        wait: Wait,
        one_core: bool,
    },
    /// From nothing to an open port.
    Open { running: bool },
    /// Resident memory of a server with one idle port.
    IdleMemory,
    /// How often its threads run.
    IdleWakeups,
    /// Something with devices.
    Device(DeviceWork),
    /// A raw limit, shown as a row of its own.
    Raw { limit: Limit },
}

/// Loops without any engine, that cases are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "limit", rename_all = "snake_case")]
pub(super) enum Limit {
    /// One core, look-ups, copy, slots; batch 512.
    Copy { frame_bytes: u16 },
    /// One core, look-ups, exchange of buffer indices; batch 512.
    Swap,
    /// One core, exchange of buffer indices without look-ups; batch 512.
    Ring,
    /// Two cores, copy.
    TwoCopy {
        frame_bytes: u16,
        batch_frames: u32,
        reads: bool,
    },
    /// Two cores, exchange of buffer indices.
    TwoRing { batch_frames: u32, reads: bool },
    /// Copies inside one core's cache.
    Memcpy { frame_bytes: u16 },
    /// The cheapest system call.
    Syscall,
    /// Two processes wake each other through eventfds.
    Eventfd { one_core: bool },
    /// A bare loop over the same devices.
    Device(DeviceWork),
}

/// What a case's value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    /// Frames per second.
    Pps,
    /// Bits per second.
    Bps,
    /// Nanoseconds.
    Ns,
    /// Milliseconds.
    Ms,
    /// Megabytes of 10^6 bytes.
    Mb,
    /// Times per second.
    PerS,
}

impl Unit {
    /// A value in the unit that people read: name and number.
    pub(super) fn shown(self, value: f64) -> (f64, &'static str) {
        match self {
            Self::Pps => (value / 1e6, "Mpps"),
            Self::Bps => (value / 1e9, "Gbit/s"),
            Self::Ns => (value / 1e3, "us"),
            Self::Ms => (value, "ms"),
            Self::Mb => (value, "MB"),
            Self::PerS => (value, "1/s"),
        }
    }
}

/// What a case's median, or its ratio to the raw limit, should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    RatioAtLeast(f64),
    RatioAtMost(f64),
}

impl Bound {
    /// `None` if there is no ratio to compare.
    pub(super) fn met(self, value: f64, ratio: Option<f64>) -> Option<bool> {
        Some(match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::RatioAtLeast(least) => ratio? >= least,
            Self::RatioAtMost(most) => ratio? <= most,
        })
    }

    pub(super) fn text(self, unit: Unit) -> String {
        let plain = |value: f64| {
            let (number, name) = unit.shown(value);
            format!("{} {name}", trim(number))
        };
        match self {
            Self::AtLeast(v) => format!(">= {}", plain(v)),
            Self::AtMost(v) => format!("<= {}", plain(v)),
            Self::RatioAtLeast(r) => format!(">= {} raw", trim(r)),
            Self::RatioAtMost(r) => format!("<= {} raw", trim(r)),
        }
    }
}

/// A number without needless zeros, at most two decimals.
fn trim(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// One measurement.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// Unique; what `--only` looks at.
    pub(super) name: String,
    pub(super) group: &'static str,
    pub(super) work: Work,
    pub(super) unit: Unit,
    pub(super) raw: Option<Limit>,
    pub(super) bounds: Vec<Bound>,
    /// Part of `--quick`.
    pub(super) quick: bool,
}

impl Case {
    /// Frames, if there are any.
    pub(super) fn load(&self) -> Option<Load> {
        match self.work {
            Work::Switch { load, .. }
            | Work::Pipe { load }
            | Work::Monitored { load, .. }
            | Work::Stations { load, .. }
            | Work::Ports { load, .. }
            | Work::Stream { load, .. }
            | Work::Isolated { load } => Some(load),
            _ => None,
        }
    }

    /// Whether it needs two cores: then their distance is measured with it.
    pub(super) fn two_cores(&self) -> bool {
        match self.work {
            Work::Stream { one_core, .. } | Work::PingPong { one_core, .. } => !one_core,
            Work::Isolated { .. } => true,
            Work::Raw { limit } => limit.two_cores(),
            _ => false,
        }
    }

    /// Whether it needs a server, or another process.
    pub(super) fn context(&self) -> Context {
        match self.work {
            Work::Stream { context, .. } => context,
            Work::Isolated { .. } => Context::Isolated,
            Work::PingPong { .. }
            | Work::Open { .. }
            | Work::IdleMemory
            | Work::IdleWakeups
            | Work::Device(_) => Context::Trusted,
            _ => Context::Embedded,
        }
    }
}

impl Limit {
    pub(super) fn two_cores(self) -> bool {
        match self {
            Self::TwoCopy { .. } | Self::TwoRing { .. } => true,
            Self::Eventfd { one_core } => !one_core,
            _ => false,
        }
    }

    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Copy { .. }
            | Self::Swap
            | Self::Ring
            | Self::TwoCopy { .. }
            | Self::TwoRing { .. } => Unit::Pps,
            Self::Memcpy { .. } => Unit::Bps,
            Self::Syscall | Self::Eventfd { .. } => Unit::Ns,
            Self::Device(work) => work.unit(),
        }
    }
}

/// Whether `--only` selects this name: every pattern is looked for as it is,
/// whatever the case; no pattern selects all.
pub(super) fn selected(patterns: &[String], name: &str) -> bool {
    let name = name.to_lowercase();
    patterns.is_empty() || patterns.iter().any(|p| name.contains(&p.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_parts_of_names() {
        let name = "vale 1 to 1, 60 B, batch 512";
        for (patterns, expected) in [
            (vec![], true),
            (vec!["VALE 1 to 1"], true),
            (vec!["pipe"], false),
            (vec!["pipe", "batch 512"], true),
        ] {
            let patterns: Vec<String> = patterns.into_iter().map(str::to_owned).collect();
            assert_eq!(selected(&patterns, name), expected, "{patterns:?}");
        }
    }

    #[test]
    fn bounds_compare_values_and_ratios() {
        for (bound, ratio, met) in [
            (Bound::AtLeast(90e6), None, Some(true)),
            (Bound::AtLeast(101e6), None, Some(false)),
            (Bound::AtMost(100e6), None, Some(true)),
            (Bound::RatioAtLeast(0.7), Some(0.69), Some(false)),
            (Bound::RatioAtLeast(0.7), None, None),
            (Bound::RatioAtMost(1.15), Some(1.1), Some(true)),
        ] {
            assert_eq!(bound.met(100e6, ratio), met, "{bound:?}");
        }
        assert_eq!(Bound::AtLeast(90e6).text(Unit::Pps), ">= 90 Mpps");
        assert_eq!(Bound::AtMost(350.0).text(Unit::Ns), "<= 0.35 us");
        assert_eq!(Bound::RatioAtLeast(0.7).text(Unit::Pps), ">= 0.7 raw");
    }
}
