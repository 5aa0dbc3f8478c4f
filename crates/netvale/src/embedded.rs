//! A namespace inside this process: no server, no privilege.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use netvale_ring::kring::sleep;
use netvale_ring::layout::RegionGeom;
use netvale_ring::world::{RegionMap, RegionSource, Waker, World};
use netvale_shm::{Doorbell, HugePages, Mem, Memfd, futex};
use netvale_switch::domain::{
    CheckReport, Config, Domain, MemSource, PortStats, Registration, StationEntry, Want,
};
use netvale_switch::end::Gear;
use netvale_switch::switch::LookupKind;
use netvale_wire::name::PortSpec;

use crate::backend::{Attach, Attached, Backend, Keep};
use crate::drive::Driven;
use crate::{Error, ErrorKind, PortEntry, Result, RingConfig};

/// Devices are served by threads, which an embedded namespace has not.
const ONLY_SERVERS: &str = "interfaces, TAPs, captures and tunnels are served by a namespace's \
                            server: Namespace::from_env(), or Namespace::at(path)";

/// Memory files for a domain.
#[derive(Debug)]
struct Files;

impl MemSource for Files {
    type File = ();

    fn create(&mut self, name: &str, len: usize, huge: bool) -> Result<(Mem, ()), String> {
        let huge = if huge {
            HugePages::Auto
        } else {
            HugePages::Never
        };
        let made = Memfd::create(name, len, huge).and_then(|f| f.map());
        made.map(|mem| (mem, ()))
            .map_err(|e| match std::error::Error::source(&e) {
                Some(cause) => format!("{e}: {cause}"),
                None => e.to_string(),
            })
    }
}

/// An embedded namespace.
#[derive(Debug)]
pub(crate) struct Embedded {
    domain: Arc<Shared>,
    gear: Gear,
}

struct Shared {
    domain: Mutex<Domain<Files>>,
    bells: RwLock<HashMap<u16, Arc<Doorbell>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Domain<Files>> {
        // A panic while the lock was held is a bug elsewhere; the books are
        // as good as they were.
        self.domain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegionSource for Shared {
    fn map(&self, id: u16, generation: u32) -> Option<RegionMap> {
        self.lock()
            .region(id, generation)
            .map(|(map, ())| map.clone())
    }
}

impl Waker for Shared {
    fn wake(&self, word: &AtomicU32, said: u32) {
        if said == sleep::FUTEX {
            futex::wake(word, u32::MAX);
        } else if let Ok(owner) = u16::try_from(said - sleep::BELL) {
            let bells = self.bells.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(bell) = bells.get(&owner) {
                bell.ring();
            }
        }
    }
}

/// Closes an embedded registration when dropped.
struct Closer {
    shared: Arc<Shared>,
    world: World,
    owner: u16,
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Closer({})", self.owner)
    }
}

impl Keep for Closer {
    fn alive(&self) -> bool {
        true
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        let mut domain = self.shared.lock();
        domain.owner_gone(self.owner);
        let wakes = domain.take_wakes();
        drop(domain);
        for (id, said) in wakes {
            if let Some(kring) = self.world.kring(id) {
                self.shared.wake(kring.sleep_word().futex(), said);
            }
        }
        let mut bells = self
            .shared
            .bells
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        bells.remove(&self.owner);
    }
}

impl Embedded {
    pub(crate) fn new(config: Config) -> Result<Self> {
        let domain = Domain::new(config, Files)?;
        let world = domain.world().clone();
        let shared = Arc::new(Shared {
            domain: Mutex::new(domain),
            bells: RwLock::default(),
        });
        let gear = Gear {
            world,
            source: Arc::clone(&shared) as Arc<dyn RegionSource>,
            waker: Arc::clone(&shared) as Arc<dyn Waker>,
        };
        Ok(Self {
            domain: shared,
            gear,
        })
    }

    /// Chooses how a switch finds destinations.
    pub(crate) fn set_lookup(&self, switch: &str, kind: LookupKind) -> Result<()> {
        Ok(self.domain.lock().set_lookup(switch, kind)?)
    }

    /// Enters a station by hand.
    pub(crate) fn add_station(&self, mac: u64, port: &str) -> Result<()> {
        Ok(self.domain.lock().add_station(mac, port)?)
    }

    /// Makes another shared region.
    pub(crate) fn new_region(&self, geom: RegionGeom) -> Result<u16> {
        Ok(self.domain.lock().new_region(geom)?)
    }

