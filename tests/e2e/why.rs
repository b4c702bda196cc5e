//! Why a request missed: what is remembered of it, over gRPC.

use kvtier_proto::v1::{self, Durability, MissReason, Verdict};
use kvtier_tests::{Block, World, block};
use tonic::Code;
use v1::request_note::What;

async fn why(world: &mut World, tenant: &str, request: &str) -> Vec<What> {
    let asked = v1::WhyRequest { tenant: tenant.to_owned(), request: request.to_owned() };
    let answer = world.wire.client.why(asked).await.expect("an answer").into_inner();
    answer.notes.into_iter().map(|note| note.what.expect("a note says something")).collect()
}

async fn lookup(world: &mut World, request: &str, chain: &[Block]) -> v1::LookupResponse {
    let (space, keys) = (world.space.clone(), block::keys(chain));
    let asked = v1::LookupRequest { space, keys, lease_ms: None, request: request.to_owned() };
    world.wire.client.lookup(asked).await.expect("an answer").into_inner()
}

#[tokio::test]
async fn a_named_lookup_and_its_report_are_told_in_order() {
    let mut world = World::new().await;
    let chain = Block::chain("why", 20, 10_000);
    world.store(&chain[..12], Durability::Durable).await;
    lookup(&mut world, "cmpl-1", &chain).await;
    lookup(&mut world, "", &chain).await;
    let outcome = v1::RequestOutcome { verdict: Verdict::Declined.into(), blocks: 12, detail: "too slow".to_owned() };
    let (space, request) = (world.space.clone(), "cmpl-1".to_owned());
    let report = v1::ReportRequest { space, request, outcome: Some(outcome.clone()) };
    world.wire.client.report(report).await.expect("taken");
    let told = why(&mut world, "test", "cmpl-1").await;
    let [What::Inquiry(inquiry), What::Outcome(reported)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((inquiry.asked_blocks, inquiry.host_blocks, inquiry.answered_blocks), (20, 12, 12));
    assert_eq!(inquiry.miss.as_ref().expect("block 13 is missing").reason(), MissReason::NeverStored);
    assert_eq!(*reported, outcome);
    assert_eq!(why(&mut world, "other", "cmpl-1").await, [], "another tenant's request of that name");
}

#[tokio::test]
async fn a_request_tells_which_tier_its_blocks_were_in_and_is_forgotten_with_a_restart() {
    let mut world = World::new().await;
    let chain = Block::chain("tiers", 6, 10_000);
    world.store(&chain, Durability::Durable).await;
    lookup(&mut world, "before", &chain).await;
    let mut world = world.crash_and_restart().await;
    lookup(&mut world, "after", &chain).await;
    let told = why(&mut world, "test", "after").await;
    let [What::Inquiry(inquiry)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((inquiry.host_blocks, inquiry.nvme_blocks, &inquiry.miss), (0, 6, &None));
    assert_eq!(why(&mut world, "test", "before").await, []);
}

#[tokio::test]
async fn bad_names_and_reports_are_refused_with_their_field() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let long = "x".repeat(129);
    let keys = block::keys(&Block::chain("k", 1, 10));
    let asked = v1::LookupRequest { space: space.clone(), keys, lease_ms: None, request: long.clone() };
    let refused = world.wire.client.lookup(asked).await.expect_err("too long");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("request"), "{refused:?}");
    let absent = v1::ReportRequest { space, request: "r".to_owned(), outcome: None };
    let refused = world.wire.client.report(absent).await.expect_err("nothing reported");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("outcome"), "{refused:?}");
    for (tenant, request) in [("", "r"), ("test", "")] {
        let asked = v1::WhyRequest { tenant: tenant.to_owned(), request: request.to_owned() };
        let refused = world.wire.client.why(asked).await.expect_err("not named");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}
