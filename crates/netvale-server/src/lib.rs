//! The server of a namespace.
//!
//! One process per namespace. It gives out ports, rings, memory and
//! descriptors, and takes them back from those who closed or died; frames do
//! not pass through it, except those of isolated ports, which its workers move.
//!
//! ```text
//! client ── SOCK_SEQPACKET ──► control thread ── owns ──► Domain (the books)
//!   │  one connection = one registration;         │
//!   │  its end is the registration's end          │ ports to serve
//!   │                                             ▼
//!   └── private region + two pipes ────────► worker threads (the engine)
//!                              devices ────► pump threads (the engine)
//! ```
//!
//! 1. [`Server::start`] takes the namespace directory and listens in it.
//! 2. [`Server::run`] answers until it is told to end, or until nobody needs
//!    it any more.
//! 3. [`remote`] asks a running server single questions.
//!
//! An idle server sleeps: no timer runs unless something waits for it.
//!
//! Who is trusted: processes of the server's own user and of root share its
//! memory (they could debug each other anyway). Everybody else, and whoever
//! asks for it, is *isolated*: it gets a memory region of its own and nothing
//! of the hidden state, and a worker checks every word that it writes.
#![forbid(unsafe_code)]

mod answer;
mod bells;
mod config;
mod conn;
mod control;
mod dir;
mod files;
mod joint;
mod listing;
mod params;
mod pump;
mod regions;
pub mod remote;
mod sleep;
mod timers;
mod worker;

pub use config::{Access, AttachConfig, Config, ConfigError, PortConfig};
pub use control::{Server, StartError};
pub use dir::DirError;
