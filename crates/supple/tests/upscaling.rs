//! What must hold around any network: strips, colours, alpha, depth, small pictures, cancelling.

mod common;

use common::{Blur, Broken, Nearest};
use proptest::prelude::*;
use supple::picture::{Color, Samples};
use supple::{Error, Picture, Upscaler, UpscalerOptions, enlarge};

fn nearest(scale: usize) -> Upscaler {
    Upscaler::from_network(Box::new(Nearest(scale))).unwrap()
}

fn blur(options: UpscalerOptions) -> Upscaler {
    Upscaler::from_network(Box::new(Blur(2))).unwrap().with_options(options).unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2654435761) >> 15) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn strips_are_invisible(w in 1usize..260, h in 1usize..12, tile in 1usize..200) {
        let p = Picture::from_rgb8(w, h, noise(w * h * 3)).unwrap();
        let whole = blur(UpscalerOptions::default()).upscale(&p).unwrap();
        let strips = blur(UpscalerOptions { tile: Some(tile), ..UpscalerOptions::default() }).upscale(&p).unwrap();
        prop_assert_eq!(whole, strips);
    }

    #[test]
    fn any_size_comes_back_scaled(w in 1usize..20, h in 1usize..20, tta: bool, wrap: bool) {
        let p = Picture::from_rgb8(w, h, noise(w * h * 3)).unwrap();
        let r = blur(UpscalerOptions { tta, wrap, ..UpscalerOptions::default() }).upscale(&p).unwrap();
        prop_assert_eq!((r.width(), r.height()), (w * 2, h * 2));
    }
}

#[test]
fn memory_budgets_cut_strips_and_change_nothing() {
    // The fake network asks for 4 MiB a column: 600 columns do not fit into the least budget of 128 MiB.
    let p = Picture::from_rgba8(600, 7, noise(600 * 7 * 4)).unwrap();
    let whole = blur(UpscalerOptions { max_memory: Some(1 << 40), ..UpscalerOptions::default() }).upscale(&p).unwrap();
    let strips = blur(UpscalerOptions { max_memory: Some(1), ..UpscalerOptions::default() });
    let mut rows = 0;
    let cut = strips
        .upscale_with(&p, &mut |_| {
            rows += 1;
            true
        })
        .unwrap();
    assert_eq!(cut, whole);
    assert!(rows > 2 * 7, "the picture was not cut");
}

#[test]
fn pixels_arrive_where_they_belong() {
    let p = Picture::from_rgb8(5, 4, noise(60)).unwrap();
    let r = nearest(3).upscale(&p).unwrap();
    let (small, large) = (p.samples8().unwrap(), r.samples8().unwrap());
    for y in 0..12 {
        for x in 0..15 {
            assert_eq!(large[(y * 15 + x) * 3..][..3], small[(y / 3 * 5 + x / 3) * 3..][..3]);
        }
    }
}

#[test]
fn averaging_over_turns_and_wrapping_keep_pixels_in_place() {
    for samples in
        [Samples::Eight(noise(7 * 4)), Samples::Sixteen(noise(7 * 4).iter().map(|&v| v as u16 * 200).collect())]
    {
        let p = Picture::new(7, 4, Color::Gray, false, samples).unwrap();
        let plain = nearest(2).upscale(&p).unwrap();
        for (tta, wrap) in [(true, false), (false, true), (true, true)] {
            let options = UpscalerOptions { tta, wrap, ..UpscalerOptions::default() };
            assert_eq!(nearest(2).with_options(options).unwrap().upscale(&p).unwrap(), plain, "{tta} {wrap}");
        }
    }
}

#[test]
fn wrapped_pictures_tile_without_a_seam() {
    // Shifting a tile and enlarging it is the same as enlarging and shifting, if edges meet. Shifts keep the network's
    // columns of four.
    let (w, h) = (24, 12);
    let samples = noise(w * h);
    let shifted: Vec<u8> = (0..w * h).map(|i| samples[(i / w + 4) % h * w + (i % w + 8) % w]).collect();
    let run = |v| {
        let options = UpscalerOptions { wrap: true, ..UpscalerOptions::default() };
        blur(options).upscale(&Picture::from_gray8(w, h, v).unwrap()).unwrap().samples8().unwrap().to_vec()
    };
    let (plain, moved) = (run(samples), run(shifted));
    assert_eq!(moved.len(), 4 * w * h);
    for (i, &sample) in moved.iter().enumerate() {
        let (x, y) = (i % (2 * w), i / (2 * w));
        assert_eq!(sample, plain[(y + 8) % (2 * h) * 2 * w + (x + 16) % (2 * w)]);
    }
}

#[test]
fn sixteen_bits_and_grey_survive() {
    let samples: Vec<u16> = (0..30).map(|i| i * 2113 + 7).collect();
    let p = Picture::new(6, 5, Color::Gray, false, Samples::Sixteen(samples.clone())).unwrap();
    let r = nearest(2).upscale(&p).unwrap();
    assert_eq!((r.color(), r.has_alpha()), (Color::Gray, false));
    let Samples::Sixteen(large) = r.samples() else { panic!("depth was lost") };
    assert!((0..120).all(|i| large[i] == samples[i / 12 / 2 * 6 + i % 12 / 2]));
}

