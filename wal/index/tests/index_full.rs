//! A full disk: refused as `Full`, nothing lost, resumed by itself; other failed writes stop the index until a restart.
#![allow(clippy::unwrap_used, reason = "a test that fails stops")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use futures::executor::block_on;
use kvtier_engine::port::{Index, IndexError};
use kvtier_index::{IndexSettings, RocksIndex};
use support::{Model, Puppet};

#[test]
#[ignore = "not a test: the child process of the others"]
fn puppet() {
    support::puppet_main(IndexSettings { free_bytes_min: 0, ..support::small_buffers() });
}

#[test]
fn a_disk_with_too_little_room_refuses_batches_and_keeps_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let index = RocksIndex::open(directory.path(), support::settings()).unwrap();
    block_on(index.apply(support::batch(1), 1)).unwrap();
    drop(index);
    // No disk has this much: as if nearly all of it were taken.
    let short = IndexSettings { free_bytes_min: 1 << 40, ..support::settings() };
    let index = RocksIndex::open(directory.path(), short).unwrap();
    let refused = block_on(index.apply(support::batch(2), 2));
    assert!(matches!(&refused, Err(IndexError::Full(what)) if what.contains("bytes are free")), "{refused:?}");
    assert_eq!(index.applied(), 1);
    assert_eq!(block_on(index.flush()), Ok(1), "what was applied may still be flushed");
    assert_eq!(Model::of(&*index).unwrap(), Model::after(1), "and read");
    drop(index);
    let index = RocksIndex::open(directory.path(), support::settings()).unwrap();
    assert_eq!(block_on(index.apply(support::batch(2), 2)), Ok(()), "the same batch, now that there is room");
    assert_eq!(Model::of(&*index).unwrap(), Model::after(2));
}

/// How this machine lets a test mount a file system that vanishes with the child, if it does.
fn mount_namespace() -> Option<Vec<&'static str>> {
    let ways = [vec!["unshare", "--mount"], vec!["unshare", "--mount", "--user", "--map-root-user"]];
    ways.into_iter().find(|way| {
        let probe = "mount -t tmpfs -o size=1m tmpfs /mnt";
        let mut command = Command::new(way[0]);
        command.args(&way[1..]).args(["sh", "-c", probe]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// Asks until the answer is `wanted`. RocksDB looks for room every five seconds and tells nobody when it has found some.
fn ask_until(puppet: &mut Puppet, line: &str, wanted: &str) {
    let (_never, tick) = channel::<()>();
    for _ in 0..600 {
        let answer = puppet.ask(line);
        if answer == wanted {
            return;
        }
        assert!(answer.contains("Full("), "{answer}");
        assert_eq!(tick.recv_timeout(Duration::from_millis(100)), Err(RecvTimeoutError::Timeout));
    }
    panic!("the index did not resume within a minute");
}

/// The real thing: a file system of 2 MiB, RocksDB's own "no space", and its own way back. Where mounting is forbidden
/// the three other tests of this file still show what the index does with the errors.
#[test]
fn a_full_disk_refuses_and_resumes_by_itself() {
    let Some(way) = mount_namespace() else {
        eprintln!("this machine does not allow a test to mount a file system");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=2m tmpfs {} && exec \"$0\" \"$@\"", directory.path().display());
    let wrapper: Vec<&str> = way.into_iter().chain(["sh", "-c", &mount]).collect();
    let mut puppet = Puppet::start(&wrapper, "puppet", directory.path());
    assert_eq!(puppet.answer().unwrap(), "open 0");
    assert_eq!(puppet.ask("apply 1"), "apply Ok(())");
    assert_eq!(puppet.ask("flush"), "flush Ok(1)");
    assert_eq!(puppet.ask("ballast"), "ballast StorageFull");
    let mut applied = 1;
    let refused = loop {
        let answer = puppet.ask(&format!("apply {}", applied + 1));
        if answer != "apply Ok(())" {
            break answer;
        }
        applied += 1;
        assert!(applied < 10_000, "the file system never filled");
    };
    assert!(refused.starts_with("apply Err(Full("), "{refused}");
    assert!(puppet.ask("flush").starts_with("flush Err(Full("), "a flush has no room either");
    assert_eq!(puppet.ask("applied"), format!("applied {applied}"));
    assert_eq!(puppet.ask("check"), format!("check {applied} true"), "everything applied can be read");
    assert_eq!(puppet.ask("unload"), "unload Ok(())");
    ask_until(&mut puppet, &format!("apply {}", applied + 1), "apply Ok(())");
    applied += 1;
    ask_until(&mut puppet, "flush", &format!("flush Ok({applied})"));
    assert_eq!(puppet.ask("check"), format!("check {applied} true"), "and nothing was lost on the way");
    assert_eq!(puppet.ask("ballast"), "ballast StorageFull");
    let refused = puppet.ask("reopen");
    assert!(refused.starts_with("open Full("), "opening needs some room too: {refused}");
    assert_eq!(puppet.ask("unload"), "unload Ok(())");
    assert_eq!(puppet.ask("reopen"), format!("open {applied}"));
    assert_eq!(puppet.ask("check"), format!("check {applied} true"));
    puppet.kill();
}

/// A limit on file sizes fails writes with another error than "no space". After that RocksDB takes no writes until it is
/// opened again (INV-7): the index says so, keeps answering reads, and opens at its last durable state.
#[test]
fn a_write_that_fails_stops_batches_until_a_restart_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let limited = "trap '' XFSZ; ulimit -f 96; exec \"$0\" \"$@\"";
    let mut puppet = Puppet::start(&["sh", "-c", limited], "puppet", directory.path());
    assert_eq!(puppet.answer().unwrap(), "open 0");
    let mut applied = 0;
    let refused = loop {
        let answer = puppet.ask(&format!("apply {}", applied + 1));
        if answer != "apply Ok(())" {
            break answer;
        }
        applied += 1;
        assert!(applied < 20_000, "no file ever became too large");
    };
    assert!(refused.starts_with("apply Err(Unavailable("), "{refused}");
    assert!(refused.contains("restart"), "{refused}");
    assert!(puppet.ask("flush").starts_with("flush Err(Unavailable("));
    assert_eq!(puppet.ask("check"), format!("check {applied} true"));
    puppet.kill();
    check_reopened(directory.path(), applied);
}

fn check_reopened(directory: &Path, applied: u64) {
    let index = RocksIndex::open(directory, support::settings()).unwrap();
    let covered = index.applied();
    assert!(covered <= applied);
    assert_eq!(Model::of(&*index).unwrap(), Model::after(covered));
    block_on(index.apply(support::batch(covered + 1), covered + 1)).unwrap();
    assert_eq!(block_on(index.flush()), Ok(covered + 1));
}

#[test]
fn a_directory_that_cannot_be_written_is_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "in the way").unwrap();
    let refused = RocksIndex::open(&path, support::settings()).err().expect("a file is no directory");
    assert!(matches!(&refused, IndexError::Unavailable(what) if what.contains(path.to_str().unwrap())), "{refused}");
}
