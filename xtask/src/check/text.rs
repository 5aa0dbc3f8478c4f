//! Texts that no file may contain, and files that are too long.

use super::Violation;
use crate::lexer::is_word;
use crate::policy::{self, FORBIDDEN, Match};
use crate::tree::Files;

/// Looks for every forbidden text in every file.
pub(super) fn forbidden(files: &Files) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (path, text) in files {
        let is_lock = path == "Cargo.lock";
        for (index, line) in text.lines().enumerate() {
            if is_lock && line == policy::LOCK_SOURCE {
                continue;
            }
            for rule in FORBIDDEN
                .iter()
                .filter(|rule| holds(line, rule.text, rule.how))
            {
                broken.push(Violation {
                    place: format!("{path}:{}", index + 1),
                    what: format!("contains '{}'", rule.text),
                    why: rule.why,
                    fix: rule.fix.to_owned(),
                });
            }
        }
    }
    broken
}

fn holds(line: &str, text: &str, how: Match) -> bool {
    line.match_indices(text).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + text.len()..].chars().next();
        let grows = text.starts_with(is_word) && before.is_some_and(is_word)
            || text.ends_with(is_word) && after.is_some_and(is_word);
        match how {
            Match::Anywhere => true,
            Match::Word => !grows,
            Match::PathStart => {
                !before.is_some_and(|c| is_word(c) || matches!(c, '.' | '-' | '}' | ')' | '~'))
            }
        }
    })
}

/// Names Rust files that should be split.
pub(super) fn long_files(files: &Files) -> Vec<Violation> {
    files
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > policy::LONG_FILE_LINES)
        .map(|(path, lines)| Violation {
            place: path.clone(),
            what: format!("{lines} lines, more than {}", policy::LONG_FILE_LINES),
            why: "nobody holds so much in mind at once",
            fix: "split it by responsibility, or move its tests to tests.rs".to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, text: &str) -> Vec<String> {
        let files = Files::from([(path.to_owned(), text.to_owned())]);
        forbidden(&files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_text_is_found() {
        for rule in FORBIDDEN {
            let broken = ask("a.md", &format!("first\nsee {} there\n", rule.text));
            assert!(!broken.is_empty(), "{}", rule.text);
            assert!(
                broken.iter().all(|line| line.starts_with("a.md:2: ")),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn similar_texts_are_not() {
        for text in [
            concat!("MASTO", "DON"),
            concat!("to", "do = \"warn\""),
            concat!("crates/wo", "rk/x"),
            concat!("https://example.org/ho", "me/x"),
            concat!("$HOME/wo", "rk/x"),
            concat!("${DIR}/wo", "rk/x"),
        ] {
            assert!(ask("a.md", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn absolute_paths_are_found_behind_marks() {
        for before in ["", "\"", "(", "=", ":", "file://", " "] {
            let text = format!("{before}{}x", concat!("/wo", "rk/"));
            assert_eq!(ask("a.toml", &text).len(), 1, "{text}");
        }
    }

    #[test]
    fn the_lock_file_may_say_where_packages_are_indexed() {
        assert!(ask("Cargo.lock", policy::LOCK_SOURCE).is_empty());
        assert!(!ask("other.lock", policy::LOCK_SOURCE).is_empty());
        let mirror = concat!("source = \"sparse", "+https://mirror.example/index/\"");
        assert_eq!(ask("Cargo.lock", mirror).len(), 1);
    }

    #[test]
    fn long_files_are_named() {
        let lines = |count: usize| "\n".repeat(count);
        let files = Files::from([
            ("long.rs".to_owned(), lines(policy::LONG_FILE_LINES + 1)),
            ("fits.rs".to_owned(), lines(policy::LONG_FILE_LINES)),
            ("long.md".to_owned(), lines(2 * policy::LONG_FILE_LINES)),
        ]);
        let places: Vec<_> = long_files(&files)
            .into_iter()
            .map(|found| found.place)
            .collect();
        assert_eq!(places, ["long.rs"]);
    }
}
