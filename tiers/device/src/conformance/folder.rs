//! The suite for [`Folder`].

use std::collections::BTreeMap;
use std::io::ErrorKind;

use crate::port::{Folder, LogFile};
use crate::sim::Dice;

/// An empty folder of its own.
pub trait FolderStand {
    /// The folder.
    fn folder(&self) -> &dyn Folder;
    /// Drives a future of this folder or its files to its end.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T;
    /// Forgets every handle and opens the same folder again.
    fn restart(self) -> Self;
}

/// Checks every claim, each on a fresh stand. Panics at the first that does not hold.
pub fn check_folder<S: FolderStand>(make: impl Fn() -> S) {
    a_new_file_is_listed_and_empty(&make());
    a_name_is_given_once(&make());
    what_does_not_exist_is_not_found(&make());
    what_is_no_name_is_refused(&make());
    bytes_are_read_back_up_to_the_end(&make());
    a_gap_reads_as_zeros(&make());
    what_is_cut_off_never_comes_back(&make());
    a_removed_file_is_gone_but_not_for_its_holders(&make());
    what_was_synced_outlives_a_restart(make());
    for seed in 0..4 {
        random_operations_match_a_plain_map(&make(), seed);
    }
}

fn create<S: FolderStand>(stand: &S, name: &str) -> Box<dyn LogFile> {
    stand.wait(stand.folder().create(name)).expect("a new name")
}

fn list<S: FolderStand>(stand: &S) -> Vec<(String, u64)> {
    let mut files = stand.wait(stand.folder().list()).expect("a folder that can be listed");
    files.sort();
    files
}

fn write<S: FolderStand>(stand: &S, file: &dyn LogFile, offset: u64, bytes: &[u8]) {
    stand.wait(file.write_at(offset, bytes.to_vec())).expect("a write");
}

fn read<S: FolderStand>(stand: &S, file: &dyn LogFile, offset: u64, bytes: usize) -> Vec<u8> {
    stand.wait(file.read_at(offset, bytes)).expect("a read")
}

fn a_new_file_is_listed_and_empty<S: FolderStand>(stand: &S) {
    assert_eq!(list(stand), []);
    let file = create(stand, "a.log");
    assert_eq!(list(stand), [("a.log".to_owned(), 0)]);
    assert_eq!(read(stand, &*file, 0, 10), []);
    write(stand, &*file, 0, b"12345");
    assert_eq!(list(stand), [("a.log".to_owned(), 5)]);
}

fn a_name_is_given_once<S: FolderStand>(stand: &S) {
    let file = create(stand, "a");
    write(stand, &*file, 0, b"first");
    let again = stand.wait(stand.folder().create("a")).err().map(|error| error.kind());
    assert_eq!(again, Some(ErrorKind::AlreadyExists));
    assert_eq!(read(stand, &*file, 0, 5), b"first");
}

fn what_does_not_exist_is_not_found<S: FolderStand>(stand: &S) {
    let opened = stand.wait(stand.folder().open("none")).err().map(|error| error.kind());
    assert_eq!(opened, Some(ErrorKind::NotFound));
    let removed = stand.wait(stand.folder().remove("none")).err().map(|error| error.kind());
    assert_eq!(removed, Some(ErrorKind::NotFound));
}

fn what_is_no_name_is_refused<S: FolderStand>(stand: &S) {
    for name in ["", ".", "..", "a/b", "../a", "nul\0"] {
        let created = stand.wait(stand.folder().create(name)).err().map(|error| error.kind());
        assert_eq!(created, Some(ErrorKind::InvalidInput), "{name:?}");
    }
    assert_eq!(list(stand), []);
}

fn bytes_are_read_back_up_to_the_end<S: FolderStand>(stand: &S) {
    let file = create(stand, "a");
    let content: Vec<u8> = (0..100_000_u32).map(|index| index as u8).collect();
    write(stand, &*file, 0, &content);
    write(stand, &*file, 50_001, b"overwritten");
    write(stand, &*file, 70_000, b"");
    let reopened = stand.wait(stand.folder().open("a")).expect("it exists");
    assert_eq!(
        read(stand, &*reopened, 50_000, 13),
        [&[content[50_000]], &b"overwritten"[..], &[content[50_012]]].concat()
    );
    assert!(read(stand, &*reopened, 99_990, 100) == content[99_990..], "shorter at the end");
    assert_eq!(read(stand, &*reopened, 100_000, 5), []);
    assert_eq!(read(stand, &*reopened, 1 << 40, 5), []);
    assert_eq!(read(stand, &*reopened, 0, 0), []);
}

