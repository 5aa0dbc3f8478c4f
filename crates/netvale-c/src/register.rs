//! Modes: the part of a port specification that says which rings to bind, and
//! how.
//!
//! ```text
//! [ "^" [N] | "*" | "-" N ]  ( "@" memid | "/" flags )*
//! ```

use std::ffi::{c_char, c_int};

use netvale_wire::abi::{NETMAP_RING_MASK, NmReqRegister, mode, regflags};

use crate::abi::Ctx;
use crate::ctx;
use crate::refusal::{Refusal, bytes, shown};

/// What a mode sets in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) mode: u32,
    pub(crate) ringid: u16,
    pub(crate) flags: u64,
    pub(crate) mem_id: u16,
}

/// Reads a text from its beginning.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Steps over the byte if it is this one.
    fn take(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    /// A decimal number, too big ones as the greatest; `None` without a digit.
    fn number(&mut self) -> Option<u64> {
        let mut value = None;
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            let before: u64 = value.unwrap_or(0);
            value = Some(
                before
                    .saturating_mul(10)
                    .saturating_add(u64::from(digit - b'0')),
            );
            self.at += 1;
        }
        value
    }

    fn rest(&self) -> std::borrow::Cow<'_, str> {
        shown(&self.text[self.at..])
    }
}

/// Reads a mode. `mem_id` is the region already chosen, 0 for none. Also says
/// where the rest begins: at the end, or at the `@` of an option.
pub(crate) fn parse(text: &[u8], mem_id: u16) -> Result<(Selection, usize), Refusal> {
    let mut scan = Scan { text, at: 0 };
    let mut found = Selection {
        mode: mode::ALL_NIC,
        ringid: 0,
        flags: 0,
        mem_id,
    };
    if scan.take(b'*') {
        found.mode = mode::NIC_SW;
    } else if scan.take(b'-') {
        found.mode = mode::ONE_NIC;
        found.ringid = ring(&mut scan)?;
    } else if scan.take(b'^') {
        found.mode = mode::SW;
        if scan.peek().is_some_and(|b| b.is_ascii_digit()) {
            found.mode = mode::ONE_SW;
            found.ringid = ring(&mut scan)?;
        }
    }
    loop {
        if scan.take(b'/') {
            found.flags |= flags(&mut scan)?;
            // Only a region or an option can follow flags.
            if !matches!(scan.peek(), None | Some(b'@')) {
                let rest = scan.rest();
                let all = "flags are x z t r T R";
                return Err(Refusal::invalid(format_args!(
                    "unknown flag at '{rest}': {all}"
                )));
            }
        } else if scan.peek() == Some(b'@') {
            let option = scan.at;
            scan.at += 1;
            match scan.peek() {
                None => return Err(Refusal::invalid("nothing stands after '@'")),
                Some(b) if b.is_ascii_digit() => found.mem_id = region(&mut scan, found.mem_id)?,
                Some(_) => return Ok((found, option)),
            }
        } else if scan.peek().is_none() {
            return Ok((found, scan.at));
        } else {
            let rest = scan.rest();
            return Err(Refusal::invalid(format_args!(
                "unexpected character at '{rest}'"
            )));
        }
    }
}

fn ring(scan: &mut Scan<'_>) -> Result<u16, Refusal> {
    let rest = scan.rest().into_owned();
    match scan.number().map(u16::try_from) {
        None => Err(Refusal::invalid(format_args!(
            "a ring number is missing at '{rest}'"
        ))),
        Some(Ok(ring)) if ring < NETMAP_RING_MASK => Ok(ring),
        Some(_) => {
            let last = NETMAP_RING_MASK - 1;
            Err(Refusal::invalid(format_args!(
                "ring at '{rest}' is not within 0 and {last}"
            )))
        }
    }
}

