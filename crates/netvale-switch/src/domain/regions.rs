//! Regions: the one that all share, those made for somebody, and the private
//! ones of isolated ports.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Release;

use netvale_ring::layout::{RESERVED_BUFS, RegionGeom};
use netvale_ring::world::{Holder, RegionMap};

use super::books::{BufIds, Ids};
use super::{Domain, DomainError, GLOBAL_REGION, MAX_EXTRA, MemSource, Region, Result};

/// A region's shape and names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Its number.
    pub id: u16,
    /// Which one of that number; 0 if it is not there yet.
    pub generation: u32,
    /// Number among the shared ones.
    pub shared: Option<u16>,
    /// Its pools.
    pub geom: RegionGeom,
}

/// For whom a region was made.
#[derive(Debug)]
pub(super) struct Wanted {
    /// What they call it.
    key: String,
    /// Processes that asked for it and have not used it yet.
    by: Vec<u32>,
}

/// Sizes that a region may have: products of two stay far from overflowing.
fn check_geom(g: RegionGeom) -> Result<()> {
    let RegionGeom {
        ifs,
        rings,
        ring_size,
        bufs,
        buf_size,
    } = g;
    let fine = (1..=1 << 20).contains(&ifs)
        && (1..=1 << 20).contains(&rings)
        && (256..=1 << 20).contains(&ring_size)
        && (RESERVED_BUFS + 1..=1 << 28).contains(&bufs)
        && (64..=1 << 16).contains(&buf_size)
        && ring_size % 64 == 0
        && buf_size % 64 == 0;
    if fine {
        return Ok(());
    }
    Err(DomainError::Invalid(format!(
        "a region has 1 to 1048576 interfaces and rings, rings of 256 to 1048576 bytes, 3 to \
         268435456 buffers of 64 to 65536 bytes, sizes in multiples of 64: not {g:?}"
    )))
}

impl<M: MemSource> Domain<M> {
    /// The region `id`, made now if it is the shared one and not there yet.
    pub(super) fn global_region(&mut self) -> Result<u16> {
        if self.regions.get(u32::from(GLOBAL_REGION)).is_none() {
            let id = u32::from(GLOBAL_REGION);
            let region = self.map_region(id, self.config.global, true, self.config.huge)?;
            self.regions.fill(id, region);
        }
        Ok(GLOBAL_REGION)
    }

    fn make_region(&mut self, geom: RegionGeom, shared: bool, huge: bool) -> Result<u16> {
        let limit = self.config.state.regions;
        let full = || DomainError::NoSpace(format!("{limit} memory regions exist already"));
        let id = self.regions.reserve().ok_or_else(full)?;
        let made = self.map_region(id, geom, shared, huge);
        match made {
            Ok(region) => {
                self.regions.fill(id, region);
                u16::try_from(id).ok().ok_or_else(full)
            }
            Err(e) => {
                self.regions.release(id);
                Err(e)
            }
        }
    }

    fn map_region(
        &mut self,
        id: u32,
        geom: RegionGeom,
        shared: bool,
        huge: bool,
    ) -> Result<Region<M::File>> {
        let bad = |why: String| DomainError::NoSpace(why);
        let Ok(id) = u16::try_from(id) else {
            return Err(bad("too many memory regions".into()));
        };
        let (mem, file) = self
            .source
            .create("netvale-region", geom.file_len(), huge)
            .map_err(bad)?;
        self.region_gen += 1;
        let table = if shared {
            Some(self.free_table()?)
        } else {
            None
        };
        let map = RegionMap::new(id, self.region_gen, table, geom, mem)
            .ok_or_else(|| bad("memory region is too small for its pools".into()))?;
        Ok(Region {
            generation: self.region_gen,
            map,
            file,
            huge,
            ifs: Ids::new(geom.ifs),
            rings: Ids::new(geom.rings),
            bufs: BufIds::starting_at(geom.bufs, RESERVED_BUFS),
            users: 0,
            wanted: None,
        })
    }

    /// A holder table that no shared region uses.
    fn free_table(&self) -> Result<u16> {
        let limit = self.config.state.shared_regions;
        let used = |t: u16| self.regions.iter().any(|(_, r)| r.map.shared == Some(t));
        (0..u16::try_from(limit).unwrap_or(u16::MAX))
            .find(|&t| !used(t))
            .ok_or_else(|| {
                DomainError::NoSpace(format!("{limit} shared memory regions exist already"))
            })
    }

    /// The region has a user more, who may be one it was made for.
    pub(super) fn enter_region(&mut self, id: u16, owner: u16) {
        let process = self.owners.get(u32::from(owner)).map_or(0, |o| o.pid);
        let Some(r) = self.regions.get_mut(u32::from(id)) else {
            return;
        };
        r.users += 1;
        let generation = r.generation;
        self.give_up_region(id, generation, process);
    }

    /// The region lost a user; one that was made for its users goes with the
    /// last.
    pub(super) fn leave_region(&mut self, id: u16) {
        if let Some(r) = self.regions.get_mut(u32::from(id)) {
            r.users = r.users.saturating_sub(1);
            self.drop_if_unused(id);
        }
    }

