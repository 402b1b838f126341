//! The bundled networks through the whole library.

use std::path::PathBuf;
use supple::evaluate::{Candidate, pictures_in, sr};
use supple::{Picture, Precision, Upscaler, UpscalerOptions, models};

/// Smooth shapes with some texture.
fn scene(width: usize, height: usize) -> Picture {
    let level =
        |x: f32, y: f32| 0.5 + 0.3 * (x * 0.11).sin() * (y * 0.07).cos() + 0.2 * ((x * x + y * y) * 0.003).sin();
    let samples = (0..width * height * 3).map(|i| {
        let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
        (level(x as f32 + 9.0 * c as f32, y as f32) * 255.0) as u8
    });
    Picture::from_rgb8(width, height, samples.collect()).unwrap()
}

fn f32_options() -> UpscalerOptions {
    UpscalerOptions { precision: Precision::F32, ..UpscalerOptions::default() }
}

#[test]
fn every_bundled_network_works_from_one_pixel_on() {
    for scale in models::BUNDLED_SCALES {
        assert_eq!(Upscaler::bundled(scale).unwrap().scale(), scale);
    }
    for entry in models::catalogue() {
        let models::Location::Bundled { name, scale } = entry.location else { continue };
        let upscaler = Upscaler::bundled_named(name, UpscalerOptions::default()).unwrap();
        assert_eq!(upscaler.scale(), scale);
        for (w, h) in [(1, 1), (1, 30), (17, 3), (40, 29)] {
            let r = upscaler.upscale(&scene(w, h)).unwrap();
            assert_eq!((r.width(), r.height()), (w * scale, h * scale));
        }
        let flat = upscaler.upscale(&Picture::from_gray8(30, 30, vec![120; 900]).unwrap()).unwrap();
        assert!(flat.samples8().unwrap().iter().all(|v| v.abs_diff(120) < 8), "a flat picture does not stay flat");
    }
    assert!(Upscaler::bundled(5).is_err());
    assert!(Upscaler::bundled_named("none", UpscalerOptions::default()).is_err());
}

#[test]
fn strips_of_the_real_network_are_invisible() {
    let p = scene(420, 40);
    let upscaler = Upscaler::bundled(2).unwrap().with_options(f32_options()).unwrap();
    let whole = upscaler.upscale(&p).unwrap();
    for tile in [96, 130] {
        let options = UpscalerOptions { tile: Some(tile), ..f32_options() };
        let strips = upscaler.clone().with_options(options).unwrap().upscale(&p).unwrap();
        assert!(strips == whole, "strips of {tile} columns show");
    }
}

#[test]
fn columns_by_themselves_are_those_of_the_whole() {
    let upscaler = Upscaler::bundled(2).unwrap().with_options(f32_options()).unwrap();
    let opaque = scene(640, 30);
    let alpha = (0..640 * 30).map(|i| (i % 640 / 3) as u8);
    let with_alpha: Vec<u8> =
        opaque.samples8().unwrap().chunks(3).zip(alpha).flat_map(|(c, a)| [c[0], c[1], c[2], a]).collect();
    for p in [opaque, Picture::from_rgba8(640, 30, with_alpha).unwrap()] {
        let (whole, channels) = (upscaler.upscale(&p).unwrap(), p.channels());
        let parts = upscaler.split(640, 2);
        assert_eq!(parts.len(), 2);
        for columns in parts.into_iter().chain([3..4, 639..640]) {
            let mut done = 0.0;
            let tell = &mut |p: supple::Progress| {
                done = p.fraction();
                true
            };
            let part = upscaler.upscale_columns(&p, columns.clone(), tell).unwrap();
            assert_eq!((part.width(), part.height(), done), (columns.len() * 2, 60, 1.0));
            let len = part.width() * channels;
            let rows = whole.samples8().unwrap().chunks(1280 * channels);
            let expected: Vec<u8> =
                rows.flat_map(|row| row[columns.start * 2 * channels..][..len].iter().copied()).collect();
            assert!(part.samples8().unwrap() == expected, "{columns:?} differ");
        }
    }
}

#[test]
fn columns_that_do_not_exist_are_refused() {
    let (p, upscaler) = (scene(20, 20), Upscaler::bundled(2).unwrap());
    let columns = |upscaler: &Upscaler, from, to| upscaler.upscale_columns(&p, from..to, &mut |_| true);
    assert_eq!(columns(&upscaler, 0, 20).unwrap().width(), 40);
    for (from, to) in [(3, 3), (0, 21), (20, 21)] {
        assert!(columns(&upscaler, from, to).is_err(), "{from}..{to}");
    }
    for (tta, wrap) in [(true, false), (false, true)] {
        let options = UpscalerOptions { tta, wrap, ..f32_options() };
        assert!(columns(&upscaler.clone().with_options(options).unwrap(), 0, 10).is_err());
    }
}

#[test]
fn bundled_weights_reproduce_their_metadata_on_set5() {
    let root = std::env::var_os("SUPPLE_SPECS").map(PathBuf::from).unwrap_or_default();
    let folder = root.join("data/super_resolution/Set5");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    }
    let files = pictures_in(folder).unwrap();
    for entry in models::catalogue() {
        let models::Location::Bundled { name, scale } = entry.location else { continue };
        // `... "set5": "31.9804/0.8918", ...`
        let metrics = &entry.metadata["metrics"];
        let numbers = metrics.split("\"set5\": \"").nth(1).and_then(|t| t.split('"').next()).unwrap();
        let (psnr, ssim) = numbers.split_once('/').unwrap();
        let (psnr, ssim): (f64, f64) = (psnr.parse().unwrap(), ssim.parse().unwrap());

        let upscaler = Upscaler::bundled_named(name, f32_options()).unwrap();
        let mean = sr(&files, scale, Candidate::Network(&upscaler), &mut |_| true).unwrap().mean;
        println!("{name} on Set5: {:.4} dB, SSIM {:.5}, RGB {:.4} dB", mean.psnr_y, mean.ssim_y, mean.psnr_rgb);
        assert!((mean.psnr_y - psnr).abs() < 0.01 && (mean.ssim_y - ssim).abs() < 2e-4, "{mean:?} against {numbers}");
    }
}
