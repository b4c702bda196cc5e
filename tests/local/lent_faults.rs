//! Workers that vanish, memory that is freed, a GPU that hangs, and requests that make no sense.

use kvtier_client::local::{Committed, GpuLayout, GpuMemory, LoadChain, NotMoved, SaveChain};
use kvtier_client::{ClientError, LocalClient};
use kvtier_proto::v1;
use kvtier_tests::block::keys;
use kvtier_tests::{Block, World};

use super::lent::{Gate, Kv, gpu_world, hnd, nhd, tier, told, wait_for_gpu};
use super::puppet::Puppet;
use super::{acquire, digest, expect, local_until, reader, store, wait_until_free, writer};

const BYTES: usize = 16_384;

fn kv(seed: u64) -> Kv {
    let (layout, sizes) = nhd(4);
    Kv::new(layout, sizes, seed)
}

fn load(lent: &GpuMemory, world: &World, chain: &[Block]) -> Result<(), NotMoved> {
    let blocks: Vec<u64> = (0..chain.len() as u64).collect();
    let loading = lent.load(&LoadChain::new(digest(world), &keys(chain), &blocks)).expect("answered");
    loading.finish().expect("answered")
}

/// Nothing is lent, moving, held or reserved any more.
async fn wait_until_nothing_moves(world: &mut World) {
    let still = |status: &v1::StatusResponse| {
        let local = status.local.expect("on");
        local.gpu_memories == 0 && local.moves == 0 && status.leased_blocks == 0
    };
    world.wire.status_until("nothing to be lent, moving or held", still).await;
    wait_until_free(world).await;
}

fn tier_of_nvme(status: &v1::StatusResponse) -> u64 {
    status.tiers.iter().find(|tier| tier.tier() == v1::Tier::Nvme).map_or(0, |tier| tier.blocks)
}

/// The host path goes on as if there were no GPU.
pub fn host_path_works(world: &World, name: &str) {
    let chain = Block::chain(name, 3, BYTES);
    store(&writer(world), digest(world), &chain);
    expect(&acquire(&reader(world), digest(world), &keys(&chain)), &chain);
}

#[tokio::test]
async fn a_worker_killed_in_a_load_is_forgotten_behind_its_last_job() {
    let mut world = gpu_world(&[]).await;
    let chain = Block::chain("there", 3, BYTES);
    store(&writer(&world), digest(&world), &chain);
    // Its write-back holds the blocks, too: what is held from here on is held for the load.
    world
        .wire
        .status_until("the write-back's end", |status| tier_of_nvme(status) == 3 && status.leased_blocks == 0)
        .await;
    let mut gate = Gate::new();
    let mut puppet = Puppet::start(&world);
    puppet.lend(&gate);
    assert_eq!(puppet.ask("load there 3"), "3 blocks");
    gate.let_pass(1);
    puppet.kill();
    let told = world.wire.status_until("the worker to be gone", |status| status.local.expect("on").clients == 0).await;
    assert_eq!(told.leased_blocks, 3, "INV-8: the device still reads the blocks");
    let local = told.local.expect("on");
    assert_eq!((local.gpu_memories, local.moves), (0, 1), "the job has the memory");
    gate.open();
    wait_until_nothing_moves(&mut world).await;
    expect(&acquire(&reader(&world), digest(&world), &keys(&chain)), &chain);
    let mine = kv(1);
    assert_eq!(load(&mine.lend(&writer(&world)), &world, &chain), Ok(()), "the GPU goes on");
}

