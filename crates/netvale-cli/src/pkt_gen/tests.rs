//! Two runs of pkt-gen against each other, inside this process.

use super::config::tests::config;
use super::*;

/// Runs both command lines in one namespace; the second port is opened first.
fn pair(from: &str, to: &str) -> [(Summary, Found); 2] {
    let namespace = Namespace::embedded().expect("a namespace");
    let [from, to] = [from, to].map(|line| config(line).expect("valid"));
    let receiver = open(&to, &namespace).expect("opens");
    let sender = open(&from, &namespace).expect("opens");
    let work = |config: &Config, port: Port| {
        let run = Run::new(usize::from(config.threads));
        let path = config.pcap.as_deref();
        let writer = path
            .filter(|_| config.function == Function::Rx)
            .map(|path| Writer::create(path).expect("creates"));
        let job = Job {
            config,
            run: &run,
            stop: &Stop::default(),
            src_mac: own_mac(&config.port),
            replay: path
                .filter(|_| config.function == Function::Tx)
                .map(|path| read_packets(path, config.vnet_hdr).expect("reads")),
            writer: writer.as_ref(),
        };
        let found = job.work(Some(port)).expect("works");
        writer.map_or(Ok(()), |w| w.close()).expect("closes");
        (run.summary(config), found)
    };
    thread::scope(|scope| {
        let receiver = scope.spawn(|| work(&to, receiver));
        let sender = scope.spawn(|| work(&from, sender));
        [sender, receiver].map(|thread| thread.join().expect("no panic"))
    })
}

#[test]
fn made_addresses_are_local_and_stable() {
    let (a, b) = (own_mac("vale0:a"), own_mac("vale0:b"));
    assert_eq!(a, own_mac("vale0:a"));
    assert_ne!(a, b);
    assert_eq!(a.0[0] & 3, 2);
    assert!(!a.is_multicast());
    assert_eq!(own_mac("netmap:lo"), MacAddr::ZERO);
}

/// Objective: sequence numbers arrive whole and in order, whatever way the
/// frames are written. Operations: send 1000 slowly, check each.
#[test]
fn sequences_arrive() {
    for options in ["", "-6", "-l 60 -l 200", "-s 10.0.0.1:1-10.0.0.9:9", "-o 4"] {
        let v6 = if options == "-6" { "-6" } else { "" };
        let [(sent, _), (received, found)] = pair(
            &format!("-i vale0:a -f txseq -n 1000 -R 50k {options}"),
            &format!("-i vale0:b -f rxseq -n 1000 -W {v6}"),
        );
        assert_eq!((sent.packets, received.packets), (1000, 1000), "{options}");
        let sequence = found.sequence.expect("checked");
        assert!(sequence.is_clean(), "{options}: {sequence:?}");
    }
}

/// Objective: a pipe loses nothing at full speed, and changes nothing.
#[test]
fn pipes_lose_nothing() {
    let [(sent, _), (received, found)] = pair(
        "-i vale0:p{1 -f txseq -n 20000",
        "-i vale0:p}1 -f rxseq -n 20000 -W",
    );
    assert_eq!((sent.packets, received.packets), (20_000, 20_000));
    assert!(found.sequence.expect("checked").is_clean());
}

/// Objective: each ping is answered once. Operations: 300 round trips, one
/// and eight at a time.
#[test]
fn pings_are_answered() {
    for options in ["-n 300", "-n 304 -b 8", "-n 100 -6", "-n 100 -R 5k"] {
        let count: u64 = options
            .split(' ')
            .nth(1)
            .map_or(0, |n| n.parse().expect("N"));
        let [(sent, found), (answered, _)] = pair(
            &format!("-i vale0:a -f ping {options}"),
            &format!("-i vale0:b -f pong -n {count}"),
        );
        assert_eq!(
            (sent.packets, answered.packets),
            (count, count),
            "{options}"
        );
        let latency = found.latency.expect("measured");
        assert_eq!(latency.replies(), count, "{options}");
    }
}

/// Objective: what is captured can be sent again. Operations: capture 50,
/// replay them twice over.
#[test]
fn captures_can_be_replayed() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("a.pcap");
    let file = file.display();
    let [_, (received, _)] = pair(
        "-i vale0:a -f tx -n 50 -R 10k -l 100",
        &format!("-i vale0:b -f rx -n 50 -W -P {file}"),
    );
    assert_eq!(received.packets, 50);
    let [(sent, _), (received, _)] = pair(
        &format!("-i vale0:a -f tx -n 100 -R 10k -P {file}"),
        "-i vale0:b -f rx -n 100 -W",
    );
    assert_eq!((sent.packets, received.packets), (100, 100));
}
