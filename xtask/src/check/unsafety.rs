//! Where unsafe code may be, and that every permission has a reason.

use super::Violation;
use crate::lexer::{code_only, line_of, words};
use crate::metadata::Member;
use crate::policy::{self, UnsafeRule};
use crate::tree::Files;

const WHY: &str = "unsafe code is only reviewable while it is in few known places";

/// Checks all Rust files of all members.
pub(super) fn check(members: &[Member], files: &Files) -> Vec<Violation> {
    let mut broken = Vec::new();
    for member in members {
        // A crate that the table does not know is reported by the layer check.
        let Some(rule) = policy::rule_of(&member.name) else {
            continue;
        };
        if rule.unsafety == UnsafeRule::Forbid {
            broken.extend(roots_forbid(member, files));
        }
        let prefix = format!("{}/", member.dir);
        for (path, source) in files {
            let Some(inner) = path.strip_prefix(&prefix).filter(|p| p.ends_with(".rs")) else {
                continue;
            };
            let allowed = match rule.unsafety {
                UnsafeRule::Forbid => false,
                UnsafeRule::Only(places) => places.iter().any(|place| place.holds(inner)),
            };
            broken.extend(one(path, source, allowed));
        }
    }
    broken
}

/// Every library or program of the crate must forbid unsafe code.
fn roots_forbid(member: &Member, files: &Files) -> Vec<Violation> {
    let roots = member.targets.iter().filter(|target| target.product);
    roots
        .filter(|root| !files.get(&root.path).is_some_and(|source| forbids(source)))
        .map(|root| Violation {
            place: root.path.clone(),
            what: "unsafe code is not forbidden".to_owned(),
            why: WHY,
            fix: "begin the file with #![forbid(unsafe_code)]".to_owned(),
        })
        .collect()
}

fn forbids(source: &str) -> bool {
    let code = code_only(source);
    let dense: String = code.split_whitespace().collect();
    dense.split("#![forbid(").skip(1).any(|rest| {
        let list = rest.split(')').next().unwrap_or("");
        list.split(',').any(|lint| lint == "unsafe_code")
    })
}

/// Checks one file.
fn one(path: &str, source: &str, allowed: bool) -> Vec<Violation> {
    let code = code_only(source);
    let mut broken = Vec::new();
    if !allowed {
        for found in words(&code, "unsafe") {
            broken.push(Violation {
                place: format!("{path}:{}", line_of(source, found.start)),
                what: "unsafe code outside the places that may have it".to_owned(),
                why: WHY,
                fix: "use a safe interface of netvale-shm, or move it to the crate's sys.rs \
                      (xtask/src/policy.rs)"
                    .to_owned(),
            });
        }
    }
    for permission in permissions(source, &code) {
        let place = format!("{path}:{}", line_of(source, permission.at));
        if !allowed {
            broken.push(Violation {
                place: place.clone(),
                what: "unsafe code is permitted outside the places that may have it".to_owned(),
                why: WHY,
                fix: "remove the attribute".to_owned(),
            });
        }
        if !permission.has_reason {
            broken.push(Violation {
                place,
                what: "unsafe code is permitted without a reason".to_owned(),
                why: "a reader must learn why safe code does not do",
                fix: "add reason = \"...\" to the attribute".to_owned(),
            });
        }
    }
    broken
}

/// An attribute that lowers the level of `unsafe_code`.
struct Permission {
    at: usize,
    has_reason: bool,
}

fn permissions(source: &str, code: &str) -> Vec<Permission> {
    let mut found = Vec::new();
    for level in ["allow", "expect", "warn"] {
        for word in words(code, level) {
            let Some(inner) = parenthesised(code, word.end) else {
                continue;
            };
            let list = &code[inner.clone()];
            if words(list, "unsafe_code").next().is_none() {
                continue;
            }
            let has_reason = words(list, "reason").any(|key| {
                let from = inner.start + key.end;
                quoted_after(code, from, inner.end)
                    .is_some_and(|text| !source[text].trim().is_empty())
            });
            found.push(Permission {
                at: word.start,
                has_reason,
            });
        }
    }
    found.sort_by_key(|permission| permission.at);
    found
}