#[tokio::test]
async fn what_a_worker_killed_in_a_save_had_begun_is_never_seen_and_free_behind_the_job() {
    let mut world = gpu_world(&[]).await;
    let gate = Gate::new();
    let mut puppet = Puppet::start(&world);
    puppet.lend(&gate);
    puppet.tell("save half 3");
    local_until(&mut world, "a save under way", |local| local.moves == 1).await;
    puppet.kill();
    let told = world.wire.status_until("the worker to be gone", |status| status.local.expect("on").clients == 0).await;
    assert_eq!(told.pending_puts, 3, "INV-8: the device may still write the slots");
    gate.open();
    wait_until_nothing_moves(&mut world).await;
    let space = world.space.clone();
    assert_eq!(world.wire.resident(&space, &keys(&Block::chain("half", 3, BYTES))).await, 0);
    // Whoever comes next can save it.
    let mine = kv(1);
    let names = keys(&Block::chain("half", 3, BYTES));
    let saved = mine.lend(&writer(&world)).save(&SaveChain::new(digest(&world), &names, &[0, 1, 2]));
    assert!(saved.expect("answered").expect("moved").iter().all(|one| matches!(one, Committed::Stored { .. })));
}

#[tokio::test]
async fn memory_freed_in_a_load_poisons_the_gpu_and_the_host_path_goes_on() {
    let mut world = gpu_world(&[]).await;
    let chain = Block::chain("freed", 3, BYTES);
    store(&writer(&world), digest(&world), &chain);
    let client = writer(&world);
    let (mine, other, gate) = (kv(1), kv(2), Gate::new());
    let (lent, bystander) = (mine.lend_gated(&client, &gate), other.lend(&client));
    let loading = lent.load(&LoadChain::new(digest(&world), &keys(&chain), &[0, 1, 2])).expect("answered");
    mine.files.iter().for_each(|file| file.set_len(0).expect("shortened"));
    gate.open();
    let lost =
        |moved: Result<(), NotMoved>| matches!(moved, Err(NotMoved::GpuLost(why)) if why.contains("host memory"));
    assert!(lost(loading.finish().expect("answered")));
    assert!(lost(load(&bystander, &world, &chain)), "nothing reaches a lost GPU");
    let saved = bystander.save(&SaveChain::new(digest(&world), &keys(&Block::chain("no", 1, BYTES)), &[0]));
    assert!(lost(saved.expect("answered").map(drop)));
    let status = world.wire.status_until("a poisoned GPU", |status| tier(status).state == "poisoned").await;
    assert!(tier(&status).detail.contains("restart the daemon"), "{:?}", tier(&status));
    let alarm = status.alarms.iter().find(|alarm| alarm.starts_with("hbm_poisoned: device 0 takes nothing"));
    assert!(alarm.is_some() && status.state == "degraded", "{}: {:?}", status.state, status.alarms);
    host_path_works(&world, "after");
    drop((lent, bystander, client));
    wait_until_nothing_moves(&mut world).await;
    world = world.restart().await;
    wait_for_gpu(&mut world).await;
    assert_eq!(load(&other.lend(&writer(&world)), &world, &chain), Ok(()), "a restart has a new GPU");
}

