//! Port names: the first part of a port specification.
//!
//! ```text
//! "netmap:" name ["{" id | "}" id]
//! "vale" [id] ":" name ["{" id | "}" id]
//! ```
//!
//! The name ends before the first of `- * ^ / @`; what follows is for
//! [`register`](crate::register) and [`options`](crate::options). What netmap's
//! tests demand to be refused is refused: a name after `netmap:` with a `:` or
//! a `&`, an empty name, an empty or odd pipe.

use std::ffi::{c_char, c_int, c_void};

use netvale_wire::abi::{NETMAP_API, NETMAP_REQ_IFNAMSIZ, NM_BDG_NAME, NmReqHeader};

use crate::abi::Ctx;
use crate::ctx;
use crate::refusal::{Refusal, bytes, shown};

/// Where a name ends.
const SEPARATORS: &[u8] = b"-*^/@";

/// Whether all bytes are letters, digits or `_`.
fn is_identifier(text: &[u8]) -> bool {
    text.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// Finds the name that a request carries, and where the rest begins.
fn parse(spec: &[u8]) -> Result<(&[u8], usize), Refusal> {
    let text = shown(spec);
    let vale = NM_BDG_NAME.as_bytes();
    let (after, on_switch) = if let Some(after) = spec.strip_prefix(b"netmap") {
        (after, false)
    } else if let Some(after) = spec.strip_prefix(vale) {
        (after, true)
    } else {
        let why = "a port name begins with netmap: or vale";
        return Err(Refusal::invalid(format_args!(
            "{text}: unknown prefix: {why}"
        )));
    };
    let Some(colon) = after.iter().position(|&b| b == b':') else {
        return Err(Refusal::invalid(format_args!("{text}: missing ':'")));
    };
    let (id, port) = (&after[..colon], &after[colon + 1..]);
    if !on_switch && !id.is_empty() {
        let why = "nothing may stand between 'netmap' and ':'";
        return Err(Refusal::invalid(format_args!("{text}: {why}")));
    }
    if !is_identifier(id) {
        let id = shown(id);
        return Err(Refusal::invalid(format_args!(
            "{text}: '{id}' is no name of a switch"
        )));
    }
    let end = port
        .iter()
        .position(|b| SEPARATORS.contains(b))
        .unwrap_or(port.len());
    let port = &port[..end];
    let parent = match port.iter().position(|b| matches!(b, b'{' | b'}')) {
        None => port,
        Some(brace) => {
            let pipe = &port[brace + 1..];
            if pipe.is_empty() || !is_identifier(pipe) {
                let pipe = shown(pipe);
                return Err(Refusal::invalid(format_args!(
                    "{text}: '{pipe}' is no name of a pipe"
                )));
            }
            &port[..brace]
        }
    };
    if parent.is_empty() {
        return Err(Refusal::invalid(format_args!("{text}: empty port name")));
    }
    let odd = |b: &u8| matches!(b, b':' | b'&' | b' ') || b.is_ascii_control();
    if !on_switch && parent.iter().any(odd) {
        let parent = shown(parent);
        return Err(Refusal::invalid(format_args!(
            "{text}: '{parent}' is no name of an interface"
        )));
    }
    let begin = if on_switch {
        0
    } else {
        spec.len() - after.len() + 1
    };
    let rest = spec.len() - after.len() + colon + 1 + end;
    let name = &spec[begin..rest];
    if name.len() >= NETMAP_REQ_IFNAMSIZ {
        let (name, max) = (shown(name), NETMAP_REQ_IFNAMSIZ - 1);
        return Err(Refusal::invalid(format_args!(
            "name '{name}' is longer than {max} bytes"
        )));
    }
    Ok((name, rest))
}

/// `int nmreq_header_decode(const char **spec, struct nmreq_header *hdr,
/// struct nmctx *ctx)`: puts the name at `*spec` into `hdr->nr_name` and moves
/// `*spec` behind it. 0, or -1 with `EINVAL` and nothing changed.
///
/// # Safety
///
/// `spec` points to a pointer to a string, `hdr` to a header; `ctx` is a
/// context or null for the default one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmreq_header_decode(
    spec: *mut *const c_char,
    hdr: *mut NmReqHeader,
    ctx: *mut Ctx,
) -> c_int {
    // SAFETY: passed on.
    let result = unsafe { decode(spec, hdr) };
    // SAFETY: passed on.
    unsafe { ctx::status(ctx, result) }
}

/// [`nmreq_header_decode`] without the report.
///
/// # Safety
///
/// As there.
pub(crate) unsafe fn decode(
    spec: *mut *const c_char,
    hdr: *mut NmReqHeader,
) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    let text = unsafe { spec.read() };
    // SAFETY: a string by the caller's promise, or null.
    let (name, rest) = parse(unsafe { bytes(text) })?;
    // SAFETY: the caller's promise; the name lies in the string, not in hdr.
    let hdr = unsafe { &mut *hdr };
    if !hdr.set_name(name) {
        return Err(Refusal::invalid(format_args!("{}: bad name", shown(name))));
    }
    // SAFETY: the rest is within the string, or at its NUL.
    let text = unsafe { text.add(rest) };
    // SAFETY: the caller's promise.
    unsafe { spec.write(text) };
    Ok(())
}

