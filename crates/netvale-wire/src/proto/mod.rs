//! The control protocol between a client and the server.
//!
//! One message is one datagram on a connected `SOCK_SEQPACKET` Unix socket: a
//! JSON object whose `op` field names the variant, at most [`MAX_MSG`] bytes.
//! File descriptors travel beside it as ancillary data. A client begins with
//! [`Request::Hello`] and waits for a reply to each request before the next.
//!
//! Unknown fields are ignored and fields with a default may be left out, so
//! that either side may be one release older; an unknown `op` is an error.
//!
//! ```
//! use netvale_wire::proto::{Request, decode, encode};
//!
//! let bytes = encode(&Request::Status).unwrap();
//! assert_eq!(bytes, br#"{"op":"status"}"#);
//! assert_eq!(decode(&bytes).unwrap(), Request::Status);
//! ```

mod error;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use error::{ErrorKind, ProtoError};
pub use reply::*;
pub use request::*;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Version of this protocol; both sides must have the same.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest message, bytes. Answers that are longer come in several, each for a
/// request that says after which entry to go on.
pub const MAX_MSG: usize = 64 * 1024;

/// The namespace directory of a user: where the server's socket is unless
/// somebody says otherwise. `runtime_dir` is `XDG_RUNTIME_DIR`.
///
/// Root's does not depend on the environment, which `sudo` may have kept from
/// another user.
///
/// ```
/// use netvale_wire::proto::default_dir;
/// assert_eq!(default_dir(Some("/run/user/7"), 7), "/run/user/7/netvale");
/// assert_eq!(default_dir(None, 7), "/tmp/netvale-7");
/// assert_eq!(default_dir(None, 0), "/run/netvale");
/// ```
#[must_use]
pub fn default_dir(runtime_dir: Option<&str>, uid: u32) -> String {
    match runtime_dir {
        _ if uid == 0 => "/run/netvale".into(),
        Some(dir) if dir.starts_with('/') => alloc::format!("{dir}/netvale"),
        _ => alloc::format!("/tmp/netvale-{uid}"),
    }
}

/// Name of the server's socket in the namespace directory.
pub const SOCKET_NAME: &str = "control";

/// Reads a request.
///
/// # Errors
///
/// [`ProtoError`], for any bytes that are no request.
pub fn decode(message: &[u8]) -> Result<Request, ProtoError> {
    from_json(message)
}

/// Reads a reply.
///
/// # Errors
///
/// [`ProtoError`], for any bytes that are no reply.
pub fn decode_reply(message: &[u8]) -> Result<Reply, ProtoError> {
    from_json(message)
}

/// Writes a request.
///
/// # Errors
///
/// [`ProtoError::TooLong`] if it would be longer than [`MAX_MSG`].
pub fn encode(request: &Request) -> Result<Vec<u8>, ProtoError> {
    to_json(request)
}

/// Writes a reply.
///
/// # Errors
///
/// [`ProtoError::TooLong`] if it would be longer than [`MAX_MSG`].
pub fn encode_reply(reply: &Reply) -> Result<Vec<u8>, ProtoError> {
    to_json(reply)
}

fn from_json<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Result<T, ProtoError> {
    check_len(message.len())?;
    // serde_json limits nesting to 128 levels by itself.
    serde_json::from_slice(message).map_err(malformed)
}

fn to_json<T: Serialize>(message: &T) -> Result<Vec<u8>, ProtoError> {
    let bytes = serde_json::to_vec(message).map_err(malformed)?;
    check_len(bytes.len())?;
    Ok(bytes)
}

fn check_len(len: usize) -> Result<(), ProtoError> {
    match len {
        0..=MAX_MSG => Ok(()),
        _ => Err(ProtoError::TooLong { len }),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "shape that map_err wants")]
fn malformed(error: serde_json::Error) -> ProtoError {
    ProtoError::Malformed {
        reason: error.to_string(),
    }
}
