use tempfile::TempDir;

use super::*;
use crate::conformance::block_on;

#[test]
fn files_and_folder_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let outer = TempDir::new().expect("a temporary folder");
    let folder = StdFolder::open_or_create(outer.path().join("log")).expect("a folder");
    drop(block_on(folder.create("a")).expect("a file"));
    let mode = |path: &Path| std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode(folder.path()), 0o700);
    assert_eq!(mode(&folder.path().join("a")), 0o600);
}

#[test]
fn what_is_no_plain_file_is_not_listed() {
    let outer = TempDir::new().expect("a temporary folder");
    let folder = StdFolder::open_or_create(outer.path()).expect("a folder");
    std::fs::create_dir(outer.path().join("sub")).expect("a folder");
    std::os::unix::fs::symlink("nowhere", outer.path().join("link")).expect("a link");
    drop(block_on(folder.create("file")).expect("a file"));
    assert_eq!(block_on(folder.list()).expect("a list"), [("file".to_owned(), 0)]);
}

#[test]
fn a_missing_folder_is_not_made_by_opening_it() {
    let outer = TempDir::new().expect("a temporary folder");
    let missing = outer.path().join("missing");
    let error = StdFolder::open_existing(&missing).expect_err("missing");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(!missing.exists());
    std::fs::write(&missing, []).expect("a file");
    let error = StdFolder::open_existing(&missing).expect_err("a file");
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
}

#[test]
fn asking_for_more_than_there_is_takes_no_more_memory() {
    let outer = TempDir::new().expect("a temporary folder");
    let folder = StdFolder::open_or_create(outer.path()).expect("a folder");
    let file = block_on(folder.create("a")).expect("a file");
    block_on(file.write_at(0, b"abc".to_vec())).expect("a write");
    assert_eq!(block_on(file.read_at(1, usize::MAX)).expect("a read"), b"bc");
}