#[test]
fn no_fringe_around_a_white_shape_on_transparent_black() {
    // A white disc with a soft edge, black wherever it is transparent.
    let side = 40usize;
    let mut samples = Vec::new();
    for i in 0..side * side {
        let distance = ((i % side) as f32 - 19.5).hypot((i / side) as f32 - 19.5);
        let alpha = ((12.5 - distance).clamp(0.0, 1.0) * 255.0) as u8;
        samples.extend(if alpha > 0 { [255, 255, 255, alpha] } else { [0, 0, 0, 0] });
    }
    let r = blur(UpscalerOptions::default()).upscale(&Picture::from_rgba8(side, side, samples).unwrap()).unwrap();
    // The fake network multiplies flat white by a factor near one; what counts is that edges are as bright as the middle.
    let pixels: Vec<_> = r.samples8().unwrap().chunks(4).collect();
    let least = |columns: &dyn Fn(&[u8]) -> bool| pixels.iter().filter(|p| columns(p)).map(|p| p[0]).min().unwrap();
    assert_eq!(least(&|p| p[3] > 0), least(&|p| p[3] == 255));
    assert!(pixels.iter().any(|p| p[3] == 255) && pixels.iter().any(|p| p[3] == 0));
    let soft = pixels.iter().filter(|p| p[3] > 0 && p[3] < 255).count();
    assert!((40..1000).contains(&soft), "{soft} half-transparent pixels");
}

#[test]
fn opaque_alpha_stays_opaque() {
    let samples: Vec<u8> = noise(48).chunks(3).flat_map(|c| [c[0], c[1], c[2], 255]).collect();
    let r = nearest(2).upscale(&Picture::from_rgba8(4, 4, samples).unwrap()).unwrap();
    assert!(r.samples8().unwrap().chunks(4).all(|p| p[3] == 255));
}

#[test]
fn metadata_travel_along() {
    let mut p = Picture::from_rgb8(2, 2, vec![9; 12]).unwrap();
    p.set_icc(Some(vec![1, 2, 3]));
    p.set_exif(Some(vec![4, 5]));
    let r = nearest(2).upscale(&p).unwrap();
    assert_eq!((r.icc(), r.exif()), (p.icc(), p.exif()));
}

#[test]
fn nan_is_an_error_and_cancelling_stops() {
    let p = Picture::from_rgb8(3, 3, vec![9; 27]).unwrap();
    let broken = Upscaler::from_network(Box::new(Broken)).unwrap();
    assert!(matches!(broken.upscale(&p), Err(Error::NotFinite { row: 3, .. })));
    let mut calls = 0;
    let result = nearest(2).upscale_with(&p, &mut |_| {
        calls += 1;
        calls < 3
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(calls, 3);
}

#[test]
fn progress_ends_at_one() {
    let p = Picture::from_rgb8(100, 9, noise(2700)).unwrap();
    let options = UpscalerOptions { tile: Some(32), tta: true, ..UpscalerOptions::default() };
    let mut last = supple::Progress::default();
    blur(options)
        .upscale_with(&p, &mut |p| {
            assert!(p.pixels_done >= last.pixels_done);
            last = p;
            true
        })
        .unwrap();
    assert_eq!((last.pixels_done, last.fraction()), (last.pixels_total, 1.0));
}

#[test]
fn absurd_results_are_refused_before_they_are_allocated() {
    let p = Picture::from_gray8(1 << 14, 1 << 12, vec![0; 1 << 26]).unwrap();
    let error = nearest(1 << 10).upscale(&p).unwrap_err();
    assert!(matches!(error, Error::TooMuchMemory { .. }), "{error}");
}

#[test]
fn any_scale_gives_the_size_asked_for() {
    let p = Picture::from_rgb8(13, 9, noise(13 * 9 * 3)).unwrap();
    for scale in [1.1, 1.5, 2.0, 2.5, 3.0, 3.7, 4.0, 5.0, 6.0, 7.3, 8.0, 12.0, 16.0] {
        for available in [&[2, 3, 4][..], &[4], &[2]] {
            let mut done = 0.0;
            let r = enlarge(&p, scale, available, &|s| Ok(nearest(s)), &mut |p| {
                done = p.fraction();
                true
            })
            .unwrap();
            let side = |n: usize| (n as f64 * scale).round() as usize;
            assert_eq!((r.width(), r.height()), (side(13), side(9)), "x{scale} from {available:?}");
            assert!((done - 1.0f64).abs() < 1e-9);
        }
    }
    assert!(enlarge(&p, 17.0, &[2], &|s| Ok(nearest(s)), &mut |_| true).is_err());
    // A network of another scale than it was asked for would scramble the picture.
    assert!(enlarge(&p, 3.0, &[3], &|_| Ok(nearest(2)), &mut |_| true).is_err());
}
