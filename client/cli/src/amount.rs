//! Sizes, times and counts as people write and read them: one parser and one printer for each.
//!
//! Sizes: `4096`, `64KiB`, `1MiB`, `2G`. One letter and the `iB` form are powers of 1024 (as in fio and dd), the `B`
//! form is decimal: `1M` = `1MiB` = 1,048,576, `1MB` = 1,000,000. Times: `250ms`, `30s`, `5m`, `2h`, `1d`.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 13] = [
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

const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a size in bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, &SIZE_UNITS).ok_or_else(|| "write a size such as 4096, 64KiB, 1MiB or 2G".to_owned())
}

/// Reads the size of a block: 1 byte to 64 MiB.
pub(crate) fn parse_block_size(text: &str) -> Result<u32, String> {
    match u32::try_from(parse_size(text)?) {
        Ok(bytes @ 1..=0x400_0000) => Ok(bytes),
        _ => Err("a block has 1 byte to 64MiB".to_owned()),
    }
}

/// Reads a time of at least a millisecond. A bare number is refused: nobody knows its unit.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    match parse(text, &TIME_UNITS) {
        Some(ms @ 1..) => Ok(Duration::from_millis(ms)),
        _ => Err("write a time such as 250ms, 30s, 5m or 2h".to_owned()),
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let scale = units.iter().find(|(name, _)| *name == unit)?.1;
    let Some((whole, fraction)) = number.split_once('.') else {
        return number.parse::<u64>().ok()?.checked_mul(scale);
    };
    scale_fraction(whole, fraction, scale)
}

/// `1.5` of a unit, exactly: what is not a whole number of the smallest unit is refused.
fn scale_fraction(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let ten = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale);
    if part % u128::from(ten) != 0 {
        return None;
    }
    let part = u64::try_from(part / u128::from(ten)).ok()?;
    whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(part)
}

/// Prints a size with three digits at most: `640 B`, `1.5 GiB`.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(value < 99.95 && value.fract() != 0.0);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Prints a count with separators: `12,345`.
pub(crate) fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Prints how many there are of something: `1 block`, `12,345 blocks`.
pub(crate) fn show_counted(count: u64, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {one}{plural}", show_count(count))
}

/// Prints a duration with its two largest units: `850 µs`, `12.3 s`, `3 h 5 m`.
pub(crate) fn show_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time < Duration::from_millis(1) => format!("{} µs", time.as_micros()),
        0 if time < Duration::from_millis(100) => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} m {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Prints a part of a whole: `33.9 %`; nothing of nothing is `-`.
pub(crate) fn show_percent(part: u64, whole: u64) -> String {
    percent(part, whole).map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1} %"))
}

/// A part of a whole in percent, if there is a whole.
pub(crate) fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

#[cfg(test)]
mod tests;
