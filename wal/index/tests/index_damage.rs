//! Flipped bits and cut files: an error that names the directory and the remedy, or the truth; never anything else.
#![allow(clippy::unwrap_used, reason = "a test that fails stops")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::executor::block_on;
use kvtier_engine::port::{Index, IndexError};
use kvtier_index::{RocksIndex, inspect};
use proptest::prelude::*;
use support::Model;
use tempfile::TempDir;

const BATCH_COUNT: u64 = 60;

/// A copy of a closed index, damaged.
fn damaged_copy(source: &Path, damage: impl FnOnce(&Path)) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in files(source, "") {
        fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    damage(copy.path());
    copy
}

/// An index of two flushes, closed.
fn source() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let index = RocksIndex::open(directory.path(), support::settings()).unwrap();
    for number in 1..=BATCH_COUNT {
        block_on(index.apply(support::batch(number), number)).unwrap();
        if number % 30 == 0 {
            block_on(index.flush()).unwrap();
        }
    }
    directory
}

fn files(directory: &Path, kind: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().contains(kind))
        .collect();
    files.sort();
    files
}

/// What a reader of a damaged index is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Everything, as it was.
    Truth,
    /// The state after fewer, whole batches: the end of the manifest looks like one that was never written.
    Earlier,
    Corrupt,
    /// The manifest's own version numbers look newer than this build.
    Newer,
}

fn read(path: &Path) -> Told {
    let outcome = RocksIndex::open(path, support::settings()).and_then(|index: Arc<RocksIndex>| Model::of(&*index));
    match outcome {
        Ok(found) if found == Model::after(BATCH_COUNT) => Told::Truth,
        Ok(found) => {
            assert_eq!(found, Model::after(found.covered), "a state that never was");
            Told::Earlier
        }
        Err(IndexError::Corrupt(what)) => {
            assert!(what.contains(path.to_str().unwrap()) && what.contains("kvtier fsck --repair"), "{what}");
            Told::Corrupt
        }
        Err(IndexError::Unavailable(what)) if what.contains("newer kvtier") => Told::Newer,
        Err(error) => panic!("not what damage is called: {error}"),
    }
}

/// Flips one bit in every `step`-th byte of every file of a kind; returns what each reader was told.
///
/// Run once with every byte of `CURRENT` and the manifest, every second byte of the tables, and 1,500 cases of each
/// property below: no other answer, no hang.
fn flip(kind: &str, step: usize) -> Vec<Told> {
    let source = source();
    let mut told = Vec::new();
    for file in files(source.path(), kind) {
        let bytes = fs::read(&file).unwrap();
        for at in (0..bytes.len()).step_by(step) {
            let copy = damaged_copy(source.path(), |copy| {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                fs::write(copy.join(file.file_name().unwrap()), flipped).unwrap();
            });
            told.push(read(copy.path()));
        }
    }
    assert!(!told.is_empty(), "there are no files like {kind}");
    told
}

#[test]
fn a_flipped_bit_in_a_table_is_damage_or_does_no_harm() {
    let told = flip(".sst", 251);
    assert!(told.iter().all(|told| matches!(told, Told::Truth | Told::Corrupt)), "{told:?}");
    let found = told.iter().filter(|told| **told == Told::Corrupt).count();
    assert!(found * 2 > told.len(), "only {found} of {} were found", told.len());
}

#[test]
fn a_flipped_bit_in_the_manifest_is_damage_or_an_earlier_state() {
    let told = flip("MANIFEST", 13);
    let found = told.iter().filter(|told| **told == Told::Corrupt).count();
    assert!(found * 2 > told.len(), "only {found} of {} were found: {told:?}", told.len());
}

#[test]
fn a_flipped_bit_in_current_is_damage() {
    assert!(flip("CURRENT", 1).iter().all(|told| *told == Told::Corrupt));
}

#[test]
fn an_untouched_copy_is_the_truth() {
    let source = source();
    let copy = damaged_copy(source.path(), |_| ());
    assert_eq!(read(copy.path()), Told::Truth);
}

#[test]
fn an_inspection_reports_a_damaged_table_and_does_not_fail() {
    let source = source();
    let copy = damaged_copy(source.path(), |copy| {
        let table = files(copy, ".sst").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
        let mut bytes = fs::read(&table).unwrap();
        bytes[100] ^= 1;
        fs::write(table, bytes).unwrap();
    });
    let report = inspect(copy.path()).unwrap();
    assert!(!report.is_sound());
    assert_eq!(report.unreadable.len(), 1, "{report:?}");
}

fn configuration() -> ProptestConfig {
    ProptestConfig { cases: 24, max_shrink_iters: 50, ..ProptestConfig::default() }
}

#[test]
fn a_cut_file_is_damage_or_an_earlier_state() {
    let source = source();
    proptest!(configuration(), |(file: prop::sample::Index, cut: prop::sample::Index)| {
        let copy = damaged_copy(source.path(), |copy| {
            let mut files = files(copy, ".sst");
            files.extend(self::files(copy, "MANIFEST"));
            files.extend(self::files(copy, "CURRENT"));
            let file = file.get(&files);
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..cut.index(bytes.len())]).unwrap();
        });
        prop_assert_ne!(read(copy.path()), Told::Newer);
    });
}

#[test]
fn a_page_of_zeros_is_damage_or_an_earlier_state() {
    let source = source();
    proptest!(configuration(), |(file: prop::sample::Index, page: prop::sample::Index)| {
        let copy = damaged_copy(source.path(), |copy| {
            let mut files = files(copy, ".sst");
            files.extend(self::files(copy, "MANIFEST"));
            let file = file.get(&files);
            let mut bytes = fs::read(file).unwrap();
            let start = page.index(bytes.len().div_ceil(4096)) * 4096;
            let end = bytes.len().min(start + 4096);
            bytes[start..end].fill(0);
            fs::write(file, bytes).unwrap();
        });
        prop_assert_ne!(read(copy.path()), Told::Newer);
    });
}
