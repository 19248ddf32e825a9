//! What the machine has: memory, as Linux reports it.

use std::fs;

/// Bytes that can be taken without swapping, by the machine and by the control group of the process;
/// `None` where the system does not say.
pub fn available_bytes() -> Option<f64> {
    let machine = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(limit, used)| (limit - used).max(0.0));
    Some(group.map_or(machine, |group| group.min(machine)))
}

/// The most memory that this process has held, in bytes; `None` where the system does not say.
pub fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    kilobytes(&status, "VmHWM:").map(|bytes| bytes as u64)
}

/// Bytes on the line of `text` that begins with `name`.
fn kilobytes(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let text = "MemTotal:       24576 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(kilobytes(text, "MemAvailable:"), Some(2_097_152.0));
        assert_eq!(kilobytes("MemTotal: 3 kB\n", "MemAvailable:"), None);
    }
}
