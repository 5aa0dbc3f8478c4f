//! Random traffic through random switches, against a plain model of what a
//! switch does.

#[cfg(test)]
mod common;

#[cfg(test)]
mod engine {
    use std::collections::BTreeMap;

    use netvale_ring::Slot;
    use netvale_ring::slot::{NS_INDIRECT, NS_MOREFRAG};
    use netvale_switch::domain::Want;

    use crate::common::{Bed, Got, Port, Rng, drain, queue, small, space, want};

    const SIZES: [u16; 12] = [2, 3, 4, 7, 8, 17, 64, 100, 256, 1000, 1024, 4096];
    const BUF: usize = 2112;

    /// What the model knows of a port.
    struct Model {
        switch: usize,
        hdr: usize,
        tx: Vec<u64>,
        /// Stations behind it that never move.
        macs: Vec<[u8; 6]>,
        /// Frames that found its rings full.
        lost: u64,
    }

    /// A frame that the model expects somewhere.
    #[derive(Clone)]
    struct Expected {
        bytes: Vec<u8>,
        lens: Vec<u16>,
    }

    fn mac(n: usize) -> [u8; 6] {
        let [a, b, ..] = n.to_le_bytes();
        [2, 0x1b, 0, 0, b, a]
    }

    #[test]
    fn agrees_with_a_model() {
        for seed in 1..=300 {
            case(seed);
        }
    }

    fn case(seed: u64) {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let bed = Bed::new(small());
        let mut ports: Vec<Port> = Vec::new();
        let mut models: Vec<Model> = Vec::new();
        for s in 0..1 + rng.below(3) {
            let mixed = rng.chance(30);
            let hdr = rng.pick(&[0u8, 0, 10, 12]);
            for p in 0..2 + rng.below(5) {
                let hdr = if mixed { rng.pick(&[0u8, 10, 12]) } else { hdr };
                let big = rng.chance(20);
                let slots = |rng: &mut Rng| if big { 1024 } else { rng.pick(&SIZES) };
                let (t, r) = (slots(&mut rng), slots(&mut rng));
                let (nt, nr) = (1 + rng.below(4), 1 + rng.below(4));
                let want = Want {
                    gives_buffers: rng.chance(60),
                    accepts_vnet_hdr: true,
                    vnet_hdr: (hdr > 0).then_some(hdr),
                    ..want(u16::try_from(nt).unwrap(), u16::try_from(nr).unwrap(), t, r)
                };
                ports.push(bed.open(&format!("vale{s}:p{p}"), &want));
                models.push(Model {
                    switch: s,
                    hdr: usize::from(hdr),
                    tx: vec![0; 6],
                    macs: (0..3).map(|i| mac(1 + i + 3 * models.len())).collect(),
                    lost: 0,
                });
            }
        }
        let mut learned: BTreeMap<(usize, [u8; 6]), usize> = BTreeMap::new();
        for step in 0..40u64 {
            let from = rng.below(ports.len());
            let ring = rng.below(ports[from].tx.len());
            step_once(
                &bed,
                &mut rng,
                &mut ports,
                &mut models,
                &mut learned,
                from,
                ring,
                &format!("seed {seed} step {step}"),
            );
        }
        for (port, model) in ports.iter().zip(&models) {
            let stats = bed.with(|d| d.port_stats(port.reg.port)).unwrap();
            let drops = bed.drops(port);
            let words = [
                "tx_bad_slot",
                "tx_chain",
                "tx_runt",
                "tx_no_dest",
                "tx_offload",
            ];
            let counted: Vec<u64> = words.iter().map(|w| drops[w]).collect();
            assert_eq!(counted, model.tx[1..6], "seed {seed} {}", stats.name);
            assert_eq!(stats.tx.0, model.tx[0], "seed {seed} {}", stats.name);
            assert_eq!(stats.faults, 0);
            assert_eq!(drops["rx_fault"], 0);
            bed.check_holders(port);
        }
        bed.check();
        for port in ports {
            bed.close(port);
        }
        bed.check();
        let books = bed.with(|d| d.check().regions);
        assert_eq!(
            books[0].free,
            books[0].bufs - 2,
            "seed {seed}: buffers leaked"
        );
    }

