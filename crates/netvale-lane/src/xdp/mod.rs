//! AF_XDP sockets of an interface.
//!
//! 1. [`open`] registers memory and makes a socket for each queue: the memory
//!    of a region's arena, so that frames are received into, and sent from, the
//!    buffers of rings; or, where that cannot be, memory of its own, and every
//!    frame is copied once more.
//! 2. [`Sockets::serve`] makes lanes for them. In the region's memory each gets
//!    a stock of buffers, in the name of the ring from which frames are
//!    received into the port (`Domain::take_stock`).
//! 3. [`redirect`] has the interface's frames go to the sockets. Without it
//!    they send, and the stack receives.
//!
//! To be undone in this order: the program, the lanes with their sockets, the
//! stocks. A kernel that copies has let go of a buffer when the socket is
//! closed.
//!
//! A socket can be used by several processes in turn: whoever made it hands
//! over its descriptor and the books ([`HandOver`]); each maps them and makes
//! lanes of its own ([`take_over`]). The buffers to receive into and those to
//! send from are two sets, because the two directions are used by different
//! threads or processes.
//!
//! Pages that are registered stay in memory, which is limited for most users
//! ([`lockable`]).

mod again;
mod hand_over;
mod inward;
mod lane;
mod memory;
mod outward;
mod sockets;
mod suspicion;

use std::ops::Range;

use netvale_backends::af_xdp::{Redirect, Suspects};
use netvale_backends::bpf::{BpfError, XdpMode};
use netvale_ring::world::{RegionMap, World};

pub use netvale_backends::af_xdp::XskSocket as Socket;

pub use hand_over::{Closed, HandOver, MemoryShape, Place, Shape, take_over};
pub use lane::XdpLane;
pub use memory::{Memory, lockable};
pub use sockets::{Fault, Sockets, Traits};

use crate::chain;

/// The part of a region whose buffers sockets may use.
#[derive(Debug, Clone)]
pub struct Arena<'a> {
    /// The hidden state, which says who holds which buffer.
    pub world: &'a World,
    /// The region.
    pub map: &'a RegionMap,
    /// The buffers.
    pub range: Range<u32>,
    /// The region is made of huge pages.
    pub huge: bool,
}

/// What is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Queues, each of which gets a socket.
    pub queues: u32,
    /// Longest packet, without Ethernet header. Bytes.
    pub mtu: u32,
    /// Its driver sends from the memory that it is given, though the kernel
    /// does not call that zero copy. So does virtio-net's.
    pub sends_in_place: bool,
}

/// Opens sockets for all queues of an interface, in a region's arena; if it has
/// none, for a reason that is given, or it cannot be registered, in memory of
/// their own, where every frame is copied once more. `ring`: bytes of a buffer
/// of the region.
///
/// # Errors
///
/// [`Fault`]; nothing is left behind.
pub fn open(
    interface: &Interface,
    arena: Result<Arena<'_>, String>,
    ring: u32,
) -> Result<Sockets, Fault> {
    let why = match arena {
        Err(why) => why,
        Ok(arena) => {
            let memory = Memory::of_region(&arena);
            match memory.map_err(|e| Fault::Memory(chain(&e))) {
                Err(e) => e.to_string(),
                Ok(memory) => match Sockets::open(interface, &memory) {
                    Err(Fault::Memory(why)) => why,
                    done => return done,
                },
            }
        }
    };
    let mut count = 2 * Sockets::entries(interface.queues);
    loop {
        let memory = Memory::own(count * interface.queues, ring).map_err(Fault::Memory)?;
        match Sockets::open(interface, &memory) {
            Err(Fault::Memory(_)) if count > Sockets::LEAST_STOCK => count /= 2,
            done => {
                return done.map(|mut sockets| {
                    sockets.copied = Some(why);
                    sockets
                });
            }
        }
    }
}

/// Has the frames of an interface's queues go to these sockets, and not to the
/// stack, until it is dropped: in the driver, or if `generic` is allowed and
/// the driver cannot, in the stack. That must not be while frames are given to
/// the stack by a TAP: they would come back.
///
/// # Errors
///
/// The kernel's: there is another program, for one.
pub fn redirect(index: u32, sockets: &[HandOver], generic: bool) -> Result<Redirect, String> {
    let queues = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
    let attach = |counts: Option<&Suspects>| {
        let in_mode = |mode| match counts {
            Some(counts) => Redirect::attach_counting(index, queues, mode, counts),
            None => Redirect::attach(index, queues, mode),
        };
        match in_mode(XdpMode::Native) {
            Err(BpfError::Unsupported { .. }) if generic => in_mode(XdpMode::Generic),
            done => done,
        }
    };
    let redirect = match sockets.first().and_then(HandOver::counters) {
        None => attach(None),
        // Those who rely on the counters must not be left without.
        Some(counters) if counters.get().is_some() => attach(counters.get()),
        Some(counters) => match Suspects::new(queues).map(|new| (attach(Some(&new)), new)) {
            Ok((Ok(redirect), new)) => {
                counters.trust(new);
                Ok(redirect)
            }
            // An old kernel; everybody looks at the frames.
            Ok((Err(BpfError::Verifier { .. }), _)) | Err(_) => attach(None),
            Ok((refused, _)) => refused,
        },
    };
    let redirect = redirect.map_err(|e| chain(&e))?;
    for (queue, socket) in (0..).zip(sockets) {
        let connected = redirect.connect(queue, socket.socket());
        connected.map_err(|e| chain(&e))?;
    }
    Ok(redirect)
}
