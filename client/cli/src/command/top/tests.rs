use super::*;
use crate::command::status::tests::busy;

fn picture(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory has no errors");
    terminal.draw(|frame| view::draw(frame, model)).expect("draws");
    as_text(terminal.backend())
}

fn model() -> Model {
    let mut model = Model::new("unix:///s".into(), Duration::from_secs(1));
    model.update(Ok(busy()), Duration::from_micros(400));
    model
}

#[test]
fn everything_fits_into_80_by_24() {
    let expected = "\
kvtierd 0.1.0 at unix:///s · degraded · up 1 h 1 m · epoch 3, event 98,765
┌ tiers ───────────────────────────────────────────────────────────────────────┐
│host    █████████     75.0 %  6 GiB of 8 GiB, 6,144 blocks                    │
│nvme    ████▊         40.0 %  40 GiB of 100 GiB, 40,960 blocks  breaker_open  │
└──────────────────────────────────────────────────────────────────────────────┘
┌ per second (the last three: now, now, ever) ─────────────────────────────────┐
│           hits  stores  evicted      read   written in flight  queued corrupt│
│host          0       0        0       0 B       0 B         3       0       0│
│nvme          0       0        0       0 B       0 B         0      12       9│
└──────────────────────────────────────────────────────────────────────────────┘
┌ bytes moved: 0 B/s ──────────────────────────────────────────────────────────┐
│                                                                              │
│                                                                              │
│                                                                              │
└──────────────────────────────────────────────────────────────────────────────┘
 7 connections   4 leases on 120 blocks   1 pin   2 puts pending   2 spaces
 journal open, 12 MiB, 5 not synced   index 765 events behind
┌ alarms ──────────────────────────────────────────────────────────────────────┐
│nvme: 9 corrupt blocks in the last minute; run kvtier scrub                   │
│                                                                              │
│                                                                              │
│                                                                              │
└──────────────────────────────────────────────────────────────────────────────┘
 q quit   p pause   r refresh   every 1.0 s, status took 400 µs";
    let shown = picture(&model(), 80, 24);
    assert_eq!(shown, expected, "\n{shown}");
}

#[test]
fn a_daemon_that_is_away_is_an_alarm_over_the_last_picture() {
    let mut model = model();
    let error = ClientError::Unavailable {
        endpoint: "unix:///s".into(),
        detail: "connection refused".into(),
        retry_after: Duration::from_secs(1),
    };
    model.update(Err(error), Duration::ZERO);
    let shown = picture(&model, 80, 24);
    assert!(shown.contains("connection refused") && shown.contains("6 GiB of 8 GiB"), "\n{shown}");
}

#[test]
fn no_size_of_screen_is_too_small_to_draw() {
    let empty = Model::new("unix:///s".into(), Duration::from_secs(1));
    for (width, height) in [(1, 1), (2, 3), (20, 5), (300, 80)] {
        picture(&model(), width, height);
        picture(&empty, width, height);
    }
}

#[test]
fn the_keys_do_what_the_footer_says() {
    let press = |code| wish(code, KeyModifiers::NONE);
    assert_eq!([press(KeyCode::Char('q')), press(KeyCode::Esc)], [Wish::Quit; 2]);
    assert_eq!(wish(KeyCode::Char('c'), KeyModifiers::CONTROL), Wish::Quit);
    assert_eq!(press(KeyCode::Char('p')), Wish::Pause);
    assert_eq!(press(KeyCode::Char('r')), Wish::Refresh);
    assert_eq!(press(KeyCode::Char('c')), Wish::Nothing);
}
