//! Pictures to bytes, one writer a format. Rows are converted as they are written: beside the picture itself only
//! WebP, 8-bit copies of 16-bit pictures for BMP and WebP, and grey with alpha in TIFF take memory of its size.

use super::convert::to_eight;
use super::strips::Rows;
use super::{Color, Depth, Picture, PictureFormat, Samples};
use crate::Error;
use image::{ExtendedColorType, GenericImageView, ImageEncoder, ImageError, Luma, Rgb};
use std::borrow::Cow;
use std::io::{self, Seek, Write};
use tiff::encoder::{TiffKind, colortype};

/// How hard to compress where the format leaves a choice (PNG, TIFF).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Quick, and close to `Balanced` in size.
    #[default]
    Fast,
    /// The usual compromise.
    Balanced,
    /// Small files, slowly.
    Best,
}

/// From so many threads on, strips by all of them are quicker than one of them without.
const STRIPS_FROM: usize = 4;

/// How to write a picture.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    /// Quality of JPEG, 1..=100.
    pub quality: u8,
    /// Compression of PNG and TIFF.
    pub compression: Compression,
    /// Leaves out EXIF and ICC.
    pub strip: bool,
}

impl Default for EncodeOptions {
    /// Quality 95, fast compression, metadata kept.
    fn default() -> EncodeOptions {
        EncodeOptions { quality: 95, compression: Compression::Fast, strip: false }
    }
}

/// Writes a picture and returns what a person may want to know, such as metadata that the format cannot hold.
///
/// # Errors
/// If the format cannot be written or cannot hold the picture, or the writer fails.
pub fn encode(
    picture: &Picture,
    format: PictureFormat,
    options: &EncodeOptions,
    writer: impl Write + Seek,
) -> Result<Vec<String>, Error> {
    let mut out = Output { picture, format, options, notes: Vec::new() };
    match format {
        PictureFormat::Png => out.png(writer)?,
        PictureFormat::Jpeg => out.jpeg(writer)?,
        PictureFormat::WebP => out.webp(writer)?,
        PictureFormat::Bmp => out.bmp(writer)?,
        PictureFormat::Tiff => out.tiff(writer)?,
        PictureFormat::Gif => return Err(Error::UnknownFormat { wanted: "gif".into() }),
    }
    Ok(out.notes)
}

/// Samples of a row as PNG has them.
fn big_endian(row: &[u16], out: &mut [u8]) {
    for (bytes, sample) in out.chunks_exact_mut(2).zip(row) {
        bytes.copy_from_slice(&sample.to_be_bytes());
    }
}

struct Output<'a> {
    picture: &'a Picture,
    format: PictureFormat,
    options: &'a EncodeOptions,
    notes: Vec<String>,
}