/// `void nmreq_header_init(struct nmreq_header *hdr, uint16_t reqtype,
/// void *body)`: an empty request of that type.
///
/// # Safety
///
/// `hdr` points to memory for a header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmreq_header_init(hdr: *mut NmReqHeader, reqtype: u16, body: *mut c_void) {
    let empty = NmReqHeader {
        nr_version: NETMAP_API,
        nr_reqtype: reqtype,
        nr_reserved: 0,
        nr_name: [0; NETMAP_REQ_IFNAMSIZ],
        nr_options: 0,
        nr_body: body.expose_provenance() as u64,
    };
    // SAFETY: the caller's promise.
    unsafe { hdr.write(empty) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use netvale_wire::name::PortSpec;
    use proptest::prelude::*;

    #[test]
    fn the_name_and_the_rest() {
        for (spec, name, rest) in [
            ("netmap:eth0", "eth0", ""),
            ("netmap:eth0-1", "eth0", "-1"),
            ("netmap:eth0-", "eth0", "-"),
            ("netmap:eth0/x", "eth0", "/x"),
            ("netmap:eth0-2/Tx", "eth0", "-2/Tx"),
            ("netmap:eth0*", "eth0", "*"),
            ("netmap:eth0^", "eth0", "^"),
            ("netmap:eth0@netmap:lo/R", "eth0", "@netmap:lo/R"),
            ("netmap:14", "14", ""),
            ("netmap:pipe{0", "pipe{0", ""),
            ("netmap:pipe}in", "pipe}in", ""),
            ("netmap:pipe{in-7", "pipe{in", "-7"),
            ("vale0:0", "vale0:0", ""),
            ("vale:0", "vale:0", ""),
            ("valeXXX:YYY-4", "valeXXX:YYY", "-4"),
            ("vale0:0{0", "vale0:0{0", ""),
            ("vale0:a:b@", "vale0:a:b", "@"),
        ] {
            let (found, at) = parse(spec.as_bytes()).unwrap_or_else(|e| panic!("{spec}: {e:?}"));
            assert_eq!((found, &spec[at..]), (name.as_bytes(), rest), "{spec}");
        }
    }

    #[test]
    fn what_is_refused() {
        let long = format!("netmap:{}", "e".repeat(64));
        parse(&long.as_bytes()[..long.len() - 1]).unwrap();
        for (spec, part) in [
            ("", "unknown prefix"),
            ("eth0", "unknown prefix"),
            ("netmap", "missing ':'"),
            ("vale", "missing ':'"),
            ("netmap:", "empty port name"),
            ("netmap:^", "empty port name"),
            ("vale0:", "empty port name"),
            ("netmap:{", "'' is no name of a pipe"),
            ("netmap:{x", "empty port name"),
            ("netmap:p{@2", "'' is no name of a pipe"),
            ("netmap:pipe{1}2", "'1}2' is no name of a pipe"),
            ("netmap:vale0:0", "'vale0:0' is no name of an interface"),
            ("netmap:eth0&", "'eth0&' is no name of an interface"),
            ("netmapXXX:eth0", "between 'netmap' and ':'"),
            ("vale-0:a", "'-0' is no name of a switch"),
            (long.as_str(), "longer than 63"),
        ] {
            let refusal = parse(spec.as_bytes()).expect_err(spec);
            assert_eq!(refusal.errno, libc::EINVAL);
            assert!(refusal.text.contains(part), "{spec}: {}", refusal.text);
        }
    }

    proptest! {
        /// What the project's own parser takes as a name, this one takes too,
        /// and finds the same.
        #[test]
        fn agrees_with_the_typed_parser(
            prefix in prop_oneof![Just("netmap:"), Just("vale0:"), Just("vale:"), Just("eth")],
            tail in "[a-c{}:&_.^*/@0-9-]{0,8}",
        ) {
            let spec = format!("{prefix}{tail}");
            if let Ok(typed) = PortSpec::parse(&spec) {
                let (name, _) = parse(spec.as_bytes()).unwrap();
                let typed = typed.port_name();
                prop_assert_eq!(name, typed.as_bytes());
            }
            if let Ok((name, rest)) = parse(spec.as_bytes()) {
                let name = str::from_utf8(name).unwrap();
                let bare = &spec[..rest];
                prop_assert_eq!(PortSpec::parse(bare).unwrap().port_name(), name);
            }
        }

        #[test]
        fn any_bytes_are_safe(spec in proptest::collection::vec(any::<u8>(), 0..90)) {
            if let Ok((name, rest)) = parse(&spec) {
                prop_assert!(!name.is_empty() && name.len() < NETMAP_REQ_IFNAMSIZ);
                prop_assert!(rest <= spec.len());
            }
        }
    }
}