    /// Fills a TX ring with all sorts of frames, syncs, and compares what
    /// arrives everywhere.
    fn step_once(
        bed: &Bed,
        rng: &mut Rng,
        ports: &mut [Port],
        models: &mut [Model],
        learned: &mut BTreeMap<(usize, [u8; 6]), usize>,
        from: usize,
        ring: usize,
        what: &str,
    ) {
        let (hdr, switch) = (models[from].hdr, models[from].switch);
        let mut expected: BTreeMap<(usize, usize), Vec<Expected>> = BTreeMap::new();
        let mut restore = Vec::new();
        let style = rng.below(4);
        let mut fixed = None;
        let most = if rng.chance(20) { 1500 } else { 40 };
        for _ in 0..=rng.below(most) {
            let free = space(ports[from].tx[ring].ring()) as usize;
            if free == 0 {
                break;
            }
            // Long runs of like frames take other ways than mixtures.
            if style == 0 && fixed.is_some() && rng.chance(97) {
                // as before
            } else {
                let src = rng.pick(&models[from].macs);
                let dst = match rng.below(10) {
                    0 => [0xff; 6],
                    1 => [1, 0, 0x5e, 0, 0, 7],
                    2 => [0; 6],
                    3 => src,
                    4 => mac(60_000),
                    _ => {
                        let to = rng.below(models.len());
                        if to == from {
                            [0xff; 6]
                        } else {
                            rng.pick(&models[to].macs)
                        }
                    }
                };
                fixed = Some((src, dst));
            }
            let (src, dst) = fixed.unwrap();
            let odd = style > 1 && rng.chance(15);
            let kind = if odd { rng.below(6) } else { 9 };
            let len = match rng.below(8) {
                0 => 14,
                1 => 15 + rng.below(50),
                2 => BUF - hdr,
                3 if style > 0 => BUF + rng.below(8000),
                _ => 60 + rng.below(1500),
            };
            let mut frame = vec![0u8; hdr];
            frame.extend_from_slice(&dst);
            frame.extend_from_slice(&src);
            let mut k = rng.next();
            frame.extend((12..len).map(|i| {
                if i % 8 == 0 {
                    k = rng.next();
                }
                k.to_le_bytes()[i % 8]
            }));
            let tx = &ports[from].tx[ring];
            let view = tx.ring();
            if kind == 3 {
                // Too short, in one slot.
                frame.truncate(1 + rng.below(hdr + 13));
                assert!(queue(&ports[from], ring, &[&frame]));
                models[from].tx[0] += 1;
                models[from].tx[3] += 1;
                continue;
            }
            let room = free.min(64);
            let frag = match rng.below(4) {
                _ if frame.len().div_ceil(BUF) > room => break,
                0 if style > 0 => frame.len().div_ceil(room).clamp(14 + hdr, BUF),
                // The header in a slot of its own.
                1 if style > 0 && hdr > 0 && (frame.len() - hdr).div_ceil(BUF) < room => 0,
                2 if style > 0 => frame.len().div_ceil(room).clamp(500, BUF),
                _ => BUF,
            };
            let parts: Vec<&[u8]> = if frag == 0 {
                core::iter::once(&frame[..hdr])
                    .chain(frame[hdr..].chunks(BUF))
                    .collect()
            } else {
                frame.chunks(frag).collect()
            };
            let first = view.head();
            models[from].tx[0] += 1;
            match kind {
                0..=2 => {
                    // One slot of it is not to be trusted.
                    assert!(queue(&ports[from], ring, &parts));
                    let nth = if kind == 2 { 0 } else { rng.below(parts.len()) };
                    let at = (first + u32::try_from(nth).unwrap()) % view.count();
                    let slot = view.slot(at);
                    restore.push((at, slot.buf()));
                    view.set_slot(
                        at,
                        match kind {
                            0 => slot.with_buf(rng.pick(&[0, 1, 600_000, u32::MAX])),
                            1 => Slot::new(slot.buf(), rng.pick(&[2113, u16::MAX]), slot.flags()),
                            _ => slot.with_flags(slot.flags() | NS_INDIRECT),
                        },
                    );
                    models[from].tx[1] += 1;
                    continue;
                }
                4 if free > 70 => {
                    // More slots than a frame may have.
                    let n = 65 + u32::try_from(rng.below(free.min(300) - 65)).unwrap();
                    let mut at = first;
                    for i in 0..n {
                        let more = if i + 1 < n { NS_MOREFRAG } else { 0 };
                        view.set_slot(at, Slot::new(view.slot(at).buf(), 20, more));
                        at = view.next(at);
                    }
                    view.set_head(at);
                    models[from].tx[2] += 1;
                    continue;
                }
                _ => {}
            }
            assert!(queue(&ports[from], ring, &parts));
            learned.insert((switch, src), from);
            let known = learned.get(&(switch, dst)).copied();
            let everyone = |t: &usize| *t != from && models[*t].switch == switch;
            let (to, target): (Vec<usize>, Option<usize>) = match known {
                _ if dst[0] & 1 != 0 => ((0..models.len()).filter(everyone).collect(), None),
                Some(p) => (vec![p], Some(p)),
                None => ((0..models.len()).filter(everyone).collect(), None),
            };
            if target == Some(from) {
                models[from].tx[4] += 1;
                continue;
            }
            for t in to {
                let n = ports[t].rx.len();
                let r = if target.is_some() { ring % n } else { 0 };
                let e = convert(&frame, &parts, hdr, models[t].hdr);
                expected.entry((t, r)).or_default().push(e);
            }
        }
        // A chain that `head` cuts off goes out as far as it is there; here
        // every frame is whole.
        ports[from].tx[ring].sync().unwrap();
        {
            let view = ports[from].tx[ring].ring();
            for (at, buf) in restore {
                view.set_slot(at, view.slot(at).with_buf(buf).with_flags(0));
            }
            assert_eq!(
                space(view),
                view.count() - 1,
                "{what}: not everything was taken"
            );
        }
        for t in 0..ports.len() {
            for r in 0..ports[t].rx.len() {
                let want = expected.remove(&(t, r)).unwrap_or_default();
                let slots = ports[t].reg.rx[r].slots;
                let got = drain(&mut ports[t], r);
                compare(
                    &got,
                    &want,
                    u32::from(slots),
                    &format!("{what}: port {t} ring {r}"),
                );
                // Everything that did not arrive is in this one counter.
                models[t].lost += (want.len() - got.len()) as u64;
            }
            let full = bed.drops(&ports[t])["rx_full"];
            assert_eq!(full, models[t].lost, "{what}: port {t}");
        }
    }