#[tokio::test]
async fn a_gpu_that_hangs_fails_its_calls_and_never_the_daemon() {
    let mut world = gpu_world(&[("hbm.hang_timeout", "200ms")]).await;
    let chain = Block::chain("hung", 3, BYTES);
    store(&writer(&world), digest(&world), &chain);
    let client = writer(&world);
    let (mine, gate) = (kv(1), Gate::new());
    let lent = mine.lend_gated(&client, &gate);
    let loading = lent.load(&LoadChain::new(digest(&world), &keys(&chain), &[0, 1, 2])).expect("answered");
    let saved = lent.save(&SaveChain::new(digest(&world), &keys(&Block::chain("never", 2, BYTES)), &[3, 4]));
    let silent = |why: &NotMoved| matches!(why, NotMoved::GpuLost(why) if why.contains("does not answer"));
    assert!(saved.expect("answered").is_err_and(|why| silent(&why)));
    assert!(loading.finish().expect("answered").is_err_and(|why| silent(&why)));
    host_path_works(&world, "meanwhile");
    drop((lent, client));
    let gone = |status: &v1::StatusResponse| status.local.expect("on").clients == 0;
    let told = world.wire.status_until("the worker to be gone", gone).await;
    assert!(told.leased_blocks >= 3 && told.pending_puts == 2, "INV-8: it may still come back: {told:?}");
    // The daemon stops although the device never answers.
    world = world.restart().await;
    drop(gate);
    host_path_works(&world, "again");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_thing_value_and_remedy() {
    let world = gpu_world(&[]).await;
    let client = writer(&world);
    let (mine, chain) = (kv(1), Block::chain("sense", 2, BYTES));
    let (space, names) = (digest(&world), keys(&chain));
    let refused = |client: &LocalClient, gpu: u32, handles: &[[u8; 64]], layout: &GpuLayout| {
        client.import_gpu_memory(gpu, handles, layout).map(drop).expect_err("refused").to_string()
    };
    let (handles, good) = (mine.handles(None), told(&mine.layout));
    for (gpu, handles, layout, expected) in [
        (1, handles.clone(), good.clone(), "gpu is 1: the daemon has 1"),
        (0, vec![], good.clone(), "handles is a list of 0"),
        (0, vec![[7; 64]], good.clone(), "handles[0] is not to be opened"),
        (
            0,
            handles.clone(),
            GpuLayout { tokens: 0, ..good.clone() },
            "layout.tokens is wrong: tokens: 0 is not between 1",
        ),
        (0, handles[..2].to_vec(), good.clone(), "names memory 2, and 2 were given"),
        (0, handles.clone(), GpuLayout { block_count: 9, ..good.clone() }, "memory 0 has 32768"),
        (0, handles.clone(), GpuLayout { surface_offsets: vec![0], ..good.clone() }, "layout.surface_memories is 4"),
    ] {
        let why = refused(&client, gpu, &handles, &layout);
        assert!(why.contains(expected), "{why:?} does not say {expected:?}");
    }
    let named = |uuid: &str| client.import_gpu_memory(uuid, &mine.handles(None), &told(&mine.layout)).map(drop);
    let why = named("GPU-0123").expect_err("refused").to_string();
    assert!(why.contains("gpu_uuid is GPU-0123: the daemon has GPU-00000000-0000-0000-0000-000000000001"), "{why}");
    for uuid in ["GPU-00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000001"] {
        named(uuid).expect("that GPU");
    }
    let lent = mine.lend(&client);
    let says = |error: ClientError, expected: &str| assert!(error.to_string().contains(expected), "{error}");
    let save = |blocks: &[u64], part| {
        let wanted = SaveChain { part, ..SaveChain::new(space, &names, blocks) };
        lent.save(&wanted).map(drop).expect_err("refused")
    };
    says(save(&[0], 0), "blocks is 1 numbers: there are 2 keys");
    says(save(&[0, 8], 0), "blocks[1] is 8: the memory was lent with 8 blocks");
    says(save(&[0, 1], 1), "blocks of this space have 1 parts");
    let load = |layer_ends: &[u32]| {
        let wanted = LoadChain { layer_ends, ..LoadChain::new(space, &names, &[0, 1]) };
        lent.load(&wanted).map(drop).expect_err("refused")
    };
    says(load(&[2, 2, 4]), "layer_ends[1] is 2: ends of ranges grow");
    says(load(&[2]), "the last one is the number of layers, 4");
    let (short, space) = (Block::chain("short", 1, 5000), digest(&world));
    store(&client, space, &short);
    says(
        lent.load(&LoadChain::new(space, &keys(&short), &[0])).map(drop).expect_err("refused"),
        "keys[0] is a block of 5000 bytes: the layout that was lent describes 16384",
    );
    let read_only = mine.lend(&reader(&world)).save(&SaveChain::new(space, &names, &[0, 1]));
    says(read_only.expect_err("refused"), "attached as a reader");
}

#[tokio::test]
async fn a_daemon_that_was_not_asked_to_opens_nobodys_memory() {
    let world = World::with(&[("hbm.device", "simulated")]).await;
    let mine = kv(1);
    let refused = writer(&world).import_gpu_memory(0, &mine.handles(None), &told(&mine.layout));
    assert!(refused.expect_err("refused").to_string().contains("set hbm.workers to true"));
}

#[tokio::test]
async fn a_connection_lends_and_loads_no_more_than_it_may_and_gets_it_back() {
    let mut world = gpu_world(&[]).await;
    let client = writer(&world);
    let (mine, chain) = (kv(1), Block::chain("bounds", 1, BYTES));
    store(&client, digest(&world), &chain);
    let mut all: Vec<_> = (0..16).map(|_| mine.lend(&client)).collect();
    let refused = client.import_gpu_memory(0, &mine.handles(None), &told(&mine.layout));
    assert!(matches!(refused, Err(ClientError::Exhausted { .. })), "{refused:?}");
    all.pop().expect("16").release().expect("answered");
    all.push(mine.lend(&client));
    // Loads nobody waits for.
    let (other, gate) = (kv(2), Gate::new());
    all.pop().expect("16").release().expect("answered");
    let gated = other.lend_gated(&client, &gate);
    let wanted = |lent: &GpuMemory| lent.load(&LoadChain::new(digest(&world), &keys(&chain), &[0])).expect("answered");
    let begun: Vec<_> = (0..64).map(|_| wanted(&gated)).collect();
    assert!(begun.iter().all(|loading| loading.refused.is_none()));
    let busy = wanted(&gated);
    assert!(matches!(&busy.refused, Some(NotMoved::Busy(why)) if why.contains("wait for the end")), "{busy:?}");
    gate.open();
    for loading in begun {
        assert_eq!(loading.finish().expect("answered"), Ok(()));
    }
    assert_eq!(wanted(&gated).finish().expect("answered"), Ok(()));
    drop((all, gated, busy, client));
    wait_until_nothing_moves(&mut world).await;
}

#[tokio::test]
async fn memory_that_is_lent_twice_is_reached_until_both_are_given_back() {
    let mut world = gpu_world(&[]).await;
    let (mine, client, other) = (kv(1), writer(&world), writer(&world));
    let chain = Block::chain("both", 3, BYTES);
    store(&client, digest(&world), &chain);
    let (first, second) = (mine.lend(&client), mine.lend(&other));
    assert_eq!(load(&first, &world, &chain), Ok(()));
    first.release().expect("answered");
    let blocks: Vec<_> = chain.iter().zip(3..).map(|(block, number)| (number, &block.payload[..])).collect();
    let (right, names) = (mine.with(&blocks), keys(&chain));
    let loading = second.load(&LoadChain::new(digest(&world), &names, &[3, 4, 5])).expect("answered");
    assert_eq!(loading.finish().expect("answered"), Ok(()));
    assert!(mine.bytes() == right);
    drop((second, client, other));
    wait_until_nothing_moves(&mut world).await;
}

#[tokio::test]
async fn what_was_lent_is_lost_with_its_connection_and_lent_again() {
    let mut world = gpu_world(&[]).await;
    let (layout, sizes) = hnd(4);
    let (mine, client) = (Kv::new(layout, sizes, 1), writer(&world));
    let lent = mine.lend(&client);
    let names = keys(&Block::chain("again", 2, BYTES));
    world = world.crash_and_restart().await;
    wait_for_gpu(&mut world).await;
    let save = |lent: &GpuMemory| lent.save(&SaveChain::new(digest(&world), &names, &[0, 1]));
    // The first call meets the broken connection, the next one what came after it.
    assert!(save(&lent).is_err());
    let lost = save(&lent).expect_err("another connection").to_string();
    assert!(lost.contains("lend it again"), "{lost}");
    assert!(save(&mine.lend(&client)).expect("answered").is_ok());
}
