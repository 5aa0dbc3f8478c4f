//! Namespaces: where ports live.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use netvale_ring::layout::RegionGeom;
use netvale_switch::domain::{Config, Want};
use netvale_switch::lookup::Lookup;
use netvale_switch::switch::LookupKind;
use netvale_wire::mac::MacAddr;
use netvale_wire::name::{BackendKind, PortSpec};

use crate::backend::{Attach, Backend};
use crate::client;
use crate::embedded::Embedded;
use crate::info::{CheckReport, FdbEntry, PortEntry, PortInfo, PortStats, RingConfig};
use crate::port::{Port, PortBuilder};
use crate::{Error, ErrorKind, Result};

/// Where ports live: an in-process (embedded) namespace, or one with a server.
///
/// Ports see each other only inside one namespace. Cloning gives another
/// handle to the same one.
#[derive(Debug, Clone)]
pub struct Namespace {
    place: Place,
    pub(crate) lookup: Option<Arc<CustomLookup>>,
    isolated: bool,
}

/// Who runs a namespace.
#[derive(Debug, Clone)]
enum Place {
    Here(Arc<Embedded>),
    Server {
        path: PathBuf,
        spawn: bool,
        // Connected when first needed.
        backend: Arc<OnceLock<Arc<dyn Backend>>>,
    },
}

/// A look-up function of the embedding program.
pub(crate) struct CustomLookup(pub(crate) Arc<dyn Lookup>);

impl std::fmt::Debug for CustomLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CustomLookup")
    }
}

impl Namespace {
    /// A private namespace in this process: no server, no privilege.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`]: out of memory, address space or descriptors.
    pub fn embedded() -> Result<Self> {
        Self::embedded_with(Config::default())
    }

    /// The same with other sizes than the default ones.
    ///
    /// # Errors
    ///
    /// As [`Namespace::embedded`].
    pub fn embedded_with(config: Config) -> Result<Self> {
        Ok(Self {
            place: Place::Here(Arc::new(Embedded::new(config)?)),
            lookup: None,
            isolated: false,
        })
    }

    /// The user's own: `NETVALE_NS` names its directory, else it is
    /// `/run/netvale` for root and `$XDG_RUNTIME_DIR/netvale` for others. Its
    /// server is started when it is first needed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`]: the environment names no possible directory.
    pub fn from_env() -> Result<Self> {
        Self::at(client::default_path())
    }