impl Output<'_> {
    fn refuse(&self, detail: impl ToString) -> Error {
        let (width, height) = (self.picture.width, self.picture.height);
        Error::Encode { format: self.format, width, height, detail: detail.to_string() }
    }

    fn failed(&self, error: ImageError) -> Error {
        match error {
            ImageError::IoError(e) => Error::Write(e),
            e => match io_cause(&e) {
                Some(kind) => Error::Write(io::Error::new(kind, e.to_string())),
                None => self.refuse(e),
            },
        }
    }

    fn note(&mut self, text: &str) {
        self.notes.push(format!("{}: {text}", self.format));
    }

    /// Refuses sides above `max`, and gives the sides.
    fn sides(&self, max: u32) -> Result<(u32, u32), Error> {
        let side = |n: usize| u32::try_from(n).ok().filter(|&n| n <= max);
        match (side(self.picture.width), side(self.picture.height)) {
            (Some(w), Some(h)) => Ok((w, h)),
            _ => Err(self.refuse(format!("its sides are limited to {max}"))),
        }
    }

    fn icc(&self) -> Option<&[u8]> {
        self.picture.icc().filter(|_| !self.options.strip)
    }

    fn exif(&self) -> Option<&[u8]> {
        self.picture.exif().filter(|_| !self.options.strip)
    }

    /// The samples in 8 bits, copied only if they have 16.
    fn eight(&mut self) -> Cow<'_, [u8]> {
        if self.picture.depth() == Depth::Sixteen {
            self.note("16-bit samples were rounded to 8 bits");
        }
        match &self.picture.samples {
            Samples::Eight(v) => Cow::Borrowed(v),
            Samples::Sixteen(v) => Cow::Owned(v.iter().map(|&s| to_eight(s)).collect()),
        }
    }

    fn color_type8(&self) -> ExtendedColorType {
        match (self.picture.color, self.picture.alpha) {
            (Color::Gray, false) => ExtendedColorType::L8,
            (Color::Gray, true) => ExtendedColorType::La8,
            (Color::Rgb, false) => ExtendedColorType::Rgb8,
            (Color::Rgb, true) => ExtendedColorType::Rgba8,
        }
    }

    fn png(&mut self, writer: impl Write) -> Result<(), Error> {
        let failed = |e: png::EncodingError| match e {
            png::EncodingError::IoError(e) => Error::Write(e),
            e => self.refuse(e),
        };
        let p = self.picture;
        let (width, height) = self.sides(i32::MAX as u32)?;
        let mut info = png::Info::with_size(width, height);
        info.icc_profile = self.icc().map(Cow::Borrowed);
        info.exif_metadata = self.exif().map(Cow::Borrowed);
        let mut encoder = png::Encoder::with_info(writer, info).map_err(failed)?;
        encoder.set_color(match (p.color, p.alpha) {
            (Color::Gray, false) => png::ColorType::Grayscale,
            (Color::Gray, true) => png::ColorType::GrayscaleAlpha,
            (Color::Rgb, false) => png::ColorType::Rgb,
            (Color::Rgb, true) => png::ColorType::Rgba,
        });
        encoder.set_depth(match p.depth() {
            Depth::Eight => png::BitDepth::Eight,
            Depth::Sixteen => png::BitDepth::Sixteen,
        });
        encoder.set_compression(match self.options.compression {
            Compression::None => png::Compression::NoCompression,
            Compression::Fast => png::Compression::Fast,
            Compression::Balanced => png::Compression::Balanced,
            Compression::Best => png::Compression::High,
        });
        let mut header = encoder.write_header().map_err(failed)?;
        let row_len = p.width * p.channels();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        if self.options.compression == Compression::Fast && threads >= STRIPS_FROM {
            let bytes = if p.depth() == Depth::Eight { 1 } else { 2 };
            let row = |y: usize, out: &mut [u8]| match &p.samples {
                Samples::Eight(v) => out.copy_from_slice(&v[y * row_len..][..row_len]),
                Samples::Sixteen(v) => big_endian(&v[y * row_len..][..row_len], out),
            };
            let rows = Rows { len: row_len * bytes, height: p.height, pixel: p.channels() * bytes, row: &row };
            rows.compress(threads, &mut |bytes| header.write_chunk(png::chunk::IDAT, bytes)).map_err(failed)?;
            return header.finish().map_err(failed);
        }
        let mut stream = header.stream_writer_with_size(1 << 18).map_err(failed)?;
        match &p.samples {
            Samples::Eight(v) => v.chunks_exact(row_len).try_for_each(|row| stream.write_all(row)),
            Samples::Sixteen(v) => {
                let mut bytes = vec![0u8; row_len * 2];
                v.chunks_exact(row_len).try_for_each(|row| {
                    big_endian(row, &mut bytes);
                    stream.write_all(&bytes)
                })
            }
        }
        .map_err(Error::Write)?;
        stream.finish().map_err(failed)?;
        header.finish().map_err(failed)
    }

    fn jpeg(&mut self, writer: impl Write) -> Result<(), Error> {
        self.sides(65535)?;
        if self.picture.alpha {
            self.note("transparent parts were laid over white");
        }
        if self.picture.depth() == Depth::Sixteen {
            self.note("16-bit samples were rounded to 8 bits");
        }
        let mut encoder =
            image::codecs::jpeg::JpegEncoder::new_with_quality(writer, self.options.quality.clamp(1, 100));
        if self.icc().is_some_and(|icc| encoder.set_icc_profile(icc.to_vec()).is_err()) {
            self.note("the ICC profile was left out");
        }
        // A segment holds 65533 bytes, six of them the name `Exif`.
        match self.exif() {
            Some(exif) if exif.len() > 65527 => self.note("the EXIF data are too long for a JPEG and were left out"),
            Some(exif) => {
                let _ = encoder.set_exif_metadata(exif.to_vec());
            }
            None => {}
        }
        let result = match self.picture.color {
            Color::Gray => encoder.encode_image(&GrayView(self.picture)),
            Color::Rgb => encoder.encode_image(&RgbView(self.picture)),
        };
        result.map_err(|e| self.failed(e))
    }

    fn webp(&mut self, writer: impl Write) -> Result<(), Error> {
        let (width, height) = self.sides(16383)?;
        let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(writer);
        let (icc, exif) = (self.icc().map(<[u8]>::to_vec), self.exif().map(<[u8]>::to_vec));
        let kind = self.color_type8();
        self.note("written without loss; quality has no effect");
        // Both are always taken by WebP.
        let _ = icc.map(|icc| encoder.set_icc_profile(icc));
        let _ = exif.map(|exif| encoder.set_exif_metadata(exif));
        let result = encoder.encode(&self.eight(), width, height, kind);
        result.map_err(|e| self.failed(e))
    }

    fn bmp(&mut self, mut writer: impl Write) -> Result<(), Error> {
        let (width, height) = self.sides(i32::MAX as u32)?;
        let kind = self.color_type8();
        if self.icc().is_some() || self.exif().is_some() {
            self.note("holds no ICC profile or EXIF data; they were left out");
        }
        let (mut samples, mut kind) = (self.eight(), kind);
        if kind == ExtendedColorType::La8 {
            // The encoder would drop alpha.
            samples = Cow::Owned(samples.chunks_exact(2).flat_map(|g| [g[0], g[0], g[0], g[1]]).collect());
            kind = ExtendedColorType::Rgba8;
        }
        let result = image::codecs::bmp::BmpEncoder::new(&mut writer).encode(&samples, width, height, kind);
        drop(samples);
        result.map_err(|e| self.failed(e))
    }

    fn tiff(&mut self, writer: impl Write + Seek) -> Result<(), Error> {
        self.sides(u32::MAX)?;
        if self.exif().is_some() {
            self.note("the EXIF data were left out");
        }
        // Offsets have 32 bits in a plain TIFF.
        match self.picture.bytes() < 0xF000_0000 {
            true => tiff::encoder::TiffEncoder::new(writer).and_then(|e| self.tiff_kind(e)),
            false => tiff::encoder::TiffEncoder::new_big(writer).and_then(|e| self.tiff_kind(e)),
        }
        .map_err(|e| match e {
            tiff::TiffError::IoError(e) => Error::Write(e),
            e => self.refuse(e),
        })
    }

    fn tiff_kind<W: Write + Seek, K: TiffKind>(
        &self,
        encoder: tiff::encoder::TiffEncoder<W, K>,
    ) -> tiff::TiffResult<()> {
        use tiff::encoder::Compression as Packing;
        let p = self.picture;
        let mut e = encoder.with_compression(match self.options.compression {
            Compression::None => Packing::Uncompressed,
            Compression::Fast => Packing::Deflate(tiff::encoder::DeflateLevel::Fast),
            Compression::Balanced => Packing::Deflate(tiff::encoder::DeflateLevel::Balanced),
            Compression::Best => Packing::Deflate(tiff::encoder::DeflateLevel::Best),
        });
        match (&p.samples, p.color, p.alpha) {
            (Samples::Eight(v), Color::Gray, false) => self.strips::<colortype::Gray8, _, _>(&mut e, v),
            (Samples::Eight(v), Color::Rgb, false) => self.strips::<colortype::RGB8, _, _>(&mut e, v),
            (Samples::Eight(v), _, true) => self.strips::<colortype::RGBA8, _, _>(&mut e, v),
            (Samples::Sixteen(v), Color::Gray, false) => self.strips::<colortype::Gray16, _, _>(&mut e, v),
            (Samples::Sixteen(v), Color::Rgb, false) => self.strips::<colortype::RGB16, _, _>(&mut e, v),
            (Samples::Sixteen(v), _, true) => self.strips::<colortype::RGBA16, _, _>(&mut e, v),
        }
    }

    /// Writes strips of some 256 KiB. TIFF has no grey with alpha here, so grey is tripled then, in a copy.
    fn strips<C: colortype::ColorType, W: Write + Seek, K: TiffKind>(
        &self,
        encoder: &mut tiff::encoder::TiffEncoder<W, K>,
        samples: &[C::Inner],
    ) -> tiff::TiffResult<()>
    where
        C::Inner: Copy,
        [C::Inner]: tiff::encoder::TiffValue,
    {
        let p = self.picture;
        let row_len = p.width * p.channels();
        let rows = ((1 << 18) / row_len.max(1)).clamp(1, p.height);
        let mut image = encoder.new_image::<C>(p.width as u32, p.height as u32)?;
        image.rows_per_strip(rows as u32)?;
        if let Some(icc) = self.icc() {
            image.encoder().write_tag(tiff::tags::Tag::IccProfile, icc)?;
        }
        // `write_strip` of tiff 0.11 forgets to compress; `write_data` goes strip by strip as well.
        if p.color == Color::Gray && p.alpha {
            let tripled: Vec<C::Inner> = samples.chunks_exact(2).flat_map(|g| [g[0], g[0], g[0], g[1]]).collect();
            return image.write_data(&tripled);
        }
        image.write_data(samples)
    }
}

/// The kind of the I/O error among an error's causes.
fn io_cause(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<io::Error>() {
            return Some(e.kind());
        }
        cause = e.source();
    }
    None
}

/// A picture seen as 8-bit RGB over white.
struct RgbView<'a>(&'a Picture);

impl GenericImageView for RgbView<'_> {
    type Pixel = Rgb<u8>;
    fn dimensions(&self) -> (u32, u32) {
        (self.0.width as u32, self.0.height as u32)
    }
    fn get_pixel(&self, x: u32, y: u32) -> Rgb<u8> {
        Rgb(self.0.rgb8_over_white(x as usize, y as usize))
    }
}

/// A grey picture seen as 8-bit grey over white.
struct GrayView<'a>(&'a Picture);

impl GenericImageView for GrayView<'_> {
    type Pixel = Luma<u8>;
    fn dimensions(&self) -> (u32, u32) {
        (self.0.width as u32, self.0.height as u32)
    }
    fn get_pixel(&self, x: u32, y: u32) -> Luma<u8> {
        Luma([self.0.rgb8_over_white(x as usize, y as usize)[0]])
    }
}
