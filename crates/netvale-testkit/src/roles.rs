//! What child processes do until they are killed or asked to end.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netvale::{Error, ErrorKind, Namespace, Port, RxRing, TxRing};
use netvale_ring::Slot;
use netvale_ring::kring::KringId;
use netvale_ring::world::{Holder, World};
use netvale_wire::proto::RingPlace;
use rustix::process::{Resource, Rlimit};

use crate::raw::{Raw, Region};
use crate::{Rng, Spec, frame};

static END: AtomicBool = AtomicBool::new(false);

/// Standard input was closed: the role ends, or the process does.
pub(crate) fn asked_to_end() {
    END.store(true, Ordering::Relaxed);
    std::thread::sleep(Duration::from_secs(25));
    eprintln!("a role does not end");
    std::process::abort();
}

fn goes_on() -> bool {
    !END.load(Ordering::Relaxed)
}

/// Plays a role.
pub(crate) fn play(spec: &Spec) {
    match spec.get("role") {
        "sender" => sender(spec),
        "receiver" => receiver(spec),
        "monitor" => monitor(spec),
        "mover" => mover(spec, true),
        "carrier" => mover(spec, false),
        "pipe" => pipe(spec),
        "churn" => churn(spec),
        "tolerant" => tolerant(spec),
        "stopped" => stopped(spec),
        "hostile" => hostile(spec),
        "scribbler" => scribbler(spec),
        "starved" => starved(spec),
        other => panic!("no role {other}"),
    }
}

fn namespace(spec: &Spec) -> Namespace {
    let ns = Namespace::at(spec.get("dir")).unwrap().no_spawn();
    ns.isolated(spec.is("isolated"))
}

fn rng(spec: &Spec) -> Rng {
    Rng::new(spec.number("seed").unwrap_or(1))
}

