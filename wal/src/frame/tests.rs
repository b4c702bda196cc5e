use kvtier_engine::place::Slot;

use super::*;
use crate::codec::decode_payload;

fn encode_group(seed: u32, first_seq: u64, records: &[Record]) -> (Vec<u8>, Vec<FrameMark>) {
    let mut group = EncodedGroup::encode(first_seq, records).expect("small");
    group.seal(seed);
    (group.bytes, group.marks)
}

fn records(count: u32) -> Vec<Record> {
    (0..count)
        .map(|number| Record::Quarantined { slot: Slot { device: 0, offset: u64::from(number), bytes: 4096 } })
        .collect()
}

#[test]
fn a_frame_has_these_bytes() {
    let (bytes, marks) = encode_group(0x1234_5678, 9, &records(2));
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let crc = {
        let mut hasher = crc32fast::Hasher::new_with_initial(0x1234_5678);
        hasher.update(&bytes[0..4]);
        hasher.update(&bytes[8..]);
        let crc: String = hasher.finalize().to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        crc
    };
    let expect = format!(
        "0d000000{crc}0900000000000000090000000000000002000000{}",
        "020600".to_owned() + "00fb0010" + "060001fb0010"
    );
    assert_eq!(hex, expect);
    assert_eq!(marks, [(9, 0)]);
}

#[test]
fn a_large_group_becomes_frames_that_join() {
    let records = records(20_000);
    let (bytes, marks) = encode_group(7, 100, &records);
    assert!(marks.len() > 2, "{} frames", marks.len());
    let (mut offset, mut next_seq, mut decoded) = (0, 100, vec![]);
    for (seq, at) in marks {
        assert_eq!((seq, at), (next_seq, offset as u64));
        let header = FrameHeader::decode(&bytes[offset..]).expect("sound");
        header.verify(&bytes[offset..], 7).expect("sound");
        assert_eq!((header.seq, header.group_seq), (next_seq, 100));
        let payload = &bytes[offset + FRAME_HEADER_BYTES..offset + header.frame_bytes()];
        assert!(payload.len() < FRAME_PAYLOAD_BYTES_TARGET + 64);
        decoded.extend(decode_payload(payload, header.count).expect("sound"));
        offset += header.frame_bytes();
        next_seq = header.next_seq();
    }
    assert_eq!(offset, bytes.len());
    assert_eq!(decoded, records);
}

#[test]
fn a_frame_of_another_segment_does_not_verify() {
    let (bytes, _) = encode_group(7, 1, &records(1));
    let header = FrameHeader::decode(&bytes).expect("in bounds");
    assert_eq!(header.verify(&bytes, 7), Ok(()));
    assert_eq!(header.verify(&bytes, 8), Err(FrameFault::Checksum));
    assert_eq!(header.verify(&bytes[..bytes.len() - 1], 7), Err(FrameFault::Short));
}

#[test]
fn a_mark_holds_no_records() {
    let bytes = encode_mark(3, 44);
    let header = FrameHeader::decode(&bytes).expect("in bounds");
    header.verify(&bytes, 3).expect("sound");
    assert_eq!((header.seq, header.group_seq, header.count, header.next_seq()), (44, 44, 0, 44));
    assert_eq!(decode_payload(&bytes[FRAME_HEADER_BYTES..], 0), Ok(vec![]));
}

#[test]
fn fields_out_of_bounds_are_refused_before_anything_is_read() {
    let good = encode_group(0, 5, &records(1)).0;
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        FrameHeader::decode(&changed)
    };
    assert_eq!(with(0, &[0; 4]), Err(FrameFault::Field("length")));
    assert_eq!(with(0, &[0xff; 4]), Err(FrameFault::Field("length")));
    assert_eq!(with(24, &[0xff; 4]), Err(FrameFault::Field("record count")));
    assert_eq!(with(8, &[0; 8]), Err(FrameFault::Field("sequence number")));
    assert_eq!(with(8, &[0xff; 8]), Err(FrameFault::Field("sequence number")));
    assert_eq!(with(16, &[6]), Err(FrameFault::Field("sequence number")), "a group begins at or before its frames");
    assert_eq!(FrameHeader::decode(&good[..20]), Err(FrameFault::Short));
}
