//! The evaluation's baseline on the standard sets, against the published protocol. The sets are
//! not part of the project: `SUPPLE_SPECS` names the folder that has them; where there is none the tests say so.

mod common;

use common::Nearest;
use std::path::PathBuf;
use supple::evaluate::{Candidate, pictures_in, sr, sr_picture};
use supple::{Picture, Upscaler};

fn set(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SUPPLE_SPECS").map(PathBuf::from).unwrap_or_default();
    let folder = root.join("data/super_resolution").join(name);
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

fn bicubic(name: &str, scale: usize, psnr_y: f64, ssim_y: f64, psnr_rgb: Option<f64>) {
    let Some(folder) = set(name) else { return };
    let files = pictures_in(folder).unwrap();
    let mean = sr(&files, scale, Candidate::Bicubic, &mut |_| true).unwrap().mean;
    println!("{name} x{scale}: {:.4} dB, SSIM {:.5}, RGB {:.4} dB", mean.psnr_y, mean.ssim_y, mean.psnr_rgb);
    assert!((mean.psnr_y - psnr_y).abs() < 6e-4, "{mean:?}");
    assert!((mean.ssim_y - ssim_y).abs() < 6e-5, "{mean:?}");
    assert!(psnr_rgb.is_none_or(|p| (mean.psnr_rgb - p).abs() < 6e-3), "{mean:?}");
}

#[test]
fn bicubic_on_set5_is_as_published() {
    bicubic("Set5", 4, 28.429, 0.8111, Some(26.69));
    bicubic("Set5", 2, 33.673, 0.9303, Some(31.79));
}

#[test]
fn bicubic_on_set14_is_as_published() {
    bicubic("Set14", 4, 26.088, 0.7048, Some(24.46));
    bicubic("Set14", 2, 30.325, 0.8699, Some(28.52));
}

#[test]
fn networks_of_another_scale_and_tiny_pictures_are_refused() {
    let p = Picture::from_rgb8(64, 64, vec![50; 64 * 64 * 3]).unwrap();
    let network = Upscaler::from_network(Box::new(Nearest(2))).unwrap();
    assert!(sr_picture(&p, "flat", 4, Candidate::Network(&network)).is_err());
    let score = sr_picture(&p, "flat", 2, Candidate::Network(&network)).unwrap();
    assert_eq!((score.psnr_y, score.psnr_rgb), (99.0, 99.0));
    let tiny = Picture::from_rgb8(5, 5, vec![50; 75]).unwrap();
    assert!(sr_picture(&tiny, "tiny", 2, Candidate::Bicubic).is_err());
    assert!(sr(&[], 2, Candidate::Bicubic, &mut |_| true).is_err());
}
