//! The parser. `at` is always a byte offset into the whole text.

use super::error::NameError;
use super::{
    BackendKind, MAX_NR_NAME, MAX_PORT, MAX_SPEC, MAX_SWITCH, Pipe, PipeRole, PortFlags, PortKind,
    PortSpec, RingSel, opts,
};
use crate::abi::{NETMAP_RING_MASK, NM_BDG_NAME};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;

/// Characters that end a name in a specification.
const MODIFIERS: [char; 5] = ['-', '*', '^', '/', '@'];
const BRACES: [char; 2] = ['{', '}'];
const ID_CHARS: &str = "letters, digits and _";

pub(super) fn spec(text: &str) -> Result<PortSpec, NameError> {
    check_text(text, "the port name", MAX_SPEC)?;
    if let Some(rest) = text.strip_prefix("netmap") {
        let start = match rest.find(':') {
            Some(0) => text.len() - rest.len() + 1,
            Some(_) => return Err(unknown_prefix(text)),
            None => return Err(NameError::MissingColon { prefix: "netmap" }),
        };
        return netmap_form(text, start, None);
    }
    if text.starts_with(NM_BDG_NAME) {
        let colon = switch_name(text)?;
        return netmap_form(text, colon + 1, text.get(..colon));
    }
    let (prefix, rest) = text.split_at(text.find([':', '@']).unwrap_or(text.len()));
    let start = prefix.len() + usize::from(rest.starts_with(':'));
    if prefix == "null" {
        let (name, tail) = argument(text, start);
        check_len(
            "the name of a null port",
            &name,
            MAX_NR_NAME - "null:".len(),
        )?;
        return backend(PortKind::Null { name }, text, tail);
    }
    let Some(kind) = BackendKind::from_prefix(prefix) else {
        return Err(unknown_prefix(text));
    };
    if start == prefix.len() {
        return Err(NameError::MissingColon {
            prefix: kind.prefix(),
        });
    }
    let (arg, tail) = match kind {
        BackendKind::Vxlan => tunnel(text, start),
        _ => argument(text, start),
    };
    if arg.is_empty() {
        return Err(NameError::EmptyPart {
            what: "argument of the back end",
            at: start,
        });
    }
    backend(PortKind::Backend { kind, arg }, text, tail)
}

pub(super) fn nr_name(text: &str) -> Result<PortSpec, NameError> {
    check_text(text, "the port name", MAX_SPEC)?;
    let extension = text.split_once(':').and_then(|(prefix, rest)| {
        let arg = rest.to_owned();
        match (prefix, BackendKind::from_prefix(prefix)) {
            ("null", _) if text.len() <= MAX_NR_NAME => Some(PortKind::Null { name: arg }),
            (_, Some(kind)) if !arg.is_empty() => Some(PortKind::Backend { kind, arg }),
            _ => None,
        }
    });
    if let Some(kind) = extension {
        return Ok(PortSpec::new(kind));
    }
    check_len("the port name", text, MAX_NR_NAME)?;
    request_form(text)
}

/// A name as netmap's kernel module reads it: it ends in a pipe if there is a
/// `{`, else if there is a `}`, and the last one counts.
fn request_form(text: &str) -> Result<PortSpec, NameError> {
    let Some(brace) = text.rfind('{').or_else(|| text.rfind('}')) else {
        return plain_request(text);
    };
    let (parent, pipe) = text.split_at(brace);
    let (role, id) = match pipe.strip_prefix('{') {
        Some(id) => (PipeRole::Master, id),
        None => (PipeRole::Slave, pipe.get(1..).unwrap_or_default()),
    };
    let empty = |what, at| Err(NameError::EmptyPart { what, at });
    if parent.is_empty() {
        return empty("port name", 0);
    }
    if id.is_empty() {
        return empty("pipe name", brace + 1);
    }
    let parent = request_form(parent)?;
    let pipe = Pipe {
        role,
        id: id.to_owned(),
        under: parent.pipe.clone().map(Box::new),
    };
    Ok(PortSpec {
        pipe: Some(pipe),
        ..parent
    })
}

/// The name in a request of something that is no pipe. Only here may the port
/// part of a switch port's name be empty.
fn plain_request(text: &str) -> Result<PortSpec, NameError> {
    if !text.starts_with(NM_BDG_NAME) {
        let name = text.to_owned();
        interface_name(text, 0)?;
        return Ok(PortSpec::new(PortKind::Nic { name }));
    }
    let colon = switch_name(text)?;
    let (switch, port) = text.split_at(colon);
    let port = port.get(1..).unwrap_or_default();
    switch_port(switch, port).map(PortSpec::new)
}

