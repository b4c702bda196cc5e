//! Asking for a GPU where there may be none.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kvtier_hbm::cuda::{Absent, Machine, probe};

/// kvtierd ends at any panic, caught or not, so not even a caught one may happen.
#[test]
fn the_probe_answers_and_never_panics() {
    let panics = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&panics);
    let name = std::thread::current().name().map(str::to_owned);
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if std::thread::current().name().map(str::to_owned) == name {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        told(info);
    }));
    let answer = probe();
    let opened = Machine::open().map(|machine| machine.gpus.len());
    assert_eq!(panics.load(Ordering::SeqCst), 0);
    match answer {
        Ok(count) => match opened {
            Ok(opened) => assert!((1..=count as usize).contains(&opened)),
            Err(absent) => assert!(matches!(absent, Absent::Unusable(..)), "{absent}"),
        },
        Err(absent) => {
            assert_eq!(opened, Err(absent.clone()));
            assert!(!absent.to_string().is_empty());
            assert!(!matches!(absent, Absent::OldDriver("")), "it says what is missing");
        }
    }
}
