//! Forwards frames from one port to another without copying them: what a
//! middlebox of your own begins with.
//!
//! ```sh
//! cargo run --release -p netvale --example forwarder -- vale0:in vale1:out
//! ```

use std::time::Duration;

use netvale::{Error, ErrorKind, Namespace, Result};

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = names.as_slice() else {
        let usage = "usage: forwarder FROM-PORT TO-PORT";
        return Err(Error::new(ErrorKind::Usage, usage));
    };
    let ns = Namespace::from_env()?;
    let (mut from, mut to) = (ns.open(from)?, ns.open(to)?);
    println!(
        "{} -> {}, {}",
        from.name(),
        to.name(),
        if from.same_region(&to) {
            "without copying"
        } else {
            "copying"
        }
    );
    let mut frames = 0u64;
    loop {
        if !from.wait_rx(Some(Duration::from_secs(10)))? {
            println!("{frames} frames forwarded; nothing came for 10 s");
            return Ok(());
        }
        frames += u64::from(from.rx(0).forward(to.tx(0), 512));
        to.tx(0).sync()?;
        from.rx(0).sync()?;
    }
}
