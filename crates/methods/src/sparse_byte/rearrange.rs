//! Rearranging a whole network: an order for each of its channel spaces, folded into the weights.
//!
//! Rows of the convolutions that write a space move together with its depthwise convolutions and with the columns of all
//! that read it, so that the function stays the same and running it needs no gather.

use super::cluster::{Producer, cluster};
use super::options::{Progress, Rearrangement, Stage};
use super::prune::{Mask, unit_scores};
use super::{Error, Spaces};
use supple_models::convnet::{ConvNet, NodeId, Op, Pattern};
use supple_tensor::Cpu;

/// A convolution that is going to be pruned.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its node.
    pub id: NodeId,
    /// Which weights will be zero together.
    pub pattern: Pattern,
    /// Share of weights to remove.
    pub sparsity: f64,
    /// Columns of its weights.
    pub columns: usize,
    /// Taps of its kernel.
    pub taps: usize,
    /// What each weight is worth, `[out_channels][columns]`.
    pub scores: Vec<f32>,
    /// What the scores of each row were multiplied by.
    pub importance: Option<Vec<f32>>,
}

impl Layer {
    /// Scores with the rows in this order.
    pub fn ordered(&self, rows: &[usize]) -> Vec<f32> {
        rows.iter().flat_map(|&row| self.scores[row * self.columns..][..self.columns].iter().copied()).collect()
    }

    /// Share of the scores that a mask keeps when the rows are in this order.
    pub fn kept(&self, rows: &[usize]) -> f64 {
        let scores = self.ordered(rows);
        Mask::choose(&scores, self.columns, self.taps, self.pattern, self.sparsity).kept_share(&scores)
    }

    /// Share of the scores that are those of these rows.
    pub fn kept_rows(&self, rows: &[usize]) -> f64 {
        let sum = |scores: &[f32]| scores.iter().map(|&score| f64::from(score)).sum::<f64>();
        sum(&self.ordered(rows)) / sum(&self.scores).max(f64::MIN_POSITIVE)
    }

    /// Output channels of a block, and taps that go together.
    fn unit(&self) -> (usize, usize) {
        match self.pattern {
            Pattern::Dense => (1, 1),
            Pattern::Block(block) => (block, 1),
            Pattern::Kernel(block) => (block, self.taps),
        }
    }
}

/// An order for each space in which the layers' masks keep most: old positions in new order, as [`Spaces::select`] takes.
/// Never one that keeps less than the order found, in the sum of the layers' shares.
///
/// # Errors
/// If `progress` says stop.
pub fn best_order(
    cpu: &Cpu,
    network: &ConvNet,
    spaces: &Spaces,
    layers: &[Layer],
    options: &Rearrangement,
    progress: &mut dyn FnMut(Progress<'_>) -> bool,
) -> Result<Vec<Vec<usize>>, Error> {
    let mut selection = spaces.identity();
    // A sweep looks at all pairs of channels in all columns.
    let works: Vec<u64> = (0..spaces.spaces().len())
        .map(|space| {
            let columns: usize = writers(spaces, layers, space).map(|(layer, _)| layer.columns).sum();
            (spaces.spaces()[space].channels as u64).pow(2) * columns as u64
        })
        .collect();
    let total: u64 = works.iter().sum();
    let mut done = 0;
    for (space, work) in works.iter().enumerate() {
        let channels = spaces.spaces()[space].channels;
        if spaces.spaces()[space].fixed || *work == 0 || channels < 2 {
            done += work;
            continue;
        }
        let producers: Vec<Producer> = writers(spaces, layers, space)
            .map(|(layer, first)| {
                let (block, taps) = layer.unit();
                let ordered = layer.ordered(&spaces.channels(layer.id, &selection));
                let scores = if taps > 1 { unit_scores(&ordered, layer.columns, 1, taps) } else { ordered };
                Producer { scores, columns: layer.columns / taps, block, sparsity: layer.sparsity, first }
            })
            .collect();
        let name = writers(spaces, layers, space).next().map_or("", |(layer, _)| &network.nodes[layer.id].name);
        let mut wanted = true;
        let found = cluster(cpu, &producers, channels, options.sweeps, &mut |sweep| {
            let now = done + work * sweep as u64 / options.sweeps.max(1) as u64;
            wanted = progress(Progress { stage: Stage::Rearrange, name, done: now, total });
            wanted
        });
        if !wanted {
            return Err(Error::Cancelled);
        }
        // A layer may read a space twice, and then its two runs of channels move at once, which the clustering does not
        // see: the layers themselves have the last word.
        let share = |selection: &[Vec<usize>]| -> f64 {
            writers(spaces, layers, space).map(|(layer, _)| layer.kept(&spaces.channels(layer.id, selection))).sum()
        };
        let before = share(&selection);
        let old = std::mem::replace(&mut selection[space], found.order);
        if share(&selection) < before {
            selection[space] = old;
        }
        done += work;
    }
    Ok(selection)
}

/// The layers that write a space, each with the row at which the space starts.
fn writers<'a>(spaces: &'a Spaces, layers: &'a [Layer], space: usize) -> impl Iterator<Item = (&'a Layer, usize)> {
    layers.iter().flat_map(move |layer| {
        let mut row = 0;
        spaces.segments(layer.id).iter().filter_map(move |segment| {
            let first = row;
            row += spaces.spaces()[segment.space].channels * segment.factor;
            (segment.space == space && segment.factor == 1).then_some((layer, first))
        })
    })
}

