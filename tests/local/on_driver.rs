//! The tests with a GPU once more, on the stand-in for NVIDIA's driver; and what only a driver can do wrong. Nothing here says
//! anything about hardware.

use std::process::Command;

use kvtier_client::local::{Committed, GpuMemory, LoadChain, NotMoved, SaveChain};
use kvtier_proto::v1;
use kvtier_tests::block::keys;
use kvtier_tests::{Block, Setup, World, driver};

use super::hot::{BYTES, POOL, load, warm};
use super::lent::{Kv, ON_DRIVER, driver_setup, nhd, nhd_of, tier, told, wait_for_gpu};
use super::lent_faults::host_path_works;
use super::{digest, store, writer};

/// The modules whose daemons have a GPU.
const SUITES: [&str; 10] = [
    "moves::",
    "fresh::",
    "hot::",
    "hot_domains::",
    "hot_parts::",
    "pools::",
    "rotten::",
    "lent_faults::",
    "staging::",
    "why::",
];

/// Where the driver's function is to fail.
const FAULTS: &str = "KVTIER_DRIVER_FAULTS";

#[test]
fn what_holds_on_the_simulated_gpu_holds_on_the_driver() {
    let own = std::env::current_exe().expect("this binary");
    let output = Command::new(own).args(SUITES).env(ON_DRIVER, "1").output().expect("this binary runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("test moves::random_layouts_come_back_byte_for_byte ... ok"), "{said}");
}

fn kv() -> Kv {
    let (layout, sizes) = nhd(4);
    Kv::new(layout, sizes, 1)
}

async fn world(setup: Setup) -> World {
    let mut world = World::of(setup.start()).await;
    wait_for_gpu(&mut world).await;
    world
}

/// Why a load of the whole chain does not come.
fn lost(lent: &GpuMemory, world: &World, chain: &[Block]) -> String {
    let blocks: Vec<u64> = (0..chain.len() as u64).collect();
    let loading = lent.load(&LoadChain::new(digest(world), &keys(chain), &blocks)).expect("answered");
    match loading.refused.clone().map_or_else(|| loading.finish().expect("answered"), Err) {
        Err(NotMoved::GpuLost(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// The daemon ends well, whatever its GPU does; what it has logged.
fn stop(world: World) -> String {
    let (_, stopped) = world.daemon.stop();
    assert_eq!(stopped.code(), Some(0), "{stopped:?}");
    stopped.log
}

#[tokio::test]
async fn a_daemon_leaves_nothing_in_its_context() {
    let mut world = world(driver_setup(POOL)).await;
    let client = writer(&world);
    let (kv, chain) = (kv(), Block::chain("tidy", 3, BYTES));
    let lent = kv.lend(&client);
    store(&client, digest(&world), &chain);
    warm(&kv, &lent, &mut world, &chain, 3).await;
    assert_eq!(load(&kv, &lent, &world, &chain), 3);
    let saved = lent.save(&SaveChain::new(digest(&world), &keys(&Block::chain("saved", 2, BYTES)), &[3, 4]));
    assert!(saved.expect("answered").expect("moved").iter().all(|one| matches!(one, Committed::Stored { .. })));
    // The worker is still there when the daemon ends.
    let log = stop(world);
    assert!(log.contains("the context of GPU 0 has ended, nothing is left"), "{log}");
    drop((lent, client));
}

#[tokio::test]
async fn an_error_of_the_device_poisons_its_gpu_and_no_other() {
    // When its turn comes; when it is launched; when its end is waited for.
    for (fault, name) in [
        ("work:1=719", "CUDA_ERROR_LAUNCH_FAILED"),
        ("cuLaunchKernel:1=214!", "CUDA_ERROR_ECC_UNCORRECTABLE"),
        ("cuEventSynchronize:1=999!", "CUDA_ERROR_UNKNOWN"),
    ] {
        let two = driver_setup(&[]).with_variable(FAULTS, fault).with_variable("KVTIER_DRIVER_DEVICES", "2");
        let mut world = world(two).await;
        let client = writer(&world);
        let chain = Block::chain("lost", 3, BYTES);
        store(&client, digest(&world), &chain);
        let (mine, other) = (kv(), kv());
        let lent = mine.lend(&client);
        let why = lost(&lent, &world, &chain);
        assert!(why.contains(name), "{fault}: {why}");
        assert!(lost(&lent, &world, &chain).contains(name), "nothing reaches a lost GPU");
        let poisoned = |status: &v1::StatusResponse| tier(status).detail.contains("poisoned");
        let status = world.wire.status_until("a poisoned GPU", poisoned).await;
        let detail = &tier(&status).detail;
        assert!(detail.contains(name) && detail.contains("restart the daemon"), "{detail}");
        let layout = super::lent::told(&other.layout);
        let second = client.import_gpu_memory(1, &other.handles(None), &layout).expect("GPU 1 is as it was");
        load(&other, &second, &world, &chain);
        host_path_works(&world, "after");
        drop((lent, second, client));
        stop(world);
    }
}

#[tokio::test]
async fn a_call_that_is_refused_fails_one_load_and_the_next_one_comes() {
    // Of 1 MiB in runs of 128 KiB, or of 16 KiB by the kernel; a batch that is refused is not taken for copies that are.
    for (fault, heads) in [
        ("cuMemcpyBatchAsync:1=801,cuMemcpyAsync:5=1", 256),
        ("cuLaunchKernel:1=1", 4),
        ("cuEventCreate:1=2", 4),
        ("cuEventRecord:1=400", 256),
    ] {
        let mut world = world(driver_setup(&[]).with_variable(FAULTS, fault)).await;
        let client = writer(&world);
        let (layout, sizes) = nhd_of(heads, 8);
        let kv = Kv::new(layout, sizes, 1);
        let lent = kv.lend(&client);
        let chain = Block::chain("refused", 3, kv.layout.block_bytes() as usize);
        store(&client, digest(&world), &chain);
        let loading = lent.load(&LoadChain::new(digest(&world), &keys(&chain), &[0, 1, 2])).expect("answered");
        let failed = loading.finish().expect("answered");
        assert!(matches!(&failed, Err(NotMoved::Failed(why)) if why.contains("cu")), "{fault}: {failed:?}");
        load(&kv, &lent, &world, &chain);
        let status = world.wire.status_until("a GPU", |status| tier(status).state != "absent").await;
        assert!(!tier(&status).detail.contains("poisoned"), "{fault}: {:?}", tier(&status));
        drop((lent, client));
        stop(world);
    }
}

#[tokio::test]
async fn a_stream_that_hangs_is_noticed_and_the_daemon_serves_on_and_ends() {
    let hangs = driver_setup(&[("hbm.hang_timeout", "200ms")]).with_variable("KVTIER_DRIVER_HANG", "0:2");
    let mut world = world(hangs).await;
    let client = writer(&world);
    let (kv, chain) = (kv(), Block::chain("hung", 3, BYTES));
    let lent = kv.lend(&client);
    store(&client, digest(&world), &chain);
    load(&kv, &lent, &world, &chain);
    let why = lost(&lent, &world, &chain);
    assert!(why.contains("does not answer") && why.contains("load-in"), "{why}");
    let status = world.wire.status_until("a poisoned GPU", |status| tier(status).state == "poisoned").await;
    assert!(tier(&status).detail.contains("restart the daemon"), "{:?}", tier(&status));
    host_path_works(&world, "meanwhile");
    drop((lent, client));
    stop(world);
}

#[tokio::test]
async fn a_driver_that_hangs_while_gpus_are_opened_is_told_and_the_daemon_serves_on_and_ends() {
    // It measures on the first stream before it is open.
    let hangs = driver_setup(&[("hbm.hang_timeout", "100ms"), ("hbm.copied_from", "0B")]);
    let mut world = World::of(hangs.with_variable("KVTIER_DRIVER_HANG", "0:1").start()).await;
    let is_told = |alarm: &String| alarm.starts_with("hbm_left_out: the GPUs are not open after");
    let status = world.wire.status_until("the alarm", |status| status.alarms.iter().any(is_told)).await;
    assert_eq!((&*tier(&status).state, &*status.state), ("absent", "degraded"));
    assert!(tier(&status).detail.contains("may hang"), "{:?}", tier(&status));
    let (client, kv) = (writer(&world), kv());
    let refused = client.import_gpu_memory(0, &kv.handles(None), &told(&kv.layout)).expect_err("it is not open");
    assert!(refused.to_string().contains("may hang"), "{refused}");
    host_path_works(&world, "meanwhile");
    drop(client);
    stop(world);
}

#[tokio::test]
async fn a_driver_that_refuses_a_batch_gets_copies_one_by_one() {
    let refuses = driver_setup(&[]).with_variable(FAULTS, "cuMemcpyBatchAsync:1=801");
    let world = world(refuses).await;
    let client = writer(&world);
    // Runs of 128 KiB: copies, not the kernel.
    let (layout, sizes) = nhd_of(256, 4);
    let kv = Kv::new(layout, sizes, 1);
    let lent = kv.lend(&client);
    let chain = Block::chain("batches", 2, 1 << 20);
    store(&client, digest(&world), &chain);
    load(&kv, &lent, &world, &chain);
    load(&kv, &lent, &world, &chain);
    drop((lent, client));
    let log = stop(world);
    assert_eq!(log.matches("the driver takes no batches of copies").count(), 1, "{log}");
}

/// What `status` says of the tier of a daemon whose GPU cannot be had, which does everything else.
async fn absent(setup: Setup) -> String {
    let mut world = World::of(setup.start()).await;
    let found = |status: &v1::StatusResponse| tier(status).detail != "still opening";
    let status = world.wire.status_until("an answer", found).await;
    assert_eq!((tier(&status).state.as_str(), tier(&status).capacity_bytes), ("absent", 0), "{:?}", tier(&status));
    let refused = writer(&world).import_gpu_memory(0, &kv().handles(None), &super::lent::told(&kv().layout));
    assert!(refused.expect_err("there is none").to_string().contains(&tier(&status).detail));
    host_path_works(&world, "without");
    let detail = tier(&status).detail.clone();
    stop(world);
    detail
}

#[tokio::test]
async fn a_gpu_that_cannot_be_had_is_absent_with_the_reason_and_the_daemon_does_everything_else() {
    let lacking = driver::variant(&["-DcuIpcOpenMemHandle_v2=absent"]);
    let setup = || driver_setup(&[("hbm.bytes", "64MiB")]);
    let failing = |fault: &str| setup().with_variable(FAULTS, fault);
    for (setup, expected) in [
        (
            setup().with_variable("LD_LIBRARY_PATH", lacking.to_string_lossy()),
            "the NVIDIA driver lacks cuIpcOpenMemHandle_v2; it is too old, 530 or newer is needed",
        ),
        (setup().with_variable("KVTIER_DRIVER_DEVICES", "0"), "the NVIDIA driver finds no GPU"),
        (setup().with_variable("KVTIER_DRIVER_VERSION", "12000"), "install 530 or newer"),
        (
            failing("cuInit:1=803+"),
            "the NVIDIA driver does not start: cuInit failed: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        ),
        (
            setup().with_variable("KVTIER_DRIVER_BYTES", "33554432"),
            "67108864 bytes of GPU memory cannot be had: CUDA_ERROR_OUT_OF_MEMORY; ask for less, or free some",
        ),
        (failing("cuMemHostRegister_v2:1=304"), "cuMemHostRegister failed: CUDA_ERROR_OPERATING_SYSTEM"),
        (failing("cuMemHostAlloc:1=2"), "cuMemHostAlloc failed: CUDA_ERROR_OUT_OF_MEMORY"),
        (failing("cuModuleLoadData:1=218"), "cuModuleLoadData failed: CUDA_ERROR_INVALID_PTX"),
        (failing("cuDevicePrimaryCtxRetain:1=46"), "cuDevicePrimaryCtxRetain: CUDA_ERROR_DEVICE_UNAVAILABLE"),
    ] {
        let detail = absent(setup).await;
        assert!(detail.contains(expected), "{detail:?} does not say {expected:?}");
    }
}

#[tokio::test]
async fn a_gpu_without_room_is_left_out_and_the_others_serve() {
    // The pool of the first GPU; its tables have been taken before.
    let fault = "cuMemAlloc_v2:3=2";
    let two = driver_setup(POOL).with_variable(FAULTS, fault).with_variable("KVTIER_DRIVER_DEVICES", "2");
    let mut world = world(two).await;
    let status = world.wire.status_until("a GPU", |status| tier(status).state == "up").await;
    let detail = &tier(&status).detail;
    assert!(detail.contains("GPU-00000000-0000-0000-0000-000000000002") && !detail.contains("00000001"), "{detail}");
    assert!(detail.contains("GPU 0 cannot be used: 1048576 bytes of GPU memory cannot be had"), "{detail}");
    let alarm = status.alarms.iter().find(|alarm| alarm.starts_with("hbm_left_out: GPU 0 cannot be used"));
    assert!(alarm.is_some(), "{:?}", status.alarms);
    let client = writer(&world);
    let (kv, chain) = (kv(), Block::chain("second", 3, BYTES));
    store(&client, digest(&world), &chain);
    let (uuid, layout) = ("GPU-00000000-0000-0000-0000-000000000002", super::lent::told(&kv.layout));
    let lent = client.import_gpu_memory(uuid, &kv.handles(None), &layout).expect("that GPU");
    load(&kv, &lent, &world, &chain);
    let first = client.import_gpu_memory("GPU-00000000-0000-0000-0000-000000000001", &kv.handles(None), &layout);
    assert!(first.expect_err("left out").to_string().contains("the daemon has GPU-"));
    drop((lent, client));
    stop(world);
}

#[tokio::test]
async fn memory_that_cannot_be_opened_is_refused_with_the_reason_and_the_gpu_goes_on() {
    let mut world = world(driver_setup(&[])).await;
    let client = writer(&world);
    let kv = kv();
    let layout = super::lent::told(&kv.layout);
    let import = |handles: &[[u8; 64]]| client.import_gpu_memory(0, handles, &layout).map(drop);
    let changed = |at: usize, word: u32| {
        let mut handles = kv.handles(None);
        handles[0][at..at + 4].copy_from_slice(&word.to_le_bytes());
        import(&handles).expect_err("refused").to_string()
    };
    // As it is answered to a process of another PID namespace.
    let own = changed(0, world.daemon.endpoints().pid);
    assert!(own.contains("CUDA_ERROR_INVALID_CONTEXT; is its process alive") && own.contains("PID namespace"), "{own}");
    // On the second GPU, by its exporter's word.
    let elsewhere = changed(20, 2);
    assert!(elsewhere.contains("the memory is on GPU 1, not on GPU 0"), "{elsewhere}");
    let status = world.wire.status_until("a GPU", |status| tier(status).state == "up").await;
    assert!(!tier(&status).detail.contains("poisoned"), "{:?}", tier(&status));
    import(&kv.handles(None)).expect("as it was");
    drop(client);
    stop(world);
}

#[tokio::test]
async fn a_daemon_measures_which_way_is_faster_and_works_with_it() {
    let mut world = world(driver_setup(&[("hbm.copied_from", "0B")])).await;
    let client = writer(&world);
    let (kv, chain) = (kv(), Block::chain("measured", 3, BYTES));
    store(&client, digest(&world), &chain);
    world.wire.status_until("a GPU", |status| tier(status).state == "up").await;
    let lent = kv.lend(&client);
    load(&kv, &lent, &world, &chain);
    drop((lent, client));
    let log = stop(world);
    assert!(log.contains("go through the copy engines"), "{log}");
    assert!(log.contains("the context of GPU 0 has ended, nothing is left"), "{log}");
}
