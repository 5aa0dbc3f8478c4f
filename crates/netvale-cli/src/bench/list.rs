//! All cases, in the order in which a round runs them: those that are compared
//! with the same raw limit stand together.

use super::case::{Bound, Case, Context, Limit, Load, Monitor, Path, Unit, Wait, Work};

/// Bytes of frames.
const SIZES: [u16; 7] = [60, 128, 256, 512, 1024, 1514, 9000];
/// Frames for each sync.
const BATCHES: [u32; 7] = [1, 4, 16, 64, 256, 512, 1024];
/// Batches of two cores, and of pipes.
const STREAM_BATCHES: [u32; 4] = [16, 64, 256, 512];

const M: f64 = 1e6;

pub(super) const ONE_CORE: &str = "VALE, one core";
pub(super) const SPECIAL: &str = "Copies, moves, pipes, one core";
pub(super) const SCALE: &str = "Stations and ports, one core";
pub(super) const THREADS: &str = "Two threads, two cores";
pub(super) const PROCESSES: &str = "Two processes, two cores";
pub(super) const SLEEPERS: &str = "Two processes, one core, sleeping";
pub(super) const ISOLATED: &str = "Isolated";
pub(super) const LATENCY: &str = "Latency";
pub(super) const SYSTEM: &str = "Opening and idling";
pub(super) const RAW: &str = "Raw limits";

/// Every case.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    raw(&mut cases);
    switch(&mut cases);
    special(&mut cases);
    scale(&mut cases);
    streams(&mut cases, Context::Embedded);
    streams(&mut cases, Context::Trusted);
    sleepers(&mut cases);
    isolated(&mut cases);
    latency(&mut cases);
    system(&mut cases);
    cases
}

pub(super) fn case(name: impl Into<String>, group: &'static str, work: Work) -> Case {
    Case {
        name: name.into(),
        group,
        work,
        unit: Unit::Pps,
        raw: None,
        bounds: Vec::new(),
        quick: false,
    }
}

impl Case {
    pub(super) fn raw(mut self, limit: Limit) -> Self {
        self.raw = Some(limit);
        self
    }

    pub(super) fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    pub(super) fn bounds(mut self, bounds: &[Bound]) -> Self {
        self.bounds = bounds.to_vec();
        self
    }

    pub(super) fn quick(mut self) -> Self {
        self.quick = true;
        self
    }
}

/// ", 60 B, batch 512"
fn words(load: Load) -> String {
    let Load {
        frame_bytes,
        batch_frames,
        ..
    } = load;
    format!("{frame_bytes} B, batch {batch_frames}")
}

fn one_core_raw(frame_bytes: u16) -> Limit {
    Limit::Copy { frame_bytes }
}

fn raw(cases: &mut Vec<Case>) {
    let two = |batch_frames, reads| Limit::TwoCopy {
        frame_bytes: 60,
        batch_frames,
        reads,
    };
    for (name, limit) in [
        ("copy 60 B, one core", one_core_raw(60)),
        ("copy 1514 B, one core", one_core_raw(1514)),
        ("swap, one core", Limit::Swap),
        ("ring without payload, one core", Limit::Ring),
        ("copy 60 B, two cores, reads, batch 64", two(64, true)),
        ("copy 60 B, two cores, counts, batch 64", two(64, false)),
        (
            "ring without payload, two cores, reads, batch 64",
            Limit::TwoRing {
                batch_frames: 64,
                reads: true,
            },
        ),
        (
            "memcpy 1514 B in cache",
            Limit::Memcpy { frame_bytes: 1514 },
        ),
        ("system call", Limit::Syscall),
        (
            "eventfd round trip, two cores",
            Limit::Eventfd { one_core: false },
        ),
        (
            "eventfd round trip, one core",
            Limit::Eventfd { one_core: true },
        ),
    ] {
        let case = case(format!("raw: {name}"), RAW, Work::Raw { limit }).unit(limit.unit());
        cases.push(case.quick());
    }
}