    /// The frame as it arrives at a port with another header.
    fn convert(frame: &[u8], parts: &[&[u8]], from: usize, to: usize) -> Expected {
        if from == to {
            return Expected {
                bytes: frame.to_vec(),
                lens: parts
                    .iter()
                    .map(|p| u16::try_from(p.len()).unwrap())
                    .collect(),
            };
        }
        let mut bytes = vec![0; to];
        bytes.extend_from_slice(&frame[from..]);
        let lens = bytes
            .chunks(BUF)
            .map(|p| u16::try_from(p.len()).unwrap())
            .collect();
        Expected { bytes, lens }
    }

    /// What arrived is what was expected, in order, less what found no room.
    fn compare(got: &[Got], want: &[Expected], slots: u32, what: &str) {
        let need: usize = want.iter().map(|e| e.lens.len()).sum();
        if need < slots as usize {
            assert_eq!(got.len(), want.len(), "{what}: there was room for all");
        }
        if want.iter().all(|e| e.lens.len() == 1) {
            let fit = want.len().min(slots as usize - 1);
            assert_eq!(got.len(), fit, "{what}: as many as fit");
        }
        let mut rest = want.iter();
        for g in got {
            let n = u16::try_from(g.slots.len()).unwrap();
            let e = rest.find(|e| e.bytes == g.bytes);
            let e =
                e.unwrap_or_else(|| panic!("{what}: {} bytes not expected here", g.bytes.len()));
            let lens: Vec<u16> = g.slots.iter().map(|s| s.0).collect();
            assert_eq!(lens, e.lens, "{what}");
            for (i, (_, flags)) in g.slots.iter().enumerate() {
                let more = if i + 1 < g.slots.len() {
                    NS_MOREFRAG
                } else {
                    0
                };
                assert_eq!(*flags, n << 8 | more, "{what}");
            }
        }
    }
}
