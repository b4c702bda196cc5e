use std::collections::BTreeSet;

use super::*;

fn directory() -> (Directory, Dice) {
    (Directory::new(512), Dice::new(1))
}

fn outcomes<T: Ord>(directory: &Directory, look: impl Fn(&mut Directory) -> T) -> BTreeSet<T> {
    (0..200).map(|seed| look(&mut directory.crash(&mut Dice::new(seed), Tearing::Scattered))).collect()
}

fn names(directory: &mut Directory) -> Vec<String> {
    directory.list().into_iter().map(|(name, _)| name).collect()
}

fn content(directory: &mut Directory) -> Option<Vec<u8>> {
    let file = directory.find("a").ok()?;
    Some(directory.file(file).read(0, 10_000))
}

/// A folder whose file `a` holds `bytes`, all durable.
fn settled(bytes: &[u8]) -> (Directory, usize, Dice) {
    let (mut directory, mut dice) = directory();
    let file = directory.create("a").expect("a new name");
    directory.file(file).write(0, bytes);
    let covers = directory.file(file).image.write_number();
    directory.file(file).sync(covers, &mut dice);
    directory.sync(directory.change_number(), &mut dice);
    (directory, file, dice)
}

#[test]
fn a_name_is_durable_only_when_the_folder_is_synced() {
    let (mut directory, mut dice) = directory();
    let file = directory.create("a").expect("a new name");
    directory.file(file).sync(0, &mut dice);
    assert_eq!(outcomes(&directory, names).len(), 2, "with and without");
    directory.sync(directory.change_number(), &mut dice);
    assert_eq!(outcomes(&directory, names), BTreeSet::from([vec!["a".to_owned()]]));
    directory.remove("a").expect("it exists");
    assert_eq!(outcomes(&directory, names).len(), 2, "removal too");
    directory.sync(directory.change_number(), &mut dice);
    assert_eq!(outcomes(&directory, names), BTreeSet::from([vec![]]));
}

#[test]
fn syncing_the_folder_does_not_make_contents_durable() {
    let (mut directory, mut dice) = directory();
    let file = directory.create("a").expect("a new name");
    directory.file(file).write(0, b"abc");
    directory.sync(directory.change_number(), &mut dice);
    let seen = outcomes(&directory, content);
    assert!(seen.contains(&Some(vec![])) && seen.contains(&Some(b"abc".to_vec())), "{seen:?}");
    assert!(seen.contains(&Some(vec![0; 3])), "the size may arrive without the bytes: {seen:?}");
}

#[test]
fn an_append_that_is_not_synced_never_harms_what_was() {
    let (mut directory, file, _) = settled(&[7; 1000]);
    directory.file(file).write(1000, &[8; 1000]);
    for content in outcomes(&directory, content) {
        let content = content.expect("the name is durable");
        assert!(content.len() == 1000 || content.len() == 2000);
        assert!(content[..1000].iter().all(|byte| *byte == 7));
        assert!(content[1000..].iter().all(|byte| [0, 8].contains(byte)));
    }
}

#[test]
fn what_was_cut_off_and_synced_never_comes_back() {
    let (mut directory, file, mut dice) = settled(&[7; 2000]);
    directory.file(file).truncate(10);
    assert!(outcomes(&directory, content).len() > 1);
    let covers = directory.file(file).image.write_number();
    directory.file(file).sync(covers, &mut dice);
    assert_eq!(outcomes(&directory, content), BTreeSet::from([Some(vec![7; 10])]));
    directory.file(file).truncate(2000);
    for content in outcomes(&directory, content).into_iter().flatten() {
        assert!(content[10..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next_one() {
    let mut seen = BTreeSet::new();
    for seed in 0..30 {
        let (mut directory, file, _) = settled(b"old");
        let mut dice = Dice::new(seed);
        directory.file(file).write(0, b"new");
        directory.file(file).fail_sync(&mut dice, Tearing::Whole);
        directory.create("b").expect("a new name");
        directory.fail_sync(&mut dice);
        let covers = directory.file(file).image.write_number();
        directory.file(file).sync(covers, &mut dice);
        directory.sync(directory.change_number(), &mut dice);
        seen.extend(outcomes(&directory, |directory| (content(directory), names(directory).len())));
    }
    let contents: BTreeSet<_> = seen.iter().map(|(content, _)| content.clone()).collect();
    assert_eq!(contents, BTreeSet::from([Some(b"new".to_vec()), Some(b"old".to_vec())]));
    assert_eq!(seen.iter().map(|(_, names)| *names).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2]));
}
