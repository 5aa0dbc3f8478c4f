use std::io::{Cursor, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use netvale_backends::batch::Batch;
use netvale_backends::pcap::{
    ETHERNET, Format, Pace, PcapError, PcapErrorKind, Reader, Replay, RotatingWriter, Rotation,
    Times, Writer, WriterConfig,
};
use netvale_testkit::{TempDir, skip};
use proptest::prelude::*;

use crate::common::{pool, put};

const FORMATS: [Format; 3] = [Format::Classic, Format::ClassicNano, Format::Ng];
const START: u64 = 1_700_000_000_123_456_000;

/// A source that gives a byte at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = into.len().min(1);
        self.0.read(&mut into[..n])
    }
}

/// A record that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owned {
    time_ns: u64,
    data: Vec<u8>,
    len: u32,
}

fn records() -> Vec<Owned> {
    (0..50u8)
        .map(|i| Owned {
            time_ns: START + u64::from(i) * 1_234_000,
            data: vec![i; 14 + 31 * usize::from(i)],
            len: 14 + 31 * u32::from(i),
        })
        .collect()
}

fn written(format: Format, records: &[Owned]) -> Vec<u8> {
    let config = WriterConfig {
        format,
        ..WriterConfig::default()
    };
    let mut writer = Writer::new(Vec::new(), "memory", config).unwrap();
    for r in records {
        let (a, b) = r.data.split_at(r.data.len() / 3);
        writer.write(r.time_ns, &[a, b], r.len).unwrap();
    }
    assert_eq!(writer.records(), records.len() as u64);
    let bytes = writer.bytes();
    let file = writer.finish().unwrap().unwrap();
    assert_eq!(file.len() as u64, bytes);
    file
}

fn read(file: impl Read) -> Result<Vec<Owned>, (Vec<Owned>, PcapError)> {
    let mut all = Vec::new();
    let mut reader = Reader::new(file, "memory").map_err(|e| (Vec::new(), e))?;
    loop {
        match reader.next_record() {
            Ok(Some(r)) => all.push(Owned {
                time_ns: r.time_ns,
                data: r.data.to_vec(),
                len: r.len,
            }),
            Ok(None) => return Ok(all),
            Err(e) => return Err((all, e)),
        }
    }
}

/// A source that gives few bytes at a time, as a pipe may.
struct Drip<'a>(&'a [u8], usize);

impl Read for Drip<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.1.min(buf.len());
        self.0.read(&mut buf[..n])
    }
}

/// The same file in the other byte order.
fn swapped(file: &[u8]) -> Vec<u8> {
    fn swap32(out: &mut [u8], at: usize) {
        out[at..at + 4].reverse();
    }
    let mut out = file.to_vec();
    if file.starts_with(&0x0a0d_0d0au32.to_le_bytes()) {
        let mut at = 0;
        while at < file.len() {
            let len = u32::from_le_bytes(file[at + 4..at + 8].try_into().unwrap()) as usize;
            let kind = file[at];
            swap32(&mut out, at);
            swap32(&mut out, at + 4);
            swap32(&mut out, at + len - 4);
            match kind {
                0x0a => {
                    swap32(&mut out, at + 8);
                    out[at + 12..at + 14].reverse();
                    out[at + 14..at + 16].reverse();
                }
                1 => {
                    out[at + 8..at + 10].reverse();
                    swap32(&mut out, at + 12);
                    // Options begin at 16: code 9, length 1, value, end.
                    out[at + 16..at + 24].copy_from_slice(&[0, 9, 0, 1, 9, 0, 0, 0]);
                }
                _ => (8..28).step_by(4).for_each(|w| swap32(&mut out, at + w)),
            }
            at += len;
        }
        return out;
    }
    swap32(&mut out, 0);
    out[4..6].reverse();
    out[6..8].reverse();
    (8..24).step_by(4).for_each(|w| swap32(&mut out, w));
    let mut at = 24;
    while at < file.len() {
        let len = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
        (0..16).step_by(4).for_each(|w| swap32(&mut out, at + w));
        at += 16 + len;
    }
    out
}

#[test]
fn what_is_written_is_read_in_all_formats_and_byte_orders() {
    for format in FORMATS {
        let file = written(format, &records());
        assert_eq!(read(&file[..]).unwrap(), records(), "{format:?}");
        for drip in [1, 7, 4096] {
            assert_eq!(read(Drip(&file, drip)).unwrap(), records(), "{drip}");
        }
        let other = swapped(&file);
        assert_ne!(other, file);
        assert_eq!(read(&other[..]).unwrap(), records(), "{format:?} swapped");
        if format == Format::Ng {
            // Sections of both kinds in one file.
            let both = [&file[..], &other].concat();
            assert_eq!(read(&both[..]).unwrap(), [records(), records()].concat());
        }
        let empty = written(format, &[]);
        assert_eq!(read(&empty[..]).unwrap(), []);
    }
}