/// Opens a port that may not be there yet, or for somebody else; `None` if the
/// process is to end.
fn open(spec: &Spec, name: &str, rng: &mut Rng) -> Option<Port> {
    let ns = namespace(spec);
    let slots = *rng.pick(&[0, 64, 256]);
    let rings = *rng.pick(&[1, 1, 2]);
    while goes_on() {
        let port = ns.port(name).slots(slots, slots).rings(rings, rings);
        match port.keep_buffers(rng.percent(30)).open() {
            Ok(port) => return Some(port),
            Err(e) => assert!(
                matches!(
                    e.kind(),
                    ErrorKind::NotFound | ErrorKind::Usage | ErrorKind::Busy
                ),
                "{name}: {e}"
            ),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// What arrives is whole and in order, source by source.
#[derive(Debug, Default)]
pub struct Order {
    last: HashMap<u32, u64>,
    frame: Vec<u8>,
    /// Frames seen.
    pub frames: u64,
}

impl Order {
    /// Looks at one frame: its source and number.
    ///
    /// # Panics
    ///
    /// If it is not whole, or came before.
    pub fn see(&mut self, bytes: &[u8], at: &str) -> (u32, u64) {
        let (source, seq) = match frame::verify(bytes) {
            Ok(tag) => tag,
            Err(why) => panic!("{at}: a frame is {why}"),
        };
        let last = self.last.insert(source, seq);
        assert!(
            last.is_none_or(|last| last < seq),
            "{at}: frame {seq} of {source} after {last:?}"
        );
        self.frames += 1;
        (source, seq)
    }

    /// Takes everything that is there.
    pub fn take_all(&mut self, rx: &mut RxRing, at: &str, mut saw: impl FnMut(u32, u64)) {
        let mut frame = std::mem::take(&mut self.frame);
        while let Some(f) = rx.next() {
            f.read_to(&mut frame);
            let (source, seq) = self.see(&frame, at);
            saw(source, seq);
        }
        self.frame = frame;
    }

    /// Sources seen.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.last.len()
    }

    /// Number of the last frame of a source.
    #[must_use]
    pub fn last(&self, source: u32) -> Option<u64> {
        self.last.get(&source).copied()
    }
}

/// Sends numbered frames.
#[derive(Debug)]
pub struct Numbered {
    source: u32,
    seq: u64,
    frame: Vec<u8>,
}

impl Numbered {
    /// In the name of this source.
    #[must_use]
    pub fn new(source: u32) -> Self {
        Self {
            source,
            seq: 0,
            frame: Vec::new(),
        }
    }

    /// Queues the next one if there is room.
    pub fn push(&mut self, tx: &mut TxRing, dst: [u8; 6], src: [u8; 6], len: usize) -> bool {
        frame::tagged_into(&mut self.frame, dst, src, len, self.source, self.seq);
        let pushed = tx.push(&self.frame).is_ok();
        self.seq += u64::from(pushed);
        pushed
    }

    /// Frames so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.seq
    }
}

/// Lengths that matter: one slot, a full one, several.
const LENGTHS: [usize; 8] = [60, 60, 64, 127, 400, 1514, 2112, 5000];

/// Queues and sends one batch to random stations.
fn burst(tx: &mut TxRing, n: &mut Numbered, src: [u8; 6], to: &[u32], rng: &mut Rng) {
    for _ in 0..rng.below(64) + 1 {
        let dst = match rng.below(20) {
            0 => frame::BROADCAST,
            1 => frame::mac(0x00ff_ffff), // nobody
            _ => frame::mac(*rng.pick(to)),
        };
        if !n.push(tx, dst, src, *rng.pick(&LENGTHS)) {
            break;
        }
    }
    tx.sync().unwrap();
}

/// Lets others run, for another time each time.
fn rest(rng: &mut Rng) {
    match rng.below(16) {
        0 => std::thread::sleep(Duration::from_micros(300)),
        1..4 => std::thread::yield_now(),
        _ => {}
    }
}

fn stations(spec: &Spec) -> Vec<u32> {
    let to = spec.get("to").split(',');
    to.map(|n| n.parse().unwrap()).collect()
}

fn id(spec: &Spec) -> u32 {
    u32::try_from(spec.number("source").unwrap()).unwrap()
}

fn sender(spec: &Spec) {
    let mut rng = rng(spec);
    let Some(mut port) = open(spec, spec.get("port"), &mut rng) else {
        return;
    };
    let (to, mut n) = (stations(spec), Numbered::new(id(spec)));
    let src = frame::mac(id(spec));
    while goes_on() {
        burst(port.tx(0), &mut n, src, &to, &mut rng);
        port.rx(0).sync().unwrap();
        let all = port.rx(0).available();
        port.rx(0).discard(all);
        rest(&mut rng);
    }
}

fn receiver(spec: &Spec) {
    let mut rng = rng(spec);
    let Some(mut port) = open(spec, spec.get("port"), &mut rng) else {
        return;
    };
    // Others send to its address.
    let mut n = Numbered::new(id(spec));
    n.push(port.tx(0), frame::BROADCAST, frame::mac(id(spec)), 60);
    port.tx(0).sync().unwrap();
    let rings = 0..port.rx_count();
    let mut order: Vec<_> = rings.map(|_| Order::default()).collect();
    while goes_on() {
        if rng.percent(50) {
            port.wait_rx(Some(Duration::from_millis(20))).unwrap();
        }
        for (i, order) in order.iter_mut().enumerate() {
            port.rx(i).sync().unwrap();
            order.take_all(port.rx(i), spec.get("port"), |_, _| {});
        }
        rest(&mut rng);
    }
}

fn monitor(spec: &Spec) {
    let mut rng = rng(spec);
    let Some(mut port) = open(spec, spec.get("port"), &mut rng) else {
        return;
    };
    let mut v = Vec::new();
    while goes_on() {
        // What it watches may be gone at any time.
        match port.wait_rx(Some(Duration::from_millis(20))) {
            Ok(_) => {}
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Disconnected, "{e}");
                break;
            }
        }
        for i in 0..port.rx_count() {
            while let Some(f) = port.rx(i).next() {
                f.read_to(&mut v);
            }
        }
        rest(&mut rng);
    }
}

/// Moves frames from one port to another, and perhaps back.
fn mover(spec: &Spec, back: bool) {
    let mut rng = rng(spec);
    let Some(mut a) = open(spec, spec.get("port"), &mut rng) else {
        return;
    };
    let Some(mut b) = open(spec, spec.get("other"), &mut rng) else {
        return;
    };
    while goes_on() {
        move_some(&mut a, &mut b);
        if back {
            move_some(&mut b, &mut a);
        } else {
            let all = b.rx(0).sync().unwrap();
            b.rx(0).discard(all);
        }
        rest(&mut rng);
    }
}

