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
        for format in [Format::F32, Format::F16] {
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
                                assert!((found - wanted).abs() < 3e-6, "{isa} {heads:?} {masking:?} token {token}");
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
        for window in [None, Some(33)] {
            let masking = Masking { window, soft_cap: None };
            let (layer, pages) = filled(heads, Format::F16, 100, 5);
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
                assert_eq!(alone, together[token * width..][..width], "{isa} token {token}");
            }
        }
    }
}

#[test]
fn pages_keep_what_they_hold_when_there_are_more() {
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 16 };
    let cpu = Cpu::new(Isa::detect(), 1);
    let (mut layer, pages) = filled(heads, Format::F16, 40, 1);
    let q = noise(32, 2);
    let (mut before, mut after) = (vec![0.0; 32], vec![0.0; 32]);
    let span = Span { first_page: 0, start: 39, count: 1, row: 0 };
    attend(&cpu, &layer, Masking::default(), &pages, &[span], &q, &mut before);
    layer.grow(7);
    layer.copy_page(pages[0], 5);
    attend(&cpu, &layer, Masking::default(), &[5, pages[1]], &[span], &q, &mut after);
    assert_eq!(before, after);
}