fn switch(cases: &mut Vec<Case>) {
    for frame_bytes in SIZES {
        for batch in BATCHES {
            let load = Load::new(frame_bytes, batch);
            let work = Work::Switch {
                senders: 1,
                receivers: 1,
                load,
            };
            let mut case = case(format!("vale 1 to 1, {}", words(load)), ONE_CORE, work)
                .raw(one_core_raw(frame_bytes));
            case.bounds = match (frame_bytes, batch) {
                (60, 1) => vec![Bound::AtLeast(15.0 * M)],
                (60, 16) => vec![Bound::AtLeast(60.0 * M)],
                (60, 512) => vec![Bound::RatioAtLeast(0.7), Bound::AtLeast(90.0 * M)],
                _ => Vec::new(),
            };
            case.quick = [60, 1514, 9000].contains(&frame_bytes) && [1, 512].contains(&batch);
            cases.push(case);
        }
    }
}

fn special(cases: &mut Vec<Case>) {
    for (senders, receivers) in [(1, 2), (1, 4), (4, 1)] {
        for batch in [64, 512] {
            let load = Load::new(60, batch);
            let work = Work::Switch {
                senders,
                receivers,
                load,
            };
            let name = format!("vale {senders} to {receivers}, {}", words(load));
            let mut case = case(name, SPECIAL, work).raw(one_core_raw(60));
            if (receivers, batch) == (4, 512) {
                case = case.bounds(&[Bound::AtLeast(35.0 * M)]).quick();
            }
            cases.push(case);
        }
    }
    let load = Load::new(60, 512).reads(true);
    let work = Work::Switch {
        senders: 1,
        receivers: 1,
        load,
    };
    let name = format!("vale 1 to 1, reads, {}", words(load));
    cases.push(case(name, SPECIAL, work).raw(one_core_raw(60)).quick());
    for batch in [1, 16, 64, 512] {
        let load = Load::new(60, batch);
        let work = Work::Switch {
            senders: 1,
            receivers: 0,
            load,
        };
        let name = format!("vale without receiver, {}", words(load));
        let mut case = case(name, SPECIAL, work);
        case.quick = batch == 512;
        cases.push(case);
    }
    for (monitor, name) in [(Monitor::Copy, "copy"), (Monitor::ZeroCopy, "zero-copy")] {
        let load = Load::new(60, 512);
        let work = Work::Monitored { monitor, load };
        let name = format!("vale 1 to 1, {name} monitor, {}", words(load));
        cases.push(case(name, SPECIAL, work).raw(one_core_raw(60)).quick());
    }
    for frame_bytes in [60, 1514] {
        for batch in [16, 64, 512] {
            let load = Load::new(frame_bytes, batch).moves();
            let work = Work::Switch {
                senders: 1,
                receivers: 1,
                load,
            };
            let name = format!("vale 1 to 1, moved, {}", words(load));
            let mut case = case(name, SPECIAL, work).raw(Limit::Swap);
            if (frame_bytes, batch) == (1514, 512) {
                case = case.bounds(&[Bound::AtLeast(90.0 * M)]).quick();
            }
            cases.push(case);
        }
    }
    for batch in STREAM_BATCHES {
        let load = Load::new(60, batch).moves();
        let name = format!("pipe, {}", words(load));
        let mut case = case(name, SPECIAL, Work::Pipe { load }).raw(Limit::Ring);
        if batch == 512 {
            case = case.bounds(&[Bound::AtLeast(300.0 * M)]).quick();
        }
        cases.push(case);
    }
}