#[test]
fn losses_are_written_where_readers_look() {
    use pcap_file::pcapng::Block;
    use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption as Stat;
    for format in [Format::Ng, Format::Classic] {
        let config = WriterConfig {
            format,
            ..WriterConfig::default()
        };
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, "x", config).unwrap();
        writer.write(7, &[&[1; 60]], 60).unwrap();
        writer.statistics(5_000_000_000, 1, 1 << 33).unwrap();
        let bytes = writer.bytes();
        writer.finish().unwrap();
        assert_eq!(file.len() as u64, bytes);
        let mut reader = Reader::new(&file[..], "x").unwrap();
        assert!(reader.next_record().unwrap().is_some());
        assert!(reader.next_record().unwrap().is_none(), "{format:?}");
        if format != Format::Ng {
            continue;
        }
        let mut theirs = pcap_file::pcapng::PcapNgReader::new(&file[..]).unwrap();
        let mut last = None;
        while let Some(block) = theirs.next_block() {
            last = Some(block.unwrap().into_owned());
        }
        let Some(Block::InterfaceStatistics(block)) = last else {
            panic!("{last:?}");
        };
        // They take the upper half, which comes first, for the lower one.
        assert_eq!(block.timestamp.rotate_left(32), 5_000_000_000);
        let want = [Stat::IsbIfRecv(1), Stat::IsbIfDrop(1 << 33)];
        assert_eq!(block.options, want);
    }
}

#[test]
fn others_read_what_we_write_and_we_what_they_write() {
    for format in [Format::Classic, Format::ClassicNano] {
        let file = written(format, &records());
        let mut theirs = pcap_file::pcap::PcapReader::new(&file[..]).unwrap();
        let mut n = 0;
        while let Some(packet) = theirs.next_packet() {
            let packet = packet.unwrap();
            let wanted = &records()[n];
            assert_eq!(packet.timestamp, Duration::from_nanos(wanted.time_ns));
            assert_eq!(
                (&*packet.data, packet.orig_len),
                (&wanted.data[..], wanted.len)
            );
            n += 1;
        }
        assert_eq!(n, 50);
    }
    let file = written(Format::Ng, &records());
    let mut theirs = pcap_file::pcapng::PcapNgReader::new(&file[..]).unwrap();
    let mut n = 0;
    while let Some(block) = theirs.next_block() {
        if let pcap_file::pcapng::Block::EnhancedPacket(p) = block.unwrap() {
            assert_eq!(
                (&*p.data, p.original_len),
                (&records()[n].data[..], records()[n].len)
            );
            n += 1;
        }
    }
    assert_eq!(n, 50);

    // Theirs: two interfaces with other clocks, a simple packet, a comment.
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::{
        InterfaceDescriptionBlock, InterfaceDescriptionOption,
    };
    use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    let mut interface = InterfaceDescriptionBlock::new(pcap_file::DataLink::ETHERNET, 4096);
    interface.options = vec![InterfaceDescriptionOption::IfName("eth0".into())];
    writer.write_pcapng_block(interface.clone()).unwrap();
    interface.linktype = pcap_file::DataLink::RAW;
    writer.write_pcapng_block(interface).unwrap();
    let data = vec![7; 61];
    for id in [1, 0] {
        let packet = EnhancedPacketBlock {
            interface_id: id,
            timestamp: Duration::from_nanos(5_000_000),
            original_len: 70,
            data: (&data[..]).into(),
            options: vec![],
        };
        writer.write_pcapng_block(packet).unwrap();
    }
    let simple = SimplePacketBlock {
        original_len: 61,
        data: (&data[..]).into(),
    };
    writer.write_pcapng_block(simple).unwrap();
    let file = writer.into_inner();
    let mut reader = Reader::new(&file[..], "theirs").unwrap();
    let mut seen = Vec::new();
    while let Some(r) = reader.next_record().unwrap() {
        assert_eq!(r.data, data);
        seen.push((r.interface, r.link_type, r.len));
    }
    assert_eq!(seen, [(1, 101, 70), (0, ETHERNET, 70), (0, ETHERNET, 61)]);
}

