use std::collections::BTreeSet;

use super::*;

const SECTOR: usize = 512;

fn image() -> (Image, Dice) {
    (Image::new(SECTOR), Dice::new(1))
}

/// What crashes with many seeds leave of the first `count` sectors, by their first byte.
fn outcomes(image: &Image, count: u64, tearing: Tearing) -> BTreeSet<Vec<u8>> {
    let left = |seed| {
        let after = image.crash(&mut Dice::new(seed), tearing);
        (0..count).map(|sector| after.read(sector * SECTOR as u64, 1)[0]).collect()
    };
    (0..400).map(left).collect()
}

#[test]
fn what_was_never_written_is_zero() {
    let (image, _) = image();
    assert_eq!(image.read(1000, 3000), vec![0; 3000]);
}

#[test]
fn writes_of_any_place_and_length_are_read_back() {
    let (mut image, _) = image();
    image.write(500, &[1; 700]);
    image.write(600, &[2; 5]);
    let mut expected = vec![0; 2000];
    expected[500..1200].fill(1);
    expected[600..605].fill(2);
    assert_eq!(image.read(0, 2000), expected);
}

#[test]
fn what_is_synced_survives_every_crash() {
    let (mut image, mut dice) = image();
    image.write(0, &[7; 4 * SECTOR]);
    image.sync(image.write_number(), &mut dice);
    assert_eq!(outcomes(&image, 4, Tearing::Scattered), BTreeSet::from([vec![7; 4]]));
}

#[test]
fn what_is_not_synced_may_be_lost_or_kept() {
    let (mut image, _) = image();
    image.write(0, &[1; SECTOR]);
    image.write(SECTOR as u64, &[2; SECTOR]);
    let all = [[0, 0], [1, 0], [0, 2], [1, 2]].map(Vec::from);
    assert_eq!(outcomes(&image, 2, Tearing::Whole), BTreeSet::from(all));
}

#[test]
fn a_whole_write_is_never_torn() {
    let (mut image, _) = image();
    image.write(0, &[1; 3 * SECTOR]);
    assert_eq!(outcomes(&image, 3, Tearing::Whole), BTreeSet::from([vec![0; 3], vec![1; 3]]));
}

#[test]
fn a_torn_prefix_is_a_prefix() {
    let (mut image, _) = image();
    image.write(0, &[1; 3 * SECTOR]);
    let all = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]].map(Vec::from);
    assert_eq!(outcomes(&image, 3, Tearing::Prefix), BTreeSet::from(all));
}

#[test]
fn a_scattered_write_may_leave_any_of_its_sectors() {
    let (mut image, _) = image();
    image.write(0, &[1; 3 * SECTOR]);
    assert_eq!(outcomes(&image, 3, Tearing::Scattered).len(), 8);
}

#[test]
fn a_sector_itself_is_never_torn() {
    let (mut image, _) = image();
    image.write(0, &[1; SECTOR]);
    for seed in 0..200 {
        let sector = image.crash(&mut Dice::new(seed), Tearing::Scattered).read(0, SECTOR);
        assert!(sector == vec![0; SECTOR] || sector == vec![1; SECTOR]);
    }
}

#[test]
fn a_sector_never_falls_back_behind_a_write_that_survived() {
    let (mut image, mut dice) = image();
    image.write(0, &[1; SECTOR]);
    image.write(0, &[2; SECTOR]);
    assert_eq!(outcomes(&image, 1, Tearing::Scattered), BTreeSet::from([vec![0], vec![1], vec![2]]));
    image.sync(image.write_number(), &mut dice);
    assert_eq!(outcomes(&image, 1, Tearing::Scattered), BTreeSet::from([vec![2]]));
}

#[test]
fn a_sync_covers_what_came_before_it_and_maybe_more() {
    let mut covered = BTreeSet::new();
    for seed in 0..50 {
        let (mut image, _) = image();
        image.write(0, &[1; SECTOR]);
        let covers = image.write_number();
        image.write(SECTOR as u64, &[2; SECTOR]);
        image.sync(covers, &mut Dice::new(seed));
        covered.extend(outcomes(&image, 2, Tearing::Whole));
    }
    assert_eq!(covered, BTreeSet::from([vec![1, 0], vec![1, 2]]));
}

#[test]
fn a_failed_sync_loses_some_writes_for_good() {
    let mut left = BTreeSet::new();
    for seed in 0..50 {
        let (mut image, _) = image();
        let mut dice = Dice::new(seed);
        image.write(0, &[1; SECTOR]);
        image.fail_sync(&mut dice, Tearing::Whole);
        assert_eq!(image.read(0, 1), [1], "readers still see it");
        image.sync(image.write_number(), &mut dice);
        left.extend(outcomes(&image, 1, Tearing::Whole));
    }
    assert_eq!(left, BTreeSet::from([vec![0], vec![1]]), "a later sync does not bring it back");
}

#[test]
fn rot_flips_one_bit_for_good() {
    let (mut image, mut dice) = image();
    image.write(0, &[0xff; 4 * SECTOR]);
    image.sync(image.write_number(), &mut dice);
    image.rot(100, 1000, &mut dice);
    let now = image.read(0, 4 * SECTOR);
    let zeros: u32 = now.iter().map(|byte| byte.count_zeros()).sum();
    assert_eq!(zeros, 1);
    assert!(now[..100].iter().chain(&now[1100..]).all(|byte| *byte == 0xff));
    assert_eq!(image.crash(&mut dice, Tearing::Whole).read(0, 4 * SECTOR), now);
}
