//! Those whose traffic goes on whatever happens to others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netvale::Port;
use netvale_testkit::frame::{BROADCAST, mac};
use netvale_testkit::roles::{Numbered, Order};
use netvale_testkit::{Bed, Rng};

/// Stations of the receiver and of the sender.
pub(crate) const RECEIVER: u32 = 1;
pub(crate) const SENDER: u32 = 2;

/// Longest time without a frame. Nobody holds them up for longer than the
/// server takes to hear of a death; the rest is for machines with other work.
const STALL: Duration = Duration::from_secs(10);

pub(crate) fn order() -> Order {
    Order::default()
}

/// A sender and a receiver on a switch, two ends of a pipe, and if wanted an
/// isolated pair.
pub(crate) struct Survivors {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    senders: Vec<JoinHandle<u64>>,
    receivers: Vec<JoinHandle<Seen>>,
}

struct Seen {
    name: &'static str,
    sources: usize,
    frames: u64,
    last: Option<u64>,
    stall: Duration,
    lossless: bool,
}

impl Survivors {
    pub(crate) fn start(bed: &Bed, switch: &str, isolated: bool) -> Self {
        let mut this = Self {
            stop: Arc::default(),
            progress: Arc::default(),
            senders: Vec::new(),
            receivers: Vec::new(),
        };
        let (trusted, fenced) = (bed.handle(false), bed.handle(true));
        let r = trusted.open(&format!("{switch}:r")).unwrap();
        let s = trusted.open(&format!("{switch}:s")).unwrap();
        this.pair("switch", s, r, [SENDER, RECEIVER], false);
        let a = trusted.port("vale0:q{1").slots(256, 256).open().unwrap();
        let b = trusted.open("vale0:q}1").unwrap();
        this.pair("pipe", a, b, [3, 4], true);
        if isolated {
            let (a, b) = (
                fenced.open("vale6:a").unwrap(),
                fenced.open("vale6:b").unwrap(),
            );
            this.pair("isolated", a, b, [5, 6], false);
        }
        this
    }

    fn pair(&mut self, name: &'static str, s: Port, r: Port, ids: [u32; 2], lossless: bool) {
        let (stop, sends) = (Arc::clone(&self.stop), Arc::new(()));
        // Gone when the sender has ended, whatever the reason.
        let over = Arc::downgrade(&sends);
        self.senders.push(std::thread::spawn(move || {
            let _sends = sends;
            send(s, ids, &stop)
        }));
        let progress = Arc::clone(&self.progress);
        let receive = move || receive(name, r, ids, lossless, &over, &progress);
        self.receivers.push(std::thread::spawn(receive));
    }

    /// No thread of theirs has ended.
    pub(crate) fn are_well(&self) -> bool {
        !self.senders.iter().any(JoinHandle::is_finished)
            && !self.receivers.iter().any(JoinHandle::is_finished)
    }

    /// Frames still arrive.
    pub(crate) fn still_going(&self) {
        let before = self.progress.load(Relaxed);
        netvale_testkit::eventually("the survivors' traffic goes on", || {
            !self.are_well() || self.progress.load(Relaxed) > before
        });
    }

    /// Ends them and looks at what they saw; how many sources the receiver on
    /// the switch has heard.
    pub(crate) fn end(self) -> usize {
        self.stop.store(true, Relaxed);
        let sent: Vec<u64> = self
            .senders
            .into_iter()
            .map(|t| t.join().unwrap())
            .collect();
        let seen: Vec<Seen> = self
            .receivers
            .into_iter()
            .map(|t| t.join().unwrap())
            .collect();
        let mut sources = 0;
        for (sent, seen) in sent.iter().zip(&seen) {
            eprintln!(
                "{}: {sent} sent, {} seen from {} sources, longest silence {:.1?}",
                seen.name, seen.frames, seen.sources, seen.stall
            );
            assert!(seen.stall < STALL, "{} was held up", seen.name);
            assert!(seen.last.is_some());
            if seen.lossless {
                assert_eq!(seen.frames, *sent, "{} lost frames", seen.name);
            }
            sources = sources.max(seen.sources);
        }
        sources
    }
}

fn send(mut port: Port, [from, to]: [u32; 2], stop: &AtomicBool) -> u64 {
    let mut n = Numbered::new(from);
    let mut rng = Rng::new(u64::from(from));
    while !stop.load(Relaxed) {
        for _ in 0..rng.below(32) + 1 {
            let dst = if rng.percent(5) { BROADCAST } else { mac(to) };
            if !n.push(
                port.tx(0),
                dst,
                mac(from),
                *rng.pick(&[60, 200, 1514, 4500]),
            ) {
                break;
            }
        }
        port.tx(0).sync().unwrap();
        // Its own RX ring fills up and drops: nobody's trouble.
        std::thread::sleep(Duration::from_micros(100));
    }
    // A pipe's last frames wait for the receiver; the port lives until then.
    let end = Instant::now() + STALL;
    while port.name().contains('{') && port.tx(0).pending() > 0 && Instant::now() < end {
        port.tx(0).sync().unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    n.count()
}

fn receive(
    name: &'static str,
    mut port: Port,
    [from, me]: [u32; 2],
    lossless: bool,
    sends: &Weak<()>,
    progress: &AtomicU64,
) -> Seen {
    let mut order = order();
    let mut rng = Rng::new(u64::from(me));
    let mut heard = Instant::now();
    let mut stall = Duration::ZERO;
    let mut quiet_since = Instant::now();
    loop {
        if rng.percent(50) {
            port.wait_rx(Some(Duration::from_millis(50))).unwrap();
        }
        port.rx(0).sync().unwrap();
        let before = order.frames;
        let mut next = order.last(from).map_or(0, |n| n + 1);
        order.take_all(port.rx(0), name, |source, seq| {
            if source == from {
                assert!(
                    !lossless || seq == next,
                    "{name}: frame {seq} instead of {next}"
                );
                next = seq + 1;
                stall = stall.max(heard.elapsed());
                heard = Instant::now();
                progress.fetch_add(1, Relaxed);
            }
        });
        port.rx(0).sync().unwrap();
        if order.frames > before {
            quiet_since = Instant::now();
        }
        if sends.strong_count() > 0 {
            assert!(heard.elapsed() < STALL, "{name}: nothing for {STALL:?}");
            quiet_since = Instant::now();
        } else if quiet_since.elapsed() > Duration::from_millis(300) {
            break;
        }
    }
    Seen {
        name,
        sources: order.sources(),
        frames: order.frames,
        last: order.last(from),
        stall,
        lossless,
    }
}
