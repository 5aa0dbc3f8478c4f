//! Tests of the option parser with parsers of their own.

use super::*;
use crate::abi::KEY_DEFAULT;
use crate::ctx::tests::Probe;
use proptest::prelude::*;

/// What the callbacks saw: the option's tag and its values.
type Seen = Vec<(char, Vec<Option<String>>)>;

const fn key(key: &'static std::ffi::CStr, id: c_int, flags: c_uint) -> OptKey {
    OptKey {
        key: key.as_ptr(),
        id,
        flags,
    }
}

unsafe fn see(found: *mut ParseCtx, tag: char) -> c_int {
    // SAFETY: the parser is called with a valid context.
    let found = unsafe { &*found };
    // SAFETY: the token is the tests'.
    let seen = unsafe { &mut *found.token.cast::<Seen>() };
    let text = |&value: &*const c_char| {
        // SAFETY: null or a string, by the parser's contract.
        let text = unsafe { bytes(value) };
        (!value.is_null()).then(|| String::from_utf8_lossy(text).into_owned())
    };
    seen.push((tag, found.keys[..3].iter().map(text).collect()));
    0
}

unsafe extern "C" fn see_a(found: *mut ParseCtx) -> c_int {
    // SAFETY: passed on.
    unsafe { see(found, 'a') }
}

unsafe extern "C" fn see_flag(found: *mut ParseCtx) -> c_int {
    // SAFETY: passed on.
    unsafe { see(found, 'f') }
}

unsafe extern "C" fn refuse(_: *mut ParseCtx) -> c_int {
    crate::refusal::set_errno(libc::EXDEV);
    -1
}

fn parser(prefix: &'static std::ffi::CStr, parse: crate::abi::ParseFn, flags: c_uint) -> OptParser {
    OptParser {
        prefix: prefix.as_ptr(),
        parse: Some(parse),
        default_key: -1,
        nr_keys: 0,
        flags,
        next: ptr::null_mut(),
        keys: [OptKey {
            key: ptr::null(),
            id: 0,
            flags: 0,
        }; MAX_KEYS],
    }
}

/// Decodes with the tests' parsers; what was seen, or errno and the message.
fn decode_text(text: &[u8]) -> Result<Seen, (c_int, String)> {
    let mut all = [
        parser(c"a", see_a, 0),
        parser(c"flag", see_flag, OPT_ALLOW_EMPTY),
        parser(c"off", see_a, OPT_DISABLED),
        parser(c"no", refuse, OPT_ALLOW_EMPTY),
    ];
    all[0].keys[0] = key(c"file", 0, KEY_DEFAULT | KEY_MUST_SET);
    all[0].keys[1] = key(c"if_num", 1, 0);
    all[0].keys[2] = key(c"on", 2, KEY_ALLOW_EMPTY);
    all[0].default_key = 0;
    // A caller's table may be wrong.
    all[1].keys[0] = key(c"wild", 99, 0);
    all[1].keys[1] = key(c"negative", -1, 0);
    let first = all.as_mut_ptr();
    for n in 0..3 {
        // SAFETY: within the array.
        unsafe { (*first.wrapping_add(n)).next = first.wrapping_add(n + 1) };
    }
    let mut probe = Probe::new();
    let ctx = probe.ctx();
    let mut seen = Seen::new();
    let text = std::ffi::CString::new(text).unwrap();
    // SAFETY: everything outlives the call.
    let rc = unsafe { nmreq_options_decode(text.as_ptr(), first, (&raw mut seen).cast(), ctx) };
    let errno = errno();
    assert_eq!(
        probe.live.load(std::sync::atomic::Ordering::Relaxed),
        0,
        "memory was kept"
    );
    match rc {
        0 => Ok(seen),
        _ => Err((errno, probe.last())),
    }
}

fn values(text: &str) -> Vec<Option<String>> {
    let seen = decode_text(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e:?}"));
    assert_eq!(seen.len(), 1);
    seen[0].1.clone()
}

