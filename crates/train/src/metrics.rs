//! Metrics as JSON lines: one object a line, appended as training goes on, so that a reader sees each as it comes.

use crate::Error;
use crate::file::write_whole;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What is known after a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Stage, from 1.
    pub stage: usize,
    /// Step of the stage, from 1.
    pub step: usize,
    /// Loss of the step's batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f32>,
    /// Learning rate of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Norm of the gradients, before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// PSNR of luma on the validation pictures, in dB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psnr: Option<f64>,
    /// Perplexity of a language model on the validation text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Seconds since the run was begun, or resumed.
    pub seconds: f64,
}

/// A file of metrics that is being written.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file to go on after `step` of `stage` (both from 1; step 0 is before the first): what a run that was killed wrote
    /// after its last checkpoint is dropped, since it will be written again.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn resume(path: &Path, stage: usize, step: usize) -> Result<Metrics, Error> {
        let mut kept = String::new();
        for metric in read_lines(path)? {
            if (metric.stage, metric.step) <= (stage, step) {
                kept += &line(&metric);
            }
        }
        write_whole(path, &kept)?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path, "write"))?;
        Ok(Metrics { path: path.into(), file })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, metric: &Metric) -> Result<(), Error> {
        self.file.write_all(line(metric).as_bytes()).map_err(Error::io(&self.path, "write"))
    }
}

fn line(metric: &Metric) -> String {
    // Numbers and fixed names: nothing that JSON could refuse but what is not finite, which becomes null.
    serde_json::to_string(metric).unwrap_or_default() + "\n"
}

fn read_lines(path: &Path) -> Result<Vec<Metric>, Error> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut text).map_err(Error::io(path, "read"))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(Error::io(path, "read")(error)),
    };
    // A line that was cut off, by a kill or a full disk, is as good as none.
    Ok(text.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// All metrics of a file, in order.
///
/// # Errors
/// If the file cannot be read or holds none.
pub fn read_metrics(path: &Path) -> Result<Vec<Metric>, Error> {
    let metrics = read_lines(path)?;
    if metrics.is_empty() { Err(Error::NoMetrics(path.into())) } else { Ok(metrics) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_on_drops_what_came_after_the_checkpoint_and_what_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let metric = |stage, step| Metric { stage, step, loss: Some(0.1 + step as f32), ..Metric::default() };
        let mut metrics = Metrics::resume(&path, 1, 0).unwrap();
        (1..=5).for_each(|step| metrics.write(&metric(1, step)).unwrap());
        (1..=3).for_each(|step| metrics.write(&metric(2, step)).unwrap());
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"stage\":2,\"st").unwrap();
        let mut metrics = Metrics::resume(&path, 2, 1).unwrap();
        metrics.write(&metric(2, 2)).unwrap();
        let found = read_metrics(&path).unwrap();
        let wanted: Vec<Metric> = (1..=5).map(|s| metric(1, s)).chain([metric(2, 1), metric(2, 2)]).collect();
        assert_eq!(found, wanted);
        assert!(read_metrics(&folder.path().join("absent")).is_err());
    }
}
