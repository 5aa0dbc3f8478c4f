//! As much of Rust's lexical grammar as the checks need.

use std::ops::Range;

/// Replaces comments, and what stands between the quotes of string and
/// character literals, by spaces. Lengths and line ends stay, so an offset in
/// the result is an offset in the source.
pub(crate) fn code_only(source: &str) -> String {
    let src = source.as_bytes();
    let mut out = src.to_vec();
    let mut at = 0;
    while at < src.len() {
        let rest = &src[at..];
        let (blank, next) = if rest.starts_with(b"//") {
            let end = find(src, at, b"\n").unwrap_or(src.len());
            (at..end, end)
        } else if rest.starts_with(b"/*") {
            let end = block_comment_end(src, at);
            (at..end, end)
        } else if let Some((open, hashes)) = raw_string_open(src, at) {
            let mut close = vec![b'"'];
            close.resize(1 + hashes, b'#');
            let end = find(src, open, &close).unwrap_or(src.len());
            (open..end, (end + close.len()).min(src.len()))
        } else if src[at] == b'"' {
            let end = quoted_end(src, at + 1, b'"');
            (at + 1..end, (end + 1).min(src.len()))
        } else if src[at] == b'\'' {
            char_literal(source, at)
        } else {
            (at..at, at + 1)
        };
        for byte in &mut out[blank] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = next;
    }
    // Only whole characters were replaced, so nothing is lost here.
    String::from_utf8_lossy(&out).into_owned()
}

/// The places where `word` stands as a whole identifier or keyword.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    code.match_indices(word).filter_map(|(start, found)| {
        let end = start + found.len();
        let alone = !code[..start].ends_with(is_word) && !code[end..].starts_with(is_word);
        alone.then_some(start..end)
    })
}

/// Whether a character can be part of an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The number of the line, from 1, in which an offset lies.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

fn find(src: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    src.get(from..)?
        .windows(what.len())
        .position(|window| window == what)
        .map(|at| from + at)
}

fn block_comment_end(src: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at < src.len() {
        if src[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if src[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    src.len()
}

/// If a raw string begins here: where its text begins, and its hash signs.
fn raw_string_open(src: &[u8], at: usize) -> Option<(usize, usize)> {
    let before = at.checked_sub(1).map(|i| src[i]);
    if before.is_some_and(|b| b == b'_' || b.is_ascii_alphanumeric()) {
        return None;
    }
    let rest = &src[at..];
    let prefix = [&b"r"[..], b"br", b"cr"]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix))?;
    let after = &rest[prefix.len()..];
    let hashes = after.iter().take_while(|byte| **byte == b'#').count();
    (after.get(hashes) == Some(&b'"')).then_some((at + prefix.len() + hashes + 1, hashes))
}

fn quoted_end(src: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from;
    while at < src.len() {
        match src[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at,
            _ => at += 1,
        }
    }
    src.len()
}

/// Tells a character literal from a lifetime: what to blank, where to go on.
fn char_literal(source: &str, at: usize) -> (Range<usize>, usize) {
    let inner = at + 1;
    let first = source[inner..].chars().next();
    if first == Some('\\') {
        let end = quoted_end(source.as_bytes(), inner, b'\'');
        return (inner..end, (end + 1).min(source.len()));
    }
    let end = inner + first.map_or(0, char::len_utf8);
    if first.is_some() && source[end..].starts_with('\'') {
        (inner..end, end + 1)
    } else {
        (at..at, inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_unsafe(source: &str) -> bool {
        let code = code_only(source);
        assert_eq!(code.len(), source.len(), "offsets must stay");
        words(&code, "unsafe").next().is_some()
    }

    #[test]
    fn keywords_in_code_are_seen() {
        assert!(has_unsafe("fn f() { unsafe { g() } }"));
        assert!(has_unsafe("/* a /* nested */ comment */ unsafe fn f() {}"));
        assert!(has_unsafe("const Q: char = '\"'; unsafe fn f() {}"));
        assert!(has_unsafe("const B: &str = \"\\\\\"; unsafe fn f() {}"));
        assert!(has_unsafe("fn f<'a>(x: &'a str) { unsafe { g('\\'') } }"));
        assert!(has_unsafe("let r#type = 1; unsafe { g() }"));
        assert!(has_unsafe(
            "const S: &str = r#\"a \" b\"#; unsafe fn f() {}"
        ));
        assert!(has_unsafe("#[unsafe(no_mangle)] fn f() {}"));
    }

    #[test]
    fn keywords_in_comments_and_literals_are_not() {
        assert!(!has_unsafe("// unsafe\n//! unsafe\nfn f() {}"));
        assert!(!has_unsafe("/* unsafe /* unsafe */ unsafe */"));
        assert!(!has_unsafe("const S: &str = \"\\\" unsafe\";"));
        assert!(!has_unsafe("const S: &str = r##\"\"# unsafe\"##;"));
        assert!(!has_unsafe(
            "const S: &[u8] = br\"unsafe\"; const C: &CStr = c\"unsafe\";"
        ));
        assert!(!has_unsafe(
            "const Q: char = '\"'; const S: &str = \"unsafe\";"
        ));
        assert!(!has_unsafe("#![forbid(unsafe_code)]"));
        assert!(!has_unsafe("let é = 'é'; // unsafe"));
    }

    #[test]
    fn unfinished_literals_end_the_file() {
        for source in ["\"unsafe", "r#\"unsafe", "/* unsafe", "'", "'\\", "\"\\"] {
            assert!(!has_unsafe(source), "{source}");
        }
    }

    #[test]
    fn lines_count_from_one() {
        assert_eq!(line_of("a\nb\nc", 0), 1);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
