//! What the machine is, as far as a replica's defaults and promises depend on it.
//!
//! Everything is read from files that Linux offers; on other systems, and where they cannot be read, nothing is
//! known, and whoever asks decides what follows.

use std::fs;
use std::path::Path;

/// Bytes of memory that this process may use: the machine's, or its control group's if that has a lower limit
/// (version 2 or 1, and every group above it). None if the system does not say.
pub fn memory_bytes() -> Option<u64> {
    memory_bytes_by(|path| fs::read_to_string(path).ok())
}

fn memory_bytes_by(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let machine = read("/proc/meminfo").and_then(|text| total_bytes(&text));
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().flat_map(limit_files).filter_map(|file| limit_bytes(&read(&file)?));
    limits.chain(machine).min()
}

/// The line `MemTotal:  16384256 kB`.
fn total_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Where the limits of a group and those above it are. A line is `number:controllers:/path`; without controllers
/// it is a group of version 2. A container sees its own group as the root, whatever the path says: then only the
/// root's file exists.
fn limit_files(line: &str) -> Vec<String> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (roots, file): (&[&str], _) = if controllers.is_empty() {
        (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (&["/sys/fs/cgroup/memory"], "memory.limit_in_bytes")
    } else {
        return Vec::new();
    };
    let groups = Path::new(path).ancestors().map(|group| group.to_str().expect("it was text"));
    let files = groups.flat_map(|group| {
        roots.iter().map(move |root| format!("{root}{}/{file}", group.trim_end_matches('/')))
    });
    files.collect()
}

/// Version 2 says `max` for no limit; version 1 a number beyond any memory.
fn limit_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:         1024 kB\nMemAvailable:  4096 kB\n";

    fn found(files: &[(&str, &str)]) -> Option<u64> {
        memory_bytes_by(|path| {
            let file = files.iter().find(|(name, _)| *name == path);
            file.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn without_a_control_group_it_is_the_machines() {
        assert_eq!(found(&[("/proc/meminfo", MEMINFO)]), Some(16 * GIB));
    }

    #[test]
    fn the_lowest_limit_of_a_group_and_those_above_it_counts() {
        let group = |text| ("/sys/fs/cgroup/system.slice/quorate.service/memory.max", text);
        let above = |text| ("/sys/fs/cgroup/system.slice/memory.max", text);
        let files = |own, parent| {
            let path = ("/proc/self/cgroup", "0::/system.slice/quorate.service\n");
            found(&[("/proc/meminfo", MEMINFO), path, group(own), above(parent)])
        };
        assert_eq!(files("2147483648\n", "max\n"), Some(2 * GIB));
        assert_eq!(files("max\n", "4294967296\n"), Some(4 * GIB));
        assert_eq!(files("2147483648\n", "1073741824\n"), Some(GIB));
        assert_eq!(files("max\n", "max\n"), Some(16 * GIB));
        assert_eq!(files("68719476736\n", "max\n"), Some(16 * GIB), "more than there is");
    }

    #[test]
    fn a_container_sees_its_group_at_the_root() {
        let path = ("/proc/self/cgroup", "0::/\n");
        let limit = ("/sys/fs/cgroup/memory.max", "1073741824\n");
        assert_eq!(found(&[("/proc/meminfo", MEMINFO), path, limit]), Some(GIB));
        let path = ("/proc/self/cgroup", "5:cpu,memory:/docker/0a1b\n1:name=systemd:/docker/0a1b\n0::/\n");
        let limit = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
        assert_eq!(found(&[("/proc/meminfo", MEMINFO), path, limit]), Some(GIB / 2));
    }

    #[test]
    fn version_1_counts_only_the_group_of_the_memory_controller() {
        let path = ("/proc/self/cgroup", "9:cpuset:/other\n4:memory:/user/app\n");
        let own = ("/sys/fs/cgroup/memory/user/app/memory.limit_in_bytes", "9223372036854771712\n");
        let above = ("/sys/fs/cgroup/memory/user/memory.limit_in_bytes", "3221225472\n");
        let other = ("/sys/fs/cgroup/memory/other/memory.limit_in_bytes", "1\n");
        assert_eq!(found(&[("/proc/meminfo", MEMINFO), path, own, above, other]), Some(3 * GIB));
    }

    #[test]
    fn what_is_not_understood_counts_as_not_there() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("/proc/meminfo", "MemFree: 12 kB\n")]), None);
        let files = [("/proc/meminfo", MEMINFO), ("/proc/self/cgroup", "nonsense\n::\n0::relative/group\n")];
        assert_eq!(found(&files), Some(16 * GIB));
    }

    #[test]
    fn this_machine_says_how_much_it_has() {
        if Path::new("/proc/meminfo").exists() {
            assert!(memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
