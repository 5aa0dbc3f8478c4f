//! The blocks of pcapng.

use std::io::Read;
use std::num::NonZeroU32;

use super::read::{Input, Place, word};
use super::{MAX_RECORD, PcapError, PcapErrorKind};

/// Type of the block that begins a section; the same in both byte orders.
pub(super) const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const PACKET: u32 = 6;

/// Longest block: a record with its header and generous options.
const MAX_BLOCK: usize = MAX_RECORD + (64 << 10);
/// Blocks that hold no packet may be long (names, secrets): they are skipped.
const MAX_OTHER: u32 = 1 << 30;
/// Most interfaces of a section.
const MAX_INTERFACES: usize = 1 << 16;
/// Type and length before a block's body, and the length again after it.
const BEFORE: usize = 8;
const AROUND: usize = 12;

/// What is known in the middle of a file.
#[derive(Debug)]
pub(super) struct Section {
    big: bool,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    link_type: u16,
    snap: u32,
    clock: Clock,
    /// Nanoseconds in a tick, if that is a whole number and all there is to it.
    tick: Option<NonZeroU32>,
}

/// What a time stamp counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clock {
    /// `if_tsresol`: a negative power of ten, or of two with the top bit.
    resolution: u8,
    /// `if_tsoffset`: seconds to add.
    offset: i64,
}

#[derive(Debug)]
pub(super) enum Block {
    /// A packet, which is written down.
    Packet,
    Other,
}

impl Section {
    pub(super) fn new() -> Self {
        Self {
            big: false,
            interfaces: Vec::new(),
        }
    }

    /// The next block, if it is an ordinary packet, all of which has been read.
    #[inline]
    pub(super) fn whole_packet<R>(&self, input: &mut Input<R>, place: &mut Place) -> bool {
        const FIXED: usize = 20;
        let ahead = input.ahead();
        let Some(head) = ahead.first_chunk::<{ BEFORE + FIXED }>() else {
            return false;
        };
        let word = |at| word(head, at, self.big);
        let (total, id, captured) = (word(4) as usize, word(8), word(20) as usize);
        let lengths = AROUND + FIXED..=MAX_BLOCK;
        if word(0) != PACKET || !lengths.contains(&total) || !total.is_multiple_of(4) {
            return false;
        }
        let Some(end) = ahead.get(total - 4..total) else {
            return false;
        };
        let room = (total - AROUND - FIXED).min(MAX_RECORD);
        let fits = captured <= room && self::word(end, 0, self.big) == word(4);
        let interface = self.interfaces.get(id as usize);
        let Some((interface, tick)) = interface.and_then(|i| Some((i, i.tick?))) else {
            return false;
        };
        if !fits {
            return false;
        }
        let ticks = u64::from(word(12)) << 32 | u64::from(word(16));
        place.time_ns = ticks.saturating_mul(tick.get().into());
        place.start = input.start + BEFORE + FIXED;
        place.captured = captured;
        place.len = word(24);
        place.link_type = interface.link_type;
        place.interface = id;
        input.take(total);
        true
    }

