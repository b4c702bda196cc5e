//! Finding the binaries: beside the tests, or built on the spot.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The `kvtierd` of this build. Cargo puts test binaries in `<profile>/deps`, and binaries one level up. `make test` builds
/// the whole workspace first; a test run that did not gets the daemon built here, once. One that is there is taken as it
/// is: building it alone would select other features and compile RocksDB again.
pub fn kvtierd() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| find_or_build("kvtierd")).clone()
}

/// The `kvtier-bench` of this build.
pub fn bench() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| find_or_build("kvtier-bench")).clone()
}

fn find_or_build(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test has an executable");
    let profile = own.ancestors().find(|at| at.ends_with("deps")).and_then(|deps| deps.parent());
    let profile = profile.expect("cargo runs tests from a deps folder").to_path_buf();
    let binary = profile.join(name);
    if binary.exists() {
        return binary;
    }
    let mut build = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    build.args(["build", "--quiet", "--workspace", "--bin", name]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    if let Some(target) = profile.parent() {
        build.arg("--target-dir").arg(target);
    }
    let built = build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).status();
    assert!(built.is_ok_and(|status| status.success()), "{name} could not be built");
    assert!(binary.exists(), "{} is not there after building it", binary.display());
    binary
}
