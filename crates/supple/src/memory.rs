//! How much memory there is.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of memory that this process may use: the machine's, or less if a control group says so.
pub fn total() -> u64 {
    // WebAssembly has an address space of 4 GiB, part of which the program itself and its allocator take.
    if cfg!(target_arch = "wasm32") {
        return 3 << 30;
    }
    let machine = machine_memory().unwrap_or(8 << 30);
    group_limits().into_iter().fold(machine, u64::min)
}

/// The most memory that the process has had in use so far, in bytes, where the system tells.
pub fn peak() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes a second at which the threads of `cpu` read memory together: the best of a few rounds over 256 MiB.
pub fn read_rate(cpu: &crate::Cpu) -> f64 {
    const WORDS: usize = 32 << 20;
    const PART: usize = 1 << 15;
    let memory = vec![1u64; WORDS];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = std::time::Instant::now();
        let total = AtomicU64::new(0);
        cpu.pool.run(cpu.threads(), &|task, _| {
            let own = WORDS / cpu.threads() * task..WORDS / cpu.threads() * (task + 1);
            let mut sums = [0u64; 16];
            for part in memory[own].chunks_exact(PART) {
                for words in part.as_chunks::<16>().0 {
                    sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
                }
            }
            total.fetch_add(sums.iter().sum(), Ordering::Relaxed);
        });
        std::hint::black_box(total.into_inner());
        best = best.min(start.elapsed().as_secs_f64());
    }
    (8 * WORDS) as f64 / best
}

fn machine_memory() -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// A field in kB of a `/proc` file, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Limits of the control groups that this process is in (version 2 at every level, and version 1).
fn group_limits() -> Vec<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut limits = Vec::new();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or("");
    let root = Path::new("/sys/fs/cgroup");
    for folder in root.join(own).ancestors().take_while(|p| p.starts_with(root)) {
        limits.extend(read(&folder.join("memory.max")));
    }
    limits.extend(read(&root.join("memory/memory.limit_in_bytes")));
    limits.retain(|&l| l > 0);
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_at_a_rate_that_machines_have() {
        let rate = read_rate(&crate::Cpu::new(crate::Isa::detect(), 2));
        assert!((1e7..1e13).contains(&rate), "{rate}");
    }

    #[test]
    fn fields_are_read_in_bytes() {
        assert_eq!(field("MemFree: 1 kB\nMemTotal:       24 kB\n", "MemTotal:"), Some(24 * 1024));
        assert_eq!(field("nonsense", "MemTotal:"), None);
        assert!(total() > 1 << 20);
    }
}
