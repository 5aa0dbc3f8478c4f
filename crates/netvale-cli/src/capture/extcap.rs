//! Wireshark's capture interface (`extcap(4)`): under the name
//! `netvale-extcap` this program lists the ports of the user's namespace and
//! captures one into the pipe that Wireshark gives it.

use std::path::PathBuf;

use clap::Parser;
use netvale_backends::pcap::WriterConfig;

use super::{Direction, Header, Sink, monitor, open, watch};
use crate::cli::Place;
use crate::exit::Code;
use crate::failure::{Failure, Result};
use crate::output;
use crate::signals::Stop;

/// What Wireshark asks. Its options are fixed by `extcap(4)`.
#[derive(Debug, Parser)]
#[command(name = "netvale-extcap", version, max_term_width = 80)]
pub(crate) struct Tool {
    /// List the interfaces
    #[arg(long)]
    extcap_interfaces: bool,
    /// Version of the program that asks
    #[arg(long, value_name = "VERSION", num_args = 0..=1, default_missing_value = "")]
    extcap_version: Option<String>,
    /// List the link types of the interface
    #[arg(long)]
    extcap_dlts: bool,
    /// List the options of the interface
    #[arg(long)]
    extcap_config: bool,
    /// The interface that is meant
    #[arg(long, value_name = "NAME")]
    extcap_interface: Option<String>,
    /// Filter of the user: not applied here, Wireshark shows what matches
    #[arg(long, value_name = "FILTER")]
    extcap_capture_filter: Option<String>,
    /// Capture
    #[arg(long)]
    capture: bool,
    /// The pipe to capture into
    #[arg(long, value_name = "PATH")]
    fifo: Option<PathBuf>,
    /// rx, tx or both
    #[arg(long, value_enum, default_value_t = Direction::Both)]
    direction: Direction,
    #[command(flatten)]
    place: Place,
}

/// What stands before a port's name in Wireshark's list.
const PREFIX: &str = "netvale-";

/// Does what Wireshark asks.
pub(crate) fn run(tool: &Tool) -> Result<Code> {
    if tool.extcap_interfaces {
        output::line(concat!(
            "extcap {version=",
            env!("CARGO_PKG_VERSION"),
            "}{display=netvale ports}"
        ))?;
        for port in crate::ls::ports(&tool.place)? {
            // Monitors and null ports have nothing of their own to see.
            if matches!(port.kind.as_str(), "monitor" | "null") {
                continue;
            }
            let name = &port.name;
            output::line(&format!(
                "interface {{value={PREFIX}{name}}}{{display=netvale port {name}}}"
            ))?;
        }
        return Ok(Code::Done);
    }
    if tool.extcap_dlts {
        output::line("dlt {number=1}{name=EN10MB}{display=Ethernet}")?;
        return Ok(Code::Done);
    }
    if tool.extcap_config {
        output::line(
            "arg {number=0}{call=--direction}{display=Direction}\
             {tooltip=What the port sends, receives, or both}{type=selector}",
        )?;
        for (value, text, default) in [
            ("both", "Sent and received", "true"),
            ("rx", "Received", "false"),
            ("tx", "Sent", "false"),
        ] {
            output::line(&format!(
                "value {{arg=0}}{{value={value}}}{{display={text}}}{{default={default}}}"
            ))?;
        }
        return Ok(Code::Done);
    }
    let (Some(name), Some(fifo), true) = (&tool.extcap_interface, &tool.fifo, tool.capture) else {
        return Err(Failure::usage(
            "nothing to do: Wireshark runs this, see extcap(4)",
        ));
    };
    let port = name.strip_prefix(PREFIX).unwrap_or(name);
    let stop = Stop::on_signals()?;
    let mut monitor = open(&tool.place, &monitor(port, tool.direction, false), 4096)?;
    let mut sink = Sink::one(fifo, WriterConfig::default())?;
    let mut header = Header::of(port, &tool.place)?;
    let done = watch(&mut monitor, &mut header, &mut sink, None, &stop);
    let lost = super::lost(&tool.place, &monitor);
    match done.and_then(|frames| sink.finish(super::since_epoch(), frames, lost)) {
        // Wireshark has seen enough.
        Err(Failure::StdoutClosed) | Ok(()) => Ok(Code::Done),
        Err(e) => Err(e),
    }
}
