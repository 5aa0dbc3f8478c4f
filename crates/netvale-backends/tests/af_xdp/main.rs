//! AF_XDP between network namespaces.
#![cfg(feature = "af_xdp")]
#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

mod bed;
mod frames;
mod life;
mod processes;
