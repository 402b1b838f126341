//! Files: every format there and back, metadata, orientation, damage, limits, and writing whole or not at all.

use image::ImageEncoder;
use std::io::Cursor;
use std::path::Path;
use supple::picture::{
    Color, Compression, Decoded, Depth, EncodeOptions, Limits, PictureFormat, Samples, decode, encode, open, save,
};
use supple::{Error, Picture};

const WRITABLE: [PictureFormat; 5] =
    [PictureFormat::Png, PictureFormat::Jpeg, PictureFormat::WebP, PictureFormat::Bmp, PictureFormat::Tiff];

fn picture(width: usize, height: usize, color: Color, alpha: bool, depth: Depth) -> Picture {
    let channels = color.channels() + usize::from(alpha);
    let values = (0..width * height * channels).map(|i| (i / channels * 7 + i % channels * 40) as u16 % 251);
    let samples = match depth {
        Depth::Eight => Samples::Eight(values.map(|v| v as u8).collect()),
        Depth::Sixteen => Samples::Sixteen(values.map(|v| v * 261 + 3).collect()),
    };
    Picture::new(width, height, color, alpha, samples).unwrap()
}

fn bytes(p: &Picture, format: PictureFormat) -> (Vec<u8>, Vec<String>) {
    let mut out = Cursor::new(Vec::new());
    let notes = encode(p, format, &EncodeOptions::default(), &mut out).unwrap();
    (out.into_inner(), notes)
}

fn read(bytes: &[u8]) -> Result<Decoded, Error> {
    decode(bytes, "test", &Limits::default())
}

