//! A socket that several processes use in turn.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use netvale_backends::af_xdp::{RingSizes, Suspected, Xsk, XskSocket};
use netvale_ring::kring::KringId;
use netvale_ring::world::{RegionMap, World};
use netvale_shm::Memfd;

use super::suspicion::{Counters, Suspicion};
use super::{Arena, Memory, Traits, XdpLane};
use crate::books::{self, Books};
use crate::{Losses, chain};

/// What it takes to use a socket that another process has made.
#[derive(Debug)]
pub struct HandOver {
    pub(super) socket: Arc<XskSocket>,
    pub(super) books: Books,
    pub(super) books_file: Memfd,
    pub(super) memory: Memory,
    pub(super) shape: Shape,
    pub(super) counters: Counters,
}

/// What goes with the descriptors of a [`HandOver`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Entries of each of the socket's rings.
    pub entries: u32,
    /// Buffers that its lane has, at most.
    pub stock: u32,
    /// What the socket can do.
    pub traits: Traits,
    /// Where its frames lie.
    pub memory: MemoryShape,
}

/// Where frames lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryShape {
    /// In these buffers of the region, which may be made of huge pages.
    Region {
        /// The buffers.
        arena: Range<u32>,
        /// Whether it is.
        huge: bool,
    },
    /// In a file with so many buffers.
    Own(u32),
}

/// Where the rings of a socket's port lie.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The hidden state.
    pub world: &'a World,
    /// The region.
    pub map: &'a RegionMap,
    /// The ring from which received frames go into the port.
    pub kring: KringId,
    /// The queue's number.
    pub queue: u32,
}

impl HandOver {
    /// What has to be told with the descriptors.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Where frames may lack their checksum: those that are counted for this.
    pub(super) fn counters(&self) -> Option<&Counters> {
        (!self.shape.traits.zero_copy).then_some(&self.counters)
    }

    /// How many frames of this queue may have lacked their checksum; `None` if
    /// nobody counts.
    #[must_use]
    pub fn suspected(&self, queue: u32) -> Option<u64> {
        let counter = Suspected::of(self.counters.file()?, queue).ok()?;
        Some(counter.count())
    }

    /// What to pass on: the socket, the books, the frames unless they lie in
    /// the region, and what counts frames that may lack their checksum.
    #[must_use]
    pub fn files(&self) -> Vec<BorrowedFd<'_>> {
        let mut files = vec![self.socket.as_fd(), self.books_file.as_fd()];
        files.extend(self.memory.file());
        files.extend(self.counters.file());
        files
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &XskSocket {
        &self.socket
    }

    /// Lets go of what a registration held when it ended.
    pub fn break_locks(&self, owner: u16) -> usize {
        self.books.break_locks(owner)
    }

    /// Pieces of frames that were copied once more, because their buffers are
    /// none that the kernel knows: received, sent.
    #[must_use]
    pub fn copied(&self) -> [u64; 2] {
        self.books.copied()
    }

    /// Frames lost by all who used the socket.
    #[must_use]
    pub fn losses(&self) -> Losses {
        Losses::at(self.books.mem(), books::LOSSES).unwrap_or_default()
    }

    /// Lets go of the socket, which nobody may use any more. If it is only
    /// dropped, as when the server ends, others go on with it.
    #[must_use]
    pub fn close(self) -> Closed {
        self.books.close();
        Closed(self.books)
    }
}

/// What is left of a socket that its maker has closed: others may be at it for
/// a moment more, and have it open.
#[derive(Debug)]
pub struct Closed(Books);

impl Closed {
    /// Whether nobody is at it any more, and nobody will be.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.0.seize()
    }

    /// As [`HandOver::break_locks`].
    pub fn break_locks(&self, owner: u16) -> usize {
        self.0.break_locks(owner)
    }

    /// As [`HandOver::losses`].
    #[must_use]
    pub fn losses(&self) -> Losses {
        Losses::at(self.0.mem(), books::LOSSES).unwrap_or_default()
    }
}

/// Lanes of this process for a socket that another has made, one for each
/// direction. `files` are those of [`HandOver::files`].
///
/// # Errors
///
/// They are not what they should be.
pub fn take_over(
    shape: &Shape,
    files: Vec<OwnedFd>,
    place: Place<'_>,
) -> Result<[XdpLane; 2], String> {
    let mut files = files.into_iter();
    let mut file = || files.next().ok_or("a descriptor is missing");
    let (socket, books) = (file()?, file()?);
    let memory = match &shape.memory {
        MemoryShape::Region { arena, huge } => {
            let arena = Arena {
                world: place.world,
                map: place.map,
                range: arena.clone(),
                huge: *huge,
            };
            Memory::of_region(&arena).map_err(|e| chain(&e))?
        }
        MemoryShape::Own(count) => Memory::from_fd(file()?, *count, place.map.geom.buf_size)?,
    };
    if shape.stock > 1 << 20 {
        return Err(format!("sockets of another kind: {shape:?}"));
    }
    let len = Books::len(shape.stock);
    let mem = Memfd::from_fd(books, len).and_then(|f| f.map());
    let books = Books::at(mem.map_err(|e| chain(&e))?, shape.stock).ok_or("no room for books")?;
    let xsk = Xsk::from_fd(socket, RingSizes::all(shape.entries)).map_err(|e| chain(&e))?;
    let counter = files
        .next()
        .and_then(|file| Suspected::of(file.as_fd(), place.queue).ok());
    let gear = (shape.traits, books, Suspicion::with(counter));
    let whole = XdpLane::of(xsk, &memory, place.kring, gear)?;
    Ok(whole.split())
}