    /// One eighth of the ageing time has passed.
    pub(crate) fn age(&self) -> usize {
        self.domain.lock().age()
    }
}

impl Backend for Embedded {
    fn register(&self, spec: &PortSpec, want: &Want, isolated: bool) -> Result<Attached> {
        if isolated {
            return Err(Error::new(
                ErrorKind::Usage,
                "an embedded namespace has no isolated ports",
            ));
        }
        let bell = Doorbell::new().map_err(|e| Error::io("cannot make a doorbell", e))?;
        let bell = Arc::new(bell);
        let mut domain = self.domain.lock();
        domain.reap();
        let owner = domain.add_owner(0, false)?;
        // From here on dropping `keep` takes everything back.
        let keep = Closer {
            shared: Arc::clone(&self.domain),
            world: self.gear.world.clone(),
            owner,
        };
        let reg = domain.register(owner, spec, want);
        let map = reg.as_ref().ok().and_then(|r| {
            domain
                .region(r.region, r.region_gen)
                .map(|(map, ())| map.clone())
        });
        drop(domain); // `keep` may be dropped below, which takes the lock
        let reg = reg?;
        let map = map.ok_or_else(|| Error::new(ErrorKind::NoSpace, "the port's region is gone"))?;
        let mut bells = self
            .domain
            .bells
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        bells.insert(owner, Arc::clone(&bell));
        drop(bells);
        Ok(Attached {
            reg,
            map,
            gear: Some(self.gear.clone()),
            bell,
            kick: None,
            driven: Driven::default(),
            served: false,
            keep: Arc::new(keep),
        })
    }

    fn info(&self, spec: &PortSpec) -> Result<Registration> {
        Ok(self.domain.lock().info(spec)?)
    }

    fn list(&self) -> Result<Vec<PortEntry>> {
        let all = self.domain.lock().list();
        Ok(all.into_iter().map(PortEntry::from).collect())
    }

    fn stats(&self, name: Option<&str>) -> Result<Vec<PortStats>> {
        Ok(self.domain.lock().stats(name))
    }

    fn fdb(&self, switch: &str) -> Result<Vec<StationEntry>> {
        let fdb = self.domain.lock().fdb(switch);
        fdb.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{switch}: no such switch")))
    }

    fn attach(&self, what: &Attach<'_>) -> Result<u32> {
        let spec = match what {
            Attach::Device(name) => return Err(no_devices(name)),
            Attach::Port { spec, host: true } => return Err(no_devices(&spec.port_name())),
            Attach::Port { spec, .. } => spec,
        };
        let mut domain = self.domain.lock();
        let done = domain.attach(spec).map_err(Error::from);
        // What is no port may be meant as an interface's name.
        let name = spec.port_name();
        let port = name.split_once(':').map_or(&*name, |(_, port)| port);
        match domain.is_persistent(port) {
            true => done,
            false => done.map_err(|e| e.with_hint(ONLY_SERVERS)),
        }
    }

    fn detach(&self, what: &Attach<'_>) -> Result<u32> {
        match what {
            Attach::Device(name) => Err(no_devices(name)),
            Attach::Port { spec, .. } => Ok(self.domain.lock().detach(spec)?),
        }
    }

    fn new_interface(&self, name: &str, config: &RingConfig) -> Result<()> {
        if config.link {
            return Err(no_devices(name));
        }
        let region = (config.mem_id != 0).then_some(config.mem_id);
        let want = Want::from(config);
        self.domain.lock().new_interface(name, &want, region)?;
        Ok(())
    }

    fn delete_interface(&self, name: &str) -> Result<()> {
        Ok(self.domain.lock().delete_interface(name)?)
    }

    fn set_vnet_hdr(&self, name: &str, len: u8) -> Result<()> {
        Ok(self.domain.lock().set_vnet_hdr(name, len)?)
    }

    fn vnet_hdr(&self, name: &str) -> Result<u8> {
        Ok(self.domain.lock().vnet_hdr(name)?)
    }

    fn check(&self) -> Result<CheckReport> {
        let mut domain = self.domain.lock();
        domain.reap();
        Ok(domain.check())
    }

    fn shutdown(&self, _force: bool) -> Result<()> {
        Err(Error::new(
            ErrorKind::Usage,
            "an embedded namespace has no server to end",
        ))
    }
}

fn no_devices(name: &str) -> Error {
    let message = format!("{name}: an embedded namespace has no devices");
    Error::new(ErrorKind::Unavailable, message).with_hint(ONLY_SERVERS)
}