/// netmap itself cuts large numbers to 16 bits, and so opens another region
/// than the one asked for.
fn region(scan: &mut Scan<'_>, before: u16) -> Result<u16, Refusal> {
    let rest = scan.rest().into_owned();
    let id = scan
        .number()
        .and_then(|id| u16::try_from(id).ok())
        .filter(|&id| id > 0);
    let Some(id) = id else {
        let range = "is not within 1 and 65535";
        return Err(Refusal::invalid(format_args!("region at '{rest}' {range}")));
    };
    if before != 0 && before != id {
        return Err(Refusal::invalid(format_args!(
            "region {id} contradicts {before} before it"
        )));
    }
    Ok(id)
}

/// Flags up to the first other byte; there must be one, or `@` at once.
fn flags(scan: &mut Scan<'_>) -> Result<u64, Refusal> {
    let mut found = 0;
    let begin = scan.at;
    while let Some(byte) = scan.peek() {
        found |= match byte {
            b'x' => regflags::EXCLUSIVE,
            b'z' => regflags::ZCOPY_MON,
            b't' => regflags::MONITOR_TX,
            b'r' => regflags::MONITOR_RX,
            b'R' => regflags::RX_RINGS_ONLY,
            b'T' => regflags::TX_RINGS_ONLY,
            _ => break,
        };
        scan.at += 1;
    }
    if scan.at == begin && scan.peek().is_none() {
        return Err(Refusal::invalid("flags are missing after '/'"));
    }
    Ok(found)
}

/// `int nmreq_register_decode(const char **mode, struct nmreq_register *reg,
/// struct nmctx *ctx)`: sets mode, ring, flags and region from the text at
/// `*mode` and moves `*mode` behind it. 0, or -1 with `EINVAL` and nothing
/// changed.
///
/// # Safety
///
/// `pmode` points to a pointer to a string, `reg` to a request; `ctx` is a
/// context or null for the default one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmreq_register_decode(
    pmode: *mut *const c_char,
    reg: *mut NmReqRegister,
    ctx: *mut Ctx,
) -> c_int {
    // SAFETY: passed on.
    let result = unsafe { decode(pmode, reg) };
    // SAFETY: passed on.
    unsafe { ctx::status(ctx, result) }
}

