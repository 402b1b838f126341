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

/// Windows of about `columns` kept columns each.
fn cut(network: &dyn SuperResolution, width: usize, height: usize, columns: usize) -> Vec<Cut> {
    let step = columns.max(1).next_multiple_of(network.alignment().max(1));
    let (halo, alignment) = (network.halo(), network.alignment().max(1));
    // The network must accept each window by itself.
    let least = network.min_side();
    (0..width)
        .step_by(step)
        .map(|start| {
            let core = start..(start + step).min(width);
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

/// The fewest windows that need no more than `budget` bytes each, or of `tile` columns; one for a network that holds whole
/// pictures.
pub(super) fn plan(
    network: &dyn SuperResolution,
    cpu: &Cpu,
    (width, height): (usize, usize),
    budget: u64,
    tile: Option<usize>,
) -> Vec<Cut> {
    if network.holds_whole_pictures() {
        return vec![Cut { core: 0..width, window: Window::whole(width, height) }];
    }
    if let Some(tile) = tile {
        return cut(network, width, height, tile.max(32));
    }
    let mut count = 1;
    loop {
        let columns = width.div_ceil(count).max(MIN_COLUMNS);
        let cuts = cut(network, width, height, columns);
        let most = cuts.iter().map(|c| network.working_memory(cpu, &c.window) as u64).max().unwrap_or(0);
        if most <= budget || columns <= MIN_COLUMNS {
            return cuts;
        }
        count += 1;
    }
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
            plan(&Strips { holds_whole_pictures }, &cpu, (1000, 10), budget, tile).len()
        };
        for (budget, tile) in [(1, None), (u64::MAX, Some(32))] {
            assert!(cuts(false, budget, tile) > 1);
            assert_eq!(cuts(true, budget, tile), 1);
        }
    }
}
