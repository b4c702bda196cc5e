//! Puts that cannot be right.

use bytes::Bytes;
use kvtier_proto::v1::{DeclineReason, Durability, PutRequest, PutResponse};
use kvtier_proto::{tuning, v1};
use kvtier_tests::wire::{begin, description, whole, within};
use kvtier_tests::world::BLOCK_BYTES_MAX;
use kvtier_tests::{Blame, Block, World};
use tonic::Code;
use v1::put_response::Outcome;

use crate::{rejected, works};

/// Puts one block whose announcement was changed, and returns the outcome of it and of a good block after it.
async fn put_changed(world: &mut World, block: &Block, change: impl FnOnce(&mut v1::PutBegin)) -> Outcome {
    let good = Block::root(b"good", 5000);
    let mut messages = whole(&world.space, 1, block, Durability::Volatile);
    change(messages[0].begin.as_mut().expect("the first message begins the block"));
    messages.extend(whole(&world.space, 2, &good, Durability::Volatile));
    let answers = world.wire.put_raw(messages).await.expect("one bad block does not end the stream");
    assert!(answers.iter().any(|answer| answer.tag == 2 && is_stored(answer)), "the next block is stored: {answers:?}");
    outcome_of(&answers, 1)
}

fn is_stored(answer: &PutResponse) -> bool {
    matches!(answer.outcome, Some(Outcome::Stored(_) | Outcome::Duplicate(_)))
}

fn outcome_of(answers: &[PutResponse], tag: u64) -> Outcome {
    let mut found = answers.iter().filter(|answer| answer.tag == tag);
    let answer = found.next().unwrap_or_else(|| panic!("tag {tag} is not answered: {answers:?}"));
    assert!(found.next().is_none(), "tag {tag} is answered once: {answers:?}");
    answer.outcome.clone().expect("an answer has an outcome")
}

#[tokio::test]
async fn a_put_into_an_unknown_space_is_rejected() {
    let mut world = World::new().await;
    let outcome = put_changed(&mut world, &Block::root(b"a", 5000), |begin| begin.space = vec![7; 32]).await;
    rejected(&outcome, "space", "0707", "open it with its description first");
    let outcome = put_changed(&mut world, &Block::root(b"a", 5000), |begin| begin.space = vec![7; 31]).await;
    rejected(&outcome, "space", "31 bytes long", "32 bytes that OpenSpace returned");
}

#[tokio::test]
async fn a_key_of_0_or_65_bytes_is_rejected() {
    let mut world = World::new().await;
    for (bytes, value) in [(0, "0 bytes long"), (65, "65 bytes long")] {
        let outcome = put_changed(&mut world, &Block::root(b"a", 5000), |begin| begin.key = vec![1; bytes]).await;
        rejected(&outcome, "key", value, "1 to 64 bytes");
        let orphan = Block::root(b"a", 5000);
        let outcome = put_changed(&mut world, &orphan, |begin| begin.parent = Some(vec![1; bytes])).await;
        rejected(&outcome, "parent", value, "1 to 64 bytes");
    }
}

#[tokio::test]
async fn a_block_of_0_bytes_or_over_the_spaces_maximum_is_rejected() {
    let mut world = World::new().await;
    let outcome = put_changed(&mut world, &Block::root(b"a", 0), |_| {}).await;
    rejected(&outcome, "length", "0", "at least one byte");
    let outcome = put_changed(&mut world, &Block::root(b"a", BLOCK_BYTES_MAX as usize + 1), |_| {}).await;
    rejected(&outcome, "length", "1048577", "at most 1048576 bytes");
    let outcome = put_changed(&mut world, &Block::root(b"a", 100), |begin| begin.length = u64::MAX).await;
    rejected(&outcome, "length", "18446744073709551615", "at most 1048576 bytes");
}

#[tokio::test]
async fn more_bytes_than_announced_are_rejected() {
    let mut world = World::new().await;
    let outcome = put_changed(&mut world, &Block::root(b"a", 5000), |begin| begin.length = 4999).await;
    rejected(&outcome, "length", "4999 announced, 5000 or more sent", "exact length");
    assert_eq!(world.wire.resident(&world.space.clone(), &[Bytes::from("a")]).await, 0, "nothing became visible");
}

#[tokio::test]
async fn fewer_bytes_than_announced_are_rejected() {
    let mut world = World::new().await;
    let outcome = put_changed(&mut world, &Block::root(b"a", 5000), |begin| begin.length = 5001).await;
    rejected(&outcome, "length", "5001 announced, 5000 sent", "before the next begin");
    let mut messages = whole(&world.space, 9, &Block::root(b"b", 5000), Durability::Volatile);
    messages[0].begin.as_mut().expect("begin").length = 6000;
    let answers = world.wire.put_raw(messages).await.expect("the stream ends well");
    rejected(&outcome_of(&answers, 9), "length", "6000 announced, 5000 sent", "every byte");
    let space = world.space.clone();
    assert_eq!(world.wire.resident(&space, &[Bytes::from("a")]).await, 0, "nothing became visible");
    assert_eq!(world.wire.status().await.pending_puts, 0, "nothing is left behind");
}

