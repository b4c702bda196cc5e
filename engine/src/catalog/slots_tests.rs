use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Devices of extents of 32 pages; the first begins one page into its device.
fn devices(extents: &[u64]) -> Vec<DeviceGeometry> {
    let extent_bytes = 32 * PAGE_BYTES;
    let device =
        |count: &u64| DeviceGeometry { bytes: count * extent_bytes, extent_bytes, first_extent_offset: PAGE_BYTES };
    extents.iter().map(device).collect()
}

#[test]
fn a_size_class_wastes_at_most_an_eighth() {
    let slots = Slots::new(0, &[DeviceGeometry { bytes: 1 << 30, extent_bytes: 1 << 30, first_extent_offset: 0 }]);
    let mut last = 0;
    for pages in 1..20_000 {
        let class = slots.class(pages * 4096).expect("it fits");
        assert!(class > pages && class >= last, "{pages} payload pages do not fit class {class}");
        assert!(class - 1 - pages <= pages / 8, "{pages} payload pages in class {class}");
        last = class;
    }
    assert_eq!(slots.class(1), Some(2));
    assert_eq!(slots.class(4097), Some(3));
}

#[test]
fn a_registered_size_wastes_nothing() {
    let mut slots = Slots::new(0, &[DeviceGeometry { bytes: 1 << 30, extent_bytes: 1 << 30, first_extent_offset: 0 }]);
    assert_eq!(slots.class(1_000 * 4096), Some(1 + 1_024));
    slots.register(1_000 * 4096);
    assert_eq!(slots.class(1_000 * 4096), Some(1 + 1_000));
    assert_eq!(slots.class(999 * 4096), Some(1 + 1_000), "the next larger registered size is nearer than its class");
    assert_eq!(slots.class(1_001 * 4096), Some(1 + 1_024));
}

#[test]
fn the_largest_block_fills_an_extent() {
    let slots = Slots::new(0, &devices(&[1]));
    assert_eq!(slots.class(31 * 4096), Some(32));
    assert_eq!(slots.class(31 * 4096 + 1), None);
    assert_eq!(slots.class(u32::MAX), None);
    assert_eq!(Slots::new(0, &[]).class(1), None);
}

#[test]
fn consecutive_slots_are_neighbours_and_holes_are_filled_first() {
    let mut slots = Slots::new(0, &devices(&[2]));
    let places: Vec<_> = (0..10).map(|owner| slots.allocate(4, owner).expect("there is room")).collect();
    let pages: Vec<_> = places.iter().map(|place| place.page).collect();
    assert_eq!(pages, (0..10).map(|at| 1 + at * 4).collect::<Vec<_>>());
    slots.free(places[5], 5);
    slots.free(places[2], 2);
    assert_eq!(slots.allocate(4, 90).map(|place| place.page), Some(pages[2]));
    assert_eq!(slots.allocate(4, 91).map(|place| place.page), Some(pages[5]));
    assert_eq!(slots.slot(places[3]), Slot { device: 0, offset: 13 * 4096, bytes: 4 * 4096 });
}

#[test]
fn runs_go_to_devices_in_turn() {
    let mut slots = Slots::new(0, &devices(&[4, 4]));
    let devices: Vec<_> = (0..48).map(|owner| slots.allocate(2, owner).expect("there is room").device).collect();
    let expected: Vec<u16> = [0, 1, 0].into_iter().flat_map(|device| [device; 16]).collect();
    assert_eq!(devices, expected);
}

#[test]
fn an_empty_extent_serves_another_class() {
    let mut slots = Slots::new(0, &devices(&[1]));
    let place = slots.allocate(4, 0).expect("there is room");
    assert_eq!(slots.allocate(8, 1), None);
    slots.free(place, 0);
    assert!(slots.allocate(8, 1).is_some());
}

