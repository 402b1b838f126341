//! Bytes to pictures. The format is found by content; the header is checked against the limits before anything of the
//! picture's size is allocated.

use super::convert::Sample;
use super::{Color, Picture, PictureFormat, Samples, orientation, sniff};
use crate::{Error, memory};
use image::{ColorType, ImageDecoder, ImageError, ImageReader, metadata::Orientation};
use std::io::Cursor;
use std::path::Path;

/// What a file may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most pixels of a picture.
    pub max_pixels: u64,
    /// Most bytes that decoding may take.
    pub max_memory: u64,
}

impl Default for Limits {
    /// 268 Mpixel, and half of the machine's memory.
    fn default() -> Limits {
        Limits { max_pixels: 1 << 28, max_memory: memory::total() / 2 }
    }
}

/// A decoded file.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The picture, upright.
    pub picture: Picture,
    /// Format of the file.
    pub format: PictureFormat,
    /// What a person may want to know, such as `GIF: the first of 12 frames was taken`.
    pub notes: Vec<String>,
}

/// Reads a picture from a file with default limits.
///
/// # Errors
/// As [`decode`], and if the file cannot be read.
pub fn open(path: impl AsRef<Path>) -> Result<Picture, Error> {
    open_with(path, &Limits::default()).map(|decoded| decoded.picture)
}

/// Reads a picture from a file.
///
/// # Errors
/// As [`decode`], and if the file cannot be read.
pub fn open_with(path: impl AsRef<Path>, limits: &Limits) -> Result<Decoded, Error> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    decode(&bytes, &path.display().to_string(), limits)
}

/// Decodes a picture; `name` is what errors call it.
///
/// # Errors
/// If the bytes are no picture, are damaged or incomplete, or exceed the limits.
pub fn decode(bytes: &[u8], name: &str, limits: &Limits) -> Result<Decoded, Error> {
    let not_a_picture = || Error::NotAPicture { name: name.into(), found: sniff::describe(bytes) };
    let guessed = image::guess_format(bytes).map_err(|_| not_a_picture())?;
    let format = PictureFormat::from_image(guessed).ok_or_else(not_a_picture)?;
    let truncated = |detail: &str| Error::Truncated { name: name.into(), format, detail: detail.into() };
    let failed = |error: ImageError| decode_error(error, name, format);

    let mut reader = ImageReader::with_format(Cursor::new(bytes), guessed);
    let mut image_limits = image::Limits::no_limits();
    image_limits.max_alloc = Some(limits.max_memory);
    reader.limits(image_limits);
    let mut decoder = match reader.into_decoder() {
        Ok(decoder) => decoder,
        Err(ImageError::Unsupported(_)) if format == PictureFormat::Tiff => {
            return decode_gray_float_tiff(bytes, name, limits);
        }
        Err(error) => return Err(failed(error)),
    };
    let (width, height) = decoder.dimensions();
    check_limits(name, width, height, decoder.total_bytes(), limits)?;
    match format {
        PictureFormat::Jpeg if !sniff::jpeg_is_complete(bytes) => {
            return Err(truncated("the end-of-image marker is missing"));
        }
        PictureFormat::WebP if !sniff::webp_is_complete(bytes) => {
            return Err(truncated("it is shorter than its header says"));
        }
        _ => {}
    }

    // Metadata that cannot be read is no reason to refuse the pixels.
    let icc = decoder.icc_profile().ok().flatten().or_else(|| tiff_icc(bytes, format)).filter(|p| !p.is_empty());
    let mut exif = decoder.exif_metadata().ok().flatten().filter(|e| !e.is_empty());
    let turn = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    if let Some(exif) = &mut exif {
        let _ = Orientation::remove_from_exif_chunk(exif);
    }

    let mut notes = frame_notes(bytes, format);
    let mut picture = read_pixels(decoder, &mut notes).map_err(failed)??;
    if format == PictureFormat::Gif && picture.is_opaque() {
        picture.drop_alpha();
    }
    picture.set_icc(icc);
    picture.set_exif(exif);
    Ok(Decoded { picture: orientation::apply(picture, turn), format, notes })
}

fn check_limits(name: &str, width: u32, height: u32, bytes: u64, limits: &Limits) -> Result<(), Error> {
    let (width, height) = (u64::from(width), u64::from(height));
    let limit = limits.max_pixels;
    if width * height > limit {
        return Err(Error::TooManyPixels { name: name.into(), width, height, limit });
    }
    if bytes > limits.max_memory {
        return Err(Error::TooMuchMemory { what: name.into(), needed: bytes, limit: limits.max_memory });
    }
    Ok(())
}

