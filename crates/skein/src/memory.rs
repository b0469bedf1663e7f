//! How much memory the server may use, and for what.

use crate::units::{Bytes, Memory};
use std::fs;
use std::path::Path;

/// The smallest budget: below it a full batch could not be taken in beside a working cache.
pub const BUDGET_BYTES_MIN: u64 = 128 << 20;
/// What requests under way always get: a full batch as bytes and as parsed operations.
const REQUEST_BYTES_MIN: u64 = 64 << 20;
/// What we assume where the system does not say how much memory it has.
const RAM_BYTES_UNKNOWN: u64 = 2 << 30;

/// The memory that a share is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Bytes we may count on: the machine's RAM, or our control group's limit if that is lower.
    pub bytes: u64,
    /// Whether a control group set the limit.
    pub by_cgroup: bool,
}

impl Available {
    /// Asks the system; `root` is `/`, or a picture of it in a test.
    pub fn detect(root: &Path) -> Available {
        let ram = ram_bytes(root).unwrap_or(RAM_BYTES_UNKNOWN);
        match cgroup_limit(root) {
            Some(limit) if limit < ram => Available { bytes: limit, by_cgroup: true },
            _ => Available { bytes: ram, by_cgroup: false },
        }
    }
}

/// The budget and its parts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// All of it.
    pub budget: u64,
    /// Blocks of tables kept after being read: half.
    pub cache: u64,
    /// Rows written and not yet in tables: a quarter.
    pub write_buffer: u64,
    /// Bodies of requests under way: a quarter, at least 64 MiB.
    pub requests: u64,
}

impl Split {
    /// Divides `memory`; `None` if it comes to less than [`BUDGET_BYTES_MIN`] although the user asked for that
    /// many bytes. A share of a small machine is raised to the minimum instead.
    pub fn of(memory: Memory, available: Available) -> Option<Split> {
        let budget = match memory {
            Memory::Bytes(Bytes(bytes)) if bytes < BUDGET_BYTES_MIN => return None,
            Memory::Bytes(Bytes(bytes)) => bytes,
            Memory::Percent(share) => {
                let part = u128::from(available.bytes) * u128::from(share) / 100;
                u64::try_from(part).unwrap_or(u64::MAX).max(BUDGET_BYTES_MIN)
            }
        };
        let requests = (budget / 4).max(REQUEST_BYTES_MIN);
        let cache = (budget - requests) / 3 * 2;
        Some(Split { budget, cache, write_buffer: budget - requests - cache, requests })
    }
}

fn ram_bytes(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The lowest memory limit of our control group and those above it, versions 1 and 2.
fn cgroup_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mount = root.join("sys/fs/cgroup");
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.is_empty() {
            lowest_limit(&mount, path, "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            lowest_limit(&mount.join("memory"), path, "memory.limit_in_bytes")
        } else {
            None
        }
    });
    limits.min()
}

/// The lowest number in `file` along `path`, from `mount` down. Inside a container `path` is often the path on the
/// host, of which only the mount itself is to be seen; then that one counts.
fn lowest_limit(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let mut dir = mount.to_path_buf();
    let mut lowest = read_limit(&dir.join(file));
    for part in path.split('/').filter(|part| !part.is_empty() && *part != "..") {
        dir.push(part);
        lowest = match (lowest, read_limit(&dir.join(file))) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    lowest
}

/// `max` in version 2 and numbers near 2^63 in version 1 mean "no limit".
fn read_limit(file: &Path) -> Option<u64> {
    let limit: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (limit < 1 << 60).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn without_a_control_group_the_machine_s_ram_counts() {
        let root = machine(&[("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n")]);
        assert_eq!(Available::detect(root.path()), Available { bytes: 8 * GIB, by_cgroup: false });
    }

    #[test]
    fn the_lowest_limit_on_the_way_to_our_control_group_counts() {
        let root = machine(&[
            ("proc/meminfo", "MemTotal:        8388608 kB\n"),
            ("proc/self/cgroup", "0::/system.slice/skein.service\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/system.slice/skein.service/memory.max", "max\n"),
        ]);
        assert_eq!(Available::detect(root.path()), Available { bytes: GIB, by_cgroup: true });
    }

    #[test]
    fn version_one_control_groups_count_even_when_only_their_mount_is_visible() {
        let root = machine(&[
            ("proc/meminfo", "MemTotal:        8388608 kB\n"),
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/0123\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n"),
        ]);
        assert_eq!(Available::detect(root.path()), Available { bytes: 2 * GIB, by_cgroup: true });
    }

    #[test]
    fn a_limit_of_nearly_two_to_the_sixty_third_is_none() {
        let root = machine(&[
            ("proc/meminfo", "MemTotal:        8388608 kB\n"),
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(Available::detect(root.path()), Available { bytes: 8 * GIB, by_cgroup: false });
    }

    #[test]
    fn the_parts_add_up_to_the_budget_and_hold_a_full_batch() {
        let available = Available { bytes: 8 * GIB, by_cgroup: false };
        for memory in ["25%", "100%", "128MiB", "200MiB", "3GiB"] {
            let split = Split::of(memory.parse().unwrap(), available).unwrap();
            assert_eq!(split.cache + split.write_buffer + split.requests, split.budget, "{memory}");
            assert!(
                REQUEST_BYTES_MIN <= split.requests && 16 << 20 <= split.write_buffer,
                "{memory}: {split:?}"
            );
        }
        let quarter = Split::of(Memory::Percent(25), available).unwrap();
        assert_eq!(quarter.budget, 2 * GIB);
        assert_eq!(quarter.requests, GIB / 2);
    }

    #[test]
    fn too_few_bytes_are_refused_and_a_share_of_too_little_is_raised() {
        let tiny = Available { bytes: 256 << 20, by_cgroup: true };
        assert_eq!(Split::of(Memory::Bytes(Bytes(BUDGET_BYTES_MIN - 1)), tiny), None);
        assert_eq!(Split::of(Memory::Percent(25), tiny).unwrap().budget, BUDGET_BYTES_MIN);
    }
}
