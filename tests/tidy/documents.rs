//! Documents that name what the code has: alarms, metrics and settings. What is named must exist, and what exists must
//! be named.

use std::collections::BTreeSet;

use kvtier_engine::flow::alarm::Alarm;

use crate::source::root;
use crate::{Finding, assert_none};

/// Pages for operators.
const PAGES: [&str; 6] = ["alarms.md", "cli.md", "configure.md", "install.md", "metrics.md", "monitor.md"];

fn page(name: &str) -> String {
    let path = root().join("docs/operating").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// First cells of a table's rows, as far as they are one code span: `name` or `name{labels}`.
fn rows(text: &str) -> BTreeSet<String> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(cell, _)| cell));
    cells.map(|cell| cell.split('{').next().unwrap_or(cell).to_owned()).collect()
}

/// Findings for names in one set and not in the other.
fn differences(at: &str, documented: &BTreeSet<String>, real: &BTreeSet<String>) -> Vec<Finding> {
    let stale = documented.difference(real).map(|name| Finding::new(at, format!("{name} is documented and not there")));
    let silent = real.difference(documented).map(|name| Finding::new(at, format!("{name} is not documented")));
    stale.chain(silent).collect()
}

/// Words of a text that begin like a metric.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("kvtier_")).map(ToOwned::to_owned).collect()
}

/// Metrics a page asks for that the table of metrics does not have. A histogram has three series.
fn unknown_metrics(at: &str, text: &str, known: &BTreeSet<String>) -> Vec<Finding> {
    let series =
        |name: &str| ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
    let names = metric_names(text).into_iter();
    let unknown =
        names.filter(|name| !known.contains(name) && !series(name).is_some_and(|family| known.contains(&family)));
    unknown.map(|name| Finding::new(at, format!("{name} is no metric; metrics.md has them all"))).collect()
}

/// Code spans that look like a setting, `section.key`, and name none.
fn unknown_settings(at: &str, text: &str, known: &BTreeSet<String>) -> Vec<Finding> {
    let sections: BTreeSet<&str> = known.iter().filter_map(|path| Some(path.split_once('.')?.0)).collect();
    let spans = text.split('`').skip(1).step_by(2).map(|span| span.split([' ', '=']).next().unwrap_or(span));
    let named = spans.filter(|span| {
        let shaped =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        span.split_once('.').is_some_and(|(section, key)| sections.contains(section) && shaped(key))
    });
    let unknown = named.filter(|span| !known.contains(*span));
    unknown.map(|span| Finding::new(at, format!("{span} is no setting; settings.md has them all"))).collect()
}

fn known_settings() -> BTreeSet<String> {
    let text = page("settings.md");
    let titles = text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    titles.map(ToOwned::to_owned).collect()
}

#[test]
fn every_alarm_is_documented_and_no_other() {
    let text = page("alarms.md");
    let own = text.split("\n## ").find(|part| part.starts_with("What the node raises")).expect("the section is there");
    let real = Alarm::ALL.iter().map(|alarm| alarm.name().to_owned()).collect();
    assert_none(&differences("docs/operating/alarms.md", &rows(own), &real));
}

#[test]
fn pages_ask_for_metrics_and_settings_that_exist() {
    let (metrics, settings) = (rows(&page("metrics.md")), known_settings());
    assert!(metrics.len() > 30 && settings.len() > 30, "{} metrics, {} settings", metrics.len(), settings.len());
    let findings = PAGES.iter().flat_map(|name| {
        let (text, at) = (page(name), format!("docs/operating/{name}"));
        [unknown_metrics(&at, &text, &metrics), unknown_settings(&at, &text, &settings)].concat()
    });
    assert_none(&findings.collect::<Vec<_>>());
}

#[test]
fn a_stale_a_silent_and_an_unknown_name_are_found() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(rows("| `a{tier}` | x |\n| b | `c` |\n| `d` | |"), set(&["a", "d"]));
    assert_eq!(differences("page", &set(&["a", "b"]), &set(&["b", "c"])).len(), 2);
    let text = "rate(kvtier_x_total[5m]) / kvtier_seconds_bucket + kvtier_y";
    assert_eq!(unknown_metrics("page", text, &set(&["kvtier_x_total", "kvtier_seconds"])).len(), 1);
    let text = "set `nvme.bytes = 1`, `nvme.bites`, not `nvme-0.kv` or `kvtier.toml`";
    assert_eq!(unknown_settings("page", text, &set(&["nvme.bytes", "host.bytes"])).len(), 1);
}