    /// The next block; `None` at the end.
    pub(super) fn next<R: Read>(
        &mut self,
        input: &mut Input<R>,
        place: &mut Place,
    ) -> Result<Option<Block>, PcapError> {
        if input.fill(AROUND)? == 0 {
            return Ok(None);
        }
        let head = input.exactly(AROUND, "a block")?;
        let mut kind = word(head, 0, self.big);
        if kind == SECTION {
            let mark = word(head, 8, false);
            self.big = match mark {
                BYTE_ORDER => false,
                m if m.swap_bytes() == BYTE_ORDER => true,
                mark => return Err(input.error(PcapErrorKind::ByteOrder { mark })),
            };
            self.interfaces.clear();
            kind = SECTION;
        }
        let head = input.exactly(AROUND, "a block")?;
        let total = word(head, 4, self.big);
        let known = matches!(
            kind,
            SECTION | INTERFACE | OLD_PACKET | SIMPLE_PACKET | PACKET
        );
        let max = if known {
            MAX_BLOCK as u64
        } else {
            MAX_OTHER.into()
        };
        let len = total as usize;
        if u64::from(total) > max || len < AROUND || !len.is_multiple_of(4) {
            return Err(input.error(PcapErrorKind::Length {
                what: "a block (its length is a multiple of 4)",
                len: total.into(),
                min: AROUND as u64,
                max,
            }));
        }
        if !known {
            return skip(input, len).map(|()| Some(Block::Other));
        }
        let block = input.exactly(len, "a block")?;
        let end = word(block, len - 4, self.big);
        if end != total {
            return Err(input.error(PcapErrorKind::BlockEnd { begin: total, end }));
        }
        let body = block.get(BEFORE..len - 4).unwrap_or_default();
        let result = match kind {
            SECTION => section(body, self.big).map(|()| None),
            INTERFACE => self.interface(body).map(|()| None),
            SIMPLE_PACKET => self.simple(body).map(Some),
            _ => self.packet(body, kind == OLD_PACKET).map(Some),
        };
        let packet = result.map_err(|kind| input.error(kind))?;
        let block = match packet {
            Some(packet) => {
                *place = packet;
                place.start += input.start + BEFORE;
                Block::Packet
            }
            None => Block::Other,
        };
        input.take(len);
        Ok(Some(block))
    }

    fn interface(&mut self, body: &[u8]) -> Result<(), PcapErrorKind> {
        need(body, 8, "an interface block")?;
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(PcapErrorKind::Length {
                what: "a list of interfaces",
                len: self.interfaces.len() as u64 + 1,
                min: 0,
                max: MAX_INTERFACES as u64,
            });
        }
        let mut clock = Clock {
            resolution: 6,
            offset: 0,
        };
        let mut options = body.get(8..).unwrap_or_default();
        while options.len() >= 4 {
            let (code, len) = (half(options, 0, self.big), half(options, 2, self.big));
            let len = usize::from(len);
            let Some(value) = options.get(4..4 + len) else {
                return Err(PcapErrorKind::Truncated {
                    what: "an option of an interface",
                    need: len,
                    have: options.len() - 4,
                });
            };
            match (code, value) {
                (0, _) => break,
                (9, [resolution, ..]) => clock.resolution = *resolution,
                (14, value) => {
                    if let Some(bytes) = value.first_chunk::<8>() {
                        clock.offset = match self.big {
                            true => i64::from_be_bytes(*bytes),
                            false => i64::from_le_bytes(*bytes),
                        };
                    }
                }
                _ => {}
            }
            let step = 4 + len.next_multiple_of(4);
            options = options.get(step..).unwrap_or_default();
        }
        self.interfaces.push(Interface {
            link_type: half(body, 0, self.big),
            snap: word(body, 4, self.big),
            clock,
            tick: clock.tick(),
        });
        Ok(())
    }

    /// An enhanced packet block, or the obsolete one, whose interface has 16
    /// bits only.
    fn packet(&self, body: &[u8], old: bool) -> Result<Place, PcapErrorKind> {
        const FIXED: usize = 20;
        need(body, FIXED, "a packet block")?;
        let id = match old {
            true => u32::from(half(body, 0, self.big)),
            false => word(body, 0, self.big),
        };
        let interface = self.at(id)?;
        let word = |at| word(body, at, self.big);
        let ticks = u64::from(word(4)) << 32 | u64::from(word(8));
        let captured = word(12) as usize;
        fits(captured, body.len() - FIXED)?;
        Ok(Place {
            time_ns: interface.clock.nanoseconds(ticks),
            start: FIXED,
            captured,
            len: word(16),
            link_type: interface.link_type,
            interface: id,
        })
    }

    /// A packet without time, of the first interface.
    fn simple(&self, body: &[u8]) -> Result<Place, PcapErrorKind> {
        const FIXED: usize = 4;
        need(body, FIXED, "a simple packet block")?;
        let interface = self.at(0)?;
        let len = word(body, 0, self.big);
        let captured = match interface.snap {
            0 => len,
            snap => len.min(snap),
        };
        fits(captured as usize, body.len() - FIXED)?;
        Ok(Place {
            time_ns: 0,
            start: FIXED,
            captured: captured as usize,
            len,
            link_type: interface.link_type,
            interface: 0,
        })
    }

    fn at(&self, id: u32) -> Result<&Interface, PcapErrorKind> {
        let known = self.interfaces.len();
        self.interfaces
            .get(id as usize)
            .ok_or(PcapErrorKind::Interface { id, known })
    }
}

