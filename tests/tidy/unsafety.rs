//! Unsafe code only where memory is shared with a device or another process.

use cargo_metadata::{MetadataCommand, TargetKind};

use crate::source::{self, Source};
use crate::tokens::{lines_of, tokens};
use crate::{Finding, assert_none};

/// Places that may: the NVMe device layer, the host arena, GPU memory, the rings and the arena in a local worker, views for
/// Python.
const ALLOWED: &[&str] = &[
    "tiers/device/",
    "tiers/host/",
    "tiers/hbm/",
    "proto/ring/src/memory.rs",
    "client/rust/src/local/mapping.rs",
    "client/python/src/memory/",
];

/// Crates of which one place may: their root denies instead of forbidding, so that the place can say so.
const DENYING: &[&str] = &["client/rust/src/lib.rs", "client/python/src/lib.rs", "proto/ring/src/lib.rs"];

fn is_allowed(path: &str) -> bool {
    ALLOWED.iter().any(|folder| path.starts_with(folder))
}

/// No `unsafe` token outside the allowed folders, macros and tests included.
fn check(source: &Source) -> Vec<Finding> {
    if is_allowed(&source.path) {
        return Vec::new();
    }
    match tokens(&source.text) {
        Err(why) => vec![Finding::new(&source.path, why)],
        Ok(tokens) => lines_of(&tokens, "unsafe")
            .into_iter()
            .map(|line| {
                Finding::new(
                    format!("{}:{line}", source.path),
                    "unsafe is allowed only in tiers/device, tiers/host, tiers/hbm, the ring, the local client's mapping and Python's views",
                )
            })
            .collect(),
    }
}

/// A crate's root must forbid what its folder may not have.
fn check_root(source: &Source) -> Vec<Finding> {
    if is_allowed(&source.path) {
        return Vec::new();
    }
    let tokens = tokens(&source.text).unwrap_or_default();
    let level = if DENYING.contains(&source.path.as_str()) { "deny" } else { "forbid" };
    let says_so = !lines_of(&tokens, &format!("# ! [ {level} ( unsafe_code ) ]")).is_empty();
    if says_so { Vec::new() } else { vec![Finding::new(&source.path, format!("lacks #![{level}(unsafe_code)]"))] }
}

#[test]
fn unsafe_code_is_only_where_memory_is_shared_with_a_device() {
    assert_none(&source::rust().iter().flat_map(check).collect::<Vec<_>>());
}

#[test]
fn every_other_crate_forbids_unsafe_code() {
    let root = source::root();
    let metadata = MetadataCommand::new().manifest_path(root.join("Cargo.toml")).no_deps().exec().unwrap();
    let packages = metadata.workspace_packages();
    let targets = packages.iter().flat_map(|package| &package.targets);
    let roots: Vec<Source> = targets
        .filter(|target| {
            target.kind.iter().any(|kind| matches!(kind, TargetKind::Lib | TargetKind::CDyLib | TargetKind::Bin))
        })
        .map(|target| {
            let path = target.src_path.strip_prefix(&root).expect("a target lies in the workspace").to_string();
            Source { text: std::fs::read_to_string(&target.src_path).unwrap(), path }
        })
        .collect();
    assert!(roots.len() >= 14, "{roots:?}");
    assert_none(&roots.iter().flat_map(check_root).collect::<Vec<_>>());
}

#[test]
fn unsafe_code_in_a_wrong_place_is_found() {
    for text in [
        "fn f() { unsafe { g() } }",
        "unsafe impl Send for X {}",
        "m!(unsafe { g() });",
        "#[unsafe(no_mangle)] fn f() {}",
    ] {
        assert_eq!(check(&Source::made_up("engine/src/x.rs", text)).len(), 1, "{text}");
        assert_eq!(check(&Source::made_up("client/rust/src/local/link.rs", text)).len(), 1, "{text}");
        assert_eq!(check(&Source::made_up("tiers/host/src/x.rs", text)), []);
    }
    assert_eq!(check(&Source::made_up("engine/src/x.rs", "// unsafe\nconst S: &str = \"unsafe\";")), []);
}

#[test]
fn a_crate_that_forbids_nothing_is_found() {
    assert_eq!(check_root(&Source::made_up("engine/src/lib.rs", "// #![forbid(unsafe_code)]\nfn f() {}")).len(), 1);
    assert_eq!(check_root(&Source::made_up("engine/src/lib.rs", "#![forbid(unsafe_code)]")), []);
}
