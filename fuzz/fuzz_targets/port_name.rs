//! Port names: no input panics, and what is accepted is written back and read
//! again to the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netvale_wire::name::PortSpec;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(spec) = PortSpec::parse(text) {
        let again = PortSpec::parse(&spec.to_string()).expect("canonical form is accepted");
        assert_eq!(spec, again);
    }
    let _ = PortSpec::from_nr_name(text);
});
