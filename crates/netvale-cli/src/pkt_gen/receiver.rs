//! The receiving thread.

use std::time::{Duration, Instant};

use netvale::{Frame, RxRing};

use super::capture::Writer;
use super::config::{Config, Function};
use super::frame::header_bytes;
use super::lane::RxLane;
use super::meter::{Meter, Run};
use crate::failure::Result;
use crate::output;
use crate::signals::{POLL_PERIOD, Stop};

/// `-W`: how long a receiver that has seen traffic waits for more.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// One thread that receives.
pub(super) struct Receiver<'a> {
    config: &'a Config,
    run: &'a Run,
    meter: &'a Meter,
    stop: &'a Stop,
    /// Packets left to receive; `None`: no end.
    left: Option<u64>,
    /// Whether the bytes are looked at.
    inspect: bool,
    writer: Option<&'a Writer>,
    sequence: Sequence,
    /// Scratch for the bytes of a frame.
    frame: Vec<u8>,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(
        config: &'a Config,
        run: &'a Run,
        stop: &'a Stop,
        thread: u16,
        writer: Option<&'a Writer>,
    ) -> Self {
        let check = config.function == Function::RxSeq;
        Self {
            config,
            run,
            meter: &run.meters[usize::from(thread)],
            stop,
            left: (config.count > 0).then_some(config.count),
            inspect: check || config.dump || config.access || writer.is_some(),
            writer,
            sequence: Sequence::default(),
            frame: Vec::new(),
        }
    }

    /// Receives until all is received or the run has to end.
    pub(super) fn run(mut self, lane: &mut RxLane) -> Result<Sequence> {
        let mut last = None;
        while !self.stop.requested() && self.left != Some(0) {
            if last.is_none() {
                self.meter.begin(self.run.start.elapsed());
            }
            if self.batch(lane)? {
                last = Some(Instant::now());
            } else if !lane.wait(POLL_PERIOD)? && self.config.exit_when_silent {
                let silent = last.is_some_and(|at: Instant| at.elapsed() >= SILENCE_MAX);
                if silent {
                    break;
                }
            }
            if self.config.threads > 1 && self.all_received() {
                break;
            }
        }
        Ok(self.sequence)
    }

    /// Several threads share one `-n`.
    fn all_received(&self) -> bool {
        self.config.count > 0 && self.run.totals().packets >= self.config.count
    }

    /// Takes up to a batch from each ring; false if there was nothing.
    fn batch(&mut self, lane: &mut RxLane) -> Result<bool> {
        let mut any = false;
        for i in 0..lane.count() {
            let ring = lane.ring(i);
            let available = ring.sync()?;
            if available == 0 {
                continue;
            }
            self.meter.space(available);
            let left = self
                .left
                .map_or(u32::MAX, |left| u32::try_from(left).unwrap_or(u32::MAX));
            let most = available.min(self.config.burst).min(left);
            let (packets, bytes) = if self.inspect {
                self.take(ring, i, most)?
            } else {
                ring.discard(most)
            };
            if packets > 0 {
                any = true;
                self.meter.batch(packets, bytes, self.run.start.elapsed());
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(u64::from(packets));
                }
            }
        }
        Ok(any)
    }

    fn take(&mut self, ring: &mut RxRing, index: usize, most: u32) -> Result<(u32, u64)> {
        let (mut packets, mut bytes) = (0, 0);
        while packets < most {
            let Some(frame) = ring.next() else {
                break;
            };
            packets += 1;
            bytes += frame.len() as u64;
            self.look(&frame, index)?;
        }
        Ok((packets, bytes))
    }

    fn look(&mut self, frame: &Frame<'_>, ring: usize) -> Result<()> {
        if self.config.function == Function::RxSeq {
            let headers = header_bytes(self.config.src.family) as usize;
            let at = usize::from(self.config.vnet_hdr) + headers;
            let mut seq = [0; 4];
            if frame.read(at, &mut seq) == seq.len() {
                self.sequence.see(u32::from_be_bytes(seq));
            } else {
                self.sequence.short += 1;
            }
        }
        if self.writer.is_none() && !self.config.dump && !self.config.access {
            return Ok(());
        }
        frame.read_to(&mut self.frame);
        std::hint::black_box(&self.frame);
        if let Some(writer) = self.writer {
            let vnet_hdr = usize::from(self.config.vnet_hdr).min(self.frame.len());
            writer.write(&self.frame[vnet_hdr..])?;
        }
        if self.config.dump {
            output::line(&dump(&self.frame, ring, frame.flags()))?;
        }
        Ok(())
    }
}

/// What a check of sequence numbers found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sequence {
    /// The number that should come next; `None` before the first packet.
    expected: Option<u32>,
    /// Places where numbers are missing.
    pub(super) gaps: u64,
    /// Numbers missing, less those that came late.
    pub(super) lost: u64,
    /// Packets whose number is lower than one before.
    pub(super) reordered: u64,
    /// Packets too short to have a number.
    pub(super) short: u64,
}

impl Sequence {
    fn see(&mut self, seq: u32) {
        let Some(expected) = self.expected else {
            self.expected = Some(seq.wrapping_add(1));
            return;
        };
        // Numbers wrap: the nearer way round tells forward from backward.
        let ahead = seq.wrapping_sub(expected);
        if ahead > u32::MAX / 2 {
            self.reordered += 1;
            self.lost = self.lost.saturating_sub(1);
            return;
        }
        if ahead > 0 {
            self.gaps += 1;
            self.lost += u64::from(ahead);
        }
        self.expected = Some(seq.wrapping_add(1));
    }

    /// True if every packet came once and in order.
    pub(super) fn is_clean(&self) -> bool {
        self.gaps == 0 && self.reordered == 0 && self.short == 0
    }
}

/// A frame in hexadecimal and as text.
pub(super) fn dump(frame: &[u8], ring: usize, flags: u16) -> String {
    use std::fmt::Write as _;
    let mut text = format!("ring {ring} flags 0x{flags:04x} len {}", frame.len());
    for (i, row) in frame.chunks(16).enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{:5}: ", i * 16);
        for byte in row {
            let _ = write!(text, "{byte:02x} ");
        }
        for _ in row.len()..16 {
            text.push_str("   ");
        }
        text.extend(row.iter().map(|&byte| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '.',
        }));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: &[u32]) -> Sequence {
        let mut sequence = Sequence::default();
        for &number in numbers {
            sequence.see(number);
        }
        sequence
    }

    #[test]
    fn sequences() {
        for (numbers, gaps, lost, reordered) in [
            (&[][..], 0, 0, 0),
            (&[7, 8, 9], 0, 0, 0),
            (&[u32::MAX, 0, 1], 0, 0, 0),
            (&[0, 1, 5, 6], 1, 3, 0),
            (&[0, 2, 4], 2, 2, 0),
            (&[0, 2, 1, 3], 1, 0, 1),
            (&[0, 1, 1], 0, 0, 1),
        ] {
            let s = seen(numbers);
            assert_eq!((s.gaps, s.lost, s.reordered), (gaps, lost, reordered));
            assert_eq!(s.is_clean(), gaps == 0 && reordered == 0);
        }
    }

    #[test]
    fn dumps_show_every_byte() {
        let text = dump(b"0123456789abcdefXY\x00", 1, 0x0100);
        assert_eq!(
            text,
            "ring 1 flags 0x0100 len 19\n    \
             0: 30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66 0123456789abcdef\n   \
             16: 58 59 00                                        XY."
        );
    }
}