/// `netmap:` and `vale` names: `start` is where the name after the colon is.
fn netmap_form(text: &str, start: usize, switch: Option<&str>) -> Result<PortSpec, NameError> {
    let body = text.get(start..).unwrap_or_default();
    let len = body.find(MODIFIERS).unwrap_or(body.len());
    let name = body.get(..len).unwrap_or_default();
    let in_request = match switch {
        Some(_) => text.get(..start + len).unwrap_or_default(),
        None => name,
    };
    check_len("the port name", in_request, MAX_NR_NAME)?;
    let mut spec = port_and_pipe(name, start, switch)?;
    let tail = modifiers(&mut spec, text, start + len)?;
    opts::parse(&mut spec.opts, text, tail)?;
    Ok(spec)
}

/// A name that may end in a pipe. The library allows one brace.
fn port_and_pipe(name: &str, start: usize, switch: Option<&str>) -> Result<PortSpec, NameError> {
    let brace = name.find(BRACES).unwrap_or(name.len());
    let (parent, pipe) = name.split_at(brace);
    if parent.is_empty() {
        return Err(NameError::EmptyPart {
            what: "port name",
            at: start,
        });
    }
    let kind = match switch {
        Some(switch) => switch_port(switch, parent)?,
        None => {
            interface_name(parent, start)?;
            PortKind::Nic {
                name: parent.to_owned(),
            }
        }
    };
    let mut spec = PortSpec::new(kind);
    let mut pipe = pipe.chars();
    let role = match pipe.next() {
        Some('{') => PipeRole::Master,
        Some('}') => PipeRole::Slave,
        _ => return Ok(spec),
    };
    let (id, at) = (pipe.as_str(), start + brace + 1);
    if id.is_empty() {
        return Err(NameError::EmptyPart {
            what: "pipe name",
            at,
        });
    }
    if let Some(inner) = id.find(BRACES) {
        return Err(NameError::NestedPipe { at: at + inner });
    }
    check_chars(id, at, "a pipe name", ID_CHARS, is_id_char)?;
    spec.pipe = Some(Pipe {
        role,
        id: id.to_owned(),
        under: None,
    });
    Ok(spec)
}

fn switch_port(switch: &str, port: &str) -> Result<PortKind, NameError> {
    check_len("the port part of a switch port's name", port, MAX_PORT)?;
    Ok(PortKind::Vale {
        switch: switch.to_owned(),
        port: port.to_owned(),
    })
}

fn interface_name(name: &str, start: usize) -> Result<(), NameError> {
    check_chars(
        name,
        start,
        "an interface name",
        "no ':', '&', space or control character (a switch port has no netmap: in front)",
        |ch| ch != ':' && ch != '&' && !ch.is_whitespace(),
    )
}

/// Checks what precedes the colon of a switch port and returns where it is.
fn switch_name(text: &str) -> Result<usize, NameError> {
    let colon = text.find(':').ok_or(NameError::MissingColon {
        prefix: NM_BDG_NAME,
    })?;
    let switch = text.get(..colon).unwrap_or_default();
    check_chars(switch, 0, "a switch name", ID_CHARS, is_id_char)?;
    check_len("the switch name", switch, MAX_SWITCH)?;
    Ok(colon)
}

/// Mode, flags and region from `at` on; returns where the options begin.
fn modifiers(spec: &mut PortSpec, text: &str, at: usize) -> Result<usize, NameError> {
    let mut at = mode(spec, text, at)?;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let mut chars = rest.chars();
        match (chars.next(), chars.next()) {
            (None, _) => return Ok(at),
            (Some('/'), _) => at = flags(&mut spec.flags, text, at + 1)?,
            (Some('@'), Some(next)) if next.is_ascii_digit() => {
                at = mem_id(&mut spec.mem_id, text, at + 1)?;
            }
            (Some('@'), _) => return Ok(at),
            (Some(ch), _) => {
                return Err(NameError::BadChar {
                    ch,
                    at,
                    what: "the modifiers",
                    allowed: "one of ^ ^N * -N, then /flags and @region",
                });
            }
        }
    }
}

fn mode(spec: &mut PortSpec, text: &str, at: usize) -> Result<usize, NameError> {
    let rest = text.get(at..).unwrap_or_default();
    let digits = leading_digits(rest.get(1..).unwrap_or_default());
    let ring = || {
        let max = NETMAP_RING_MASK - 1;
        number(digits, at + 1, "ring", 0, u64::from(max)).map(|n| u16::try_from(n).unwrap_or(max))
    };
    let (rings, len) = match rest.chars().next() {
        Some('^') if digits.is_empty() => (RingSel::Host, 1),
        Some('^') => (RingSel::HostOne(ring()?), 1 + digits.len()),
        Some('*') => (RingSel::NicAndHost, 1),
        Some('-') => (RingSel::One(ring()?), 1 + digits.len()),
        _ => (RingSel::All, 0),
    };
    if spec.pipe.is_some() && !matches!(rings, RingSel::All | RingSel::One(_)) {
        return Err(NameError::PipeHostRings { at });
    }
    spec.rings = rings;
    Ok(at + len)
}

