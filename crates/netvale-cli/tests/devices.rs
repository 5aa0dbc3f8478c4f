//! Devices by the commands that users type, in network namespaces.
#![forbid(unsafe_code)]

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::{Child, Command, Output, Stdio};
    use std::time::Duration;

    use netvale_testkit::net::NetNs;
    use netvale_testkit::{PATIENCE, TempDir, eventually};

    use super::common::frames_of;

    const A: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
    const MOMENT: Duration = Duration::from_millis(200);

    /// A server, which ends with the test.
    struct Server(Child);

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill(); // ended already if the test has done it
            let _ = self.0.wait();
        }
    }

    /// A network namespace with a server in it.
    struct Host {
        server: Server,
        ns: NetNs,
        dir: TempDir,
    }

    impl Host {
        fn new(test: &str) -> Option<Self> {
            let ns = NetNs::new(test)?;
            let dir = TempDir::new();
            let mut command = Self::command(&dir, &["server", "--foreground"]);
            command.stderr(Stdio::null());
            let server = Server(ns.enter(|| command.spawn()).unwrap());
            let host = Self { ns, dir, server };
            eventually("the server answers", || {
                host.run(&["server", "status"]).status.success()
            });
            Some(host)
        }

        fn command(dir: &TempDir, args: &[&str]) -> Command {
            let mut command = Command::new(env!("CARGO_BIN_EXE_netvale"));
            command.args(args).env("NETVALE_NS", dir.path().join("ns"));
            command
        }

        fn run(&self, args: &[&str]) -> Output {
            let mut command = Self::command(&self.dir, args);
            self.ns.enter(|| command.output()).unwrap()
        }

        /// What it printed.
        fn ok(&self, args: &[&str]) -> String {
            let out = self.run(args);
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{args:?}: {said}");
            String::from_utf8(out.stdout).unwrap()
        }

        /// How it failed.
        fn fails(&self, args: &[&str]) -> (Option<i32>, String) {
            let out = self.run(args);
            (out.status.code(), String::from_utf8(out.stderr).unwrap())
        }

        /// Gives a TAP to another namespace.
        fn hand_over(&self, tap: &str, to: &NetNs, address: Ipv4Addr) {
            let there = format!("/proc/{}/fd/{}", std::process::id(), to.as_fd().as_raw_fd());
            self.ns.ip(&format!("link set dev {tap} netns {there}"));
            to.ip(&format!("link set dev {tap} up"));
            to.ip(&format!("addr add {address}/24 dev {tap}"));
        }

        fn kill(&mut self) {
            self.server.0.kill().unwrap();
            self.server.0.wait().unwrap();
        }
    }

    #[test]
    fn a_full_disk_is_told_of_while_it_is_and_its_file_is_whole() {
        const TEST: &str = "a_full_disk_is_told_of_while_it_is_and_its_file_is_whole";
        if NetNs::new(TEST).is_none() {
            return;
        }
        let dir = TempDir::new();
        let disk = dir.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let file = disk.join("f.pcapng").display().to_string();
        // Nobody else sees the disk, and it goes with the server.
        let script = "mount -t tmpfs -o size=128k none $1 || exit 77
            head -c 64k /dev/zero >$1/other; exec $0 server --foreground";
        let mut server = Command::new("unshare");
        server.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_netvale")]);
        server.arg(&disk).env("NETVALE_NS", dir.path().join("ns"));
        let mut server = Server(server.stderr(Stdio::null()).spawn().unwrap());
        let run = |args: &[&str]| Host::command(&dir, args).output().unwrap();
        let up = || run(&["server", "status"]).status.success();
        let mut ended = None;
        eventually("the server answers, or cannot", || {
            ended = server.0.try_wait().unwrap();
            ended.is_some() || up()
        });
        if let Some(status) = ended {
            let code = status.code();
            assert!(matches!(code, Some(1 | 77)), "the server: {code:?}");
            return netvale_testkit::skip(TEST, "needs to mount a tmpfs");
        }
        let out = run(&["attach", "vale0", &format!("pcap:{file},write")]);
        assert!(out.status.success(), "{out:?}");
        let ns = netvale::Namespace::at(dir.path().join("ns"))
            .unwrap()
            .no_spawn();
        let stats = || ns.stats(Some("vale0:f")).unwrap().remove(0);
        for round in 1..=4 {
            // As many as its ring has room for.
            let out = run(&["pkt-gen", "-i", "vale0:a", "-f", "tx", "-n", "500"]);
            assert!(out.status.success(), "{out:?}");
            eventually("they have been taken", || stats().rx_frames == round * 500);
        }
        let here = std::path::Path::new("/proc").join(server.0.id().to_string());
        let here = here.join("root").join(file.trim_start_matches('/'));
        let read = || {
            let mut reader = netvale_backends::pcap::Reader::open(&here).unwrap();
            let mut all = 0;
            while let Ok(Some(_)) = reader.next_record() {
                all += 1;
            }
            all
        };
        eventually("each is in the file, or was counted", || {
            read() + stats().dropped("dev_refused") == 2000
        });
        assert!((600..720).contains(&read()), "as many as fit: {}", read());
        let mut reader = netvale_backends::pcap::Reader::open(&here).unwrap();
        for _ in 0..read() {
            reader.next_record().unwrap();
        }
        assert!(
            reader.next_record().unwrap().is_none(),
            "and no part of one"
        );
        let lost = || {
            let said = String::from_utf8(run(&["ls"]).stdout).unwrap();
            assert!(said.contains("writes "), "{said}");
            said.contains("frames are lost: No space left")
        };
        assert!(lost());
        // Room again, until that is full too.
        std::fs::remove_file(here.with_file_name("other")).unwrap();
        let before = read();
        let send = |frames: &str| {
            let out = run(&["pkt-gen", "-i", "vale0:a", "-f", "tx", "-n", frames]);
            assert!(out.status.success(), "{out:?}");
        };
        send("50");
        eventually("they are written", || read() == before + 50);
        eventually("no more are lost, it is said", || !lost());
        (0..4).for_each(|_| send("500"));
        eventually("some are again", lost);
    }

    #[test]
    fn a_devices_port_has_the_name_that_is_given() {
        let Some(host) = Host::new("a_devices_port_has_the_name_that_is_given") else {
            return;
        };
        let (long, peer) = ("enx001122334455", NetNs::make());
        host.ns.veth(long, &peer, "e0", "");
        let (code, said) = host.fails(&["attach", "vale0", long, "--host"]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("netvale attach SWITCH:PORT DEVICE"), "{said}");
        let said = host.ok(&["attach", "vale0:wire", long, "--host"]);
        assert!(said.contains("vale0:wire"), "{said}");
        host.ok(&["attach", "vale0:x", "tap:nv3"]);
        for dir in ["one", "two"] {
            std::fs::create_dir(host.dir.path().join(dir)).unwrap();
            let file = host.dir.path().join(dir).join("x.pcapng");
            let device = format!("pcap:{},write", file.display());
            host.ok(&["attach", &format!("vale0:{dir}"), &device]);
        }
        let listed = host.ok(&["ls"]);
        for name in ["wire", "wire^", "x", "one", "two"] {
            let name = format!("vale0:{name} ");
            assert!(listed.contains(&name), "{name}: {listed}");
        }
        let (code, said) = host.fails(&["attach", "vale0:x", "tap:nv4"]);
        assert_eq!(code, Some(4), "{said}");
        for name in ["vale0:x-1", "vale0:x^", "vale0:x/r", "vale0:x{1", "vale0:"] {
            let (code, said) = host.fails(&["attach", name, "tap:nv4"]);
            assert_eq!(code, Some(2), "{name}: {said}");
        }
        let (code, said) = host.fails(&["attach", "vale0"]);
        assert!(code == Some(2) && said.contains("vale0:p0"), "{said}");
        host.ok(&["newif", "p0"]);
        let (code, said) = host.fails(&["attach", "vale0:y", "p0"]);
        assert!(code == Some(2) && said.contains("keeps its name"), "{said}");
        for name in ["wire", "x", "one", "two"] {
            host.ok(&["detach", &format!("vale0:{name}")]);
        }
        assert!(!host.ok(&["ls"]).contains("vale0"));
    }

    #[test]
    fn names_of_another_network_namespace_are_refused() {
        let Some(host) = Host::new("names_of_another_network_namespace_are_refused") else {
            return;
        };
        let (there, peer) = (NetNs::make(), NetNs::make());
        host.ns.veth("e0", &peer, "p0", "");
        there.veth("e0", &peer, "p1", "");
        there.veth("a0", &peer, "p2", "");
        let run = |args: &[&str]| {
            let mut command = Host::command(&host.dir, args);
            there.enter(|| command.output()).unwrap()
        };
        let args: [&[&str]; 8] = [
            &["attach", "vale0", "e0"],
            &["attach", "vale0", "a0"],
            &["attach", "vale0", "tap:ta"],
            &["attach", "vale0", "vxlan:7@192.0.2.1"],
            &["vale-ctl", "-h", "vale0:e0"],
            &["newif", "v1", "--link"],
            &["pkt-gen", "-i", "netmap:e0", "-f", "rx", "-n", "1"],
            &["pkt-gen", "-i", "netmap:a0", "-f", "rx", "-n", "1"],
        ];
        for args in args {
            let out = run(args);
            let said = String::from_utf8(out.stderr).unwrap();
            assert!(
                said.contains("another network namespace"),
                "{args:?}: {said}"
            );
            let code = if args[0] == "vale-ctl" { 1 } else { 3 };
            assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        }
        assert_eq!(host.ok(&["ls"]), "");
        // All else is the same everywhere.
        for args in [&["newif", "v2"][..], &["attach", "vale0:v2"]] {
            assert!(run(args).status.success(), "{args:?}");
        }
        let out = run(&["doctor", "a0"]);
        let said = String::from_utf8(out.stdout).unwrap();
        assert!(said.contains("fail  network "), "{said}");
        assert_eq!(out.status.code(), Some(1), "{said}");
        let said = host.ok(&["doctor", "e0"]);
        assert!(!said.contains(" network "), "{said}");
        let status = |out: Output| String::from_utf8(out.stdout).unwrap();
        let said = status(run(&["server", "status"]));
        assert!(said.contains("not the one of this command"), "{said}");
        let said = host.ok(&["server", "status"]);
        assert!(
            said.contains("net:[") && !said.contains("not the one"),
            "{said}"
        );
        host.ok(&["attach", "vale0", "e0"]);
    }

    #[test]
    fn two_containers_and_a_killed_server() {
        let Some(mut host) = Host::new("two_containers_and_a_killed_server") else {
            return;
        };
        let (a, b) = (NetNs::make(), NetNs::make());
        let said = host.ok(&["attach", "vale0", "tap:c1"]);
        assert_eq!(said, "vale0:c1 port_idx 0\n");
        host.ok(&["vale-ctl", "-a", "vale0:tap:c2"]);
        host.hand_over("c1", &a, A);
        host.hand_over("c2", &b, B);
        assert!(a.ping(B, 1000, PATIENCE).is_some());
        let listed = host.ok(&["ls"]);
        assert!(listed.contains("vale0:c1") && listed.contains("vale0:c2"));
        assert!(listed.contains("TAP c1 (made, 1 queue)"), "{listed}");
        let (code, said) = host.fails(&["attach", "vale1", "tap:c1"]);
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("attached already"), "{said}");
        let (code, said) = host.fails(&["attach", "vale1", "nosuch0"]);
        assert_eq!(code, Some(3), "{said}");
        host.ok(&["vale-ctl", "-p", "vale0:c1"]);
        assert!(a.ping(B, 0, PATIENCE).is_some());
        let (code, said) = host.fails(&["vale-ctl", "-d", "vale0:c1"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("Device or resource busy"), "{said}");
        host.ok(&["vale-ctl", "-P", "vale0:c1"]);
        // An interface with the host behind it, taken away as a server dies.
        host.ns.veth("v0", &a, "e0", "");
        let (us, them) = (Ipv4Addr::new(10, 80, 0, 9), Ipv4Addr::new(10, 80, 0, 1));
        host.ns.ip(&format!("addr add {us}/24 dev v0"));
        a.ip(&format!("addr add {them}/24 dev e0"));
        host.ok(&["vale-ctl", "-h", "vale0:v0"]);
        assert!(host.ok(&["ls"]).contains("vale0:v0^"));
        assert!(a.ping(us, 0, PATIENCE).is_some());
        host.kill();
        eventually("the host has its interface", || {
            a.ping(us, 0, MOMENT).is_some()
        });
        assert!(host.ns.ping(them, 0, PATIENCE).is_some());
        eventually("the TAPs are gone", || {
            !a.try_ip("link show dev c1").status.success()
                && !b.try_ip("link show dev c2").status.success()
                && !host.ns.ip("-o link").contains("nvhost")
        });
    }

    #[test]
    fn ports_are_told_by_the_names_that_they_have() {
        let Some(host) = Host::new("ports_are_told_by_the_names_that_they_have") else {
            return;
        };
        let a = NetNs::make();
        host.ns.veth("v0", &a, "e0", "");
        let attached = |name: &str, index: u32| {
            format!(
                "{{\"schema\":\"netvale.attach.v1\",\"name\":\"{name}\",\"port_index\":{index}}}\n"
            )
        };
        let said = host.ok(&["attach", "vale0", "tap:nv%d", "--json"]);
        assert_eq!(said, attached("vale0:nv0", 0));
        let said = host.ok(&["attach", "vale0", "v0", "--host", "--json"]);
        assert_eq!(said, attached("vale0:v0", 1) + &attached("vale0:v0^", 2));
        let said = host.ok(&["detach", "vale0:v0"]);
        assert_eq!(said, "vale0:v0 port_idx 1\nvale0:v0^ port_idx 2\n");
        let (code, said) = host.fails(&["bridge", "-w", "0", "-i", "tap:x"]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("no host rings"), "{said}");
        assert!(!host.ns.ip("-o link").contains("x^"));
    }

    #[test]
    fn captures_of_devices_are_readable() {
        let Some(host) = Host::new("captures_of_devices_are_readable") else {
            return;
        };
        let (a, b) = (NetNs::make(), NetNs::make());
        host.ns.veth("v0", &a, "e0", "");
        a.ip(&format!("addr add {A}/24 dev e0"));
        host.ns.ip("addr add 10.79.0.9/24 dev v0");
        host.ok(&["attach", "vale0", "v0", "--host"]);
        host.ok(&["attach", "vale0", "tap:c1"]);
        host.hand_over("c1", &b, B);
        for port in ["vale0:c1", "vale0:v0", "vale0:v0^"] {
            let file = host.dir.path().join("frames.pcapng");
            let args = ["capture", port, "-c", "8", "-w", file.to_str().unwrap()];
            let mut child = host.ns.enter(|| Host::command(&host.dir, &args).spawn());
            let child = child.as_mut().unwrap();
            eventually("8 frames have come", || {
                assert!(a.ping(B, 0, PATIENCE).is_some());
                assert!(a.ping(Ipv4Addr::new(10, 79, 0, 9), 0, PATIENCE).is_some());
                child.try_wait().unwrap().is_some()
            });
            assert!(child.wait().unwrap().success(), "{port}");
            let frames = frames_of(&std::fs::read(&file).unwrap());
            assert_eq!(frames.len(), 8, "{port}");
            let types = frames.iter().map(|f| u16::from_be_bytes([f[12], f[13]]));
            let mut unknown = types.filter(|t| !matches!(t, 0x0800 | 0x0806 | 0x86dd));
            assert_eq!(unknown.next(), None, "{port}");
        }
    }

    #[test]
    fn the_doctor_says_what_interfaces_can_do() {
        let Some(host) = Host::new("the_doctor_says_what_interfaces_can_do") else {
            return;
        };
        host.ns.veth("v0", &host.ns, "v1", "");
        let all = host.ok(&["doctor"]);
        let line = all.lines().find(|l| l.contains(" v0 ")).unwrap();
        for word in [
            "warn",
            "driver veth",
            "AF_XDP native with a copy",
            "host rings tcx",
        ] {
            assert!(line.contains(word), "{word}: {line}");
        }
        assert!(all.contains("ok    tap"), "{all}");
        host.ok(&["doctor", "v0", "--try"]);
        let json = host.ok(&["doctor", "v0", "--json"]);
        assert!(
            json.lines().all(|l| l.contains(r#""interface":"v0""#)),
            "{json}"
        );
        // What stands in the way fails if it was asked for, else it is told.
        host.ns.ip("link set v0 down");
        let down = host.run(&["doctor", "v0"]);
        assert_eq!(down.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&down.stdout).contains("ip link set v0 up"));
        assert!(host.ok(&["doctor"]).contains("it is down"));
        let (code, said) = host.fails(&["doctor", "nosuch0"]);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("nosuch0"), "{said}");
    }

    #[test]
    fn a_port_is_an_interface_if_wanted() {
        let Some(host) = Host::new("a_port_is_an_interface_if_wanted") else {
            return;
        };
        let b = NetNs::make();
        host.ok(&["vale-ctl", "-n", "v1", "--link"]);
        host.ok(&["newif", "v2"]);
        let links = host.ns.ip("-o link");
        assert!(links.contains(" v1:") && !links.contains(" v2:"), "{links}");
        host.ok(&["vale-ctl", "-a", "vale0:v1"]);
        host.ok(&["attach", "vale0", "tap:t1"]);
        host.hand_over("t1", &b, B);
        host.ns.ip(&format!("addr add {A}/24 dev v1"));
        host.ns.ip("link set dev v1 up");
        assert!(host.ns.ping(B, 0, PATIENCE).is_some());
        eventually("its state is listed", || {
            host.ok(&["ls"])
                .contains("interface v1 of the host (1 queue), up, MTU 1500, ")
        });
        let json = host.ok(&["ls", "--json"]);
        assert!(
            json.contains(r#""link":{"name":"v1","up":true,"mtu_bytes":1500,"mac":""#),
            "{json}"
        );
        host.ok(&["vale-ctl", "-d", "vale0:v1"]);
        host.ok(&["vale-ctl", "-r", "v1"]);
        assert!(!host.ns.ip("-o link").contains(" v1:"));
        let (code, said) = host.fails(&["newif", "v3", "--link", "--tx-rings", "2"]);
        assert_eq!(code, Some(2), "{said}");
        assert!(!host.ok(&["ls"]).contains("v3"));
    }

    #[test]
    fn a_configured_device_has_its_processor_and_its_line() {
        let test = "a_configured_device_has_its_processor_and_its_line";
        let Some(ns) = NetNs::new(test) else { return };
        let dir = TempDir::new();
        // With the host's sign it is too long for a port's name.
        ns.ip("link add enx001122334455 type veth peer name p0");
        let file = dir.path().join("netvale.toml");
        let start = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let args = ["server", "--foreground", "--config", file.to_str().unwrap()];
            let mut command = Host::command(&dir, &args);
            command.stderr(Stdio::piped());
            ns.enter(|| command.spawn()).unwrap()
        };
        for (text, code, says) in [
            (
                "[[attach]]\nswitch = \"vale0\"\n",
                2,
                "line 1: missing field `device`",
            ),
            (
                "pumps = 1\n[[attach]]\nswitch = \"x\"\ndevice = \"e\"\n",
                2,
                "line 2: switch",
            ),
            (
                "\n[[attach]]\nswitch = \"vale0\"\ndevice = \"nosuch0\"\n",
                3,
                "line 2: cannot attach nosuch0",
            ),
            (
                "[[attach]]\nswitch = \"vale0\"\ndevice = \"enx001122334455\"\nhost = true\n",
                2,
                "or port = \"NAME\" in the configuration",
            ),
        ] {
            let out = start(text).wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(said.contains(says), "{text}: {said}");
            assert_eq!(out.status.code(), Some(code), "{said}");
        }
        let text = "[[attach]]\nswitch = \"vale0\"\ndevice = \"tap:t0\"\ncpus = [0]\n";
        let host = Host {
            server: Server(start(text)),
            ns,
            dir,
        };
        eventually("the device is attached", || {
            host.run(&["ls"])
                .stdout
                .windows(8)
                .any(|w| w == b"vale0:t0")
        });
        let of_thread = |name: &str| {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", host.server.0.id())).unwrap();
            let tasks = tasks.map(|t| std::fs::read_to_string(t.unwrap().path().join("status")));
            let mut texts = tasks.map(|t| t.unwrap_or_default());
            texts.find(|t| t.lines().next() == Some(&format!("Name:\t{name}")))
        };
        // A thread that has just started gives itself its name and its place.
        eventually("its thread is on the processor", || {
            let status = of_thread("netvale-pump").unwrap_or_default();
            status.lines().any(|l| l == "Cpus_allowed_list:\t0")
        });
    }

    #[test]
    fn a_bridge_between_an_interface_and_a_tap() {
        let Some(host) = Host::new("a_bridge_between_an_interface_and_a_tap") else {
            return;
        };
        let (a, b) = (NetNs::make(), NetNs::make());
        host.ns.veth("v0", &a, "e0", "");
        a.ip(&format!("addr add {A}/24 dev e0"));
        let args = ["bridge", "-w", "0", "-i", "netmap:v0", "-i", "tap:t0"];
        let mut command = Host::command(&host.dir, &args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut bridge = host.ns.enter(|| command.spawn()).unwrap();
        eventually("the bridge has both", || {
            host.ok(&["ls"]).contains("tap:t0")
        });
        let listed = host.ok(&["ls"]);
        let kind = |name: &str| {
            let line = listed.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().nth(3).unwrap().to_owned()
        };
        assert_eq!([kind("v0"), kind("tap:t0")], ["interface", "tap"]);
        host.hand_over("t0", &b, B);
        eventually("frames pass", || a.ping(B, 1400, MOMENT).is_some());
        assert!(b.ping(A, 0, PATIENCE).is_some());
        bridge.kill().unwrap();
        bridge.wait().unwrap();
        eventually("all is given back", || {
            !b.try_ip("link show dev t0").status.success() && !host.ok(&["ls"]).contains("v0")
        });
    }
}
