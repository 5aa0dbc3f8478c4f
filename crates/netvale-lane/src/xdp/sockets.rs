//! The sockets of all queues, and what they can do.

use std::sync::Arc;
use std::time::Duration;

use netvale_backends::af_xdp::{CopyMode, RingSizes, Xsk, XskConfig, XskError};
use netvale_ring::kring::KringId;

use super::suspicion::{Counters, Suspicion};
use super::{HandOver, Interface, Memory, Shape, XdpLane};
use crate::books::Books;
use crate::chain;

/// Entries of each ring, if there are not many queues, and at least.
const ENTRIES: u32 = 2048;
const LEAST_ENTRIES: u32 = 512;
/// Entries of all queues together, beyond which each gets fewer.
const ALL_ENTRIES: u32 = 8192;
/// Longest frame that there is room for, should the MTU be raised.
const JUMBO: u32 = 10_000;
/// Ethernet header, two VLAN tags.
const HEADER: u32 = 14 + 8;
/// What the kernel says if memory may not be locked: ENOMEM, ENOBUFS.
const NO_MEMORY: [i32; 2] = [12, 105];

/// What sockets can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// The device reads and writes the memory itself.
    pub zero_copy: bool,
    /// The kernel has copied what it has taken to send.
    pub copies: bool,
    /// Frames may have several pieces.
    pub several: bool,
    /// Longest frame that may come. Bytes.
    pub longest: usize,
}

impl Traits {
    /// Whether a buffer can be lent to the kernel.
    #[inline]
    pub(super) fn reaches(&self, memory: &Memory, buf: u32) -> bool {
        let umem = memory.umem();
        umem.bufs().contains(&buf) && (!self.zero_copy || umem.device_can_reach(buf))
    }
}

/// Why there are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A queue has a socket, maybe one that has just been closed: the kernel
    /// takes a while then.
    #[error("{0}")]
    Busy(String),
    /// The memory cannot be registered.
    #[error("{0}")]
    Memory(String),
    /// The interface or the kernel cannot do it.
    #[error("{0}")]
    Other(String),
}

/// Sockets of all queues of an interface, which nobody has used yet.
#[derive(Debug)]
pub struct Sockets {
    /// By queue.
    xsks: Vec<Xsk>,
    /// Their memory.
    memory: Memory,
    /// What they can do.
    traits: Traits,
    /// Why the kernel copies frames, if it does.
    no_zero_copy: Option<String>,
    /// Why frames are copied once more between buffers of the sockets and
    /// those of rings, if they are.
    pub(super) copied: Option<String>,
}

impl Sockets {
    /// Fewer buffers than this are not worth a socket.
    pub const LEAST_STOCK: u32 = 256;

    /// Entries of each ring of a socket.
    #[must_use]
    pub fn entries(queues: u32) -> u32 {
        let each = ALL_ENTRIES / queues.max(1);
        (each.next_power_of_two() / (1 + u32::from(!each.is_power_of_two())))
            .clamp(LEAST_ENTRIES, ENTRIES)
    }

    /// Buffers that each lane should have: half of them to receive into, half
    /// to send from.
    #[must_use]
    pub fn stock(queues: u32) -> u32 {
        2 * Self::entries(queues)
    }

