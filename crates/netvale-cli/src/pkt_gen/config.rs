//! What pkt-gen's command line means. Pure: nothing is opened here.

use std::path::PathBuf;
use std::time::Duration;

use netvale::RingConfig;
use netvale_wire::mac::MacAddr;

use super::args::Args;
use super::flow::{Endpoint, Family};
use crate::failure::{Failure, Result};

/// Smallest frame that may be sent: addresses, type and two bytes.
pub(super) const MIN_FRAME: u32 = 16;
/// Largest frame: an IPv4 packet of 65535 bytes and its Ethernet header.
pub(super) const MAX_FRAME: u32 = 65_535 + 14;
/// Batch of a sender or receiver that was not given one.
pub(super) const DEFAULT_BURST: u32 = 512;
/// Slots that one frame may be spread over.
pub(super) const MAX_FRAGS: u32 = 63;
/// Rings, and so threads, that a port may have.
const MAX_THREADS: u16 = 16;
/// Longest `-w`, as a guard against milliseconds.
const MAX_WAIT_S: u64 = 3600;

/// What to do on the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// Send.
    Tx,
    /// Receive and count.
    Rx,
    /// Send, wait for the echo, measure.
    Ping,
    /// Send everything back.
    Pong,
    /// Send with sequence numbers.
    TxSeq,
    /// Receive and check sequence numbers.
    RxSeq,
}

impl Function {
    fn parse(word: &str) -> Result<Self> {
        Ok(match word {
            "tx" => Self::Tx,
            "rx" => Self::Rx,
            "ping" => Self::Ping,
            "pong" => Self::Pong,
            "txseq" => Self::TxSeq,
            "rxseq" => Self::RxSeq,
            _ => {
                return Err(usage(format!(
                    "no function '{word}': tx, rx, ping, pong, txseq or rxseq"
                )));
            }
        })
    }

    /// True if the last lines say "Sent".
    pub(super) fn sends(self) -> bool {
        matches!(self, Self::Tx | Self::TxSeq | Self::Ping)
    }

    /// The word on the command line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Tx => "tx",
            Self::Rx => "rx",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::TxSeq => "txseq",
            Self::RxSeq => "rxseq",
        }
    }

    /// Bytes that the function writes into the UDP payload.
    fn payload(self) -> u32 {
        match self {
            Self::Tx | Self::Rx | Self::Pong => 0,
            Self::TxSeq | Self::RxSeq => super::frame::SEQ_BYTES,
            Self::Ping => super::frame::PROBE_BYTES,
        }
    }
}

/// A whole run of pkt-gen.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Name to open, with its prefix.
    pub(super) port: String,
    /// `-i null`: generate, but send nowhere.
    pub(super) nowhere: bool,
    pub(super) function: Function,
    /// 0 = no end.
    pub(super) count: u64,
    pub(super) size_min: u32,
    pub(super) size_max: u32,
    pub(super) burst: u32,
    /// Bytes of each slot of a frame, if not the whole slot.
    pub(super) frag_size: Option<u32>,
    pub(super) src: Endpoint,
    pub(super) dst: Endpoint,
    /// `None`: the device's own.
    pub(super) src_mac: Option<MacAddr>,
    pub(super) dst_mac: MacAddr,
    pub(super) random_src: bool,
    pub(super) random_dst: bool,
    pub(super) threads: u16,
    pub(super) cpus: Option<usize>,
    pub(super) affinity: Option<usize>,
    pub(super) report: Duration,
    pub(super) wait: Duration,
    pub(super) exit_when_silent: bool,
    pub(super) rate_pps: Option<u64>,
    pub(super) dump: bool,
    pub(super) rubbish: bool,
    pub(super) pcap: Option<PathBuf>,
    /// Read the bytes of each received frame.
    pub(super) access: bool,
    /// Write each frame anew.
    pub(super) copy: bool,
    pub(super) scale: bool,
    pub(super) rate_stats: bool,
    pub(super) framing: bool,
    pub(super) vnet_hdr: u8,
    pub(super) rings: RingConfig,
    pub(super) verbose: u8,
    pub(super) json: bool,
}

