//! One arena: tenants that do not trust each other never share it.

use kvtier_proto::v1;
use kvtier_proto::v1::LocalRole;
use kvtier_tests::World;
use kvtier_tests::wire::description;

use super::raw::Raw;

fn of_tenant(tenant: &str) -> v1::SpaceDescription {
    v1::SpaceDescription { tenant: tenant.to_owned(), ..description(tenant, &[4096]) }
}

#[tokio::test]
async fn while_memory_is_shared_no_other_tenant_gets_a_space() {
    let mut world = World::new().await;
    let _attached = Raw::writer(&world);
    let refused = world.wire.open_space_of("other", of_tenant("other")).await.expect_err("test would see it");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("local.tenants"), "{refused:?}");
    world.wire.open_space_of("own", of_tenant("test")).await.expect("its own");
}

#[tokio::test]
async fn a_node_of_several_tenants_shares_with_nobody() {
    let mut world = World::new().await;
    world.wire.open_space_of("other", of_tenant("other")).await.expect("nobody shares yet");
    let refused = Raw::attach(&world, LocalRole::Reader, "test").err().expect("other's blocks would be seen");
    assert!(refused.message.contains("local.tenants"), "{refused:?}");
    // Also after they are gone: their bytes may still stand in free slots.
    let space = world.wire.open_space_of("other", of_tenant("other")).await.expect("it is open").space;
    world.wire.status_until("recovery to end", |status| status.state == "serving").await;
    world.wire.client.drop_space(v1::DropSpaceRequest { space }).await.expect("dropped");
    assert!(Raw::attach(&world, LocalRole::Reader, "test").is_err());
}

#[tokio::test]
async fn tenants_that_are_named_share_and_stay_in_their_spaces() {
    let mut world = World::with(&[("local.tenants", "test,partner")]).await;
    let space = world.wire.open_space_of("partner", of_tenant("partner")).await.expect("named").space;
    let mut raw = Raw::writer(&world);
    let request = v1::AcquireRequest { space, keys: b"k".to_vec(), key_bytes: 1, lease_ms: 10, ..Default::default() };
    let refused = raw.ask::<v1::AcquireResponse>(kvtier_proto::local::Method::Acquire, &request);
    assert_eq!(refused.expect_err("attached for test").code, 7);
    assert!(Raw::attach(&world, LocalRole::Reader, "stranger").is_err());
}
