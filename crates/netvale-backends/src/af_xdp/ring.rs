//! The four rings, each with one user.
//!
//! A ring is used in three steps: [`RxRing::refresh`] looks how far the other
//! end has come, `take` or `put` handle entries without any shared access but
//! to the entry itself, and `release` or `publish` tell the other end.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::sys::RingMap;
use super::{RingCorrupt, XskSocket};

const NEED_WAKEUP: u32 = 1;
const CONTINUED: u64 = 1;

/// What stands in the rx and tx rings: bytes somewhere in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desc {
    /// Where: offset in the memory in the lower 48 bits, to which the upper
    /// 16 are added.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the frame goes on in the next descriptor.
    pub more: bool,
}

impl Desc {
    /// An address outside any memory.
    const VOID: u64 = u64::MAX;

    /// Whether it was taken back ([`TxRing::void`]).
    #[inline]
    #[must_use]
    pub fn is_void(self) -> bool {
        self.addr == Self::VOID
    }
}

/// Our end of a ring, as the kernel defines both ends.
///
/// Our own counter is kept here and only written to the shared memory, never
/// read back, so that nobody else can move it.
#[derive(Debug)]
struct End {
    map: RingMap,
    size: u32,
    /// Our counter: the next entry to put or to take.
    next: u32,
    /// Entries that we may put or take before looking again.
    ready: u32,
    /// Keeps the descriptor: whoever has a ring can kick.
    socket: Arc<XskSocket>,
}

impl End {
    fn producer(socket: Arc<XskSocket>, map: RingMap, size: u32) -> Self {
        let next = map.producer().load(Ordering::Acquire);
        Self {
            map,
            size,
            next,
            ready: 0,
            socket,
        }
    }

    fn consumer(socket: Arc<XskSocket>, map: RingMap, size: u32) -> Self {
        let next = map.consumer().load(Ordering::Acquire);
        Self {
            map,
            size,
            next,
            ready: 0,
            socket,
        }
    }

    #[inline]
    fn refresh_free(&mut self) -> Result<u32, RingCorrupt> {
        let consumer = self.map.consumer().load(Ordering::Acquire);
        let used = self.check(self.next.wrapping_sub(consumer))?;
        self.ready = self.size - used;
        Ok(self.ready)
    }

    #[inline]
    fn refresh_used(&mut self) -> Result<u32, RingCorrupt> {
        let producer = self.map.producer().load(Ordering::Acquire);
        self.ready = self.check(producer.wrapping_sub(self.next))?;
        Ok(self.ready)
    }

    #[inline]
    fn is_empty(&self) -> bool {
        let producer = self.map.producer().load(Ordering::Acquire);
        producer == self.map.consumer().load(Ordering::Acquire)
    }

    #[inline]
    fn pending(&self) -> u32 {
        let producer = self.map.producer().load(Ordering::Acquire);
        let consumer = self.map.consumer().load(Ordering::Acquire);
        producer.wrapping_sub(consumer).min(self.size)
    }

    #[inline]
    fn check(&mut self, used: u32) -> Result<u32, RingCorrupt> {
        if used > self.size {
            self.ready = 0;
            return Err(RingCorrupt {
                claimed: used,
                size: self.size,
            });
        }
        Ok(used)
    }

    /// The next entry's number, if there is one.
    #[inline]
    fn advance(&mut self) -> Option<usize> {
        self.ready = self.ready.checked_sub(1)?;
        let slot = self.next & (self.size - 1);
        self.next = self.next.wrapping_add(1);
        Some(slot as usize)
    }

    #[inline]
    fn unread(&mut self, position: u32) {
        // Never more than the ring has: whoever passes nonsense reads some entry
        // again.
        let n = self.next.wrapping_sub(position).min(self.size);
        self.next = self.next.wrapping_sub(n);
        self.ready = self.ready.saturating_add(n).min(self.size);
    }

