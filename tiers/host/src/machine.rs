//! How much memory there is: the machine's, or less if a control group says so.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes this process may use: physical memory, or the tightest limit of its control groups (v2 and v1). Unreadable
/// limits are no limits.
pub fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(clippy::unnecessary_cast, reason = "the field's width differs between architectures")]
    let physical = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group_limit_bytes(Path::new("/sys/fs/cgroup"), &groups).map_or(physical, |limit| limit.min(physical))
}

/// How the kernel treats a request for transparent huge pages in shared memory, e.g. `never`.
pub(crate) fn shared_huge_page_policy() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn group_limit_bytes(root: &Path, groups: &str) -> Option<u64> {
    groups.lines().filter_map(|line| group_files(root, line)).filter_map(|(group, file)| tightest(&group, file)).min()
}

/// The group's folder below the mount, and the name of the limit's file in it and in its ancestors.
fn group_files(root: &Path, line: &str) -> Option<(PathBuf, &'static str)> {
    let mut fields = line.splitn(3, ':');
    let (_id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let path = path.trim_start_matches('/');
    if controllers.is_empty() {
        Some((root.join(path), "memory.max"))
    } else if controllers.split(',').any(|name| name == "memory") {
        Some((root.join("memory").join(path), "memory.limit_in_bytes"))
    } else {
        None
    }
}

fn tightest(group: &Path, file: &str) -> Option<u64> {
    let limit = |folder: &Path| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    group.ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_some_memory() {
        assert!(memory_bytes() > 64 << 20);
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let root = std::env::temp_dir().join(format!("kvtier-host-groups-{}", std::process::id()));
        let service = root.join("system.slice/kvtierd.service");
        fs::create_dir_all(&service).unwrap();
        fs::write(root.join("system.slice/memory.max"), "1073741824\n").unwrap();
        fs::write(service.join("memory.max"), "max\n").unwrap();
        let limit = group_limit_bytes(&root, "0::/system.slice/kvtierd.service\n");
        let unlimited = group_limit_bytes(&root.join("elsewhere"), "3:cpu:/a\n0::/a\n");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(limit, Some(1 << 30));
        assert_eq!(unlimited, None);
    }

    #[test]
    fn the_older_hierarchy_is_read_too() {
        let root = std::env::temp_dir().join(format!("kvtier-host-groups-v1-{}", std::process::id()));
        fs::create_dir_all(root.join("memory/pod")).unwrap();
        fs::write(root.join("memory/pod/memory.limit_in_bytes"), "4096\n").unwrap();
        let limit = group_limit_bytes(&root, "4:memory:/pod\n");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(limit, Some(4096));
    }

    #[test]
    fn garbage_in_the_list_of_groups_is_no_limit() {
        assert_eq!(group_limit_bytes(Path::new("/nonexistent"), "\n:\n::\nx\u{0}y::z\n"), None);
    }
}