    /// The one in this directory; its server is started when first needed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`]: an empty path.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        if path.as_os_str().is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                "the namespace's path is empty",
            ));
        }
        Ok(Self {
            place: Place::Server {
                path,
                spawn: true,
                backend: Arc::default(),
            },
            lookup: None,
            isolated: false,
        })
    }

    /// Never starts a server: operations fail with
    /// [`ErrorKind::Disconnected`] if none runs.
    #[must_use]
    pub fn no_spawn(mut self) -> Self {
        if let Place::Server { spawn, backend, .. } = &mut self.place {
            *spawn = false;
            *backend = Arc::default();
        }
        self
    }

    /// Its directory; `None` if embedded.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Here(_) => None,
            Place::Server { path, .. } => Some(path),
        }
    }

    /// Opens ports through this handle in the isolated context, whatever the
    /// user: the server moves their frames and trusts nothing they write.
    #[must_use]
    pub fn isolated(mut self, yes: bool) -> Self {
        self.isolated = yes;
        self
    }

    /// Opens a port with default geometry.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for a bad name, [`ErrorKind::Busy`] for an
    /// exclusive one, [`ErrorKind::NoSpace`] if anything is used up.
    pub fn open(&self, name: &str) -> Result<Port> {
        self.port(name).open()
    }

    /// A builder for a port in this namespace.
    #[must_use]
    pub fn port(&self, name: &str) -> PortBuilder {
        PortBuilder::new(self.clone(), name).isolated(self.isolated)
    }

    pub(crate) fn backend(&self) -> Result<&dyn Backend> {
        match &self.place {
            Place::Here(embedded) => Ok(&**embedded),
            Place::Server {
                path,
                spawn,
                backend,
            } => {
                if let Some(b) = backend.get() {
                    return Ok(&**b);
                }
                let b = client::connect(path, *spawn)?;
                Ok(&**backend.get_or_init(|| b))
            }
        }
    }

    /// Every port, by switch and index, then by name.
    ///
    /// # Errors
    ///
    /// The server is gone.
    pub fn list(&self) -> Result<Vec<PortEntry>> {
        self.backend()?.list()
    }

    /// Geometry of a port. One that does not exist is made and removed again,
    /// which tells what it would get.
    ///
    /// # Errors
    ///
    /// As [`Namespace::open`].
    pub fn info(&self, name: &str) -> Result<PortInfo> {
        Ok(PortInfo::from(&self.backend()?.info(&parse(name)?)?))
    }

    /// Counters of one port, or of all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: no port has that name.
    pub fn stats(&self, name: Option<&str>) -> Result<Vec<PortStats>> {
        let full = name.map(parse).transpose()?.map(|s| s.whole_name());
        let all = self.backend()?.stats(full.as_deref())?;
        match name {
            Some(name) if all.is_empty() => Err(Error::new(
                ErrorKind::NotFound,
                format!("{name}: no such port"),
            )),
            _ => Ok(all.into_iter().map(PortStats::from).collect()),
        }
    }

    /// Stations that a switch has learned, by port.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: no such switch.
    pub fn fdb(&self, switch: &str) -> Result<Vec<FdbEntry>> {
        let all = self.backend()?.fdb(switch)?;
        Ok(all.into_iter().map(FdbEntry::from).collect())
    }

    /// Attaches a persistent port to a switch, as in `vale0:name`, and returns
    /// its index there. In a namespace with a server also a device: a network
    /// interface (`vale0:eth0`; with `host` the host stack behind it too, as
    /// `vale0:eth0^`), a TAP (`vale0:tap:t0`), a capture file
    /// (`vale0:pcap:trace.pcap,speed=max`), a tunnel
    /// (`vale0:vxlan:42@192.0.2.7`). The server's threads move their frames.
    /// An embedded namespace has no such threads, and refuses devices:
    ///
    /// ```
    /// use netvale::{ErrorKind, Namespace};
    ///
    /// let ns = Namespace::embedded()?;
    /// ns.new_interface("p0", &Default::default())?;
    /// ns.attach("vale0:p0", false)?;
    ///
    /// let refused = ns.attach("vale0:tap:t0", false).unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::Unavailable);
    /// # Ok::<(), netvale::Error>(())
    /// ```
    ///
    /// ```no_run
    /// // A program's port and an interface that containers can have.
    /// let ns = netvale::Namespace::from_env()?;
    /// ns.attach("vale0:tap:t0", false)?;
    /// let mut port = ns.open("vale0:me")?;
    /// # Ok::<(), netvale::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`], [`ErrorKind::Usage`], [`ErrorKind::NoSpace`];
    /// [`ErrorKind::NotFound`]: neither a persistent port nor an interface has
    /// that name; [`ErrorKind::Unavailable`]: a device in an embedded
    /// namespace, or the server has not the privilege for it.
    pub fn attach(&self, spec: &str, host: bool) -> Result<u32> {
        let full = absolute(spec)?;
        self.backend()?.attach(&attach_of(&full, host)?)
    }

    /// Detaches what was attached, by the name it was attached by, or by the
    /// one that its port has since (`vale0:t0`). Returns the index it had.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Usage`] for a port that was
    /// opened, not attached.
    pub fn detach(&self, spec: &str) -> Result<u32> {
        let full = absolute(spec)?;
        self.backend()?.detach(&attach_of(&full, false)?)
    }

    /// Makes a persistent port; zeros take defaults. Returns what was made.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exists`], [`ErrorKind::Usage`], [`ErrorKind::NoSpace`];
    /// [`ErrorKind::Unavailable`]: it is to be an interface of the host, and the
    /// namespace is embedded or its server has not the privilege.
    pub fn new_interface(&self, name: &str, c: &RingConfig) -> Result<PortInfo> {
        self.backend()?.new_interface(name, c)?;
        let spec = PortSpec::from_nr_name(name).map_err(bad_name(name))?;
        Ok(PortInfo::from(&self.backend()?.info(&spec)?))
    }

    /// Deletes a persistent port.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] while it is attached or open.
    pub fn delete_interface(&self, name: &str) -> Result<()> {
        self.backend()?.delete_interface(name)
    }

    /// Sets the virtio-net header length of a port: 0, 10 or 12 bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::Usage`].
    pub fn set_vnet_hdr(&self, name: &str, len: u8) -> Result<()> {
        self.backend()?.set_vnet_hdr(&parse(name)?.port_name(), len)
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`].
    pub fn vnet_hdr(&self, name: &str) -> Result<u8> {
        self.backend()?.vnet_hdr(&parse(name)?.whole_name())
    }

    /// Proves that every buffer of every region is in exactly one place. Only
    /// meaningful while nothing is being sent.
    ///
    /// # Errors
    ///
    /// The server is gone.
    pub fn check(&self) -> Result<CheckReport> {
        Ok(CheckReport::from(self.backend()?.check()?))
    }

    /// Asks the server to end; with `force` also while ports are open.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] while ports are open.
    pub fn shutdown(&self, force: bool) -> Result<()> {
        self.backend()?.shutdown(force)
    }

    /// Embedded only: chooses how a switch (that has a port) finds a frame's
    /// destination.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: no such switch; [`ErrorKind::Unavailable`]: not
    /// embedded.
    pub fn set_lookup(&self, switch: &str, kind: LookupKind) -> Result<()> {
        self.only_embedded()?.set_lookup(switch, kind)
    }

    /// Embedded only: the look-up function of switches whose kind is
    /// [`LookupKind::Custom`], for ports opened through this handle from now on.
    #[must_use]
    pub fn with_lookup(mut self, lookup: Arc<dyn Lookup>) -> Self {
        self.lookup = Some(Arc::new(CustomLookup(lookup)));
        self
    }

    /// Embedded only: frames for `mac` go to that port.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: no such port in a switch.
    pub fn add_station(&self, mac: MacAddr, port: &str) -> Result<()> {
        self.only_embedded()?.add_station(mac.to_u64(), port)
    }

    /// Embedded only: makes another memory region that ports may share, of so
    /// many rings (4096 slots each at most) and buffers. Ports are opened in it
    /// by its number, as in `vale0:a@2`. Inside a region buffers move from port
    /// to port, between regions frames are copied.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`]: too many regions; [`ErrorKind::Usage`]: more
    /// buffers than a region can have.
    pub fn new_region(&self, rings: u32, bufs: u32) -> Result<u16> {
        let most = RegionGeom::GLOBAL;
        if !(1..=most.rings).contains(&rings) || !(4..=most.bufs).contains(&bufs) {
            let text = format!(
                "a region has 1 to {} rings and 4 to {} buffers",
                most.rings, most.bufs
            );
            return Err(Error::new(ErrorKind::Usage, text));
        }
        let geom = RegionGeom {
            rings,
            bufs,
            ..most
        };
        self.only_embedded()?.new_region(geom)
    }

    /// Embedded only: one eighth of the stations' ageing time has passed.
    /// Returns how many were forgotten.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`]: not embedded.
    pub fn age(&self) -> Result<usize> {
        Ok(self.only_embedded()?.age())
    }

    fn only_embedded(&self) -> Result<&Embedded> {
        match &self.place {
            Place::Here(embedded) => Ok(embedded),
            Place::Server { .. } => Err(Error::new(
                ErrorKind::Unavailable,
                "only an embedded namespace can do this",
            )),
        }
    }
}

