//! What opening refuses, and what fsck and rebuild do about it.
#![allow(clippy::unwrap_used, reason = "a test that fails stops")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use kvtier_engine::place::Slot;
use kvtier_engine::port::{Index, IndexChange, IndexError};
use kvtier_identity::BlockId;
use kvtier_index::conformance::{sample_entry, sample_space};
use kvtier_index::{Contents, IndexSettings, RocksIndex, codec, columns, inspect, rebuild};
use rocksdb::{ColumnFamilyDescriptor, DB, Options};
use support::{Model, Puppet};
use tempfile::TempDir;

#[test]
#[ignore = "not a test: the child process of the others"]
fn puppet() {
    support::puppet_main(support::settings());
}

/// An index with the first `batch_count` batches, flushed and closed.
fn built(batch_count: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).unwrap();
    for number in 1..=batch_count {
        block_on(index.apply(support::batch(number), number)).unwrap();
    }
    block_on(index.flush()).unwrap();
    directory
}

fn open(path: &Path) -> Result<Arc<RocksIndex>, IndexError> {
    RocksIndex::open(path, support::settings())
}

fn error(path: &Path, settings: IndexSettings) -> IndexError {
    RocksIndex::open(path, settings).err().expect("opening is refused")
}

/// The raw database of a closed index, to do to it what no kvtier of today does.
fn raw(path: &Path, change: impl FnOnce(&DB)) {
    let names = columns::ALL.map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let db = DB::open_cf_descriptors(&Options::default(), path, names).unwrap();
    change(&db);
    db.flush().unwrap();
}

fn put_raw(path: &Path, column: &str, key: &[u8], payload: &[u8]) {
    let mut value = payload.to_vec();
    codec::seal(key, &mut value);
    raw(path, |db| db.put_cf(db.cf_handle(column).unwrap(), key, value).unwrap());
}

#[test]
fn a_new_directory_becomes_an_empty_index() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("not/there/yet");
    assert_eq!(open(&path).unwrap().applied(), 0);
    assert_eq!(open(&path).unwrap().status().applied, 0);
}

#[test]
fn the_status_counts_what_is_there() {
    let directory = built(40);
    let index = open(directory.path()).unwrap();
    block_on(index.apply(support::batch(41), 41)).unwrap();
    let status = index.status();
    assert_eq!((status.applied, status.flushed, index.flushed()), (41, 40, 40));
    assert!((1..1000).contains(&status.block_count_estimate), "{status:?}");
    assert!(status.file_bytes > 0 && status.write_buffer_bytes > 0, "{status:?}");
    assert_eq!((status.background_errors, status.write_queue_len, status.read_queue_len), (0, 0, 0));
}

#[test]
fn an_index_another_process_has_is_refused_with_its_number() {
    let directory = tempfile::tempdir().unwrap();
    let mut puppet = Puppet::start(&[], "puppet", directory.path());
    assert_eq!(puppet.answer().unwrap(), "open 0");
    let refused = error(directory.path(), support::settings());
    let process = format!("the index is in use by process {}", puppet.process());
    assert!(matches!(&refused, IndexError::Unavailable(what) if what.contains(&process)), "{refused}");
    assert!(matches!(inspect(directory.path()), Err(IndexError::Unavailable(_))));
    puppet.kill();
    assert!(open(directory.path()).is_ok(), "a lock does not outlive its process");
}

#[test]
fn an_index_this_process_has_is_refused_too() {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path()).unwrap();
    assert!(matches!(error(directory.path(), support::settings()), IndexError::Unavailable(_)));
    drop(index);
    assert!(open(directory.path()).is_ok());
}

#[test]
fn a_newer_format_is_refused_and_is_not_called_damage() {
    let directory = built(3);
    put_raw(directory.path(), columns::META, columns::FORMAT, &2_u32.to_le_bytes());
    let refused = error(directory.path(), support::settings());
    assert!(matches!(&refused, IndexError::Unavailable(what) if what.contains("format 2")), "{refused}");
    assert_eq!(inspect(directory.path()), Err(refused));
}

#[test]
fn a_column_family_of_the_future_means_a_newer_format() {
    let directory = built(3);
    {
        let names = columns::ALL.map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
        let mut db = DB::open_cf_descriptors(&Options::default(), directory.path(), names).unwrap();
        db.create_cf("archive", &Options::default()).unwrap();
    }
    let refused = error(directory.path(), support::settings());
    assert!(matches!(&refused, IndexError::Unavailable(what) if what.contains("column family archive")), "{refused}");
}