    #[inline]
    fn word(&self, at: usize) -> u64 {
        let word = self.map.slots().get(at);
        word.map_or(0, |w| w.load(Ordering::Relaxed))
    }

    #[inline]
    fn set_word(&self, at: usize, value: u64) {
        if let Some(word) = self.map.slots().get(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    fn take_desc(&mut self) -> Option<Desc> {
        let slot = self.advance()?;
        Some(self.desc(u32::try_from(slot).unwrap_or(0)))
    }

    #[inline]
    fn desc(&self, slot: u32) -> Desc {
        let at = 2 * slot as usize;
        let second = self.word(at + 1);
        let [l0, l1, l2, l3, ..] = second.to_le_bytes();
        Desc {
            addr: self.word(at),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            more: second >> 32 & CONTINUED != 0,
        }
    }

    #[inline]
    fn put_desc(&mut self, desc: Desc) -> bool {
        let Some(slot) = self.advance() else {
            return false;
        };
        let options = if desc.more { CONTINUED << 32 } else { 0 };
        self.set_word(2 * slot, desc.addr);
        self.set_word(2 * slot + 1, options | u64::from(desc.len));
        true
    }

    #[inline]
    fn publish(&self) {
        self.map.producer().store(self.next, Ordering::Release);
    }

    #[inline]
    fn release(&self) {
        self.map.consumer().store(self.next, Ordering::Release);
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        // The kernel announces that it sleeps, then looks into the ring; so
        // what we published must be visible before we look for that.
        fence(Ordering::SeqCst);
        self.map.flags().load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

macro_rules! ring {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(End);

        impl $name {
            /// Entries of the ring.
            #[must_use]
            pub fn size(&self) -> u32 {
                self.0.size
            }

            /// The socket that it belongs to.
            #[must_use]
            pub fn socket(&self) -> &Arc<XskSocket> {
                &self.0.socket
            }

            /// Entries put or taken since the socket was made; it wraps.
            #[inline]
            #[must_use]
            pub fn position(&self) -> u32 {
                self.0.next
            }

            /// Goes on where another handle of this ring, whose user has let
            /// go of it, had come to. The kernel is told with the next
            /// `publish` or `release`.
            #[inline]
            pub fn seek(&mut self, position: u32) {
                (self.0.next, self.0.ready) = (position, 0);
            }

            /// Whether nothing lies between the two ends, whichever handle
            /// moved ours last. Two loads.
            #[inline]
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }
    };
}

ring!(
    /// Received frames, in the order in which they came.
    RxRing
);
ring!(
    /// Frames to be sent, in this order.
    TxRing
);
ring!(
    /// Buffers to receive into.
    FillRing
);
ring!(
    /// Buffers whose frames have been sent.
    CompletionRing
);

impl RxRing {
    pub(super) fn new(socket: Arc<XskSocket>, map: RingMap, size: u32) -> Self {
        Self(End::consumer(socket, map, size))
    }

    /// Looks how many descriptors have come; that many can be taken.
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`]: nothing can be taken.
    #[inline]
    pub fn refresh(&mut self) -> Result<u32, RingCorrupt> {
        self.0.refresh_used()
    }

    /// Descriptors that have come, as far as two loads can tell: at most as many
    /// as the ring has.
    #[inline]
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.0.pending()
    }

    /// Takes the next descriptor. [`super::Umem::locate`] finds the frame.
    #[inline]
    pub fn take(&mut self) -> Option<Desc> {
        self.0.take_desc()
    }

    /// Takes back what was taken since `position`, to be taken again at once.
    #[inline]
    pub fn unread(&mut self, position: u32) {
        self.0.unread(position);
    }

    /// Gives the entries taken back to the kernel. Their *buffers* are ours
    /// until they are put into the fill ring.
    #[inline]
    pub fn release(&mut self) {
        self.0.release();
    }
}

impl TxRing {
    pub(super) fn new(socket: Arc<XskSocket>, map: RingMap, size: u32) -> Self {
        Self(End::producer(socket, map, size))
    }

    /// Looks how many entries are free; that many can be put.
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`]: nothing can be put.
    #[inline]
    pub fn refresh(&mut self) -> Result<u32, RingCorrupt> {
        self.0.refresh_free()
    }

    /// Puts a piece of a frame; `false` if there is no room.
    #[inline]
    #[must_use = "what was not put is not sent"]
    pub fn put(&mut self, desc: Desc) -> bool {
        self.0.put_desc(desc)
    }

    /// Entry number `position`, which was put and may be sent already, as it
    /// stands there. Others with the ring may have written it.
    #[inline]
    #[must_use]
    pub fn entry(&self, position: u32) -> Desc {
        self.0.desc(position & (self.0.size - 1))
    }

    /// Has the kernel skip an entry that was shown to it and that it has not
    /// taken yet; it stays the end of its frame, or not. In copy mode only: the
    /// kernel takes entries in calls that users of the ring make, and in no
    /// other.
    pub fn void(&mut self, position: u32) {
        let slot = (position & (self.0.size - 1)) as usize;
        self.0.set_word(2 * slot, Desc::VOID);
    }

    /// Shows what was put to the kernel: whole frames only. It is sent by the
    /// next [`XskSocket::kick_tx`], which is needed if
    /// [`TxRing::needs_wakeup`] says so.
    #[inline]
    pub fn publish(&mut self) {
        self.0.publish();
    }

    /// Whether the kernel must be told that there are frames.
    #[inline]
    #[must_use]
    pub fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }
}

impl FillRing {
    pub(super) fn new(socket: Arc<XskSocket>, map: RingMap, size: u32) -> Self {
        Self(End::producer(socket, map, size))
    }

