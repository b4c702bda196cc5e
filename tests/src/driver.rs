//! The stand-in for NVIDIA's driver (`tests/hbm/driver`): compiled when it is needed, and put where a process finds it.
//!
//! It is no hardware: what runs on it has followed the driver's documentation, and nothing more was shown.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What compiles it into a folder.
const SCRIPT: &str = "make/driver-stand-in.sh";
/// Everything it is made of.
const SOURCES: [&str; 10] = [
    SCRIPT,
    "tests/hbm/driver/libcuda.cc",
    "tests/hbm/driver/standin.h",
    "tests/hbm/driver/calls.cc",
    "tests/hbm/driver/faults.cc",
    "tests/hbm/driver/kernels.cc",
    "tests/hbm/driver/memory.cc",
    "tests/hbm/driver/streams.cc",
    "tests/hbm/cuda_on_cpu.h",
    "tiers/hbm/kernels/kernels.cu",
];

/// The folder of the stand-in, for `LD_LIBRARY_PATH`.
pub fn stand_in() -> PathBuf {
    variant(&[])
}

/// The same, compiled with these options on top: `-DcuEventCreate=absent` leaves out that symbol.
pub fn variant(options: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut hasher = DefaultHasher::new();
    for source in SOURCES {
        std::fs::read(root.join(source)).expect("the stand-in's source is there").hash(&mut hasher);
    }
    options.hash(&mut hasher);
    let own = std::env::current_exe().expect("a test has an executable");
    let all = own.parent().expect("it lies in a folder").join("driver-stand-in");
    let folder = all.join(format!("{:016x}", hasher.finish()));
    if !folder.exists() {
        std::fs::create_dir_all(&all).expect("a folder can be made beside the tests");
        compile(&root, options, &all, &folder);
    }
    folder
}

/// Beside its place first: other tests may be at it, too, and whoever comes first has made it.
fn compile(root: &Path, options: &[&str], all: &Path, folder: &Path) {
    let made = tempfile::tempdir_in(all).expect("a folder can be made beside the tests");
    let compiled = Command::new(root.join(SCRIPT)).arg(made.path()).args(options).output();
    let compiled = compiled.expect("the script is there");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    if std::fs::rename(made.path(), folder).is_ok() {
        // It lies elsewhere now.
        drop(made.keep());
    }
    assert!(folder.exists(), "it lies where it is looked for");
}
