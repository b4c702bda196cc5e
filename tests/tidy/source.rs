//! The workspace's files.

use std::path::{Path, PathBuf};

/// Folders that hold nothing of ours.
const SKIPPED: &[&str] = &["target", ".git", ".kvtier", "kvtier-data", "node_modules", "__pycache__", ".venv"];

/// One file, read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// From the workspace's root, with forward slashes.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
}

impl Source {
    /// A made-up file, for showing a rule bad input.
    pub(crate) fn made_up(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// Whether the file holds tests only: `tests.rs`, anything under a `tests` folder, or in the tests crate.
    pub(crate) fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        parts.any(|part| part == "tests" || part == "tests.rs")
    }

    /// Whether the file is Rust.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the tests crate lies in the workspace").to_path_buf()
}

/// Every text file of the workspace, sorted by path.
pub(crate) fn all() -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the workspace can be listed") {
            let entry = entry.expect("a folder of the workspace can be listed");
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("a file of the workspace can be looked at");
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                folders.push(entry.path());
            } else if kind.is_file()
                && !SKIPPED.contains(&name.as_str())
                && let Ok(text) = std::fs::read_to_string(entry.path())
            {
                let path = entry.path().strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Every Rust file.
pub(crate) fn rust() -> Vec<Source> {
    all().into_iter().filter(Source::is_rust).collect()
}

#[test]
fn the_walk_finds_this_file_and_no_build_output() {
    let sources = all();
    assert!(sources.iter().any(|source| source.path == "tests/tidy/source.rs"));
    assert!(sources.iter().all(|source| !source.path.starts_with("target/")));
}
