//! What a server is told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use netvale_ring::layout::{RegionGeom, StateGeom};
use netvale_shm::HugePages;
use netvale_switch::domain;
use netvale_wire::abi::NM_BDG_NAME;
use rustix::thread::CpuSet;
use serde::Deserialize;

use crate::pump::DeviceSpec;

/// What a server is told. [`Config::at`] gives the defaults, [`Config::load`]
/// reads a file of these:
///
/// ```toml
/// namespace = "/run/netvale"
/// isolated = false           # true: trust nobody
/// workers = 1                # threads that serve isolated ports
/// pumps = 1                  # threads that serve devices
/// huge_pages = "auto"        # auto, never, require
/// ageing_seconds = 300       # 0: stations are never forgotten
/// link_ports = false         # true: all persistent ports are interfaces too
/// generic_xdp = false        # true: also where VLAN tags get lost by it
/// mode = "0660"              # of the socket; opens it to others
/// group = "netvale"          # of the socket
///
/// [limits]
/// ports = 16384
/// rings = 32768
/// regions = 8192
/// switches = 1024
/// user_connections = 256     # of each user who is not trusted
/// user_extra_bufs = 8192     # of each of their registrations
///
/// [region]                   # the one that trusted ports share
/// interfaces = 4096
/// rings = 4096
/// bufs = 1700000
/// device_bufs = 16384        # at least: for AF_XDP in place; 0: none
///
/// [[port]]                   # persistent ports, made at the start
/// name = "p0"
/// rings = 1
/// slots = 1024
/// attach = "vale0"
/// link = false               # true: it shows in "ip link" too
///
/// [[attach]]                 # devices, attached at the start
/// switch = "vale0"
/// device = "tap:tap0"        # or an interface: "eth0"
/// host = false               # true: the host stack behind it too
/// cpus = []                  # processors of threads of its own
/// region = 0                 # memory of its rings, 0: the shared region
/// ```
///
/// The file is read once, at the start. What it makes can be changed by requests
/// afterwards (`netvale attach`, `detach`, `newif`, `delif`); to have it read
/// again, start the server anew.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of the namespace.
    pub namespace: PathBuf,
    /// Stay when nobody needs the server.
    pub service: bool,
    /// Trust nobody.
    pub isolated: bool,
    /// Threads that serve isolated ports.
    pub workers: usize,
    /// Threads that serve devices.
    pub pumps: usize,
    /// Pages of the shared region.
    pub huge_pages: HugePages,
    /// Who else may connect; `None`: nobody.
    pub access: Option<Access>,
    /// Sizes of the namespace.
    pub domain: domain::Config,
    /// Buffers of a region that AF_XDP uses in place, at least, as long as it
    /// does; they stay in memory then. 0: none.
    pub device_bufs: u32,
    /// Interfaces whose drivers have no XDP are driven by XDP in the stack even
    /// if that does not see their VLAN tags, which are lost then.
    pub generic_xdp: bool,
    /// Time until a silent station is forgotten; zero: never.
    pub ageing: Duration,
    /// Time without anybody after which a server that is no service ends.
    pub grace: Duration,
    /// Connections of each user who is not trusted.
    pub user_connections: usize,
    /// Extra buffers of each of their registrations.
    pub user_extra_bufs: u32,
    /// All persistent ports are interfaces of the host too, as netmap's are.
    pub link_ports: bool,
    /// Persistent ports.
    pub ports: Vec<PortConfig>,
    /// Devices to attach.
    pub attach: Vec<AttachConfig>,
    /// File that the log goes to, for those who ask.
    pub log: Option<PathBuf>,
}

/// Who besides the server's own user may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Group of the socket, by name or number.
    pub group: Option<String>,
    /// Mode of the socket.
    pub mode: u32,
}

/// A persistent port to make at the start.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// Name.
    pub name: String,
    /// Rings of each direction, 0 for the default.
    #[serde(default)]
    pub rings: u16,
    /// Slots of each ring, 0 for the default.
    #[serde(default)]
    pub slots: u16,
    /// Switch to attach it to.
    #[serde(default)]
    pub attach: Option<String>,
    /// It is an interface of the host too.
    #[serde(default)]
    pub link: bool,
    /// Line of the file that it begins in; 0 if it comes from none.
    #[serde(skip)]
    pub line: usize,
}

/// A device to attach at the start.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachConfig {
    /// The switch.
    pub switch: String,
    /// An interface, or a back end as port names have it (`tap:tap0`).
    pub device: String,
    /// Name of its port, if that shall not be one like the device's.
    #[serde(default)]
    pub port: Option<String>,
    /// The host stack behind an interface gets a port too.
    #[serde(default)]
    pub host: bool,
    /// Processors of threads of its own, one each; none: the common threads.
    #[serde(default)]
    pub cpus: Vec<usize>,
    /// Region of its port's rings; 0 for the shared one.
    #[serde(default)]
    pub region: u16,
    /// Line of the file that it begins in; 0 if it comes from none.
    #[serde(skip)]
    pub line: usize,
}

