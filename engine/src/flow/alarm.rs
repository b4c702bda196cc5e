//! What an operator should know of now: each condition has a name, which `docs/operating/alarms.md` explains, and a
//! sentence with the cause and what to do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use crate::port::{DeviceHealth, DeviceState, JournalState, JournalStatus};

/// A condition that needs attention. It is raised while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// The log takes no records: its disk is full, or a sync failed; or it has just begun again.
    Journal,
    /// The index does not follow the log.
    Index,
    /// The index cannot be made durable, so the log cannot forget.
    IndexFlush,
    /// The index cannot be read while RAM fills from it.
    Recovery,
    /// A device takes neither loads nor stores for now.
    NvmeBreaker,
    /// A device takes no stores until a restart (INV-7).
    NvmePoisoned,
    /// A GPU takes nothing until a restart.
    HbmPoisoned,
    /// A GPU of the machine is not in the tier.
    HbmLeftOut,
}

impl Alarm {
    /// Every alarm there is.
    pub const ALL: [Self; 8] = [
        Self::Journal,
        Self::Index,
        Self::IndexFlush,
        Self::Recovery,
        Self::NvmeBreaker,
        Self::NvmePoisoned,
        Self::HbmPoisoned,
        Self::HbmLeftOut,
    ];

    /// The name in status, log, metrics and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Index => "index",
            Self::IndexFlush => "index_flush",
            Self::Recovery => "recovery",
            Self::NvmeBreaker => "nvme_breaker",
            Self::NvmePoisoned => "nvme_poisoned",
            Self::HbmPoisoned => "hbm_poisoned",
            Self::HbmLeftOut => "hbm_left_out",
        }
    }
}

/// An alarm and its sentence. Shown as `name: sentence`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaisedAlarm {
    /// Which.
    pub alarm: Alarm,
    /// The cause, and what to do.
    pub sentence: String,
}

impl fmt::Display for RaisedAlarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.alarm.name(), self.sentence)
    }
}

/// What was raised and lasts, one sentence per alarm. What the log and the devices say of themselves is not in here: it is
/// asked for, so that nobody is told that all is well a moment too early.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<BTreeMap<Alarm, String>>);

impl Alarms {
    pub(crate) fn raise(&self, alarm: Alarm, sentence: String) {
        self.raised().insert(alarm, sentence);
    }

    pub(crate) fn clear(&self, alarm: Alarm) {
        self.raised().remove(&alarm);
    }

    /// What was raised, and what the log and the devices say of themselves. `known`: whether anything the log may have
    /// missed is in it by now.
    pub(crate) fn all(&self, journal: &JournalStatus, known: bool, devices: &[DeviceHealth]) -> Vec<RaisedAlarm> {
        let raised = self.raised();
        let raised = raised.iter().map(|(alarm, sentence)| RaisedAlarm { alarm: *alarm, sentence: sentence.clone() });
        let raised = of_journal(&journal.state, known).into_iter().chain(raised);
        raised.chain(devices.iter().enumerate().filter_map(|(number, device)| of_device(number, device))).collect()
    }

    fn raised(&self) -> MutexGuard<'_, BTreeMap<Alarm, String>> {
        self.0.lock().expect("nobody panics while noting an alarm")
    }
}

fn of_journal(state: &JournalState, known: bool) -> Option<RaisedAlarm> {
    let sentence = match state {
        JournalState::Open if known => return None,
        JournalState::Open => {
            "the journal takes records again, and what it missed is being looked for: durable puts are \
             declined until that is done"
                .into()
        }
        JournalState::Suspended(cause) => {
            format!("the metadata disk takes no records ({cause}): durable puts are declined until there is room")
        }
        JournalState::Poisoned(cause) => {
            format!("the journal failed ({cause}): durable puts are declined; check the disk, then restart")
        }
    };
    Some(RaisedAlarm { alarm: Alarm::Journal, sentence })
}

fn of_device(number: usize, device: &DeviceHealth) -> Option<RaisedAlarm> {
    let detail = &device.detail;
    match device.state {
        DeviceState::Up => None,
        DeviceState::Tripped => Some(RaisedAlarm {
            alarm: Alarm::NvmeBreaker,
            sentence: format!(
                "device {number} is left alone for now ({detail}): its blocks are misses; check the drive"
            ),
        }),
        DeviceState::Poisoned => Some(RaisedAlarm {
            alarm: Alarm::NvmePoisoned,
            sentence: format!("device {number} takes no stores ({detail}): check or replace it, then restart"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(state: DeviceState) -> DeviceHealth {
        DeviceHealth {
            state,
            detail: "vdb".into(),
            in_flight_count: 0,
            queued_count: 0,
            read_bytes: 0,
            written_bytes: 0,
        }
    }

    fn journal(state: JournalState) -> JournalStatus {
        JournalStatus { epoch: 1, epoch_base_seq: 0, first_seq: 1, appended_seq: 0, durable_seq: 0, bytes: 0, state }
    }

    fn shown(alarms: &Alarms, state: JournalState, known: bool, devices: &[DeviceHealth]) -> Vec<String> {
        alarms.all(&journal(state), known, devices).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_alarm_lasts_until_it_is_cleared_and_keeps_its_latest_sentence() {
        let alarms = Alarms::default();
        alarms.raise(Alarm::Index, "first".into());
        alarms.raise(Alarm::Index, "second".into());
        assert_eq!(shown(&alarms, JournalState::Open, true, &[]), ["index: second"]);
        alarms.clear(Alarm::Index);
        assert_eq!(shown(&alarms, JournalState::Open, true, &[]), [] as [&str; 0]);
    }

    #[test]
    fn the_journal_is_an_alarm_until_nothing_it_missed_is_unknown() {
        let alarms = Alarms::default();
        let told = |state, known| shown(&alarms, state, known, &[]).join(" ");
        assert!(told(JournalState::Suspended("disk full".into()), true).contains("no records (disk full)"));
        assert!(told(JournalState::Poisoned("sync".into()), true).contains("then restart"));
        assert!(told(JournalState::Open, false).contains("takes records again"));
        assert_eq!(told(JournalState::Open, true), "");
    }

    #[test]
    fn a_device_that_is_not_up_is_an_alarm_of_its_own() {
        let devices = [DeviceState::Up, DeviceState::Tripped, DeviceState::Poisoned].map(device);
        let raised = shown(&Alarms::default(), JournalState::Open, true, &devices);
        let [tripped, poisoned] = raised.as_slice() else { panic!("{raised:?}") };
        assert!(tripped.starts_with("nvme_breaker: device 1"), "{raised:?}");
        assert!(poisoned.starts_with("nvme_poisoned: device 2 takes no stores (vdb)"), "{raised:?}");
    }

    #[test]
    fn no_two_alarms_share_a_name() {
        let names: std::collections::BTreeSet<_> = Alarm::ALL.iter().map(|alarm| alarm.name()).collect();
        assert_eq!(names.len(), Alarm::ALL.len());
    }
}
