//! Acquiring a chain, one story at a time, on a machine without faults.

use std::task::Poll;
use std::time::Duration;

use kvtier_engine::catalog::plan::{LeaseId, MissReason, OwnerId};
use kvtier_engine::flow::acquire::{Acquired, Wish};
use kvtier_engine::flow::ask::Durability;
use kvtier_engine::policy::{AdmissionKind, PolicyKind};
use kvtier_engine::port::Clock as _;
use kvtier_identity::{KeyRun, SpaceDigest};

use crate::ledger::{DEPTH, Name, description};
use crate::node::Shape;
use crate::run::Simulation;
use crate::workload::Client;

/// The whole of one chain.
const LAST: Name = Name { tenant: 0, chain: 1, depth: DEPTH - 1 };
const WISH: Wish = Wish { lease: Duration::from_secs(1), stage: true, wait: true };

fn node(host_extents: &[u64]) -> Simulation {
    Simulation::calm(Shape {
        host_extents: host_extents.to_vec(),
        nvme_extents: 40,
        policy: PolicyKind::LeafLru,
        admission: AdmissionKind::All,
        store_flights_max: 2,
    })
}

fn space(name: Name) -> SpaceDigest {
    description(name.tenant).digest().expect("a valid description")
}

fn client(node: &mut Simulation, owner: u128) -> Client {
    Client { owner: OwnerId(owner), ..node.client() }
}

fn put(node: &mut Simulation, last: Name, durability: Durability) {
    let client = client(node, 9);
    let put = async move {
        let space = client.space(last).await.expect("a calm journal");
        client.put_chain(last, durability).await.map(|()| space)
    };
    node.drive(put).expect("it ends").expect("it is put");
}

/// The chain is on NVMe and nowhere else.
fn node_with_cold_chain(host_extents: &[u64]) -> Simulation {
    let mut node = node(&[8]);
    put(&mut node, LAST, Durability::Durable);
    node.machine.shape.host_extents = host_extents.to_vec();
    node.restart();
    node
}

async fn ask(client: Client, last: Name, wish: Wish) -> Option<(LeaseId, Acquired)> {
    let asked = client.acquire_names(&space(last), &last.chain_to(), wish).await;
    asked.expect("an answer that holds together")
}

fn acquire(node: &mut Simulation, owner: u128, wish: Wish) -> Option<(LeaseId, Acquired)> {
    let client = client(node, owner);
    node.drive(ask(client, LAST, wish)).expect("it ends")
}

/// Every block of the answer is where it is said to be.
fn look(node: &mut Simulation, owner: u128, lease: LeaseId, acquired: &Acquired) {
    let client = client(node, owner);
    client.look(lease, &LAST.chain_to(), acquired, true).expect("an open lease");
}

fn come_to_rest(node: &mut Simulation) {
    for _ in 0..100_000 {
        if node.is_quiet() {
            return;
        }
        node.step().expect("the core is sound");
    }
    panic!("something is still held: {:?}", node.engine().status().count);
}

#[test]
fn a_resident_chain_is_placed_at_once_and_held_until_it_is_released() {
    let mut node = node(&[8]);
    put(&mut node, LAST, Durability::Volatile);
    come_to_rest(&mut node);
    let (lease, acquired) = acquire(&mut node, 1, WISH).expect("resident");
    assert!(acquired.blocks.len() == DEPTH && acquired.blocks.iter().all(|block| block.offset.is_some()));
    assert_eq!((acquired.miss, node.engine().status().count.held_blocks), (None, DEPTH as u64));
    look(&mut node, 1, lease, &acquired);
    node.engine().release(lease, OwnerId(1)).expect("open");
    assert_eq!(node.engine().status().count.held_blocks, 0);
}

#[test]
fn a_cold_chain_is_staged_up_into_its_tenants_arena() {
    let mut node = node_with_cold_chain(&[3, 8, 3]);
    let (lease, acquired) = acquire(&mut node, 1, WISH).expect("durable");
    assert_eq!(acquired.blocks.len(), DEPTH);
    look(&mut node, 1, lease, &acquired);
    let blocks: Vec<u64> = node.engine().status().host_domains.iter().map(|domain| domain.blocks).collect();
    assert_eq!(blocks, [0, DEPTH as u64, 0]);
}

