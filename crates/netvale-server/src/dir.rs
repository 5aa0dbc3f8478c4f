//! The namespace directory: one server at a time, and nobody else's.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use netvale_switch::domain;
use netvale_wire::proto::SOCKET_NAME;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::config::Access;
use crate::params::{self, Parameters};

/// Why a namespace directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirError {
    /// Another server has it.
    #[error("another server runs in {} (process {pid})", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
        /// The server's process, 0 if it did not say.
        pid: u32,
    },
    /// Others could put something in our place.
    #[error("{} {why}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused.
    #[error("cannot {what} {}", path.display())]
    Os {
        /// The operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No such group.
    #[error("group {0} does not exist")]
    NoGroup(String),
}

/// A namespace directory that is ours while this exists.
#[derive(Debug)]
pub(crate) struct NamespaceDir {
    path: PathBuf,
    // Locked until dropped.
    lock: File,
}

pub(crate) const LOCK_NAME: &str = "lock";
/// A socket gets its real name once it listens, so that nobody finds it early.
const NEW_NAME: &str = "control.new";
/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

impl NamespaceDir {
    /// Makes the directory if need be, and takes it.
    pub(crate) fn take(path: &Path, access: Option<&Access>) -> Result<Self, DirError> {
        make(path, access)?;
        let lock_path = path.join(LOCK_NAME);
        loop {
            let mut lock = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(nofollow())
                .open(&lock_path)
                .map_err(os("open", &lock_path))?;
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let mut text = String::new();
                    let _ = lock.read_to_string(&mut text); // only for the message
                    return Err(DirError::Taken {
                        path: path.to_owned(),
                        pid: text.trim().parse().unwrap_or(0),
                    });
                }
                Err(e) => return Err(os("lock", &lock_path)(e.into())),
            }
            // A server that ends removes its lock file; if that was the one we
            // opened, somebody else may have made and locked another.
            let ours = lock.metadata().map_err(os("examine", &lock_path))?;
            match std::fs::symlink_metadata(&lock_path) {
                Ok(now) if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Self {
                        path: path.to_owned(),
                        lock,
                    });
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(os("examine", &lock_path)(e)),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the files of netmap's parameters.
    pub(crate) fn make_params(&self, config: &domain::Config) -> Result<Parameters, DirError> {
        let path = self.path.join(params::DIR_NAME);
        Parameters::make(&self.path, config).map_err(os("make", &path))
    }

    /// Listens. What a dead server left is replaced.
    pub(crate) fn listen(&mut self, access: Option<&Access>) -> Result<OwnedFd, DirError> {
        let (new, socket) = (self.path.join(NEW_NAME), self.path.join(SOCKET_NAME));
        let pid = std::process::id();
        self.lock
            .set_len(0)
            .and_then(|()| self.lock.rewind())
            .and_then(|()| writeln!(self.lock, "{pid}"))
            .map_err(os("write", &self.path.join(LOCK_NAME)))?;
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(os("remove", &new)(e)),
            _ => {}
        }
        let fd = netvale_shm::channel::listen(&self.path, NEW_NAME, BACKLOG)
            .map_err(os("listen at", &new))?;
        let mode = access.map_or(0o600, |a| a.mode);
        std::fs::set_permissions(&new, Permissions::from_mode(mode))
            .map_err(os("open up", &new))?;
        if let Some(group) = access.and_then(|a| a.group.as_deref()) {
            std::os::unix::fs::chown(&new, None, Some(gid(group)?)).map_err(os("open up", &new))?;
        }
        std::fs::rename(&new, &socket).map_err(os("name", &socket))?;
        Ok(fd)
    }

    /// Takes the socket's name away: whoever comes now starts a new server.
    pub(crate) fn close(&self) {
        let _ = std::fs::remove_file(self.path.join(SOCKET_NAME));
    }
}

impl Drop for NamespaceDir {
    fn drop(&mut self) {
        self.close();
        // While it is still locked; see `take`.
        let _ = std::fs::remove_file(self.path.join(LOCK_NAME));
    }
}

fn make(path: &Path, access: Option<&Access>) -> Result<(), DirError> {
    let mode = if access.is_some() { 0o711 } else { 0o700 };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(os("make", path))?;
    let meta = std::fs::symlink_metadata(path).map_err(os("examine", path))?;
    let bad = |why: String| DirError::Unsafe {
        path: path.to_owned(),
        why,
    };
    if !meta.is_dir() {
        return Err(bad("is not a directory".into()));
    }
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        return Err(bad(format!("belongs to user {}, not to {us}", meta.uid())));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(bad(format!(
            "can be written by others (mode {:o}): chmod go-w it",
            meta.mode() & 0o7777
        )));
    }
    if access.is_some() && meta.mode() & 0o111 != 0o111 {
        std::fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(os("open up", path))?;
    }
    Ok(())
}

fn nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

/// A group's number, by its name or as it is.
fn gid(group: &str) -> Result<u32, DirError> {
    if let Ok(n) = group.parse() {
        return Ok(n);
    }
    let file = Path::new("/etc/group");
    let text = std::fs::read_to_string(file).map_err(os("read", file))?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| DirError::NoGroup(group.into()))
}

fn os(what: &'static str, path: &Path) -> impl Fn(io::Error) -> DirError {
    let path = path.to_owned();
    move |source| DirError::Os {
        what,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_next_after_it() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a/b");
        let mut first = NamespaceDir::take(&path, None).unwrap();
        let _listener = first.listen(None).unwrap();
        let second = NamespaceDir::take(&path, None).unwrap_err();
        let us = std::process::id();
        assert!(
            matches!(second, DirError::Taken { pid, .. } if pid == us),
            "{second}"
        );
        drop(first);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "leftovers");
        // A dead server's leftovers are no obstacle.
        std::fs::write(path.join(LOCK_NAME), "12\n").unwrap();
        std::fs::write(path.join(SOCKET_NAME), "").unwrap();
        std::fs::write(path.join(NEW_NAME), "").unwrap();
        let mut third = NamespaceDir::take(&path, None).unwrap();
        third.listen(None).unwrap();
        let mode = std::fs::metadata(path.join(SOCKET_NAME)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn directories_that_others_can_write_are_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("open");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let refused = NamespaceDir::take(&path, None);
        assert!(matches!(refused, Err(DirError::Unsafe { .. })));
        let link = tmp.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        let refused = NamespaceDir::take(&link, None);
        assert!(matches!(refused, Err(DirError::Unsafe { .. })));
    }

    #[test]
    fn groups_by_name_and_number() {
        assert_eq!(gid("1234").unwrap(), 1234);
        assert_eq!(gid("root").unwrap(), 0);
        assert!(matches!(gid("no such group"), Err(DirError::NoGroup(_))));
    }
}
