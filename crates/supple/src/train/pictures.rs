//! Training pairs cut from picture files.

use crate::picture::{self, Limits};
use crate::resample::matlab::imresize;
use crate::resample::{Filter, resize};
use crate::{Cpu, Error, Isa, compress};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use supple_tensor::Random;
use supple_train::{BoxError, Example, Examples, Recipe};

/// Files, and pictures of folders, in the order of names.
pub(super) fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        // Now, and not after the first thousand steps.
        std::fs::metadata(path).map_err(Error::io(path, "read"))?;
        let found = match path.is_dir() {
            true => compress::calibration_pictures(path, usize::MAX)?,
            false => vec![path.clone()],
        };
        if found.is_empty() {
            return Err(Error::BadOption(format!("{}: no pictures in this folder", path.display())));
        }
        files.extend(found);
    }
    Ok(files)
}

/// A picture in both resolutions, interleaved 8-bit samples.
struct Pair {
    high: Vec<u8>,
    width: usize,
    low: Vec<u8>,
    low_width: usize,
    low_height: usize,
}

impl Pair {
    fn open(path: &Path, scale: usize, shrink: usize) -> Result<Pair, Error> {
        let mut picture = picture::open_with(path, &Limits::default())?.picture;
        if shrink > 1 {
            let (width, height) = (picture.width() / shrink, picture.height() / shrink);
            // One thread: loaders are many.
            picture = resize(&picture, width, height, Filter::Area, &Cpu::new(Isa::Scalar, 1));
        }
        let (width, height) = (picture.width() / scale * scale, picture.height() / scale * scale);
        if width.min(height) == 0 {
            return Err(Error::BadOption(format!("{}: too small to train on", path.display())));
        }
        let high = picture.crop(0, 0, width, height).to_rgb8();
        let (low, low_width, low_height) = imresize(&high, width, height, 3, 1.0 / scale as f64);
        Ok(Pair { high, width, low, low_width, low_height })
    }

    fn bytes(&self) -> usize {
        self.high.len() + self.low.len()
    }
}

/// Training pairs cut from picture files.
pub(super) struct Pictures {
    files: Vec<PathBuf>,
    scale: usize,
    shrink: usize,
    cache: Mutex<Cache>,
}

/// Decoded pictures by number, and bytes that are left for more.
struct Cache {
    pairs: HashMap<usize, Arc<Pair>>,
    left: usize,
}

impl Pictures {
    /// The pictures of a recipe.
    pub fn new(recipe: &Recipe) -> Result<Pictures, Error> {
        let files = expand(&recipe.data.train)?;
        let cache = Cache { pairs: HashMap::new(), left: recipe.data.cache_mib.saturating_mul(1 << 20) };
        let (scale, shrink) = (recipe.network.scale, recipe.data.shrink);
        Ok(Pictures { files, scale, shrink, cache: Mutex::new(cache) })
    }

    /// A picture of noise that fills memory and no disk, for measurements.
    pub fn made_up(scale: usize) -> Pictures {
        let side = 1536 / scale * scale;
        let high: Vec<u8> = Random::new(1).uniform(side * side * 3, 128.0).iter().map(|v| (v + 128.0) as u8).collect();
        let (low, low_width, low_height) = imresize(&high, side, side, 3, 1.0 / scale as f64);
        let pair = Pair { high, width: side, low, low_width, low_height };
        let cache = Cache { pairs: HashMap::from([(0, Arc::new(pair))]), left: 0 };
        Pictures { files: vec!["made up".into()], scale, shrink: 1, cache: Mutex::new(cache) }
    }

    fn pair(&self, number: usize) -> Result<Arc<Pair>, Error> {
        // Nothing panics while it is held.
        let lock = || self.cache.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(pair) = lock().pairs.get(&number) {
            return Ok(pair.clone());
        }
        let pair = Arc::new(Pair::open(&self.files[number], self.scale, self.shrink)?);
        let mut cache = lock();
        if let Some(left) = cache.left.checked_sub(pair.bytes()).filter(|_| !cache.pairs.contains_key(&number)) {
            cache.left = left;
            cache.pairs.insert(number, pair.clone());
        }
        Ok(pair)
    }
}

