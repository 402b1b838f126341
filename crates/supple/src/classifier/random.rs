//! Random zeros in blocks: networks whose speed is like that of a pruned one, for measuring it. Such a network names
//! nothing.

use crate::Error;
use supple_models::convnet::{ConvNet, Op, Pattern};

/// Puts zeros into the 1×1 convolutions of `network`, but not into fully-connected layers: for every group of neighbouring
/// output channels, the same `sparsity` of the groups of neighbouring input channels, chosen at random; `block` has the
/// number of inputs and of outputs of a group. Returns the share of all the network's weights that are zero afterwards.
///
/// # Errors
/// If `sparsity` is not in 0..=1, no block, or the network is inconsistent.
pub fn sparsify_at_random(network: &mut ConvNet, sparsity: f64, block: [usize; 2], seed: u64) -> Result<f64, Error> {
    let [ins, outs] = block;
    if !(0.0..=1.0).contains(&sparsity) || ins == 0 || outs == 0 {
        return Err(Error::BadOption(format!("{sparsity} of blocks of {ins}x{outs} channels make no sense")));
    }
    let shapes = network.shapes()?;
    let mut random = SplitMix(seed);
    for (node, shape) in network.nodes.iter_mut().zip(shapes) {
        let Op::Conv(conv) = &mut node.op else { continue };
        if conv.window.kernel != [1, 1] || shape.pixels() == 1 {
            continue;
        }
        let inputs = conv.in_channels;
        let groups = inputs.div_ceil(ins);
        let zeros = (groups as f64 * sparsity).round() as usize;
        let mut order: Vec<usize> = (0..groups).collect();
        for rows in conv.weights.chunks_mut(outs * inputs) {
            // The head of a Fisher–Yates shuffle: `zeros` different groups.
            for i in 0..zeros {
                order.swap(i, i + random.below(groups - i));
            }
            for row in rows.chunks_exact_mut(inputs) {
                for group in &order[..zeros] {
                    row[group * ins..((group + 1) * ins).min(inputs)].fill(0.0);
                }
            }
        }
        conv.pattern = Pattern::Block(outs);
    }
    network.quantization = None;
    let weights = |op: &Op| match op {
        Op::Conv(conv) => (conv.weights.len(), conv.weights.iter().filter(|&&w| w == 0.0).count()),
        Op::Depthwise(depthwise) => (depthwise.weights.len(), depthwise.weights.iter().filter(|&&w| w == 0.0).count()),
        _ => (0, 0),
    };
    let (all, zero) =
        network.nodes.iter().map(|node| weights(&node.op)).fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    Ok(zero as f64 / all.max(1) as f64)
}

/// Steele, Lea and Flood's generator: 64 bits of state, good enough for masks.
struct SplitMix(u64);

impl SplitMix {
    /// A number below `limit`, which must not be 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * limit as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supple_models::convnet::{Conv, Node, Padding, Preprocessing, Shape, Window2d};

    #[test]
    fn blocks_share_their_zeros_and_every_group_has_as_many() {
        let (outputs, inputs, block) = (10, 20, 4);
        let conv = |out_channels, in_channels, window| {
            let weights = vec![1.0; out_channels * in_channels];
            Op::Conv(Conv {
                out_channels,
                in_channels,
                window,
                weights,
                bias: vec![0.0; out_channels],
                pattern: Pattern::Dense,
            })
        };
        let node = |op, inputs| Node { name: String::new(), op, inputs, activation: Default::default() };
        let whole = Window2d::square(1, 2, Padding::Explicit([0; 4]));
        let nodes = vec![
            node(Op::Input(Shape { channels: inputs, height: 2, width: 2 }), vec![]),
            node(conv(outputs, inputs, Window2d::POINT), vec![0]),
            node(conv(3, outputs, whole), vec![1]),
        ];
        let preprocessing = Preprocessing::default();
        let mut network = ConvNet { name: "n".into(), nodes, preprocessing, labels: vec![], quantization: None };
        let whole = network.clone();
        let share = sparsify_at_random(&mut network, 0.3, [1, block], 1).unwrap();
        let Op::Conv(point) = &network.nodes[1].op else { panic!() };
        let zero = |o: usize| -> Vec<usize> { (0..inputs).filter(|i| point.weights[o * inputs + i] == 0.0).collect() };
        for o in 0..outputs {
            assert_eq!(zero(o).len(), 6);
            assert_eq!(zero(o), zero(o / block * block), "channel {o}");
        }
        assert!(zero(0) != zero(4) || zero(4) != zero(8));
        assert_eq!(point.pattern, Pattern::Block(block));
        let Op::Conv(last) = &network.nodes[2].op else { panic!() };
        assert!(
            last.weights.iter().all(|&w| w == 1.0) && last.pattern == Pattern::Dense,
            "one output pixel: left dense"
        );
        assert!((share - 60.0 / 230.0).abs() < 1e-9, "{share}");
        assert!(
            sparsify_at_random(&mut network, 1.5, [1, 4], 1).is_err()
                && sparsify_at_random(&mut network, 0.5, [1, 0], 1).is_err()
                && sparsify_at_random(&mut network, 0.5, [0, 4], 1).is_err()
        );
        assert_eq!(sparsify_at_random(&mut network, 1.0, [1, 4], 1).unwrap(), 200.0 / 230.0);
        // Two of the five groups of four inputs, for each group of outputs.
        let mut network = whole;
        assert_eq!(sparsify_at_random(&mut network, 0.4, [4, block], 1).unwrap(), 80.0 / 230.0);
        let Op::Conv(point) = &network.nodes[1].op else { panic!() };
        for (o, row) in point.weights.chunks(inputs).enumerate() {
            assert!(row.chunks(4).all(|group| group.iter().all(|&w| w == group[0])), "output {o}: {row:?}");
            assert_eq!(row, &point.weights[o / block * block * inputs..][..inputs]);
        }
    }
}