/// Rearranges a network for blocks of `block` output channels at this sparsity, by the sizes of its weights alone. All its
/// convolutions over all channels count. The network computes the same as before, up to rounding.
///
/// # Errors
/// If the network is inconsistent.
pub fn rearrange(
    cpu: &Cpu,
    network: &ConvNet,
    block: usize,
    sparsity: f64,
    options: &Rearrangement,
) -> Result<ConvNet, Error> {
    let spaces = Spaces::of(network)?;
    let layers: Vec<Layer> = (network.nodes.iter().enumerate())
        .filter_map(|(id, node)| match &node.op {
            Op::Conv(conv) => Some(Layer {
                id,
                pattern: Pattern::Block(block.max(1)),
                sparsity,
                columns: conv.columns(),
                taps: super::prune::taps(conv),
                scores: super::prune::scores(&conv.weights, conv.columns(), None, None),
                importance: None,
            }),
            _ => None,
        })
        .collect();
    let selection = best_order(cpu, network, &spaces, &layers, options, &mut |_| true)?;
    Ok(spaces.select(network, &selection))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Net, assert_same_function, mobile};
    use super::*;
    use supple_models::convnet::Activation::{None as Linear, Relu, Relu6};
    use supple_tensor::Isa;

    fn kept(network: &ConvNet, block: usize) -> f64 {
        let share = |(_, conv): (NodeId, &supple_models::convnet::Conv)| {
            let scores = super::super::prune::scores(&conv.weights, conv.columns(), None, None);
            Mask::choose(&scores, conv.columns(), 1, Pattern::Block(block), 0.5).kept_share(&scores)
        };
        network.convs().map(share).sum()
    }

    #[test]
    fn a_rearranged_network_computes_the_same_and_keeps_more() {
        let cpu = Cpu::new(Isa::detect(), 2);
        let mut residual = Net::new(3, 8, 8);
        let a = residual.conv(0, 16, 3, 2, Relu);
        let b = residual.conv(a, 24, 1, 1, Relu6);
        let b = residual.depthwise(b, 2, 3, 1, Relu6);
        let b = residual.conv(b, 16, 1, 1, Linear);
        let c = residual.add(a, b);
        let d = residual.conv(c, 10, 3, 1, Relu);
        let e = residual.concat(&[c, d]);
        let e = residual.conv(e, 26, 1, 1, Relu);
        let f = residual.concat(&[d, c]);
        let f = residual.add(e, f);
        residual.whole(f, 5);
        for network in [mobile(), residual.finish()] {
            for block in [4, 8] {
                let other = rearrange(&cpu, &network, block, 0.5, &Rearrangement::default()).expect("consistent");
                assert_same_function(&network, &other, 1e-5);
                let (before, after) = (kept(&network, block), kept(&other, block));
                assert!(after > before + 0.02, "block {block}: {before} {after}");
            }
        }
    }
}
