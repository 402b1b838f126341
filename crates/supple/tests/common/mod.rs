//! Networks without weights, for what does not depend on weights.
#![allow(dead_code)]

use supple::{Cpu, SuperResolution};
use supple_models::{Error, Sink, Source, Window};

/// Repeats pixels.
pub struct Nearest(pub usize);

/// Blurs over 7 columns and 5 rows, differently for each of four columns; then repeats pixels.
pub struct Blur(pub usize);

/// Gives NaN in one row.
pub struct Broken;

fn read(window: &Window, source: &mut Source<'_>) -> Vec<Vec<f32>> {
    (0..window.height)
        .map(|y| {
            let mut row = vec![0.0; window.columns_len() * 3];
            source(y, &mut row);
            assert!(row.iter().all(|v| (0.0..=1.0).contains(v)), "input outside 0..1");
            row
        })
        .collect()
}

fn repeat(row: &[f32], scale: usize) -> Vec<f32> {
    row.chunks(3).flat_map(|p| p.iter().copied().cycle().take(3 * scale)).collect()
}

macro_rules! constants {
    ($name:literal, $scale:expr, $min:literal, $halo:literal, $alignment:literal) => {
        fn name(&self) -> &str {
            $name
        }
        fn scale(&self) -> usize {
            $scale(self)
        }
        fn parameters(&self) -> (usize, usize) {
            (0, 0)
        }
        fn macs(&self, _: usize, _: usize) -> u64 {
            0
        }
        fn min_side(&self) -> usize {
            $min
        }
        fn halo(&self) -> usize {
            $halo
        }
        fn alignment(&self) -> usize {
            $alignment
        }
        fn working_memory(&self, _: &Cpu, window: &Window) -> usize {
            window.columns_len() * (4 << 20)
        }
    };
}

impl SuperResolution for Nearest {
    constants!("nearest", |s: &Self| s.0, 1, 0, 1);
    fn run(&self, _: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
        let rows = read(window, source);
        for y in 0..rows.len() * self.0 {
            if !sink(y, &repeat(&rows[y / self.0], self.0)) {
                break;
            }
        }
        Ok(())
    }
}

impl SuperResolution for Blur {
    constants!("blur", |s: &Self| s.0, 5, 3, 4);
    fn run(&self, _: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
        assert!(window.columns.start.is_multiple_of(4) && window.columns.end <= window.width);
        assert!(window.columns_len() >= 5 && window.height >= 5);
        let rows = read(window, source);
        let clamp = |i: usize, d: usize, r: usize, n: usize| (i + d).saturating_sub(r).min(n - 1);
        for y in 0..rows.len() {
            let mut out = vec![0.0; rows[0].len()];
            for (i, o) in out.iter_mut().enumerate() {
                let (x, c) = (i / 3, i % 3);
                for dy in 0..5 {
                    for dx in 0..7 {
                        let weight = if (dx + x) % 4 == 0 { 0.05 } else { 0.02 };
                        *o += weight * rows[clamp(y, dy, 2, rows.len())][clamp(x, dx, 3, out_len(window)) * 3 + c];
                    }
                }
            }
            for k in 0..self.0 {
                if !sink(y * self.0 + k, &repeat(&out, self.0)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn out_len(window: &Window) -> usize {
    window.columns_len()
}

impl SuperResolution for Broken {
    constants!("broken", |_: &Self| 2, 1, 0, 1);
    fn run(&self, _: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
        let _ = read(window, source);
        for y in 0..window.height * 2 {
            let value = if y == 3 { f32::NAN } else { 0.5 };
            if !sink(y, &vec![value; window.columns_len() * 6]) {
                break;
            }
        }
        Ok(())
    }
}
