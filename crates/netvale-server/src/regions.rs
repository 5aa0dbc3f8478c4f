//! The regions that workers may have to deliver to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use netvale_ring::kring::KringId;
use netvale_ring::world::{RegionMap, RegionSource};
use netvale_shm::Memfd;
use netvale_switch::domain::Domain;

use crate::files::FileSource;

/// What the control thread has mapped, for the workers to look up: they must
/// not wait for it, since it waits for them.
#[derive(Debug, Default)]
pub(crate) struct SharedRegions(Mutex<HashMap<(u16, u32), RegionMap>>);

impl SharedRegions {
    /// Enters the regions in which these rings and their peers lie.
    pub(crate) fn enter(&self, domain: &Domain<FileSource>, krings: impl Iterator<Item = KringId>) {
        let world = domain.world();
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for kring in krings.filter_map(|id| world.kring(id)) {
            let peer = kring.peer().and_then(|id| world.kring(id));
            for geom in [Some(kring), peer].into_iter().flatten().map(|k| k.geom()) {
                let key = (geom.region, geom.region_gen);
                if !table.contains_key(&key)
                    && let Some((map, _)) = find(domain, key)
                {
                    table.insert(key, map.clone());
                }
            }
        }
    }

    /// Forgets those that are gone.
    pub(crate) fn prune(&self, domain: &Domain<FileSource>) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|&key, _| find(domain, key).is_some());
    }
}

impl RegionSource for SharedRegions {
    fn map(&self, id: u16, generation: u32) -> Option<RegionMap> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(&(id, generation)).cloned()
    }
}

fn find(domain: &Domain<FileSource>, (id, generation): (u16, u32)) -> Option<(&RegionMap, &Memfd)> {
    domain.region(id, generation)
}

/// As the engine wants it.
pub(crate) fn as_source(regions: &Arc<SharedRegions>) -> Arc<dyn RegionSource> {
    Arc::clone(regions) as Arc<dyn RegionSource>
}
