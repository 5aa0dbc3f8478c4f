//! The rules as data: which crate stands in which layer, where unsafe code
//! may be, what no file may contain. ARCHITECTURE.md gives the reasons.

/// Where a crate stands in the dependency order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// May use numbered layers below its own.
    Product(u8),
    /// Serves development only: may use everything, and the product may use
    /// it in tests only.
    Dev,
}

/// Where in a crate the `unsafe` keyword may appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnsafeRule {
    /// Nowhere; the crate's root says `#![forbid(unsafe_code)]`.
    Forbid,
    /// In these places only.
    Only(&'static [Place]),
}

/// A set of files, as paths relative to the crate's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Files whose path starts so.
    Below(&'static str),
    /// Files of this name below `src/`.
    Named(&'static str),
}

impl Place {
    /// Whether the file is in the set.
    pub(crate) fn holds(self, path_in_crate: &str) -> bool {
        match self {
            Self::Below(prefix) => path_in_crate.starts_with(prefix),
            Self::Named(name) => {
                path_in_crate.starts_with("src/") && path_in_crate.rsplit('/').next() == Some(name)
            }
        }
    }
}

/// What holds for one crate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrateRule {
    pub(crate) name: &'static str,
    pub(crate) layer: Layer,
    pub(crate) unsafety: UnsafeRule,
}

const SYS: UnsafeRule = UnsafeRule::Only(&[Place::Named("sys.rs")]);

/// Every crate of the workspace, present or planned.
pub(crate) const CRATES: &[CrateRule] = &[
    rule(
        "netvale-shm",
        Layer::Product(0),
        UnsafeRule::Only(&[Place::Below("src/")]),
    ),
    rule("netvale-wire", Layer::Product(0), UnsafeRule::Forbid),
    rule("netvale-control", Layer::Product(1), UnsafeRule::Forbid),
    rule("netvale-ring", Layer::Product(1), UnsafeRule::Forbid),
    rule("netvale-switch", Layer::Product(2), UnsafeRule::Forbid),
    rule("netvale-backends", Layer::Product(2), SYS),
    rule("netvale-fib", Layer::Product(2), UnsafeRule::Forbid),
    rule("netvale-router", Layer::Product(2), UnsafeRule::Forbid),
    rule("netvale-loop", Layer::Product(2), SYS),
    rule(
        "netvale-vmm",
        Layer::Product(2),
        UnsafeRule::Only(&[Place::Below("src/kvm/"), Place::Below("src/kvm.rs")]),
    ),
    rule("netvale-lane", Layer::Product(3), UnsafeRule::Forbid),
    rule("netvale-server", Layer::Product(3), UnsafeRule::Forbid),
    rule("netvale", Layer::Product(3), UnsafeRule::Forbid),
    rule(
        "netvale-preload",
        Layer::Product(3),
        UnsafeRule::Only(&[Place::Below("")]),
    ),
    rule(
        "netvale-c",
        Layer::Product(4),
        UnsafeRule::Only(&[Place::Below("")]),
    ),
    rule("netvale-cli", Layer::Product(4), UnsafeRule::Forbid),
    rule("netvale-testkit", Layer::Dev, SYS),
    rule("xtask", Layer::Dev, UnsafeRule::Forbid),
];

/// Dependencies within one layer that are wanted: (user, used).
pub(crate) const SAME_LAYER: &[(&str, &str)] = &[
    ("netvale-router", "netvale-fib"),
    ("netvale-vmm", "netvale-switch"),
    ("netvale-loop", "netvale-switch"),
    ("netvale-server", "netvale-lane"),
    ("netvale", "netvale-lane"),
    ("netvale-preload", "netvale"),
];

/// Fields of `[package]` that every member takes from the workspace.
pub(crate) const INHERITED: &[&str] = &["version", "edition", "rust-version", "license"];

/// A Rust file longer than this is named in a warning.
pub(crate) const LONG_FILE_LINES: usize = 800;

/// Files that a licensed work must carry.
pub(crate) const LICENCE_FILES: &[&str] = &["LICENSE-MIT", "LICENSE-APACHE"];

/// How a text is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Anywhere.
    Anywhere,
    /// With no word character before or after it.
    Word,
    /// At the beginning of a path: nothing path-like before it.
    PathStart,
}

/// A text that no tracked file may contain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forbidden {
    pub(crate) text: &'static str,
    pub(crate) how: Match,
    pub(crate) why: &'static str,
    pub(crate) fix: &'static str,
}

