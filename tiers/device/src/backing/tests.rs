use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

fn settings(folder: &TempDir, bytes: Option<u64>) -> DiskSettings {
    DiskSettings { bytes, ..DiskSettings::new(folder.path().join("disk")) }
}

#[test]
fn a_created_file_is_private_and_fully_allocated() {
    let folder = folder();
    let settings = settings(&folder, Some(1 << 20));
    let backing = Backing::open(&settings).expect("a new file");
    let found = std::fs::metadata(&settings.path).expect("it exists");
    assert_eq!(backing.bytes(), 1 << 20);
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert!(found.blocks() * 512 >= 1 << 20, "only {} bytes are allocated", found.blocks() * 512);
}

#[test]
fn a_file_that_is_too_short_is_grown_and_keeps_its_bytes() {
    let folder = folder();
    let settings = settings(&folder, Some(1 << 20));
    std::fs::write(&settings.path, [7; 5000]).expect("a file");
    let backing = Backing::open(&settings).expect("a grown file");
    assert_eq!(backing.bytes(), 1 << 20);
    let content = std::fs::read(&settings.path).expect("readable");
    assert!(content[..5000].iter().all(|byte| *byte == 7) && content[5000..].iter().all(|byte| *byte == 0));
}

#[test]
fn holes_are_filled_when_a_file_is_opened() {
    let folder = folder();
    let settings = settings(&folder, Some(1 << 20));
    File::create(&settings.path).expect("a file").set_len(1 << 20).expect("a hole");
    Backing::open(&settings).expect("an allocated file");
    assert!(std::fs::metadata(&settings.path).expect("it exists").blocks() * 512 >= 1 << 20);
}

#[test]
fn a_file_longer_than_configured_is_refused_and_untouched() {
    let folder = folder();
    let settings = settings(&folder, Some(4096));
    std::fs::write(&settings.path, [7; 8192]).expect("a file");
    let error = Backing::open(&settings).expect_err("too long").to_string();
    assert!(error.contains("has 8192 bytes, more than the 4096 configured"), "{error}");
    assert_eq!(std::fs::read(&settings.path).expect("readable").len(), 8192);
}

#[test]
fn an_existing_file_is_used_as_it_is_if_no_size_is_given() {
    let folder = folder();
    let settings = settings(&folder, None);
    std::fs::write(&settings.path, [7; 8192 + 100]).expect("a file");
    assert_eq!(Backing::open(&settings).expect("a file").bytes(), 8192);
}

#[test]
fn nothing_is_created_without_a_size() {
    let folder = folder();
    let settings = settings(&folder, None);
    let error = Backing::open(&settings).expect_err("missing").to_string();
    assert!(error.contains("cannot be opened: No such file"), "{error}");
    assert!(!settings.path.exists());
    std::fs::write(&settings.path, []).expect("a file");
    let error = Backing::open(&settings).expect_err("empty").to_string();
    assert!(error.contains("configure its size"), "{error}");
}

#[test]
fn a_file_over_the_free_space_is_refused_before_it_is_made() {
    let folder = folder();
    let settings = settings(&folder, Some(1 << 50));
    let error = Backing::open(&settings).expect_err("a petabyte");
    assert!(matches!(error, OpenError::Full { needed_bytes, free_bytes, .. } if needed_bytes > free_bytes), "{error}");
    assert!(error.to_string().contains("make room, or configure fewer bytes"), "{error}");
    assert!(!settings.path.exists(), "nothing is left behind");
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = folder();
    let mut settings = settings(&folder, Some(4096));
    settings.path = folder.path().to_owned();
    let error = Backing::open(&settings).expect_err("a folder").to_string();
    assert!(error.contains("neither a file nor a block device"), "{error}");
    settings.path = PathBuf::from("/dev/null");
    let error = Backing::open(&settings).expect_err("a character device").to_string();
    assert!(error.contains("neither a file nor a block device"), "{error}");
    settings.path = folder.path().join("missing/disk");
    let error = Backing::open(&settings).expect_err("no folder").to_string();
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn wrong_settings_are_refused_before_anything_is_touched() {
    let folder = folder();
    let mut settings = settings(&folder, Some(4096));
    settings.depth = 0;
    assert!(matches!(Backing::open(&settings), Err(OpenError::Settings(_))));
    assert!(!settings.path.exists());
}

#[test]
fn a_file_left_alone_keeps_its_identity() {
    let folder = folder();
    let backing = Backing::open(&settings(&folder, Some(1 << 20))).expect("a new file");
    assert_eq!(backing.check_identity(), Ok(()));
    let again = Backing::open(&settings(&folder, Some(1 << 20))).expect("the file again");
    assert_eq!(again.identity(), backing.identity());
}

#[test]
fn a_truncated_file_is_noticed() {
    let folder = folder();
    let settings = settings(&folder, Some(1 << 20));
    let backing = Backing::open(&settings).expect("a new file");
    OpenOptions::new().write(true).open(&settings.path).expect("it exists").set_len(4096).expect("a cut");
    let change = backing.check_identity().expect_err("it is shorter");
    let path = settings.path.display().to_string();
    assert_eq!(change, IdentityChange::Truncated { path, from_bytes: 1 << 20, to_bytes: 4096 });
}

#[test]
fn a_deleted_file_is_noticed() {
    let folder = folder();
    let settings = settings(&folder, Some(1 << 20));
    let backing = Backing::open(&settings).expect("a new file");
    std::fs::remove_file(&settings.path).expect("it exists");
    assert!(matches!(backing.check_identity(), Err(IdentityChange::Deleted(_))));
}

#[test]
fn a_replaced_file_is_noticed() {
    let folder = folder();
    let settings = settings(&folder, Some(1 << 20));
    let backing = Backing::open(&settings).expect("a new file");
    let other = folder.path().join("other");
    std::fs::write(&other, vec![0; 1 << 20]).expect("a file");
    std::fs::rename(&other, &settings.path).expect("a replacement");
    let change = backing.check_identity().expect_err("another file");
    assert!(change.to_string().contains("was replaced by another file"), "{change}");
}

#[test]
fn a_path_that_cannot_be_examined_is_not_called_deleted() {
    let folder = folder();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).expect("a folder");
    let settings = DiskSettings { bytes: Some(4096), ..DiskSettings::new(inner.join("disk")) };
    let backing = Backing::open(&settings).expect("a new file");
    std::fs::rename(&inner, folder.path().join("moved")).expect("a folder");
    std::fs::write(&inner, []).expect("a file in its place");
    assert!(matches!(backing.check_identity(), Err(IdentityChange::Unreadable { .. })));
}