#[test]
fn tcpdump_reads_what_we_write() {
    if Command::new("tcpdump").arg("--version").output().is_err() {
        skip(
            "pcap::tcpdump_reads_what_we_write",
            "needs the program tcpdump",
        );
        return;
    }
    let dir = TempDir::new();
    for format in FORMATS {
        let path = dir.path().join("trace.pcap");
        std::fs::write(&path, written(format, &records())).unwrap();
        let out = Command::new("tcpdump")
            .args(["-r", path.to_str().unwrap(), "-nn", "-tt", "-xx"])
            .env("TZ", "UTC")
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert!(out.status.success());
        let text = String::from_utf8(out.stdout).unwrap();
        let packets = text.lines().filter(|l| l.starts_with("17000000")).count();
        assert_eq!(packets, 50, "{format:?}: {text}");
        assert!(text.contains("1700000000.123456"), "{text}");
        assert!(text.contains("0x0000:  3131 3131"), "{text}");
    }
}

#[test]
fn a_file_that_is_cut_gives_what_is_whole_and_says_where() {
    for format in FORMATS {
        let some = &records()[..4];
        let file = written(format, some);
        let mut before = 0;
        for cut in 0..file.len() {
            match read(&file[..cut]) {
                Ok(all) => {
                    // Only at the end of a record.
                    assert_eq!(all, some[..all.len()], "{format:?} at {cut}");
                    assert!(all.len() >= before);
                    before = all.len();
                }
                Err((all, e)) => {
                    assert_eq!(all, some[..all.len()], "{format:?} at {cut}");
                    assert!(e.offset <= cut as u64, "{e}");
                    assert!(
                        matches!(e.kind, PcapErrorKind::Truncated { .. }),
                        "{format:?} at {cut}: {e}"
                    );
                }
            }
        }
        assert_eq!(before, 3, "the file without its last record");
    }
}

#[test]
fn nonsense_is_named_with_its_place() {
    let error = |file: &[u8]| read(file).unwrap_err().1.to_string();
    assert!(error(b"GIF89a..").contains("no capture file (it begins with 47494638)"));
    let mut file = written(Format::Classic, &records()[..2]);
    file[4] = 9;
    assert!(error(&file).contains("version 9.4"));
    let mut file = written(Format::Classic, &records()[..2]);
    let second = 24 + 16 + 14;
    file[second + 8..second + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    let e = error(&file);
    assert!(e.contains("byte 54: a record of 4294967295 bytes"), "{e}");

    let ng = written(Format::Ng, &records()[..2]);
    let at = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = ng.clone();
        change(&mut file);
        error(&file)
    };
    let e = at(&|f| f[8] = 0);
    assert!(e.contains("byte 0: a section has byte order mark"), "{e}");
    let e = at(&|f| f[60 + 8] = 3);
    assert!(
        e.contains("byte 60: a packet of interface 3, but only 1"),
        "{e}"
    );
    let e = at(&|f| f[60 + 4] = 7);
    assert!(e.contains("byte 60: a block"), "{e}");
    let e = at(&|f| f[60 + 20] = 0xff);
    assert!(e.contains("a packet of 255 bytes"), "{e}");
    let e = at(&|f| {
        let end = f.len() - 1;
        f[end] = 1;
    });
    assert!(e.contains("ends with length"), "{e}");
    let e = at(&|f| f[28 + 18] = 0xff);
    assert!(e.contains("option"), "{e}");

    let missing = Reader::open("/nonexistent/trace.pcap").unwrap_err();
    assert!(missing.to_string().contains("cannot open it"), "{missing}");
    let never = Writer::create("/nonexistent/trace.pcap", WriterConfig::default());
    assert!(never.unwrap_err().to_string().contains("cannot create it"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        format in 0usize..3,
        changes in proptest::collection::vec((0usize..800, any::<u8>()), 1..20),
        cut in 0usize..900,
    ) {
        let mut file = written(FORMATS[format], &records()[..6]);
        for (at, byte) in changes {
            let at = at % file.len();
            file[at] = byte;
        }
        file.truncate(cut.max(4));
        // Whatever comes out is bounded by what went in.
        let all = read(&file[..]).unwrap_or_else(|(all, _)| all);
        prop_assert!(all.iter().map(|r| r.data.len()).sum::<usize>() <= file.len());
    }

    #[test]
    fn noise_behind_a_header_is_read_or_refused(
        format in 0usize..3,
        noise in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut file = written(FORMATS[format], &[]);
        let header = file.len();
        file.extend(noise);
        let all = read(&file[..]).unwrap_or_else(|(all, _)| all);
        prop_assert!(all.iter().map(|r| r.data.len()).sum::<usize>() <= file.len() - header);
    }

    #[test]
    fn what_is_read_does_not_depend_on_how_it_arrives(
        format in 0usize..3,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut file = written(FORMATS[format], &records()[..3]);
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len() + 1));
        }
        let told = |r: Result<Vec<Owned>, (Vec<Owned>, PcapError)>| match r {
            Ok(all) => (all, String::new()),
            Err((all, e)) => (all, e.to_string()),
        };
        // Byte by byte nothing but what is needed is there ahead.
        prop_assert_eq!(told(read(&file[..])), told(read(Trickle(&file))));
    }

    #[test]
    fn records_survive(
        format in 0usize..3,
        list in proptest::collection::vec((any::<u32>(), 0u32..999_999, 0usize..3000), 0..20),
    ) {
        let list: Vec<Owned> = list
            .into_iter()
            .map(|(s, us, len)| Owned {
                time_ns: u64::from(s) * 1_000_000_000 + u64::from(us) * 1000,
                data: (0..len).map(|i| i.to_le_bytes()[0]).collect(),
                len: u32::try_from(len).unwrap() + us % 3,
            })
            .collect();
        prop_assert_eq!(read(&written(FORMATS[format], &list)[..]).unwrap(), list);
    }
}