fn move_some(from: &mut Port, to: &mut Port) {
    let (rx, tx) = (from.rx(0), to.tx(0));
    rx.sync().unwrap();
    rx.forward(tx, 64);
    tx.sync().unwrap();
    rx.sync().unwrap();
}

fn pipe(spec: &Spec) {
    let mut rng = rng(spec);
    let Some(mut port) = open(spec, spec.get("port"), &mut rng) else {
        return;
    };
    let mut n = Numbered::new(id(spec));
    let mut order = Order::default();
    while goes_on() {
        burst(port.tx(0), &mut n, frame::mac(1), &[2], &mut rng);
        if rng.percent(10) {
            port.wait_tx(Some(Duration::from_millis(2))).unwrap();
        }
        port.rx(0).sync().unwrap();
        order.take_all(port.rx(0), spec.get("port"), |_, _| {});
        port.rx(0).sync().unwrap();
        rest(&mut rng);
    }
}

/// Opens and closes.
fn churn(spec: &Spec) {
    let mut rng = rng(spec);
    let base = spec.get("port").to_owned();
    let watched = spec.get("other").to_owned();
    let ns = namespace(spec);
    let mut open = Vec::new();
    while goes_on() {
        let name = match rng.below(5) {
            0 => format!("{base}{}", rng.below(4)),
            1 => format!("{base}{{{}", rng.below(3)),
            2 => format!("{base}}}{}", rng.below(3)),
            3 => format!("{watched}/{}", rng.pick(&["r", "t", "rt"])),
            _ => format!("null:{}", rng.below(9)),
        };
        match ns.port(&name).slots(64, 64).open() {
            Ok(port) => open.push(port),
            Err(e) => assert!(
                !matches!(e.kind(), ErrorKind::Peer | ErrorKind::Io),
                "{name}: {e}"
            ),
        }
        if open.len() > 5 || rng.percent(30) {
            let i = rng.below(open.len());
            if i < open.len() {
                open.swap_remove(i);
            }
        }
        rest(&mut rng);
    }
}

/// Whatever others do to its memory: it goes on, or its port is gone.
fn tolerant(spec: &Spec) {
    let mut rng = rng(spec);
    let Some(mut port) = open(spec, spec.get("port"), &mut rng) else {
        return;
    };
    let (to, mut n) = (stations(spec), Numbered::new(id(spec)));
    let mut v = Vec::new();
    let fine = |e: Error| assert_eq!(e.kind(), ErrorKind::Peer, "{e}");
    while goes_on() {
        for _ in 0..8 {
            n.push(port.tx(0), frame::mac(to[0]), frame::mac(id(spec)), 200);
        }
        port.tx(0).sync().map(|_| ()).unwrap_or_else(fine);
        let waited = port.wait_rx(Some(Duration::from_millis(2)));
        waited.map(|_| ()).unwrap_or_else(fine);
        for i in 0..port.rx_count() {
            port.rx(i).sync().map(|_| ()).unwrap_or_else(fine);
            for _ in 0..200 {
                let Some(f) = port.rx(i).next() else { break };
                f.read_to(&mut v);
                if rng.percent(20) {
                    let _ = port.rx(i).discard(3);
                }
            }
        }
    }
}

