//! How far the work has come.

/// How far the work has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Input pixels that networks have finished, over all passes and stages.
    pub pixels_done: u64,
    /// Input pixels that networks will have to go through in all.
    pub pixels_total: u64,
}

impl Progress {
    /// The part that is done, in 0..=1.
    pub fn fraction(&self) -> f64 {
        if self.pixels_total == 0 { 0.0 } else { (self.pixels_done as f64 / self.pixels_total as f64).min(1.0) }
    }
}
