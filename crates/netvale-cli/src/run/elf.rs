//! What kind of program a file is, as far as it decides whether the loader
//! takes a library into it.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why the library cannot get into a program, or will not see all it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Linked statically: there is no loader.
    Static,
    /// For another processor, or of another word size.
    OtherMachine,
    /// Runs with the rights of another user or group: the loader ignores the
    /// environment.
    OtherRights,
    /// Written in Go: it makes its system calls by itself.
    Go,
}

impl Obstacle {
    /// Whether starting the program is of no use at all.
    pub(super) fn is_fatal(&self) -> bool {
        !matches!(self, Self::Go)
    }

    /// What is the matter, and what to do.
    pub(super) fn explain(&self) -> (&'static str, &'static str) {
        match self {
            Self::Static => (
                "is linked statically, so no library can be loaded into it",
                "link it dynamically, or against libnetvale.a",
            ),
            Self::OtherMachine => (
                "is not for this machine's 64-bit programs",
                "build it for the same machine as netvale",
            ),
            Self::OtherRights => (
                "runs with the rights of another user (set-user-ID, set-group-ID or capabilities), \
                 so the loader ignores what it is told to load",
                "run a copy of it without them, or run netvale as that user",
            ),
            Self::Go => (
                "is a Go program, which makes its system calls by itself",
                "what it does through C libraries (libpcap, for instance) works",
            ),
        }
    }
}

/// Longest chain of interpreters (`#!`), as the kernel has it.
const MAX_SCRIPTS: usize = 5;
/// Enough for the headers and notes of every program.
const HEAD: usize = 4096;

/// Looks at a program; for a script, at what interprets it.
pub(super) fn inspect(path: &Path) -> std::io::Result<Option<Obstacle>> {
    let mut path = path.to_owned();
    for _ in 0..MAX_SCRIPTS {
        let file = File::open(&path)?;
        let meta = file.metadata()?;
        let mut head = Vec::new();
        (&file).take(HEAD as u64).read_to_end(&mut head)?;
        if let Some(interpreter) = interpreter(&head) {
            path = interpreter;
            continue;
        }
        if changes_rights(&path, meta.permissions().mode(), (meta.uid(), meta.gid())) {
            return Ok(Some(Obstacle::OtherRights));
        }
        return Ok(of_image(&head));
    }
    Ok(None)
}

fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let word = line
        .split(u8::is_ascii_whitespace)
        .find(|w| !w.is_empty())?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(word)))
}

/// Whether executing the file gives rights that we do not have.
fn changes_rights(path: &Path, mode: u32, owner: (u32, u32)) -> bool {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let set_user = mode & 0o4000 != 0 && owner.0 != uid;
    let set_group = mode & 0o2010 == 0o2010 && owner.1 != gid;
    let mut caps = [0u8; 64];
    let has_caps =
        rustix::fs::getxattr(path, "security.capability", &mut caps).is_ok_and(|n| n > 0);
    set_user || set_group || (has_caps && uid != 0)
}

/// `e_machine` of this program.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") {
    183
} else {
    62
};

/// Looks at the beginning of an ELF file (System V ABI, "Object Files").
fn of_image(head: &[u8]) -> Option<Obstacle> {
    if !head.starts_with(b"\x7fELF") {
        return None; // the kernel says what it thinks of it
    }
    let half = |at: usize| Some(u16::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let word = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
    let (class, order) = (head.get(4), head.get(5));
    if class != Some(&2) || order != Some(&1) || half(18) != Some(MACHINE) {
        return Some(Obstacle::OtherMachine);
    }
    const PT_INTERP: u32 = 3;
    let at = usize::try_from(long(32)?).ok()?;
    let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
    let mut dynamic = false;
    for i in 0..count {
        dynamic |= word(at.checked_add(size.checked_mul(i)?)?)? == PT_INTERP;
    }
    // Go's linker leaves a note of type 4 whose name is its own.
    let go = head.windows(8).any(|w| w == b"\x04\0\0\0Go\0\0");
    match (dynamic, go) {
        (false, false) => Some(Obstacle::Static),
        (_, true) => Some(if dynamic {
            Obstacle::Go
        } else {
            Obstacle::Static
        }),
        (true, false) => None,
    }
}

/// The file that the shell would run.
pub(super) fn find(program: &std::ffi::OsStr) -> Option<PathBuf> {
    let runs = |p: &Path| {
        p.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.as_bytes().contains(&b'/') {
        return Some(program.into()).filter(|p: &PathBuf| runs(p));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|p| runs(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(interp: bool) -> Vec<u8> {
        let mut b = vec![0; 64 + 56];
        b[..6].copy_from_slice(b"\x7fELF\x02\x01");
        b[18..20].copy_from_slice(&MACHINE.to_le_bytes());
        b[32] = 64;
        b[54] = 56;
        b[56] = 1;
        b[64] = if interp { 3 } else { 1 };
        b
    }

    #[test]
    fn kinds_of_programs_are_told_apart() {
        assert_eq!(of_image(&image(true)), None);
        assert_eq!(of_image(&image(false)), Some(Obstacle::Static));
        let mut small = image(true);
        small[4] = 1;
        assert_eq!(of_image(&small), Some(Obstacle::OtherMachine));
        let mut go = image(true);
        go.extend(b"\x04\0\0\0\x53\0\0\0\x04\0\0\0Go\0\0");
        assert_eq!(of_image(&go), Some(Obstacle::Go));
        assert_eq!(of_image(b"text"), None);
    }

    #[test]
    fn cut_off_images_do_no_harm() {
        let whole = image(true);
        for n in 0..whole.len() {
            let _ = of_image(&whole[..n]);
        }
        let mut wild = whole;
        wild[32..40].fill(0xff);
        assert_eq!(of_image(&wild), None);
    }

    #[test]
    fn scripts_name_their_interpreter() {
        assert_eq!(interpreter(b"#! /bin/sh -e\nx"), Some("/bin/sh".into()));
        assert_eq!(interpreter(b"#!\n"), None);
        assert_eq!(interpreter(b"\x7fELF"), None);
    }

    #[test]
    fn this_very_test_can_be_helped() {
        let own = std::env::current_exe().expect("tests are files");
        assert_eq!(inspect(&own).expect("it is readable"), None);
    }
}
