//! Every manifest takes lints, edition and version from the workspace, and there is one profile.

use toml::Table;

use crate::source::{self, Source};
use crate::{Finding, assert_none};

const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

fn check(source: &Source) -> Vec<Finding> {
    let table: Table = match source.text.parse() {
        Ok(table) => table,
        Err(error) => return vec![Finding::new(&source.path, format!("is not TOML: {error}"))],
    };
    let is_root = table.contains_key("workspace");
    let mut findings = Vec::new();
    let mut tell = |what: String| findings.push(Finding::new(&source.path, what));
    let inherits = |section: &str, key: &str| {
        let value = table.get(section).and_then(|section| section.get(key));
        value.and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
    };
    if is_root {
        let profiles = table.get("profile").and_then(toml::Value::as_table).into_iter().flatten();
        for (name, _) in profiles.filter(|(name, _)| *name != "release") {
            tell(format!("has a second profile, {name}; RocksDB would be built once more"));
        }
        return findings;
    }
    let lints = table.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
    if lints != Some(true) {
        tell("lacks [lints] workspace = true".to_owned());
    }
    for key in INHERITED.iter().filter(|key| !inherits("package", key)) {
        tell(format!("must take {key} from the workspace: {key}.workspace = true"));
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let dependencies = table.get(section).and_then(toml::Value::as_table).into_iter().flatten();
        for (name, _) in dependencies.filter(|(name, _)| !inherits(section, name)) {
            tell(format!("must take {name} from [workspace.dependencies]: {name}.workspace = true"));
        }
    }
    findings
}

#[test]
fn every_manifest_takes_from_the_workspace() {
    let manifests: Vec<Source> = source::all()
        .into_iter()
        .filter(|source| source.path == "Cargo.toml" || source.path.ends_with("/Cargo.toml"))
        .collect();
    assert!(manifests.len() >= 14);
    assert_none(&manifests.iter().flat_map(check).collect::<Vec<_>>());
}

#[cfg(test)]
const GOOD: &str = concat!(
    "[package]\nname = \"x\"\nversion.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n",
    "license.workspace = true\npublish.workspace = true\n[lints]\nworkspace = true\n[dependencies]\nbytes.workspace = true\n"
);

#[test]
fn a_manifest_that_goes_its_own_way_is_found() {
    assert_eq!(check(&Source::made_up("x/Cargo.toml", GOOD)), []);
    for (from, to) in [
        ("[lints]\nworkspace = true\n", ""),
        ("edition.workspace = true", "edition = \"2021\""),
        ("bytes.workspace = true", "bytes = \"1\""),
        ("bytes.workspace = true", "bytes = { version = \"1\", features = [] }"),
        ("[dependencies]", "[dev-dependencies]\nfoo = \"1\"\n[dependencies]"),
    ] {
        assert_eq!(check(&Source::made_up("x/Cargo.toml", &GOOD.replace(from, to))).len(), 1, "{to}");
    }
    assert_eq!(check(&Source::made_up("Cargo.toml", "[workspace]\n[profile.bench]\n")).len(), 1);
    assert_eq!(check(&Source::made_up("Cargo.toml", "[workspace")).len(), 1);
}
