//! Cutting a picture into windows of columns that fit into memory.

use crate::Cpu;
use std::ops::Range;
use supple_models::{SuperResolution, Window};

/// A window of columns, and the part of it that is exact and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Columns that are kept.
    pub core: Range<usize>,
    /// Columns that the network sees.
    pub window: Window,
}

/// No window keeps fewer columns than this, whatever the budget.
const MIN_COLUMNS: usize = 64;

/// Windows of about `columns` kept columns each, for all columns of `part`.
fn cut(
    network: &dyn SuperResolution,
    (width, height): (usize, usize),
    part: &Range<usize>,
    columns: usize,
) -> Vec<Cut> {
    let step = columns.max(1).next_multiple_of(network.alignment().max(1));
    let (halo, alignment) = (network.halo(), network.alignment().max(1));
    // The network must accept each window by itself.
    let least = network.min_side();
    part.clone()
        .step_by(step)
        .map(|start| {
            let core = start..(start + step).min(part.end);
            let mut end = (core.end + halo).min(width);
            let mut begin = core.start.saturating_sub(halo) / alignment * alignment;
            if end - begin < least {
                end = (begin + least).min(width);
                begin = end.saturating_sub(least).min(begin) / alignment * alignment;
            }
            Cut { core, window: Window { width, height, columns: begin..end } }
        })
        .collect()
}

/// The fewest windows for the columns of `part` that need no more than `budget` bytes each, or of `tile` columns; one for
/// a network that holds whole pictures.
pub(super) fn plan(
    network: &dyn SuperResolution,
    cpu: &Cpu,
    (width, height): (usize, usize),
    part: Range<usize>,
    budget: u64,
    tile: Option<usize>,
) -> Vec<Cut> {
    if network.holds_whole_pictures() {
        return vec![Cut { core: part, window: Window::whole(width, height) }];
    }
    if let Some(tile) = tile {
        return cut(network, (width, height), &part, tile.max(32));
    }
    let mut count = 1;
    loop {
        let columns = part.len().div_ceil(count).max(MIN_COLUMNS);
        let cuts = cut(network, (width, height), &part, columns);
        let most = cuts.iter().map(|c| network.working_memory(cpu, &c.window) as u64).max().unwrap_or(0);
        if most <= budget || columns <= MIN_COLUMNS {
            return cuts;
        }
        count += 1;
    }
}

/// A further part has to make the widest window narrower by this much.
const WORTH: f64 = 0.95;

/// Cuts `width` columns into at most `most` parts, such that the windows around them are of about the same width. There
/// are fewer where another would save next to nothing, since each inner edge costs a halo on either side.
pub(super) fn split(network: &dyn SuperResolution, width: usize, most: usize) -> Vec<Range<usize>> {
    let (halo, alignment) = (network.halo(), network.alignment().max(1));
    let window = |parts: usize| (width + 2 * halo * (parts - 1)).div_ceil(parts);
    let worth = |parts: &usize| (window(*parts) as f64) < WORTH * window(parts - 1) as f64;
    let whole = network.holds_whole_pictures() || width <= 2 * halo;
    let parts = if whole { 1 } else { 1 + (2..=most).take_while(worth).count() };
    // The first and the last have one halo, those between them two.
    let edge = |i: usize| match i {
        0 => 0,
        i if i == parts => width,
        i => (window(parts) * i - halo * (2 * i - 1)).next_multiple_of(alignment).min(width),
    };
    (0..parts).map(|i| edge(i)..edge(i + 1)).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use supple_models::{Error, Sink, Source};

    /// A network that only says how it wants to be cut.
    struct Strips {
        holds_whole_pictures: bool,
    }

    impl SuperResolution for Strips {
        fn name(&self) -> &str {
            "sized"
        }
        fn holds_whole_pictures(&self) -> bool {
            self.holds_whole_pictures
        }
        fn scale(&self) -> usize {
            2
        }
        fn parameters(&self) -> (usize, usize) {
            (0, 0)
        }
        fn macs(&self, _: usize, _: usize) -> u64 {
            0
        }
        fn min_side(&self) -> usize {
            1
        }
        fn halo(&self) -> usize {
            8
        }
        fn alignment(&self) -> usize {
            4
        }
        fn working_memory(&self, _: &Cpu, window: &Window) -> usize {
            window.columns_len() * 1000
        }
        fn run(&self, _: &Cpu, _: &Window, _: &mut Source<'_>, _: &mut Sink<'_>) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn a_network_that_holds_whole_pictures_is_never_cut() {
        let cpu = Cpu::new(crate::Isa::Scalar, 1);
        let cuts = |holds_whole_pictures, budget, tile| {
            plan(&Strips { holds_whole_pictures }, &cpu, (1000, 10), 0..1000, budget, tile).len()
        };
        for (budget, tile) in [(1, None), (u64::MAX, Some(32))] {
            assert!(cuts(false, budget, tile) > 1);
            assert_eq!(cuts(true, budget, tile), 1);
        }
    }

    #[test]
    fn parts_cover_the_picture_and_their_windows_are_alike() {
        let network = Strips { holds_whole_pictures: false };
        for width in [1, 16, 17, 40, 99, 100, 1000, 4099] {
            for most in [1, 2, 3, 8, 200] {
                let parts = split(&network, width, most);
                assert!(parts.len() <= most, "{width} {most}: {parts:?}");
                assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, width));
                assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start && pair[1].start % 4 == 0));
                let windows = parts.iter().map(|p| (p.end + 8).min(width) - p.start.saturating_sub(8));
                let (least, greatest) = (windows.clone().min().unwrap(), windows.max().unwrap());
                assert!(greatest - least <= 4 * parts.len(), "{width} {most}: {parts:?}");
            }
        }
        assert_eq!(split(&network, 1000, 2), [0..500, 500..1000]);
        assert_eq!(split(&network, 16, 4), std::slice::from_ref(&(0..16))); // nothing but halo
        assert_eq!(split(&Strips { holds_whole_pictures: true }, 1000, 4), std::slice::from_ref(&(0..1000)));
        // Each part more saves less.
        assert!((5..12).contains(&split(&network, 100, 200).len()), "{:?}", split(&network, 100, 200));
    }
}
