//! Requests at random: nothing panics, all ends, and what must come back does.

use netvale_control::Errno;
use netvale_wire::abi::{
    NETMAP_API, NIOCCONFIG, NIOCCTRL, NIOCGINFO, NIOCREGIF, NmReqHeader, NmReqOption, reqtype,
};
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

use crate::fake::{ATOK, BODY, Call, HDR, KTOA, Mem, NOWHERE, OPT_STEP, OPTS, RO, WO, World};

/// Options that can be put in memory.
const SLOTS: usize = 12;

fn slot(i: usize) -> u64 {
    OPTS + i as u64 * OPT_STEP
}

/// An address of one of the interesting kinds.
fn pointer() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => Just(0),
        8 => (0..SLOTS).prop_map(slot),
        1 => (0..SLOTS as u64 * OPT_STEP).prop_map(|i| OPTS + i),
        1 => Just(BODY),
        1 => Just(HDR),
        1 => prop::sample::select(vec![RO, WO, NOWHERE, ATOK, KTOA, HDR + 0x2_0000 - 24, u64::MAX]),
        1 => any::<u64>(),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"vale0:a".to_vec()),
        Just(b"eth0".to_vec()),
        Just(Vec::new()),
        Just(vec![b'x'; 64]),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

/// The word of a small number, mostly.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0u32..10, 1 => Just(24 + 8 * 3), 1 => any::<u32>()]
}

fn bytes_of_words(n: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(word(), n).prop_map(|w| w.as_bytes().to_vec())
}

fn option() -> impl Strategy<Value = (NmReqOption, Vec<u8>)> {
    let kind = prop_oneof![8 => 1u32..6, 3 => 6u32..9, 1 => Just(0)];
    let size = prop_oneof![
        3 => Just(24 + 8 * 3),
        1 => 0u64..4200,
        1 => any::<u64>(),
    ];
    let body = prop_oneof![bytes_of_words(18), Just([ATOK, KTOA].as_bytes().repeat(5)),];
    (pointer(), kind, any::<u32>(), size, body).prop_map(
        |(nro_next, nro_reqtype, nro_status, nro_size, body)| {
            (
                NmReqOption {
                    nro_next,
                    nro_reqtype,
                    nro_status,
                    nro_size,
                },
                body,
            )
        },
    )
}

fn header() -> impl Strategy<Value = NmReqHeader> {
    let body = prop_oneof![8 => Just(BODY), 1 => Just(0), 1 => pointer()];
    let version = prop_oneof![20 => 14u16..=15, 1 => any::<u16>()];
    let reserved = prop_oneof![20 => Just(0), 1 => any::<u32>()];
    (version, 0u16..17, reserved, name(), pointer(), body).prop_map(
        |(nr_version, nr_reqtype, nr_reserved, name, nr_options, nr_body)| {
            let mut h = NmReqHeader::new_zeroed();
            h.nr_name[..name.len()].copy_from_slice(&name);
            NmReqHeader {
                nr_version,
                nr_reqtype,
                nr_reserved,
                nr_options,
                nr_body,
                ..h
            }
        },
    )
}

/// How the host behaves: bound, running, what it can, how it fails.
fn world() -> impl Strategy<Value = World> {
    let fail = prop_oneof![4 => Just(None), 1 => (1i32..100).prop_map(|e| Some(Errno(e)))];
    (any::<bool>(), any::<bool>(), any::<[bool; 2]>(), fail).prop_map(
        |(bound, running, can, fail)| {
            let mut w = if bound { World::bound() } else { World::new() };
            w.host.running = running;
            w.host.can_extmem = can[0];
            w.host.max_offset = can[1].then_some(100);
            w.host.fail = fail;
            w
        },
    )
}