/// The text between the parentheses that open at `from`.
fn parenthesised(code: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let open = from + code[from..].find(|c: char| !c.is_whitespace())?;
    let mut depth = 0_usize;
    for (offset, c) in code[open..].char_indices() {
        match c {
            '(' => depth += 1,
            _ if depth == 0 => return None, // the word was something else
            ')' if depth == 1 => return Some(open + 1..open + offset),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The text of the first string literal in a range.
fn quoted_after(code: &str, from: usize, to: usize) -> Option<std::ops::Range<usize>> {
    let open = from + code[from..to].find('"')?;
    let close = open + 1 + code[open + 1..to].find('"')?;
    Some(open + 1..close)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Target;

    #[test]
    fn words_that_only_look_like_attributes_are_passed_over() {
        assert_eq!(parenthesised("expect)", 6), None);
        assert_eq!(parenthesised("expect((a)b)", 6), Some(7..11));
        assert_eq!(parenthesised("expect(", 6), None);
    }

    fn ask(name: &str, path: &str, source: &str) -> Vec<String> {
        let dir = format!("crates/{name}");
        let root = format!("{dir}/src/lib.rs");
        let member = Member {
            name: name.to_owned(),
            dir: dir.clone(),
            targets: vec![Target {
                path: root.clone(),
                product: true,
            }],
            ..Member::default()
        };
        let mut files = Files::from([(root, "#![forbid(unsafe_code)]\n".to_owned())]);
        files.insert(format!("{dir}/{path}"), source.to_owned());
        check(&[member], &files)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn forbidding_is_required_and_recognised() {
        for good in [
            "#![forbid(unsafe_code)]",
            "//! Doc\n#![no_std]\n#![forbid( unsafe_code )]",
            "#![forbid(missing_docs, unsafe_code)]",
        ] {
            assert!(ask("netvale-ring", "src/lib.rs", good).is_empty(), "{good}");
        }
        for bad in [
            "",
            "// #![forbid(unsafe_code)]",
            "#![deny(unsafe_code)]",
            "#![forbid(unsafe_op_in_unsafe_fn)]",
            "const S: &str = \"#![forbid(unsafe_code)]\";",
        ] {
            assert_eq!(ask("netvale-ring", "src/lib.rs", bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn unsafe_is_found_where_it_must_not_be() {
        let source = "// safe\nfn f() { unsafe { g() } }\n";
        for (name, path) in [
            ("netvale-ring", "src/raw.rs"),
            ("netvale-ring", "tests/ring.rs"),
            ("netvale-shm", "tests/map.rs"),
            ("netvale-backends", "src/tap.rs"),
            ("netvale-vmm", "src/net.rs"),
        ] {
            let broken = ask(name, path, source);
            assert_eq!(broken.len(), 1, "{name} {path}: {broken:?}");
            assert!(broken[0].starts_with(&format!("crates/{name}/{path}:2: ")));
        }
    }

    #[test]
    fn unsafe_is_accepted_where_it_may_be() {
        for (name, path) in [
            ("netvale-shm", "src/map.rs"),
            ("netvale-backends", "src/tap/sys.rs"),
            ("netvale-loop", "src/xen/sys.rs"),
            ("netvale-vmm", "src/kvm/vcpu.rs"),
            ("netvale-preload", "tests/load.rs"),
            ("netvale-testkit", "src/netns/sys.rs"),
        ] {
            assert!(
                ask(name, path, "unsafe fn f() {}").is_empty(),
                "{name} {path}"
            );
        }
    }

    #[test]
    fn permissions_need_a_reason() {
        for good in [
            "#![expect(unsafe_code, reason = \"maps memory\")]",
            "#[allow(dead_code, unsafe_code, reason = \"maps (all) memory\")]\nfn f() {}",
            "#![cfg_attr(unix, expect(unsafe_code, reason = \"x\"))]",
            "fn f() { g().expect(\"unsafe_code\") }",
            "#![expect(clippy::exit)]",
        ] {
            assert!(ask("netvale-shm", "src/map.rs", good).is_empty(), "{good}");
        }
        for bad in [
            "#![expect(unsafe_code)]",
            "#![allow(unsafe_code)]",
            "#![expect(unsafe_code, reason = \" \")]",
            "#[cfg_attr(unix, allow(unsafe_code))]\nmod m {}",
        ] {
            assert_eq!(ask("netvale-shm", "src/map.rs", bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn permissions_need_a_place() {
        let source = "#![expect(unsafe_code, reason = \"fast\")]";
        assert_eq!(ask("netvale-backends", "src/tap.rs", source).len(), 1);
    }
}
