//! Space descriptions that cannot be right.

use kvtier_proto::v1;
use kvtier_tests::wire::description;
use kvtier_tests::{Blame, World};
use tonic::Code;

#[tokio::test]
async fn another_description_under_a_taken_name_conflicts_and_both_digests_are_shown() {
    let mut world = World::new().await;
    let first = world.wire.open_space_of("taken", description("model-a", &[1000])).await.expect("it is new");
    let same = world.wire.open_space_of("taken", description("model-a", &[1000])).await.expect("it is the same");
    assert_eq!((same.space.clone(), same.created), (first.space.clone(), false), "opening again finds it");
    let other = description("model-b", &[1000]);
    let status = world.wire.open_space_of("taken", other.clone()).await.expect_err("the name is taken");
    assert_eq!(status.code(), Code::AlreadyExists);
    let elsewhere = world.wire.open_space_of("free", other).await.expect("another name is free").space;
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for digest in [&first.space, &elsewhere] {
        assert!(status.message().contains(&hex(digest)), "{} in {:?}", hex(digest), status.message());
    }
    assert!(status.message().contains("choose another name"), "{:?}", status.message());
}

#[tokio::test]
async fn every_field_of_a_description_is_checked() {
    let mut world = World::new().await;
    let good = || description("m", &[1000]);
    let cases: Vec<(v1::SpaceDescription, &str, &str, &str)> = vec![
        (v1::SpaceDescription { tenant: String::new(), ..good() }, "tenant", "empty", "must be set"),
        (v1::SpaceDescription { model: String::new(), ..good() }, "model", "empty", "must be set"),
        (v1::SpaceDescription { weights: "w".repeat(1025), ..good() }, "weights", "1025", "at most 1024 bytes"),
        (v1::SpaceDescription { layout: "a\nb".into(), ..good() }, "layout", "\\n", "control characters"),
        (v1::SpaceDescription { tokens_per_block: 0, ..good() }, "tokens_per_block", "0", "at least one token"),
        (v1::SpaceDescription { part_bytes: vec![], ..good() }, "parts", "0", "1 to 64 parts"),
        (v1::SpaceDescription { part_bytes: vec![1; 65], ..good() }, "parts", "65", "1 to 64 parts"),
        (v1::SpaceDescription { part_bytes: vec![1, 0], ..good() }, "parts", "part 1", "at least one byte"),
        (v1::SpaceDescription { part_bytes: vec![u32::MAX, 1], ..good() }, "parts", "4294967296", "at most 64 MiB"),
        (
            v1::SpaceDescription { ranks: Some(v1::RankGeometry { tensor: 0, pipeline: 1, context: 1 }), ..good() },
            "ranks",
            "tensor: 0",
            "at least 1",
        ),
    ];
    for (description, field, value, remedy) in cases {
        let answer = world.wire.open_space_of("bad", description).await;
        Blame::expect(answer, Code::InvalidArgument, field, value, remedy);
    }
    let none = v1::OpenSpaceRequest { name: "bad".into(), description: None };
    let answer = world.wire.client.open_space(none).await;
    Blame::expect(answer, Code::InvalidArgument, "description", "absent", "what the blocks of this space are");
}

#[tokio::test]
async fn a_spaces_name_has_1_to_128_bytes() {
    let mut world = World::new().await;
    for (name, value) in [(String::new(), "0 bytes long"), ("n".repeat(129), "129 bytes long")] {
        let answer = world.wire.open_space_of(&name, description("m", &[1000])).await;
        Blame::expect(answer, Code::InvalidArgument, "name", value, "1 to 128 bytes");
    }
}

#[tokio::test]
async fn dropping_an_unknown_space_is_not_found() {
    let mut world = World::new().await;
    let answer = world.wire.client.drop_space(v1::DropSpaceRequest { space: vec![5; 32] }).await;
    Blame::expect(answer, Code::NotFound, "space", "0505", "open it with its description first");
}
