//! Why a request missed, over the local socket: the same log, for the attachment's tenant only.

use kvtier_client::Verdict;
use kvtier_client::local::{AcquireChain, LoadChain, SaveChain};
use kvtier_client::why::Outcome;
use kvtier_proto::local::Method;
use kvtier_proto::v1::request_note::What;
use kvtier_proto::v1::{self, Durability};
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};

use super::lent::{Kv, gpu_world, nhd, wait_for_gpu};
use super::raw::Raw;
use super::{digest, reader, writer};

#[tokio::test]
async fn an_acquire_that_is_named_is_remembered_with_what_the_worker_reports() {
    let mut world = World::new().await;
    let chain = Block::chain("why", 10, 5_000);
    world.store(&chain[..4], Durability::Volatile).await;
    let (client, names) = (reader(&world), keys(&chain));
    let wanted = AcquireChain { request: Some("cmpl-1"), ..AcquireChain::new(digest(&world), &names) };
    assert_eq!(client.acquire(&wanted).expect("answered").len(), 4);
    drop(client.acquire(&AcquireChain::new(digest(&world), &names)).expect("answered"));
    let outcome = Outcome { verdict: Verdict::Failed, blocks: 4, detail: "the copy\nfailed" };
    client.report(digest(&world), "cmpl-1", outcome).expect("noted");
    // Reports travel with the next call at the latest.
    let told: Vec<What> =
        client.why("cmpl-1").expect("an answer").notes.into_iter().filter_map(|note| note.what).collect();
    let [What::Inquiry(inquiry), What::Outcome(reported)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((inquiry.asked_blocks, inquiry.host_blocks, inquiry.answered_blocks), (10, 4, 4));
    assert_eq!((reported.blocks, &reported.detail[..]), (4, "the copy failed"));
    let asked = v1::WhyRequest { tenant: "test".to_owned(), request: "cmpl-1".to_owned() };
    let over_grpc = world.wire.client.why(asked).await.expect("an answer").into_inner();
    assert_eq!(over_grpc.notes.len(), 2, "one log behind both doors");
    assert!(client.acquire(&AcquireChain { request: Some(""), ..wanted }).is_err());
}

#[tokio::test]
async fn loads_and_saves_that_are_named_are_remembered() {
    let mut world = gpu_world(&[]).await;
    let client = writer(&world);
    let (layout, sizes) = nhd(4);
    let kv = Kv::new(layout, sizes, 1);
    let lent = kv.lend(&client);
    let chain = Block::chain("moved", 4, 16_384);
    let (names, numbers) = (keys(&chain), [0, 1, 2, 3]);
    let request = Some("cmpl-2");
    let durability = Durability::Durable;
    let wanted = SaveChain { durability, ..SaveChain::new(digest(&world), &names[..3], &numbers[..3]) };
    lent.save(&wanted).expect("answered").expect("moved");
    drop((lent, client));
    world = world.crash_and_restart().await;
    wait_for_gpu(&mut world).await;
    let client = writer(&world);
    let lent = kv.lend(&client);
    for _ in 0..2 {
        let wanted = LoadChain { request, ..LoadChain::new(digest(&world), &names, &numbers) };
        assert_eq!(lent.load(&wanted).expect("answered").finish().expect("answered"), Ok(()));
    }
    let told: Vec<What> =
        client.why("cmpl-2").expect("an answer").notes.into_iter().filter_map(|note| note.what).collect();
    let [What::Inquiry(first), What::Inquiry(second)] = &told[..] else { panic!("{told:?}") };
    for (inquiry, tiers) in [(first, (0, 0, 3)), (second, (0, 3, 0))] {
        assert_eq!((&inquiry.call[..], inquiry.asked_blocks, inquiry.answered_blocks), ("load", 4, 3));
        assert_eq!((inquiry.pool_blocks, inquiry.host_blocks, inquiry.nvme_blocks), tiers);
        assert_eq!(inquiry.miss.as_ref().map(v1::Miss::reason), Some(v1::MissReason::NeverStored));
    }
    let wanted = SaveChain { request: Some("cmpl-3"), ..SaveChain::new(digest(&world), &names, &numbers) };
    lent.save(&wanted).expect("answered").expect("moved");
    let told = client.why("cmpl-3").expect("an answer").notes;
    let [Some(What::Inquiry(saved))] = &[told[0].what.clone()] else { panic!("{told:?}") };
    assert_eq!((&saved.call[..], saved.asked_blocks, saved.existing_blocks, saved.answered_blocks), ("save", 4, 3, 1));
    let wrong = LoadChain { request: Some(""), ..LoadChain::new(digest(&world), &names, &numbers) };
    assert!(lent.load(&wrong).is_err());
}

#[tokio::test]
async fn another_tenants_requests_are_not_told() {
    let world = World::new().await;
    let mut raw = Raw::writer(&world);
    let asked = v1::WhyRequest { tenant: "stranger".to_owned(), request: "cmpl-1".to_owned() };
    assert_eq!(raw.ask::<v1::WhyResponse>(Method::Why, &asked).expect_err("not its own").code, 7);
    let asked = v1::WhyRequest { tenant: String::new(), request: "cmpl-1".to_owned() };
    assert_eq!(raw.ask::<v1::WhyResponse>(Method::Why, &asked).expect("its own").notes, []);
    let report = v1::ReportRequest { space: vec![9; 32], request: "cmpl-1".to_owned(), outcome: None };
    assert_eq!(raw.ask::<v1::ReportResponse>(Method::Report, &report).expect_err("nothing reported").code, 3);
}