#[tokio::test]
async fn a_checksum_that_disagrees_is_rejected_and_the_right_one_is_told() {
    let mut world = World::new().await;
    let block = Block::root(b"a", 5000);
    let right = format!("{:#010x}", block.crc());
    let outcome = put_changed(&mut world, &block, |begin| begin.crc32 = Some(0x1234_5678)).await;
    rejected(&outcome, "crc32", "0x12345678", &right);
    assert_eq!(world.wire.resident(&world.space.clone(), &[block.key]).await, 0, "nothing became visible");
}

#[tokio::test]
async fn an_unknown_durability_is_rejected() {
    let mut world = World::new().await;
    let outcome = put_changed(&mut world, &Block::root(b"a", 5000), |begin| begin.durability = 9).await;
    rejected(&outcome, "durability", "9", "DURABILITY_DURABLE");
}

#[tokio::test]
async fn a_block_whose_parent_is_unknown_is_declined() {
    let mut world = World::new().await;
    let orphan = Block::root(b"a", 5000);
    let outcome = put_changed(&mut world, &orphan, |begin| begin.parent = Some(b"nobody".to_vec())).await;
    let Outcome::Declined(declined) = outcome else { panic!("not declined: {outcome:?}") };
    assert_eq!(declined.reason(), DeclineReason::ParentUnknown);
    assert!(declined.detail.contains("first missing block"), "{declined:?}");
}

#[tokio::test]
async fn a_frame_over_the_limit_is_rejected_under_its_tag() {
    let mut world = World::with(&[("host.extent_bytes", "16MiB")]).await;
    let space = world.wire.open_space("large", 8 << 20).await;
    let block = Block::root(b"a", tuning::DATA_BYTES_MAX + 1);
    let message = PutRequest { begin: Some(begin(&space, 1, &block, Durability::Volatile)), data: block.payload };
    let answers = world.wire.put_raw(vec![message]).await.expect("the stream goes on");
    rejected(&outcome_of(&answers, 1), "data", "4194305 bytes long", "at most 4194304 bytes");
    works(&mut world, "after").await;
}

#[tokio::test]
async fn a_message_over_the_limit_fails_the_stream_with_the_limit() {
    let mut world = World::new().await;
    let message = PutRequest { begin: None, data: vec![0; tuning::MESSAGE_BYTES_MAX + 1].into() };
    let answer = world.wire.put_raw(vec![message]).await;
    Blame::expect(answer, Code::InvalidArgument, "data", "5242880", "at most 4194304 bytes");
    works(&mut world, "after").await;
}

#[tokio::test]
async fn data_outside_a_block_fails_the_stream_after_answering_what_was_complete() {
    let mut world = World::new().await;
    let good = Block::root(b"good", 5000);
    let mut messages = whole(&world.space, 1, &good, Durability::Volatile);
    messages.push(PutRequest { begin: None, data: Bytes::from_static(b"stray") });
    let request = world.wire.request(tokio_stream::iter(messages));
    let mut answers = world.wire.client.put(request).await.expect("the stream begins").into_inner();
    let first = within("the good block's answer", answers.message()).await.expect("it comes first");
    assert!(is_stored(&first.expect("there is one")), "the good block is stored");
    let answer = within("the failure", answers.message()).await;
    Blame::expect(answer, Code::InvalidArgument, "data", "5 bytes outside a block", "announce each block");
}

#[tokio::test]
async fn an_empty_message_fails_the_stream() {
    let mut world = World::new().await;
    let answer = world.wire.put_raw(vec![PutRequest::default()]).await;
    Blame::expect(answer, Code::InvalidArgument, "begin", "absent", "begin, data, or both");
}

/// Opens a space of two parts of 4,000 and 6,000 bytes.
async fn two_parts(world: &mut World) -> Vec<u8> {
    world.wire.open_space_of("parts", description("parts", &[4000, 6000])).await.expect("the space is good").space
}

fn part(space: &[u8], tag: u64, part: u32, bytes: usize) -> Vec<PutRequest> {
    let block = Block { key: Bytes::from("k"), ..Block::root(format!("part {part}").as_bytes(), bytes) };
    let mut messages = whole(space, tag, &block, Durability::Volatile);
    messages[0].begin.as_mut().expect("begin").part = part;
    messages
}

#[tokio::test]
async fn a_part_outside_the_spaces_parts_is_rejected() {
    let mut world = World::new().await;
    let space = two_parts(&mut world).await;
    let answers = world.wire.put_raw(part(&space, 1, 2, 4000)).await.expect("the stream goes on");
    rejected(&outcome_of(&answers, 1), "part", "2", "2 parts, numbered from 0");
}