impl AttachConfig {
    /// What can be known to be wrong before the server has started.
    fn check(&self) -> Result<(), String> {
        if !self.switch.starts_with(NM_BDG_NAME) {
            return Err(format!(
                "switch {:?}: a switch's name begins with vale",
                self.switch
            ));
        }
        let interface = match DeviceSpec::prefixed(&self.device) {
            Some(Err(refusal)) => return Err(refusal.message),
            Some(Ok(_)) => false,
            None => true,
        };
        if self.host && !interface {
            return Err(format!("{} has no host stack behind it", self.device));
        }
        if let Some(cpu) = self.cpus.iter().find(|&&cpu| cpu >= CpuSet::MAX_CPU) {
            return Err(format!("cpus: there is no processor {cpu}"));
        }
        Ok(())
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// It is not what is expected.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong and where, in one line.
        message: String,
    },
}

impl Config {
    /// Defaults, for a namespace in this directory.
    #[must_use]
    pub fn at(namespace: impl Into<PathBuf>) -> Self {
        Self {
            namespace: namespace.into(),
            service: false,
            isolated: false,
            workers: 1,
            pumps: 1,
            huge_pages: HugePages::Auto,
            access: None,
            domain: domain::Config::default(),
            device_bufs: 16_384,
            generic_xdp: false,
            ageing: Duration::from_secs(300),
            grace: Duration::from_millis(250),
            user_connections: 256,
            user_extra_bufs: 8192,
            link_ports: false,
            ports: Vec::new(),
            attach: Vec::new(),
            log: None,
        }
    }

    /// Reads a file; what it does not say is as in `defaults`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with the line and, for an unknown key, the known ones.
    pub fn load(path: &Path, defaults: Self) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, defaults).map_err(|message| ConfigError::Parse {
            path: path.to_owned(),
            message,
        })
    }

    fn parse(text: &str, defaults: Self) -> Result<Self, String> {
        let line_of = |at: usize| text[..at].matches('\n').count() + 1;
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map(|s| line_of(s.start));
            match line {
                Some(line) => format!("line {line}: {}", e.message()),
                None => e.message().to_owned(),
            }
        })?;
        let mut c = defaults;
        set(&mut c.namespace, file.namespace);
        set(&mut c.isolated, file.isolated);
        set(&mut c.workers, file.workers);
        set(&mut c.pumps, file.pumps);
        set(&mut c.ageing, file.ageing_seconds.map(Duration::from_secs));
        if let Some(pages) = file.huge_pages {
            c.huge_pages = match pages {
                Pages::Auto => HugePages::Auto,
                Pages::Never => HugePages::Never,
                Pages::Require => HugePages::Require,
            };
        }
        c.domain.huge = c.huge_pages != HugePages::Never;
        if file.mode.is_some() || file.group.is_some() {
            let mode = match file.mode.as_deref() {
                None => 0o660,
                Some(text) => u32::from_str_radix(text, 8)
                    .ok()
                    .filter(|m| m & !0o777 == 0)
                    .ok_or_else(|| format!("mode {text:?} is not octal, as in \"0660\""))?,
            };
            c.access = Some(Access {
                group: file.group,
                mode,
            });
        }
        let (state, region) = (&mut c.domain.state, &mut c.domain.global);
        set(&mut state.ports, file.limits.ports);
        set(&mut state.krings, file.limits.rings);
        set(&mut state.regions, file.limits.regions);
        set(&mut state.switches, file.limits.switches);
        set(&mut c.user_connections, file.limits.user_connections);
        set(&mut c.user_extra_bufs, file.limits.user_extra_bufs);
        set(&mut region.ifs, file.region.interfaces);
        set(&mut region.rings, file.region.rings);
        set(&mut region.bufs, file.region.bufs);
        set(&mut c.device_bufs, file.region.device_bufs);
        set(&mut c.generic_xdp, file.generic_xdp);
        let ports = file.port.into_iter();
        let ports = ports.map(|entry| PortConfig {
            line: line_of(entry.span().start),
            ..entry.into_inner()
        });
        c.ports = ports.collect();
        c.attach.clear();
        for entry in file.attach {
            let line = line_of(entry.span().start);
            let attach = AttachConfig {
                line,
                ..entry.into_inner()
            };
            attach.check().map_err(|e| format!("line {line}: {e}"))?;
            c.attach.push(attach);
        }
        set(&mut c.link_ports, file.link_ports);
        c.check()?;
        Ok(c)
    }

    fn check(&self) -> Result<(), String> {
        let (state, region) = (self.domain.state, self.domain.global);
        if StateGeom::from_array(state.to_array()).is_none() {
            return Err("limits: a table would be empty or too large".into());
        }
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            return Err(format!(
                "workers must be 1 to {MAX_WORKERS}, not {}",
                self.workers
            ));
        }
        if !(1..=MAX_WORKERS).contains(&self.pumps) {
            return Err(format!(
                "pumps must be 1 to {MAX_WORKERS}, not {}",
                self.pumps
            ));
        }
        let most = RegionGeom {
            bufs: state.holders,
            ..region
        };
        let fits = (1..=1 << 16).contains(&region.ifs)
            && (2..=1 << 16).contains(&region.rings)
            && (64..=most.bufs).contains(&region.bufs)
            && u32::try_from(region.pools_len()).is_ok();
        if !fits {
            return Err(format!(
                "region: needs 1 to 65536 interfaces, 2 to 65536 rings, 64 to {} bufs, \
                 and less than 4 GiB together",
                state.holders
            ));
        }
        Ok(())
    }
}

