//! Our licence files, and the licences of what we depend on. The terms are
//! those of deny.toml, so that cargo-deny and this check cannot disagree.

use toml::Value;

use super::{Violation, manifests};
use crate::failure::Failure;
use crate::metadata::Foreign;
use crate::policy;
use crate::spdx;
use crate::tree::Files;

const DENY: &str = "deny.toml";
const WHY: &str = "whoever uses netvale must be able to rely on its licence";

/// What deny.toml allows and bans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    licences: Vec<String>,
    banned: Vec<String>,
}

/// Reads the terms.
///
/// # Errors
///
/// When deny.toml is no TOML.
pub(super) fn terms(files: &Files) -> Result<Terms, Failure> {
    let table = manifests::parse(DENY, files.get(DENY).map_or("", String::as_str))?;
    let list = |section: &str, key: &str| -> Vec<Value> {
        let list = table.get(section).and_then(|section| section.get(key));
        list.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let name = |entry: Value| -> Option<String> {
        let field = entry.get("crate").or_else(|| entry.get("name"));
        field.unwrap_or(&entry).as_str().map(str::to_owned)
    };
    Ok(Terms {
        licences: list("licenses", "allow")
            .into_iter()
            .filter_map(name)
            .collect(),
        banned: list("bans", "deny").into_iter().filter_map(name).collect(),
    })
}

/// Our own licence texts must be there.
pub(super) fn files(files: &Files) -> Vec<Violation> {
    policy::LICENCE_FILES
        .iter()
        .filter(|name| files.get(**name).is_none_or(|text| text.trim().is_empty()))
        .map(|name| Violation {
            place: (*name).to_owned(),
            what: "the licence text is missing".to_owned(),
            why: "the manifests promise it",
            fix: "restore the file".to_owned(),
        })
        .collect()
}

/// Checks every package that we did not write.
pub(super) fn dependencies(packages: &[Foreign], terms: &Terms) -> Vec<Violation> {
    packages
        .iter()
        .filter_map(|package| objection(package, terms))
        .map(|(what, fix)| Violation {
            place: "Cargo.lock".to_owned(),
            what,
            why: WHY,
            fix,
        })
        .collect()
}

fn objection(package: &Foreign, terms: &Terms) -> Option<(String, String)> {
    let Foreign {
        name,
        version,
        license,
    } = package;
    if terms.banned.contains(name) {
        let fix = format!("do without it: deny.toml gives the reason (cargo tree -i {name})");
        return Some((format!("{name} {version} is banned"), fix));
    }
    let replace = format!("replace it, or argue for its terms in {DENY} (cargo tree -i {name})");
    let Some(expression) = license else {
        return Some((format!("{name} {version} declares no licence"), replace));
    };
    match spdx::satisfiable(expression, &terms.licences) {
        Ok(true) => None,
        Ok(false) => Some((format!("{name} {version} is under '{expression}'"), replace)),
        Err(error) => Some((
            format!("{name} {version}: '{expression}' is no licence ({error})"),
            replace,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Terms {
        let text = "
            [licenses]
            allow = [\"MIT\", \"Zlib\"]
            [bans]
            deny = [{ crate = \"bad\", reason = \"x\" }, { name = \"old\" }, \"plain\"]
        ";
        terms(&Files::from([(DENY.to_owned(), text.to_owned())])).unwrap()
    }

    fn ask(name: &str, license: Option<&str>) -> usize {
        let package = Foreign {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: license.map(str::to_owned),
        };
        dependencies(&[package], &sample()).len()
    }

    #[test]
    fn terms_are_read() {
        assert_eq!(sample().licences, ["MIT", "Zlib"]);
        assert_eq!(sample().banned, ["bad", "old", "plain"]);
    }

    #[test]
    fn without_terms_nothing_is_allowed() {
        assert_eq!(terms(&Files::new()).unwrap(), Terms::default());
    }

    #[test]
    fn licences_are_judged() {
        assert_eq!(ask("good", Some("MIT OR GPL-3.0-only")), 0);
        assert_eq!(ask("good", Some("GPL-3.0-only")), 1);
        assert_eq!(ask("good", Some("see the file")), 1);
        assert_eq!(ask("good", None), 1);
    }

    #[test]
    fn bans_are_enforced_whatever_the_licence() {
        for name in ["bad", "old", "plain"] {
            assert_eq!(ask(name, Some("MIT")), 1, "{name}");
        }
    }

    #[test]
    fn our_own_texts_must_be_there() {
        let mut tree = Files::new();
        assert_eq!(files(&tree).len(), 2);
        tree.insert("LICENSE-MIT".to_owned(), "MIT".to_owned());
        tree.insert("LICENSE-APACHE".to_owned(), " \n".to_owned());
        assert_eq!(files(&tree).len(), 1);
        tree.insert("LICENSE-APACHE".to_owned(), "Apache".to_owned());
        assert_eq!(files(&tree), []);
    }
}
