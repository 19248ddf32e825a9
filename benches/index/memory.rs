//! What a process holds, and what its caches hold.

/// Reads and writes 128 MB, as a model's forward pass would between two steps.
pub struct Eviction(Vec<u64>);

impl Eviction {
    pub fn new() -> Self {
        Self(vec![1; 128 << 17])
    }

    pub fn run(&mut self) {
        for word in &mut self.0 {
            *word = word.wrapping_mul(3);
        }
    }
}

/// The most memory that this process holds while `run` runs, less what it held before, in bytes.
pub fn peak_bytes(run: impl FnOnce()) -> usize {
    let status = |name: &str| -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find(|line| line.starts_with(name));
        let words = line.and_then(|line| line.split_whitespace().nth(1));
        words.and_then(|word| word.parse().ok()).expect("kilobytes")
    };
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
    let before = status("VmRSS");
    run();
    (status("VmHWM") - before) * 1024
}
