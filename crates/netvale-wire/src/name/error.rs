//! What can be wrong with a port name.

use alloc::string::String;
use thiserror::Error;

/// Why a port name was refused. Positions are byte offsets, from 0, in the
/// text that was parsed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text is empty.
    #[error("the port name is empty; examples: netmap:eth0, vale0:a, tap:tap0, null")]
    Empty,
    /// A name or the whole text is too long.
    #[error("{what} has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its length, bytes.
        len: usize,
        /// The limit, bytes.
        max: usize,
    },
    /// The text begins with none of the known prefixes.
    #[error(
        "unknown prefix in '{text}'; a port name begins with netmap:, vale<id>:, null, tap:, \
         pcap:, vhost-user:, vfio: or vxlan: (an interface is written netmap:<name>)"
    )]
    UnknownPrefix {
        /// What was parsed, at most its first 64 characters.
        text: String,
    },
    /// A known prefix is not followed by a colon.
    #[error("missing ':' after '{prefix}'")]
    MissingColon {
        /// The prefix.
        prefix: &'static str,
    },
    /// Something that must not be empty is.
    #[error("empty {what} at byte {at}")]
    EmptyPart {
        /// Which part.
        what: &'static str,
        /// Where it should be.
        at: usize,
    },
    /// A character is not allowed where it stands.
    #[error("character {ch:?} at byte {at} is not allowed in {what}, which takes {allowed}")]
    BadChar {
        /// The character.
        ch: char,
        /// Where it is.
        at: usize,
        /// What it is part of.
        what: &'static str,
        /// What may stand there.
        allowed: &'static str,
    },
    /// A number is missing, not decimal, or out of range.
    #[error("{what} at byte {at} is not a decimal number from {min} to {max}")]
    BadNumber {
        /// What the number is for.
        what: &'static str,
        /// Where it is.
        at: usize,
        /// Lowest value allowed.
        min: u64,
        /// Highest value allowed.
        max: u64,
    },
    /// Two region numbers contradict each other.
    #[error("region {second} at byte {at} contradicts region {first} before it")]
    MemIdConflict {
        /// The first number.
        first: u16,
        /// The second number.
        second: u16,
        /// Where the second one is.
        at: usize,
    },
    /// A pipe was combined with host rings.
    #[error("the rings at byte {at} are host rings, which a pipe does not have; use none or -N")]
    PipeHostRings {
        /// Where the mode is.
        at: usize,
    },
    /// A pipe has a pipe for a parent.
    #[error("the parent of the pipe at byte {at} is a pipe itself, which is not supported")]
    NestedPipe {
        /// Where the inner brace is.
        at: usize,
    },
    /// No option is called so.
    #[error("unknown option '{name}' at byte {at}; options are conf, share, extmem and offset")]
    UnknownOption {
        /// What was found.
        name: String,
        /// Where it is.
        at: usize,
    },
    /// An option has no such key.
    #[error("option {option} has no key '{key}' (byte {at}); its keys are {keys}")]
    UnknownKey {
        /// The option.
        option: &'static str,
        /// What was found.
        key: String,
        /// Where it is.
        at: usize,
        /// What is allowed.
        keys: &'static str,
    },
    /// A key or an option that may occur once occurs again.
    #[error("{what} is given twice, the second time at byte {at}")]
    Duplicate {
        /// Option or key.
        what: &'static str,
        /// Where the second one is.
        at: usize,
    },
    /// An option lacks a key it cannot do without, or its value.
    #[error("option {option} at byte {at} needs {needs}")]
    MissingValue {
        /// The option.
        option: &'static str,
        /// Where the option is.
        at: usize,
        /// What is missing.
        needs: &'static str,
    },
    /// The port to share memory with is not a port name itself.
    #[error("the port to share memory with, at byte {at}, must begin with netmap: or vale")]
    BadShare {
        /// Where it is.
        at: usize,
    },
}
