//! The words of a ring's reservations, written over by a peer between any two
//! operations: nothing panics, hangs, or gives out more than the ring has.
#![no_main]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use libfuzzer_sys::fuzz_target;
use netvale_ring::resv::{Cursor, Resv};
use netvale_ring::{MAX_SLOTS, Pos};

fuzz_target!(|data: &[u8]| {
    let Some((&size, rest)) = data.split_first() else {
        return;
    };
    let slots = u32::from(size).max(2).min(MAX_SLOTS);
    let words: Vec<AtomicU64> = (0..slots + 2).map(|_| AtomicU64::new(0)).collect();
    let resv = Resv {
        word: &words[0],
        rhead: &words[1],
        recs: &words[2..],
    };
    let mut cursor = resv.open();
    let mut lease = None;
    for op in rest.chunks(10) {
        let mut value = [0; 8];
        let n = op.len().saturating_sub(2).min(8);
        value[..n].copy_from_slice(&op[op.len() - n..]);
        let value = u64::from_le_bytes(value);
        let arg = u32::from(op.get(1).copied().unwrap_or(0));
        match op[0] % 8 {
            0 => words[arg as usize % words.len()].store(value, Relaxed),
            1 => lease = resv.reserve(7, |free| free.min(arg)).ok().or(lease),
            2 => {
                if let Some(l) = lease {
                    resv.publish(l, arg.min(l.n), arg % 2 == 0);
                }
            }
            3 => {
                let got = resv.collect(cursor).cursor;
                assert!(got.start.distance(got.tail, slots) <= slots || got == cursor);
                cursor = got;
            }
            4 => {
                resv.repair(|| cursor, |o| o == 7, |i| assert!(i < MAX_SLOTS));
            }
            5 => {
                resv.outstanding(|| cursor);
            }
            6 => {
                cursor = Cursor {
                    start: Pos::from_bits(value as u32),
                    tail: Pos::from_bits((value >> 32) as u32),
                };
            }
            _ => {
                resv.close();
                cursor = resv.open();
            }
        }
    }
});
