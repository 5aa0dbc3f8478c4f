//! Attaches a device to a switch and counts what comes from it.
//!
//! ```sh
//! cargo run --example devices -- vale0 tap:t0   # as root, or with CAP_NET_ADMIN
//! cargo run --example devices -- vale0 pcap:trace.pcapng
//! ```
//!
//! Devices are served by the threads of a namespace's server, which is started
//! if there is none; a namespace inside a program has none.

use std::time::{Duration, Instant};

use netvale::{Namespace, Result};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(switch), Some(device)) = (words.next(), words.next()) else {
        println!("usage: devices SWITCH DEVICE, as in: devices vale0 tap:t0");
        return Ok(());
    };
    let ns = Namespace::from_env()?;
    let mut port = ns.open(&format!("{switch}:counter"))?;
    let name = format!("{switch}:{device}");
    ns.attach(&name, false)?;
    for entry in ns.list()? {
        if let Some(about) = &entry.device {
            println!("{}: {about}", entry.name);
        }
    }
    let (mut frames, mut bytes) = (0_u64, 0_u64);
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        if !port.wait_rx(Some(Duration::from_millis(100)))? {
            continue;
        }
        let rx = port.rx(0);
        while let Some(frame) = rx.next() {
            frames += 1;
            bytes += frame.len() as u64;
        }
    }
    println!("{frames} frames, {bytes} bytes in 5 s");
    ns.detach(&name)?;
    Ok(())
}
