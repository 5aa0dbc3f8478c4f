//! Where everything lies: the public region and the hidden state.
//!
//! A *region* is netmap's three pools, one after the other, each object at a
//! fixed stride, in the memory that clients map:
//!
//! ```text
//! region   | if pool | ring pool | buffer pool | (bells) |
//! state    | header | owners | regions | ports | krings | holders | switches |
//! ```
//!
//! The *state* is what the kernel keeps to itself in netmap: hidden ring
//! state, port and learning tables. It lies in its own file, which isolated
//! clients never map. Both are sparse: what is not used costs nothing.

/// Bytes of a buffer, and the distance between two: 33 cache lines, so that
/// the headers of a ring's frames spread over all cache sets.
pub const BUF_SIZE: u32 = 2112;

/// Buffers 0 and 1 are never given to anybody (netmap's rule).
pub const RESERVED_BUFS: u32 = 2;

/// Bytes of an interface object: a header and the offsets of 512 rings, which
/// is what a pipe can have.
pub const IF_SIZE: u32 = 4160;

/// Bytes of a ring object: a header and [`crate::MAX_SLOTS`] slots.
pub const RING_SIZE: u32 = 256 + 16 * crate::pos::MAX_SLOTS;

/// Offset and size of one region's pools. Bytes, all multiples of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionGeom {
    /// Interface objects.
    pub ifs: u32,
    /// Ring objects.
    pub rings: u32,
    /// Bytes of one ring object.
    pub ring_size: u32,
    /// Buffers.
    pub bufs: u32,
    /// Bytes of one buffer.
    pub buf_size: u32,
}

impl RegionGeom {
    /// The shared region of a namespace: below 4 GiB, because legacy programs
    /// keep its size in 32 bits.
    pub const GLOBAL: Self = Self {
        ifs: 4096,
        rings: 4096,
        ring_size: RING_SIZE,
        bufs: 1_700_000,
        buf_size: BUF_SIZE,
    };

    /// A region for one port and what may be opened beside it.
    #[must_use]
    pub fn private(rings: u32, slots: u32, extra: u32) -> Self {
        Self {
            ifs: 16,
            rings,
            ring_size: (256 + 16 * slots).next_multiple_of(4096),
            bufs: rings * slots + extra + RESERVED_BUFS,
            buf_size: BUF_SIZE,
        }
    }

    /// Byte offset of interface object `i`.
    #[inline]
    #[must_use]
    pub fn if_ofs(&self, i: u32) -> usize {
        i as usize * IF_SIZE as usize
    }

    /// Byte offset of ring object `i`.
    #[inline]
    #[must_use]
    pub fn ring_ofs(&self, i: u32) -> usize {
        page(self.ifs as usize * IF_SIZE as usize) + i as usize * self.ring_size as usize
    }

    /// Byte offset of buffer 0.
    #[inline]
    #[must_use]
    pub fn buf_ofs(&self) -> usize {
        page(self.ring_ofs(self.rings))
    }

    /// Bytes of the three pools: netmap's `nr_memsize`.
    #[must_use]
    pub fn pools_len(&self) -> usize {
        page(self.buf_ofs() + self.bufs as usize * self.buf_size as usize)
    }

    /// Byte offset of the page through which an isolated client and its
    /// worker tell each other that they sleep ([`crate::bell`]).
    #[must_use]
    pub fn bell_ofs(&self) -> usize {
        self.pools_len()
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn file_len(&self) -> usize {
        self.bell_ofs() + 4096
    }
}

/// Sizes of the tables in the hidden state. All are limits that are reported
/// when reached; unused entries cost no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateGeom {
    /// Ports at once.
    pub ports: u32,
    /// Rings at once, all directions.
    pub krings: u32,
    /// Regions at once.
    pub regions: u32,
    /// Regions whose buffers move between ports (each has a holder table).
    pub shared_regions: u32,
    /// Buffers of a shared region.
    pub holders: u32,
    /// Switches at once.
    pub switches: u32,
}

impl Default for StateGeom {
    fn default() -> Self {
        Self {
            ports: 16 * 1024,
            krings: 32 * 1024,
            regions: 8 * 1024,
            shared_regions: 16,
            holders: 2_000_000,
            switches: 1024,
        }
    }
}

/// First word of every state file: "netvale" and the layout's version.
pub const STATE_MAGIC: u64 = 0x0001_656c_6176_746e;

/// Header words, by index.
pub mod header {
    /// [`super::STATE_MAGIC`].
    pub const MAGIC: usize = 0;
    /// Ageing epoch of the learning tables, 0..=15.
    pub const EPOCH: usize = 1;
    /// Counts changes to ports, rings and switches: what was worked out
    /// before is out of date when it moves.
    pub const TOPOLOGY: usize = 8;
    /// Words of the header.
    pub const WORDS: usize = 512;
}

