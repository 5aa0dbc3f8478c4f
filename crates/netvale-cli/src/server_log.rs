//! The log of a server in the background: a file in its namespace's directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;

/// Name of the file. It stays when the server ends, to tell why.
const NAME: &str = "log";
/// A file that is longer is begun anew. Bytes.
const LONGEST: u64 = 1 << 20;

/// Writes to the file as far as that is possible: no server fails for want of
/// a log.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
    /// Opened with the first line: then the directory is the server's.
    file: Arc<OnceLock<Option<File>>>,
}

impl Log {
    /// That of the namespace in this directory.
    pub(crate) fn of(namespace: &Path) -> Self {
        Self {
            path: namespace.join(NAME),
            file: Arc::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> Option<File> {
        // A pipe of that name would have us wait for its reader.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
            .open(&self.path)
            .ok()
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(mut file) = self.file.get_or_init(|| self.open()).as_ref() {
            if file.metadata().is_ok_and(|m| m.len() > LONGEST) {
                let _ = file.set_len(0);
            }
            let _ = file.write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn lines_are_added_until_it_is_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let read = || std::fs::read(&path).unwrap();
        Log::of(dir.path()).write_all(b"one\n").unwrap();
        Log::of(dir.path()).write_all(b"two\n").unwrap();
        assert_eq!(read(), b"one\ntwo\n");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut log = Log::of(dir.path());
        log.write_all(&vec![b'x'; 1 << 20]).unwrap();
        log.write_all(b"anew\n").unwrap();
        assert_eq!(read(), b"anew\n");
    }

    #[test]
    fn what_cannot_be_written_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join(NAME), dir.path().join("other"));
        std::os::unix::fs::symlink(&other, &path).unwrap();
        Log::of(dir.path()).write_all(b"line\n").unwrap();
        assert!(!other.exists(), "links are not followed");
        Log::of(&dir.path().join("none"))
            .write_all(b"line\n")
            .unwrap();
        let mut full = Log {
            path: PathBuf::from("/dev/full"),
            file: Arc::default(),
        };
        full.write_all(b"line\n").unwrap();
    }
}