    /// Looks how many entries are free; that many can be put.
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`]: nothing can be put.
    #[inline]
    pub fn refresh(&mut self) -> Result<u32, RingCorrupt> {
        self.0.refresh_free()
    }

    /// Lends a buffer ([`super::Umem::fill_addr`]) to the kernel; `false` if
    /// there is no room.
    #[inline]
    #[must_use = "what was not put is still ours"]
    pub fn put(&mut self, addr: u64) -> bool {
        let Some(slot) = self.0.advance() else {
            return false;
        };
        self.0.set_word(slot, addr);
        true
    }

    /// Shows what was put to the kernel.
    #[inline]
    pub fn publish(&mut self) {
        self.0.publish();
    }

    /// Whether the driver waits for buffers and must be told: by `poll` on
    /// the socket or [`XskSocket::kick_rx`].
    #[inline]
    #[must_use]
    pub fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }
}

impl CompletionRing {
    pub(super) fn new(socket: Arc<XskSocket>, map: RingMap, size: u32) -> Self {
        Self(End::consumer(socket, map, size))
    }

    /// Looks how many buffers have been sent; that many can be taken.
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`]: nothing can be taken.
    #[inline]
    pub fn refresh(&mut self) -> Result<u32, RingCorrupt> {
        self.0.refresh_used()
    }

    /// Takes the next. [`super::Umem::completed_buf`] finds the buffer.
    #[inline]
    pub fn take(&mut self) -> Option<u64> {
        let slot = self.0.advance()?;
        Some(self.0.word(slot))
    }

