//! `cargo xtask install --prefix DIR`: builds the product and puts it where
//! programs and people look for it.
//!
//! | below the prefix | what |
//! |---|---|
//! | `bin/netvale` | the tools |
//! | `lib/libnetvale.so*`, `lib/libnetvale.a` | the C library |
//! | `lib/libnetmap.so`, `lib/libnetmap.a` | the same, under netmap's name |
//! | `lib/netvale/libnetvale_preload.so` | for `netvale run` |
//! | `lib/pkgconfig`, `include`, `share/man` | for those who compile |

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::failure::Failure;
use crate::tree;

/// Packages to build.
const PACKAGES: [&str; 3] = ["netvale-cli", "netvale-c", "netvale-preload"];
/// Where headers, manual pages and templates are.
const C: &str = "crates/netvale-c";
/// The first number of the library's file name, which changes when programs
/// have to be linked again. The build script of the crate has it as well.
const ABI: &str = "0";
/// netmap's API version, which its own file for pkg-config has.
const API: &str = "14";
/// What the static library needs from the system.
const PRIVATE: &str = "-lgcc_s -lpthread -lm -ldl";

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// Where to.
    prefix: PathBuf,
    /// Build with optimisation.
    release: bool,
}

impl Args {
    /// Reads the arguments; `None` if they make no sense.
    pub(crate) fn parse(args: &[&str]) -> Option<Self> {
        let mut prefix = "";
        let mut release = false;
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match *arg {
                "--release" => release = true,
                "--prefix" => prefix = args.next()?,
                other => prefix = other.strip_prefix("--prefix=")?,
            }
        }
        (!prefix.is_empty()).then(|| Self {
            prefix: prefix.into(),
            release,
        })
    }
}

/// One thing to put somewhere below the prefix.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    /// A file that exists.
    Copy(PathBuf),
    /// A link to another one in the same folder.
    Link(String),
    /// A file with this text.
    Text(String),
}

/// Builds and installs.
///
/// # Errors
///
/// When something cannot be built, read or written.
pub(crate) fn run(args: &Args) -> Result<bool, Failure> {
    let root = tree::root();
    let built = build(&root, args.release)?;
    let prefix =
        std::path::absolute(&args.prefix).map_err(|source| write_error(&args.prefix, source))?;
    let items = plan(&root, &built, &prefix, &version(&root)?)?;
    for (to, item) in &items {
        let to = prefix.join(to);
        put(&to, item).map_err(|source| write_error(&to, source))?;
    }
    println!("installed {} files below {}", items.len(), prefix.display());
    Ok(true)
}

/// Builds the packages; the folder with what came out.
fn build(root: &Path, release: bool) -> Result<PathBuf, Failure> {
    let profile = if release { "release" } else { "dev" };
    let mut args = vec!["build", "--profile", profile];
    if tree::is_tracked(root, "Cargo.lock") {
        args.push("--locked");
    }
    for package in PACKAGES {
        args.extend(["--package", package]);
    }
    cargo(root, &args)?;
    let answer = cargo(root, &["metadata", "--no-deps", "--format-version", "1"])?;
    let answer: serde_json::Value = serde_json::from_slice(&answer)?;
    let target = answer["target_directory"].as_str();
    let target = target.ok_or(Failure::Metadata("target_directory"))?;
    Ok(Path::new(target).join(if release { "release" } else { "debug" }))
}

/// Runs cargo and gives what it printed; its messages are the user's to see.
fn cargo(root: &Path, args: &[&str]) -> Result<Vec<u8>, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let command = format!("cargo {}", args.join(" "));
    let mut cargo = Command::new(cargo);
    cargo
        .current_dir(root)
        .args(args)
        .stderr(std::process::Stdio::inherit());
    let output = cargo.output().map_err(|source| Failure::Spawn {
        command: command.clone(),
        source,
    })?;
    if !output.status.success() {
        let stderr = output.status.to_string();
        return Err(Failure::Command { command, stderr });
    }
    Ok(output.stdout)
}

/// The workspace's version.
fn version(root: &Path) -> Result<String, Failure> {
    let path = root.join("Cargo.toml");
    let text = read(&path)?;
    let manifest: toml::Table = text.parse().map_err(|source| Failure::Toml {
        path: path.display().to_string(),
        source,
    })?;
    let version = manifest
        .get("workspace")
        .and_then(|w| w.get("package"))
        .and_then(|p| p.get("version"));
    let version = version.and_then(toml::Value::as_str);
    version
        .map(str::to_owned)
        .ok_or(Failure::Metadata("workspace.package.version"))
}