#[test]
fn frames_are_cut_to_the_snap_length() {
    let (pool, mut batch) = (pool(8), Batch::new());
    let long: Vec<u8> = (0..5000u32).map(|i| i.to_le_bytes()[0]).collect();
    put(&mut batch, &pool, 0, &long);
    for (format, snap) in [
        (Format::Ng, 4097),
        (Format::Classic, 33),
        (Format::Ng, 9000),
    ] {
        let config = WriterConfig {
            format,
            snap,
            link_type: ETHERNET,
        };
        let mut writer = Writer::new(Vec::new(), "memory", config).unwrap();
        writer.write_frame(START, &pool, &batch, 0).unwrap();
        writer
            .write(START, &[&long[..20], &long[20..]], 6000)
            .unwrap();
        let file = writer.finish().unwrap().unwrap();
        let all = read(&file[..]).unwrap();
        let kept = long.len().min(snap as usize);
        assert_eq!((&all[0].data[..], all[0].len), (&long[..kept], 5000));
        assert_eq!((&all[1].data[..], all[1].len), (&long[..kept], 6000));
    }
}

#[test]
fn a_series_of_files_begins_anew_by_size_count_and_time() {
    let dir = TempDir::new();
    let path = dir.path().join("trace.pcap");
    let config = WriterConfig::default();
    let write = |rotation: Rotation| {
        let mut writer = RotatingWriter::create(&path, config, rotation).unwrap();
        for r in records() {
            writer.write(r.time_ns, &[&r.data], r.len).unwrap();
        }
        writer.flush().unwrap();
        let files: Vec<_> = writer.files().map(|f| f.to_owned()).collect();
        drop(writer);
        let parts: Vec<Vec<Owned>> = files
            .iter()
            .map(|f| read(std::fs::File::open(f).unwrap()).unwrap())
            .collect();
        let here = std::fs::read_dir(dir.path()).unwrap().count();
        for f in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::remove_file(f.unwrap().path()).unwrap();
        }
        assert_eq!(here, parts.len(), "no others");
        (files, parts)
    };
    let (files, parts) = write(Rotation {
        records: Some(20),
        ..Rotation::default()
    });
    assert_eq!(files[0], dir.path().join("trace-00001.pcap"));
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [20, 20, 10]);
    assert_eq!(parts.concat(), records());
    let (_, parts) = write(Rotation {
        bytes: Some(10_000),
        ..Rotation::default()
    });
    assert!(parts.len() > 3);
    assert_eq!(parts.concat(), records());
    for part in &parts {
        let bytes: usize = part.iter().map(|r| r.data.len() + 35).sum();
        assert!(bytes < 10_000 + 1600, "{bytes}");
    }
    let (files, parts) = write(Rotation {
        span: Some(Duration::from_micros(1_234 * 9)),
        keep: Some(2),
        ..Rotation::default()
    });
    assert_eq!(files[1], dir.path().join("trace-00005.pcap"));
    assert_eq!(parts.concat(), records()[30..], "the older ones are gone");
    let (_, parts) = write(Rotation::default());
    assert_eq!(parts.len(), 1);
}

