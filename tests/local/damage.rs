//! Bytes of a block that change where the daemon keeps them, as failing memory would change them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;

use kvtier_tests::World;

/// Which byte of a payload changes.
const BYTE: u64 = 100;
/// Read at once.
const CHUNK: usize = 1 << 20;

/// Changes a byte of the payload in the host arena; fails unless it is there once.
#[track_caller]
pub fn host_copy(world: &World, payload: &[u8]) {
    let process = world.daemon.endpoints().pid;
    let mut found = 0;
    for entry in std::fs::read_dir(format!("/proc/{process}/fd")).expect("our daemon") {
        let path = entry.expect("listed").path();
        // Descriptors come and go.
        let Ok(target) = std::fs::read_link(&path) else { continue };
        if target.to_string_lossy().starts_with("/memfd:kvtier-host") {
            let file = File::options().read(true).write(true).open(&path).expect("an arena");
            let bytes = file.metadata().expect("its size").len();
            found += flip(&file, 0..bytes, payload);
        }
    }
    assert_eq!(found, 1, "the payload is in host memory once");
}

/// Changes a byte of every copy of the payload in the daemon's own memory, or in what the driver's stand-in has for device
/// memory: there is what its GPU has.
#[track_caller]
pub fn pool_copy(world: &World, payload: &[u8]) {
    let process = world.daemon.endpoints().pid;
    let memory = File::options().read(true).write(true).open(format!("/proc/{process}/mem")).expect("our daemon");
    let maps = File::open(format!("/proc/{process}/maps")).expect("our daemon");
    let mut found = 0;
    for line in BufReader::new(maps).lines() {
        let line = line.expect("read");
        let words: Vec<&str> = line.split_whitespace().collect();
        // Private, and of no file.
        let of_simulated = words[1] == "rw-p" && words[4] == "0";
        let of_driver = words[1] == "rw-s" && words.get(5).is_some_and(|file| file.starts_with("/memfd:kvtier-device"));
        if !of_simulated && !of_driver {
            continue;
        }
        let (from, to) = words[0].split_once('-').expect("a range");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        found += flip(&memory, address(from)..address(to), payload);
    }
    assert!(found >= 1, "the payload is in the daemon's memory");
}

/// Changes a byte of each copy of the payload in a range; how many there were.
fn flip(file: &File, range: std::ops::Range<u64>, payload: &[u8]) -> usize {
    let (mut at, mut found) = (range.start, 0);
    let mut chunk = vec![0; CHUNK + payload.len()];
    while at < range.end {
        let wanted = chunk.len().min((range.end - at) as usize);
        // What cannot be read is no block.
        let read = file.read_at(&mut chunk[..wanted], at).unwrap_or(0);
        let mut from = 0;
        while let Some(next) = find(&chunk[from..read], payload) {
            let place = at + (from + next) as u64 + BYTE;
            file.write_all_at(&[payload[BYTE as usize] ^ 1], place).expect("written");
            found += 1;
            from += next + payload.len();
            chunk[from - payload.len() + BYTE as usize] ^= 1;
        }
        at += CHUNK as u64;
    }
    found
}

fn find(bytes: &[u8], payload: &[u8]) -> Option<usize> {
    let (head, last) = (&payload[..16], bytes.len().checked_sub(payload.len())?);
    (0..=last).step_by(8).find(|at| bytes[*at..*at + 16] == *head && bytes[*at..*at + payload.len()] == *payload)
}