impl TryFrom<Args> for Config {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self> {
        let function = Function::parse(&args.function)?;
        let given = args.port.as_deref().unwrap_or_default();
        if given.is_empty() {
            return Err(usage("no port given: -i PORT"));
        }
        if args.indirect {
            return Err(usage(
                "-I (frames by pointer) has no meaning here: ports only send their own buffers",
            ));
        }
        let port = port_name(given);
        let nowhere = given == "null" || port == "netmap:null";
        if nowhere && !matches!(function, Function::Tx | Function::TxSeq) {
            return Err(usage("null can only be sent to: -f tx"));
        }
        let family = if args.ipv6 { Family::V6 } else { Family::V4 };
        let (size_min, size_max) = sizes(&args.size, family, function)?;
        let (src, dst) = endpoints(&args, family)?;
        let frag_size = frag_size(&args, size_max)?;
        check_threads(&args, function)?;
        if !matches!(args.vnet_hdr, 0 | 10 | 12) {
            return Err(usage(format!(
                "virtio-net header of {} bytes: 0, 10 or 12",
                args.vnet_hdr
            )));
        }
        if args.pcap.is_some() && !matches!(function, Function::Tx | Function::Rx) {
            return Err(usage("a pcap file goes with -f tx or -f rx"));
        }
        if args.report_ms == 0 {
            return Err(usage("a report period of 0 ms"));
        }
        let burst = match args.burst {
            Some(0) => return Err(usage("a batch of 0 packets")),
            Some(burst) => burst,
            None if matches!(function, Function::Ping | Function::Pong) => 1,
            None => paced_burst(args.rate_pps),
        };
        Ok(Self {
            nowhere,
            function,
            count: args.count,
            size_min,
            size_max,
            burst,
            frag_size,
            src,
            dst,
            src_mac: args.src_mac.as_deref().map(parse_mac).transpose()?,
            dst_mac: match &args.dst_mac {
                Some(text) => parse_mac(text)?,
                None => MacAddr::BROADCAST,
            },
            random_src: args.random_src,
            random_dst: args.random_dst,
            threads: args.threads,
            cpus: args.cpus.filter(|&n| n > 0),
            affinity: args.affinity,
            report: Duration::from_millis(args.report_ms),
            wait: wait(args.wait_s, &port, nowhere)?,
            exit_when_silent: args.exit_when_silent,
            rate_pps: args.rate_pps.filter(|&rate| rate > 0),
            dump: args.dump || args.options & 64 != 0,
            rubbish: args.rubbish,
            pcap: args.pcap,
            access: args.options & 2 != 0,
            copy: args.options & (4 | 8) != 0,
            scale: !args.no_scale,
            rate_stats: args.rate_stats,
            framing: args.framing,
            vnet_hdr: args.vnet_hdr,
            rings: ring_config(args.config.as_deref(), args.threads)?,
            verbose: args.verbose,
            json: args.json,
            port,
        })
    }
}

/// A name with `netmap:` in front if it has no prefix of its own.
pub(crate) fn port_name(given: &str) -> String {
    const PREFIXES: [&str; 4] = ["netmap:", "vale", "tap:", "pcap:"];
    if PREFIXES.iter().any(|prefix| given.starts_with(prefix)) {
        given.to_owned()
    } else {
        format!("netmap:{given}")
    }
}

/// A batch that is sent about every millisecond, so that a slow rate is even.
fn paced_burst(rate_pps: Option<u64>) -> u32 {
    match rate_pps {
        Some(rate) if rate > 0 => {
            let per_ms = u32::try_from(rate / 1000).unwrap_or(u32::MAX);
            per_ms.clamp(1, DEFAULT_BURST)
        }
        _ => DEFAULT_BURST,
    }
}

fn sizes(given: &[u32], family: Family, function: Function) -> Result<(u32, u32)> {
    let least = super::frame::header_bytes(family) + function.payload();
    let (min, max) = match *given {
        [] => (least.max(60), least.max(60)),
        [size] => (size, size),
        [a, b] => (a.min(b), a.max(b)),
        _ => return Err(usage("-l may be given once or twice")),
    };
    for size in [min, max] {
        if !(MIN_FRAME..=MAX_FRAME).contains(&size) {
            return Err(usage(format!(
                "frame size {size}: {MIN_FRAME} to {MAX_FRAME} bytes"
            )));
        }
    }
    if function.payload() > 0 && min < least {
        return Err(usage(format!(
            "frame size {min}: {} needs {least} bytes",
            function.word()
        )));
    }
    Ok((min, max))
}

