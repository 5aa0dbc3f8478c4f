//! Control messages, as either side gets them from a stranger.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netvale_wire::proto;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = proto::decode(data) {
        let bytes = proto::encode(&request).expect("what was decoded can be encoded");
        assert_eq!(proto::decode(&bytes).expect("and decoded again"), request);
    }
    let _ = proto::decode_reply(data);
});
