//! What `cargo metadata` says about the workspace, reduced to what we check.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::failure::Failure;

/// The workspace and everything it is built from.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    pub(crate) members: Vec<Member>,
    /// Packages from elsewhere.
    pub(crate) foreign: Vec<Foreign>,
}

/// A crate of ours. Paths are relative to the root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Its folder.
    pub(crate) dir: String,
    pub(crate) description: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

impl Member {
    /// The path of its manifest.
    pub(crate) fn manifest(&self) -> String {
        format!("{}/Cargo.toml", self.dir)
    }
}

/// An edge of the dependency graph.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Used by tests, examples and benchmarks only.
    pub(crate) dev: bool,
}

/// One root file that cargo compiles.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) path: String,
    /// A library or a program, as opposed to tests, benchmarks, examples and
    /// build scripts.
    pub(crate) product: bool,
}

/// A package of somebody else.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
}

/// Asks cargo.
///
/// # Errors
///
/// When cargo cannot be run, or fails, or answers what we do not understand.
pub(crate) fn load(root: &Path, locked: bool) -> Result<Workspace, Failure> {
    // All platforms first: a licence matters wherever the code is built. A
    // machine without network may lack the packages of other platforms.
    let json = match ask(root, locked, &[]) {
        Ok(json) => json,
        Err(all) => {
            let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
            let Ok(json) = ask(root, locked, &["--filter-platform", &host]) else {
                return Err(all);
            };
            eprintln!("note: dependencies of other platforms are not at hand and not checked");
            json
        }
    };
    parse(&json)
}

fn ask(root: &Path, locked: bool, more: &[&str]) -> Result<Vec<u8>, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["metadata", "--format-version", "1"])
        .args(more);
    if locked {
        command.arg("--locked");
    }
    let shown = "cargo metadata".to_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(output.stdout),
        Ok(output) => Err(Failure::Command {
            command: shown,
            stderr: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        }),
        Err(source) => Err(Failure::Spawn {
            command: shown,
            source,
        }),
    }
}

/// Reads the JSON of `cargo metadata --format-version 1`.
///
/// # Errors
///
/// When it is malformed.
pub(crate) fn parse(json: &[u8]) -> Result<Workspace, Failure> {
    let value: Value = serde_json::from_slice(json)?;
    let root = text(&value["workspace_root"], "workspace_root")?;
    let ids = list(&value["workspace_members"], "workspace_members")?;
    let mut workspace = Workspace::default();
    for package in list(&value["packages"], "packages")? {
        let name = text(&package["name"], "package name")?;
        if ids.contains(&package["id"]) {
            workspace.members.push(member(package, &name, &root)?);
        } else {
            workspace.foreign.push(Foreign {
                name,
                version: text(&package["version"], "package version")?,
                license: package["license"].as_str().map(str::to_owned),
            });
        }
    }
    Ok(workspace)
}

fn member(package: &Value, name: &str, root: &str) -> Result<Member, Failure> {
    let manifest = relative(&text(&package["manifest_path"], "manifest_path")?, root);
    let dir = manifest
        .strip_suffix("/Cargo.toml")
        .unwrap_or("")
        .to_owned();
    let mut dependencies = Vec::new();
    for dependency in list(&package["dependencies"], "dependencies")? {
        dependencies.push(Dependency {
            name: text(&dependency["name"], "dependency name")?,
            dev: dependency["kind"] == "dev",
        });
    }
    let mut targets = Vec::new();
    for target in list(&package["targets"], "targets")? {
        let kinds = list(&target["kind"], "target kind")?;
        let other = ["test", "bench", "example", "custom-build"];
        targets.push(Target {
            path: relative(&text(&target["src_path"], "src_path")?, root),
            product: !kinds
                .iter()
                .any(|kind| other.iter().any(|name| kind == name)),
        });
    }
    Ok(Member {
        name: name.to_owned(),
        dir,
        description: package["description"].as_str().map(str::to_owned),
        dependencies,
        targets,
    })
}

fn relative(path: &str, root: &str) -> String {
    let inner = path.strip_prefix(root).unwrap_or(path);
    inner.trim_start_matches('/').to_owned()
}

fn text(value: &Value, what: &'static str) -> Result<String, Failure> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or(Failure::Metadata(what))
}

fn list<'a>(value: &'a Value, what: &'static str) -> Result<&'a [Value], Failure> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or(Failure::Metadata(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{
        "workspace_root": "/r",
        "workspace_members": ["a-id"],
        "packages": [
            { "id": "a-id", "name": "a", "version": "0.1.0", "description": "An a",
              "manifest_path": "/r/crates/a/Cargo.toml",
              "dependencies": [
                { "name": "b", "kind": null }, { "name": "c", "kind": "dev" },
                { "name": "d", "kind": "build" } ],
              "targets": [
                { "kind": ["lib"], "src_path": "/r/crates/a/src/lib.rs" },
                { "kind": ["cdylib"], "src_path": "/r/crates/a/src/c.rs" },
                { "kind": ["test"], "src_path": "/r/crates/a/tests/t.rs" } ] },
            { "id": "b-id", "name": "b", "version": "2.0.0", "license": null,
              "manifest_path": "/elsewhere/b/Cargo.toml", "dependencies": [], "targets": [] }
        ]
    }"#;

    #[test]
    fn members_and_others_are_told_apart() {
        let workspace = parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(workspace.members.len(), 1);
        let a = &workspace.members[0];
        assert_eq!((a.name.as_str(), a.dir.as_str()), ("a", "crates/a"));
        assert_eq!(a.manifest(), "crates/a/Cargo.toml");
        let dev: Vec<bool> = a.dependencies.iter().map(|d| d.dev).collect();
        assert_eq!(dev, [false, true, false]);
        let product: Vec<bool> = a.targets.iter().map(|t| t.product).collect();
        assert_eq!(product, [true, true, false]);
        assert_eq!(a.targets[2].path, "crates/a/tests/t.rs");
        assert_eq!(workspace.foreign[0].name, "b");
        assert_eq!(workspace.foreign[0].license, None);
    }

    #[test]
    fn an_answer_without_packages_is_an_error() {
        let answer = parse(br#"{"workspace_root": "/r", "workspace_members": []}"#);
        assert!(matches!(answer, Err(Failure::Metadata("packages"))));
        assert!(matches!(parse(b"no json"), Err(Failure::Json(_))));
    }
}
