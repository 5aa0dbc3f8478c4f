//! Frames that say where they come from and whether they are whole.

/// Shortest frame of [`tagged`].
pub const MIN: usize = 60;
/// To everyone.
pub const BROADCAST: [u8; 6] = [0xff; 6];

const TYPE: [u8; 2] = [0x88, 0xb5];
const TAG: usize = 14;
const BODY: usize = TAG + 12;
const SUM: usize = 8;

/// The address of a test's station.
#[must_use]
pub fn mac(n: u32) -> [u8; 6] {
    let [a, b, c, d] = n.to_be_bytes();
    [2, 0x4e, a, b, c, d]
}

/// A frame with nothing but addresses and a filler byte.
#[must_use]
pub fn plain(dst: [u8; 6], src: [u8; 6], len: usize, filler: u8) -> Vec<u8> {
    let mut f = vec![filler; len.max(14)];
    f[..6].copy_from_slice(&dst);
    f[6..12].copy_from_slice(&src);
    f[12..14].copy_from_slice(&TYPE);
    f
}

/// A frame that carries who sent it, its number, and a checksum of it all.
#[must_use]
pub fn tagged(dst: [u8; 6], src: [u8; 6], len: usize, source: u32, seq: u64) -> Vec<u8> {
    let mut f = Vec::new();
    tagged_into(&mut f, dst, src, len, source, seq);
    f
}

/// The same into a vector that is used again.
pub fn tagged_into(f: &mut Vec<u8>, dst: [u8; 6], src: [u8; 6], len: usize, source: u32, seq: u64) {
    let len = len.max(MIN);
    f.clear();
    f.extend_from_slice(&dst);
    f.extend_from_slice(&src);
    f.extend_from_slice(&TYPE);
    f.extend_from_slice(&source.to_le_bytes());
    f.extend_from_slice(&seq.to_le_bytes());
    let word = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(source);
    let filler = word.to_le_bytes();
    let mut turn = 0u8;
    for chunk in 0..(len - SUM - BODY).div_ceil(8) {
        let room = (len - SUM - BODY - chunk * 8).min(8);
        f.extend(filler[..room].iter().map(|b| b.wrapping_add(turn)));
        turn = turn.wrapping_add(1);
    }
    let sum = checksum(f);
    f.extend_from_slice(&sum.to_le_bytes());
}

/// Who sent a frame of [`tagged`] and its number; why not, if it is not whole.
///
/// # Errors
///
/// What is wrong with it.
pub fn verify(f: &[u8]) -> Result<(u32, u64), String> {
    let bad = |why: &str| {
        Err(format!(
            "{why}: {} bytes {:02x?}",
            f.len(),
            &f[..f.len().min(40)]
        ))
    };
    if f.len() < MIN {
        return bad("too short");
    }
    if f[12..14] != TYPE {
        return bad("no frame of ours");
    }
    let (body, sum) = f.split_at(f.len() - SUM);
    if checksum(body).to_le_bytes() != sum {
        return bad("not whole");
    }
    let mut source = [0; 4];
    source.copy_from_slice(&f[TAG..TAG + 4]);
    let mut seq = [0; 8];
    seq.copy_from_slice(&f[TAG + 4..BODY]);
    Ok((u32::from_le_bytes(source), u64::from_le_bytes(seq)))
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    let mut sum = bytes.len() as u64;
    let mut mix = |word: u64| sum = (sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    for c in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(c);
        mix(u64::from_le_bytes(word));
    }
    let mut word = [0; 8];
    word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(u64::from_le_bytes(word));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        for len in [60, 61, 64, 200] {
            let f = tagged(BROADCAST, mac(1), len, 7, 9);
            assert_eq!(f.len(), len);
            assert_eq!(verify(&f), Ok((7, 9)));
            for i in 0..len {
                let mut g = f.clone();
                g[i] ^= 0x40;
                verify(&g).unwrap_err();
            }
            verify(&f[..len - 1]).unwrap_err();
        }
    }
}