#[tokio::test]
async fn a_part_of_another_size_than_the_spaces_is_rejected() {
    let mut world = World::new().await;
    let space = two_parts(&mut world).await;
    let answers = world.wire.put_raw(part(&space, 1, 0, 3999)).await.expect("the stream goes on");
    rejected(&outcome_of(&answers, 1), "length", "3999", "exactly 4000 bytes");
}

#[tokio::test]
async fn a_part_put_twice_is_rejected_and_the_block_can_still_be_completed() {
    let mut world = World::new().await;
    let space = two_parts(&mut world).await;
    let messages = [part(&space, 1, 0, 4000), part(&space, 2, 0, 4000), part(&space, 3, 1, 6000)].concat();
    let answers = world.wire.put_raw(messages).await.expect("the stream goes on");
    assert!(matches!(outcome_of(&answers, 1), Outcome::PartAccepted(_)), "{answers:?}");
    rejected(&outcome_of(&answers, 2), "part", "0", "put once");
    assert!(matches!(outcome_of(&answers, 3), Outcome::Stored(_)), "{answers:?}");
    assert_eq!(world.wire.resident(&space, &[Bytes::from("k")]).await, 1);
}

#[tokio::test]
async fn a_block_whose_parts_never_come_is_given_up() {
    let mut world = World::with(&[("limits.part_deadline", "300ms")]).await;
    let space = two_parts(&mut world).await;
    world.wire.put_raw(part(&space, 1, 0, 4000)).await.expect("a part is accepted");
    let found = world.wire.lookup(&space, &[Bytes::from("k")], None).await.expect("a lookup is answered");
    assert_eq!(found.prefix.len(), 0, "an incomplete block is invisible");
    world.wire.status_until("the deadline", |status| status.pending_puts == 0).await;
    let answers = world.wire.put_raw([part(&space, 1, 0, 4000), part(&space, 2, 1, 6000)].concat()).await;
    let answers = answers.expect("both parts are taken");
    assert!(matches!(outcome_of(&answers, 2), Outcome::Stored(_)), "it can be put again: {answers:?}");
}

#[tokio::test]
async fn a_block_whose_bytes_stop_coming_is_rejected_at_its_deadline() {
    let mut world = World::with(&[("limits.part_deadline", "300ms")]).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let block = Block::root(b"slow", 5000);
    let mut announced = begin(&world.space, 1, &block, Durability::Volatile);
    announced.length = 6000;
    let first = PutRequest { begin: Some(announced), data: block.payload };
    sender.send(first).await.expect("the stream is open");
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = world.wire.client.put(stream).await.expect("the stream begins").into_inner();
    let answer = within("the deadline", answers.message()).await.expect("the stream goes on").expect("an answer");
    rejected(&answer.outcome.expect("an outcome"), "length", "6000 announced, 5000 sent", "not complete after 300 ms");
    let good = Block::root(b"good", 5000);
    for message in whole(&world.space, 2, &good, Durability::Volatile) {
        sender.send(message).await.expect("the stream is still open");
    }
    let answer = within("the next block", answers.message()).await.expect("the stream goes on").expect("an answer");
    assert!(is_stored(&answer), "{answer:?}");
}

/// Two engines that compute one prompt put its blocks at once: neither of them made a mistake.
#[tokio::test]
async fn a_block_that_somebody_else_is_putting_is_declined_and_the_first_put_goes_on() {
    let mut world = World::new().await;
    let mut other = kvtier_tests::Wire::tcp(world.daemon.endpoints()).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let block = Block::root(b"both", 5000);
    let begun = PutRequest { begin: Some(begin(&world.space, 1, &block, Durability::Volatile)), data: Bytes::new() };
    sender.send(begun).await.expect("the stream is open");
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = other.client.put(stream).await.expect("the stream begins").into_inner();
    world.wire.status_until("the first put", |status| status.pending_puts == 1).await;

    let second = world.wire.put_raw(whole(&world.space, 7, &block, Durability::Volatile)).await;
    match outcome_of(&second.expect("the stream goes on"), 7) {
        Outcome::Declined(declined) => assert_eq!(declined.reason(), DeclineReason::UnderWay, "{declined:?}"),
        outcome => panic!("{outcome:?}"),
    }
    sender.send(PutRequest { begin: None, data: block.payload }).await.expect("the stream is open");
    let answer = within("the first put", answers.message()).await.expect("the stream goes on").expect("an answer");
    assert!(is_stored(&answer), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_vanishes_inside_a_block_leaves_nothing() {
    let mut world = World::new().await;
    let mut other = kvtier_tests::Wire::tcp(world.daemon.endpoints()).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let block = Block::root(b"half", 5000);
    let mut announced = begin(&world.space, 1, &block, Durability::Volatile);
    announced.length = 9000;
    sender.send(PutRequest { begin: Some(announced), data: block.payload }).await.expect("the stream is open");
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let answers = other.client.put(stream).await.expect("the stream begins");
    world.wire.status_until("the half block", |status| status.pending_puts == 1).await;
    drop((sender, answers, other));
    world.wire.status_until("its end", |status| status.pending_puts == 0).await;
    works(&mut world, "after").await;
}
