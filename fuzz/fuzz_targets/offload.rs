//! Frames with any virtio-net header: segmentation ends, stays inside its
//! buffers, and makes no segment longer than allowed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netvale_wire::offload;
use netvale_wire::vnet::{HdrLen, VnetHdr};

fuzz_target!(|data: &[u8]| {
    let Some(hdr) = VnetHdr::parse(data, HdrLen::MERGED) else {
        return;
    };
    let Some(frame) = data.get(12..) else { return };
    let head = &frame[..frame.len().min(offload::MAX_HEADER)];
    let mut copy = frame.to_vec();
    let (start, offset) = (usize::from(hdr.csum_start), usize::from(hdr.csum_offset));
    let _ = offload::finish_checksum(&mut copy, start, offset);
    let Ok(plan) = offload::plan(&hdr, head, frame.len(), 1514) else {
        return;
    };
    let mut out = vec![0; frame.len().max(2048)];
    for i in 0..plan.segments() {
        let read = |at: usize, dst: &mut [u8]| match frame.get(at..at + dst.len()) {
            Some(src) => {
                dst.copy_from_slice(src);
                true
            }
            None => false,
        };
        if let Ok(n) = plan.write_segment(i, read, &mut out) {
            assert_eq!(Some(n), plan.segment_len(i));
        }
    }
});
