//! Why the automation could not answer at all.

use std::io;
use std::path::PathBuf;

/// A failure of the tools around us, as opposed to a broken rule.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A program could not be started.
    #[error("cannot run `{command}`")]
    Spawn {
        /// What was to be run.
        command: String,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
    /// A program ran and said no.
    #[error("`{command}` failed:\n{stderr}")]
    Command {
        /// What was run.
        command: String,
        /// What it said.
        stderr: String,
    },
    /// A file or folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer of `cargo metadata` is no JSON.
    #[error("cannot parse the answer of cargo metadata")]
    Json(#[from] serde_json::Error),
    /// The answer of `cargo metadata` lacks something we need.
    #[error("cargo metadata's answer has no usable '{0}'")]
    Metadata(&'static str),
    /// A TOML file is malformed.
    #[error("cannot parse {path}")]
    Toml {
        /// Which one.
        path: String,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
}
