//! Options: the last part of a port specification, from the first `@` that no
//! number follows.
//!
//! ```text
//! ( "@" option )*
//! option := name | name "=" value | name ":" key "=" value ("," key "=" value)*
//! ```
//!
//! Which options there are is the caller's list of parsers; [`nmport_parse`]
//! has its own. `-` in a key is read as `_`.
//!
//! [`nmport_parse`]: crate::port::nmport_parse

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;

use crate::abi::{
    Ctx, KEY_ALLOW_EMPTY, KEY_MUST_SET, MAX_KEYS, OPT_ALLOW_EMPTY, OPT_DISABLED, OptKey, OptParser,
    ParseCtx,
};
use crate::ctx;
use crate::refusal::{Refusal, bytes, errno, shown};

/// A flag of parsers of this library: a body without a `=` is the value of the
/// default key, so that `share:vale0:a` works as well as `share=vale0:a`.
pub(crate) const OPT_BARE: c_uint = 1 << 31;

/// Where in an option's text the value of a key is.
type Values = [Option<usize>; MAX_KEYS];

/// `int nmreq_options_decode(const char *opt, struct nmreq_opt_parser *parsers,
/// void *token, struct nmctx *ctx)`: reads options and calls their parsers.
/// 0, or -1 with errno set. Parsers called before a failure are not undone.
///
/// # Safety
///
/// `opt` is a string; `parsers` is null or the first of a list; `ctx` is a
/// context or null for the default one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmreq_options_decode(
    opt: *const c_char,
    parsers: *mut OptParser,
    token: *mut c_void,
    ctx: *mut Ctx,
) -> c_int {
    // SAFETY: passed on.
    let result = unsafe { decode(opt, parsers, token, ctx) };
    // SAFETY: passed on.
    unsafe { ctx::status(ctx, result) }
}

/// [`nmreq_options_decode`] without the report. A refusal by a parser has no
/// text, because the parser has reported it.
///
/// # Safety
///
/// As there.
pub(crate) unsafe fn decode(
    opt: *const c_char,
    parsers: *mut OptParser,
    token: *mut c_void,
    ctx: *mut Ctx,
) -> Result<(), Refusal> {
    // SAFETY: a string by the caller's promise.
    let text = unsafe { bytes(opt) };
    let Some((&begin, list)) = text.split_first() else {
        return Ok(());
    };
    if begin != b'@' {
        return Err(Refusal::invalid("options begin with '@'"));
    }
    for one in list.split(|&b| b == b'@') {
        if one.is_empty() {
            return Err(Refusal::invalid("empty option after '@'"));
        }
        // SAFETY: passed on.
        unsafe { decode_one(one, parsers, token, ctx) }?;
    }
    Ok(())
}

/// # Safety
///
/// As [`nmreq_options_decode`].
unsafe fn decode_one(
    one: &[u8],
    parsers: *mut OptParser,
    token: *mut c_void,
    ctx: *mut Ctx,
) -> Result<(), Refusal> {
    let end = one
        .iter()
        .position(|b| matches!(b, b':' | b'='))
        .unwrap_or(one.len());
    let prefix = &one[..end];
    // SAFETY: passed on.
    let parser = unsafe { find(parsers, prefix) }?;
    let name = shown(prefix);
    if parser.flags & OPT_DISABLED != 0 {
        let text = format_args!("option '{name}' is not enabled");
        return Err(Refusal::new(libc::EOPNOTSUPP, text));
    }
    // A copy in the context's memory, in which values get NULs behind them.
    // SAFETY: passed on.
    let copy = unsafe { ctx::nmctx_malloc(ctx, one.len() + 1) }.cast::<u8>();
    if copy.is_null() {
        return Err(Refusal::no_memory("the text of an option"));
    }
    // SAFETY: fresh memory of one.len() + 1 bytes that nobody else has.
    unsafe { copy.write_bytes(0, one.len() + 1) };
    // SAFETY: as above, initialised now; the slice lives until the calls below.
    let work = unsafe { std::slice::from_raw_parts_mut(copy, one.len() + 1) };
    work[..one.len()].copy_from_slice(one);
    // SAFETY: the parser is the caller's, its keys are strings.
    let values = unsafe { values(parser, work, end) };
    let result = match values {
        Ok(values) => {
            let mut found = ParseCtx {
                ctx,
                token,
                keys: [ptr::null(); MAX_KEYS],
            };
            for (key, value) in found.keys.iter_mut().zip(values) {
                if let Some(at) = value {
                    // SAFETY: within the copy, which ends with a NUL.
                    *key = unsafe { copy.add(at) }.cast();
                }
            }
            // SAFETY: the caller's own parser, called as declared.
            unsafe { call(parser, &mut found) }
        }
        Err(refusal) => Err(refusal),
    };
    // SAFETY: from the same context, and not used any more.
    unsafe { ctx::nmctx_free(ctx, copy.cast()) };
    result
}

