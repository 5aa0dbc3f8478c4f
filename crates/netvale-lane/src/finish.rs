//! Checksums that senders left to interfaces which do not compute them.

use netvale_backends::batch::{Batch, BufPool};
use netvale_wire::offload::unfinished;

/// Bytes up to a checksum behind two VLAN tags and the longest IPv4 header.
const HEAD: usize = 14 + 8 + 60 + 18;
/// Bytes of a cache line, in which the checksum of plain IPv4 lies.
const LINE: usize = 64;

/// How much of a frame has to be looked at, given its bytes 8 to 15; 0 if
/// nothing more.
fn needed(bytes: [u8; 8]) -> usize {
    match bytes {
        // Without options.
        [_, _, _, _, 0x08, 0x00, 0x45, _] => LINE,
        [_, _, _, _, 0x08, 0x00, _, _]
        | [_, _, _, _, 0x86, 0xdd, _, _]
        | [_, _, _, _, 0x81, 0x00, _, _]
        | [_, _, _, _, 0x88, 0xa8, _, _] => HEAD,
        _ => 0,
    }
}

/// Finishes those of the first `n` frames of a batch that are half done.
pub(crate) fn checksums(pool: &BufPool, batch: &Batch, n: usize, bytes: &mut Vec<u8>) {
    for i in 0..n {
        let Some(first) = batch.chain(i).first() else {
            continue;
        };
        // What is not all in the first piece is looked at the long way.
        let need = match first.len {
            16.. => needed(
                pool.bufs()
                    .load(first.buf, first.off as usize + 8)
                    .to_le_bytes(),
            ),
            _ => HEAD,
        };
        if need > 0 {
            checksum(pool, batch, i, need, bytes);
        }
    }
}

#[inline(never)]
fn checksum(pool: &BufPool, batch: &Batch, i: usize, need: usize, bytes: &mut Vec<u8>) {
    let mut head = [0; HEAD];
    let have = match head.get_mut(..need) {
        Some(head) => batch.read(pool, i, 0, head),
        None => 0,
    };
    let head = head.get(..have).unwrap_or_default();
    let Some(left) = unfinished(head, batch.frame_len(i)) else {
        return;
    };
    bytes.clear();
    bytes.resize(left.end - left.start, 0);
    if batch.read(pool, i, left.start, bytes) != bytes.len() {
        return;
    }
    if let Some(value) = left.finish(bytes) {
        let at = left.start + left.offset;
        batch.write(pool, i, at, &value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use netvale_shm::Mem;
    use netvale_wire::checksum::{pseudo_v4, pseudo_v6};

    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    /// A frame whose checksum was left to the interface: behind `tags` tags,
    /// with IPv6 or with so many bytes of IPv4 options; and where its message
    /// begins.
    fn left(tags: usize, v6: bool, options: usize, protocol: u8) -> (Vec<u8>, usize) {
        let mut f = vec![2; 12];
        (0..tags).for_each(|_| f.extend([0x81, 0, 0, 7]));
        let len: u16 = 101;
        let pseudo = if v6 {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend(len.to_be_bytes());
            f.extend([protocol, 64]);
            f.extend([0xfd; 32]);
            let ip = [0xfd; 16].into();
            pseudo_v6(ip, ip, protocol, len.into())
        } else {
            let ihl = u8::try_from(5 + options / 4).unwrap();
            f.extend([8, 0, 0x40 | ihl, 0]);
            f.extend((len + 20 + u16::try_from(options).unwrap()).to_be_bytes());
            f.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            f.extend([10; 8]);
            f.extend(vec![1; options]);
            let ip = [10; 4].into();
            pseudo_v4(ip, ip, protocol, len)
        };
        let start = f.len();
        f.extend((0..len).map(|i| i.to_le_bytes()[0]));
        let at = start + if protocol == TCP { 16 } else { 6 };
        f[at..at + 2].copy_from_slice(&pseudo.fold().to_be_bytes());
        (f, start)
    }

    #[test]
    fn what_was_left_is_finished_wherever_it_lies() {
        let pool = BufPool::new(&Mem::heap(4 * 2112), 0, 4, 2112).unwrap();
        for (tags, v6, options) in [
            (0, false, 0),
            (0, false, 4),
            (0, false, 40),
            (0, true, 0),
            (1, false, 0),
            (2, false, 40),
            (2, true, 0),
        ] {
            for protocol in [TCP, UDP] {
                let (frame, start) = left(tags, v6, options, protocol);
                let right = unfinished(&frame, frame.len()).unwrap();
                let right = right.finish(&mut frame[start..].to_vec()).unwrap();
                // In one piece, and in pieces.
                for cut in [frame.len(), 10, 16, 40] {
                    let (a, b) = frame.split_at(cut);
                    assert!(pool.bufs().write(1, 0, a) && pool.bufs().write(2, 0, b));
                    let piece = |buf, part: &[u8]| netvale_backends::batch::Piece {
                        buf,
                        off: 0,
                        len: u32::try_from(part.len()).unwrap(),
                    };
                    let mut batch = Batch::new();
                    batch.push_buf(3, 60); // nothing of note
                    let chain = [piece(1, a), piece(2, b)];
                    let used = if b.is_empty() { 1 } else { 2 };
                    batch.push(&chain[..used]).unwrap();
                    checksums(&pool, &batch, 2, &mut Vec::new());
                    let mut got = [0; 2];
                    let at = start + if protocol == TCP { 16 } else { 6 };
                    assert_eq!(batch.read(&pool, 1, at, &mut got), 2);
                    assert_eq!(
                        u16::from_be_bytes(got),
                        right,
                        "{tags} {v6} {options} {cut}"
                    );
                }
            }
        }
    }
}
