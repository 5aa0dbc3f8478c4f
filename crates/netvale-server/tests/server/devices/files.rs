//! Capture files as devices.

use netvale_backends::pcap::{Format, Reader, Writer, WriterConfig};
use netvale_testkit::{PATIENCE, TempDir, eventually};
use netvale_wire::proto::{ErrorKind, Reply};
use rustix::fs::{CWD, Mode, mkfifoat};

use super::{attach, plain, receive, send};
use crate::bed::Bed;

#[test]
fn a_replay_is_exact_and_so_is_what_is_written() {
    let dir = TempDir::new();
    let [input, output] = ["in.pcap", "out.pcapng"].map(|f| dir.path().join(f));
    let frames: Vec<Vec<u8>> = (0..200u8)
        .map(|i| plain(i, 60 + usize::from(i) * 37))
        .collect();
    let config = WriterConfig {
        format: Format::Classic,
        ..WriterConfig::default()
    };
    let mut writer = Writer::create(&input, config).unwrap();
    for (i, f) in (0u64..).zip(&frames) {
        writer.write(i * 1_000_000, &[f], 0).unwrap();
    }
    writer.finish().unwrap();

    let bed = Bed::new();
    let ask = |spec: String| bed.connect().ask(&attach(&spec, false)).unwrap().0;
    ask(format!("vale0:pcap:{},write", output.display()));
    let ns = netvale::Namespace::at(&bed.dir).unwrap().no_spawn();
    let mut port = ns.open("vale0:p").unwrap();
    let start = std::time::Instant::now();
    ask(format!("vale0:pcap:{},speed=2", input.display()));
    for f in &frames {
        let got = receive(&mut port, 0, |_| true);
        assert!(got == *f, "frame {}", f[20]);
    }
    let time = start.elapsed();
    assert!(
        time.as_millis() >= 95,
        "199 ms at twice the speed: {time:?}"
    );
    send(&mut port, 0, &plain(201, 100));
    let read = || {
        let mut reader = Reader::open(&output).ok()?;
        let mut all = Vec::new();
        while let Ok(Some(record)) = reader.next_record() {
            all.push(record.data.to_vec());
        }
        Some(all)
    };
    eventually("everything is in the file", || {
        read().is_some_and(|all| all.len() == frames.len() + 1)
    });
    let all = read().unwrap();
    assert!(all[..frames.len()] == frames);
    assert_eq!(all[frames.len()], plain(201, 100));
    let names: Vec<String> = bed.ports().into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["vale0:out", "vale0:p", "vale0:in"]);
    drop(port);
    bed.assert_sound();
}

#[test]
fn a_series_of_files_is_written_and_the_newest_stay() {
    let dir = TempDir::new();
    let input = dir.path().join("in.pcapng");
    let mut writer = Writer::create(&input, WriterConfig::default()).unwrap();
    // The last one was cut by the capture: what was kept of it is sent.
    let cut = plain(3, 99);
    for _ in 0..2000 {
        writer.write(0, &[&plain(1, 1500)], 0).unwrap();
    }
    writer.write(0, &[&cut], 5000).unwrap();
    writer.finish().unwrap();
    let bed = Bed::new();
    let ask = |spec: String| bed.connect().ask(&attach(&spec, false)).unwrap().0;
    let output = dir.path().join("out.pcapng");
    let write = format!("vale0:pcap:{},write,rotate=1,files=2", output.display());
    ask(write);
    // Slow enough for a writer: a switch does not wait for it.
    ask(format!("vale0:pcap:{}", input.display()));
    let frames = |n: u32| {
        let file = dir.path().join(format!("out-{n:05}.pcapng"));
        let mut reader = Reader::open(file).ok()?;
        let mut all = Vec::new();
        while let Ok(Some(record)) = reader.next_record() {
            all.push(record.data.to_vec());
        }
        Some(all)
    };
    let stats = || {
        let ns = netvale::Namespace::at(&bed.dir).unwrap().no_spawn();
        let all = ns.stats(Some("vale0:out")).unwrap();
        (all[0].rx_frames, all[0].dropped("rx_full"))
    };
    eventually("all have come, or were counted", || {
        let (here, lost) = stats();
        here + lost == 2001
    });
    let (here, _) = stats();
    // 1532 bytes each in the file, so every file but the last has 685.
    let last = u32::try_from(here.div_ceil(685)).unwrap();
    eventually("the last file is whole", || {
        let all = frames(last).unwrap_or_default();
        all.len() as u64 == here - 685 * u64::from(last - 1)
    });
    assert_eq!(frames(last - 1).unwrap().len(), 685);
    assert!(frames(last).unwrap().last() == Some(&cut));
    assert_eq!(frames(last - 2), None, "only two stay");
    bed.assert_sound();
}