// Every text below is put together from pieces, because this file is checked
// like all others.
const UNFINISHED: &str = "unfinished work is invisible to those who rely on it";
const FINISH: &str = "finish it, or describe the limit in the documentation";
const REGISTRY: &str = "where packages come from is the builder's choice";
const NO_HOST: &str = "name the package instead of a host";
const LOCAL_PATH: &str = "the path exists on one machine only";
const RELATIVE: &str = "use a path relative to the repository or a temporary directory";

/// All forbidden texts.
pub(crate) const FORBIDDEN: &[Forbidden] = &[
    forbidden(concat!("TO", "DO"), Match::Word, UNFINISHED, FINISH),
    forbidden(concat!("FIX", "ME"), Match::Word, UNFINISHED, FINISH),
    forbidden(concat!("to", "do!"), Match::Word, UNFINISHED, FINISH),
    forbidden(
        concat!("unimpl", "emented!"),
        Match::Word,
        UNFINISHED,
        FINISH,
    ),
    forbidden(
        concat!("#[ig", "nore"),
        Match::Anywhere,
        "a test that never runs proves nothing",
        "make it announce a skip with its reason (CONTRIBUTING.md), or delete it",
    ),
    forbidden(
        concat!("/wo", "rk/"),
        Match::PathStart,
        LOCAL_PATH,
        RELATIVE,
    ),
    forbidden(
        concat!("/ho", "me/"),
        Match::PathStart,
        LOCAL_PATH,
        RELATIVE,
    ),
    forbidden(
        concat!("/Us", "ers/"),
        Match::PathStart,
        LOCAL_PATH,
        RELATIVE,
    ),
    forbidden(concat!("crates", ".io"), Match::Anywhere, REGISTRY, NO_HOST),
    forbidden(
        concat!("sparse", "+http"),
        Match::Anywhere,
        REGISTRY,
        NO_HOST,
    ),
    forbidden(
        concat!("registry", "+http"),
        Match::Anywhere,
        REGISTRY,
        NO_HOST,
    ),
    forbidden(concat!("pypi", ".org"), Match::Anywhere, REGISTRY, NO_HOST),
    forbidden(
        concat!("pythonhosted", ".org"),
        Match::Anywhere,
        REGISTRY,
        NO_HOST,
    ),
    forbidden(concat!("npmjs", "."), Match::Anywhere, REGISTRY, NO_HOST),
    forbidden(
        concat!("proxy.", "golang.org"),
        Match::Anywhere,
        REGISTRY,
        NO_HOST,
    ),
    forbidden(concat!("ghcr", ".io"), Match::Anywhere, REGISTRY, NO_HOST),
    forbidden(concat!("docker", ".io"), Match::Anywhere, REGISTRY, NO_HOST),
    forbidden(concat!("quay", ".io"), Match::Anywhere, REGISTRY, NO_HOST),
    forbidden(
        concat!("artifact", "ory"),
        Match::Anywhere,
        REGISTRY,
        NO_HOST,
    ),
];

/// The one line with a registry's address that may stand in Cargo.lock: cargo
/// writes it there for every package, whatever mirror it came from.
pub(crate) const LOCK_SOURCE: &str = concat!(
    "source = \"registry",
    "+https://github.com/rust-lang/crates",
    ".io-index\""
);

/// The rule of a crate.
pub(crate) fn rule_of(name: &str) -> Option<&'static CrateRule> {
    CRATES.iter().find(|rule| rule.name == name)
}

const fn rule(name: &'static str, layer: Layer, unsafety: UnsafeRule) -> CrateRule {
    CrateRule {
        name,
        layer,
        unsafety,
    }
}

const fn forbidden(
    text: &'static str,
    how: Match,
    why: &'static str,
    fix: &'static str,
) -> Forbidden {
    Forbidden {
        text,
        how,
        why,
        fix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_between_crates_of_one_layer() {
        for (user, used) in SAME_LAYER {
            let user = rule_of(user).unwrap();
            let used = rule_of(used).unwrap();
            assert_eq!(user.layer, used.layer, "{} -> {}", user.name, used.name);
        }
    }

    #[test]
    fn places_hold_what_they_say() {
        assert!(Place::Below("src/").holds("src/map.rs"));
        assert!(!Place::Below("src/").holds("tests/map.rs"));
        assert!(Place::Named("sys.rs").holds("src/tap/sys.rs"));
        assert!(!Place::Named("sys.rs").holds("src/tap/notsys.rs"));
        assert!(!Place::Named("sys.rs").holds("tests/sys.rs"));
    }
}
