//! What both ends may rely on, also when the other one lies.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use super::*;

type Ends = ((Sender, Receiver), (Sender, Receiver));

fn pair() -> Ends {
    let (daemon, file) = create().expect("a ring");
    let worker = open(&file).expect("the other end");
    (daemon, worker)
}

fn taken(receiver: &mut Receiver) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    receiver.receive(&mut bytes).expect("an honest sender").then_some(bytes)
}

#[test]
fn entries_come_in_order_and_whole_in_both_directions() {
    let ((mut answers, mut requests), (mut ask, mut hear)) = pair();
    for length in [0, 1, 7, 8, 9, 4000] {
        let entry: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
        assert_ne!(ask.send(&entry), Ok(Sent::No));
        assert_eq!(taken(&mut requests), Some(entry.clone()));
        assert_eq!(taken(&mut requests), None);
        assert_ne!(answers.send(&entry), Ok(Sent::No));
        assert_eq!(taken(&mut hear), Some(entry));
    }
}

#[test]
fn a_full_ring_takes_no_more_and_goes_on_when_it_was_read() {
    let ((_, mut requests), (mut ask, _)) = pair();
    assert_eq!(ask.send(&[0; ENTRY_BYTES_MAX + 1]), Ok(Sent::No), "an entry that is too long");
    let mut next = 0_u32;
    let mut expected = 0_u32;
    // Entries of 1,004 bytes do not divide the ring, so they wrap round everywhere.
    for _ in 0..500 {
        let entry = |number: u32| [number.to_le_bytes().to_vec(), vec![number as u8; 1000]].concat();
        while ask.send(&entry(next)) != Ok(Sent::No) {
            next += 1;
        }
        assert!(next - expected >= 15, "16 KiB hold 16 entries of 1,016 bytes");
        for _ in 0..3 {
            assert_eq!(taken(&mut requests), Some(entry(expected)));
            expected += 1;
        }
    }
}

#[test]
fn a_sleeper_is_rung_for_exactly_once() {
    let ((_, mut requests), (mut ask, _)) = pair();
    assert_eq!(ask.send(b"a"), Ok(Sent::Looked));
    assert!(!requests.sleep(), "there is something to read");
    assert_eq!(ask.send(b"b"), Ok(Sent::Looked), "it went on looking");
    assert_eq!(taken(&mut requests), Some(b"a".to_vec()));
    assert_eq!(taken(&mut requests), Some(b"b".to_vec()));
    assert!(requests.sleep());
    assert_eq!(ask.send(b"c"), Ok(Sent::RingBell));
    assert_eq!(ask.send(b"d"), Ok(Sent::Looked), "the bell was rung already");
    assert!(requests.sleep() || taken(&mut requests).is_some());
}

/// A lost wake-up would leave the receiver waiting for a bell that nobody rings.
#[test]
fn no_wake_up_is_lost_between_two_threads() {
    const ENTRIES: u64 = 200_000;
    let ((_, mut requests), (mut ask, _)) = pair();
    let (bell, rung) = mpsc::channel::<()>();
    let (took, room) = mpsc::channel::<()>();
    let send = move || {
        for number in 0..ENTRIES {
            loop {
                match ask.send(&number.to_le_bytes()).expect("an honest receiver") {
                    Sent::Looked => break,
                    Sent::RingBell => {
                        bell.send(()).expect("the receiver lives");
                        break;
                    }
                    Sent::No => room.recv_timeout(Duration::from_secs(60)).expect("room within a minute"),
                }
            }
        }
    };
    let sender = std::thread::Builder::new().name("ring-sender".to_owned()).spawn(send).expect("a thread");
    let mut expected = 0_u64;
    while expected < ENTRIES {
        match taken(&mut requests) {
            Some(entry) => {
                assert_eq!(entry, expected.to_le_bytes());
                expected += 1;
                took.send(()).ok();
            }
            None if requests.sleep() => rung.recv_timeout(Duration::from_secs(60)).expect("a bell within a minute"),
            None => {}
        }
    }
    sender.join().expect("the sender ends");
}

#[test]
fn a_sender_that_lies_is_found_out_and_never_followed() {
    let honest = || {
        let ((_, requests), (mut ask, _)) = pair();
        ask.send(b"something").expect("an honest receiver");
        (requests, ask)
    };
    for written in [1, 8, LANE_BYTES as u64 + 8, u64::MAX, 1 << 63] {
        let (mut requests, ask) = honest();
        ask.lane.written().store(written, Ordering::SeqCst);
        let heard = requests.receive(&mut Vec::new());
        assert_eq!(heard, Err(Broken), "{written} bytes written");
    }
    for length in [17, ENTRY_BYTES_MAX as u64 + 1, u64::MAX] {
        let (mut requests, ask) = honest();
        ask.lane.data(0).store(length, Ordering::SeqCst);
        assert_eq!(requests.receive(&mut Vec::new()), Err(Broken), "an entry of {length} bytes");
    }
    let (mut requests, ask) = honest();
    taken(&mut requests).expect("the entry");
    ask.lane.written().store(0, Ordering::SeqCst);
    assert_eq!(requests.receive(&mut Vec::new()), Err(Broken), "a count that went back");
}

#[test]
fn a_receiver_that_lies_is_found_out() {
    for read in [8, u64::MAX, 1 << 40] {
        let ((_, requests), (mut ask, _)) = pair();
        requests.lane.read().store(read, Ordering::SeqCst);
        assert_eq!(ask.send(b"x"), Err(Broken), "{read} bytes read of none");
    }
    let ((_, requests), (mut ask, _)) = pair();
    while ask.send(&[1; 4000]) != Ok(Sent::No) {}
    taken_all(requests);
    assert_ne!(ask.send(&[1; 4000]), Ok(Sent::No));
}

fn taken_all(mut requests: Receiver) {
    while taken(&mut requests).is_some() {}
}

#[test]
fn only_a_sealed_file_of_the_right_size_is_mapped() {
    let plain: OwnedFd = tempfile();
    rustix::fs::ftruncate(&plain, FILE_BYTES).expect("its size");
    assert!(open(&plain).is_err(), "it may shrink");
    assert!(open(&memory::sealed_file(4096).expect("a file")).is_err(), "it is too short");
    let file = memory::sealed_file(FILE_BYTES).expect("a file");
    assert!(rustix::fs::ftruncate(&file, 0).is_err(), "nobody can cut it");
    assert!(open(&file).is_ok());
}

fn tempfile() -> OwnedFd {
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    rustix::fs::memfd_create("kvtier-ring-test", flags).expect("a memfd")
}