#[test]
fn lossless_formats_give_back_what_they_got() {
    for format in [PictureFormat::Png, PictureFormat::Tiff, PictureFormat::WebP, PictureFormat::Bmp] {
        for (color, alpha) in [(Color::Gray, false), (Color::Gray, true), (Color::Rgb, false), (Color::Rgb, true)] {
            for depth in [Depth::Eight, Depth::Sixteen] {
                for (w, h) in [(1, 1), (13, 9), (300, 70)] {
                    let p = picture(w, h, color, alpha, depth);
                    let (data, notes) = bytes(&p, format);
                    let back = read(&data).unwrap();
                    assert_eq!(back.format, format);
                    let deep = matches!(format, PictureFormat::Png | PictureFormat::Tiff);
                    assert_eq!(notes.iter().any(|n| n.contains("rounded")), !deep && depth == Depth::Sixteen);
                    let wanted = if deep { p } else { p.into_depth(Depth::Eight) };
                    if back.picture.color() == color && back.picture.has_alpha() == alpha {
                        assert_eq!(back.picture, wanted, "{format} {color:?} {alpha} {depth:?} {w}x{h}");
                    } else {
                        // Grey may come back as red = green = blue.
                        assert_eq!((color, back.picture.has_alpha()), (Color::Gray, alpha), "{format} {depth:?}");
                        assert_eq!(back.picture.to_rgb8(), wanted.to_rgb8(), "{format} {alpha} {depth:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_compression_is_lossless() {
    let p = picture(90, 40, Color::Rgb, false, Depth::Sixteen);
    for compression in [Compression::None, Compression::Fast, Compression::Balanced, Compression::Best] {
        for format in [PictureFormat::Png, PictureFormat::Tiff] {
            let mut out = Cursor::new(Vec::new());
            encode(&p, format, &EncodeOptions { compression, ..EncodeOptions::default() }, &mut out).unwrap();
            assert_eq!(read(out.get_ref()).unwrap().picture, p, "{format} {compression:?}");
        }
    }
}

#[test]
fn jpeg_is_close_and_lays_transparency_over_white() {
    let p = Picture::from_rgb8(32, 32, [200, 100, 50].repeat(1024)).unwrap();
    let back = read(&bytes(&p, PictureFormat::Jpeg).0).unwrap().picture;
    assert!(back.samples8().unwrap().iter().zip(p.samples8().unwrap()).all(|(a, b)| a.abs_diff(*b) < 6));
    let clear = Picture::from_rgba8(16, 16, vec![0; 1024]).unwrap();
    let (data, notes) = bytes(&clear, PictureFormat::Jpeg);
    assert!(notes.iter().any(|n| n.contains("white")));
    assert!(read(&data).unwrap().picture.samples8().unwrap().iter().all(|&v| v > 250));
    let gray = picture(20, 20, Color::Gray, false, Depth::Sixteen);
    assert_eq!(read(&bytes(&gray, PictureFormat::Jpeg).0).unwrap().picture.color(), Color::Gray);
}

/// EXIF with one entry: the orientation.
fn exif(orientation: u8, big_endian: bool) -> Vec<u8> {
    let mut e = if big_endian { b"MM\0*\0\0\0\x08".to_vec() } else { b"II*\0\x08\0\0\0".to_vec() };
    let two = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let four = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    e.extend(two(1));
    e.extend(two(0x0112));
    e.extend(two(3));
    e.extend(four(1));
    e.extend(two(u16::from(orientation)));
    e.extend([0; 6]);
    e
}

#[test]
fn icc_and_exif_survive_where_the_format_holds_them() {
    for format in WRITABLE {
        let mut p = picture(20, 16, Color::Rgb, false, Depth::Eight);
        let icc: Vec<u8> = (0..3000u32).map(|i| ((i * i) >> 3) as u8).collect();
        p.set_icc(Some(icc.clone()));
        p.set_exif(Some(exif(1, false)));
        let (data, notes) = bytes(&p, format);
        let back = read(&data).unwrap().picture;
        let (keeps_icc, keeps_exif) = match format {
            PictureFormat::Bmp => (false, false),
            PictureFormat::Tiff => (true, false),
            _ => (true, true),
        };
        assert_eq!(back.icc(), keeps_icc.then_some(&icc[..]), "{format}");
        assert_eq!(back.exif(), keeps_exif.then_some(&exif(1, false)[..]), "{format}");
        assert_eq!(notes.iter().any(|n| n.contains("left out")), !(keeps_icc && keeps_exif), "{format}: {notes:?}");
        let mut out = Cursor::new(Vec::new());
        encode(&p, format, &EncodeOptions { strip: true, ..EncodeOptions::default() }, &mut out).unwrap();
        let stripped = read(out.get_ref()).unwrap().picture;
        assert_eq!((stripped.icc(), stripped.exif()), (None, None), "{format}");
    }
}

#[test]
fn long_exif_is_left_out_of_a_jpeg_with_a_note() {
    let mut p = picture(8, 8, Color::Rgb, false, Depth::Eight);
    p.set_exif(Some(vec![7; 70_000]));
    let (data, notes) = bytes(&p, PictureFormat::Jpeg);
    assert!(notes.iter().any(|n| n.contains("too long")));
    assert_eq!(read(&data).unwrap().picture.exif(), None);
}

#[test]
fn orientation_is_applied_once_and_reset() {
    let p = picture(5, 3, Color::Rgb, false, Depth::Eight);
    for code in 1..=8 {
        for big_endian in [false, true] {
            for format in [PictureFormat::Png, PictureFormat::WebP] {
                let mut turned = p.clone();
                turned.set_exif(Some(exif(code, big_endian)));
                let back = read(&bytes(&turned, format).0).unwrap().picture;
                let mut reference = image::DynamicImage::ImageRgb8(
                    image::RgbImage::from_raw(5, 3, p.samples8().unwrap().to_vec()).unwrap(),
                );
                reference.apply_orientation(image::metadata::Orientation::from_exif(code).unwrap());
                assert_eq!(back.samples8().unwrap(), reference.as_bytes(), "{format} {code}");
                assert_eq!(back.exif(), Some(&exif(1, big_endian)[..]), "{format} {code}");
                // Written and read once more it stays as it is.
                assert_eq!(read(&bytes(&back, format).0).unwrap().picture, back);
            }
        }
    }
}

#[test]
fn damaged_exif_does_no_harm() {
    let full = exif(6, true);
    for cut in 0..full.len() {
        let mut p = picture(4, 3, Color::Rgb, false, Depth::Eight);
        p.set_exif(Some(full[..cut].to_vec()));
        read(&bytes(&p, PictureFormat::Png).0).unwrap();
    }
    let mut p = picture(4, 3, Color::Rgb, false, Depth::Eight);
    p.set_exif(Some(b"MM\0*\xff\xff\xff\xff".to_vec()));
    assert_eq!(read(&bytes(&p, PictureFormat::Png).0).unwrap().picture.width(), 4);
}

fn gif(frames: usize) -> Vec<u8> {
    let mut data = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut data);
    for i in 0..frames {
        let image = image::RgbaImage::from_fn(40, 30, |x, y| image::Rgba([x as u8 * 6, y as u8 * 8, i as u8, 255]));
        encoder.encode_frame(image::Frame::new(image)).unwrap();
    }
    drop(encoder);
    data
}

#[test]
fn the_first_frame_of_a_gif_is_taken_and_said_so() {
    let one = read(&gif(1)).unwrap();
    assert!(one.notes.is_empty() && !one.picture.has_alpha());
    let three = read(&gif(3)).unwrap();
    assert_eq!(three.notes, ["GIF: the first of 3 frames was taken"]);
    assert_eq!(three.picture, one.picture);
}

#[test]
fn palettes_keep_their_transparency() {
    let mut data = Vec::new();
    let mut encoder = png::Encoder::new(&mut data, 2, 1);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(vec![10, 20, 30, 40, 50, 60]);
    encoder.set_trns(vec![255, 0]);
    encoder.write_header().unwrap().write_image_data(&[0, 1]).unwrap();
    let p = read(&data).unwrap().picture;
    assert_eq!(p, Picture::from_rgba8(2, 1, vec![10, 20, 30, 255, 40, 50, 60, 0]).unwrap());
}

#[test]
fn floating_point_tiff_becomes_sixteen_bits() {
    use tiff::encoder::{TiffEncoder, colortype};
    let mut data = Cursor::new(Vec::new());
    let values = [-1.0f32, 0.0, 0.5, 1.0, 2.0, f32::NAN];
    TiffEncoder::new(&mut data).unwrap().write_image::<colortype::RGB32Float>(2, 1, &values).unwrap();
    let d = read(data.get_ref()).unwrap();
    assert_eq!(d.picture.samples(), &Samples::Sixteen(vec![0, 0, 32768, 65535, 65535, 0]));
    assert_eq!(d.notes.len(), 1);
    let mut data = Cursor::new(Vec::new());
    TiffEncoder::new(&mut data).unwrap().write_image::<colortype::Gray32Float>(3, 2, &values).unwrap();
    let d = read(data.get_ref()).unwrap();
    assert_eq!((d.picture.color(), d.picture.width(), d.notes.len()), (Color::Gray, 3, 1));
}

#[test]
fn truncated_files_are_errors_in_every_format() {
    let p = picture(120, 80, Color::Rgb, false, Depth::Eight);
    let mut files: Vec<(String, Vec<u8>)> = WRITABLE.map(|f| (f.to_string(), bytes(&p, f).0)).into();
    files.push(("GIF".into(), gif(1)));
    for (name, data) in files {
        assert!(read(&data).is_ok(), "{name} is whole");
        for keep in [10, 30, data.len() / 3, data.len() / 2, data.len() * 9 / 10, data.len() - 20] {
            let result = read(&data[..keep]);
            assert!(result.is_err(), "{name}: {keep} of {} bytes were taken for a picture", data.len());
        }
        let error = read(&data[..data.len() / 2]).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{name}: {error:?}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_jpeg_thumbnail_does_not_count_as_the_end() {
    // The EXIF data hold a whole small JPEG, end marker included.
    let mut p = picture(64, 64, Color::Rgb, false, Depth::Eight);
    let mut thumbnail = exif(1, false);
    thumbnail.extend(bytes(&picture(8, 8, Color::Rgb, false, Depth::Eight), PictureFormat::Jpeg).0);
    p.set_exif(Some(thumbnail));
    let data = bytes(&p, PictureFormat::Jpeg).0;
    assert!(read(&data).is_ok());
    assert!(matches!(read(&data[..data.len() - 30]), Err(Error::Truncated { .. })));
}

#[test]
fn what_is_no_picture_is_said_to_be_none() {
    for (data, words) in [
        (&b""[..], "empty"),
        (b"Dear diary, today I was renamed to .png\n", "text"),
        (b"%PDF-1.7 \0\x01", "PDF"),
        (b"\0\0\0\x20ftypavif\0\0", "AVIF"),
        (b"\x7fELF\x02\x01\x01\0", "unknown"),
    ] {
        let error = read(data).unwrap_err();
        assert!(matches!(error, Error::NotAPicture { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().unwrap().contains("PNG"));
    }
}

#[test]
fn header_bombs_are_refused_by_name_of_limit_and_option() {
    // A PNG that announces 60000x60000 pixels and holds next to none.
    let small = bytes(&picture(8, 8, Color::Rgb, false, Depth::Eight), PictureFormat::Png).0;
    let mut bomb = small.clone();
    bomb[16..20].copy_from_slice(&60000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60000u32.to_be_bytes());
    let crc = crc(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = read(&bomb).unwrap_err();
    assert!(matches!(error, Error::TooManyPixels { .. }), "{error:?}");
    assert!(error.to_string().contains("60000x60000") && error.to_string().contains("268.4 Mpixel"), "{error}");
    assert!(error.hint().unwrap().contains("--max-pixels 3600000000"));
    // With the limit raised memory is the next one.
    let limits = Limits { max_pixels: u64::MAX, max_memory: 1 << 30 };
    let error = decode(&bomb, "bomb", &limits).unwrap_err();
    assert!(matches!(error, Error::TooMuchMemory { .. }), "{error:?}");

    for format in [PictureFormat::Jpeg, PictureFormat::Bmp] {
        let mut data = bytes(&picture(8, 8, Color::Rgb, false, Depth::Eight), format).0;
        match format {
            PictureFormat::Bmp => {
                data[18..22].copy_from_slice(&60000u32.to_le_bytes());
                data[22..26].copy_from_slice(&60000u32.to_le_bytes());
            }
            _ => {
                let at = data.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
                data[at + 5..at + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
            }
        }
        let error = read(&data).unwrap_err();
        assert!(matches!(error, Error::TooManyPixels { .. }), "{format}: {error:?}");
    }
    let limits = Limits { max_pixels: 63, ..Limits::default() };
    assert!(matches!(decode(&small, "small", &limits), Err(Error::TooManyPixels { .. })));
}

fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 != 0 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 })
    })
}

#[test]
fn saving_never_overwrites_unless_asked_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let (p, q) = (picture(4, 4, Color::Rgb, false, Depth::Eight), picture(5, 5, Color::Rgb, false, Depth::Eight));
    p.save(&path).unwrap();
    let error = q.save(&path).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }) && error.hint().unwrap().contains("--overwrite"));
    assert_eq!(open(&path).unwrap(), p);
    save(&path, &q, PictureFormat::Png, &EncodeOptions::default(), true).unwrap();
    assert_eq!(open(&path).unwrap(), q);
    // A picture that the format cannot hold.
    let wide = Picture::from_gray8(20_000, 1, vec![0; 20_000]).unwrap();
    assert!(matches!(wide.save(folder.path().join("wide.webp")), Err(Error::Encode { .. })));
    assert!(matches!(p.save(folder.path().join("a.gif")), Err(Error::UnknownFormat { .. })));
    assert!(matches!(p.save(folder.path().join("a.avif")), Err(Error::UnknownFormat { .. })));
    assert!(matches!(p.save(folder.path().join("none/a.png")), Err(Error::Io { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn saved_files_have_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    let (ours, plain) = (folder.path().join("a.png"), folder.path().join("b"));
    picture(2, 2, Color::Rgb, false, Depth::Eight).save(&ours).unwrap();
    std::fs::write(&plain, b"").unwrap();
    assert_eq!(mode(&ours), mode(&plain));
}

#[test]
fn a_full_disk_is_an_error_that_says_so() {
    // /dev/full takes nothing.
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        for format in WRITABLE {
            let p = picture(64, 64, Color::Rgb, false, Depth::Eight);
            let error = encode(&p, format, &EncodeOptions::default(), Full(&full)).unwrap_err();
            assert!(matches!(error, Error::Write(_)), "{format}: {error:?}");
            assert!(error.hint().unwrap().contains("full"), "{format}: {error:?}");
        }
    }
}

/// /dev/full that can be sought in.
struct Full<'a>(&'a std::fs::File);

impl std::io::Write for Full<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.write(buf)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for Full<'_> {
    fn seek(&mut self, _: std::io::SeekFrom) -> std::io::Result<u64> {
        Ok(0)
    }
}

#[test]
fn the_image_crate_reads_what_we_write() {
    let p = picture(30, 20, Color::Rgb, true, Depth::Eight);
    let (data, _) = bytes(&p, PictureFormat::Tiff);
    let theirs = image::load_from_memory(&data).unwrap();
    assert_eq!(theirs.as_bytes(), p.samples8().unwrap());
    // And we read what it writes.
    let mut out = Vec::new();
    image::codecs::png::PngEncoder::new(&mut out)
        .write_image(p.samples8().unwrap(), 30, 20, image::ExtendedColorType::Rgba8)
        .unwrap();
    assert_eq!(read(&out).unwrap().picture, p);
}
