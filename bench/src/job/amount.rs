//! Sizes and durations as fio writes them.
//!
//! `k`, `m`, `g`, `t` and `KiB` to `TiB` are powers of 1024, `KB` to `TB` of 1000; durations have a unit or the one that
//! fio takes them in.

use std::time::Duration;

const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
];

/// Bytes, at least 1.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write 4096, 256k, 1m or 2GiB");
    let (digits, unit) = split(text);
    let unit = UNITS.iter().find(|(name, _)| *name == unit.to_ascii_lowercase()).ok_or_else(wrong)?.1;
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * unit as f64;
    match bytes >= 1.0 && bytes <= (1_u64 << 50) as f64 {
        true => Ok(bytes as u64),
        false => Err(format!("{text:?} is out of bounds; a size has 1 byte to 1024 TiB")),
    }
}

/// The same as a person writes it, exactly.
pub fn show_bytes(bytes: u64) -> String {
    let units = [("t", 40), ("g", 30), ("m", 20), ("k", 10)];
    let whole = units.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    whole.map_or_else(|| bytes.to_string(), |(name, shift)| format!("{}{name}", bytes >> shift))
}

/// A duration; without a unit in `unit`.
pub fn parse_duration(text: &str, unit: Duration) -> Result<Duration, String> {
    let (digits, name) = split(text);
    let seconds = match name {
        "" => unit.as_secs_f64(),
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is no duration; write 500us, 5ms, 30s, 10m or 1h")),
    };
    let number: f64 =
        digits.parse().map_err(|_| format!("{text:?} is no duration; write 500us, 5ms, 30s, 10m or 1h"))?;
    // Microseconds are as fine as it gets, so that what was written can be written again.
    let micros = (number * seconds * 1e6).round();
    match (0.0..=86_400e6).contains(&micros) {
        true => Ok(Duration::from_micros(micros as u64)),
        false => Err(format!("{text:?} is out of bounds; a duration has at most a day")),
    }
}

/// The same as a person writes it, exactly.
pub fn show_duration(duration: Duration) -> String {
    match duration.as_micros() {
        micros if micros % 1_000_000 == 0 => format!("{}s", micros / 1_000_000),
        micros if micros % 1_000 == 0 => format!("{}ms", micros / 1_000),
        micros => format!("{micros}us"),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_fio_reads_them() {
        for (text, bytes) in
            [("4096", 4096), ("4k", 4096), ("1M", 1 << 20), ("2GiB", 2 << 30), ("1.5m", 3 << 19), ("1KB", 1000)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "0", "4q", "1e9", "9999999t", "4 k k"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_in_the_unit_of_their_key_or_their_own() {
        let second = Duration::from_secs(1);
        for (text, micros) in [("30", 30_000_000), ("5ms", 5_000), ("1.5s", 1_500_000), ("2m", 120_000_000)] {
            assert_eq!(parse_duration(text, second), Ok(Duration::from_micros(micros)), "{text}");
        }
        assert_eq!(parse_duration("7", Duration::from_micros(1)), Ok(Duration::from_micros(7)));
        for text in ["", "s", "5x", "-1s", "25h", "NaN"] {
            assert!(parse_duration(text, second).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [1, 1000, 1024, 1025, 3 << 19, 1 << 30, 5 << 40] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Ok(bytes));
        }
        for micros in [0, 1, 1_000, 1_001, 1_000_000, 90_000_000] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&show_duration(duration), Duration::from_secs(9)), Ok(duration));
        }
    }
}
