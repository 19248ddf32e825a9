//! What the machine has free.

use std::fs;

/// Half of the memory that can be taken without swapping, in GiB, as Linux reports it for the machine and for
/// the control group of the process; `None` elsewhere.
pub(super) fn half_of_free_gib() -> Option<f64> {
    let machine = meminfo(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
    let group = || {
        let limit = number("/sys/fs/cgroup/memory.max")?;
        Some((limit - number("/sys/fs/cgroup/memory.current")?).max(0.0))
    };
    let free = group().map_or(machine, |group| group.min(machine));
    // Never nothing: one query at a time always runs.
    Some((free / 2.0 / f64::from(1 << 30)).max(1e-3))
}

/// Bytes available according to the text of `/proc/meminfo`.
fn meminfo(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read() {
        let text = "MemTotal:       24576 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(meminfo(text), Some(2.0 * 1024.0 * 1024.0));
        assert_eq!(meminfo("MemTotal: 3 kB\n"), None);
    }
}
