//! The process: its data directory, its settings, its exit codes.

use kvtier_tests::{Setup, World};

#[test]
fn a_second_daemon_on_the_same_data_directory_is_refused_and_the_first_goes_on() {
    let first = Setup::default().start();
    let second = first.setup().clone().and("listen.unix", "off").try_start().err().expect("it is refused");
    assert_eq!(second.code(), Some(1), "{second:?}");
    assert!(second.log.contains(&format!("in use by kvtierd with process id {}", first.pid())), "{second:?}");
    let (_, stopped) = first.stop();
    assert_eq!(stopped.code(), Some(0), "{stopped:?}");
}

#[tokio::test]
async fn a_daemon_killed_with_9_leaves_nothing_that_stops_the_next() {
    let mut world = World::new().await;
    for _ in 0..3 {
        world = world.crash_and_restart().await;
    }
    // It answers while its index fills, and says so until that is done.
    world.wire.status_until("recovery to end", |status| status.state == "serving").await;
}

#[test]
fn a_data_directory_of_a_newer_format_is_refused_untouched() {
    let (setup, _) = Setup::default().start().stop();
    let file = setup.data().join("FORMAT");
    let text = std::fs::read_to_string(&file).expect("a data directory has a format");
    let newer = text.replace('1', "999");
    assert_ne!(newer, text, "the version is in {text:?}");
    std::fs::write(&file, &newer).expect("the file can be written");
    let refused = setup.try_start().err().expect("it is refused");
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.log.contains("has format 999") && refused.log.contains("start a newer kvtierd"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&file).expect("it is still there"), newer);
}

#[test]
fn wrong_settings_are_all_told_at_once_with_exit_code_2() {
    let setup = Setup::with(&[
        ("host.bytes", "-4GiB"),
        ("nvme.bytes", "4 parsecs"),
        ("limits.part_deadline", "5"),
        ("nvme.queue_dept", "1"),
    ]);
    for command in [&["check-config"][..], &[]] {
        let output = setup.run(command);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        for needle in ["host.bytes", "nvme.bytes", "limits.part_deadline", "nvme.queue_depth", "4 problems"] {
            assert!(told.contains(needle), "{needle} in {told}");
        }
    }
    assert!(!setup.data().exists(), "nothing was made");
}

#[test]
fn a_cap_over_the_disks_free_space_is_refused_before_anything_is_made() {
    let setup = Setup::with(&[("nvme.bytes", "900TiB")]);
    let refused = setup.try_start().err().expect("it is refused");
    assert_eq!(refused.code(), Some(2), "{refused:?}");
    assert!(refused.log.contains("nvme.bytes") && refused.log.contains("free"), "{refused:?}");
    assert!(!setup.data().exists(), "nothing was made");
}

#[test]
fn a_missing_data_directory_that_was_named_is_refused_without_create() {
    let setup = Setup::default();
    let mut command = setup.command(&[]);
    let arguments: Vec<_> =
        command.get_args().filter(|argument| *argument != "--create").map(ToOwned::to_owned).collect();
    command = std::process::Command::new(command.get_program());
    let output = command.args(arguments).output().expect("kvtierd can be run");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("does not exist") && told.contains("--create"), "{told}");
}
