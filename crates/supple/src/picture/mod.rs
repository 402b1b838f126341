//! Pictures in memory, and the way into and out of files.
//!
//! A [`Picture`] holds interleaved samples of 8 or 16 bits: grey or red, green, blue, then alpha if there is one.
//! Alpha is straight (not premultiplied). An ICC profile and EXIF data travel along untouched, except that the EXIF
//! orientation has been applied to the pixels.

mod convert;
#[cfg(feature = "files")]
mod decode;
mod edit;
#[cfg(feature = "files")]
mod encode;
mod format;
#[cfg(feature = "files")]
mod orientation;
#[cfg(feature = "files")]
mod save;
#[cfg(feature = "files")]
mod sniff;
#[cfg(feature = "files")]
mod strips;

pub(crate) use convert::{Sample, luma_to_depth};
#[cfg(feature = "files")]
pub use decode::{Decoded, Limits, decode, open, open_with};
#[cfg(feature = "files")]
pub use encode::{Compression, EncodeOptions, encode};
pub use format::PictureFormat;
#[cfg(feature = "files")]
pub use save::save;

use crate::Error;
#[cfg(feature = "files")]
use std::path::Path;

/// Whether a picture has one colour channel or three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// One channel.
    Gray,
    /// Red, green, blue.
    Rgb,
}

impl Color {
    /// Number of channels without alpha.
    pub fn channels(self) -> usize {
        match self {
            Color::Gray => 1,
            Color::Rgb => 3,
        }
    }
}

/// Bits of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// 0..=255.
    Eight,
    /// 0..=65535.
    Sixteen,
}

/// Interleaved samples, row after row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Samples {
    /// 8 bits each.
    Eight(Vec<u8>),
    /// 16 bits each.
    Sixteen(Vec<u16>),
}

impl Samples {
    /// `len` zeros.
    pub fn zeroed(depth: Depth, len: usize) -> Samples {
        match depth {
            Depth::Eight => Samples::Eight(vec![0; len]),
            Depth::Sixteen => Samples::Sixteen(vec![0; len]),
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Samples::Eight(v) => v.len(),
            Samples::Sixteen(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    color: Color,
    alpha: bool,
    samples: Samples,
    icc: Option<Vec<u8>>,
    exif: Option<Vec<u8>>,
}

impl Picture {
    /// A picture of interleaved `samples`, the colour channels first and then alpha if there is any.
    ///
    /// # Errors
    /// If a side is zero or the number of samples does not fit.
    pub fn new(width: usize, height: usize, color: Color, alpha: bool, samples: Samples) -> Result<Picture, Error> {
        let channels = color.channels() + usize::from(alpha);
        let wanted = width.checked_mul(height).and_then(|n| n.checked_mul(channels)).unwrap_or(usize::MAX);
        if wanted == 0 || wanted != samples.len() {
            return Err(Error::Samples { width, height, channels, wanted, found: samples.len() });
        }
        Ok(Picture { width, height, color, alpha, samples, icc: None, exif: None })
    }

    /// An 8-bit picture of red, green, blue.
    ///
    /// # Errors
    /// As [`Picture::new`].
    pub fn from_rgb8(width: usize, height: usize, samples: Vec<u8>) -> Result<Picture, Error> {
        Picture::new(width, height, Color::Rgb, false, Samples::Eight(samples))
    }

    /// An 8-bit picture of red, green, blue, alpha.
    ///
    /// # Errors
    /// As [`Picture::new`].
    pub fn from_rgba8(width: usize, height: usize, samples: Vec<u8>) -> Result<Picture, Error> {
        Picture::new(width, height, Color::Rgb, true, Samples::Eight(samples))
    }

    /// An 8-bit grey picture.
    ///
    /// # Errors
    /// As [`Picture::new`].
    pub fn from_gray8(width: usize, height: usize, samples: Vec<u8>) -> Result<Picture, Error> {
        Picture::new(width, height, Color::Gray, false, Samples::Eight(samples))
    }

    /// A picture of this one's kind and metadata with other pixels.
    pub(crate) fn like(&self, width: usize, height: usize, samples: Samples) -> Picture {
        debug_assert_eq!(samples.len(), width * height * self.channels());
        Picture {
            width,
            height,
            color: self.color,
            alpha: self.alpha,
            samples,
            icc: self.icc.clone(),
            exif: self.exif.clone(),
        }
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Grey or colour.
    pub fn color(&self) -> Color {
        self.color
    }

    /// Whether the last channel is alpha.
    pub fn has_alpha(&self) -> bool {
        self.alpha
    }

    /// Channels, alpha included.
    pub fn channels(&self) -> usize {
        self.color.channels() + usize::from(self.alpha)
    }

    /// Bits of a sample.
    pub fn depth(&self) -> Depth {
        match self.samples {
            Samples::Eight(_) => Depth::Eight,
            Samples::Sixteen(_) => Depth::Sixteen,
        }
    }

    /// The samples.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The samples if they have 8 bits.
    pub fn samples8(&self) -> Option<&[u8]> {
        match &self.samples {
            Samples::Eight(v) => Some(v),
            Samples::Sixteen(_) => None,
        }
    }

    /// Bytes that the samples occupy.
    pub fn bytes(&self) -> usize {
        self.samples.len() * if self.depth() == Depth::Eight { 1 } else { 2 }
    }

    /// The ICC profile, if there is one.
    pub fn icc(&self) -> Option<&[u8]> {
        self.icc.as_deref()
    }

    /// The EXIF data (from `II*` or `MM*` on), if there are any.
    pub fn exif(&self) -> Option<&[u8]> {
        self.exif.as_deref()
    }

    /// Sets or removes the ICC profile.
    pub fn set_icc(&mut self, icc: Option<Vec<u8>>) {
        self.icc = icc;
    }

    /// Sets or removes the EXIF data.
    pub fn set_exif(&mut self, exif: Option<Vec<u8>>) {
        self.exif = exif;
    }

    /// Writes the picture in the format that the extension names, with default options; never overwrites.
    /// [`save`] offers more.
    ///
    /// # Errors
    /// If the file exists, cannot be written, or its extension names no format that can be written.
    #[cfg(feature = "files")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let format = PictureFormat::from_path(path).ok_or_else(|| Error::UnknownFormat {
            wanted: path.extension().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        })?;
        save(path, self, format, &EncodeOptions::default(), false).map(drop)
    }
}