#[test]
#[should_panic(expected = "belongs to")]
fn a_double_free_panics() {
    let mut slots = Slots::new(0, &devices(&[1]));
    let (place, _) = (slots.allocate(4, 0).expect("there is room"), slots.allocate(4, 1));
    slots.free(place, 0);
    slots.free(place, 0);
}

#[test]
#[should_panic(expected = "belongs to 0, not to 7")]
fn freeing_a_foreign_slot_panics() {
    let mut slots = Slots::new(0, &devices(&[1]));
    let place = slots.allocate(4, 0).expect("there is room");
    slots.free(place, 7);
}

#[test]
fn a_quarantined_run_is_avoided_by_every_class() {
    let mut slots = Slots::new(0, &devices(&[1]));
    let other = slots.allocate(4, 8).expect("there is room");
    let place = slots.allocate(4, 9).expect("there is room");
    slots.quarantine(place, 9);
    slots.free(other, 8);
    for class in [2, 3, 5, 6, 7, 8, 14] {
        let mut taken = Vec::new();
        while let Some(at) = slots.allocate(class, 1) {
            assert!(at.page + class <= place.page || at.page >= place.page + 4, "class {class} at {at:?}");
            taken.push(at);
        }
        assert!(!taken.is_empty());
        assert!(slots.used_bytes() <= slots.capacity_bytes());
        slots.check().expect("consistent");
        taken.into_iter().for_each(|at| slots.free(at, 1));
    }
    assert_eq!(slots.allocate(32, 1), None, "the extent has no room for a slot of its own size any more");
}

#[test]
fn quarantined_runs_of_an_earlier_life_may_overlap_and_lie_anywhere() {
    let mut slots = Slots::new(0, &devices(&[1]));
    let slot = |page: u64, pages: u32| Slot { device: 0, offset: page * PAGE_BYTES, bytes: pages * 4096 };
    for bad in
        [slot(1, 4), slot(1, 4), slot(3, 8), slot(30, 100), slot(0, 1), slot(500, 2), Slot { device: 9, ..slot(1, 2) }]
    {
        slots.mark_bad(bad);
        slots.check().expect("consistent");
    }
    assert_eq!(slots.used_bytes(), (10 + 3) * PAGE_BYTES);
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(u32),
    Free(usize),
    Quarantine(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::sample::select(vec![2, 3, 4, 9, 32]).prop_map(Step::Allocate),
        7 => any::<usize>().prop_map(Step::Free),
        1 => any::<usize>().prop_map(Step::Quarantine),
    ]
}

proptest! {
    #[test]
    fn no_two_slots_ever_overlap(steps in prop::collection::vec(step(), 0..300)) {
        let mut slots = Slots::new(0, &devices(&[2, 3]));
        let mut owned: Vec<(Place, u32, u32)> = Vec::new();
        let mut pages: BTreeMap<(u16, u32), u32> = BTreeMap::new();
        for (owner, step) in (0..).zip(steps) {
            match step {
                Step::Allocate(class) => if let Some(place) = slots.allocate(class, owner) {
                    for page in place.page..place.page + class {
                        prop_assert_eq!(pages.insert((place.device, page), owner), None);
                    }
                    prop_assert_eq!(slots.slot(place).bytes, class * 4096);
                    owned.push((place, class, owner));
                },
                Step::Free(at) if !owned.is_empty() => {
                    let (place, class, owner) = owned.swap_remove(at % owned.len());
                    slots.free(place, owner);
                    (place.page..place.page + class).for_each(|page| _ = pages.remove(&(place.device, page)));
                }
                // The pages stay taken: nobody gets them again.
                Step::Quarantine(at) if !owned.is_empty() => {
                    let (place, _, owner) = owned.swap_remove(at % owned.len());
                    slots.quarantine(place, owner);
                }
                Step::Free(_) | Step::Quarantine(_) => {}
            }
            slots.check().map_err(TestCaseError::fail)?;
            prop_assert_eq!(slots.used_bytes(), pages.len() as u64 * PAGE_BYTES);
        }
    }
}