#[test]
fn values_reach_the_parser() {
    let v = |a: &str, b: &str, c: &str| {
        [a, b, c]
            .map(|t| (!t.is_empty()).then(|| t.to_owned()))
            .to_vec()
    };
    assert_eq!(values("@a=x,y=1:2"), v("x,y=1:2", "", ""));
    assert_eq!(values("@a:file=x"), v("x", "", ""));
    assert_eq!(values("@a:if-num=3,file=a-b"), v("a-b", "3", ""));
    assert_eq!(values("@a:if_num=3,file=a=b"), v("a=b", "3", ""));
    assert_eq!(values("@a:on,file=x"), v("x", "", "on"));
    assert_eq!(values("@a:file=x,on"), v("x", "", "on"));
    assert_eq!(values("@a:file=x,if-num="), v("x", "", ""));
    assert_eq!(values("@flag"), v("", "", ""));
    assert_eq!(values("@flag:"), v("", "", ""));
    assert_eq!(decode_text(b"").unwrap(), []);
    let two = decode_text(b"@flag@a=1").unwrap();
    assert_eq!((two[0].0, two[1].0), ('f', 'a'));
}

#[test]
fn what_is_refused() {
    for (text, errno, part) in [
        ("x", libc::EINVAL, "begin with '@'"),
        ("@", libc::EINVAL, "empty option"),
        ("@flag@", libc::EINVAL, "empty option"),
        ("@@flag", libc::EINVAL, "empty option"),
        ("@b=1", libc::EINVAL, "unknown option 'b'"),
        ("@a", libc::EINVAL, "'a' needs a value"),
        ("@a=", libc::EINVAL, "'a' needs a value"),
        ("@a:", libc::EINVAL, "needs 'file'"),
        ("@a:if-num=1", libc::EINVAL, "needs 'file'"),
        ("@a:file=", libc::EINVAL, "needs 'file'"),
        ("@a:file", libc::EINVAL, "'file' needs a value"),
        ("@a:fle=1", libc::EINVAL, "no key 'fle'"),
        ("@a:file=1,file=2", libc::EINVAL, "'file' stands twice"),
        ("@a:file=1,", libc::EINVAL, "no key ''"),
        ("@a:,file=1", libc::EINVAL, "no key ''"),
        ("@flag=1", libc::EINVAL, "needs ':' and keys"),
        ("@flag:wild=1", libc::EINVAL, "no key 'wild'"),
        ("@flag:negative=1", libc::EINVAL, "no key 'negative'"),
        ("@off=1", libc::EOPNOTSUPP, "'off' is not enabled"),
        // The parser has reported what it had to.
        ("@no", libc::EXDEV, ""),
    ] {
        let (found, message) = decode_text(text.as_bytes()).expect_err(text);
        assert_eq!(found, errno, "{text}");
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn no_memory_is_an_error() {
    let mut probe = Probe::new();
    probe.budget.store(0, std::sync::atomic::Ordering::Relaxed);
    let mut flag = parser(c"flag", see_flag, OPT_ALLOW_EMPTY);
    let ctx = probe.ctx();
    let mut seen = Seen::new();
    let token = (&raw mut seen).cast();
    // SAFETY: everything outlives the call.
    let rc = unsafe { nmreq_options_decode(c"@flag".as_ptr(), &raw mut flag, token, ctx) };
    assert_eq!((rc, errno()), (-1, libc::ENOMEM));
    assert!(seen.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_safe(text in proptest::collection::vec(1u8.., 0..60)) {
        let _ = decode_text(&text);
    }

    /// Texts of the grammar's own pieces get further.
    #[test]
    fn pieces_in_any_order_are_safe(
        pieces in proptest::sample::subsequence(
            vec!["@", "a", ":", "file", "=", "x", ",", "if-num", "=", "3", "on", "@", "flag", ":", "@"],
            0..15,
        ).prop_shuffle()
    ) {
        let text = pieces.concat();
        if let Ok(seen) = decode_text(text.as_bytes()) {
            prop_assert_eq!(seen.len(), text.matches('@').count());
            for (tag, values) in seen {
                prop_assert!(tag == 'f' || values[0].is_some(), "{}", text);
            }
        }
    }
}
