//! Health, readiness and reflection, as load balancers and tools see them.

use kvtier_proto::v1;
use kvtier_tests::http::get;
use kvtier_tests::{Setup, World};

#[tokio::test]
async fn a_serving_daemon_is_healthy_and_ready_and_a_draining_one_is_not_ready() {
    let mut world = World::new().await;
    let address = world.daemon.endpoints().http.expect("it listens on HTTP");
    assert_eq!(get(address, "/healthz").0, 200);
    assert_eq!(get(address, "/readyz").0, 200);
    world.wire.client.drain(v1::DrainRequest { timeout_ms: 1000 }).await.expect("a drain");
    assert_eq!(get(address, "/healthz").0, 200, "it lives");
    let (code, body) = get(address, "/readyz");
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("draining"), "{body}");
}

#[tokio::test]
async fn metrics_tell_of_calls_and_blocks() {
    let mut world = World::new().await;
    let address = world.daemon.endpoints().http.expect("it listens on HTTP");
    let chain = kvtier_tests::Block::chain("counted", 7, 10_000);
    world.store(&chain, v1::Durability::Volatile).await;
    world.wire.expect_blocks(&world.space.clone(), &chain).await;
    let (code, body) = get(address, "/metrics");
    assert_eq!(code, 200);
    assert!(body.contains("kvtier_"), "{body}");
    assert!(body.contains("host"), "{body}");
}

/// The value of one series.
fn series(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Pinned bytes and the latencies of the tier were documented, exported, and always zero.
#[tokio::test]
async fn what_happens_behind_calls_shows_in_metrics() {
    let mut world = World::new().await;
    let chain = kvtier_tests::Block::chain("measured", 5, 100_000);
    world.store(&chain, v1::Durability::Durable).await;
    let mut world = world.crash_and_restart().await;
    let (space, keys) = (world.space.clone(), kvtier_tests::block::keys(&chain));
    world.wire.expect_blocks(&space, &chain).await;
    let keys = keys.iter().map(|key| key.to_vec()).collect();
    let pin = v1::PinRequest { space, name: "pin".into(), keys, ttl_ms: 60_000 };
    world.wire.client.pin(pin).await.expect("a pin");
    world.store(&kvtier_tests::Block::chain("written", 5, 100_000), v1::Durability::Durable).await;
    let (_, page) = get(world.daemon.endpoints().http.expect("it listens on HTTP"), "/metrics");
    assert_eq!(series(&page, "kvtier_pinned_bytes"), Some(500_000.0), "{page}");
    for operation in ["load", "store", "sync", "commit"] {
        let name = format!("kvtier_tier_operation_seconds_count{{tier=\"nvme\",operation=\"{operation}\"}}");
        assert!(series(&page, &name).is_some_and(|count| count > 0.0), "{name} in {page}");
    }
    assert_eq!(series(&page, "kvtier_alarm{alarm=\"journal\"}"), Some(0.0), "{page}");
}

#[test]
fn endpoints_are_written_for_tools_and_gone_after_a_clean_stop() {
    let daemon = Setup::default().start();
    let file = daemon.data().join(kvtier_tests::daemon::LISTENING);
    assert!(file.exists());
    assert_eq!(daemon.endpoints().pid, daemon.pid());
    drop(daemon.stop());
    assert!(!file.exists(), "a stopped daemon cannot be reached");
}

#[tokio::test]
async fn grpc_health_serves_until_the_node_drains() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let mut world = World::new().await;
    let mut health = HealthClient::new(world.wire.channel.clone());
    let check = |service: &str| tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
    for service in ["", "kvtier.v1.KvTier"] {
        let answer = health.check(check(service)).await.expect("it is known").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let mut watched = health.watch(check("")).await.expect("it can be watched").into_inner();
    world.wire.client.drain(v1::DrainRequest { timeout_ms: 1000 }).await.expect("a drain");
    kvtier_tests::wire::within("not serving", async {
        while let Some(answer) = watched.message().await.expect("the watch goes on") {
            if answer.status() == ServingStatus::NotServing {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn reflection_lists_the_service() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let world = World::new().await;
    let mut reflection = ServerReflectionClient::new(world.wire.channel.clone());
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(tokio_stream::iter([request])).await;
    let answer = answers.expect("reflection answers").into_inner().message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"kvtier.v1.KvTier".to_owned()), "{names:?}");
}