fn flags(flags: &mut PortFlags, text: &str, start: usize) -> Result<usize, NameError> {
    let rest = text.get(start..).unwrap_or_default();
    let len = rest.find('@').unwrap_or(rest.len());
    if rest.is_empty() {
        return Err(NameError::EmptyPart {
            what: "flags (allowed are x z t r T R)",
            at: start,
        });
    }
    for (i, ch) in rest.get(..len).unwrap_or_default().char_indices() {
        *flags = flags.set(ch).ok_or(NameError::BadChar {
            ch,
            at: start + i,
            what: "the flags",
            allowed: "x z t r T R",
        })?;
    }
    Ok(start + len)
}

fn mem_id(mem_id: &mut Option<u16>, text: &str, at: usize) -> Result<usize, NameError> {
    let digits = leading_digits(text.get(at..).unwrap_or_default());
    let max = u64::from(u16::MAX);
    let value = number(digits, at, "region", 1, max)?;
    let second = u16::try_from(value).unwrap_or(u16::MAX);
    match *mem_id {
        Some(first) if first != second => {
            return Err(NameError::MemIdConflict { first, second, at });
        }
        _ => *mem_id = Some(second),
    }
    Ok(at + digits.len())
}

/// Null ports and back ends: only a region and options may follow.
fn backend(kind: PortKind, text: &str, tail: usize) -> Result<PortSpec, NameError> {
    let mut spec = PortSpec::new(kind);
    let mut at = tail;
    while text
        .get(at + 1..)
        .is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
    {
        at = mem_id(&mut spec.mem_id, text, at + 1)?;
        match text.get(at..).and_then(|r| r.chars().next()) {
            None | Some('@') => {}
            Some(ch) => {
                return Err(NameError::BadChar {
                    ch,
                    at,
                    what: "a region number",
                    allowed: "digits",
                });
            }
        }
    }
    opts::parse(&mut spec.opts, text, at)?;
    Ok(spec)
}

/// A back end's argument, with `@@` read as `@`, and where its tail begins.
fn argument(text: &str, start: usize) -> (String, usize) {
    let mut arg = String::new();
    let mut chars = text
        .get(start..)
        .unwrap_or_default()
        .char_indices()
        .peekable();
    while let Some((i, ch)) = chars.next() {
        if ch == '@' && chars.next_if(|&(_, next)| next == '@').is_none() {
            return (arg, start + i);
        }
        arg.push(ch);
    }
    (arg, text.len())
}

/// The same for a tunnel: between its network and an address the `@` may
/// stand alone, as in `vxlan:42@192.0.2.7`.
fn tunnel(text: &str, start: usize) -> (String, usize) {
    let network = leading_digits(text.get(start..).unwrap_or_default());
    let after = start + network.len();
    let rest = text.get(after..).and_then(|rest| rest.strip_prefix('@'));
    let end = |rest: &str| rest.find([',', '@']).unwrap_or(rest.len());
    let address = rest.and_then(|rest| rest.get(..end(rest)));
    // Neither a region's number nor an option.
    let is_address = |a: &str| {
        let sign = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']');
        a.contains(['.', ':']) && a.chars().all(sign)
    };
    if network.is_empty() || !address.is_some_and(is_address) {
        return argument(text, start);
    }
    let (remote, tail) = argument(text, after + 1);
    (alloc::format!("{network}@{remote}"), tail)
}

/// Decimal `digits` in `min..=max`.
pub(super) fn number(
    digits: &str,
    at: usize,
    what: &'static str,
    min: u64,
    max: u64,
) -> Result<u64, NameError> {
    let decimal = digits.bytes().all(|b| b.is_ascii_digit());
    match digits.parse() {
        Ok(n) if decimal && (min..=max).contains(&n) => Ok(n),
        _ => Err(NameError::BadNumber { what, at, min, max }),
    }
}

fn leading_digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.get(..end.unwrap_or(text.len())).unwrap_or_default()
}

fn is_id_char(ch: char) -> bool {
    ch.is_ascii_alphanumeric() || ch == '_'
}

fn check_text(text: &str, what: &'static str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    check_len(what, text, max)?;
    let allowed = "printable characters";
    check_chars(text, 0, "a port name", allowed, |ch| !ch.is_control())
}

fn check_len(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    match text.len() {
        len if len > max => Err(NameError::TooLong { what, len, max }),
        _ => Ok(()),
    }
}

fn check_chars(
    text: &str,
    start: usize,
    what: &'static str,
    allowed: &'static str,
    good: impl Fn(char) -> bool,
) -> Result<(), NameError> {
    match text.char_indices().find(|&(_, ch)| !good(ch)) {
        Some((i, ch)) => Err(NameError::BadChar {
            ch,
            at: start + i,
            what,
            allowed,
        }),
        None => Ok(()),
    }
}

fn unknown_prefix(text: &str) -> NameError {
    NameError::UnknownPrefix {
        text: text.chars().take(64).collect(),
    }
}