fn a_gap_reads_as_zeros<S: FolderStand>(stand: &S) {
    let file = create(stand, "a");
    write(stand, &*file, 10_000, b"x");
    let content = read(stand, &*file, 0, 20_000);
    assert_eq!(content.len(), 10_001);
    assert!(content[..10_000].iter().all(|byte| *byte == 0));
}

fn what_is_cut_off_never_comes_back<S: FolderStand>(stand: &S) {
    let file = create(stand, "a");
    write(stand, &*file, 0, &[7; 9000]);
    stand.wait(file.truncate(100)).expect("a cut");
    assert_eq!(list(stand), [("a".to_owned(), 100)]);
    stand.wait(file.truncate(9000)).expect("an extension");
    let content = read(stand, &*file, 0, 10_000);
    assert_eq!(content.len(), 9000);
    assert!(content[..100].iter().all(|byte| *byte == 7));
    assert!(content[100..].iter().all(|byte| *byte == 0), "zeros, not what was cut off");
}

fn a_removed_file_is_gone_but_not_for_its_holders<S: FolderStand>(stand: &S) {
    let file = create(stand, "a");
    write(stand, &*file, 0, b"old");
    stand.wait(stand.folder().remove("a")).expect("it exists");
    assert_eq!(list(stand), []);
    assert_eq!(read(stand, &*file, 0, 3), b"old");
    let new = create(stand, "a");
    write(stand, &*new, 0, b"n");
    assert_eq!(read(stand, &*file, 0, 3), b"old");
    assert_eq!(list(stand), [("a".to_owned(), 1)]);
}

fn what_was_synced_outlives_a_restart<S: FolderStand>(stand: S) {
    let file = create(&stand, "kept");
    drop(create(&stand, "removed"));
    write(&stand, &*file, 0, b"some bytes");
    stand.wait(file.truncate(4)).expect("a cut");
    stand.wait(file.sync()).expect("a sync");
    stand.wait(stand.folder().remove("removed")).expect("it exists");
    stand.wait(stand.folder().sync()).expect("a sync");
    drop(file);
    let stand = stand.restart();
    assert_eq!(list(&stand), [("kept".to_owned(), 4)]);
    let file = stand.wait(stand.folder().open("kept")).expect("it exists");
    assert_eq!(read(&stand, &*file, 0, 100), b"some");
}

fn random_operations_match_a_plain_map<S: FolderStand>(stand: &S, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for step in 0..300 {
        let name = format!("file-{}", dice.below(4));
        let Some(content) = model.get_mut(&name) else {
            drop(create(stand, &name));
            model.insert(name, Vec::new());
            continue;
        };
        let file = stand.wait(stand.folder().open(&name)).expect("it exists");
        let (offset, bytes) = (dice.below(20_000) as usize, dice.below(5000) as usize);
        match dice.below(10) {
            0 => {
                stand.wait(stand.folder().remove(&name)).expect("it exists");
                model.remove(&name);
            }
            1 => {
                stand.wait(file.truncate(offset as u64)).expect("a cut or an extension");
                content.resize(offset, 0);
            }
            2..6 => {
                let bytes = vec![dice.next_u64() as u8; bytes];
                if !bytes.is_empty() {
                    content.resize(content.len().max(offset + bytes.len()), 0);
                    content[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
                write(stand, &*file, offset as u64, &bytes);
            }
            _ => {
                let end = (offset + bytes).min(content.len());
                let expected = content.get(offset..end).unwrap_or_default();
                assert!(read(stand, &*file, offset as u64, bytes) == expected, "seed {seed} step {step}");
            }
        }
    }
    let sizes: Vec<(String, u64)> = model.iter().map(|(name, content)| (name.clone(), content.len() as u64)).collect();
    assert_eq!(list(stand), sizes, "seed {seed}");
}
