//! A request's list of options: `nmreq_push_option` and its companions.

use std::ffi::{c_char, c_void};
use std::ptr;

use netvale_wire::abi::{NmReqHeader, NmReqOption, opttype};

/// The option at an address that a request holds.
fn at(address: u64) -> *mut NmReqOption {
    // On a 32-bit machine only addresses that fit are ever stored.
    usize::try_from(address).map_or(ptr::null_mut(), ptr::with_exposed_provenance_mut)
}

fn address(option: *mut NmReqOption) -> u64 {
    option.expose_provenance() as u64
}

/// Follows a list without trusting it to be short: a cycle would never end in
/// netmap either, so it is the caller's promise that there is none.
///
/// # Safety
///
/// `hdr` points to a header with a proper list.
pub(crate) unsafe fn options(hdr: *const NmReqHeader) -> impl Iterator<Item = *mut NmReqOption> {
    // SAFETY: the caller's promise.
    let first = at(unsafe { (*hdr).nr_options });
    let some = |option: *mut NmReqOption| (!option.is_null()).then_some(option);
    std::iter::successors(some(first), move |&option| {
        // SAFETY: in the list, by the caller's promise.
        some(at(unsafe { (*option).nro_next }))
    })
}

/// `void nmreq_push_option(struct nmreq_header *, struct nmreq_option *)`:
/// puts an option in front of the others.
///
/// # Safety
///
/// Both are valid; the option is in no list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmreq_push_option(hdr: *mut NmReqHeader, option: *mut NmReqOption) {
    // SAFETY: the caller's promise; two different objects.
    let hdr = unsafe { &mut *hdr };
    // SAFETY: the caller's promise.
    let first = unsafe { &mut *option };
    first.nro_next = hdr.nr_options;
    hdr.nr_options = address(option);
}

/// `void nmreq_remove_option(struct nmreq_header *, struct nmreq_option *)`:
/// takes an option out; nothing happens if it is not in the list.
///
/// # Safety
///
/// `hdr` points to a header with a proper list, `option` to an option.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmreq_remove_option(hdr: *mut NmReqHeader, option: *mut NmReqOption) {
    // SAFETY: the caller's promise.
    let mut link: *mut u64 = unsafe { &raw mut (*hdr).nr_options };
    loop {
        // SAFETY: the header's first link, or that of an option in the list.
        let current = at(unsafe { link.read() });
        if current.is_null() {
            return;
        }
        // SAFETY: in the list, by the caller's promise.
        let next = unsafe { &raw mut (*current).nro_next };
        if current == option {
            // SAFETY: as above.
            let after = unsafe { next.replace(0) };
            // SAFETY: as above.
            unsafe { link.write(after) };
            return;
        }
        link = next;
    }
}

/// `struct nmreq_option *nmreq_find_option(struct nmreq_header *, uint32_t)`:
/// the first option of a type, or null.
///
/// # Safety
///
/// `hdr` points to a header with a proper list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmreq_find_option(
    hdr: *mut NmReqHeader,
    reqtype: u32,
) -> *mut NmReqOption {
    // SAFETY: passed on.
    let mut all = unsafe { options(hdr) };
    let is = |&option: &*mut NmReqOption| {
        // SAFETY: in the list.
        let found = unsafe { (*option).nro_reqtype };
        found == reqtype
    };
    all.find(is).unwrap_or(ptr::null_mut())
}

/// `void nmreq_free_options(struct nmreq_header *)`: frees all options and
/// empties the list.
///
/// # Safety
///
/// `hdr` points to a header whose options are all from `malloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmreq_free_options(hdr: *mut NmReqHeader) {
    // SAFETY: passed on.
    let all: Vec<_> = unsafe { options(hdr) }.collect();
    for option in all {
        // SAFETY: from malloc, by the caller's promise, and freed once.
        unsafe { libc::free(option.cast::<c_void>()) };
    }
    // SAFETY: the caller's promise.
    unsafe { (*hdr).nr_options = 0 };
}

