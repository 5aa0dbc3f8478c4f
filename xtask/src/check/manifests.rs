//! What every member's manifest must say.

use toml::{Table, Value};

use super::Violation;
use crate::failure::Failure;
use crate::metadata::Member;
use crate::policy;
use crate::tree::Files;

/// Checks the manifests of all members.
///
/// # Errors
///
/// When a manifest is no TOML.
pub(super) fn check(members: &[Member], files: &Files) -> Result<Vec<Violation>, Failure> {
    let mut broken = Vec::new();
    for member in members {
        let path = member.manifest();
        let Some(text) = files.get(&path) else {
            broken.push(Violation {
                place: path,
                what: "git ignores this manifest".to_owned(),
                why: "a fresh clone would lack the crate",
                fix: "correct .gitignore".to_owned(),
            });
            continue;
        };
        let table = parse(&path, text)?;
        broken.extend(one(member, &table));
    }
    Ok(broken)
}

/// Parses a TOML file.
///
/// # Errors
///
/// When it is malformed.
pub(super) fn parse(path: &str, text: &str) -> Result<Table, Failure> {
    text.parse().map_err(|source| Failure::Toml {
        path: path.to_owned(),
        source,
    })
}

fn one(member: &Member, manifest: &Table) -> Vec<Violation> {
    let place = member.manifest();
    let mut broken = Vec::new();
    let mut report = |what: String, why: &'static str, fix: String| {
        broken.push(Violation {
            place: place.clone(),
            what,
            why,
            fix,
        });
    };
    if !is_inherited(manifest.get("lints")) {
        report(
            "the workspace's lints are not in force".to_owned(),
            "unsafe code and peer-controlled integers would go unseen",
            "add [lints] with workspace = true".to_owned(),
        );
    }
    let package = manifest.get("package");
    for field in policy::INHERITED {
        if !is_inherited(package.and_then(|package| package.get(field))) {
            report(
                format!("{field} is its own"),
                "all crates are released together, under the same terms",
                format!("write {field}.workspace = true"),
            );
        }
    }
    let description = member.description.as_deref().unwrap_or("").trim();
    if description.is_empty() || description == "TBD" {
        report(
            "no description".to_owned(),
            "the list of crates must tell what each is for",
            "write one line that says what it does".to_owned(),
        );
    }
    let folder = member.dir.rsplit('/').next().unwrap_or("");
    if folder != member.name {
        report(
            format!("{} lies in a folder named '{folder}'", member.name),
            "a crate is looked for under its name",
            "give both the same name".to_owned(),
        );
    }
    broken
}

fn is_inherited(value: Option<&Value>) -> bool {
    value
        .and_then(|value| value.get("workspace"))
        .and_then(Value::as_bool)
        == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
[package]
name = \"netvale-ring\"
version.workspace = true
edition = { workspace = true }
rust-version.workspace = true
license.workspace = true

[lints]
workspace = true
";

    fn member() -> Member {
        Member {
            name: "netvale-ring".to_owned(),
            dir: "crates/netvale-ring".to_owned(),
            description: Some("Rings".to_owned()),
            ..Member::default()
        }
    }

    fn ask(member: &Member, manifest: &str) -> Vec<Violation> {
        let files = Files::from([(member.manifest(), manifest.to_owned())]);
        check(std::slice::from_ref(member), &files).unwrap()
    }

    #[test]
    fn a_good_manifest_passes() {
        assert_eq!(ask(&member(), GOOD), []);
    }

    #[test]
    fn missing_lints_are_named() {
        for broken in [
            "",
            "[lints]\nworkspace = false\n",
            "[lints.rust]\nunsafe_code = \"allow\"\n",
        ] {
            let manifest = GOOD.replace("[lints]\nworkspace = true\n", broken);
            let found = ask(&member(), &manifest);
            assert_eq!(found.len(), 1, "{broken}");
            assert!(found[0].fix.contains("[lints]"));
        }
    }

    #[test]
    fn own_versions_and_licences_are_named() {
        for field in ["version", "rust-version", "license"] {
            let manifest = GOOD.replace(
                &format!("\n{field}.workspace = true"),
                &format!("\n{field} = \"1\""),
            );
            let found = ask(&member(), &manifest);
            assert_eq!(found.len(), 1, "{field}");
            assert!(found[0].what.starts_with(field));
        }
        assert_eq!(
            ask(
                &member(),
                &GOOD.replace("edition = { workspace = true }", "")
            )
            .len(),
            1
        );
    }

    #[test]
    fn placeholder_descriptions_are_named() {
        for description in [None, Some(""), Some("  "), Some("TBD")] {
            let member = Member {
                description: description.map(str::to_owned),
                ..member()
            };
            assert_eq!(ask(&member, GOOD).len(), 1, "{description:?}");
        }
    }

    #[test]
    fn folders_have_the_crates_name() {
        let member = Member {
            dir: "crates/ring".to_owned(),
            ..member()
        };
        assert_eq!(ask(&member, GOOD).len(), 1);
    }

    #[test]
    fn an_ignored_manifest_is_named() {
        assert_eq!(check(&[member()], &Files::new()).unwrap().len(), 1);
    }
}
