//! Checksums that senders left to interfaces which do not compute them.

use netvale_backends::batch::{Batch, BufPool};
use netvale_wire::offload::unfinished;

/// Bytes up to a checksum behind two VLAN tags and the longest IPv4 header.
const HEAD: usize = 14 + 8 + 60 + 18;

/// Finishes those of the first `n` frames of a batch that are half done.
pub(crate) fn checksums(pool: &BufPool, batch: &Batch, n: usize, bytes: &mut Vec<u8>) {
    for i in 0..n {
        let mut head = [0; HEAD];
        let have = batch.read(pool, i, 0, &mut head);
        let head = head.get(..have).unwrap_or_default();
        let Some(left) = unfinished(head, batch.frame_len(i)) else {
            continue;
        };
        bytes.clear();
        bytes.resize(left.end - left.start, 0);
        if batch.read(pool, i, left.start, bytes) != bytes.len() {
            continue;
        }
        if let Some(value) = left.finish(bytes) {
            let at = left.start + left.offset;
            batch.write(pool, i, at, &value.to_be_bytes());
        }
    }
}