/// Stops in the middle of something, and stays there.
fn stopped(spec: &Spec) {
    let mut raw = Raw::connect(Path::new(spec.get("dir")), false);
    let (reg, region, _bells) = raw.register(spec.get("port"));
    let world = raw.world();
    let kring = |key| {
        let id = KringId(u32::try_from(spec.number(key).unwrap()).unwrap());
        (id, world.kring(id).unwrap())
    };
    match spec.get("at") {
        // Slots reserved in somebody's ring, and not all of them published.
        "reservation" => {
            let resv = kring("kring")
                .1
                .resv(kring("kring").1.geom().slots)
                .unwrap();
            let want = u32::try_from(spec.number("slots").unwrap()).unwrap();
            let done = u32::try_from(spec.number("done").unwrap()).unwrap();
            let lease = resv.reserve(reg.owner, |free| free.min(want)).unwrap();
            assert_eq!(lease.n, want);
            if done > 0 {
                // What stands in the slots is of no matter here.
                resv.publish(lease, done, false);
            }
        }
        "lock" => {
            let mine = world.kring(KringId(reg.tx[0].kring)).unwrap();
            mine.try_lock(u64::from(reg.owner)).unwrap();
        }
        // Buffers exchanged, but for the last steps.
        "exchange" => {
            let steps = spec.number("steps").unwrap();
            let (id, to) = kring("kring");
            let g = to.geom();
            let map = region.to_map();
            let holders = world.holders(region.info.shared.unwrap(), region.geom.bufs);
            let holders = holders.unwrap();
            let theirs = map.ring(g.ofs, g.slots).unwrap();
            let mine = &reg.tx[0];
            let place = usize::try_from(mine.ofs).unwrap();
            let ours = map.ring(place, u32::from(mine.slots)).unwrap();
            let lease = to.resv(g.slots).unwrap().reserve(reg.owner, |_| 1).unwrap();
            let at = lease.start.idx();
            let (a, b) = (ours.slot(0), theirs.slot(at));
            let set = |buf: u32, ring| {
                holders[buf as usize].store(Holder::kring(ring).bits(), Ordering::Relaxed);
            };
            if steps > 0 {
                set(b.buf(), KringId(mine.kring));
            }
            if steps > 1 {
                theirs.set_slot(at, Slot::new(a.buf(), 60, 0));
            }
            if steps > 2 {
                set(a.buf(), id);
            }
            if steps > 3 {
                ours.set_slot(0, Slot::new(b.buf(), 60, 0));
            }
        }
        // A received frame's buffer moved to another port, but for the last
        // steps.
        "forward" => {
            let mut second = Raw::connect(Path::new(spec.get("dir")), false);
            let (from, ..) = second.register(spec.get("other"));
            let steps = spec.number("steps").unwrap();
            let map = region.to_map();
            let holders = world.holders(region.info.shared.unwrap(), region.geom.bufs);
            let holders = holders.unwrap();
            let ring = |r: &RingPlace| {
                let place = usize::try_from(r.ofs).unwrap();
                map.ring(place, u32::from(r.slots)).unwrap()
            };
            let set = |buf: u32, ring| {
                holders[buf as usize].store(Holder::kring(KringId(ring)).bits(), Ordering::Relaxed);
            };
            let (tx, rx) = (&reg.tx[0], &from.rx[0]);
            let (old, new) = (ring(tx).slot(0), ring(rx).slot(0));
            if steps > 0 {
                set(new.buf(), tx.kring);
            }
            if steps > 1 {
                set(old.buf(), rx.kring);
            }
            if steps > 2 {
                ring(tx).set_slot(0, Slot::new(new.buf(), 60, 0));
            }
            if steps > 3 {
                ring(rx).set_slot(0, Slot::new(old.buf(), 0, 0));
            }
            // Both connections end with the process, and not before.
            std::fs::write(spec.get("flag"), "there").unwrap();
            wait_for_the_end();
        }
        other => panic!("cannot stop at {other}"),
    }
    std::fs::write(spec.get("flag"), "there").unwrap();
    wait_for_the_end();
}

