//! Finds Rust files that no build sees.

use std::collections::BTreeSet;

use super::Violation;
use crate::lexer::{code_only, is_word};
use crate::metadata::Member;
use crate::tree::Files;

/// Files of members that are not reachable as a module from any target.
/// Folders named `fixtures` are data and are left out.
pub(super) fn orphans(members: &[Member], files: &Files) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<(String, bool)> = Vec::new();
    for target in members.iter().flat_map(|member| &member.targets) {
        open.push((target.path.clone(), true));
    }
    while let Some((path, is_root)) = open.pop() {
        let Some(source) = files.get(&path) else {
            continue;
        };
        if !seen.insert(path.clone()) {
            continue;
        }
        for child in children(&path, is_root, source) {
            open.push((child, false));
        }
    }
    files
        .keys()
        .filter(|path| path.ends_with(".rs") && !path.split('/').any(|part| part == "fixtures"))
        .filter(|path| members.iter().any(|member| is_below(path, &member.dir)))
        .filter(|path| !seen.contains(*path))
        .map(|path| Violation {
            place: path.clone(),
            what: "no module declares this file".to_owned(),
            why: "it is neither compiled nor tested",
            fix: "declare it with mod, or delete it".to_owned(),
        })
        .collect()
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// The files that one file may bring in. Some may not exist: `mod a;` names
/// two candidates.
fn children(path: &str, is_root: bool, source: &str) -> Vec<String> {
    let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let owns_dir = is_root || stem == "mod";
    let own = if owns_dir {
        dir.to_owned()
    } else {
        join(dir, stem)
    };
    let mut found = Vec::new();
    for declaration in declarations(source) {
        let base = declaration
            .inside
            .iter()
            .fold(own.clone(), |base, part| join(&base, part));
        match declaration.kind {
            Kind::Module(name) => {
                found.push(join(&base, &format!("{name}.rs")));
                found.push(join(&base, &format!("{name}/mod.rs")));
            }
            Kind::Path(file) if declaration.inside.is_empty() => found.push(join(dir, &file)),
            Kind::Path(file) => found.push(join(&base, &file)),
            Kind::Include(file) => found.push(join(dir, &file)),
        }
    }
    found
}