fn endpoints(args: &Args, family: Family) -> Result<(Endpoint, Endpoint)> {
    let (src, dst) = match family {
        Family::V4 => ("10.0.0.1:1234", "10.1.0.1:1234"),
        Family::V6 => ("[fd00:10::1]:1234", "[fd00:10:1::1]:1234"),
    };
    let parse = |what, text: Option<&str>, default| {
        Endpoint::parse(text.unwrap_or(default), family)
            .map_err(|cause| usage(format!("{what}: {cause}")))
    };
    Ok((
        parse("source", args.src_ip.as_deref(), src)?,
        parse("destination", args.dst_ip.as_deref(), dst)?,
    ))
}

fn parse_mac(text: &str) -> Result<MacAddr> {
    text.parse()
        .map_err(|cause| usage(format!("MAC address '{text}': {cause}")))
}

/// `-F` spreads the frame evenly, `-M` says how much goes into each slot.
fn frag_size(args: &Args, size_max: u32) -> Result<Option<u32>> {
    let frags = args.frags.unwrap_or(1);
    if !(1..=MAX_FRAGS).contains(&frags) {
        return Err(usage(format!("{frags} fragments: 1 to {MAX_FRAGS}")));
    }
    let size = match args.frag_size {
        Some(0) => return Err(usage("fragments of 0 bytes")),
        Some(size) => size,
        None if frags > 1 => size_max.div_ceil(frags),
        None => return Ok(None),
    };
    if size_max.div_ceil(size) > MAX_FRAGS {
        return Err(usage(format!(
            "a frame of {size_max} bytes does not fit into {MAX_FRAGS} fragments of {size}"
        )));
    }
    Ok(Some(size))
}

fn check_threads(args: &Args, function: Function) -> Result<()> {
    if !(1..=MAX_THREADS).contains(&args.threads) {
        return Err(usage(format!(
            "{} threads: 1 to {MAX_THREADS}",
            args.threads
        )));
    }
    if args.threads > 1 && !matches!(function, Function::Tx | Function::Rx) {
        return Err(usage(format!("{} has one thread", function.word())));
    }
    Ok(())
}

fn wait(given: Option<u64>, port: &str, nowhere: bool) -> Result<Duration> {
    let seconds = match given {
        Some(seconds) => seconds,
        None if nowhere || port.starts_with("vale") => 0,
        None => 2,
    };
    if seconds > MAX_WAIT_S {
        return Err(usage(format!("wait of {seconds} s: 0 to {MAX_WAIT_S}")));
    }
    Ok(Duration::from_secs(seconds))
}

/// `-C tx slots[,rx slots[,tx rings[,rx rings]]]`; what is left out follows
/// the value before it, and rings the number of threads.
fn ring_config(list: Option<&str>, threads: u16) -> Result<RingConfig> {
    let threads_or_default = if threads > 1 { threads } else { 0 };
    let mut config = RingConfig {
        tx_rings: threads_or_default,
        rx_rings: threads_or_default,
        ..RingConfig::default()
    };
    let Some(list) = list else {
        return Ok(config);
    };
    let values = parse_list(list)?;
    match *values {
        [slots] => (config.tx_slots, config.rx_slots) = (slots, slots),
        [tx, rx] => (config.tx_slots, config.rx_slots) = (tx, rx),
        [tx, rx, rings] => {
            (config.tx_slots, config.rx_slots) = (tx, rx);
            (config.tx_rings, config.rx_rings) = (rings, rings);
        }
        [tx, rx, tx_rings, rx_rings] => {
            (config.tx_slots, config.rx_slots) = (tx, rx);
            (config.tx_rings, config.rx_rings) = (tx_rings, rx_rings);
        }
        _ => return Err(usage(format!("-C '{list}': one to four numbers"))),
    }
    Ok(config)
}

