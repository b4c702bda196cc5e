//! Who may depend on whom (docs/ARCHITECTURE.md).

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::source::{self, Source};
use crate::{Finding, assert_none};

/// What one crate may depend on inside the workspace.
struct Allowed {
    name: &'static str,
    /// For its product and its tests alike.
    product: &'static [&'static str],
}

const ALLOWED: &[Allowed] = &[
    allowed("kvtier-identity", &[]),
    allowed("kvtier-engine", &["kvtier-identity"]),
    allowed("kvtier-device", &[]),
    allowed("kvtier-hbm", &["kvtier-engine", "kvtier-identity"]),
    allowed("kvtier-host", &["kvtier-engine", "kvtier-identity"]),
    allowed("kvtier-nvme", &["kvtier-engine", "kvtier-identity", "kvtier-device"]),
    allowed("kvtier-wal", &["kvtier-engine", "kvtier-identity", "kvtier-device"]),
    allowed("kvtier-index", &["kvtier-engine", "kvtier-identity"]),
    allowed("kvtier-proto", &[]),
    allowed("kvtier-ring", &[]),
    allowed(
        "kvtierd",
        &[
            "kvtier-engine",
            "kvtier-identity",
            "kvtier-device",
            "kvtier-hbm",
            "kvtier-host",
            "kvtier-nvme",
            "kvtier-wal",
            "kvtier-index",
            "kvtier-proto",
            "kvtier-ring",
        ],
    ),
    allowed("kvtier-client", &["kvtier-proto", "kvtier-ring", "kvtier-identity"]),
    allowed("kvtier", &["kvtier-proto", "kvtier-identity", "kvtier-client"]),
    allowed("kvtier-python", &["kvtier-identity", "kvtier-client"]),
    allowed("kvtier-bench", &["*"]),
    allowed("kvtier-tests", &["*"]),
];

/// Crates nothing may depend on.
const LEAVES: &[&str] = &["kvtier", "kvtier-python", "kvtier-bench", "kvtier-tests"];

/// The engine decides; it neither waits nor touches the world. Runtimes and system crates it must never see.
const PURE: &[&str] = &["kvtier-engine", "kvtier-identity"];
const IMPURE: &[&str] =
    &["tokio", "tokio-uring", "io-uring", "rustix", "libc", "nix", "rocksdb", "tonic", "hyper", "rand", "getrandom"];

/// Crates that only the assembly may name inside the daemon.
const CONCRETE: &[&str] = &["kvtier_device", "kvtier_hbm", "kvtier_host", "kvtier_nvme", "kvtier_wal", "kvtier_index"];

const fn allowed(name: &'static str, product: &'static [&'static str]) -> Allowed {
    Allowed { name, product }
}

/// One dependency as declared.
#[derive(Debug, Clone)]
struct Arrow {
    from: String,
    to: String,
    for_tests: bool,
}

fn arrows(metadata: &Metadata) -> (Vec<String>, Vec<Arrow>) {
    let members = metadata.workspace_packages();
    let names = members.iter().map(|package| package.name.to_string()).collect();
    let arrows = members.iter().flat_map(|package| {
        package.dependencies.iter().map(|dependency| Arrow {
            from: package.name.to_string(),
            to: dependency.name.clone(),
            for_tests: dependency.kind == DependencyKind::Development,
        })
    });
    (names, arrows.collect())
}

fn check(members: &[String], arrows: &[Arrow]) -> Vec<Finding> {
    let table: BTreeMap<&str, &Allowed> = ALLOWED.iter().map(|allowed| (allowed.name, allowed)).collect();
    let unknown = members.iter().filter(|name| !table.contains_key(name.as_str()));
    let mut findings: Vec<Finding> = unknown
        .map(|name| Finding::new(name, "is not in the table of tests/tidy/arrows.rs; say what it may depend on"))
        .collect();
    for arrow in arrows {
        let Some(allowed) = table.get(arrow.from.as_str()) else {
            continue;
        };
        let inside = members.contains(&arrow.to);
        let to = arrow.to.as_str();
        let in_list = allowed.product.contains(&"*") || allowed.product.contains(&to);
        if inside && (!in_list || LEAVES.contains(&to)) {
            findings.push(Finding::new(&arrow.from, format!("must not depend on {to} (docs/ARCHITECTURE.md)")));
        }
        if PURE.contains(&arrow.from.as_str()) && IMPURE.contains(&to) && !arrow.for_tests {
            findings.push(Finding::new(&arrow.from, format!("is pure and must not depend on {to}; make a port")));
        }
    }
    findings
}

/// Where concrete tiers may be named: the live node's assembly, and the offline check of the same files.
const ASSEMBLIES: [&str; 2] = ["server/src/assemble", "server/src/fsck"];

/// Inside the daemon only `assemble` may name concrete tiers.
fn check_assembly(source: &Source) -> Vec<Finding> {
    let inside = source.path.starts_with("server/src/") && source.is_rust() && !source.is_test();
    if !inside || ASSEMBLIES.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let tokens = match crate::tokens::tokens(&source.text) {
        Ok(tokens) => tokens,
        Err(why) => return vec![Finding::new(&source.path, why)],
    };
    let named = tokens.iter().filter(|token| CONCRETE.contains(&token.text.as_str()));
    named
        .map(|token| {
            Finding::new(
                format!("{}:{}", source.path, token.line),
                format!("only server/src/assemble and server/src/fsck may name {}", token.text),
            )
        })
        .collect()
}

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let metadata = MetadataCommand::new().manifest_path(source::root().join("Cargo.toml")).no_deps().exec().unwrap();
    let (members, arrows) = arrows(&metadata);
    assert!(members.len() >= 13 && arrows.len() > 50, "cargo metadata says little: {members:?}");
    assert_none(&check(&members, &arrows));
}

#[test]
fn only_the_assembly_names_concrete_tiers() {
    assert_none(&source::rust().iter().flat_map(check_assembly).collect::<Vec<_>>());
}

#[cfg(test)]
fn arrow(from: &str, to: &str, for_tests: bool) -> Arrow {
    Arrow { from: from.to_owned(), to: to.to_owned(), for_tests }
}

#[test]
fn wrong_arrows_are_found() {
    let members: Vec<String> = ALLOWED.iter().map(|allowed| allowed.name.to_owned()).collect();
    for (from, to) in [
        ("kvtier-client", "kvtier-engine"),
        ("kvtier-nvme", "kvtier-host"),
        ("kvtier-engine", "kvtier-wal"),
        ("kvtier-engine", "tokio"),
        ("kvtier-tests", "kvtier-bench"),
    ] {
        assert_eq!(check(&members, &[arrow(from, to, false)]).len(), 1, "{from} -> {to}");
    }
    assert_eq!(check(&members, &[arrow("kvtier-host", "kvtier-device", true)]).len(), 1, "tests are no way around");
    assert_eq!(check(&members, &[arrow("kvtier-nvme", "kvtier-device", false)]), []);
    assert_eq!(check(&["kvtier-new".to_owned()], &[]).len(), 1);
}

#[test]
fn a_concrete_tier_outside_the_assembly_is_found() {
    let text = "use kvtier_nvme::Nvme;\n// kvtier_wal in a comment\n";
    assert_eq!(check_assembly(&Source::made_up("server/src/service/put.rs", text)).len(), 1);
    assert_eq!(check_assembly(&Source::made_up("server/src/assemble/tiers.rs", text)), []);
}
