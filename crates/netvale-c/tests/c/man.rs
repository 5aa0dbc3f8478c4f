//! The manual pages are well-formed.

use crate::cc::{here, output};
use netvale_testkit::skip;
use std::process::Command;

#[test]
fn pages_format_without_a_warning() {
    if Command::new("groff").arg("--version").output().is_err() {
        skip(
            "man::pages_format_without_a_warning",
            "needs groff (apt-get install groff)",
        );
        return;
    }
    let mut pages = 0;
    for entry in std::fs::read_dir(here("man")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // A page that only refers to another is found by its name.
        if let Some(other) = text.strip_prefix(".so ") {
            let (section, file) = other.trim().split_once('/').unwrap();
            assert!(
                here("man").join(file).is_file(),
                "{}: no {other}",
                path.display()
            );
            assert_eq!(format!("man{}", file.rsplit('.').next().unwrap()), section);
            continue;
        }
        let mut groff = Command::new("groff");
        groff
            .args(["-ww", "-b", "-man", "-Tutf8", "-z", "-rLL=78n"])
            .arg(&path);
        let output = output(&mut groff);
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && warnings.is_empty(),
            "{}:\n{warnings}",
            path.display()
        );
        let name = path.file_name().unwrap().to_str().unwrap();
        let (title, section) = name.rsplit_once('.').unwrap();
        let header = format!(".TH {} {section} ", title.to_uppercase());
        assert!(text.contains(&header), "{name}: no line '{header}...'");
        for part in [
            ".SH NAME",
            ".SH SYNOPSIS",
            ".SH DESCRIPTION",
            ".SH SEE ALSO",
        ] {
            assert!(text.contains(part), "{name}: no {part}");
        }
        pages += 1;
    }
    assert!(pages >= 6, "only {pages} pages");
}