fn scale(cases: &mut Vec<Case>) {
    let load = Load::new(60, 512);
    for ports in [1u16, 64] {
        for stations in [1u32, 64, 1024, 16 * 1024, 64 * 1024] {
            if stations < u32::from(ports) {
                continue;
            }
            let work = Work::Stations {
                stations,
                ports,
                load,
            };
            let name = format!("vale random, {stations} stations behind {ports} port(s)");
            let mut case = case(name, SCALE, work);
            case.quick = stations == 1024;
            cases.push(case);
        }
    }
    for ports in [2u16, 10, 100, 1000] {
        let work = Work::Ports {
            ports,
            broadcast: false,
            load,
        };
        let name = format!("vale unicast in a switch of {ports} ports");
        let mut case = case(name, SCALE, work).raw(one_core_raw(60));
        case.quick = ports == 10;
        cases.push(case);
    }
    for ports in [2u16, 10, 100, 1000] {
        let work = Work::Ports {
            ports,
            broadcast: true,
            load: Load::new(60, 32),
        };
        let name = format!("vale broadcast in a switch of {ports} ports");
        let mut case = case(name, SCALE, work);
        case.quick = ports == 10;
        cases.push(case);
    }
}

fn streams(cases: &mut Vec<Case>, context: Context) {
    let (group, who) = match context {
        Context::Embedded => (THREADS, "two threads"),
        _ => (PROCESSES, "two processes"),
    };
    let mut add = |path: Path, load: Load, raw: Limit, bounds: &[Bound], quick: bool| {
        let path_name = match path {
            Path::Switch => "vale 1 to 1",
            Path::Pipe => "pipe",
        };
        let moved = if load.moves && path == Path::Switch {
            "moved, "
        } else {
            ""
        };
        let reads = if load.reads { "reads" } else { "counts" };
        let name = format!("{path_name}, {who}, {moved}{reads}, {}", words(load));
        let work = Work::Stream {
            path,
            context,
            one_core: false,
            load,
        };
        let mut case = case(name, group, work).raw(raw).bounds(bounds);
        case.quick = quick;
        cases.push(case);
    };
    let processes = context == Context::Trusted;
    for reads in [true, false] {
        for batch in STREAM_BATCHES {
            let load = Load::new(60, batch).reads(reads);
            let raw = two_copy(load);
            let bounds: &[Bound] = match (processes, batch, reads) {
                (true, 256, true) => &[Bound::RatioAtLeast(0.7), Bound::AtLeast(65.0 * M)],
                (true, 256, false) => &[Bound::AtLeast(75.0 * M)],
                _ => &[],
            };
            add(Path::Switch, load, raw, bounds, batch == 256);
        }
    }
    for frame_bytes in SIZES.into_iter().filter(|&len| len > 60) {
        let load = Load::new(frame_bytes, 256).reads(true);
        add(Path::Switch, load, two_copy(load), &[], false);
    }
    for frame_bytes in [60, 1514] {
        let load = Load::new(frame_bytes, 256).reads(true).moves();
        let raw = Limit::TwoRing {
            batch_frames: 256,
            reads: true,
        };
        add(Path::Switch, load, raw, &[], frame_bytes == 60);
    }
    for batch in STREAM_BATCHES {
        let load = Load::new(60, batch).moves();
        let raw = Limit::TwoRing {
            batch_frames: batch,
            reads: false,
        };
        let bounds: &[Bound] = match (processes, batch) {
            (true, 256) => &[Bound::AtLeast(200.0 * M)],
            _ => &[],
        };
        add(Path::Pipe, load, raw, bounds, batch == 256);
    }
}

fn two_copy(load: Load) -> Limit {
    Limit::TwoCopy {
        frame_bytes: load.frame_bytes,
        batch_frames: load.batch_frames,
        reads: load.reads,
    }
}

fn sleepers(cases: &mut Vec<Case>) {
    for (path, name) in [(Path::Switch, "vale 1 to 1"), (Path::Pipe, "pipe")] {
        for batch in [64, 256, 512] {
            let mut load = Load::new(60, batch).reads(true);
            load.moves = path == Path::Pipe;
            let work = Work::Stream {
                path,
                context: Context::Trusted,
                one_core: true,
                load,
            };
            let name = format!("{name}, two sleeping processes, one core, {}", words(load));
            let mut case = case(name, SLEEPERS, work);
            if batch == 512 {
                case = case.quick();
                if path == Path::Switch {
                    case = case.bounds(&[Bound::AtLeast(20.0 * M)]);
                }
            }
            cases.push(case);
        }
    }
}

