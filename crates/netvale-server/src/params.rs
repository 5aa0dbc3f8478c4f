//! netmap's parameters, as files of the namespace directory: programs that
//! look for `/sys/module/netmap/parameters` are led here.
//!
//! The server makes the files and takes no notice of sizes that are written to
//! them: its sizes are those of its configuration. These have an effect:
//!
//! | parameter | who reads it |
//! |---|---|
//! | `no_timestamp` | programs of the C interface, when they open a port |
//! | `bridge_batch` | programs of the C interface, when they open a port |
//! | `admode` | the server, when an interface is opened |
//! | `fwd` | the server, when rings of an interface are opened |
//! | `*_curr_*`, `max_bridges` | whoever wants to know: they tell the truth |
//!
//! All others are there to be read and written, as programs expect, and change
//! nothing: there is no memory to be set up again, and no driver to be tuned.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use netvale_ring::layout::IF_SIZE;
use netvale_switch::domain;

/// Name of the directory in the namespace directory.
pub(crate) const DIR_NAME: &str = "parameters";

/// Parameters that may be written, with netmap's defaults.
const WRITABLE: [(&str, u32); 29] = [
    ("admode", 0),
    ("bridge_batch", 1024),
    ("buf_num", 163_840),
    ("buf_size", 2048),
    ("debug", 0),
    ("default_pipes", 0),
    ("fwd", 0),
    ("generic_hwcsum", 0),
    ("generic_mit", 100_000),
    ("generic_rings", 1),
    ("generic_ringsize", 1024),
    ("generic_txqdisc", 1),
    ("if_num", 100),
    ("if_size", 1024),
    ("no_pendintr", 1),
    ("no_timestamp", 0),
    ("priv_buf_num", 4098),
    ("priv_buf_size", 2048),
    ("priv_if_num", 2),
    ("priv_if_size", 1024),
    ("priv_ring_num", 4),
    ("priv_ring_size", 20_480),
    ("ptnet_vnet_hdr", 1),
    ("ring_num", 200),
    ("ring_size", 36_864),
    ("sink_delay_ns", 100),
    ("sink_num", 1),
    ("txsync_retry", 2),
    ("verbose", 0),
];

/// Parameters that tell what is.
fn facts(config: &domain::Config) -> [(&'static str, u32); 7] {
    let g = config.global;
    [
        ("buf_curr_num", g.bufs),
        ("buf_curr_size", g.buf_size),
        ("if_curr_num", g.ifs),
        ("if_curr_size", IF_SIZE),
        ("max_bridges", config.state.switches),
        ("ring_curr_num", g.rings),
        ("ring_curr_size", g.ring_size),
    ]
}

/// The files, which go with this.
#[derive(Debug)]
pub(crate) struct Parameters {
    dir: PathBuf,
    names: Vec<&'static str>,
}

impl Parameters {
    /// Makes the files in a namespace directory that is ours. What a dead
    /// server left is replaced.
    ///
    /// # Errors
    ///
    /// As the system says; nothing is left then.
    pub(crate) fn make(namespace: &Path, config: &domain::Config) -> io::Result<Self> {
        let writable = WRITABLE.map(|p| (p, 0o644));
        let facts = facts(config).map(|p| (p, 0o444));
        let all = writable.into_iter().chain(facts);
        let this = Self {
            dir: namespace.join(DIR_NAME),
            names: all.clone().map(|((name, _), _)| name).collect(),
        };
        this.remove();
        let open_to_all = Permissions::from_mode(0o755);
        DirBuilder::new().mode(0o700).create(&this.dir)?;
        for ((name, value), mode) in all {
            let path = this.dir.join(name);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            writeln!(file, "{value}")?;
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        std::fs::set_permissions(&this.dir, open_to_all)?;
        Ok(this)
    }

    /// Removes our files, and the directory if it has no others.
    fn remove(&self) {
        for name in &self.names {
            let _ = std::fs::remove_file(self.dir.join(name)); // most often there is none
        }
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// What a parameter is now, if its file holds a number.
pub(crate) fn read(namespace: &Path, name: &str) -> Option<u32> {
    let path = namespace.join(DIR_NAME).join(name);
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Drop for Parameters {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_are_made_replaced_and_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let config = domain::Config::default();
        let dir = tmp.path().join(DIR_NAME);
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().mode() & 0o777;
        let first = Parameters::make(tmp.path(), &config).unwrap();
        assert_eq!(read("bridge_batch"), "1024\n");
        assert_eq!(read("if_curr_num"), format!("{}\n", config.global.ifs));
        assert_eq!((mode("no_timestamp"), mode("max_bridges")), (0o644, 0o444));
        drop(first);
        assert!(!dir.exists());
        // As a server leaves it that is killed.
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("verbose"), "7\n").unwrap();
        assert_eq!(super::read(tmp.path(), "verbose"), Some(7));
        assert_eq!(super::read(tmp.path(), "nosuch"), None);
        let second = Parameters::make(tmp.path(), &config).unwrap();
        assert_eq!(read("verbose"), "0\n");
        let there = std::fs::read_dir(&dir).unwrap().count();
        assert_eq!(there, WRITABLE.len() + facts(&config).len());
        drop(second);
        assert!(!dir.exists());
    }

    #[test]
    fn a_directory_in_the_way_is_told() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join(DIR_NAME);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("mine"), "").unwrap();
        let config = domain::Config::default();
        let refused = Parameters::make(tmp.path(), &config).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }
}
