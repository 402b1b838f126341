//! Where the time of a picture went.

use serde::Serialize;
use std::fmt;
use std::time::Duration;
use supple::Stages;

/// Seconds of each stage of a picture. Stages of different pictures run at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Reading and decoding.
    pub decode: f64,
    /// To the GPU, where one runs.
    pub upload: f64,
    /// The network.
    pub run: f64,
    /// From the GPU, where one runs.
    pub download: f64,
    /// What else the enlarging took: memory for the result, other resampling.
    pub other: f64,
    /// Encoding and writing.
    pub encode: f64,
}

impl Timings {
    /// Of a picture that took so long to decode and to enlarge, and what a device had done before and after.
    pub fn new(decode: Duration, enlarge: Duration, before: Option<Stages>, after: Option<Stages>) -> Timings {
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        let [upload, run, download] =
            [(before.upload, after.upload), (before.run, after.run), (before.download, after.download)]
                .map(|(before, after)| after.saturating_sub(before).as_secs_f64());
        let (decode, enlarge) = (decode.as_secs_f64(), enlarge.as_secs_f64());
        // Without a device all of it is the network's.
        let on_device = run > 0.0;
        let run = if on_device { run } else { enlarge };
        let other = if on_device { (enlarge - upload - run - download).max(0.0) } else { 0.0 };
        Timings { decode, upload, run, download, other, encode: 0.0 }
    }

    /// The stage that pictures that follow each other wait for: reading, enlarging and writing run side by side.
    pub fn limit(&self) -> &'static str {
        let enlarge = self.upload + self.run + self.download + self.other;
        let stages = [("decode", self.decode), ("enlarge", enlarge), ("encode", self.encode)];
        let longest = stages.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        longest.map_or("enlarge", |(name, _)| name)
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages = [
            ("decode", self.decode),
            ("upload", self.upload),
            ("run", self.run),
            ("download", self.download),
            ("other", self.other),
            ("encode", self.encode),
        ];
        for (name, seconds) in stages {
            if seconds > 0.0 {
                write!(f, "{name} {:.1} ms, ", seconds * 1e3)?;
            }
        }
        write!(f, "limited by: {}", self.limit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_limited_by_its_longest_stage() {
        let ms = Duration::from_millis;
        let before = Stages { upload: ms(5), run: ms(5), download: ms(5) };
        let after = Stages { upload: ms(6), run: ms(45), download: ms(9) };
        let mut timings = Timings::new(ms(50), ms(60), Some(before), Some(after));
        assert_eq!((timings.upload, timings.run, timings.download), (0.001, 0.04, 0.004));
        assert!((timings.other - 0.015).abs() < 1e-9);
        assert_eq!(timings.limit(), "enlarge");
        timings.encode = 0.1;
        assert_eq!(timings.limit(), "encode");
        assert!(timings.to_string().ends_with("encode 100.0 ms, limited by: encode"), "{timings}");
        let cpu = Timings::new(ms(50), ms(60), None, None);
        assert_eq!((cpu.run, cpu.upload, cpu.other), (0.06, 0.0, 0.0));
    }
}
