//! The real code path, `kvtier_hbm::cuda`, on the stand-in for NVIDIA's driver: the bundle's own harness runs on it, and what the
//! stand-in does not allow is shown first. Nothing here says anything about hardware.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use kvtier_tests::{binary, driver};

const ABORTED: Option<i32> = Some(6);
const SEGFAULT: Option<i32> = Some(11);

/// The harness of the bundle on that library, with these variables.
fn bench(library: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut command = Command::new(binary::bench());
    command.arg("gpu").args(arguments).arg("--folder").arg(folder.path()).arg("--out").arg(folder.path());
    command.env("LD_LIBRARY_PATH", library).envs(variables.iter().copied());
    let (output, said) = run(command);
    (output.status.code(), said)
}

fn run(mut command: Command) -> (Output, String) {
    let output = command.output().expect("it runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, said)
}

#[test]
fn the_driver_path_passes_every_check_of_the_bundle_and_leaves_nothing_behind() {
    let seeds = [("1", "12080"), ("2", "12080"), ("3", "12040")];
    for (seed, version) in seeds {
        let variables =
            [("KVTIER_DRIVER_SEED", seed), ("KVTIER_DRIVER_VERSION", version), ("KVTIER_DRIVER_LEAKS", "abort")];
        let (code, said) = bench(&driver::stand_in(), &["--no-figures", "--seed", seed], &variables);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("ok     a_worker_killed_mid_copy_harms_nobody"), "{said}");
        assert!(said.contains(", 0 failed") && said.contains("nothing was verified on hardware"), "{said}");
        assert!(said.contains("has ended, nothing is left"), "{said}");
    }
}