    /// Whether lanes need stocks of a region's buffers.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.memory.is_in_place()
    }

    /// Whether the device reads and writes the buffers itself, for a while also
    /// after they were closed.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.traits.zero_copy
    }

    /// Lanes that serve them, and what others need to use them, by queue.
    /// `rings`: into which frames are received. `stock`: gives a ring's lane
    /// buffers of the region, if that is where frames lie.
    ///
    /// # Errors
    ///
    /// There is no room for books, or a queue gets too few buffers.
    pub fn serve(
        self,
        rings: &[KringId],
        mut stock: impl FnMut(KringId, u32) -> Vec<u32>,
    ) -> Result<(Vec<XdpLane>, Vec<HandOver>), String> {
        let queues = u32::try_from(self.xsks.len()).unwrap_or(u32::MAX);
        let want = Self::stock(queues);
        let own = self.memory.umem().bufs();
        let each = own.len() / self.xsks.len().max(1);
        let (mut lanes, mut hand_overs) = (Vec::new(), Vec::new());
        let counters = Counters::default();
        for ((i, xsk), &kring) in self.xsks.into_iter().enumerate().zip(rings) {
            let bufs: Vec<u32> = match self.memory.is_in_place() {
                true => stock(kring, want),
                false => own.clone().skip(i * each).take(each).collect(),
            };
            if bufs.len() < Self::LEAST_STOCK as usize {
                return Err(format!("only {} buffers for queue {i}", bufs.len()));
            }
            let (books, books_file) = Books::create(want).map_err(|e| chain(&e))?;
            hand_overs.push(HandOver {
                socket: Arc::clone(&xsk.socket),
                books: books.clone(),
                books_file,
                shape: Shape {
                    entries: Self::entries(queues),
                    stock: want,
                    traits: self.traits,
                    memory: self.memory.shape(),
                },
                memory: self.memory.clone(),
                counters: counters.clone(),
            });
            let queue = u32::try_from(i).unwrap_or(u32::MAX);
            let suspicion = Suspicion::of(counters.clone(), queue);
            lanes.push(XdpLane::begin(
                xsk,
                &self.memory,
                kring,
                bufs,
                (self.traits, books, suspicion),
            )?);
        }
        Ok((lanes, hand_overs))
    }

    /// Opens them in this memory.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn open(interface: &Interface, memory: &Memory) -> Result<Self, Fault> {
        let fits = interface.mtu + HEADER <= memory.umem().layout().usable;
        let huge = memory.umem().layout().huge;
        // The best first.
        let ways = [
            (CopyMode::ZeroCopy, true),
            (CopyMode::ZeroCopy, false),
            (CopyMode::Copy, true),
            (CopyMode::Copy, false),
        ];
        let mut ways = ways
            .into_iter()
            .filter(|&(copy, several)| (copy == CopyMode::Copy || huge) && (several || fits));
        let mut no_zero_copy = (!huge).then(|| "the memory is not in huge pages".to_owned());
        let mut refused = None;
        let (first, config) = loop {
            let Some((copy, several)) = ways.next() else {
                return Err(refused.unwrap_or_else(|| Fault::Other("no mode fits".into())));
            };
            let config = config(interface, copy, several);
            match Xsk::open(memory.umem(), interface.index, 0, &config) {
                Ok(xsk) => break (xsk, config),
                Err(e) => match fault(&e) {
                    Fault::Other(why) => {
                        if copy == CopyMode::ZeroCopy {
                            no_zero_copy = Some(why.clone());
                        }
                        refused = Some(Fault::Other(why));
                    }
                    other => return Err(other),
                },
            }
        };
        let zero_copy = first.socket.is_zero_copy().unwrap_or(false);
        let mut xsks = vec![first];
        for queue in 1..interface.queues {
            let Some(first) = xsks.first() else { break };
            let xsk = Xsk::open_shared(&first.socket, interface.index, queue, &config);
            xsks.push(xsk.map_err(|e| fault(&e))?);
        }
        Ok(Self {
            xsks,
            memory: memory.clone(),
            traits: Traits {
                zero_copy,
                copies: !zero_copy && !interface.sends_in_place,
                several: config.multi_buffer,
                longest: match config.multi_buffer {
                    true => JUMBO.max(interface.mtu + HEADER) as usize,
                    false => memory.umem().layout().usable as usize,
                },
            },
            no_zero_copy: no_zero_copy.filter(|_| !zero_copy),
            copied: None,
        })
    }

    /// How frames move, for people.
    #[must_use]
    pub fn about(&self) -> String {
        let mut about = match &self.no_zero_copy {
            None => "zero copy".to_owned(),
            Some(why) => format!("the kernel copies: {why}"),
        };
        match &self.copied {
            None => about.push_str("; buffers of the region itself"),
            Some(why) => about = format!("{about}; frames are copied once more: {why}"),
        }
        if !self.traits.several {
            about.push_str("; frames in one piece");
        }
        about
    }
}

fn config(interface: &Interface, copy: CopyMode, several: bool) -> XskConfig {
    let entries = Sockets::entries(interface.queues);
    XskConfig {
        sizes: RingSizes::all(entries),
        copy,
        multi_buffer: several,
        tx_budget: Some(entries),
        // Others are served in the meantime.
        patience: Duration::ZERO,
    }
}

fn fault(e: &XskError) -> Fault {
    let text = chain(e);
    match e {
        XskError::Busy { .. } => Fault::Busy(text),
        XskError::Os(os) if os.errno().is_some_and(|n| NO_MEMORY.contains(&n)) => {
            Fault::Memory(text)
        }
        _ => Fault::Other(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_queues_share_the_buffers() {
        let entries = [1, 2, 4, 5, 8, 9, 16, 64].map(Sockets::entries);
        assert_eq!(entries, [2048, 2048, 2048, 1024, 1024, 512, 512, 512]);
    }
}