impl From<&RingConfig> for Want {
    fn from(c: &RingConfig) -> Self {
        Self {
            tx_rings: c.tx_rings,
            rx_rings: c.rx_rings,
            tx_slots: c.tx_slots,
            rx_slots: c.rx_slots,
            ..Self::default()
        }
    }
}

/// `vale0:tap:t0` and its like, or a port's name.
fn attach_of(spec: &str, host: bool) -> Result<Attach<'_>> {
    match device_of(spec) {
        Some((kind, _)) if host => {
            let message = format!("{spec}: a {} has no host stack behind it", kind.prefix());
            Err(Error::new(ErrorKind::Usage, message))
        }
        Some(_) => Ok(Attach::Device(spec)),
        None => Ok(Attach::Port {
            spec: Box::new(parse(spec)?),
            host,
        }),
    }
}

/// The back end behind a switch's name, and what follows its colon.
fn device_of(spec: &str) -> Option<(BackendKind, &str)> {
    let (_, device) = spec.split_once(':')?;
    let (prefix, arg) = device.split_once(':')?;
    Some((BackendKind::from_prefix(prefix)?, arg))
}

/// With the path of a capture as the server, in another directory, can find it.
fn absolute(spec: &str) -> Result<Cow<'_, str>> {
    let Some((BackendKind::Pcap, path)) = device_of(spec).filter(|(_, p)| !p.starts_with('/'))
    else {
        return Ok(spec.into());
    };
    let here = std::env::current_dir().map_err(|e| {
        let message = format!("cannot find the current directory: {e}");
        Error::new(ErrorKind::Io, message)
    })?;
    let before = spec.len() - path.len();
    let (device, path) = spec.split_at(before);
    Ok(format!("{device}{}/{path}", here.display()).into())
}

/// Parses a port name of the grammar.
pub(crate) fn parse(name: &str) -> Result<PortSpec> {
    PortSpec::parse(name).map_err(bad_name(name))
}

fn bad_name(name: &str) -> impl Fn(netvale_wire::name::NameError) -> Error {
    move |e| {
        Error::new(ErrorKind::Usage, format!("{name}: {e}"))
            .with_hint("port names look like vale0:a, vale0:a{1, netmap:name or null:")
    }
}