/// `const char *nmreq_option_name(uint32_t)`: what a type of option is called.
#[unsafe(no_mangle)]
pub extern "C" fn nmreq_option_name(reqtype: u32) -> *const c_char {
    name(reqtype).as_ptr()
}

/// What a type of option is called.
pub(crate) fn name(reqtype: u32) -> &'static std::ffi::CStr {
    match reqtype {
        opttype::EXTMEM => c"extmem",
        opttype::SYNC_KLOOP_EVENTFDS => c"sync-kloop-eventfds",
        opttype::CSB => c"csb",
        opttype::SYNC_KLOOP_MODE => c"sync-kloop-mode",
        opttype::OFFSETS => c"offsets",
        _ => c"unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::nmreq_header_init;

    fn empty() -> NmReqHeader {
        let mut hdr = std::mem::MaybeUninit::uninit();
        // SAFETY: memory for a header.
        unsafe { nmreq_header_init(hdr.as_mut_ptr(), 1, ptr::null_mut()) };
        // SAFETY: just written.
        unsafe { hdr.assume_init() }
    }

    fn types(hdr: &NmReqHeader) -> Vec<u32> {
        // SAFETY: the tests keep proper lists of living options.
        let all = unsafe { options(hdr) };
        // SAFETY: as above.
        all.map(|o| unsafe { o.read() }.nro_reqtype).collect()
    }

    #[test]
    fn options_come_and_go() {
        let mut hdr = empty();
        let option = |nro_reqtype| NmReqOption {
            nro_next: 77,
            nro_reqtype,
            nro_status: 0,
            nro_size: 0,
        };
        let mut list = [1, 2, 3, 2].map(option);
        let first = list.as_mut_ptr();
        // SAFETY: within the array.
        let nth = |n: usize| unsafe { first.add(n) };
        for n in 0..4 {
            // SAFETY: in no list yet.
            unsafe { nmreq_push_option(&raw mut hdr, nth(n)) };
        }
        assert_eq!(types(&hdr), [2, 3, 2, 1]);
        // SAFETY: a proper list.
        let find = |hdr: &mut NmReqHeader, t| unsafe { nmreq_find_option(hdr, t) };
        assert_eq!(find(&mut hdr, 2), nth(3));
        assert!(find(&mut hdr, 9).is_null());
        for (n, left) in [
            (2, vec![2, 2, 1]),
            (2, vec![2, 2, 1]),
            (3, vec![2, 1]),
            (0, vec![2]),
        ] {
            // SAFETY: a proper list.
            unsafe { nmreq_remove_option(&raw mut hdr, nth(n)) };
            assert_eq!(types(&hdr), left);
        }
        // SAFETY: in the array.
        let removed = unsafe { nth(3).read() };
        assert_eq!(removed.nro_next, 0, "a removed option points nowhere");
    }

    #[test]
    fn freed_options_leave_an_empty_list() {
        let mut hdr = empty();
        for _ in 0..3 {
            // SAFETY: any size may be asked for.
            let option = unsafe { libc::calloc(1, size_of::<NmReqOption>()) };
            // SAFETY: fresh memory, in no list.
            unsafe { nmreq_push_option(&raw mut hdr, option.cast()) };
        }
        // SAFETY: all from calloc.
        unsafe { nmreq_free_options(&raw mut hdr) };
        assert_eq!(hdr.nr_options, 0);
    }

    #[test]
    fn names() {
        let all: Vec<_> = (0..7).map(|t| name(t).to_str().unwrap()).collect();
        let named = [
            "extmem",
            "sync-kloop-eventfds",
            "csb",
            "sync-kloop-mode",
            "offsets",
        ];
        assert_eq!(&all[1..6], named);
        assert_eq!((all[0], all[6]), ("unknown", "unknown"));
    }
}