#[test]
fn kernels_that_are_wrong_by_a_bit_fail_the_checks() {
    let (code, said) = bench(&driver::variant(&["-DPLANT_WRONG_BYTE"]), &["--checks-only"], &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAILED twenty_random_layouts_move_byte_for_byte"), "{said}");
}

#[test]
fn a_driver_that_refuses_batches_gets_copies_one_by_one() {
    let refuses = [("KVTIER_DRIVER_FAULTS", "cuMemcpyBatchAsync:1=801"), ("KVTIER_DRIVER_LEAKS", "abort")];
    let (code, said) = bench(&driver::stand_in(), &["--checks-only"], &refuses);
    assert_eq!(code, Some(0), "{said}");
    let lacks = driver::variant(&["-DcuMemcpyBatchAsync=absent"]);
    let (code, said) = bench(&lacks, &["--checks-only"], &[("KVTIER_DRIVER_LEAKS", "abort")]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_gpu_that_cannot_be_had_is_absent_and_the_reason_names_the_thing() {
    let absent = |library: &Path, variables: &[(&str, &str)], expected: &str| {
        let (code, said) = bench(library, &["--checks-only"], variables);
        assert!(code == Some(4) && said.contains(expected), "{code:?}, not {expected:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    };
    let here = driver::stand_in();
    let lacks = driver::variant(&["-DcuIpcOpenMemHandle_v2=absent"]);
    absent(&lacks, &[], "the NVIDIA driver lacks cuIpcOpenMemHandle_v2; it is too old, 530 or newer is needed");
    absent(&here, &[("KVTIER_DRIVER_DEVICES", "0")], "the NVIDIA driver finds no GPU");
    let old = "the NVIDIA driver knows CUDA 12.0, and 12.1 is needed: install 530 or newer";
    absent(&here, &[("KVTIER_DRIVER_VERSION", "12000")], old);
    let mismatch = [("KVTIER_DRIVER_FAULTS", "cuInit:1=803+")];
    absent(&here, &mismatch, "does not start: cuInit failed: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH");
}

/// What fails is told of, and not what becomes of it here: the stand-in ends a process that lets go of what the device uses.
#[test]
fn whatever_call_fails_nothing_is_let_go_of_under_the_device() {
    for fault in [
        "cuStreamCreateWithPriority:3=2",
        "cuModuleGetFunction:4=500",
        "cuMemAlloc_v2:2=2",
        "cuMemHostAlloc:2=2+",
        "cuMemcpyAsync:7=1+",
        "cuMemcpyBatchAsync:3=700!",
        "cuLaunchKernel:4=2+",
        "cuMemsetD8Async:2=719!",
        "cuEventCreate:3=2+",
        "cuEventSynchronize:3=2+",
        "cuCtxSynchronize:1=999!",
        "cuCtxSetCurrent:200=709",
        "work:50=700",
    ] {
        let (code, said) = bench(&driver::stand_in(), &["--checks-only"], &[("KVTIER_DRIVER_FAULTS", fault)]);
        assert!(matches!(code, Some(0 | 1 | 4)), "{fault}: {code:?}: {said}");
    }
}

/// The program that does what is not allowed.
fn misuse(name: &str, variables: &[(&str, &str)]) -> (Output, String) {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let program = MADE.get_or_init(|| {
        // Beside the stand-in, where the next run finds room for its own.
        let program = driver::stand_in().with_file_name("misuse");
        let part = program.with_extension(std::process::id().to_string());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("hbm/driver/misuse.cc");
        let made =
            Command::new("g++").args(["-std=c++20", "-pthread", "-o"]).arg(&part).arg(source).arg("-ldl").output();
        let made = made.expect("g++ is there; make setup installs it");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::rename(&part, &program).expect("it lies in the same folder");
        program
    });
    let mut command = Command::new(program);
    let ptx = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tiers/hbm/kernels/kernels.ptx");
    command.arg(name).env("LD_LIBRARY_PATH", driver::stand_in()).env("PTX", ptx).envs(variables.iter().copied());
    run(command)
}

#[test]
fn the_stand_in_refuses_what_the_driver_refuses() {
    for (name, code) in [
        ("before_init", 3),
        ("without_context", 201),
        ("allocate_too_much", 2),
        ("register_twice", 712),
        ("unregister_unknown", 713),
        ("register_unmapped", 1),
        ("copy_past_the_end", 1),
        ("copy_from_pageable_memory", 1),
        ("copy_from_freed_memory", 1),
        ("batch_past_the_end", 1),
        ("use_a_dead_context", 709),
        ("open_what_is_ones_own", 201),
        ("load_what_is_no_ptx", 200),
        ("kernel_on_what_is_there", 0),
        ("kernel_past_the_end", 700),
        ("kernel_on_what_is_not_aligned", 716),
        ("a_lost_context_stays_lost", 700),
        ("unmap_what_is_registered_and_copied", 700),
    ] {
        let (output, said) = misuse(name, &[]);
        assert!(output.status.success() && said.contains(&format!("answered {code}\n")), "{name}: {said}");
    }
}

#[test]
fn the_stand_in_ends_a_process_that_does_what_the_driver_leaves_undefined() {
    for (name, told) in [
        ("free_in_use", "cuMemFree of 1048576 bytes of device memory at"),
        ("unpin_in_use", "while cuMemcpyAsync uses it"),
        ("unregister_in_use", "cuMemHostUnregister of 1048576 bytes of registered memory"),
        ("destroy_a_busy_stream", "while work is under way"),
        ("destroy_a_pending_event", "an event that was not reached"),
        ("release_with_work_under_way", "while work is under way"),
        ("leave_memory_behind", "left behind: 1048576 bytes of device memory"),
        ("copy_over_itself", "ranges that overlap"),
        ("batch_that_overlaps", "touch the same bytes"),
        ("race", "cuMemcpyAsync on stream 1 touches bytes of cuMemcpyAsync on stream 0, and one of them writes"),
    ] {
        let strict = [("KVTIER_DRIVER_LEAKS", "abort"), ("KVTIER_DRIVER_RACES", "abort")];
        let (output, said) = misuse(name, &[[("KVTIER_DRIVER_HANG", "0:0")].as_slice(), &strict].concat());
        assert_eq!(output.status.signal(), ABORTED, "{name}: {said}");
        assert!(said.contains("kvtier driver stand-in: ") && said.contains(told), "{name}: {said}");
    }
    let (output, said) = misuse("touch_device_memory_from_the_cpu", &[]);
    assert_eq!(output.status.signal(), SEGFAULT, "{said}");
}
