//! What tests of several files need.

/// Frames of a pcapng file as pcap-file, which we did not write, reads them.
pub(crate) fn frames_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = pcap_file::pcapng::PcapNgReader::new(bytes).unwrap();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        if let pcap_file::pcapng::Block::EnhancedPacket(p) = block.unwrap() {
            assert_eq!(p.original_len as usize, p.data.len());
            frames.push(p.data.into_owned());
        }
    }
    frames
}
