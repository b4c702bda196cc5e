use proptest::prelude::*;

use super::*;

#[test]
fn sizes_are_read_in_every_documented_form() {
    let forms = [
        ("4096", 4096),
        ("1k", 1024),
        ("64KiB", 65_536),
        ("1MiB", 1 << 20),
        ("1M", 1 << 20),
        ("1m", 1 << 20),
        ("1 MiB", 1 << 20),
        ("1MB", 1_000_000),
        ("2G", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("0.25k", 256),
        ("3T", 3 << 40),
        ("0", 0),
    ];
    for (text, bytes) in forms {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn what_is_no_size_is_refused() {
    for text in ["", "M", "-1", "1e6", "1 M B", "0x10", "1.M", ".5M", "1.3", "1.0001k", "1Z", "99999999999T", "１M"] {
        assert!(parse_size(text).is_err(), "{text:?} was read as {:?}", parse_size(text));
    }
}

#[test]
fn a_block_has_1_byte_to_64_mib() {
    assert_eq!(parse_block_size("64MiB"), Ok(64 << 20));
    for text in ["0", "67108865", "65M", "8G"] {
        assert!(parse_block_size(text).is_err(), "{text}");
    }
}

#[test]
fn times_need_a_unit() {
    assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(parse_time("2h"), Ok(Duration::from_secs(7200)));
    for text in ["5", "", "0s", "-1s", "1w", "s"] {
        assert!(parse_time(text).is_err(), "{text}");
    }
}

#[test]
fn amounts_are_short_and_exact_where_it_matters() {
    let sizes = [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB")];
    for (bytes, shown) in sizes.into_iter().chain([(1_048_575, "1.0 MiB"), (700 << 20, "700 MiB")]) {
        assert_eq!(show_size(bytes), shown, "{bytes}");
    }
    let counts = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
    for (count, shown) in counts {
        assert_eq!(show_count(count), shown);
    }
    let times =
        [(850, "850 µs"), (1_500, "1.5 ms"), (250_000, "250 ms"), (12_340_000, "12.3 s"), (61_000_000, "1 m 1 s")];
    for (us, shown) in times.into_iter().chain([(7_320_000_000, "2 h 2 m"), (90_000_000_000, "1 d 1 h")]) {
        assert_eq!(show_time(Duration::from_micros(us)), shown);
    }
    assert_eq!(show_percent(1, 3), "33.3 %");
    assert_eq!(show_percent(0, 0), "-");
}

proptest! {
    #[test]
    fn no_text_panics_a_parser(text in ".{0,20}") {
        let _ = (parse_size(&text), parse_time(&text), parse_block_size(&text));
    }

    #[test]
    fn a_plain_number_is_itself(bytes: u64) {
        prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        prop_assert_eq!(show_count(bytes).replace(',', ""), bytes.to_string());
    }
}
