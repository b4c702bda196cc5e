//! Workers that share memory with a real daemon: in this process, and in processes of their own that are killed and
//! stopped.

mod bounds;
mod damage;
mod disconnects;
mod domains;
mod fresh;
mod hot;
mod hot_domains;
mod hot_parts;
mod leases;
mod lent;
mod lent_faults;
mod misuse;
mod moves;
mod on_driver;
mod parts;
mod pools;
mod puppet;
mod put_get;
mod raw;
mod restarts;
mod rings;
mod rotten;
mod staging;
mod stops;
mod tenants;
mod why;

use bytes::Bytes;
use kvtier_client::local::{AcquireChain, Acquired, Committed, ReserveChain, Slot};
use kvtier_client::{LocalClient, LocalOptions, SpaceDigest};
use kvtier_proto::v1;
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};

/// The world's space as the client library names it.
pub fn digest(world: &World) -> SpaceDigest {
    SpaceDigest(world.space[..].try_into().expect("a digest has 32 bytes"))
}

/// A writer in this process.
pub fn writer(world: &World) -> LocalClient {
    attach(world, LocalOptions::writer("test", "test"))
}

/// A reader in this process.
pub fn reader(world: &World) -> LocalClient {
    attach(world, LocalOptions::reader("test", "test"))
}

fn attach(world: &World, options: LocalOptions) -> LocalClient {
    let path = world.daemon.endpoints().local.clone().expect("the local path is on");
    LocalClient::connect(path, options).expect("a serving daemon attaches its own user")
}

/// Reserves and writes a chain; what was got for each block.
pub fn write(client: &LocalClient, space: SpaceDigest, chain: &[Block]) -> Vec<Slot> {
    let lengths: Vec<u32> = chain.iter().map(|block| block.payload.len() as u32).collect();
    let keys = keys(chain);
    let wanted = ReserveChain {
        lengths: kvtier_client::local::Lengths::Each(&lengths),
        parent: chain[0].parent.as_deref(),
        ..ReserveChain::new(space, &keys, 0)
    };
    let mut slots = client.reserve(&wanted).expect("a good chain is answered");
    assert_eq!(slots.len(), chain.len());
    for (slot, block) in slots.iter_mut().zip(chain) {
        if let Slot::Write(reservation) = slot {
            reservation.copy_from_slice(&block.payload);
        }
    }
    slots
}

/// Puts a chain in place and fails unless all of it is stored.
pub fn store(client: &LocalClient, space: SpaceDigest, chain: &[Block]) {
    let slots = write(client, space, chain);
    let written = slots.into_iter().map(|slot| match slot {
        Slot::Write(reservation) => reservation,
        other => panic!("no slot was given: {other:?}"),
    });
    let committed = client.commit(written).expect("a commit is answered");
    for (committed, block) in committed.into_iter().zip(chain) {
        assert_eq!(committed, Committed::Stored { crc: block.crc() }, "{:?}", block.key);
    }
}

/// Acquires a chain.
pub fn acquire(client: &LocalClient, space: SpaceDigest, keys: &[Bytes]) -> Acquired {
    client.acquire(&AcquireChain::new(space, keys)).expect("a good chain is answered")
}

/// Fails unless these are the blocks, in place, with the right bytes.
pub fn expect(acquired: &Acquired, chain: &[Block]) {
    assert_eq!(acquired.len(), chain.len(), "{:?}", acquired.miss);
    for (index, block) in chain.iter().enumerate() {
        assert!(acquired.bytes(index) == Some(&block.payload[..]), "wrong bytes for {:?}", block.key);
        assert_eq!(acquired.verify(index), Ok(()));
        assert!(acquired.is_intact(index));
    }
}

/// The daemon's figures of the local path, once they are as wanted.
pub async fn local_until(world: &mut World, what: &str, wanted: impl Fn(&v1::LocalStatus) -> bool) -> v1::LocalStatus {
    let local = |status: &v1::StatusResponse| status.local.expect("the local path is on");
    local(&world.wire.status_until(what, |status| wanted(&local(status))).await)
}

/// Nothing is reserved, quarantined or leased any more.
pub async fn wait_until_free(world: &mut World) {
    let free = |status: &v1::StatusResponse| {
        let local = status.local.expect("the local path is on");
        local.reservations == 0 && local.quarantined_slots == 0 && status.leases == 0 && status.pending_puts == 0
    };
    world.wire.status_until("everything to be free", free).await;
}
