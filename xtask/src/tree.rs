//! The files of the project: what git tracks or would track.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::failure::Failure;

/// Text files by their path relative to the root, with `/` between parts.
pub(crate) type Files = BTreeMap<String, String>;

/// The workspace's root: cargo tells where `xtask` lies; without cargo, the
/// current directory is taken.
pub(crate) fn root() -> PathBuf {
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(dir) => {
            let dir = PathBuf::from(dir);
            dir.parent().map_or(dir.clone(), Path::to_path_buf)
        }
        None => PathBuf::from("."),
    }
}

/// Whether git tracks a file. No git, or no repository: no.
pub(crate) fn is_tracked(root: &Path, path: &str) -> bool {
    git(root, &["ls-files", "--error-unmatch", "--", path]).is_some()
}

/// Reads all text files that are part of the project.
///
/// # Errors
///
/// When a file or a folder cannot be read.
pub(crate) fn read(root: &Path) -> Result<Files, Failure> {
    let listing = git(
        root,
        &[
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    );
    let paths = match listing {
        Some(bytes) => String::from_utf8_lossy(&bytes)
            .split('\0')
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .collect(),
        // An unpacked archive.
        None => walk(root)?,
    };
    let mut files = Files::new();
    for path in paths {
        match fs::read(root.join(&path)) {
            Ok(bytes) if bytes.contains(&0) => {}
            Ok(bytes) => {
                files.insert(path, String::from_utf8_lossy(&bytes).into_owned());
            }
            // Deleted but not yet committed, or a link to a folder.
            Err(error) if is_no_file(&error) => {}
            Err(source) => {
                return Err(Failure::Read {
                    path: path.into(),
                    source,
                });
            }
        }
    }
    Ok(files)
}

fn is_no_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
    )
}

fn git(root: &Path, args: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(args)
        .output()
        .ok()?;
    output.status.success().then_some(output.stdout)
}

fn walk(root: &Path) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let fail = |source| Failure::Read {
            path: folder.clone(),
            source,
        };
        for entry in fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let kind = entry.file_type().map_err(fail)?;
            let name = entry.file_name();
            if kind.is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(entry.path());
                }
            } else if let Ok(path) = entry.path().strip_prefix(root) {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}
