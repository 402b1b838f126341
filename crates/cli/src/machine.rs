//! What this machine is: read from `/proc` where there is one, left open elsewhere.

use std::fs;

/// The brand of the CPU, such as `Intel(R) Xeon(R) Processor @ 2.60GHz`.
pub fn cpu_brand() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("Model\t"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// Hardware threads that this process may use.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Cores, several hardware threads of one core counted once.
pub fn cores() -> Option<usize> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut cores = std::collections::HashSet::new();
    for processor in text.split("\n\n") {
        let value = |key: &str| {
            let line = processor.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        if let (Some(package), Some(core)) = (value("physical id"), value("core id")) {
            cores.insert((package, core));
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Instruction-set extensions of the CPU that matter for networks, as the system calls them.
pub fn cpu_features() -> Vec<String> {
    const KNOWN: [&str; 16] = [
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "amx_fp16",
        "asimd",
        "asimddp",
        "i8mm",
        "bf16",
    ];
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags") || line.starts_with("Features")).unwrap_or_default();
    let has = |name: &&str| line.split_whitespace().any(|word| word == *name);
    KNOWN.into_iter().filter(has).map(String::from).collect()
}

/// Memory that is available now, in bytes.
pub fn available_memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line[key.len()..].trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn linux_tells_what_it_is() {
        assert!(super::available_memory().unwrap() > 1 << 20);
        assert!(super::threads() >= 1);
    }
}
