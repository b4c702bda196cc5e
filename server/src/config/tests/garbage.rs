//! Whatever is written in a file, a variable or a flag: an answer, never a panic, and never a value out of its bound.

use proptest::prelude::*;

use super::super::value::Value;
use super::*;

/// Text that is nearly a configuration: real keys and units, shuffled with rubbish.
fn nearly_toml() -> impl Strategy<Value = String> {
    let paths: Vec<String> = settings().map(|setting| setting.path()).collect();
    let key = prop_oneof![
        proptest::sample::select(paths),
        "[a-z_.]{0,12}",
        Just("[host]\n".to_owned()),
        Just("[[nvme]]\n".to_owned()),
    ];
    let line = (key, nearly_value()).prop_map(|(key, value)| format!("{key} = {value}\n"));
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

fn nearly_value() -> impl Strategy<Value = String> {
    let number =
        prop_oneof![any::<i128>().prop_map(|number| number.to_string()), "[0-9.eE+-]{1,30}", Just(String::new())];
    let unit =
        proptest::sample::select(vec!["", "B", "KiB", "MiB", "GiB", "TiB", "GB", "%", "us", "ms", "s", "d", "é", " "]);
    prop_oneof![
        (number, unit).prop_map(|(number, unit)| format!("\"{number}{unit}\"")),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        Just("true".to_owned()),
        Just("[\"a\", 1, {}]".to_owned()),
        Just("[]".to_owned()),
        Just("2026-01-01".to_owned()),
        "\\PC{0,20}",
    ]
}

/// Every value that stands is one the table allows, whatever was refused on the way.
fn assert_within_bounds(reading: &Reading) {
    for setting in settings() {
        let value: Value = reading.resolved.values.get(&setting.path()).expect("every setting has a value").clone();
        let is_default = reading.origin(&setting.path()) == Origin::Preset;
        assert!(is_default || setting.bound.refuses(setting.kind, &value).is_none(), "{} = {value:?}", setting.path());
    }
}

proptest! {
    #[test]
    fn any_file_gets_an_answer(text in prop_oneof!["\\PC{0,200}", nearly_toml()]) {
        let (_folder, sources) = file(&text);
        assert_within_bounds(&Config::read(&sources, false, &machine()));
    }

    #[test]
    fn any_flag_and_any_variable_get_an_answer(at in 0..settings().count(), text in nearly_value(), raw in "\\PC{0,30}") {
        let setting = settings().nth(at).expect("within the count");
        for text in [text.trim_matches('"'), &raw] {
            let mut sources = flags(&[(&setting.path(), text)]);
            sources.environment.push((setting.variable(), raw.clone()));
            let reading = Config::read(&sources, false, &machine());
            assert_within_bounds(&reading);
            prop_assert!(!reading.problems.is_empty() || reading.origin(&setting.path()) != Origin::Preset);
        }
    }

    #[test]
    fn any_size_printed_reads_back(bytes: u64) {
        prop_assert_eq!(super::super::unit::parse_size(&super::super::unit::show_size(bytes)), Ok(bytes));
    }
}