#[test]
fn who_does_not_wait_is_told_how_many_are_on_their_way() {
    let mut node = node_with_cold_chain(&[8]);
    let client = client(&mut node, 1);
    let keys: Vec<u8> = LAST.chain_to().iter().flat_map(|name| name.key().as_bytes().to_vec()).collect();
    let engine = node.engine();
    let first = async move {
        let keys = KeyRun::even(&keys, 4).expect("keys");
        engine.acquire(&space(LAST), &keys, Wish { wait: false, ..WISH }, OwnerId(1)).await.expect("answered")
    };
    let first = node.drive(first).expect("it ends");
    assert_eq!((first.loading, first.blocks.len()), (DEPTH as u32, 0));
    let lease = first.lease.expect("leased").id;
    let (engine, owner) = (node.engine(), client.owner);
    let later = node.drive(async move { engine.acquired(lease, owner, true).await.expect("answered") });
    let later = later.expect("it ends");
    assert_eq!((later.loading, later.blocks.len()), (0, DEPTH));
    look(&mut node, 1, lease, &later);
}

#[test]
fn who_does_not_stage_is_told_what_is_not_in_host_memory() {
    let mut node = node_with_cold_chain(&[8]);
    let (_, acquired) = acquire(&mut node, 1, Wish { stage: false, ..WISH }).expect("durable");
    assert!(acquired.blocks.len() == DEPTH && acquired.blocks.iter().all(|block| block.offset.is_none()));
    assert_eq!(node.engine().meter().nvme.loads.get(), 0);
}

#[test]
fn the_prefix_ends_with_the_first_block_that_is_missing() {
    let mut node = node(&[8]);
    assert!(acquire(&mut node, 1, WISH).is_none(), "nothing is there, so nothing is leased");
    put(&mut node, Name { depth: 2, ..LAST }, Durability::Volatile);
    let (_, acquired) = acquire(&mut node, 1, WISH).expect("resident");
    assert_eq!(acquired.blocks.len(), 3);
    assert_eq!(acquired.miss.map(|miss| miss.reason), Some(MissReason::NeverStored));
}

#[test]
fn a_chain_larger_than_its_arena_is_placed_as_far_as_there_is_room() {
    let mut node = node_with_cold_chain(&[8, 1, 8]);
    let (lease, acquired) = acquire(&mut node, 1, WISH).expect("durable");
    assert!((1..DEPTH).contains(&acquired.blocks.len()), "{acquired:?}");
    assert_eq!(acquired.miss.map(|miss| miss.reason), Some(MissReason::Throttled), "the other arenas are not its own");
    look(&mut node, 1, lease, &acquired);
}

#[test]
fn a_leased_chain_stays_where_it_is_whatever_else_is_put() {
    let mut node = node(&[3]);
    put(&mut node, LAST, Durability::Durable);
    come_to_rest(&mut node);
    let (lease, acquired) = acquire(&mut node, 1, Wish { lease: Duration::from_secs(60), ..WISH }).expect("resident");
    let placed = acquired.blocks.iter().filter(|block| block.offset.is_some()).count();
    assert!(placed > 0);
    for chain in [0, 2, 3] {
        let client = client(&mut node, 9);
        let flood = async move { client.put_chain(Name { chain, ..LAST }, Durability::Volatile).await };
        node.drive(flood).expect("it ends").expect("stored or declined");
    }
    look(&mut node, 1, lease, &acquired);
    let (engine, again) = (node.engine(), acquired.blocks.clone());
    let now = node.drive(async move { engine.acquired(lease, OwnerId(1), false).await.expect("still open") });
    assert_eq!(now.expect("it ends").blocks, again);
}