impl Clock {
    /// Nanoseconds in a tick, if times are just so many ticks.
    fn tick(self) -> Option<NonZeroU32> {
        let exponent = 9u32.checked_sub(self.resolution.into())?;
        let tick = NonZeroU32::new(10u32.pow(exponent))?;
        (self.offset == 0).then_some(tick)
    }

    fn nanoseconds(self, ticks: u64) -> u64 {
        let wide = u128::from(ticks) * 1_000_000_000;
        let exponent = u32::from(self.resolution & 0x7f);
        let ns = match self.resolution & 0x80 {
            // 94 bits at most, shifted by at most 127.
            0x80 => wide >> exponent,
            // A power that does not fit is larger than any number of ticks.
            _ => 10u128.checked_pow(exponent).map_or(0, |unit| wide / unit),
        };
        let ns = i128::try_from(ns).unwrap_or(i128::MAX);
        let ns = ns.saturating_add(i128::from(self.offset) * 1_000_000_000);
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }
}

fn section(body: &[u8], big: bool) -> Result<(), PcapErrorKind> {
    need(body, 16, "a section block")?;
    let (major, minor) = (half(body, 4, big), half(body, 6, big));
    if major != 1 {
        return Err(PcapErrorKind::Version { major, minor });
    }
    Ok(())
}

/// Goes over a block without holding it.
fn skip<R: Read>(input: &mut Input<R>, len: usize) -> Result<(), PcapError> {
    let mut left = len;
    while left > 0 {
        let n = left.min(64 << 10);
        input.exactly(n, "a block")?;
        input.take(n);
        left -= n;
    }
    Ok(())
}

fn need(body: &[u8], need: usize, what: &'static str) -> Result<(), PcapErrorKind> {
    let have = body.len();
    if have < need {
        return Err(PcapErrorKind::Truncated { what, need, have });
    }
    Ok(())
}

fn fits(captured: usize, room: usize) -> Result<(), PcapErrorKind> {
    let max = room.min(MAX_RECORD);
    if captured > max {
        return Err(PcapErrorKind::Length {
            what: "a packet",
            len: captured as u64,
            min: 0,
            max: max as u64,
        });
    }
    Ok(())
}

/// The 16-bit word at `at`, which callers have checked to be there.
fn half(bytes: &[u8], at: usize, big: bool) -> u16 {
    let bytes = bytes
        .get(at..)
        .and_then(|b| b.first_chunk::<2>())
        .copied()
        .unwrap_or_default();
    match big {
        true => u16::from_be_bytes(bytes),
        false => u16::from_le_bytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_of_all_kinds() {
        let at = |resolution, offset, ticks| Clock { resolution, offset }.nanoseconds(ticks);
        assert_eq!(at(6, 0, 5), 5_000);
        assert_eq!(at(9, 0, 5), 5);
        assert_eq!(at(0, 0, 5), 5_000_000_000);
        assert_eq!(at(12, 0, 5_999), 5);
        assert_eq!(at(0x80 | 10, 0, 512), 500_000_000);
        assert_eq!(at(6, 3, 1), 3_000_001_000);
        assert_eq!(at(6, -3, 1), 0, "before 1970");
        assert_eq!(at(127, 0, u64::MAX), 0);
        assert_eq!(at(0xff, 0, u64::MAX), 0);
        assert_eq!(at(0, i64::MAX, u64::MAX), u64::MAX);
        for (resolution, offset, tick) in [
            (9, 0, Some(1)),
            (6, 0, Some(1000)),
            (0, 0, Some(1_000_000_000)),
            (10, 0, None),
            (6, 1, None),
            (0x80 | 6, 0, None),
        ] {
            let clock = Clock { resolution, offset };
            assert_eq!(clock.tick().map(NonZeroU32::get), tick, "{clock:?}");
            if tick.is_some() {
                let ns = clock.nanoseconds(7);
                assert_eq!(tick.map(|t| u64::from(t) * 7), Some(ns));
            }
        }
    }
}