/// Numbers with commas between them.
pub(crate) fn parse_list(list: &str) -> Result<Vec<u16>> {
    list.split(',')
        .map(|word| word.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|cause: std::num::ParseIntError| {
            usage(format!(
                "'{list}' is not a list of numbers up to 65535: {cause}"
            ))
        })
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::usage(message)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    pub(in super::super) fn config(line: &str) -> Result<Config, String> {
        let words = ["pkt-gen"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        Config::try_from(line.args).map_err(|failure| match failure {
            Failure::Error(error) => error.to_string(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn defaults_are_netmaps() {
        let c = config("-i vale0:a").expect("defaults");
        assert_eq!(c.function, Function::Rx);
        assert_eq!((c.size_min, c.size_max, c.burst), (60, 60, 512));
        assert_eq!((c.threads, c.count, c.rate_pps), (1, 0, None));
        assert_eq!(c.wait, Duration::ZERO);
        assert_eq!(c.dst_mac, MacAddr::BROADCAST);
        assert!(c.scale && !c.framing && !c.nowhere);
        let c = config("-i eth0 -f tx").expect("a device");
        assert_eq!((c.port.as_str(), c.wait.as_secs()), ("netmap:eth0", 2));
        assert_eq!(config("-i vale0:a -f ping").expect("ping").burst, 1);
        assert_eq!(config("-i vale0:a -6 -f tx").expect("v6").size_min, 62);
        assert!(config("-i null -f tx").expect("null").nowhere);
    }

    #[test]
    fn names_get_their_prefix() {
        for (given, name) in [
            ("eth0", "netmap:eth0"),
            ("netmap:eth0-1", "netmap:eth0-1"),
            ("vale0:a", "vale0:a"),
            ("vale0:a{1", "vale0:a{1"),
            ("p{1", "netmap:p{1"),
            ("tap:t0", "tap:t0"),
        ] {
            assert_eq!(port_name(given), name);
        }
    }

    #[test]
    fn options_mean_what_they_say() {
        let c = config("-i vale0:a -f tx -l 1514 -l 60 -R 2000 -F 4 -C 512,256,2 -H 12 -o 70 -N")
            .expect("valid");
        assert_eq!((c.size_min, c.size_max), (60, 1514));
        assert_eq!((c.burst, c.rate_pps), (2, Some(2000)));
        assert_eq!(c.frag_size, Some(379));
        assert_eq!((c.rings.tx_slots, c.rings.rx_slots), (512, 256));
        assert_eq!((c.rings.tx_rings, c.rings.rx_rings), (2, 2));
        assert!(c.access && c.copy && c.dump && !c.scale);
        let c = config("-i vale0:a -f tx -p 4 -a 1 -c 2 -w 0 -R 5M").expect("valid");
        assert_eq!((c.rings.tx_rings, c.rings.rx_rings), (4, 4));
        assert_eq!((c.affinity, c.cpus), (Some(1), Some(2)));
        assert_eq!((c.burst, c.rate_pps), (512, Some(5_000_000)));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, cause) in [
            ("-f tx", "no port given"),
            ("-i vale0:a -f fx", "no function 'fx'"),
            ("-i vale0:a -l 15", "frame size 15"),
            ("-i vale0:a -l 65550", "frame size 65550"),
            ("-i vale0:a -l 60 -l 61 -l 62", "once or twice"),
            ("-i vale0:a -f txseq -l 45", "txseq needs 46"),
            ("-i vale0:a -f ping -6 -l 60", "ping needs 78"),
            ("-i vale0:a -F 64", "64 fragments"),
            ("-i vale0:a -F 0", "0 fragments"),
            ("-i vale0:a -M 0", "fragments of 0 bytes"),
            ("-i vale0:a -M 10 -l 1514", "does not fit"),
            ("-i vale0:a -b 0", "batch of 0"),
            ("-i vale0:a -p 17", "17 threads"),
            ("-i vale0:a -p 0", "0 threads"),
            ("-i vale0:a -p 2 -f txseq", "txseq has one thread"),
            ("-i vale0:a -H 11", "header of 11 bytes"),
            ("-i vale0:a -I", "frames by pointer"),
            ("-i vale0:a -D zz", "MAC address 'zz'"),
            ("-i vale0:a -s 10.0.0.256", "source:"),
            ("-i vale0:a -d 10.0.0.9-10.0.0.1", "destination:"),
            ("-i vale0:a -C 1,2,3,4,5", "one to four"),
            ("-i vale0:a -C x", "not a list"),
            ("-i vale0:a -f ping -P x", "-f tx or -f rx"),
            ("-i null", "only be sent to"),
            ("-i vale0:a -T 0", "period of 0"),
            ("-i vale0:a -w 4000", "wait of 4000 s"),
        ] {
            let error = config(line).expect_err(line);
            assert!(error.contains(cause), "{line}: {error}");
        }
    }
}
