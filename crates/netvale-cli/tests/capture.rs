//! Captures of ports, to files and pipes, and Wireshark's questions.
#![forbid(unsafe_code)]

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use netvale::{Namespace, Port};
    use netvale_testkit::Place;
    use netvale_testkit::eventually;

    use super::common::frames_of;

    const BIN: &str = env!("CARGO_BIN_EXE_netvale");

    fn frame(i: u8) -> Vec<u8> {
        let mut f = vec![0xff; 6];
        f.extend([2, 0, 0, 0, 0, i, 0x88, 0xb5]);
        f.resize(60 + usize::from(i), i);
        f
    }

    fn read_ng(mut from: impl Read) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        frames_of(&bytes)
    }

    fn capture(ns: &Path, args: &[&str]) -> Child {
        Command::new(BIN)
            .arg("capture")
            .args(args)
            .env("NETVALE_NS", ns)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn monitors(ns: &Namespace) -> usize {
        let ports = ns.list().unwrap();
        ports.iter().filter(|p| p.kind == "monitor").count()
    }

    fn send(port: &mut Port, range: std::ops::Range<u8>) {
        for i in range {
            port.tx(0).push(&frame(i)).unwrap();
            port.tx(0).sync().unwrap();
        }
    }

    #[test]
    fn what_a_port_sends_and_receives_is_captured_exactly() {
        let bed = Place::Trusted.up();
        let (mut a, mut b) = (
            bed.ns().open("vale0:a").unwrap(),
            bed.ns().open("vale0:b").unwrap(),
        );
        let file = bed.scratch().join("both.pcapng");
        let args = ["vale0:a", "-w", file.to_str().unwrap(), "-c", "20"];
        let mut child = capture(bed.dir(), &args);
        eventually("the monitor is there", || monitors(bed.ns()) == 1);
        send(&mut a, 0..10);
        send(&mut b, 10..20);
        assert!(child.wait().unwrap().success());
        let got = read_ng(std::fs::File::open(&file).unwrap());
        let want: Vec<_> = (0..20).map(frame).collect();
        assert_eq!(got, want);
    }

    /// Sends what is the header of the virtio-net device and then a frame.
    fn send_after_header(port: &mut Port, frame: &[u8]) {
        let mut all = vec![0; 12];
        all.extend_from_slice(frame);
        port.tx(0).push(&all).unwrap();
        port.tx(0).sync().unwrap();
    }

    #[test]
    fn frames_are_captured_without_the_ports_header() {
        for place in [Place::Trusted, Place::Isolated] {
            let bed = place.up();
            let open = |name: &str| {
                let port = bed.ns().port(name).vnet_hdr(12);
                port.isolated(place == Place::Isolated).open().unwrap()
            };
            let (mut a, mut b) = (open("vale0:a"), open("vale0:b"));
            // More than a wire carries: it is for the other side to cut.
            let long = |i| {
                let mut all = frame(i);
                all.resize(1900, 9);
                all
            };
            let (of_a, of_b) = ([frame(5), long(6)], [frame(7), long(8)]);
            let zero_copy: &[&str] = match place {
                Place::Isolated => &[],
                _ => &["--zero-copy"],
            };
            for how in [&[][..], &["-d", "rx"], &["-d", "tx"], zero_copy] {
                let file = bed.scratch().join("frames.pcapng");
                let wanted = match how {
                    ["-d", _] => "2",
                    _ => "4",
                };
                let args = ["vale0:a", "-w", file.to_str().unwrap(), "-c", wanted];
                let isolated = (place == Place::Isolated).then_some("--isolated");
                let args: Vec<_> = args.iter().chain(how).copied().chain(isolated).collect();
                let mut child = capture(bed.dir(), &args);
                eventually("the monitor is there", || monitors(bed.ns()) == 1);
                for (port, frames) in [(&mut a, &of_a), (&mut b, &of_b)] {
                    frames.iter().for_each(|f| send_after_header(port, f));
                }
                // A zero-copy monitor sees what the port is done with.
                eventually("the capture has ended", || {
                    a.rx(0).sync().unwrap();
                    while a.rx(0).next().is_some() {}
                    a.tx(0).sync().unwrap();
                    child.try_wait().unwrap().is_some()
                });
                assert!(child.wait().unwrap().success(), "{how:?}");
                let got = read_ng(std::fs::File::open(&file).unwrap());
                // The server may take two ports' frames in either order.
                let (by_a, by_b): (Vec<_>, Vec<_>) =
                    got.into_iter().partition(|frame| of_a.contains(frame));
                let want = |wanted: bool, of: &[Vec<u8>]| if wanted { of.to_vec() } else { vec![] };
                assert_eq!(by_a, want(how != ["-d", "rx"], &of_a), "{how:?}");
                assert_eq!(by_b, want(how != ["-d", "tx"], &of_b), "{how:?}");
                eventually("the monitor is gone", || monitors(bed.ns()) == 0);
            }
        }
    }

    /// What comes, until this frame has come.
    fn read_until(from: &mut impl Read, frame: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut some = [0; 4096];
        while !bytes.windows(frame.len()).any(|w| w == frame) {
            let n = from.read(&mut some).unwrap();
            assert!(n > 0, "it ended early");
            bytes.extend_from_slice(&some[..n]);
        }
        bytes
    }

    #[test]
    fn a_header_that_comes_while_capturing_is_left_out() {
        let bed = Place::Trusted.up();
        let mut a = bed.ns().open("vale0:a").unwrap();
        let args = ["vale0:a", "-w", "-", "-c", "2"];
        let mut child = capture(bed.dir(), &args);
        eventually("the monitor is there", || monitors(bed.ns()) == 1);
        send(&mut a, 1..2);
        let mut out = child.stdout.take().unwrap();
        let mut bytes = read_until(&mut out, &frame(1));
        // For so long the capture need not ask how long the header is.
        std::thread::sleep(std::time::Duration::from_millis(10));
        bed.ns().set_vnet_hdr("vale0:a", 12).unwrap();
        send_after_header(&mut a, &frame(7));
        out.read_to_end(&mut bytes).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(frames_of(&bytes), [frame(1), frame(7)]);
    }

    #[test]
    fn a_pipe_is_written_as_frames_come_and_its_end_ends_the_capture() {
        let bed = Place::Trusted.up();
        let mut a = bed.ns().open("vale0:a").unwrap();
        // 0: no end.
        let args = ["vale0:a", "-w", "-", "-d", "tx", "-c", "0"];
        let mut child = capture(bed.dir(), &args);
        eventually("the monitor is there", || monitors(bed.ns()) == 1);
        send(&mut a, 1..2);
        let mut out = child.stdout.take().unwrap();
        // Section, interface and one packet: they come without more frames.
        let bytes = read_until(&mut out, &frame(1));
        assert_eq!(frames_of(&bytes), [frame(1)]);
        drop(out);
        eventually("the capture has ended", || {
            send(&mut a, 1..2);
            child.try_wait().unwrap().is_some()
        });
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn files_rotate_and_the_oldest_go() {
        let bed = Place::Trusted.up();
        let mut a = bed.ns().open("vale0:a").unwrap();
        let file = bed.scratch().join("ring.pcap");
        let args = [
            "vale0:a",
            "-w",
            file.to_str().unwrap(),
            "-c",
            "3000",
            "--format",
            "pcap",
            "--rotate-size",
            "1",
            "--files",
            "2",
            "-d",
            "tx",
        ];
        let mut child = capture(bed.dir(), &args);
        eventually("the monitor is there", || monitors(bed.ns()) == 1);
        let long = vec![7; 1500];
        for _ in 0..3000 {
            a.tx(0).push(&long).unwrap();
            a.tx(0).sync().unwrap();
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
        eventually("3000 frames were enough", || {
            a.tx(0).push(&long).unwrap();
            a.tx(0).sync().unwrap();
            child.try_wait().unwrap().is_some()
        });
        let mut files: Vec<_> = std::fs::read_dir(bed.scratch())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.starts_with("ring"))
            .collect();
        files.sort();
        // 3000 frames of 1516 bytes: 4.3 MiB, so five files were begun.
        assert_eq!(files.len(), 2, "{files:?}");
    }

    #[test]
    fn a_port_that_is_not_open_is_a_clear_error() {
        let bed = Place::Trusted.up();
        let file = bed.scratch().join("precious.pcap");
        std::fs::write(&file, "precious").unwrap();
        let out = Command::new(BIN)
            .args(["capture", "vale0:nobody", "-w"])
            .arg(&file)
            .env("NETVALE_NS", bed.dir())
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(3));
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(text.contains("vale0:nobody"), "{text}");
        assert!(text.contains("hint: netvale ls"), "{text}");
    }

    #[test]
    fn wireshark_finds_the_ports_and_captures_one() {
        let bed = Place::Trusted.up();
        let mut a = bed.ns().open("vale0:a").unwrap();
        let tool = bed.scratch().join("netvale-extcap");
        std::os::unix::fs::symlink(BIN, &tool).unwrap();
        let ask = |args: &[&str]| {
            let out = Command::new(&tool)
                .args(args)
                .env("NETVALE_NS", bed.dir())
                .output()
                .unwrap();
            assert!(out.status.success(), "{args:?}: {out:?}");
            String::from_utf8(out.stdout).unwrap()
        };
        let list = ask(&["--extcap-interfaces", "--extcap-version=4.4"]);
        assert!(list.contains("interface {value=netvale-vale0:a}"), "{list}");
        let dlts = ask(&["--extcap-dlts", "--extcap-interface", "netvale-vale0:a"]);
        assert_eq!(dlts.trim(), "dlt {number=1}{name=EN10MB}{display=Ethernet}");
        let config = ask(&["--extcap-config", "--extcap-interface", "netvale-vale0:a"]);
        assert!(config.contains("{call=--direction}"), "{config}");

        let fifo = bed.scratch().join("fifo");
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let mut child = Command::new(&tool)
            .args(["--capture", "--extcap-interface", "netvale-vale0:a"])
            .args(["--direction", "tx", "--fifo"])
            .arg(&fifo)
            .env("NETVALE_NS", bed.dir())
            .spawn()
            .unwrap();
        let mut out = std::fs::File::open(&fifo).unwrap();
        eventually("the monitor is there", || monitors(bed.ns()) == 1);
        send(&mut a, 3..4);
        let mut bytes = Vec::new();
        let mut some = [0; 4096];
        while !bytes.windows(frame(3).len()).any(|w| w == frame(3)) {
            let n = out.read(&mut some).unwrap();
            assert!(n > 0, "it ended early");
            bytes.extend_from_slice(&some[..n]);
        }
        drop(out);
        eventually("the capture has ended", || {
            send(&mut a, 3..4);
            child.try_wait().unwrap().is_some()
        });
        assert!(child.wait().unwrap().success());
    }
}
