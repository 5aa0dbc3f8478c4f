//! A switch with a look-up function of one's own: frames go to the port whose
//! index is the last byte of their destination address.

use std::sync::Arc;

use netvale::{Dest, FrameHead, Lookup, LookupKind, Namespace, Result};

/// Routes by the last byte of the destination address.
struct LastByte;

impl Lookup for LastByte {
    fn lookup(&self, head: &FrameHead) -> Dest {
        let [_, _, _, _, _, last, ..] = head.dst.to_le_bytes();
        match last {
            0xff => Dest::All,
            port => Dest::Port(u16::from(port)),
        }
    }
}

fn main() -> Result<()> {
    let ns = Namespace::embedded()?.with_lookup(Arc::new(LastByte));
    let mut ports = [
        ns.open("vale0:a")?,
        ns.open("vale0:b")?,
        ns.open("vale0:c")?,
    ];
    ns.set_lookup("vale0", LookupKind::Custom)?;

    let mut frame = [0u8; 60];
    for to in [1, 2, 2, 1, 2] {
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, to]);
        ports[0].tx(0).push(&frame).expect("an empty ring has room");
    }
    ports[0].tx(0).sync()?;
    for port in &mut ports[1..] {
        let n = port.rx(0).sync()?;
        println!("{}: {n} frames", port.name());
    }
    Ok(())
}