#[test]
fn pipes_carry_captures() {
    let (reader, writer) = std::io::pipe().unwrap();
    let reading = std::thread::spawn(move || read(reader).unwrap());
    let mut writer = Writer::new(writer, "pipe", WriterConfig::default()).unwrap();
    for r in records() {
        writer.write(r.time_ns, &[&r.data], r.len).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(reading.join().unwrap(), records());

    // A reader that has gone is an error, not a signal.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let refused = Writer::new(writer, "pipe", WriterConfig::default());
    let e = refused.unwrap_err();
    assert!(
        e.to_string()
            .contains("capture pipe, byte 0: cannot write it"),
        "{e}"
    );
}

/// Takes so many bytes and no more.
struct Full(Vec<u8>, usize);

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = (self.1 - self.0.len()).min(bytes.len());
        self.0.extend(&bytes[..room]);
        match room {
            0 => Err(std::io::ErrorKind::StorageFull.into()),
            n => Ok(n),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_does_not_fit_is_counted_and_its_place_is_told() {
    for format in [Format::Classic, Format::ClassicNano, Format::Ng] {
        let config = WriterConfig {
            format,
            ..WriterConfig::default()
        };
        let (head, record) = match format {
            Format::Ng => (60, 32 + 60),
            _ => (24, 16 + 60),
        };
        // Some bytes of the fourth record fit.
        let mut full = Full(Vec::new(), head + 3 * record + 50);
        let mut writer = Writer::new(&mut full, "full", config).unwrap();
        for i in 0..10 {
            writer.write(START + i, &[&[7; 60]], 0).unwrap();
        }
        let e = writer.flush().unwrap_err();
        assert_eq!(e.offset, (head + 3 * record) as u64, "{e}");
        assert_eq!((writer.records(), writer.lost()), (3, 7));
        // Behind a part of a record nothing can be read.
        writer.write(START, &[&[7; 60]], 0).unwrap();
        writer.flush().unwrap_err();
        assert_eq!((writer.records(), writer.lost()), (3, 8));
        drop(writer);
        assert_eq!(full.0.len(), full.1);
    }
}

/// Due times, in microseconds after the start.
fn due(times_us: &[u64], pace: Pace, times: Times, most: usize) -> Vec<u64> {
    let list: Vec<Owned> = times_us
        .iter()
        .map(|us| Owned {
            time_ns: START + us * 1000,
            data: vec![1; 60],
            len: 60,
        })
        .collect();
    let file = written(Format::Ng, &list);
    let reader = Reader::new(Cursor::new(file), "memory").unwrap();
    let mut replay = Replay::new(reader, pace, times);
    assert!(replay.record().is_none());
    let mut all = Vec::new();
    while all.len() < most && replay.advance().unwrap() {
        assert_eq!(replay.record().unwrap().data.len(), 60);
        all.push(u64::try_from(replay.due().as_micros()).unwrap());
    }
    all
}

#[test]
fn replays_keep_the_time_between_records() {
    let once = Times::Count(1);
    let as_captured = Pace::Times(1.0);
    assert_eq!(due(&[0, 10, 400], as_captured, once, 9), [0, 10, 400]);
    assert_eq!(due(&[0, 10, 400], Pace::Times(2.0), once, 9), [0, 5, 200]);
    assert_eq!(due(&[0, 10, 400], Pace::Times(0.5), once, 9), [0, 20, 800]);
    for at_once in [
        Pace::AtOnce,
        Pace::Times(0.0),
        Pace::Times(f64::NAN),
        Pace::Times(-1.0),
    ] {
        assert_eq!(due(&[0, 10, 400], at_once, once, 9), [0, 0, 0]);
    }
    // A step back is due at once, what follows is measured from the furthest.
    let steps = [100, 200, 50, 150, 300];
    assert_eq!(due(&steps, as_captured, once, 9), [0, 100, 100, 100, 200]);
    // Rounds are as far apart as the last two records.
    let twice = due(&[7, 17, 47], as_captured, Times::Count(2), 9);
    assert_eq!(twice, [0, 10, 40, 70, 80, 110]);
    let forever = due(&[7, 17], as_captured, Times::Forever, 5);
    assert_eq!(forever, [0, 10, 20, 30, 40]);
    assert_eq!(due(&[5], as_captured, Times::Forever, 3), [0, 0, 0]);
    assert_eq!(due(&[], as_captured, Times::Forever, 3), [0; 0], "it ends");
    assert_eq!(due(&[1], as_captured, Times::Count(0), 3), [0; 0]);
}

#[test]
fn what_is_wrong_is_said_once() {
    for e in [
        Reader::new(&b"\x0a\x0d"[..], "a").unwrap_err(),
        Reader::new(&[7; 64][..], "b").unwrap_err(),
        Reader::open("/nowhere/c").unwrap_err(),
    ] {
        let mut all = e.to_string();
        let mut next = std::error::Error::source(&e);
        while let Some(e) = next {
            let why = e.to_string();
            assert!(!all.contains(&why), "{all}: {why}");
            all = format!("{all}: {why}");
            next = e.source();
        }
    }
}
