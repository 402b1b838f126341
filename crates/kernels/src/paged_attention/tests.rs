//! What must hold of attention over pages.

use super::*;
use crate::Isa;
use crate::testing::noise;

/// A layer whose sequence of `len` positions lies in pages of descending numbers.
fn filled(heads: Heads, format: Format, len: usize, seed: u64) -> (KvLayer, Vec<u32>) {
    let pages = len.div_ceil(PAGE);
    let mut layer = KvLayer::new(heads, format, pages);
    let ids: Vec<u32> = (0..pages as u32).rev().collect();
    let width = heads.kv_heads * heads.head_dim;
    let (keys, values) = (noise(len * width, seed), noise(len * width, seed + 1));
    let cpu = Cpu::new(Isa::detect(), 2);
    let places: Vec<(u32, usize)> = (0..len).map(|position| (ids[position / PAGE], position % PAGE)).collect();
    layer.store(&cpu, &places, &keys, &values);
    (layer, ids)
}

#[test]
fn every_shape_equals_the_reference() {
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        for format in FORMATS {
            for (heads, kv_heads, head_dim) in [(4, 2, 64), (3, 3, 20), (9, 3, 80), (7, 1, 16), (2, 1, 256)] {
                for (window, soft_cap) in [(None, None), (Some(5), None), (Some(40), Some(2.0))] {
                    let heads = Heads { heads, kv_heads, head_dim };
                    let masking = Masking { window, soft_cap };
                    let (len, count) = (77, 9);
                    let (layer, pages) = filled(heads, format, len, 3);
                    let width = heads.heads * head_dim;
                    let scale = 1.0 / (head_dim as f32).sqrt();
                    let q: Vec<f32> = noise((count + 1) * width, 7).iter().map(|q| 3.0 * scale * q).collect();
                    let span = Span { first_page: 0, start: len - count, count, row: 1 };
                    let mut out = vec![f32::NAN; (count + 1) * width];
                    attend(&cpu, &layer, masking, &pages, &[span], &q, &mut out);
                    assert!(out[..width].iter().all(|v| v.is_nan()), "a row that is no one's");
                    for token in 0..count {
                        for head in 0..heads.heads {
                            let at = (token + 1) * width + head * head_dim;
                            let wanted =
                                attend_reference(&layer, masking, &pages, span, token, head, &q[at..at + head_dim]);
                            for (d, wanted) in wanted.into_iter().enumerate() {
                                let found = f64::from(out[at + d]);
                                let error = (found - wanted).abs();
                                assert!(error < 3e-6, "{isa} {format:?} {heads:?} {masking:?} token {token}: {error}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_query_gets_the_same_alone_and_among_others() {
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 3);
        let heads = Heads { heads: 6, kv_heads: 2, head_dim: 32 };
        for (window, format) in [None, Some(33)].into_iter().flat_map(|w| FORMATS.map(|format| (w, format))) {
            let masking = Masking { window, soft_cap: None };
            let (layer, pages) = filled(heads, format, 100, 5);
            let width = heads.heads * heads.head_dim;
            let q = noise(100 * width, 9);
            let mut together = vec![0.0; 100 * width];
            attend(
                &cpu,
                &layer,
                masking,
                &pages,
                &[Span { first_page: 0, start: 0, count: 100, row: 0 }],
                &q,
                &mut together,
            );
            for token in [0, 1, 31, 32, 63, 64, 98, 99] {
                let mut alone = vec![0.0; width];
                let span = Span { first_page: 0, start: token, count: 1, row: 0 };
                attend(&cpu, &layer, masking, &pages, &[span], &q[token * width..], &mut alone);
                assert_eq!(alone, together[token * width..][..width], "{isa} {format:?} token {token}");
            }
        }
    }
}

#[test]
fn pages_keep_what_they_hold_when_there_are_more() {
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 16 };
    let cpu = Cpu::new(Isa::detect(), 1);
    for format in FORMATS {
        let (mut layer, pages) = filled(heads, format, 40, 1);
        let q = noise(32, 2);
        let (mut before, mut after) = (vec![0.0; 32], vec![0.0; 32]);
        let span = Span { first_page: 0, start: 39, count: 1, row: 0 };
        attend(&cpu, &layer, Masking::default(), &pages, &[span], &q, &mut before);
        layer.grow(7);
        layer.copy_page(pages[0], 5);
        attend(&cpu, &layer, Masking::default(), &[5, pages[1]], &[span], &q, &mut after);
        assert_eq!(before, after);
    }
}

#[test]
fn what_is_stored_is_as_near_as_its_format_allows() {
    let cpu = Cpu::new(Isa::detect(), 1);
    let heads = Heads { heads: 3, kv_heads: 3, head_dim: 40 };
    let mut keys = noise(120, 4);
    let mut values = noise(120, 5);
    // What lies beyond a format's range becomes its largest number, and zeros stay.
    keys[40..80].fill(0.0);
    (keys[80], values[3]) = (1e30, -1e30);
    for (format, step) in FORMATS.into_iter().zip([0.0, 1.0 / 2048.0, 1.0 / 256.0, 1.0 / 254.0, 1.0 / 8.0]) {
        let mut layer = KvLayer::new(heads, format, 1);
        assert_eq!(layer.keys.len() * 4 + layer.values.len() * 4, KvLayer::page_bytes(heads, format));
        layer.store(&cpu, &[(0, 7)], &keys, &values);
        let sizes = Shape::of(format, 40).bytes();
        for (which, (buffer, given)) in [(&layer.keys, &keys), (&layer.values, &values)].into_iter().enumerate() {
            // SAFETY: any byte of a float may be read.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), 4 * buffer.len()) };
            let place = if which == 0 { Place::Key(7) } else { Place::Value(7) };
            for (at, &wanted) in given.iter().enumerate() {
                let (head, d) = (at / 40, at % 40);
                let found = element(format, 40, &bytes[head * sizes[which]..][..sizes[which]], place, d);
                let block = &given[head * 40 + d / 32 * 32..][..(40 - d / 32 * 32).min(32)];
                let largest = block.iter().fold(0.0f32, |most, v| most.max(v.abs()));
                assert!(found.is_finite(), "{format:?} {wanted}: {found}");
                if largest < 10.0 {
                    assert!((found - wanted).abs() <= step * largest * 1.01, "{format:?} {wanted}: {found}");
                }
            }
        }
    }
}
