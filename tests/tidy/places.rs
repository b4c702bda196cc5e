//! No path of somebody's machine in any file.

use crate::source::{self, Source};
use crate::{Finding, assert_none};

/// Beginnings of such paths, put together here so that this file does not hold them.
fn personal() -> Vec<String> {
    ["home", "Users", "root", "work", "tmp/wt", "mnt"].iter().map(|name| format!("/{name}/")).collect()
}

fn check(source: &Source, personal: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for path in personal.iter().filter(|path| holds(line, path)) {
            let at = format!("{}:{}", source.path, index + 1);
            findings.push(Finding::new(at, format!("names a path below {path}, which is somebody's own")));
        }
    }
    findings
}

/// Whether an absolute path begins there: what comes before is no part of a longer path.
fn holds(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || "._-/~$}>*".contains(letter))
    })
}

#[test]
fn no_file_names_a_path_of_somebodys_machine() {
    let personal = personal();
    assert_none(&source::all().iter().flat_map(|source| check(source, &personal)).collect::<Vec<_>>());
}

#[test]
fn a_personal_path_is_found_and_a_path_that_only_contains_it_is_not() {
    let personal = personal();
    for name in ["home", "Users", "root"] {
        let text = format!("cd /{name}/jo/kvtier\n");
        assert_eq!(check(&Source::made_up("docs/x.md", &text), &personal).len(), 1, "{text}");
        let text = format!("see https://example.org/{name}/x and ./a/{name}/b\n");
        assert_eq!(check(&Source::made_up("docs/x.md", &text), &personal), [], "{text}");
    }
}