fn wait_for_the_end() {
    while goes_on() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Writes anything anywhere into its own region, and rings.
fn hostile(spec: &Spec) {
    let mut rng = rng(spec);
    let mut raw = Raw::connect(Path::new(spec.get("dir")), true);
    let (reg, region, bells) = raw.register(spec.get("port"));
    let len = region.geom.file_len();
    let mut turn = 0u32;
    while goes_on() {
        for ring in reg.tx.iter().chain(&reg.rx) {
            spoil_ring(&region, usize::try_from(ring.ofs).unwrap(), &mut rng);
        }
        for _ in 0..32 {
            // Anywhere, the page of the bells not last.
            let at = match rng.below(4) {
                0 => region.geom.bell_ofs() + rng.below(len - region.geom.bell_ofs()) / 4 * 4,
                _ => rng.below(len),
            };
            let word = rng.word().to_le_bytes();
            let at = at.min(len - 8);
            assert!(region.mem.write(at, &word));
        }
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(8) {
            bells.iter().for_each(netvale_shm::Doorbell::ring);
            std::thread::yield_now();
        }
    }
}

/// Spoils a ring's words and some of its slots: wild values, and ones that are
/// nearly right.
fn spoil_ring(region: &Region, ofs: usize, rng: &mut Rng) {
    for word in [20, 24, 28] {
        let value = match rng.below(4) {
            0 => u32::MAX,
            1 => u32::try_from(rng.word() >> 32).unwrap(),
            _ => u32::try_from(rng.below(1100)).unwrap(),
        };
        put(region, ofs + word, value);
    }
    for _ in 0..8 {
        let at = ofs + 256 + rng.below(1024) * 16;
        let buf = match rng.below(3) {
            0 => u32::try_from(rng.word() >> 32).unwrap(),
            _ => u32::try_from(rng.below(4000)).unwrap(),
        };
        put(region, at, buf);
        let rest = u32::try_from(rng.word() >> 32).unwrap();
        put(region, at + 4, rest);
    }
}

fn put(region: &Region, at: usize, value: u32) {
    assert!(region.mem.write(at, &value.to_le_bytes()));
}

/// Writes over everybody's rings and buffers in the region that all share.
fn scribbler(spec: &Spec) {
    let mut rng = rng(spec);
    let mut raw = Raw::connect(Path::new(spec.get("dir")), false);
    let (_reg, region, _bells) = raw.register(spec.get("port"));
    let world = spec.is("state").then(|| raw.world());
    let rings = spec.number("rings").unwrap();
    let bufs = region.geom.buf_ofs();
    while goes_on() {
        let ring = u32::try_from(rng.below(usize::try_from(rings).unwrap())).unwrap();
        spoil_ring(&region, region.geom.ring_ofs(ring), &mut rng);
        for _ in 0..16 {
            let at = bufs + rng.below(8192 * 2112);
            assert!(region.mem.write(at, &rng.word().to_le_bytes()));
        }
        if let Some(world) = &world {
            spoil_state(world, rings, &mut rng);
        }
        rest(&mut rng);
    }
}

/// Spoils the hidden state of rings, and of ports and tables now and then.
fn spoil_state(world: &World, rings: u64, rng: &mut Rng) {
    let g = world.geom();
    let ring = rng.below(usize::try_from(rings).unwrap());
    let at = match rng.below(40) {
        0 => g.port_ofs(u32::try_from(rng.below(8)).unwrap()) + rng.below(32) * 8,
        1 => g.switch_ofs(0) + rng.below(600) * 8,
        2 => g.holders_ofs(0) + rng.below(8192) * 8,
        3 => g.kring_ofs(u32::try_from(ring).unwrap()) + rng.below(64 + 2048) * 8,
        4 => g.kring_ofs(u32::try_from(ring).unwrap()) + rng.below(64) * 8,
        _ => return,
    };
    let value = match rng.below(3) {
        0 => rng.word(),
        1 => rng.below(2000) as u64,
        _ => u64::MAX,
    };
    assert!(world.mem().write(at, &value.to_le_bytes()));
}

/// With few descriptors: opens ports until there are none left, says so in one
/// line, and works again when it has closed some.
fn starved(spec: &Spec) {
    let most = spec.number("files");
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
    let ns = namespace(spec);
    for round in 0..3 {
        let mut open = Vec::new();
        let refused = loop {
            match ns.open(&format!("vale0:s{}", open.len())) {
                Ok(port) => open.push(port),
                Err(e) => break e,
            }
            assert!(open.len() < 100, "there is no limit");
        };
        assert!(open.len() > 1, "{refused}");
        assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
        assert!(!refused.to_string().contains('\n'), "{refused}");
        // Those that are open work all the same.
        let (a, b) = open.split_at_mut(1);
        let f = frame::tagged(frame::BROADCAST, frame::mac(1), 60, 1, round);
        crate::io::send(&mut a[0], &f);
        assert_eq!(crate::io::recv(&mut b[0]), f);
    }
}
