//! Removing whole output channels, the structured baseline: a smaller dense network.
//!
//! A channel goes with everything that belongs to it: its row in each convolution that writes its space, its depthwise
//! kernels, and the columns that read it. The same share goes from each space.

use super::Spaces;
use super::rearrange::Layer;
use supple_models::convnet::{ConvNet, NodeId, Op};

/// The channels that remain in each space so that `sparsity` of the layers' weights go. Spaces that a convolution other
/// than `layers` writes stay whole.
pub fn choose(network: &ConvNet, spaces: &Spaces, layers: &[Layer], sparsity: f64) -> Vec<Vec<usize>> {
    let scores = channel_scores(network, spaces, layers);
    let select = |share: f64| -> Vec<Vec<usize>> {
        let of = |(space, scores): (usize, &Option<Vec<f64>>)| {
            let channels = spaces.spaces()[space].channels;
            let Some(scores) = scores else { return (0..channels).collect() };
            let keep = (((1.0 - share) * channels as f64).round() as usize).clamp(1, channels);
            let mut order: Vec<usize> = (0..channels).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            order.truncate(keep);
            order.sort_unstable();
            order
        };
        scores.iter().enumerate().map(of).collect()
    };
    let left = |selection: &[Vec<usize>]| -> f64 {
        let count = |id: NodeId| spaces.channels(id, selection).len();
        let weights = |layer: &Layer| count(layer.id) * count(network.nodes[layer.id].inputs[0]) * layer.taps;
        let before: usize = layers.iter().map(|layer| layer.scores.len()).sum();
        layers.iter().map(weights).sum::<usize>() as f64 / before.max(1) as f64
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..24 {
        let middle = (low + high) / 2.0;
        if 1.0 - left(&select(middle)) > sparsity { high = middle } else { low = middle }
    }
    let (below, above) = (select(low), select(high));
    let miss = |selection: &[Vec<usize>]| (1.0 - left(selection) - sparsity).abs();
    if miss(&above) < miss(&below) { above } else { below }
}

/// The score of each channel of the spaces that may shrink.
fn channel_scores(network: &ConvNet, spaces: &Spaces, layers: &[Layer]) -> Vec<Option<Vec<f64>>> {
    let mut scores: Vec<Option<Vec<f64>>> =
        spaces.spaces().iter().map(|space| if space.fixed { None } else { Some(vec![0.0; space.channels]) }).collect();
    for (id, node) in network.nodes.iter().enumerate() {
        if !matches!(node.op, Op::Conv(_)) {
            continue;
        }
        let layer = layers.iter().find(|layer| layer.id == id);
        let total: f64 = layer.map_or(1.0, |layer| layer.scores.iter().map(|&score| f64::from(score)).sum());
        let mut row = 0;
        for segment in spaces.segments(id) {
            let channels = spaces.spaces()[segment.space].channels;
            match (layer, &mut scores[segment.space]) {
                (None, of_space) => *of_space = None,
                (Some(layer), Some(of_space)) => {
                    for (channel, score) in of_space.iter_mut().enumerate() {
                        let weights = &layer.scores[(row + channel) * layer.columns..][..layer.columns];
                        *score += weights.iter().map(|&w| f64::from(w)).sum::<f64>() / total.max(f64::MIN_POSITIVE);
                    }
                }
                (Some(_), None) => {}
            }
            row += channels * segment.factor;
        }
    }
    scores
}