fn isolated(cases: &mut Vec<Case>) {
    for (frame_bytes, batch) in [(60, 16), (60, 64), (60, 256), (60, 512), (1514, 256)] {
        let load = Load::new(frame_bytes, batch);
        let name = format!("isolated switch, {}", words(load));
        let mut case = case(name, ISOLATED, Work::Isolated { load });
        if (frame_bytes, batch) == (60, 256) {
            case = case.bounds(&[Bound::AtLeast(25.0 * M)]).quick();
        }
        cases.push(case);
    }
}

fn latency(cases: &mut Vec<Case>) {
    let name = "sync latency, one frame, one thread";
    cases.push(
        case(name, LATENCY, Work::SyncLatency)
            .unit(Unit::Ns)
            .quick(),
    );
    for (path, wait, one_core, name, bounds) in [
        (
            Path::Switch,
            Wait::Poll,
            false,
            "ping-pong, vale, polling, two cores",
            &[Bound::AtMost(350.0)][..],
        ),
        (
            Path::Pipe,
            Wait::Poll,
            false,
            "ping-pong, pipe, polling, two cores",
            &[],
        ),
        (
            Path::Switch,
            Wait::Adaptive,
            false,
            "ping-pong, vale, wait_rx, two cores",
            &[],
        ),
        (
            Path::Switch,
            Wait::Sleep,
            false,
            "ping-pong, vale, sleeping, two cores",
            &[Bound::RatioAtMost(1.15)],
        ),
        (
            Path::Switch,
            Wait::Adaptive,
            true,
            "ping-pong, vale, wait_rx, one core",
            &[],
        ),
        (
            Path::Switch,
            Wait::Sleep,
            true,
            "ping-pong, vale, sleeping, one core",
            &[],
        ),
    ] {
        let work = Work::PingPong {
            path,
            wait,
            one_core,
        };
        let mut case = case(name, LATENCY, work)
            .unit(Unit::Ns)
            .bounds(bounds)
            .quick();
        if wait != Wait::Poll {
            case = case.raw(Limit::Eventfd { one_core });
        }
        cases.push(case);
    }
}

fn system(cases: &mut Vec<Case>) {
    for (name, work, unit, most) in [
        (
            "open a port, server running",
            Work::Open { running: true },
            Unit::Ms,
            2.0,
        ),
        (
            "open a port, no server yet",
            Work::Open { running: false },
            Unit::Ms,
            50.0,
        ),
        (
            "idle server, resident memory",
            Work::IdleMemory,
            Unit::Mb,
            10.0,
        ),
        ("idle server, wake-ups", Work::IdleWakeups, Unit::PerS, 0.0),
    ] {
        let case = case(name, SYSTEM, work).unit(unit);
        cases.push(case.bounds(&[Bound::AtMost(most)]).quick());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique() {
        let cases = all();
        let names: HashSet<_> = cases.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
    }

    #[test]
    fn a_quick_run_touches_every_group() {
        let cases = all();
        let groups = |quick: bool| -> HashSet<_> {
            let chosen = cases.iter().filter(|c| c.quick || !quick);
            chosen.map(|c| c.group).collect()
        };
        assert_eq!(groups(true), groups(false));
    }

    #[test]
    fn ratios_are_only_asked_where_there_is_a_limit() {
        for case in all() {
            let wants = |b: &Bound| matches!(b, Bound::RatioAtLeast(_) | Bound::RatioAtMost(_));
            if case.bounds.iter().any(wants) {
                assert!(case.raw.is_some(), "{}", case.name);
            }
            if let Some(limit) = case.raw {
                assert_eq!(limit.unit(), case.unit, "{}", case.name);
            }
        }
    }
}