fn frame_notes(bytes: &[u8], format: PictureFormat) -> Vec<String> {
    match format {
        PictureFormat::Gif => match sniff::gif_frames(bytes) {
            0 | 1 => vec![],
            frames => vec![format!("GIF: the first of {frames} frames was taken")],
        },
        PictureFormat::Png => match sniff::png_frames(bytes) {
            0 | 1 => vec![],
            frames => vec![format!("animated PNG: one of {frames} frames was taken")],
        },
        PictureFormat::WebP if sniff::webp_is_animated(bytes) => {
            vec!["animated WebP: the first frame was taken".into()]
        }
        _ => vec![],
    }
}

/// The pixels of a decoder. The outer error is the decoder's, the inner ours.
fn read_pixels(decoder: impl ImageDecoder, notes: &mut Vec<String>) -> Result<Result<Picture, Error>, ImageError> {
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    let kind = decoder.color_type();
    let (color, alpha) = match kind {
        ColorType::L8 | ColorType::L16 => (Color::Gray, false),
        ColorType::La8 | ColorType::La16 => (Color::Gray, true),
        ColorType::Rgba8 | ColorType::Rgba16 | ColorType::Rgba32F => (Color::Rgb, true),
        _ => (Color::Rgb, false),
    };
    let len = width * height * usize::from(kind.channel_count());
    let samples = match kind.bytes_per_pixel() / kind.channel_count() {
        1 => {
            let mut samples = vec![0u8; len];
            decoder.read_image(&mut samples)?;
            Samples::Eight(samples)
        }
        2 => {
            let mut samples = vec![0u16; len];
            decoder.read_image(bytemuck::cast_slice_mut(&mut samples))?;
            Samples::Sixteen(samples)
        }
        _ => {
            let mut samples = vec![0f32; len];
            decoder.read_image(bytemuck::cast_slice_mut(&mut samples))?;
            notes.push(FLOAT_NOTE.into());
            Samples::Sixteen(samples.into_iter().map(u16::from_unit).collect())
        }
    };
    Ok(Picture::new(width, height, color, alpha, samples))
}

/// The ICC profile of a TIFF. The `image` crate limits tags to the size of the pixels, so small pictures lose theirs.
fn tiff_icc(bytes: &[u8], format: PictureFormat) -> Option<Vec<u8>> {
    if format != PictureFormat::Tiff {
        return None;
    }
    let mut decoder = tiff::decoder::Decoder::new(Cursor::new(bytes)).ok()?;
    decoder.get_tag_u8_vec(tiff::tags::Tag::IccProfile).ok()
}

const FLOAT_NOTE: &str = "floating-point samples were clipped to 0..1 and rounded to 16 bits";

/// Grey floating-point TIFF, which the `image` crate does not read.
fn decode_gray_float_tiff(bytes: &[u8], name: &str, limits: &Limits) -> Result<Decoded, Error> {
    let format = PictureFormat::Tiff;
    let failed = |error: tiff::TiffError| match error {
        tiff::TiffError::IoError(e) => decode_error(ImageError::IoError(e), name, format),
        e => Error::Decode { name: name.into(), format, detail: e.to_string() },
    };
    let mut decoder = tiff::decoder::Decoder::new(Cursor::new(bytes)).map_err(failed)?;
    let kind = decoder.colortype().map_err(failed)?;
    let (width, height) = decoder.dimensions().map_err(failed)?;
    check_limits(name, width, height, u64::from(width) * u64::from(height) * 4, limits)?;
    let unsupported =
        || Error::Decode { name: name.into(), format, detail: format!("samples of kind {kind:?} are not supported") };
    if kind != tiff::ColorType::Gray(32) {
        return Err(unsupported());
    }
    let tiff::decoder::DecodingResult::F32(samples) = decoder.read_image().map_err(failed)? else {
        return Err(unsupported());
    };
    let samples = Samples::Sixteen(samples.into_iter().map(u16::from_unit).collect());
    let picture = Picture::new(width as usize, height as usize, Color::Gray, false, samples)?;
    Ok(Decoded { picture, format, notes: vec![FLOAT_NOTE.into()] })
}

fn decode_error(error: ImageError, name: &str, format: PictureFormat) -> Error {
    let name = name.to_string();
    let detail = error.to_string();
    // Decoders wrap the end of the file in errors of their own; the words stay the same.
    let mut short = matches!(&error, ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof);
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(e) = cause {
        let words = e.to_string().to_lowercase();
        short |= ["unexpected end", "unexpected eof", "failed to fill whole buffer", "not enough", "end of file"]
            .iter()
            .any(|w| words.contains(w));
        cause = e.source();
    }
    match short {
        true => Error::Truncated { name, format, detail },
        false => Error::Decode { name, format, detail },
    }
}
