use std::sync::mpsc::{Receiver, channel};

use super::*;

/// Occupies the one thread of a lane until the returned receiver's partner is dropped.
fn blocked(queue_len_max: u32) -> (Lane, std::sync::mpsc::Sender<()>) {
    let lane = Lane::start("test", 1, queue_len_max).unwrap();
    let (release, released): (_, Receiver<()>) = channel();
    let (started, has_started) = channel();
    lane.take(Box::new(move || {
        started.send(()).unwrap();
        let _ = released.recv();
    }))
    .unwrap();
    has_started.recv().unwrap();
    (lane, release)
}

#[test]
fn one_thread_keeps_the_order_of_its_jobs() {
    let lane = Lane::start("test", 1, 1000).unwrap();
    let (sender, receiver) = channel();
    for number in 0..1000 {
        let sender = sender.clone();
        lane.take(Box::new(move || sender.send(number).unwrap())).unwrap();
    }
    drop((lane, sender));
    assert_eq!(receiver.iter().collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_full_queue_refuses_at_once_and_takes_again_when_there_is_room() {
    let (lane, release) = blocked(2);
    assert_eq!(lane.take(Box::new(|| ())), Ok(()));
    let (sender, receiver) = channel();
    assert_eq!(lane.take(Box::new(move || sender.send(()).unwrap())), Ok(()));
    assert_eq!(lane.take(Box::new(|| ())), Err(LaneRefused::Busy(2)));
    assert_eq!(lane.queue_len(), 2);
    drop(release);
    receiver.recv().unwrap();
    assert_eq!(lane.take(Box::new(|| ())), Ok(()));
}

#[test]
fn dropping_a_lane_finishes_what_was_queued() {
    let (lane, release) = blocked(8);
    let (sender, receiver) = channel();
    lane.take(Box::new(move || sender.send(7).unwrap())).unwrap();
    drop(release);
    drop(lane);
    assert_eq!(receiver.try_recv(), Ok(7));
}

#[test]
fn a_job_that_panics_fails_the_lane_and_frees_those_who_wait() {
    let (lane, release) = blocked(8);
    let (kept, waits) = channel::<()>();
    lane.take(Box::new(|| panic!("on purpose"))).unwrap();
    lane.take(Box::new(move || drop(kept))).unwrap();
    drop(release);
    assert!(waits.recv().is_err(), "the job behind was dropped, not forgotten");
    assert_eq!(lane.take(Box::new(|| ())), Err(LaneRefused::Failed));
}