/// What goes where. Paths are relative to the prefix.
fn plan(
    root: &Path,
    built: &Path,
    prefix: &Path,
    version: &str,
) -> Result<Vec<(String, Item)>, Failure> {
    let minor = version.split_once('.').map_or(version, |(_, minor)| minor);
    let library = format!("libnetvale.so.{ABI}.{minor}");
    let short = format!("libnetvale.so.{ABI}");
    let from = |name: &str| Item::Copy(built.join(name));
    let link = |target: &str| Item::Link(target.to_owned());
    let mut items = vec![
        ("bin/netvale".to_owned(), from("netvale")),
        (format!("lib/{library}"), from("libnetvale_c.so")),
        (format!("lib/{short}"), link(&library)),
        ("lib/libnetvale.so".to_owned(), link(&short)),
        ("lib/libnetmap.so".to_owned(), link("libnetvale.so")),
        ("lib/libnetvale.a".to_owned(), from("libnetvale_c.a")),
        ("lib/libnetmap.a".to_owned(), link("libnetvale.a")),
        (
            "lib/netvale/libnetvale_preload.so".to_owned(),
            from("libnetvale_preload.so"),
        ),
    ];
    for header in files(&root.join(C).join("include"))? {
        let to = format!("include/{}", relative(root, "include", &header));
        items.push((to, Item::Copy(header)));
    }
    for page in files(&root.join(C).join("man"))? {
        let name = relative(root, "man", &page);
        let section = name.rsplit('.').next().unwrap_or_default();
        items.push((format!("share/man/man{section}/{name}"), Item::Copy(page)));
    }
    for template in files(&root.join(C).join("pkgconfig"))? {
        let name = relative(root, "pkgconfig", &template);
        let text = read(&template)?
            .replace("@PREFIX@", &prefix.display().to_string())
            .replace("@VERSION@", version)
            .replace("@API@", API)
            .replace("@PRIVATE@", PRIVATE);
        let name = name.strip_suffix(".in").unwrap_or(&name);
        items.push((format!("lib/pkgconfig/{name}"), Item::Text(text)));
    }
    Ok(items)
}

/// A path within a folder of the C crate.
fn relative(root: &Path, folder: &str, path: &Path) -> String {
    let base = root.join(C).join(folder);
    path.strip_prefix(base)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// All files below a folder, in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |source| Failure::Read {
        path: dir.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|source| Failure::Read {
        path: path.to_owned(),
        source,
    })
}

/// Puts one thing in its place. A library in use must not change under its
/// users, so the new one replaces it in one step.
fn put(to: &Path, item: &Item) -> io::Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = to.with_file_name(name);
    match item {
        Item::Copy(from) => {
            fs::copy(from, &new)?;
        }
        Item::Link(target) => {
            if new.is_symlink() {
                fs::remove_file(&new)?;
            }
            std::os::unix::fs::symlink(target, &new)?;
        }
        Item::Text(text) => fs::write(&new, text)?,
    }
    fs::rename(&new, to)
}

fn write_error(path: &Path, source: io::Error) -> Failure {
    Failure::Write {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let args = |prefix: &str, release| {
            Some(Args {
                prefix: prefix.into(),
                release,
            })
        };
        assert_eq!(Args::parse(&["--prefix", "/p"]), args("/p", false));
        assert_eq!(Args::parse(&["--release", "--prefix=/p"]), args("/p", true));
        for bad in [
            &[][..],
            &["--release"],
            &["--prefix"],
            &["--prefix="],
            &["/p"],
            &["--prefix", "/p", "x"],
        ] {
            assert_eq!(Args::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn everything_has_its_place() {
        let root = tree::root();
        let items = plan(&root, Path::new("/built"), Path::new("/p"), "0.7.1").unwrap();
        let find = |to: &str| &items.iter().find(|item| item.0 == to).expect(to).1;
        let link = |target: &str| Item::Link(target.to_owned());
        assert_eq!(*find("bin/netvale"), Item::Copy("/built/netvale".into()));
        assert_eq!(
            *find("lib/libnetvale.so.0.7.1"),
            Item::Copy("/built/libnetvale_c.so".into())
        );
        assert_eq!(*find("lib/libnetvale.so.0"), link("libnetvale.so.0.7.1"));
        assert_eq!(*find("lib/libnetvale.so"), link("libnetvale.so.0"));
        assert_eq!(*find("lib/libnetmap.so"), link("libnetvale.so"));
        for to in [
            "lib/netvale/libnetvale_preload.so",
            "include/net/netmap.h",
            "include/net/netmap_user.h",
            "include/libnetmap.h",
            "share/man/man3/nmport_open.3",
            "share/man/man4/netmap.4",
            "share/man/man8/netvale-run.8",
        ] {
            find(to);
        }
        for (name, version) in [("netvale", "0.7.1"), ("libnetmap", "14.0")] {
            let Item::Text(text) = find(&format!("lib/pkgconfig/{name}.pc")) else {
                panic!("{name}.pc is no text");
            };
            assert!(text.starts_with("prefix=/p\n"), "{text}");
            assert!(text.contains(&format!("\nVersion: {version}\n")), "{text}");
            assert!(!text.contains('@'), "{text}");
        }
        let script = fs::read_to_string(root.join(C).join("build.rs")).unwrap();
        assert!(
            script.contains(&format!("libnetvale.so.{ABI}\"")),
            "the names differ"
        );
    }

    #[test]
    fn putting_twice_replaces() {
        let dir = std::env::temp_dir().join(format!("nvinst-{}", std::process::id()));
        let to = dir.join("a/b");
        for item in [
            Item::Text("1".into()),
            Item::Link("c".into()),
            Item::Text("2".into()),
        ] {
            put(&to, &item).unwrap();
        }
        assert_eq!(fs::read_to_string(&to).unwrap(), "2");
        assert_eq!(fs::read_dir(dir.join("a")).unwrap().count(), 1);
        fs::remove_dir_all(dir).unwrap();
    }
}