/// Most worker threads.
const MAX_WORKERS: usize = 64;

fn set<T>(to: &mut T, from: Option<T>) {
    if let Some(v) = from {
        *to = v;
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    namespace: Option<PathBuf>,
    isolated: Option<bool>,
    workers: Option<usize>,
    pumps: Option<usize>,
    huge_pages: Option<Pages>,
    ageing_seconds: Option<u64>,
    mode: Option<String>,
    group: Option<String>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    region: Region,
    #[serde(default)]
    port: Vec<toml::Spanned<PortConfig>>,
    #[serde(default)]
    attach: Vec<toml::Spanned<AttachConfig>>,
    link_ports: Option<bool>,
    generic_xdp: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Pages {
    Auto,
    Never,
    Require,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Limits {
    ports: Option<u32>,
    rings: Option<u32>,
    regions: Option<u32>,
    switches: Option<u32>,
    user_connections: Option<usize>,
    user_extra_bufs: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Region {
    interfaces: Option<u32>,
    rings: Option<u32>,
    bufs: Option<u32>,
    device_bufs: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Config::at("/x"))
    }

    #[test]
    fn the_documented_file_is_the_default() {
        let doc = include_str!("config.rs");
        let text: String = doc
            .lines()
            .skip_while(|l| *l != "/// ```toml")
            .skip(1)
            .take_while(|l| *l != "/// ```")
            .map(|l| format!("{}\n", l.trim_start_matches("///").trim_start()))
            .collect();
        let c = parse(&text).unwrap();
        let d = Config::at("/run/netvale");
        assert_eq!(c.namespace, d.namespace);
        assert_eq!(c.domain, d.domain);
        assert_eq!(
            (c.workers, c.ageing, c.isolated),
            (d.workers, d.ageing, d.isolated)
        );
        assert_eq!(
            (c.user_connections, c.user_extra_bufs),
            (d.user_connections, d.user_extra_bufs)
        );
        let access = c.access.unwrap();
        assert_eq!(
            (access.mode, access.group.as_deref()),
            (0o660, Some("netvale"))
        );
        assert_eq!(c.ports.len(), 1);
        assert_eq!(c.ports[0].attach.as_deref(), Some("vale0"));
        let line = text.lines().position(|l| l.starts_with("[[port]]"));
        assert_eq!(Some(c.ports[0].line), line.map(|n| n + 1));
        assert_eq!(c.attach[0].device, "tap:tap0");
        assert_eq!((c.pumps, c.attach[0].cpus.len()), (d.pumps, 0));
        let line = text.lines().position(|l| l.starts_with("[[attach]]"));
        assert_eq!(Some(c.attach[0].line), line.map(|n| n + 1));
        assert_eq!((c.link_ports, c.ports[0].link), (false, false));
    }

    #[test]
    fn mistakes_are_explained() {
        let e = parse("isolated = true\nwrokers = 2\n").unwrap_err();
        assert!(e.starts_with("line 2: unknown field `wrokers`"), "{e}");
        assert!(e.contains("`workers`"), "{e}");
        for (attach, says) in [
            ("switch = \"br0\"\ndevice = \"tap:t0\"", "begins with vale"),
            ("switch = \"vale0\"\ndevice = \"tap:t0,quues=2\"", "quues=2"),
            (
                "switch = \"vale0\"\ndevice = \"tap:t0\"\nhost = true",
                "no host stack",
            ),
            (
                "switch = \"vale0\"\ndevice = \"e\"\ncpus = [0, 99999]",
                "processor 99999",
            ),
            (
                "switch = \"vale0\"\ndevice = \"e\"\ncpu = 1",
                "unknown field `cpu`",
            ),
        ] {
            let e = parse(&format!("workers = 1\n[[attach]]\n{attach}\n")).unwrap_err();
            assert!(e.contains(says), "{attach}: {e}");
            assert!(e.starts_with("line "), "{attach}: {e}");
        }
        for bad in [
            "workers = 0",
            "mode = \"rw\"",
            "mode = \"4777\"",
            "[region]\nbufs = 3000000",
            "[limits]\nports = 0",
            "huge_pages = \"some\"",
            "[[port]]\nrings = 1",
        ] {
            parse(bad).unwrap_err();
        }
    }
}
