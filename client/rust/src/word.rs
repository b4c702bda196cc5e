//! The wire's enumerations as the words people and programs read: `host`, `never_stored`, `host_full`.

use crate::wire;

/// The word for a tier, e.g. `nvme`; `unknown` for a number this client does not know.
pub fn tier(tier: i32) -> String {
    wire::Tier::try_from(tier).map_or_else(|_| "unknown".into(), |tier| strip(tier.as_str_name(), "TIER_"))
}

/// The word for why a block missed, e.g. `never_stored`.
pub fn miss_reason(reason: i32) -> String {
    wire::MissReason::try_from(reason)
        .map_or_else(|_| "unknown".into(), |reason| strip(reason.as_str_name(), "MISS_REASON_"))
}

/// The word for why a put was refused, e.g. `host_full`.
pub fn decline_reason(reason: i32) -> String {
    wire::DeclineReason::try_from(reason)
        .map_or_else(|_| "unknown".into(), |reason| strip(reason.as_str_name(), "DECLINE_REASON_"))
}

/// The word for what a client made of a request, e.g. `declined`.
pub fn verdict(verdict: i32) -> String {
    wire::Verdict::try_from(verdict)
        .map_or_else(|_| "unknown".into(), |verdict| strip(verdict.as_str_name(), "VERDICT_"))
}

fn strip(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_word() {
        assert_eq!(tier(wire::Tier::Nvme as i32), "nvme");
        assert_eq!(miss_reason(wire::MissReason::NeverStored as i32), "never_stored");
        assert_eq!(decline_reason(wire::DeclineReason::HostFull as i32), "host_full");
        assert_eq!(tier(0), "unspecified");
        assert_eq!(miss_reason(999), "unknown");
    }
}