/// Joins two relative paths, following `.` and `..`.
fn join(dir: &str, tail: &str) -> String {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in tail.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// `mod name;`
    Module(String),
    /// `#[path = "file"] mod name;`
    Path(String),
    /// `include!("file")`
    Include(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Declaration {
    /// The inline modules around it, outermost first.
    inside: Vec<String>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// A string literal.
    Text(&'a str),
    Mark(char),
}

fn declarations(source: &str) -> Vec<Declaration> {
    let code = code_only(source);
    let tokens = tokens(source, &code);
    let mut found = Vec::new();
    // Open braces; those of inline modules have a name.
    let mut braces: Vec<Option<String>> = Vec::new();
    let mut paths: Vec<String> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let next = |n: usize| tokens.get(at + n).copied();
        let inside = || braces.iter().flatten().cloned().collect::<Vec<_>>();
        match token {
            Token::Word("mod") => {
                if let (Some(Token::Word(name)), Some(Token::Mark(';'))) = (next(1), next(2)) {
                    // Conditional paths may apply or not: both count.
                    let named = paths.drain(..).map(Kind::Path);
                    let all = named.chain([Kind::Module(name.to_owned())]);
                    found.extend(all.map(|kind| Declaration {
                        inside: inside(),
                        kind,
                    }));
                }
            }
            Token::Word("path") => {
                if let (Some(Token::Mark('=')), Some(Token::Text(file))) = (next(1), next(2)) {
                    paths.push(file.to_owned());
                }
            }
            Token::Word("include") => {
                if let (Some(Token::Mark('!')), Some(Token::Text(file))) = (next(1), next(3)) {
                    let kind = Kind::Include(file.to_owned());
                    found.push(Declaration {
                        inside: Vec::new(),
                        kind,
                    });
                }
            }
            Token::Mark('{') => {
                let name = match (at.checked_sub(2).map(|i| tokens[i]), at.checked_sub(1)) {
                    (Some(Token::Word("mod")), Some(i)) => match tokens[i] {
                        Token::Word(name) => Some(name.to_owned()),
                        _ => None,
                    },
                    _ => None,
                };
                braces.push(name);
                paths.clear();
            }
            Token::Mark('}') => {
                braces.pop();
                paths.clear();
            }
            Token::Mark(';') => paths.clear(),
            Token::Word(_) | Token::Text(_) | Token::Mark(_) => {}
        }
    }
    found
}

/// Splits into words, string literals and single marks.
fn tokens<'a>(source: &'a str, code: &'a str) -> Vec<Token<'a>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = code[at..].chars().next() {
        if is_word(c) {
            let len = code[at..].find(|c| !is_word(c)).unwrap_or(code.len() - at);
            let word = &code[at..at + len];
            at += len;
            // The name of a raw identifier follows its mark.
            if word != "r" || !code[at..].starts_with('#') {
                found.push(Token::Word(word));
            } else {
                at += 1;
            }
        } else if c == '"' {
            let end = code[at + 1..]
                .find('"')
                .map_or(code.len(), |len| at + 1 + len);
            found.push(Token::Text(&source[at + 1..end]));
            at = (end + 1).min(code.len());
        } else {
            if !c.is_whitespace() {
                found.push(Token::Mark(c));
            }
            at += c.len_utf8();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Target;

    fn orphans_of(roots: &[&str], files: &[(&str, &str)]) -> Vec<String> {
        let target = |path: &&str| Target {
            path: (*path).to_owned(),
            product: true,
        };
        let member = Member {
            name: "a".to_owned(),
            dir: "crates/a".to_owned(),
            targets: roots.iter().map(target).collect(),
            ..Member::default()
        };
        let files: Files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect();
        orphans(&[member], &files)
            .into_iter()
            .map(|violation| violation.place)
            .collect()
    }

    #[test]
    fn declared_files_are_found() {
        let roots = ["crates/a/src/lib.rs", "crates/a/tests/t.rs"];
        let files = [
            (
                "crates/a/src/lib.rs",
                "mod b; pub(crate) mod c; #[cfg(x)] mod r#type;",
            ),
            ("crates/a/src/b.rs", "mod d; mod inner { mod e; }"),
            ("crates/a/src/b/d.rs", ""),
            ("crates/a/src/b/inner/e.rs", ""),
            ("crates/a/src/c/mod.rs", "mod f; include!(\"g.rs\");"),
            ("crates/a/src/c/f.rs", "#[path = \"../h.rs\"] mod other;"),
            ("crates/a/src/c/g.rs", ""),
            ("crates/a/src/h.rs", ""),
            ("crates/a/src/type.rs", ""),
            ("crates/a/tests/t.rs", "mod common;"),
            ("crates/a/tests/common/mod.rs", ""),
            ("crates/a/tests/fixtures/data.rs", ""),
            ("elsewhere/x.rs", ""),
        ];
        assert_eq!(orphans_of(&roots, &files), [""; 0]);
    }

    #[test]
    fn undeclared_files_are_named() {
        let roots = ["crates/a/src/lib.rs"];
        let files = [
            (
                "crates/a/src/lib.rs",
                "// mod b;\nconst S: &str = \"mod c;\"; mod d { } mod e;",
            ),
            ("crates/a/src/b.rs", ""),
            ("crates/a/src/c.rs", ""),
            ("crates/a/src/d.rs", ""),
            ("crates/a/src/e.rs", "mod f { } fn x() { } mod g;"),
            ("crates/a/src/e/f/g.rs", ""),
            ("crates/a/src/g.rs", ""),
        ];
        let expected =
            ["b.rs", "c.rs", "d.rs", "e/f/g.rs", "g.rs"].map(|p| format!("crates/a/src/{p}"));
        assert_eq!(orphans_of(&roots, &files), expected);
    }
}