    /// Gives the entries taken back to the kernel.
    #[inline]
    pub fn release(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use netvale_shm::{HugePages, Memfd};
    use rustix::net::xdp::XdpRingOffset;

    use super::super::RingSizes;
    use super::*;

    const SIZE: u32 = 8;

    /// A ring without a kernel: in a file that both ends map.
    struct Wire {
        fd: OwnedFd,
        words: usize,
    }

    impl Wire {
        fn new(words: usize) -> Self {
            let file = Memfd::create("ring", 4096, HugePages::Never).unwrap();
            let fd = file.as_fd().try_clone_to_owned().unwrap();
            Self { fd, words }
        }

        fn map(&self) -> RingMap {
            let at = XdpRingOffset {
                producer: 0,
                consumer: 64,
                flags: Some(128),
                desc: 192,
            };
            RingMap::new(self.fd.as_fd(), 0, at, SIZE, self.words).unwrap()
        }

        /// Counters near their end, so that they wrap.
        fn start(&self, at: u32) -> RingMap {
            let map = self.map();
            map.producer().store(at, Ordering::Relaxed);
            map.consumer().store(at, Ordering::Relaxed);
            map
        }

        fn socket(&self) -> Arc<XskSocket> {
            let fd = self.fd.try_clone().unwrap();
            Arc::new(XskSocket::fake(fd, RingSizes::all(SIZE)))
        }
    }

    fn desc(i: u32) -> Desc {
        Desc {
            addr: u64::from(i) << 40 | 7,
            len: u32::MAX - i,
            more: i.is_multiple_of(3),
        }
    }

    #[test]
    fn descriptors_arrive_in_order_over_the_wrap() {
        let wire = Wire::new(2);
        drop(wire.start(u32::MAX - 4));
        let mut tx = TxRing::new(wire.socket(), wire.map(), SIZE);
        let mut rx = RxRing::new(wire.socket(), wire.map(), SIZE);
        let (mut sent, mut got) = (0, 0);
        for step in [8, 3, 5, 8, 1, 7, 8, 8] {
            tx.refresh().unwrap();
            for _ in 0..step {
                assert!(tx.put(desc(sent)));
                sent += 1;
            }
            assert_eq!(rx.refresh(), Ok(0), "not published");
            tx.publish();
            assert_eq!(rx.refresh(), Ok(step));
            while let Some(d) = rx.take() {
                assert_eq!(d, desc(got));
                got += 1;
            }
            assert_eq!(tx.refresh(), Ok(SIZE - step), "not released");
            rx.release();
        }
        assert_eq!(sent, got);
    }

    #[test]
    fn a_full_ring_takes_no_more_and_an_empty_one_gives_none() {
        let wire = Wire::new(1);
        let mut fill = FillRing::new(wire.socket(), wire.start(3), SIZE);
        let mut done = CompletionRing::new(wire.socket(), wire.map(), SIZE);
        assert!(!fill.put(1), "nobody has looked for room");
        assert_eq!(fill.refresh(), Ok(SIZE));
        for i in 0..u64::from(SIZE) {
            assert!(fill.put(i));
        }
        assert!(!fill.put(99));
        fill.publish();
        assert_eq!(fill.refresh(), Ok(0));
        assert_eq!(done.take(), None);
        assert_eq!(done.refresh(), Ok(SIZE));
        for i in 0..u64::from(SIZE) {
            assert_eq!(done.take(), Some(i));
        }
        assert_eq!(done.take(), None);
        done.release();
        assert_eq!(fill.refresh(), Ok(SIZE));
    }

    #[test]
    fn what_has_come_is_counted_without_taking_it() {
        let wire = Wire::new(2);
        drop(wire.start(u32::MAX - 1));
        let mut tx = TxRing::new(wire.socket(), wire.map(), SIZE);
        let rx = RxRing::new(wire.socket(), wire.map(), SIZE);
        tx.refresh().unwrap();
        assert!((0..3).all(|i| tx.put(desc(i))));
        assert_eq!(rx.pending(), 0, "not published");
        tx.publish();
        assert_eq!(rx.pending(), 3);
        let mut other = RxRing::new(wire.socket(), wire.map(), SIZE);
        other.refresh().unwrap();
        let start = other.position();
        assert_eq!([other.take(), other.take()], [0, 1].map(|i| Some(desc(i))));
        other.unread(start);
        assert_eq!([other.take(), other.take()], [0, 1].map(|i| Some(desc(i))));
        other.unread(other.position());
        assert_eq!([other.take(), other.take()], [Some(desc(2)), None]);
        wire.map().producer().store(100, Ordering::Relaxed);
        assert_eq!(rx.pending(), SIZE, "what a peer spoilt");
    }

    #[test]
    fn impossible_counters_are_refused_and_forgiven() {
        let wire = Wire::new(1);
        let evil = wire.start(100);
        let mut fill = FillRing::new(wire.socket(), wire.map(), SIZE);
        let mut done = CompletionRing::new(wire.socket(), wire.map(), SIZE);
        evil.producer().store(109, Ordering::Release);
        let e = done.refresh().unwrap_err();
        assert_eq!((e.claimed, e.size), (9, SIZE));
        assert_eq!(done.take(), None);
        evil.producer().store(99, Ordering::Release);
        assert_eq!(done.refresh().unwrap_err().claimed, u32::MAX);
        evil.producer().store(108, Ordering::Release);
        assert_eq!(done.refresh(), Ok(8));
        evil.consumer().store(101, Ordering::Release);
        assert_eq!(fill.refresh().unwrap_err().claimed, u32::MAX);
        assert!(!fill.put(1));
        evil.consumer().store(100, Ordering::Release);
        assert_eq!(fill.refresh(), Ok(SIZE));
    }

    #[test]
    fn our_own_counter_cannot_be_moved_by_others() {
        let wire = Wire::new(1);
        let evil = wire.start(0);
        let mut fill = FillRing::new(wire.socket(), wire.map(), SIZE);
        fill.refresh().unwrap();
        assert!(fill.put(5));
        evil.producer().store(77, Ordering::Release);
        fill.publish();
        assert_eq!(evil.producer().load(Ordering::Acquire), 1);
    }

    #[test]
    fn what_was_put_can_be_read_back_and_taken_back() {
        let wire = Wire::new(2);
        drop(wire.start(u32::MAX));
        let mut tx = TxRing::new(wire.socket(), wire.map(), SIZE);
        let mut rx = RxRing::new(wire.socket(), wire.map(), SIZE);
        tx.refresh().unwrap();
        let start = tx.position();
        assert!((0..4).all(|i| tx.put(desc(i))));
        assert_eq!(
            [0, 3].map(|i: u32| tx.entry(start.wrapping_add(i))),
            [0, 3].map(desc)
        );
        tx.void(start.wrapping_add(1));
        tx.void(start.wrapping_add(3));
        tx.publish();
        assert_eq!(rx.refresh(), Ok(4));
        let got = [0; 4].map(|_| rx.take().unwrap());
        assert_eq!(got.map(Desc::is_void), [false, true, false, true]);
        assert_eq!((got[0], got[2], got[3].more), (desc(0), desc(2), true));
    }

    #[test]
    fn another_handle_goes_on_where_the_first_has_come_to() {
        let wire = Wire::new(1);
        let mut first = FillRing::new(wire.socket(), wire.start(u32::MAX), SIZE);
        let mut second = FillRing::new(wire.socket(), wire.map(), SIZE);
        let mut done = CompletionRing::new(wire.socket(), wire.map(), SIZE);
        first.refresh().unwrap();
        assert!(first.put(1) && first.put(2));
        assert!(done.is_empty(), "not published");
        first.publish();
        assert!(!done.is_empty());
        second.seek(first.position());
        assert!(!second.put(3), "nobody has looked for room since");
        assert_eq!(second.refresh(), Ok(SIZE - 2));
        assert!(second.put(3));
        second.publish();
        assert_eq!(done.refresh(), Ok(3));
        assert_eq!([done.take(), done.take(), done.take()], [1, 2, 3].map(Some));
        // What was taken and not released is taken again.
        done.seek(u32::MAX);
        assert_eq!(done.refresh(), Ok(3));
        assert_eq!(done.take(), Some(1));
    }

    #[test]
    fn the_flag_of_the_other_end_is_seen() {
        let wire = Wire::new(1);
        let other = wire.start(0);
        let fill = FillRing::new(wire.socket(), wire.map(), SIZE);
        assert!(!fill.needs_wakeup());
        other.flags().store(1, Ordering::Relaxed);
        assert!(fill.needs_wakeup());
    }
}
