//! What these tests stand on.

use crate::common::{Bed, Port, queue};
use netvale_wire::name::PortSpec;

pub(crate) fn frame(dst: u8, src: u8) -> [u8; 60] {
    let mut f = [src; 60];
    f[..6].copy_from_slice(&[2, 0, 0, 0, 0, dst]);
    f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src]);
    f
}

pub(crate) fn all() -> [u8; 60] {
    let mut f = frame(0, 9);
    f[..6].fill(0xff);
    f
}

pub(crate) fn send(port: &mut Port, r: usize, f: &[u8]) {
    assert!(queue(port, r, &[f]));
    port.tx[r].sync().unwrap();
}

/// Nothing is open and nothing is missing.
#[track_caller]
pub(crate) fn assert_empty(bed: &Bed) {
    bed.check();
    bed.with(|d| {
        assert!(d.is_idle());
        assert!(d.list().is_empty());
        for r in d.check().regions {
            assert_eq!(r.free, r.bufs - 2, "buffers of region {} leaked", r.id);
        }
    });
}

pub(crate) fn spec(name: &str) -> PortSpec {
    PortSpec::parse(name).unwrap()
}