/// Bytes of the header.
pub const HEADER: usize = header::WORDS * 8;
/// Owners (registrations): 16-bit identifiers.
pub const OWNERS: u32 = 1 << 16;
/// Bytes of a region descriptor.
pub const REGION_DESC: usize = 64;
/// Bytes of a port record.
pub const PORT_REC: usize = 256;
/// Words of a kring before its records.
pub const KRING_HEAD: usize = 64;
/// Words of a kring: head, one reservation record a slot, one sum a slot. In
/// one piece, so that one check of the bounds serves for all.
pub const KRING_WORDS: usize = KRING_HEAD + 2 * crate::pos::MAX_SLOTS as usize;
/// Bytes of a kring.
pub const KRING: usize = KRING_WORDS * 8;
/// Ports of one switch: indices 0..=4094 (12 bits in the learning table).
pub const SWITCH_PORTS: u32 = 4095;
/// Entries of a learning table: room for 64 Ki stations with half to spare.
pub const FDB_ENTRIES: u32 = 1 << 17;
/// Words before a switch's port array.
pub const SWITCH_HEAD: usize = 64;
/// Bytes of a switch: head, port array, learning table.
pub const SWITCH: usize =
    page(SWITCH_HEAD * 8 + SWITCH_PORTS as usize * 8) + FDB_ENTRIES as usize * 8;

impl StateGeom {
    /// Byte offset of owner `o`'s word.
    #[must_use]
    pub fn owner_ofs(&self, o: u16) -> usize {
        HEADER + o as usize * 8
    }
    /// Byte offset of region descriptor `r`.
    #[must_use]
    pub fn region_ofs(&self, r: u32) -> usize {
        self.owner_ofs(0) + OWNERS as usize * 8 + r as usize * REGION_DESC
    }
    /// Byte offset of port record `p`.
    #[inline]
    #[must_use]
    pub fn port_ofs(&self, p: u32) -> usize {
        page(self.region_ofs(self.regions)) + p as usize * PORT_REC
    }
    /// Byte offset of kring `k`.
    #[inline]
    #[must_use]
    pub fn kring_ofs(&self, k: u32) -> usize {
        page(self.port_ofs(self.ports)) + k as usize * KRING
    }
    /// Byte offset of shared region `s`'s holder table.
    #[must_use]
    pub fn holders_ofs(&self, s: u32) -> usize {
        page(self.kring_ofs(self.krings)) + s as usize * page(self.holders as usize * 4)
    }
    /// Byte offset of switch `s`.
    #[inline]
    #[must_use]
    pub fn switch_ofs(&self, s: u32) -> usize {
        page(self.holders_ofs(self.shared_regions)) + s as usize * SWITCH
    }
    /// Byte offset of switch `s`'s learning table.
    #[inline]
    #[must_use]
    pub fn fdb_ofs(&self, s: u32) -> usize {
        self.switch_ofs(s) + SWITCH - FDB_ENTRIES as usize * 8
    }
    /// Bytes of the whole file.
    #[must_use]
    pub fn file_len(&self) -> usize {
        page(self.switch_ofs(self.switches))
    }
    /// As six numbers, for the control protocol.
    #[must_use]
    pub fn to_array(self) -> [u32; 6] {
        [
            self.ports,
            self.krings,
            self.regions,
            self.shared_regions,
            self.holders,
            self.switches,
        ]
    }
    /// Back from [`StateGeom::to_array`]; `None` if a table would be empty or
    /// beyond what identifiers can name.
    #[must_use]
    pub fn from_array(a: [u32; 6]) -> Option<Self> {
        let [ports, krings, regions, shared_regions, holders, switches] = a;
        let fine = (1..=1 << 20).contains(&ports)
            && (1..=1 << 20).contains(&krings)
            && (1..=1 << 16).contains(&regions)
            && (1..=1 << 10).contains(&shared_regions)
            && (1..=1 << 24).contains(&holders)
            && (1..=1 << 16).contains(&switches);
        fine.then_some(Self {
            ports,
            krings,
            regions,
            shared_regions,
            holders,
            switches,
        })
    }
}

const fn page(n: usize) -> usize {
    n.next_multiple_of(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_do_not_overlap() {
        let g = StateGeom::default();
        let marks = [
            g.owner_ofs(0),
            g.owner_ofs(u16::MAX) + 8,
            g.region_ofs(0),
            g.region_ofs(g.regions),
            g.port_ofs(0),
            g.port_ofs(g.ports),
            g.kring_ofs(0),
            g.kring_ofs(g.krings),
            g.holders_ofs(0),
            g.holders_ofs(g.shared_regions),
            g.switch_ofs(0),
            g.switch_ofs(0) + SWITCH_HEAD * 8 + SWITCH_PORTS as usize * 8,
            g.fdb_ofs(0),
            g.switch_ofs(1),
            g.file_len(),
        ];
        assert!(marks.is_sorted(), "{marks:?}");
        assert_eq!(g.fdb_ofs(0) + FDB_ENTRIES as usize * 8, g.switch_ofs(1));
        assert_eq!(StateGeom::from_array(g.to_array()), Some(g));
        assert_eq!(StateGeom::from_array([0; 6]), None);
    }

    #[test]
    fn the_global_region_fits_32_bits_and_its_tables() {
        let g = RegionGeom::GLOBAL;
        assert!(g.pools_len() < u32::MAX as usize);
        assert!(g.bufs <= StateGeom::default().holders);
        assert_eq!(g.ring_ofs(0) % 128, 0);
        assert_eq!(g.buf_ofs() % 64, 0);
    }
}
