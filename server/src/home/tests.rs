use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn an_empty_directory_becomes_a_home_with_the_same_identity_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let first = Home::open(folder.path(), false).unwrap();
    let (node, secret) = (first.node, first.secret.clone());
    drop(first);
    let again = Home::open(folder.path(), false).unwrap();
    assert_eq!((again.node, &again.secret), (node, &secret));
    assert_ne!(secret.0, [0; 32]);
    let text = node.to_string();
    assert_eq!((text.len(), &text[14..15]), (36, "4"), "{text}");
    let mode = fs::metadata(folder.path().join("SECRET")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_missing_directory_is_made_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a/b");
    assert!(matches!(Home::open(&deep, false), Err(HomeError::Io { .. })));
    assert!(!deep.exists());
    Home::open(&deep, true).unwrap();
}

#[test]
fn a_second_daemon_is_told_who_has_the_directory_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Home::open(folder.path(), false).unwrap();
    let told = Home::open(folder.path(), false).unwrap_err().to_string();
    assert!(told.contains(&format!("process id {}", std::process::id())), "{told}");
    assert!(told.contains("stop that process"), "{told}");
}

#[test]
fn the_lock_of_a_process_that_died_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("LOCK"), "999999\n").unwrap();
    Home::open(folder.path(), false).unwrap();
}

#[test]
fn a_newer_format_is_refused_with_both_versions_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    drop(Home::open(folder.path(), false).unwrap());
    let newer = "kvtier data directory\nversion 7\n";
    fs::write(folder.path().join("FORMAT"), newer).unwrap();
    let told = Home::open(folder.path(), false).unwrap_err().to_string();
    assert!(told.contains("format 7") && told.contains("up to 1"), "{told}");
    assert_eq!(fs::read_to_string(folder.path().join("FORMAT")).unwrap(), newer);
}

#[test]
fn a_format_file_that_is_none_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in [
        &b""[..],
        b"\xff\xfe",
        b"kvtier data directory\nversion x\n",
        b"something\nversion 1\n",
        b"kvtier data directory\nversion 0\n",
    ] {
        fs::write(folder.path().join("FORMAT"), bytes).unwrap();
        assert!(matches!(Home::open(folder.path(), false), Err(HomeError::Damaged { .. })), "{bytes:?}");
    }
}

#[test]
fn a_crash_at_any_step_of_the_making_is_taken_up_by_the_next_start() {
    let whole = tempfile::tempdir().unwrap();
    drop(Home::open(whole.path(), false).unwrap());
    for left in [&["LOCK"][..], &["LOCK", "NODE"], &["LOCK", "NODE", "SECRET"]] {
        let torn = tempfile::tempdir().unwrap();
        for name in left {
            fs::copy(whole.path().join(name), torn.path().join(name)).unwrap();
        }
        fs::write(torn.path().join("SECRET.unfinished"), "half").unwrap();
        let home = Home::open(torn.path(), false).unwrap();
        if left.contains(&"SECRET") {
            assert_eq!(&home.secret.0[..], fs::read(whole.path().join("SECRET")).unwrap());
        }
        assert!(torn.path().join("FORMAT").exists());
    }
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "").unwrap();
    let told = Home::open(folder.path(), false).unwrap_err().to_string();
    assert!(told.contains("thesis.tex"), "{told}");
    assert!(!folder.path().join("SECRET").exists());
}

#[test]
fn a_lost_damaged_or_public_secret_stops_the_start_instead_of_making_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    drop(Home::open(folder.path(), false).unwrap());
    let secret = folder.path().join("SECRET");

    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Home::open(folder.path(), false).unwrap_err().to_string().contains("chmod 600"));

    fs::write(&secret, "short").unwrap();
    assert!(Home::open(folder.path(), false).unwrap_err().to_string().contains("5 bytes instead of 32"));

    fs::remove_file(&secret).unwrap();
    assert!(matches!(Home::open(folder.path(), false), Err(HomeError::Io { doing: "read", .. })));
    fs::write(folder.path().join("NODE"), "not-a-uuid").unwrap();
    assert!(Home::open(folder.path(), false).unwrap_err().to_string().contains("is not a UUID"));
}

#[test]
fn a_secret_is_never_printed() {
    assert_eq!(format!("{:?}", Secret([7; 32])), "Secret(…)");
}