#[test]
fn an_index_of_another_node_is_refused() {
    let directory = built(3);
    let of = |node| IndexSettings { node: Some([node; 16]), ..support::settings() };
    drop(RocksIndex::open(directory.path(), of(7)).unwrap());
    let refused = error(directory.path(), of(8));
    assert!(matches!(&refused, IndexError::Unavailable(what) if what.contains("0808") && what.contains("0707")));
    assert!(open(directory.path()).is_ok(), "who does not ask is not told");
    drop(RocksIndex::open(directory.path(), of(7)).unwrap());
    assert_eq!(inspect(directory.path()).unwrap().node, Some([7; 16]));
}

#[test]
fn a_setting_out_of_bounds_is_refused_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    let refused = error(&path, IndexSettings { reader_threads: 0, ..support::settings() });
    assert!(matches!(&refused, IndexError::Unavailable(what) if what.contains("reader_threads is 0")), "{refused}");
    assert!(!path.exists());
}

/// RocksDB takes a directory without `CURRENT` for a new database and deletes the tables it finds there.
#[test]
fn an_index_that_lost_current_is_damaged_not_empty() {
    let directory = built(3);
    let current = fs::read(directory.path().join("CURRENT")).unwrap();
    fs::remove_file(directory.path().join("CURRENT")).unwrap();
    let refused = error(directory.path(), support::settings());
    let IndexError::Corrupt(what) = &refused else { panic!("{refused}") };
    assert!(what.contains("CURRENT is missing") && what.contains("kvtier fsck --repair"), "{what}");
    assert!(what.contains(directory.path().to_str().unwrap()), "{what}");
    fs::write(directory.path().join("CURRENT"), current).unwrap();
    assert_eq!(Model::of(&*open(directory.path()).unwrap()).unwrap(), Model::after(3));
}

#[test]
fn an_index_that_lost_its_manifest_or_a_table_is_damaged() {
    for kind in ["MANIFEST", ".sst"] {
        let directory = built(3);
        let lost: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.to_str().unwrap().contains(kind))
            .collect();
        fs::remove_file(&lost[0]).unwrap();
        let refused = error(directory.path(), support::settings());
        assert!(matches!(refused, IndexError::Corrupt(_)), "{kind}: {refused}");
    }
}

#[test]
fn a_creation_that_was_cut_short_is_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.create_if_missing(true);
    drop(DB::open(&options, directory.path()).unwrap());
    assert_eq!(open(directory.path()).unwrap().applied(), 0);
}

#[test]
fn meta_that_does_not_verify_is_damage() {
    let directory = built(3);
    raw(directory.path(), |db| db.put_cf(db.cf_handle(columns::META).unwrap(), columns::COVERED, [1; 12]).unwrap());
    assert!(matches!(error(directory.path(), support::settings()), IndexError::Corrupt(_)));
    raw(directory.path(), |db| db.delete_cf(db.cf_handle(columns::META).unwrap(), columns::COVERED).unwrap());
    assert!(matches!(error(directory.path(), support::settings()), IndexError::Corrupt(_)));
}

/// RocksDB's checksums are fine here: only the value's own tells.
#[test]
fn a_value_under_the_wrong_key_is_an_error_never_an_entry() {
    let directory = built(0);
    let mut value = Vec::new();
    codec::encode(&columns::block_key(BlockId(1)), &sample_entry(1), &mut value);
    raw(directory.path(), |db| {
        db.put_cf(db.cf_handle(columns::BLOCKS).unwrap(), columns::block_key(BlockId(2)), value).unwrap()
    });
    let index = open(directory.path()).unwrap();
    let answer = block_on(index.get_many(vec![BlockId(1), BlockId(2)]));
    assert!(matches!(&answer, Err(IndexError::Corrupt(what)) if what.contains("kvtier fsck --repair")), "{answer:?}");
    assert!(matches!(block_on(index.scan(None, 10)), Err(IndexError::Corrupt(_))));
    assert_eq!(block_on(index.get_many(vec![BlockId(1)])), Ok(vec![None]), "the others are still told");
}

#[test]
fn an_inspection_counts_everything_and_changes_nothing() {
    let directory = built(40);
    let model = Model::after(40);
    let report = inspect(directory.path()).unwrap();
    assert!(report.is_sound());
    assert_eq!((report.format, report.covered), (1, 40));
    assert_eq!(report.block_count, model.blocks.len() as u64);
    assert_eq!(report.payload_bytes, model.blocks.values().map(|entry| u64::from(entry.length)).sum());
    assert_eq!(report.space_count, model.spaces.len() as u64);
    assert_eq!(report.quarantined_count, model.slots.len() as u64);
    assert_eq!(Model::of(&*open(directory.path()).unwrap()).unwrap(), model);
}