/// # Safety
///
/// The parser's function takes what `found` holds.
unsafe fn call(parser: &OptParser, found: &mut ParseCtx) -> Result<(), Refusal> {
    let Some(parse) = parser.parse else {
        return Ok(());
    };
    // SAFETY: passed on.
    if unsafe { parse(found) } < 0 {
        return Err(Refusal::new(errno(), ""));
    }
    Ok(())
}

/// # Safety
///
/// `first` is null or the first of a list that lives for `'a`.
unsafe fn find<'a>(first: *mut OptParser, prefix: &[u8]) -> Result<&'a OptParser, Refusal> {
    let mut at = first;
    while !at.is_null() {
        // SAFETY: in the list, by the caller's promise.
        let parser = unsafe { &*at };
        // SAFETY: a parser's name is a string.
        if unsafe { bytes(parser.prefix) } == prefix {
            return Ok(parser);
        }
        at = parser.next;
    }
    Err(Refusal::invalid(format_args!(
        "unknown option '{}'",
        shown(prefix)
    )))
}

/// Finds the values in an option's text, whose name ends at `end`, and puts a
/// NUL behind each. `work` ends with a NUL.
///
/// # Safety
///
/// The names of the parser's keys are strings.
unsafe fn values(parser: &OptParser, work: &mut [u8], end: usize) -> Result<Values, Refusal> {
    let mut found: Values = [None; MAX_KEYS];
    let name = shown(&work[..end]).into_owned();
    let body = end + 1;
    let is_bare = parser.flags & OPT_BARE != 0 && !work[end..].contains(&b'=');
    let delimiter = if is_bare && work[end] == b':' {
        b'='
    } else {
        work[end]
    };
    match delimiter {
        0 if parser.flags & OPT_ALLOW_EMPTY == 0 => Err(Refusal::invalid(format_args!(
            "option '{name}' needs a value"
        ))),
        0 => Ok(found),
        b'=' => {
            let place = usize::try_from(parser.default_key).ok();
            let Some(place) = place.and_then(|place| found.get_mut(place)) else {
                let text = format_args!("option '{name}' needs ':' and keys, not '='");
                return Err(Refusal::invalid(text));
            };
            if work[body] == 0 {
                return Err(Refusal::invalid(format_args!(
                    "option '{name}' needs a value"
                )));
            }
            *place = Some(body);
            Ok(found)
        }
        _ => {
            // SAFETY: passed on.
            unsafe { keys(parser, &name, work, body, &mut found) }?;
            Ok(found)
        }
    }
}

/// Reads `key=value,...` from `body` on.
///
/// # Safety
///
/// The names of the parser's keys are strings.
unsafe fn keys(
    parser: &OptParser,
    name: &str,
    work: &mut [u8],
    body: usize,
    found: &mut Values,
) -> Result<(), Refusal> {
    let last = work.len() - 1;
    let mut at = body;
    // An empty body names no key; an empty key, as after a last comma, is one
    // that no option has.
    let mut more = body < last;
    while more {
        let next = work[at..last]
            .iter()
            .position(|&b| b == b',')
            .map_or(last, |n| at + n);
        let key_end = work[at..next]
            .iter()
            .position(|&b| b == b'=')
            .map_or(next, |n| at + n);
        for byte in &mut work[at..key_end] {
            if *byte == b'-' {
                *byte = b'_';
            }
        }
        let text = shown(&work[at..key_end]).into_owned();
        // SAFETY: passed on.
        let key = unsafe { key_of(parser, &work[at..key_end]) };
        let place = key.as_ref().and_then(|key| usize::try_from(key.id).ok());
        let (Some(key), Some(place)) = (key, place.and_then(|id| found.get_mut(id))) else {
            return Err(Refusal::invalid(format_args!(
                "option '{name}' has no key '{text}'"
            )));
        };
        if place.is_some() {
            return Err(Refusal::invalid(format_args!(
                "option '{name}': '{text}' stands twice"
            )));
        }
        if work[key_end] == b'=' {
            // An empty value counts as none.
            *place = (key_end + 1 < next).then_some(key_end + 1);
        } else if key.flags & KEY_ALLOW_EMPTY != 0 {
            *place = Some(at);
        } else {
            return Err(Refusal::invalid(format_args!(
                "option '{name}': '{text}' needs a value"
            )));
        }
        more = next < last;
        at = next + 1;
    }
    for byte in &mut work[body..] {
        if *byte == b',' {
            *byte = 0;
        }
    }
    for key in parser.keys.iter().take_while(|key| !key.key.is_null()) {
        let place = usize::try_from(key.id).ok().and_then(|id| found.get(id));
        if key.flags & KEY_MUST_SET != 0 && place.copied().flatten().is_none() {
            // SAFETY: a key's name is a string.
            let key = shown(unsafe { bytes(key.key) });
            return Err(Refusal::invalid(format_args!(
                "option '{name}' needs '{key}'"
            )));
        }
    }
    Ok(())
}

/// # Safety
///
/// The names of the parser's keys are strings.
unsafe fn key_of(parser: &OptParser, text: &[u8]) -> Option<OptKey> {
    let mut all = parser.keys.iter().take_while(|key| !key.key.is_null());
    // SAFETY: passed on.
    all.find(|key| unsafe { bytes(key.key) } == text).copied()
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
