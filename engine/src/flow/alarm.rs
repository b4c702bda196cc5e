//! What an operator should know of now: each condition has a name, which `docs/operating/alarms.md` explains, and a
//! sentence with the cause and what to do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use crate::port::{DeviceHealth, DeviceState};

/// A condition that needs attention. It is raised while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// The log takes no records: its disk is full, or a sync failed.
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
}

impl Alarm {
    /// Every alarm there is.
    pub const ALL: [Self; 6] =
        [Self::Journal, Self::Index, Self::IndexFlush, Self::Recovery, Self::NvmeBreaker, Self::NvmePoisoned];

    /// The name in status, log, metrics and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Index => "index",
            Self::IndexFlush => "index_flush",
            Self::Recovery => "recovery",
            Self::NvmeBreaker => "nvme_breaker",
            Self::NvmePoisoned => "nvme_poisoned",
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

/// What is raised now. At most one sentence per alarm, and one per device.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<BTreeMap<Alarm, String>>);

impl Alarms {
    pub(crate) fn raise(&self, alarm: Alarm, sentence: String) {
        self.raised().insert(alarm, sentence);
    }

    pub(crate) fn clear(&self, alarm: Alarm) {
        self.raised().remove(&alarm);
    }

    /// What was raised, and what the devices say of themselves.
    pub(crate) fn all(&self, devices: &[DeviceHealth]) -> Vec<RaisedAlarm> {
        let raised = self.raised();
        let raised = raised.iter().map(|(alarm, sentence)| RaisedAlarm { alarm: *alarm, sentence: sentence.clone() });
        raised.chain(devices.iter().enumerate().filter_map(|(number, device)| of_device(number, device))).collect()
    }

    fn raised(&self) -> MutexGuard<'_, BTreeMap<Alarm, String>> {
        self.0.lock().expect("nobody panics while noting an alarm")
    }
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

    #[test]
    fn an_alarm_lasts_until_it_is_cleared_and_keeps_its_latest_sentence() {
        let alarms = Alarms::default();
        alarms.raise(Alarm::Journal, "first".into());
        alarms.raise(Alarm::Journal, "second".into());
        let shown: Vec<String> = alarms.all(&[]).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["journal: second"]);
        alarms.clear(Alarm::Journal);
        assert_eq!(alarms.all(&[]), []);
    }

    #[test]
    fn a_device_that_is_not_up_is_an_alarm_of_its_own() {
        let devices = [DeviceState::Up, DeviceState::Tripped, DeviceState::Poisoned].map(device);
        let raised = Alarms::default().all(&devices);
        let alarms: Vec<Alarm> = raised.iter().map(|raised| raised.alarm).collect();
        assert_eq!(alarms, [Alarm::NvmeBreaker, Alarm::NvmePoisoned]);
        assert!(
            raised[0].sentence.contains("device 1") && raised[1].sentence.contains("device 2 takes no stores (vdb)")
        );
    }

    #[test]
    fn no_two_alarms_share_a_name() {
        let names: std::collections::BTreeSet<_> = Alarm::ALL.iter().map(|alarm| alarm.name()).collect();
        assert_eq!(names.len(), Alarm::ALL.len());
    }
}