#[test]
fn a_program_opens_a_capture() {
    let dir = TempDir::new();
    let input = dir.path().join("in.pcap");
    let mut writer = Writer::create(&input, WriterConfig::default()).unwrap();
    for i in 0..50u8 {
        writer.write(u64::from(i), &[&plain(i, 100)], 0).unwrap();
    }
    writer.finish().unwrap();
    let bed = Bed::new();
    let ns = netvale::Namespace::at(&bed.dir).unwrap().no_spawn();
    let name = format!("pcap:{},speed=max", input.display());
    for _ in 0..3 {
        let mut port = ns.open(&name).unwrap();
        for i in 0..50u8 {
            assert!(receive(&mut port, 0, |_| true) == plain(i, 100), "{i}");
        }
        let nothing = port.wait_rx(Some(std::time::Duration::from_millis(20)));
        assert!(!nothing.unwrap(), "the capture is over");
        let all = ns.stats(None).unwrap();
        let names: Vec<String> = all.into_iter().map(|s| s.name).collect();
        assert_eq!(
            names,
            bed.ports().into_iter().map(|p| p.name).collect::<Vec<_>>()
        );
        drop(port);
        eventually("it is closed", || bed.ports().is_empty());
    }
    bed.assert_sound();
    assert!(PATIENCE > std::time::Duration::ZERO);
}

#[test]
fn files_that_are_none_are_refused() {
    let dir = TempDir::new();
    let text = dir.path().join("text");
    std::fs::write(&text, "no capture at all, but long enough for a header").unwrap();
    let bed = Bed::new();
    let refused = |spec: &str| match bed.connect().ask(&attach(spec, false)).unwrap().0 {
        Reply::Error { kind, .. } => kind,
        other => panic!("{spec}: {other:?}"),
    };
    let at = |file: &str| format!("vale0:pcap:{}", dir.path().join(file).display());
    assert_eq!(refused(&at("text")), ErrorKind::Invalid);
    assert_eq!(refused(&at("nothing")), ErrorKind::NotFound);
    assert_eq!(refused("vale0:pcap:relative"), ErrorKind::Invalid);
    assert_eq!(refused(&at("text,speed=0")), ErrorKind::Invalid);
    assert!(bed.ports().is_empty());
}

#[test]
fn nobody_waits_for_the_other_end_of_a_pipe() {
    let dir = TempDir::new();
    let [pipe, first] = ["pipe", "out-00001.pcap"].map(|name| {
        let path = dir.path().join(name);
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        path
    });
    let bed = Bed::new();
    let refused = || {
        for what in ["pipe", "pipe,write", "out.pcap,write,rotate=1"] {
            let spec = format!("vale0:pcap:{}", dir.path().join(what).display());
            match bed.connect().ask(&attach(&spec, false)).unwrap().0 {
                Reply::Error {
                    kind,
                    message,
                    hint,
                } => {
                    assert_eq!(kind, ErrorKind::Invalid, "{what}: {message}");
                    assert!(hint.unwrap().contains("netvale capture"), "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    };
    // Whoever did wait would get what he waits for.
    let mut ends = [pipe, first].map(|path| {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).open(path).unwrap()
    });
    let mut writer = Writer::new(&mut ends[0], "pipe", WriterConfig::default()).unwrap();
    writer.write(0, &[&plain(1, 60)], 0).unwrap();
    writer.finish().unwrap();
    refused();
    drop(ends);
    refused();
    assert!(bed.ports().is_empty());
}
