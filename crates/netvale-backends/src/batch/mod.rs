//! Batches of frames that lie in the buffers of a pool.
//!
//! A frame is a chain of up to [`MAX_PIECES`] pieces of buffers, so that a
//! 64 KiB frame that waits for segmentation crosses a back end whole. Back ends
//! hand the chains to the kernel as scatter lists: frames are not copied on
//! their way between a pool and a socket.
//!
//! Others may write the pool's memory. A frame's bytes can change at any time,
//! the chain cannot: it is private to this process.

#[cfg(any(feature = "tap", feature = "packet", feature = "vxlan"))]
pub(crate) mod iov;

use netvale_shm::{Bufs, Mem, Pool};

/// Most pieces of one frame, the number that netmap allows too.
pub const MAX_PIECES: usize = 64;

/// A pool of equal buffers that back ends read and write in place.
#[derive(Clone)]
pub struct BufPool {
    pool: Pool,
    /// The pool's own part of the mapping: its start is the first buffer's.
    #[cfg(any(feature = "tap", feature = "packet", feature = "vxlan"))]
    mem: Mem,
    count: u32,
    stride: u32,
}

impl BufPool {
    /// The pool of `count` buffers, `stride` bytes apart, at byte `off` of
    /// `mem`. `None` where [`Mem::bufs`] has none.
    #[must_use]
    pub fn new(mem: &Mem, off: usize, count: u32, stride: u32) -> Option<Self> {
        let pool = mem.pool(off, count, stride)?;
        Some(Self {
            pool,
            #[cfg(any(feature = "tap", feature = "packet", feature = "vxlan"))]
            mem: mem.part(off, (count as usize).checked_mul(stride as usize)?)?,
            count,
            stride,
        })
    }

    /// The buffers.
    #[inline]
    #[must_use]
    pub fn bufs(&self) -> Bufs<'_> {
        self.pool.bufs()
    }

    /// Buffers in the pool.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes in each buffer.
    #[inline]
    #[must_use]
    pub fn stride(&self) -> u32 {
        self.stride
    }

    /// Where a piece is, if all of it lies in one buffer of the pool.
    #[cfg(any(feature = "tap", feature = "packet", feature = "vxlan"))]
    fn address(&self, piece: Piece) -> Option<*mut u8> {
        if piece.buf >= self.count || piece.off.checked_add(piece.len)? > self.stride {
            return None;
        }
        let off = piece.buf as usize * self.stride as usize + piece.off as usize;
        Some(self.mem.as_ptr().wrapping_add(off))
    }
}

impl std::fmt::Debug for BufPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufPool")
            .field("count", &self.count)
            .field("stride", &self.stride)
            .finish_non_exhaustive()
    }
}

/// A part of one buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which buffer.
    pub buf: u32,
    /// Where it begins in the buffer, bytes.
    pub off: u32,
    /// Its length, bytes.
    pub len: u32,
}

/// What became of the frames of a batch that were to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Where to go on: frames before it are done with, there is no room for
    /// those from it on.
    pub next: usize,
    /// Frames before `next` that can never be sent: too short or too long,
    /// outside the pool, or with a virtio-net header that makes no sense; and
    /// those that the interface dropped.
    pub refused: usize,
    /// Only time makes room: the descriptor says nothing of it.
    pub wait: bool,
}

/// Frames to be sent, or room for frames to be received.
///
/// To send, push chains as long as the frames. To receive, push chains that
/// are long enough for any frame; the back end sets how much of each it filled.
#[derive(Debug, Default)]
pub struct Batch {
    pieces: Vec<Piece>,
    frames: Vec<Frame>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    first: u32,
    pieces: u32,
    /// Bytes that count, at most the sum of the pieces.
    len: u32,
    truncated: bool,
}

/// A chain without pieces, with more than [`MAX_PIECES`], or of 4 GiB and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame is a chain of 1 to {MAX_PIECES} pieces, not {pieces} with {bytes} bytes")]
pub struct ChainError {
    /// Pieces there were.
    pub pieces: usize,
    /// Bytes there were.
    pub bytes: u64,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room, so that it allocates no more until it has so
    /// many frames and pieces.
    #[must_use]
    pub fn with_capacity(frames: usize, pieces: usize) -> Self {
        Self {
            pieces: Vec::with_capacity(pieces),
            frames: Vec::with_capacity(frames),
        }
    }

