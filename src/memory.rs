//! How much memory this process may still take.

use std::fs::read_to_string;
use std::path::Path;

/// Bytes that can still be allocated: what the machine has left, or what control groups leave of it if that is less.
///
/// `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let machine = meminfo_available(&read_to_string("/proc/meminfo").ok()?)?;
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(groups.lines().filter_map(left_in_group).fold(machine, u64::min))
}

/// The most that a control group of this process grants it; none if it is not limited.
pub fn group_limit_bytes() -> Option<u64> {
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Version 1 writes "no limit" as a number near 2^63.
    let limits =
        groups.lines().flat_map(|line| of_groups(line, |folder, limit, _| number(folder, limit)));
    limits.filter(|limit| *limit < 1 << 60).min()
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What a line of `/proc/self/cgroup` (`0::/a/b`, or `7:memory:/a/b` in version 1) and its ancestors leave.
fn left_in_group(line: &str) -> Option<u64> {
    of_groups(line, left_in_folder).into_iter().min()
}

/// What `read` finds in the folder of such a line and in those above it, given the names of limit and usage.
fn of_groups(line: &str, read: impl Fn(&Path, &str, &str) -> Option<u64>) -> Vec<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
        return Vec::new();
    };
    let (mount, limit, usage) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
        "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        _ => return Vec::new(),
    };
    let folder = Path::new(mount).join(group.trim_start_matches('/'));
    // Inside a container the path may name a group outside of what is mounted; the mount itself then is ours.
    let known = folder.ancestors().take_while(|folder| folder.starts_with(mount));
    known.filter_map(|folder| read(folder, limit, usage)).collect()
}

fn number(folder: &Path, name: &str) -> Option<u64> {
    read_to_string(folder.join(name)).ok()?.trim().parse().ok()
}

fn left_in_folder(folder: &Path, limit: &str, usage: &str) -> Option<u64> {
    let statistics = read_to_string(folder.join("memory.stat")).unwrap_or_default();
    // File cache counts as used, yet the kernel drops it before it refuses memory.
    let cache = statistics
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "))
        .and_then(|value| value.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Some(number(folder, limit)?.saturating_sub(number(folder, usage)?.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_formats() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(meminfo_available(text), Some(2048 * 1024));
        assert_eq!(meminfo_available("MemTotal: 5 kB\n"), None);

        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("memory.current", "700\n");
        write("memory.stat", "anon 500\ninactive_file 200\n");
        write("memory.max", "max\n");
        let left = || left_in_folder(folder.path(), "memory.max", "memory.current");
        assert_eq!(left(), None);
        write("memory.max", "1000\n");
        assert_eq!(left(), Some(500));
        write("memory.max", "100\n");
        assert_eq!(left(), Some(0));
    }

    #[test]
    fn this_machine_has_some_but_not_endless_memory() {
        let available = available_bytes().expect("Linux says");
        assert!((1 << 20..1 << 50).contains(&available), "{available}");
        assert!(group_limit_bytes().is_none_or(|limit| limit >= available));
    }
}