/// Whether a list that starts at `at` touches only the slots made for options,
/// each at most once, so that nothing is written over something else.
fn tidy(mem: &Mem, mut at: u64) -> bool {
    for _ in 0..=SLOTS {
        if at == 0 {
            return true;
        }
        if !(0..SLOTS).any(|i| slot(i) == at) {
            return false;
        }
        let o: NmReqOption = mem.get(at);
        if o.nro_reqtype == 2 && o.nro_size > OPT_STEP {
            return false;
        }
        at = o.nro_next;
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_ends_and_comes_back(
        mut w in world(),
        h in header(),
        body in bytes_of_words(16),
        options in prop::collection::vec(option(), SLOTS),
    ) {
        w.mem.put(BODY, body.as_slice());
        for (i, (head, rest)) in options.iter().enumerate() {
            w.mem.put(slot(i), head);
            w.mem.put(slot(i) + 24, rest.as_slice());
        }
        w.mem.put(HDR, &h);
        let was_bound = w.host.bound.is_some();
        let tidy = tidy(&w.mem, h.nr_options) && (h.nr_body == BODY || h.nr_body == 0);
        let done = w.ioctl(NIOCCTRL, HDR);

        // The header is the last thing written.
        let back: NmReqHeader = w.mem.get(HDR);
        let mut want = h;
        want.nr_name[63] = 0;
        if done.is_ok() && h.nr_reqtype == reqtype::VALE_LIST {
            want.nr_name = back.nr_name;
        }
        prop_assert_eq!(back.as_bytes(), want.as_bytes());
        prop_assert_eq!(back.nr_name[63], 0);

        let bound = w.host.bound.is_some();
        let now_bound = done.is_ok() && h.nr_reqtype == reqtype::REGISTER;
        prop_assert_eq!(bound, was_bound || now_bound);
        if tidy {
            for (i, (head, rest)) in options.iter().enumerate() {
                let o: NmReqOption = w.mem.get(slot(i));
                prop_assert_eq!(o.nro_next, head.nro_next);
                prop_assert_eq!(o.nro_reqtype, head.nro_reqtype);
                prop_assert_eq!(o.nro_size, head.nro_size);
                let after: [u8; 72] = w.mem.get(slot(i) + 24);
                if done.is_err() || o.nro_status != 0 {
                    prop_assert_eq!(&after[..], &rest[..72]);
                }
            }
            if done.is_err() {
                let after: [u8; 64] = w.mem.get(BODY);
                prop_assert_eq!(&after[..], &body[..]);
            }
        }
        if h.nr_version != NETMAP_API && h.nr_version != 15 {
            prop_assert_eq!(done, Err(Errno::EINVAL));
            prop_assert!(w.host.calls.is_empty());
        }
        // Nothing but numbers of errors come out.
        if let Err(e) = done {
            prop_assert!((1..=133).contains(&e.0), "{}", e.0);
        }
    }

    #[test]
    fn any_old_request_ends_and_keeps_what_is_the_program_s(
        mut w in world(),
        req in bytes_of_words(68),
        name in name(),
        cmd in prop::sample::select(vec![NIOCREGIF, NIOCGINFO, NIOCCONFIG]),
        nr_cmd in 0u8..15,
    ) {
        w.mem.put(HDR, req.as_slice());
        w.mem.put(HDR, &name[..name.len().min(16)]);
        w.mem.put(HDR + 16, &14u32);
        w.mem.put(HDR + 42, &[nr_cmd, 0]);
        let given: [u8; 272] = w.mem.get(HDR);
        let was_bound = w.host.bound.is_some();
        let done = w.ioctl(cmd, HDR);
        let back: [u8; 272] = w.mem.get(HDR);
        if cmd != NIOCCONFIG {
            // Version; ring and command; flags and spare; what lies behind.
            for range in [16..20, 40..44, 52..60, 60..272] {
                prop_assert_eq!(&back[range.clone()], &given[range]);
            }
            if done.is_err() {
                prop_assert_eq!(&back[..15], &given[..15]);
                prop_assert_eq!(&back[16..], &given[16..]);
            }
        }
        let bound = w.host.bound.is_some();
        let regif = cmd == NIOCREGIF && nr_cmd == 0;
        prop_assert_eq!(bound, was_bound || (regif && done.is_ok()));
        prop_assert!(!w.host.calls.contains(&Call::Unregister));
    }

    #[test]
    fn any_argument_of_any_command_ends(
        mut w in world(),
        cmd in any::<u32>(),
        arg in pointer(),
        image in prop::collection::vec(any::<u8>(), 0x400),
    ) {
        for i in 0..4 {
            w.mem.put(BODY + i * 0x400, image.as_slice());
        }
        for cmd in [cmd, NIOCCTRL, NIOCREGIF, NIOCGINFO, NIOCCONFIG] {
            let _ = w.ioctl(cmd, arg);
            let _ = w.ioctl(cmd, BODY);
        }
    }
}
