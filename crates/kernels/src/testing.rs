//! Deterministic noise and comparison, for tests.

/// `len` values in -1..1 that look random; the same for the same `seed`.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Asserts that two slices agree within `tolerance`, relative to the larger of 1 and the wanted value.
///
/// # Panics
/// If they do not.
pub fn close(found: &[f32], wanted: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}: lengths differ");
    for (i, (&f, &w)) in found.iter().zip(wanted).enumerate() {
        // Written so that NaN fails.
        assert!((f - w).abs() <= tolerance * w.abs().max(1.0), "{what}: at {i} found {f}, wanted {w}");
    }
}