    fn drop_if_unused(&mut self, id: u16) {
        let unused = self.regions.get(u32::from(id)).is_some_and(|r| {
            let passing = match &r.wanted {
                Some(wanted) => wanted.by.is_empty(),
                None => r.map.shared.is_none(),
            };
            r.users == 0 && passing
        });
        if unused && let Some(r) = self.regions.release(u32::from(id)) {
            // The table's next user starts with nothing held.
            let holders = r
                .map
                .shared
                .and_then(|s| self.world.holders(s, r.map.geom.bufs));
            let used = holders.and_then(|h| h.get(..r.bufs.high_water() as usize));
            for h in used.into_iter().flatten() {
                h.store(Holder::FREE.bits(), Release);
            }
        }
    }

    /// The region for a new port: the one asked for, the shared one, or for an
    /// isolated port one of its own.
    pub(super) fn region_for(
        &mut self,
        asked: Option<u16>,
        isolated: bool,
        tx: (u16, u16),
        rx: (u16, u16),
        extra: u32,
    ) -> Result<u16> {
        if isolated {
            let rings = u32::from(tx.0) + u32::from(rx.0) + 2;
            let most = u32::from(tx.1.max(rx.1));
            let geom = RegionGeom::private(rings, most, extra.min(MAX_EXTRA));
            return self.make_region(geom, false, false);
        }
        self.known_region(asked.unwrap_or(GLOBAL_REGION))?;
        match asked {
            None | Some(GLOBAL_REGION) => self.global_region(),
            Some(id) => Ok(id),
        }
    }

    /// Makes another shared region; its identifier is a `@N` of port names.
    ///
    /// # Errors
    ///
    /// [`DomainError::NoSpace`].
    pub fn new_region(&mut self, geom: RegionGeom) -> Result<u16> {
        self.global_region()?;
        self.make_region(geom, true, self.config.huge)
    }

    /// A region for those who know the key: the one that was made under it, if
    /// it still lives, else a new one of this shape. It goes with its last
    /// user. Until it has one it stays for `process`, which may also give it
    /// up ([`Domain::give_up_region`]).
    ///
    /// # Errors
    ///
    /// [`DomainError::Invalid`]: impossible sizes. [`DomainError::NoSpace`].
    pub fn want_region(&mut self, key: &str, geom: RegionGeom, process: u32) -> Result<Layout> {
        let known = self.regions.iter().find_map(|(id, r)| {
            let fits = r.wanted.as_ref().is_some_and(|w| w.key == key);
            fits.then(|| u16::try_from(id).ok()).flatten()
        });
        let id = match known {
            Some(id) => id,
            None => {
                check_geom(geom)?;
                let most = self.config.state.holders;
                if geom.bufs > most {
                    return Err(DomainError::NoSpace(format!(
                        "a shared region has at most {most} buffers"
                    )));
                }
                // Of the size that was asked for, exactly: no huge pages.
                self.make_region(geom, true, false)?
            }
        };
        if let Some(r) = self.regions.get_mut(u32::from(id)) {
            let wanted = r.wanted.get_or_insert_with(|| Wanted {
                key: key.into(),
                by: vec![],
            });
            if !wanted.by.contains(&process) {
                wanted.by.push(process);
            }
        }
        self.layout(id)
    }

    /// A process that wanted a region will not use it, or uses it already.
    pub fn give_up_region(&mut self, id: u16, generation: u32, process: u32) {
        let r = self.regions.get_mut(u32::from(id));
        let Some(r) = r.filter(|r| r.generation == generation) else {
            return;
        };
        if let Some(w) = &mut r.wanted
            && let Some(i) = w.by.iter().position(|&p| p == process)
        {
            w.by.swap_remove(i);
        }
        self.drop_if_unused(id);
    }

    /// A region by its number alone, 0 for the shared one; that one is known
    /// before it is made.
    ///
    /// # Errors
    ///
    /// [`DomainError::Invalid`]: no such region.
    pub fn layout(&self, id: u16) -> Result<Layout> {
        let id = if id == 0 { GLOBAL_REGION } else { id };
        match self.regions.get(u32::from(id)) {
            Some(r) => Ok(Layout {
                id,
                generation: r.generation,
                shared: r.map.shared,
                geom: r.map.geom,
            }),
            None if id == GLOBAL_REGION => Ok(Layout {
                id,
                generation: 0,
                shared: None,
                geom: self.config.global,
            }),
            None => Err(DomainError::Invalid(format!("no memory region {id}"))),
        }
    }

    /// Whether a request may name this region: private ones are none of its
    /// business.
    pub(super) fn known_region(&self, id: u16) -> Result<()> {
        match self.layout(id) {
            Ok(l) if l.shared.is_some() || l.id == GLOBAL_REGION => Ok(()),
            _ => Err(DomainError::Invalid(format!("no memory region {id}"))),
        }
    }
}