#[test]
fn an_inspection_names_every_damaged_value() {
    let directory = built(0);
    put_raw(directory.path(), columns::BLOCKS, &[1; 16], &[codec::VALUE_VERSION]);
    put_raw(directory.path(), columns::SPACES, &[0, 0, 0, 1], &[99]);
    put_raw(directory.path(), columns::QUARANTINE, b"short", &[codec::VALUE_VERSION]);
    let report = inspect(directory.path()).unwrap();
    assert!(!report.is_sound());
    assert_eq!(report.bad_count, 3);
    let bad: Vec<_> = report.bad.iter().map(|bad| (bad.column, bad.key.as_str(), bad.problem.as_str())).collect();
    assert_eq!(
        bad,
        [
            ("blocks", "01010101010101010101010101010101", "its fields do not decode"),
            ("spaces", "00000001", "its version is 99, this build reads 1"),
            ("quarantine", "73686f7274", "not a key"),
        ]
    );
}

#[test]
fn there_is_nothing_to_inspect_where_no_index_is() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(inspect(directory.path()), Err(IndexError::Unavailable(_))));
    assert!(matches!(inspect(&directory.path().join("missing")), Err(IndexError::Unavailable(_))));
}

fn contents(count: u128) -> Contents<impl Iterator<Item = (BlockId, kvtier_engine::port::IndexEntry)>> {
    Contents {
        entries: (0..count).map(|number| (BlockId(number), sample_entry(number))),
        spaces: vec![sample_space(1), sample_space(2)],
        quarantined: vec![Slot { device: 0, offset: 0, bytes: 8192 }],
        covered: 77,
    }
}

fn assert_rebuilt(path: &Path, count: u128) {
    let index = open(path).unwrap();
    assert_eq!(index.applied(), 77);
    let found = Model::of(&*index).unwrap();
    assert_eq!(found.blocks.len() as u128, count);
    assert_eq!(found.blocks.get(&(count - 1)), Some(&sample_entry(count - 1)));
    assert_eq!((found.spaces.len(), found.slots.len()), (2, 1));
}

#[test]
fn a_rebuild_replaces_a_damaged_index_and_keeps_it_beside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    drop(open(&path).unwrap());
    fs::write(path.join("CURRENT"), "nonsense").unwrap();
    assert!(matches!(error(&path, support::settings()), IndexError::Corrupt(_)));
    assert_eq!(rebuild(&path, contents(10_000), &support::settings()), Ok(10_000));
    assert_rebuilt(&path, 10_000);
    assert_eq!(fs::read(directory.path().join("index.damaged/CURRENT")).unwrap(), b"nonsense");
    assert_eq!(rebuild(&path, contents(5), &support::settings()), Ok(5), "and once more");
    assert_rebuilt(&path, 5);
}

#[test]
fn a_rebuild_refuses_an_index_that_is_in_use() {
    let directory = built(1);
    let _index = open(directory.path()).unwrap();
    let refused = rebuild(directory.path(), contents(5), &support::settings());
    assert!(matches!(refused, Err(IndexError::Unavailable(_))));
}

#[test]
fn a_rebuild_cut_short_is_never_taken_for_an_empty_index() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    // Between its renames a rebuild leaves the old index aside and the new one not yet in place.
    drop(open(&directory.path().join("index.damaged")).unwrap());
    drop(open(&directory.path().join("index.rebuilding")).unwrap());
    for refused in [error(&path, support::settings()), inspect(&path).unwrap_err()] {
        assert!(matches!(&refused, IndexError::Corrupt(what) if what.contains("interrupted")), "{refused}");
    }
    assert_eq!(rebuild(&path, contents(5), &support::settings()), Ok(5));
    assert_rebuilt(&path, 5);
}

#[test]
fn a_queue_that_is_full_refuses_and_no_batch_slips_past_the_refused_one() {
    let directory = tempfile::tempdir().unwrap();
    let index = RocksIndex::open(directory.path(), IndexSettings { queue_len_max: 1, ..support::settings() }).unwrap();
    let put = |number: u64| IndexChange::Put(BlockId(number.into()), sample_entry(number.into()));
    // The first batch keeps the thread busy while the others find the one place in the queue taken.
    let mut answers = vec![index.apply((0..60_000).map(|_| put(1)).collect(), 1)];
    answers.extend((2..=1000).map(|number| index.apply(vec![put(number)], number)));
    let outcomes: Vec<_> = answers.into_iter().map(block_on).collect();
    let applied = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
    assert!(applied < 1000 && outcomes[applied..].iter().all(Result::is_err), "none after the first refused one");
    assert_eq!(index.applied(), applied as u64);
    assert_eq!(block_on(index.scan(None, 2000)).unwrap().len(), applied);
    assert_eq!(block_on(index.apply(vec![], 1000)), Ok(()), "every refusal was seen");
}