#[test]
fn a_lease_ends_at_its_deadline_and_its_slots_tell_when_they_are_given_back() {
    let mut node = node(&[3]);
    put(&mut node, LAST, Durability::Durable);
    come_to_rest(&mut node);
    let (lease, acquired) = acquire(&mut node, 1, WISH).expect("resident");
    let reader = client(&mut node, 1);
    let clock = node.machine.clock.clone();
    node.drive(async move { clock.sleep(2 * WISH.lease).await }).expect("time passes");
    let engine = node.engine();
    let ended = node.drive(async move { engine.acquired(lease, OwnerId(1), true).await.is_err() });
    assert!(ended.expect("it ends"), "the lease has ended");
    for chain in [0, 2, 3] {
        put(&mut node, Name { chain, ..LAST }, Durability::Volatile);
    }
    // Fails if other bytes are there and the generation has not changed.
    reader.look(lease, &LAST.chain_to(), &acquired, true).expect("told");
    let (space, names) = (space(LAST), LAST.chain_to());
    let resident = node.drive(async move {
        let keys: Vec<_> = names.iter().map(|name| name.key()).collect();
        reader.engine.lookup(&space, &keys, None, OwnerId(1)).await.expect("answered")
    });
    let in_host = resident.expect("it ends").prefix.iter().filter(|block| block.tier.name() == "host").count();
    assert!(in_host < DEPTH, "the flood needed room");
}

#[test]
fn a_lease_is_its_owners() {
    let mut node = node(&[8]);
    put(&mut node, LAST, Durability::Volatile);
    let (lease, _) = acquire(&mut node, 1, WISH).expect("resident");
    let engine = node.engine();
    let foreign = node.drive(async move { engine.acquired(lease, OwnerId(2), true).await.is_err() });
    assert!(foreign.expect("it ends"));
    assert!(node.engine().release(lease, OwnerId(2)).is_err());
}

/// A block that was deleted and put again has other bytes, as far as its lease can know.
#[test]
fn a_block_put_anew_is_not_the_one_that_was_leased() {
    let mut node = node_with_cold_chain(&[8]);
    let (lease, _) = acquire(&mut node, 1, Wish { stage: false, ..WISH }).expect("durable");
    let client = client(&mut node, 9);
    let replace = async move {
        client.engine.delete(&space(LAST), &[LAST.key()]).await.expect("deleted");
        client.put_chain(LAST, Durability::Volatile).await
    };
    node.drive(replace).expect("it ends").expect("put");
    let engine = node.engine();
    let acquired = node.drive(async move { engine.acquired(lease, OwnerId(1), true).await.expect("open") });
    let acquired = acquired.expect("it ends");
    assert_eq!(acquired.blocks.len(), DEPTH - 1);
    assert!(acquired.miss.is_some());
}

#[test]
fn a_chain_of_no_keys_is_refused() {
    let mut node = node(&[3]);
    put(&mut node, Name { depth: 0, ..LAST }, Durability::Volatile);
    let engine = node.engine();
    let refused = node.drive(async move {
        let keys = KeyRun::even(&[], 4).expect("no keys");
        engine.acquire(&space(LAST), &keys, WISH, OwnerId(1)).await.is_err()
    });
    assert!(refused.expect("it ends"));
}

/// Whoever asks goes away at its first await, its second, and so on: what was leased ends with the deadline, what was on
/// its way lands, and the next one who asks gets everything.
#[test]
fn an_acquisition_dropped_at_any_await_leaves_nothing_behind() {
    for wish in [WISH, Wish { wait: false, ..WISH }] {
        let mut polls_max = 0;
        loop {
            let mut node = node_with_cold_chain(&[3, 4]);
            let asked = ask(client(&mut node, 1), LAST, wish);
            let done = node.drive(polled(asked, polls_max)).expect("it ends or is dropped");
            come_to_rest(&mut node);
            let (lease, acquired) = acquire(&mut node, 2, WISH).expect("durable");
            assert_eq!(acquired.blocks.len(), DEPTH, "after {polls_max} polls");
            look(&mut node, 2, lease, &acquired);
            if done {
                break;
            }
            polls_max += 1;
        }
        assert!(polls_max > 1, "there are awaits to be dropped at");
    }
}

/// Polls a future so many times and drops it; true if it was done.
async fn polled<T>(work: impl Future<Output = T>, polls_max: usize) -> bool {
    let mut work = Box::pin(work);
    let mut polls = 0;
    std::future::poll_fn(move |context| {
        if polls == polls_max {
            return Poll::Ready(false);
        }
        polls += 1;
        match work.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if polls == polls_max => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
