//! Making networks small and fast.
//!
//! [`sparse_byte()`] prunes a classifier in small groups of weights and fits what is left on pictures of the kind that it is
//! for; see [`mod@supple_methods::sparse_byte`] for how. [`quantize`] rounds one to 8-bit integers.

use crate::classifier::prepare_planar;
use crate::convnet::{self, Calibration, ConvNet, Quantized};
use crate::{Error, compute, picture};
use std::path::{Path, PathBuf};
use supple_methods::sparse_byte;
pub use supple_methods::sparse_byte::{
    Allocation, Importance, LayerReport, Options, Progress, Rearrangement, Reconstruction, Report, Score, Shape, Stage,
    Taps, masks_picture,
};

/// Makes `network` sparse. `calibration` are inputs as [`calibration`] makes them; none are needed if `options` neither score
/// by activations nor reconstruct. `progress` hears what is going on, and stops it by returning `false`.
///
/// # Errors
/// If an option makes no sense, an input does not fit the network, or `progress` says stop.
pub fn sparse_byte(
    network: &ConvNet,
    options: &Options,
    calibration: &[Vec<f32>],
    threads: Option<usize>,
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<(ConvNet, Report), Error> {
    let cpu = compute::cpu(threads)?;
    let engine = sparse_byte::Fast(cpu.clone());
    Ok(sparse_byte::compress(&cpu, &engine, network, options, calibration, progress)?)
}

/// Rounds `network` to 8-bit integers whose ranges are taken from `calibration`, inputs as [`calibration`] makes them. Pruned
/// weights stay zero.
///
/// # Errors
/// If the network cannot be computed in integers, or an input does not fit it, or there are none.
pub fn quantize(network: &ConvNet, calibration: &[Vec<f32>], threads: Option<usize>) -> Result<Quantized, Error> {
    Ok(convnet::quantize(&compute::cpu(threads)?, network, calibration, Calibration::MinMax)?)
}

/// Reads pictures as inputs of `network`: planar `[3][height][width]`. `progress` hears how many are done, and stops it by
/// returning `false`.
///
/// # Errors
/// If a picture cannot be read, the network takes no pictures in colour, or `progress` says stop.
pub fn calibration(
    network: &ConvNet,
    pictures: &[PathBuf],
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<Vec<f32>>, Error> {
    let mut inputs = Vec::with_capacity(pictures.len());
    for (done, path) in pictures.iter().enumerate() {
        if !progress(done) {
            return Err(Error::Cancelled);
        }
        inputs.push(prepare_planar(&picture::open(path)?, network)?);
    }
    Ok(inputs)
}

/// At most `count` of the pictures in a folder and its folders, spread evenly over their sorted names, so that folders of one
/// class each all have their share.
///
/// # Errors
/// If a folder cannot be read.
pub fn calibration_pictures(folder: &Path, count: usize) -> Result<Vec<PathBuf>, Error> {
    let mut all = Vec::new();
    collect(folder, 0, &mut all)?;
    all.sort();
    let chosen = count.min(all.len());
    Ok((0..chosen).map(|i| all[i * all.len() / chosen].clone()).collect())
}

/// Folders within folders that are looked at.
const DEPTH: usize = 8;

fn collect(folder: &Path, depth: usize, all: &mut Vec<PathBuf>) -> Result<(), Error> {
    all.extend(crate::evaluate::pictures_in(folder)?);
    let failed = |source| Error::Io { path: folder.into(), action: "read the folder", source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A link may lead back up.
        if depth < DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth + 1, all)?;
        }
    }
    Ok(())
}

impl From<sparse_byte::Error> for Error {
    fn from(error: sparse_byte::Error) -> Error {
        match error {
            sparse_byte::Error::Network(error) => Error::Network(error),
            sparse_byte::Error::Cancelled => Error::Cancelled,
            error => Error::BadOption(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_pictures_are_spread_over_folders() {
        let folder = tempfile::tempdir().expect("a folder");
        for class in ["ant", "bee", "cat"] {
            std::fs::create_dir(folder.path().join(class)).expect("created");
            for i in 0..5 {
                std::fs::write(folder.path().join(class).join(format!("{i}.png")), b"").expect("written");
            }
        }
        std::fs::write(folder.path().join("notes.txt"), b"").expect("written");
        let chosen = calibration_pictures(folder.path(), 6).expect("readable");
        let parent = |path: &PathBuf| path.parent().and_then(|p| p.file_name()).expect("has one").to_owned();
        assert_eq!(chosen.iter().map(parent).collect::<Vec<_>>(), ["ant", "ant", "bee", "bee", "cat", "cat"]);
        assert_eq!(calibration_pictures(folder.path(), 100).expect("readable").len(), 15);
        assert!(calibration_pictures(&folder.path().join("absent"), 1).is_err());
    }
}