    /// Forgets all frames.
    #[inline]
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.frames.clear();
    }

    /// Appends a frame.
    ///
    /// # Errors
    ///
    /// [`ChainError`]; nothing is appended.
    #[inline]
    pub fn push(&mut self, chain: &[Piece]) -> Result<(), ChainError> {
        if let &[piece] = chain
            && let Ok(first) = u32::try_from(self.pieces.len())
        {
            self.pieces.push(piece);
            self.frames.push(Frame {
                first,
                pieces: 1,
                len: piece.len,
                truncated: false,
            });
            return Ok(());
        }
        self.push_long(chain)
    }

    fn push_long(&mut self, chain: &[Piece]) -> Result<(), ChainError> {
        let bytes: u64 = chain.iter().map(|p| u64::from(p.len)).sum();
        let error = ChainError {
            pieces: chain.len(),
            bytes,
        };
        let (Ok(len), Ok(pieces)) = (u32::try_from(bytes), u32::try_from(chain.len())) else {
            return Err(error);
        };
        let Ok(first) = u32::try_from(self.pieces.len()) else {
            return Err(error);
        };
        if chain.is_empty() || chain.len() > MAX_PIECES {
            return Err(error);
        }
        self.pieces.extend_from_slice(chain);
        self.frames.push(Frame {
            first,
            pieces,
            len,
            truncated: false,
        });
        Ok(())
    }

    /// Appends a frame of one piece: the first `len` bytes of buffer `buf`.
    #[inline]
    pub fn push_buf(&mut self, buf: u32, len: u32) {
        // One piece is always a chain.
        let _ = self.push(&[Piece { buf, off: 0, len }]);
    }

    /// Number of frames.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of frame `i`; 0 if there is none.
    #[inline]
    #[must_use]
    pub fn frame_len(&self, i: usize) -> usize {
        self.frames.get(i).map_or(0, |f| f.len as usize)
    }

    /// Whether received frame `i` was longer than its chain: its end is lost.
    #[inline]
    #[must_use]
    pub fn truncated(&self, i: usize) -> bool {
        self.frames.get(i).is_some_and(|f| f.truncated)
    }

    /// The pieces that frame `i` fills, the last one cut to what it uses.
    #[inline]
    pub fn pieces(&self, i: usize) -> impl Iterator<Item = Piece> + '_ {
        let mut left = self.frames.get(i).map_or(0, |f| f.len);
        let used = self.chain(i).iter().filter(|p| p.len > 0);
        used.map_while(move |p| {
            let len = left.min(p.len);
            left -= len;
            (len > 0).then_some(Piece { len, ..*p })
        })
    }

    /// The whole chain of frame `i`, used or not.
    #[inline]
    #[must_use]
    pub fn chain(&self, i: usize) -> &[Piece] {
        self.frames
            .get(i)
            .and_then(|f| {
                let first = f.first as usize;
                self.pieces.get(first..first + f.pieces as usize)
            })
            .unwrap_or_default()
    }

    /// Bytes that fit into the chain of frame `i`.
    #[must_use]
    pub fn room(&self, i: usize) -> usize {
        self.chain(i).iter().map(|p| p.len as usize).sum()
    }

    /// Copies bytes of frame `i` from byte `at` on; how many there were.
    #[must_use]
    pub fn read(&self, pool: &BufPool, i: usize, at: usize, dst: &mut [u8]) -> usize {
        let mut done = 0;
        self.walk(i, at, dst.len(), |piece, off, range| {
            let ok = dst
                .get_mut(range.clone())
                .is_some_and(|dst| pool.bufs().read(piece.buf, off, dst));
            done = if ok { range.end } else { done };
            ok
        });
        done
    }

    /// Copies bytes into frame `i` from byte `at` on; how many fitted.
    pub fn write(&self, pool: &BufPool, i: usize, at: usize, src: &[u8]) -> usize {
        let mut done = 0;
        self.walk(i, at, src.len(), |piece, off, range| {
            let ok = src
                .get(range.clone())
                .is_some_and(|src| pool.bufs().write(piece.buf, off, src));
            done = if ok { range.end } else { done };
            ok
        });
        done
    }

    /// Opens a gap of `gap` bytes at byte `at` of frame `i`, moving what comes
    /// after. What does not fit any more is lost and the frame is truncated.
    #[cfg(feature = "packet")]
    pub(crate) fn open_gap(&mut self, pool: &BufPool, i: usize, at: usize, gap: usize) {
        let old = self.frame_len(i);
        let new = (old + gap).min(self.room(i));
        let lost = old + gap > new;
        self.set_len(i, new, lost || self.truncated(i));
        let mut buf = [0; 2048];
        let mut end = new.saturating_sub(gap);
        while end > at {
            let start = at.max(end.saturating_sub(buf.len()));
            if let Some(part) = buf.get_mut(..end - start) {
                let n = self.read(pool, i, start, part);
                let part = part.get(..n).unwrap_or_default();
                self.write(pool, i, start + gap, part);
            }
            end = start;
        }
    }

    /// Records what was received into chain `i`; `truncated`: it is not whole.
    pub fn set_len(&mut self, i: usize, len: usize, truncated: bool) {
        let len = len.min(self.room(i));
        if let Some(f) = self.frames.get_mut(i) {
            // At most the room, which fits by construction.
            f.len = u32::try_from(len).unwrap_or(u32::MAX);
            f.truncated = truncated;
        }
    }

    /// Exchanges two frames.
    #[cfg(any(feature = "tap", feature = "vxlan"))]
    pub(crate) fn swap(&mut self, i: usize, j: usize) {
        if i.max(j) < self.frames.len() {
            self.frames.swap(i, j);
        }
    }

    /// Calls `visit` for the parts of frame `i` that hold its bytes
    /// `at..at + len`: the piece, the offset in the buffer, and which of the
    /// `len` bytes these are. Stops when `visit` says `false`.
    fn walk(
        &self,
        i: usize,
        at: usize,
        len: usize,
        mut visit: impl FnMut(Piece, usize, std::ops::Range<usize>) -> bool,
    ) {
        let mut skip = at;
        let mut done = 0;
        for piece in self.pieces(i) {
            let here = piece.len as usize;
            if skip >= here {
                skip -= here;
                continue;
            }
            let n = (here - skip).min(len - done);
            if n == 0 || !visit(piece, piece.off as usize + skip, done..done + n) {
                return;
            }
            done += n;
            skip = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> BufPool {
        BufPool::new(&Mem::heap(64 + 8 * 128), 64, 8, 128).unwrap()
    }

    #[test]
    fn chains_have_one_to_sixty_four_pieces() {
        let mut batch = Batch::new();
        let piece = Piece {
            buf: 0,
            off: 0,
            len: 10,
        };
        batch.push(&[]).unwrap_err();
        batch.push(&[piece; 65]).unwrap_err();
        let huge = Piece {
            len: u32::MAX,
            ..piece
        };
        batch.push(&[huge, piece]).unwrap_err();
        assert_eq!(batch.len(), 0);
        batch.push(&[piece; 64]).unwrap();
        assert_eq!((batch.len(), batch.frame_len(0)), (1, 640));
        assert_eq!(batch.frame_len(1), 0, "there is none");
    }

    #[test]
    fn bytes_go_through_all_pieces() {
        let (pool, mut batch) = (pool(), Batch::new());
        let p = |buf, off, len| Piece { buf, off, len };
        batch
            .push(&[p(3, 8, 5), p(0, 0, 0), p(7, 100, 28), p(1, 0, 9)])
            .unwrap();
        let bytes: Vec<u8> = (1..=42).collect();
        assert_eq!(batch.write(&pool, 0, 0, &bytes), 42);
        assert_eq!(batch.write(&pool, 0, 40, &bytes), 2, "two were left");
        assert_eq!(batch.write(&pool, 0, 40, &[41, 42]), 2);
        let mut back = [0; 60];
        assert_eq!(batch.read(&pool, 0, 0, &mut back), 42);
        assert_eq!(back[..42], bytes);
        assert_eq!(batch.read(&pool, 0, 3, &mut back[..4]), 4);
        assert_eq!(back[..4], [4, 5, 6, 7]);
        assert_eq!(batch.read(&pool, 0, 42, &mut back), 0);
        let mut byte = [0];
        assert!(pool.bufs().read(7, 100, &mut byte));
        assert_eq!(byte, [6], "the sixth byte begins the second piece");
    }

    #[cfg(feature = "packet")]
    #[test]
    fn a_gap_moves_what_follows_and_reports_what_it_loses() {
        let pool = pool();
        for (room, kept) in [(128, 40), (42, 38), (44, 40)] {
            let mut batch = Batch::new();
            let p = |buf, len| Piece { buf, off: 0, len };
            batch.push(&[p(2, 7), p(3, room - 7)]).unwrap();
            batch.set_len(0, 40, false);
            let bytes: Vec<u8> = (0..40).collect();
            assert_eq!(batch.write(&pool, 0, 0, &bytes), 40);
            batch.open_gap(&pool, 0, 12, 4);
            assert_eq!(batch.write(&pool, 0, 12, &[0xee; 4]), 4);
            let mut back = [0; 44];
            let n = batch.read(&pool, 0, 0, &mut back);
            assert_eq!(n, kept + 4, "room {room}");
            assert_eq!(batch.truncated(0), kept < 40, "room {room}");
            assert_eq!(back[..12], bytes[..12]);
            assert_eq!(back[12..16], [0xee; 4]);
            assert_eq!(back[16..n], bytes[12..kept]);
        }
    }

    #[test]
    fn addresses_are_inside_the_pool() {
        let pool = pool();
        let at = |buf, off, len| pool.address(Piece { buf, off, len });
        assert!(at(7, 0, 128).is_some());
        assert!(at(7, 1, 128).is_none());
        assert!(at(8, 0, 0).is_none());
        assert!(at(0, u32::MAX, 2).is_none());
        let (a, b) = (at(0, 0, 1).unwrap(), at(1, 3, 1).unwrap());
        assert_eq!(b.addr() - a.addr(), 131);
    }
}
