//! Chains, keys and spaces that cannot be right, in every call that takes them.

use bytes::Bytes;
use kvtier_proto::v1;
use kvtier_tests::wire::within;
use kvtier_tests::{Blame, World};
use tonic::{Code, Status};

/// Sends one space and chain to every call that takes them.
async fn everywhere(world: &mut World, space: &[u8], keys: &[Bytes]) -> Vec<(&'static str, Status)> {
    let space = space.to_vec();
    let plain: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    let client = &mut world.wire.client;
    let lookup =
        v1::LookupRequest { space: space.clone(), keys: keys.to_vec(), lease_ms: None, request: String::new() };
    let list = v1::KeyList { space: space.clone(), keys: keys.to_vec() };
    let get = v1::GetRequest { from: Some(v1::get_request::From::Keys(list)), first: 0, count: 0 };
    let pin = v1::PinRequest { space: space.clone(), name: "p".into(), keys: plain.clone(), ttl_ms: 1000 };
    let prefetch = v1::PrefetchRequest { space: space.clone(), keys: plain.clone() };
    let delete = v1::DeleteRequest { space: space.clone(), keys: plain };
    within("all calls", async {
        vec![
            ("lookup", client.lookup(lookup).await.expect_err("lookup")),
            ("get", client.get(get).await.expect_err("get")),
            ("pin", client.pin(pin).await.expect_err("pin")),
            ("prefetch", client.prefetch(prefetch).await.expect_err("prefetch")),
            ("delete", client.delete(delete).await.expect_err("delete")),
        ]
    })
    .await
}

fn in_get(call: &str, field: &str) -> String {
    if call == "get" { format!("keys.{field}") } else { field.to_owned() }
}

#[tokio::test]
async fn an_unknown_space_is_not_found_wherever_it_is_named() {
    let mut world = World::new().await;
    for (_, status) in everywhere(&mut world, &[9; 32], &[Bytes::from("k")]).await {
        Blame::expect(Err::<(), _>(status), Code::NotFound, "space", "0909", "open it with its description first");
    }
}

#[tokio::test]
async fn a_space_that_is_not_32_bytes_is_invalid_wherever_it_is_named() {
    let mut world = World::new().await;
    for (call, status) in everywhere(&mut world, b"short", &[Bytes::from("k")]).await {
        let field = in_get(call, "space");
        Blame::expect(Err::<(), _>(status), Code::InvalidArgument, &field, "5 bytes long", "32 bytes");
    }
}

#[tokio::test]
async fn a_chain_of_0_keys_is_invalid() {
    let mut world = World::new().await;
    let space = world.space.clone();
    for (call, status) in everywhere(&mut world, &space, &[]).await {
        let field = in_get(call, "keys");
        Blame::expect(Err::<(), _>(status), Code::InvalidArgument, &field, "0 keys", "1 to 65536 keys");
    }
}

#[tokio::test]
async fn a_chain_of_65537_keys_is_invalid_and_one_of_65536_is_not() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let mut keys: Vec<Bytes> = (0..65_537_u32).map(|key| Bytes::copy_from_slice(&key.to_le_bytes())).collect();
    for (call, status) in everywhere(&mut world, &space, &keys).await {
        let field = in_get(call, "keys");
        Blame::expect(Err::<(), _>(status), Code::InvalidArgument, &field, "65537 keys", "1 to 65536 keys");
    }
    keys.pop();
    assert_eq!(world.wire.resident(&space, &keys).await, 0);
}

#[tokio::test]
async fn the_longest_chain_of_the_longest_keys_fits_one_message() {
    let mut world = World::new().await;
    let space = world.space.clone();
    let keys: Vec<Bytes> = (0..65_536_u32).map(|key| Bytes::from(format!("{key:064}"))).collect();
    assert_eq!(world.wire.resident(&space, &keys).await, 0);
}

#[tokio::test]
async fn a_key_of_0_or_65_bytes_is_named_by_its_place() {
    let mut world = World::new().await;
    let space = world.space.clone();
    for (bytes, value) in [(0, "0 bytes long"), (65, "65 bytes long")] {
        let mut keys = vec![Bytes::from("k"); 20];
        keys[17] = vec![1; bytes].into();
        for (call, status) in everywhere(&mut world, &space, &keys).await {
            let field = in_get(call, "keys[17]");
            Blame::expect(Err::<(), _>(status), Code::InvalidArgument, &field, value, "1 to 64 bytes");
        }
    }
}

#[tokio::test]
async fn a_get_that_names_nothing_is_invalid() {
    let mut world = World::new().await;
    let answer = world.wire.client.get(v1::GetRequest::default()).await;
    Blame::expect(answer, Code::InvalidArgument, "from", "absent", "a lease or a list of keys");
}

#[tokio::test]
async fn a_range_outside_the_list_is_invalid() {
    let mut world = World::new().await;
    let list = v1::KeyList { space: world.space.clone(), keys: vec![Bytes::from("k"); 3] };
    let get = |first, count| v1::GetRequest { from: Some(v1::get_request::From::Keys(list.clone())), first, count };
    let answer = world.wire.client.get(get(4, 0)).await;
    Blame::expect(answer, Code::InvalidArgument, "first", "4", "3 blocks, numbered from 0");
    let answer = world.wire.client.get(get(1, 3)).await;
    Blame::expect(answer, Code::InvalidArgument, "count", "3", "at most 2");
    let answer = world.wire.client.get(get(1, u32::MAX)).await;
    Blame::expect(answer, Code::InvalidArgument, "count", "4294967295", "at most 2");
}
