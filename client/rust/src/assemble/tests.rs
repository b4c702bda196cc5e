use proptest::prelude::*;

use super::*;
use crate::wire::get_response::Answer;

fn frame(index: u32, block: &Bytes, range: std::ops::Range<usize>) -> wire::GetResponse {
    let frame = wire::BlockFrame {
        length: block.len() as u32,
        crc32: crc32fast::hash(block),
        offset: range.start as u32,
        data: block.slice(range),
        tier: wire::Tier::Host as i32,
    };
    wire::GetResponse { index, answer: Some(Answer::Frame(frame)) }
}

fn miss(index: u32) -> wire::GetResponse {
    wire::GetResponse { index, answer: Some(Answer::Miss(wire::Miss::default())) }
}

fn with_frame(mut response: wire::GetResponse, change: impl FnOnce(&mut wire::BlockFrame)) -> wire::GetResponse {
    match &mut response.answer {
        Some(Answer::Frame(frame)) => change(frame),
        other => panic!("no frame: {other:?}"),
    }
    response
}

fn block_of(answer: Option<GetAnswer>) -> Block {
    match answer {
        Some(GetAnswer::Block(block)) => block,
        other => panic!("no block: {other:?}"),
    }
}

#[track_caller]
fn assert_broken(messages: Vec<wire::GetResponse>, expected: &str) {
    let mut assembler = Assembler::new(0, 2);
    let error = messages.into_iter().find_map(|message| assembler.accept(message).err());
    let error = error.expect("the last message is refused").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_block_in_one_frame_is_not_copied() {
    let block = Bytes::from(vec![7; 5000]);
    let got = block_of(Assembler::new(0, 1).accept(frame(0, &block, 0..5000)).expect("fits"));
    assert_eq!(got.bytes.as_ptr(), block.as_ptr());
    assert_eq!((got.index, got.crc32, got.tier), (0, crc32fast::hash(&block), Tier::Host));
}

#[test]
fn a_corrupt_block_is_an_error_and_the_next_block_follows() {
    let block = Bytes::from(vec![7; 100]);
    let mut assembler = Assembler::new(0, 2);
    let bad = with_frame(frame(0, &block, 0..100), |frame| frame.crc32 ^= 1);
    let error = assembler.accept(bad).expect_err("the checksum disagrees");
    assert!(matches!(error, ClientError::Corrupt { index: 0, .. }), "{error}");
    assert_eq!(block_of(assembler.accept(frame(1, &block, 0..100)).expect("fits")).index, 1);
    assembler.finish().expect("both were answered");
}

#[test]
fn a_corrupt_block_in_several_frames_is_found_too() {
    let block = Bytes::from(vec![7; 100]);
    let mut assembler = Assembler::new(0, 1);
    assert_eq!(assembler.accept(frame(0, &block, 0..60)), Ok(None));
    let flipped = with_frame(frame(0, &block, 60..100), |frame| frame.data = Bytes::from(vec![6; 40]));
    assert!(matches!(assembler.accept(flipped), Err(ClientError::Corrupt { .. })));
}

#[test]
fn a_stream_must_end_after_its_last_answer() {
    let block = Bytes::from(vec![7; 100]);
    let mut assembler = Assembler::new(0, 2);
    assert!(assembler.finish().expect_err("nothing came").to_string().contains("before block 0 of 2"));
    assembler.accept(miss(0)).expect("a miss is an answer");
    assembler.accept(frame(1, &block, 0..60)).expect("a part");
    assert!(assembler.finish().expect_err("half a block").to_string().contains("inside block 1, at byte 60 of 100"));
}

#[test]
fn frames_that_do_not_fit_are_refused() {
    let block = Bytes::from(vec![7; 100]);
    let other = Bytes::from(vec![8; 100]);
    assert_broken(vec![frame(1, &block, 0..100)], "block 1 came where 0 was due");
    assert_broken(vec![miss(0), miss(1), miss(2)], "block 2 came where the end was due");
    assert_broken(vec![frame(0, &block, 10..100)], "is at byte 10, byte 0 was due");
    assert_broken(vec![frame(0, &block, 0..50), frame(0, &block, 60..100)], "is at byte 60, byte 50 was due");
    assert_broken(vec![frame(0, &block, 0..50), frame(0, &other, 50..100)], "changed between its frames");
    assert_broken(vec![frame(0, &block, 0..50), miss(0)], "missed after it began");
    assert_broken(vec![frame(0, &block, 0..50), frame(1, &block, 0..100)], "block 1 came where 0 was due");
    assert_broken(vec![frame(0, &block, 0..0)], "is empty");
    assert_broken(vec![with_frame(frame(0, &block, 0..100), |frame| frame.length = 99)], "0+100 of 99");
    assert_broken(vec![with_frame(frame(0, &block, 0..100), |frame| frame.offset = u32::MAX)], "+100 of 100");
    assert_broken(vec![with_frame(frame(0, &block, 0..100), |frame| frame.length = u32::MAX)], "announced with");
    assert_broken(vec![wire::GetResponse { index: 0, answer: None }], "is empty");
}

proptest! {
    #[test]
    fn any_cut_of_a_block_gives_the_block_back(bytes in prop::collection::vec(any::<u8>(), 1..4000), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let block = Bytes::from(bytes);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(block.len())).chain([0, block.len()]).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut assembler = Assembler::new(3, 4);
        let mut answers = Vec::new();
        for pair in ends.windows(2) {
            answers.extend(assembler.accept(frame(3, &block, pair[0]..pair[1])).expect("fits"));
        }
        prop_assert_eq!(answers.len(), 1);
        prop_assert_eq!(&block_of(answers.pop()).bytes, &block);
        assembler.finish().expect("complete");
    }

    #[test]
    fn any_single_flipped_bit_is_found(mut bytes in prop::collection::vec(any::<u8>(), 1..2000), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let crc32 = crc32fast::hash(&bytes);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let block = Bytes::from(bytes);
        let message = with_frame(frame(0, &block, 0..block.len()), |frame| frame.crc32 = crc32);
        let refused = matches!(Assembler::new(0, 1).accept(message), Err(ClientError::Corrupt { .. }));
        prop_assert!(refused);
    }
}
