//! `cargo xtask check`: the rules that no compiler checks.
//!
//! Each rule is a pure function from what is in the tree to a list of
//! [`Violation`]s, so that each has tests in which it is broken.

mod layers;
mod licences;
mod manifests;
mod modules;
mod text;
mod unsafety;

use std::fmt;

use crate::failure::Failure;
use crate::{metadata, tree};

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The file, with a line number where there is one.
    pub(crate) place: String,
    pub(crate) what: String,
    pub(crate) why: &'static str,
    pub(crate) fix: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {}: {}",
            self.place, self.what, self.why, self.fix
        )
    }
}

/// Checks the tree and prints what is wrong, one line each. `false` when
/// something is; warnings do not count.
///
/// # Errors
///
/// When the tree cannot be read or cargo does not answer.
pub(crate) fn run() -> Result<bool, Failure> {
    let root = tree::root();
    let files = tree::read(&root)?;
    let locked = tree::is_tracked(&root, "Cargo.lock");
    let workspace = metadata::load(&root, locked)?;
    let terms = licences::terms(&files)?;

    let mut broken = layers::check(&workspace.members);
    broken.extend(manifests::check(&workspace.members, &files)?);
    broken.extend(unsafety::check(&workspace.members, &files));
    broken.extend(modules::orphans(&workspace.members, &files));
    broken.extend(text::forbidden(&files));
    broken.extend(licences::files(&files));
    broken.extend(licences::dependencies(&workspace.foreign, &terms));

    for warning in text::long_files(&files) {
        println!("warning: {warning}");
    }
    for violation in &broken {
        println!("{violation}");
    }
    let (crates, packages) = (workspace.members.len(), workspace.foreign.len());
    println!(
        "checked {} files, {crates} crates, {packages} packages: {} violations",
        files.len(),
        broken.len(),
    );
    Ok(broken.is_empty())
}