impl Examples for Pictures {
    fn example(&self, patch: usize, random: &mut Random) -> Result<Example, BoxError> {
        let [low, high] = self.bytes(patch, random)?;
        let floats = |samples: Vec<u8>| samples.into_iter().map(|v| f32::from(v) / 255.0).collect();
        Ok(Example { low: floats(low), high: floats(high) })
    }

    fn has_bytes(&self) -> bool {
        true
    }

    fn bytes(&self, patch: usize, random: &mut Random) -> Result<[Vec<u8>; 2], BoxError> {
        let number = random.below(self.files.len());
        let pair = self.pair(number)?;
        let side = patch / self.scale;
        if pair.low_width.min(pair.low_height) < side {
            let name = self.files[number].display();
            let height = pair.low_height * self.scale;
            return Err(format!("{name}: {}x{height} pixels are fewer than a patch of {patch}", pair.width).into());
        }
        let (x, y) = (random.below(pair.low_width - side + 1), random.below(pair.low_height - side + 1));
        let cut = |samples: &[u8], width: usize, factor: usize| -> Vec<u8> {
            let (x, y, side) = (x * factor, y * factor, side * factor);
            let mut patch = Vec::with_capacity(side * side * 3);
            (y..y + side).for_each(|y| patch.extend_from_slice(&samples[(y * width + x) * 3..][..side * 3]));
            patch
        };
        Ok([cut(&pair.low, pair.low_width, 1), cut(&pair.high, pair.width, self.scale)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;

    #[test]
    fn pairs_are_cut_at_the_same_place() {
        let folder = tempfile::tempdir().expect("a folder");
        // A ramp: the bicubic of a linear function is that function, away from the borders.
        let (width, height) = (60, 46);
        let ramp = (0..width * height).flat_map(|i| [(i % width * 4) as u8, (i / width * 4) as u8, 100]).collect();
        Picture::from_rgb8(width, height, ramp).unwrap().save(folder.path().join("ramp.png")).unwrap();
        let text = format!(
            "[network]\nkind = 'rlfn_tiny'\nscale = 2\n[data]\ntrain = ['{}']\n\
             [[stage]]\nsteps = 1\nbatch = 1\npatch = 32\nlearning_rate = 1.0\nloss = [{{ kind = 'l1' }}]",
            folder.path().display()
        );
        let pictures = Pictures::new(&Recipe::parse("test", &text).unwrap()).unwrap();
        for seed in 0..20 {
            let example = pictures.example(16, &mut Random::new(seed)).unwrap();
            assert_eq!((example.low.len(), example.high.len()), (8 * 8 * 3, 16 * 16 * 3));
            for (y, x) in [(3, 3), (4, 5)] {
                for c in 0..3 {
                    let at = |y: usize, x: usize| example.high[(y * 16 + x) * 3 + c];
                    let mean =
                        (at(2 * y, 2 * x) + at(2 * y + 1, 2 * x) + at(2 * y, 2 * x + 1) + at(2 * y + 1, 2 * x + 1))
                            / 4.0;
                    assert!((example.low[(y * 8 + x) * 3 + c] - mean).abs() < 1.5 / 255.0, "seed {seed}");
                }
            }
        }
        let halved = Pair::open(&folder.path().join("ramp.png"), 2, 2).unwrap();
        assert_eq!((halved.width, halved.low_width, halved.low_height), (30, 15, 11));
        let error = pictures.example(64, &mut Random::new(0)).unwrap_err().to_string();
        assert!(error.contains("ramp.png: 60x46") && error.contains("patch of 64"), "{error}");
    }
}
