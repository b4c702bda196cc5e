//! Sizes, durations and shares as people write them, read and printed without loss.
//!
//! A number without a unit is refused (except 0): `bytes = 64` says nothing about what was meant. Sizes know decimal
//! (`GB`) and binary (`GiB`) units; printing uses the largest binary unit that divides the value.

use std::time::Duration;

/// 1 KiB in bytes.
pub const KIB: u64 = 1 << 10;
/// 1 MiB in bytes.
pub const MIB: u64 = 1 << 20;
/// 1 GiB in bytes.
pub const GIB: u64 = 1 << 30;
/// 1 TiB in bytes.
pub const TIB: u64 = 1 << 40;

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("TiB", TIB),
];

/// Units of time in nanoseconds, smallest first.
const TIMES: &[(&str, u64)] = &[
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// How sizes may be written.
pub const SIZE_FORMS: &str = "a size with a unit, such as \"512MiB\", \"4GiB\" or \"100GB\"";
/// How durations may be written.
pub const DURATION_FORMS: &str =
    "a duration with a unit, such as \"500us\", \"5ms\", \"30s\", \"10min\", \"12h\" or \"7d\"";
/// How shares may be written.
pub const PERCENT_FORMS: &str = "a percentage from \"0%\" to \"100%\"";

/// Reads a size in bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = parse_scaled(text, SIZES, SIZE_FORMS)?;
    u64::try_from(bytes).map_err(|_| format!("is larger than 16EiB; write {SIZE_FORMS}"))
}

/// Reads a duration. Finest step: one nanosecond; longest: about 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let nanos = parse_scaled(text, TIMES, DURATION_FORMS)?;
    let nanos = u64::try_from(nanos).map_err(|_| format!("is longer than 500 years; write {DURATION_FORMS}"))?;
    Ok(Duration::from_nanos(nanos))
}

/// Reads a share between 0 and 1.
pub fn parse_percent(text: &str) -> Result<f64, String> {
    let refused = || format!("is not {PERCENT_FORMS}");
    let number = text.trim().strip_suffix('%').ok_or_else(refused)?.trim_end();
    let percent: f64 = number.parse().map_err(|_| refused())?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(refused());
    }
    Ok(percent / 100.0)
}

/// Prints bytes so that [`parse_size`] reads the same value back.
pub fn show_size(bytes: u64) -> String {
    show_scaled(bytes, &[("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)])
}

/// Prints bytes for a sentence: rounded to a tenth of the largest unit.
pub fn show_size_about(bytes: u64) -> String {
    for (unit, scale) in [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
        if bytes >= scale {
            return format!("{:.1} {unit}", bytes as f64 / scale as f64);
        }
    }
    format!("{bytes} B")
}

/// Prints a duration so that [`parse_duration`] reads the same value back (whole microseconds).
pub fn show_duration(time: Duration) -> String {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / 1_000 * 1_000;
    let largest_first: Vec<(&str, u64)> = TIMES.iter().rev().copied().collect();
    if nanos == 0 { "0s".to_owned() } else { show_scaled(nanos, &largest_first) }
}

/// Prints a share.
pub fn show_percent(share: f64) -> String {
    let percent = (share * 100_000.0).round() / 1_000.0;
    format!("{percent}%")
}

fn show_scaled(value: u64, largest_first: &[(&str, u64)]) -> String {
    if value == 0 {
        let smallest = largest_first.last().map_or("", |unit| unit.0);
        return format!("0{smallest}");
    }
    for (unit, scale) in largest_first {
        if value.is_multiple_of(*scale) {
            return format!("{}{unit}", value / scale);
        }
    }
    format!("{value}")
}

/// `12.5GiB` and the like: a decimal number times a unit, computed in integers so that nothing is rounded silently.
fn parse_scaled(text: &str, units: &[(&str, u64)], forms: &str) -> Result<u128, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(format!("is negative; write {forms}"));
    }
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = (&text[..digits_end], text[digits_end..].trim());
    if number.is_empty() {
        return Err(format!("is not {forms}"));
    }
    if unit.is_empty() && number == "0" {
        return Ok(0);
    }
    let scale = units.iter().find(|known| known.0 == unit).map(|known| known.1);
    let Some(scale) = scale else {
        return Err(unknown_unit(unit, units, forms));
    };
    scaled(&number.replace('_', ""), scale).ok_or_else(|| format!("is not {forms}"))
}

fn unknown_unit(unit: &str, units: &[(&str, u64)], forms: &str) -> String {
    let near = units.iter().find(|known| known.0.eq_ignore_ascii_case(unit));
    match (unit.is_empty(), near) {
        (true, _) => format!("has no unit; write {forms}"),
        (false, Some((known, _))) => format!("has the unit \"{unit}\", perhaps \"{known}\" was meant; write {forms}"),
        (false, None) => format!("has the unknown unit \"{unit}\"; write {forms}"),
    }
}

fn scaled(number: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 || whole.len() > 20 {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let fraction_value: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole * u128::from(scale) + fraction_value * u128::from(scale) / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        for (text, bytes) in [
            ("4GiB", 4 * GIB),
            ("4 GiB", 4 * GIB),
            ("1.5MiB", 3 * MIB / 2),
            ("100GB", 100_000_000_000),
            ("0", 0),
            ("4_096B", 4096),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_size_without_a_unit_is_refused_with_the_allowed_forms() {
        let told = parse_size("4096").unwrap_err();
        assert!(told.contains("has no unit") && told.contains("4GiB"), "{told}");
    }

    #[test]
    fn a_unit_in_the_wrong_case_names_the_right_one() {
        let told = parse_size("4gib").unwrap_err();
        assert!(told.contains("\"GiB\" was meant"), "{told}");
    }

    #[test]
    fn a_duration_is_not_a_size_and_a_size_is_not_a_duration() {
        assert!(parse_size("5ms").unwrap_err().contains("unknown unit \"ms\""));
        assert!(parse_duration("5MiB").unwrap_err().contains("unknown unit \"MiB\""));
    }

    #[test]
    fn negative_and_absurd_values_are_refused() {
        for text in ["-1GiB", "", "GiB", "1.2.3GiB", "99999999999999999999999GiB", "1e9B", "20000000TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_duration("-5ms").unwrap_err().contains("negative"));
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_value() {
        for bytes in [0, 1, 4096, 3 * MIB / 2, 17 * GIB, TIB, u64::MAX] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        for micros in [0, 1, 1500, 5_000, 30_000_000, 86_400_000_000] {
            let time = Duration::from_micros(micros);
            assert_eq!(parse_duration(&show_duration(time)), Ok(time));
        }
        assert_eq!(parse_percent(&show_percent(0.125)), Ok(0.125));
    }

    #[test]
    fn a_share_lies_between_0_and_100_percent() {
        assert_eq!(parse_percent("20%"), Ok(0.2));
        for text in ["20", "120%", "-1%", "NaN%", "%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }
}