/// [`nmreq_register_decode`] without the report.
///
/// # Safety
///
/// As there.
pub(crate) unsafe fn decode(
    pmode: *mut *const c_char,
    reg: *mut NmReqRegister,
) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    let text = unsafe { pmode.read() };
    // SAFETY: the caller's promise; the string lies elsewhere.
    let reg = unsafe { &mut *reg };
    // SAFETY: a string by the caller's promise, or null.
    let (found, rest) = parse(unsafe { bytes(text) }, reg.nr_mem_id)?;
    reg.nr_mode = found.mode;
    reg.nr_ringid = found.ringid;
    reg.nr_flags = found.flags;
    reg.nr_mem_id = found.mem_id;
    if rest > 0 {
        // SAFETY: the rest is within the string, or at its NUL.
        let text = unsafe { text.add(rest) };
        // SAFETY: the caller's promise.
        unsafe { pmode.write(text) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netvale_wire::name::PortSpec;
    use proptest::prelude::*;
    use regflags::{
        EXCLUSIVE as X, MONITOR_RX as MR, MONITOR_TX as MT, RX_RINGS_ONLY as RO,
        TX_RINGS_ONLY as TO, ZCOPY_MON as Z,
    };

    #[test]
    fn modes_are_read() {
        for (text, mode, ringid, flags, mem_id, rest) in [
            ("", mode::ALL_NIC, 0, 0, 0, ""),
            ("^", mode::SW, 0, 0, 0, ""),
            ("^3", mode::ONE_SW, 3, 0, 0, ""),
            ("^/x", mode::SW, 0, X, 0, ""),
            ("*", mode::NIC_SW, 0, 0, 0, ""),
            ("-1", mode::ONE_NIC, 1, 0, 0, ""),
            ("-4094", mode::ONE_NIC, 4094, 0, 0, ""),
            ("-2/Tx", mode::ONE_NIC, 2, TO | X, 0, ""),
            ("/ztrR", mode::ALL_NIC, 0, Z | MT | MR | RO, 0, ""),
            ("@2", mode::ALL_NIC, 0, 0, 2, ""),
            ("@65535", mode::ALL_NIC, 0, 0, 65535, ""),
            ("@2/R@2", mode::ALL_NIC, 0, RO, 2, ""),
            ("@2@2/x", mode::ALL_NIC, 0, X, 2, ""),
            ("/@2", mode::ALL_NIC, 0, 0, 2, ""),
            ("@netmap:lo/R", mode::ALL_NIC, 0, 0, 0, "@netmap:lo/R"),
            ("/R@xxx", mode::ALL_NIC, 0, RO, 0, "@xxx"),
            ("-3@opt", mode::ONE_NIC, 3, 0, 0, "@opt"),
            ("@7@opt=1@2", mode::ALL_NIC, 0, 0, 7, "@opt=1@2"),
        ] {
            let (found, at) = parse(text.as_bytes(), 0).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            assert_eq!(
                found,
                Selection {
                    mode,
                    ringid,
                    flags,
                    mem_id
                },
                "{text}"
            );
            assert_eq!(&text[at..], rest, "{text}");
        }
        assert_eq!(parse(b"@9", 9).unwrap().0.mem_id, 9);
        assert_eq!(parse(b"/x", 9).unwrap().0.mem_id, 9);
    }

    #[test]
    fn what_is_refused() {
        for (text, part) in [
            ("-", "missing at ''"),
            ("-x", "missing at 'x'"),
            ("-4095", "within 0 and 4094"),
            ("-99999999999999999999999", "within 0 and 4094"),
            ("^4095", "within 0 and 4094"),
            ("^x", "unexpected character at 'x'"),
            ("*1", "unexpected character"),
            ("-1^", "unexpected character"),
            ("@2-1", "unexpected character at '-1'"),
            ("?", "unexpected character"),
            ("/", "flags are missing"),
            ("/q", "unknown flag at 'q'"),
            ("/x/z", "unknown flag at '/z'"),
            ("@", "after '@'"),
            ("/x@", "after '@'"),
            ("@0", "within 1 and 65535"),
            ("@65536", "within 1 and 65535"),
            ("@65537", "within 1 and 65535"),
            ("@2/R@3", "region 3 contradicts 2"),
        ] {
            let refusal = parse(text.as_bytes(), 0).expect_err(text);
            assert_eq!(refusal.errno, libc::EINVAL);
            assert!(refusal.text.contains(part), "{text}: {}", refusal.text);
        }
        parse(b"@8", 9).unwrap_err();
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in proptest::collection::vec(any::<u8>(), 0..40), id in any::<u16>()) {
            if let Ok((found, rest)) = parse(&text, id) {
                prop_assert!(rest == text.len() || text[rest] == b'@');
                prop_assert!(found.ringid < NETMAP_RING_MASK);
                prop_assert!(id == 0 || found.mem_id == id);
            }
        }

        /// What the project's own parser accepts, and refuses only as it should.
        #[test]
        fn agrees_with_the_typed_parser(text in "([-^*@/][-^*@/xzrtRT0-9]{0,6})?") {
            let typed = PortSpec::parse(&format!("netmap:e{text}"));
            match (parse(text.as_bytes(), 0), typed) {
                (Ok((found, rest)), Ok(typed)) if rest == text.len() => {
                    prop_assert_eq!(found.mode, typed.nr_mode());
                    prop_assert_eq!(found.ringid, typed.nr_ringid());
                    prop_assert_eq!(found.flags, typed.flags.bits());
                    prop_assert_eq!(found.mem_id, typed.mem_id.unwrap_or(0));
                }
                (Err(_), Ok(_)) => prop_assert!(false, "{} should be accepted", text),
                // netmap takes no flags between '/' and '@'; an option's name may follow '@'.
                (Ok((_, rest)), Err(_)) => {
                    prop_assert!(rest < text.len() || text.contains("/@"), "{}", text);
                }
                _ => {}
            }
        }
    }
}
