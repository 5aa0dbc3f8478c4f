//! pkt-gen's command line, as typed.

use std::path::PathBuf;

/// What pkt-gen's options are. Short forms are netmap's.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_long_help = "Examples:\n  \
        pkt-gen -i vale0:b -f rx\n  \
        pkt-gen -i vale0:a -f tx -n 10000000 -l 60\n  \
        pkt-gen -i vale0:a -f tx -R 1M -d 10.1.0.1:2000-10.1.0.9:2009\n  \
        pkt-gen -i vale0:b -f pong & pkt-gen -i vale0:a -f ping -n 10000\n\n\
        Speeds are in packets per second (pps) and bits per second (bps); K, M\n\
        and G are powers of 1000. Ends with status 1 if no packet was sent or\n\
        received, or if rxseq found a gap."
)]
pub(crate) struct Args {
    /// Port, as vale0:a, vale0:a{1, netmap:eth0; null sends to nowhere
    #[arg(short = 'i', long, value_name = "PORT")]
    pub(super) port: Option<String>,
    /// What to do: tx, rx, ping, pong, txseq, rxseq
    #[arg(short, long, value_name = "WHAT", default_value = "rx")]
    pub(super) function: String,
    /// Packets to send or receive, 0 = no end
    #[arg(short = 'n', long, value_name = "PACKETS", default_value = "0", value_parser = count)]
    pub(super) count: u64,
    /// Frame size in bytes without checksum; twice = random between the two
    /// [default: 60]
    #[arg(short = 'l', long, value_name = "BYTES")]
    pub(super) size: Vec<u32>,
    /// Packets per batch [default: 512; 1 for ping and pong]
    #[arg(short, long, value_name = "PACKETS")]
    pub(super) burst: Option<u32>,
    /// Slots that each frame is spread over, 1 to 63
    #[arg(short = 'F', long, value_name = "SLOTS")]
    pub(super) frags: Option<u32>,
    /// Bytes in each slot of a frame [default: the slot's size]
    #[arg(short = 'M', long, value_name = "BYTES")]
    pub(super) frag_size: Option<u32>,
    /// Destination, one address and port or a range of both
    /// [default: 10.1.0.1:1234]
    #[arg(short, long, value_name = "IP[:PORT][-IP:PORT]")]
    pub(super) dst_ip: Option<String>,
    /// Source, one address and port or a range of both
    /// [default: 10.0.0.1:1234]
    #[arg(short, long, value_name = "IP[:PORT][-IP:PORT]")]
    pub(super) src_ip: Option<String>,
    /// Destination MAC address [default: ff:ff:ff:ff:ff:ff]
    #[arg(short = 'D', long, value_name = "MAC")]
    pub(super) dst_mac: Option<String>,
    /// Source MAC address [default: the device's, or made from the port name]
    #[arg(short = 'S', long, value_name = "MAC")]
    pub(super) src_mac: Option<String>,
    /// Send IPv4 (the default)
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub(super) ipv4: bool,
    /// Send IPv6
    #[arg(short = '6', long)]
    pub(super) ipv6: bool,
    /// Take each source from its range at random
    #[arg(short = 'z', long)]
    pub(super) random_src: bool,
    /// Take each destination from its range at random
    #[arg(short = 'Z', long)]
    pub(super) random_dst: bool,
    /// Threads, each with its own ring
    #[arg(short = 'p', long, value_name = "N", default_value_t = 1)]
    pub(super) threads: u16,
    /// CPUs that threads are spread over [default: all]
    #[arg(short, long, value_name = "N")]
    pub(super) cpus: Option<usize>,
    /// Pin thread i to CPU (N + i) [default: not pinned]
    #[arg(short, long, value_name = "N")]
    pub(super) affinity: Option<usize>,
    /// Milliseconds between two lines of progress
    #[arg(short = 'T', long, value_name = "MS", default_value_t = 1000)]
    pub(super) report_ms: u64,
    /// Seconds to wait for the link [default: 0 for vale ports, else 2]
    #[arg(short = 'w', long, value_name = "S")]
    pub(super) wait_s: Option<u64>,
    /// End when a receiver saw no packet for 1 s after the first
    #[arg(short = 'W', long)]
    pub(super) exit_when_silent: bool,
    /// Packets per second to send [default: no limit]
    #[arg(short = 'R', long, value_name = "PPS", value_parser = count)]
    pub(super) rate_pps: Option<u64>,
    /// Print each received frame
    #[arg(short = 'X', long)]
    pub(super) dump: bool,
    /// Send whatever the buffers hold
    #[arg(short, long)]
    pub(super) rubbish: bool,
    /// Not available: frames by pointer
    #[arg(short = 'I', long, hide_short_help = true)]
    pub(super) indirect: bool,
    /// Send the packets of this pcap file, or write received ones to it
    #[arg(short = 'P', long, value_name = "FILE")]
    pub(super) pcap: Option<PathBuf>,
    /// Sum of: 2 read each frame, 4 or 8 write each frame, 64 as -X
    #[arg(short, long, value_name = "BITS", default_value_t = 0)]
    pub(super) options: u32,
    /// Print plain numbers instead of K, M and G
    #[arg(short = 'N', long)]
    pub(super) no_scale: bool,
    /// Add mean and deviation of the rate to each line of progress
    #[arg(short = 'A', long)]
    pub(super) rate_stats: bool,
    /// Count the 24 bytes that Ethernet adds to a frame in bits per second
    #[arg(short = 'B', long)]
    pub(super) framing: bool,
    /// Bytes of the virtio-net header before each frame: 0, 10 or 12
    #[arg(short = 'H', long, value_name = "BYTES", default_value_t = 0)]
    pub(super) vnet_hdr: u8,
    /// Ring geometry: tx slots[,rx slots[,tx rings[,rx rings]]]
    #[arg(short = 'C', long, value_name = "LIST")]
    pub(super) config: Option<String>,
    /// More messages
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Print JSON, one object per line: intervals, then the summary
    #[arg(long)]
    pub(super) json: bool,
}

/// A number with an optional suffix K, M or G (powers of 1000).
fn count(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| "not a number (suffixes: K, M, G)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_suffixes() {
        for (text, value) in [
            ("0", Some(0)),
            ("250", Some(250)),
            ("10k", Some(10_000)),
            ("3M", Some(3_000_000)),
            ("1G", Some(1_000_000_000)),
            ("", None),
            ("k", None),
            ("-1", None),
            ("1.5M", None),
            ("99999999999G", None),
        ] {
            assert_eq!(count(text).ok(), value, "{text:?}");
        }
    }
}
