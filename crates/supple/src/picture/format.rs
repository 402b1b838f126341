//! File formats of pictures.

use std::fmt;
use std::path::Path;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PictureFormat {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP (written without loss).
    WebP,
    /// Windows bitmap.
    Bmp,
    /// TIFF.
    Tiff,
    /// GIF (read only, first frame).
    Gif,
}

impl PictureFormat {
    /// Every format.
    pub const ALL: [PictureFormat; 6] = [
        PictureFormat::Png,
        PictureFormat::Jpeg,
        PictureFormat::WebP,
        PictureFormat::Bmp,
        PictureFormat::Tiff,
        PictureFormat::Gif,
    ];

    /// The format that an extension (without dot, any case) names.
    pub fn from_extension(extension: &str) -> Option<PictureFormat> {
        Some(match extension.to_ascii_lowercase().as_str() {
            "png" | "apng" => PictureFormat::Png,
            "jpg" | "jpeg" | "jpe" | "jfif" => PictureFormat::Jpeg,
            "webp" => PictureFormat::WebP,
            "bmp" | "dib" => PictureFormat::Bmp,
            "tif" | "tiff" => PictureFormat::Tiff,
            "gif" => PictureFormat::Gif,
            _ => return None,
        })
    }

    /// The format that a path's extension names.
    pub fn from_path(path: &Path) -> Option<PictureFormat> {
        PictureFormat::from_extension(path.extension()?.to_str()?)
    }

    /// The usual extension, without dot.
    pub fn extension(self) -> &'static str {
        match self {
            PictureFormat::Png => "png",
            PictureFormat::Jpeg => "jpg",
            PictureFormat::WebP => "webp",
            PictureFormat::Bmp => "bmp",
            PictureFormat::Tiff => "tif",
            PictureFormat::Gif => "gif",
        }
    }

    /// Whether pictures can be written in this format.
    pub fn can_write(self) -> bool {
        self != PictureFormat::Gif
    }

    /// Whether the format holds an alpha channel.
    pub fn holds_alpha(self) -> bool {
        self != PictureFormat::Jpeg
    }

    pub(crate) fn readable_names() -> String {
        PictureFormat::ALL.map(|f| f.to_string()).join(", ")
    }

    pub(crate) fn writable_names() -> String {
        let names: Vec<_> = PictureFormat::ALL.iter().filter(|f| f.can_write()).map(|f| f.extension()).collect();
        names.join(", ")
    }

    #[cfg(feature = "files")]
    pub(crate) fn from_image(format: image::ImageFormat) -> Option<PictureFormat> {
        Some(match format {
            image::ImageFormat::Png => PictureFormat::Png,
            image::ImageFormat::Jpeg => PictureFormat::Jpeg,
            image::ImageFormat::WebP => PictureFormat::WebP,
            image::ImageFormat::Bmp => PictureFormat::Bmp,
            image::ImageFormat::Tiff => PictureFormat::Tiff,
            image::ImageFormat::Gif => PictureFormat::Gif,
            _ => return None,
        })
    }
}

impl fmt::Display for PictureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PictureFormat::Png => "PNG",
            PictureFormat::Jpeg => "JPEG",
            PictureFormat::WebP => "WebP",
            PictureFormat::Bmp => "BMP",
            PictureFormat::Tiff => "TIFF",
            PictureFormat::Gif => "GIF",
        })
    }
}
