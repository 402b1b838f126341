//! Channel spaces: which channels of a network can be reordered or removed, and which only together.
//!
//! A convolution makes a new space. Pools, softmax and activations keep the space of what they read; a depthwise
//! convolution with multiplier `m` widens each channel to `m` neighbours, its *factor*; a concatenation is a list of
//! *segments*, each in a space of its own; and an addition ties the spaces of its two operands to one another, segment by
//! segment, splitting a space where the other side has a boundary. The spaces of the network's input and output are
//! fixed: what the caller sees keeps its order.

use supple_models::Error;
use supple_models::convnet::{ConvNet, NodeId, Op};

/// More spaces than this are not split further but fixed, so that no network makes the analysis slow.
const MAX_SPACES: usize = 4096;

/// Channels that are reordered or removed together wherever they occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// How many there are.
    pub channels: usize,
    /// Whether they must stay as they are.
    pub fixed: bool,
}

/// A run of a tensor's channels: channel `c` of the space occupies `factor` neighbours from `c · factor` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of the space.
    pub space: usize,
    /// Neighbouring channels for each of the space.
    pub factor: usize,
}

/// The spaces of a network and how each node's tensor is made of them.
#[derive(Clone, Debug)]
pub struct Spaces {
    spaces: Vec<Space>,
    segments: Vec<Vec<Segment>>,
}

impl Spaces {
    /// The spaces of `network`.
    ///
    /// # Errors
    /// If the network is inconsistent.
    pub fn of(network: &ConvNet) -> Result<Spaces, Error> {
        let shapes = network.shapes()?;
        let mut builder = Builder { spaces: Vec::new(), parents: Vec::new(), segments: Vec::new() };
        for (node, shape) in network.nodes.iter().zip(&shapes) {
            let read = |i: usize| builder.segments[node.inputs[i]].clone();
            let segments = match &node.op {
                Op::Input(_) => vec![builder.space(shape.channels, true)],
                Op::Conv(_) => vec![builder.space(shape.channels, false)],
                Op::Depthwise(depthwise) => {
                    let widen = |s: Segment| Segment { factor: s.factor * depthwise.multiplier, ..s };
                    read(0).into_iter().map(widen).collect()
                }
                Op::Add => {
                    builder.tie(node.inputs[0], node.inputs[1]);
                    builder.segments[node.inputs[0]].clone()
                }
                Op::Concat => (0..node.inputs.len()).flat_map(read).collect(),
                Op::GlobalAveragePool | Op::AveragePool(_) | Op::MaxPool(_) | Op::Softmax => read(0),
            };
            builder.segments.push(segments);
        }
        for i in 0..builder.segments.last().map_or(0, Vec::len) {
            let segment = builder.segments[network.nodes.len() - 1][i];
            builder.fix(segment);
        }
        Ok(builder.finish())
    }

    /// All spaces.
    pub fn spaces(&self) -> &[Space] {
        &self.spaces
    }

    /// What the tensor of `node` is made of, along its channels.
    pub fn segments(&self, node: NodeId) -> &[Segment] {
        &self.segments[node]
    }

    /// For each space all its channels in order: the selection that changes nothing.
    pub fn identity(&self) -> Vec<Vec<usize>> {
        self.spaces.iter().map(|space| (0..space.channels).collect()).collect()
    }

    /// The channels of `node`'s tensor that remain under a selection, in their new order, by their old positions.
    pub fn channels(&self, node: NodeId, selection: &[Vec<usize>]) -> Vec<usize> {
        let mut channels = Vec::new();
        let mut start = 0;
        for &Segment { space, factor } in &self.segments[node] {
            channels.extend(selection[space].iter().flat_map(|&c| (0..factor).map(move |i| start + c * factor + i)));
            start += self.spaces[space].channels * factor;
        }
        channels
    }

    /// `network` with the channels of each space reordered, or fewer: `selection[space]` lists old positions in their new
    /// order. A permutation leaves the network's function as it is. Fixed spaces stay as they are, whatever the selection
    /// says.
    ///
    /// # Panics
    /// If the network is not the one that the spaces were found in, or the selection has positions beyond a space's end.
    pub fn select(&self, network: &ConvNet, selection: &[Vec<usize>]) -> ConvNet {
        let selection: Vec<Vec<usize>> = self
            .spaces
            .iter()
            .zip(selection)
            .map(|(space, chosen)| if space.fixed { (0..space.channels).collect() } else { chosen.clone() })
            .collect();
        // Integers of a quantised file belong to the channels in their old order.
        let mut network = ConvNet { quantization: None, ..network.clone() };
        for id in 0..network.nodes.len() {
            let rows = self.channels(id, &selection);
            let node = &mut network.nodes[id];
            match &mut node.op {
                Op::Conv(conv) => {
                    let inputs = self.channels(node.inputs[0], &selection);
                    let taps = conv.window.kernel[0] * conv.window.kernel[1];
                    let old = conv.in_channels * taps;
                    let mut weights = Vec::with_capacity(rows.len() * inputs.len() * taps);
                    for &row in &rows {
                        for &input in &inputs {
                            weights.extend_from_slice(&conv.weights[row * old + input * taps..][..taps]);
                        }
                    }
                    conv.bias = rows.iter().map(|&row| conv.bias[row]).collect();
                    conv.weights = weights;
                    (conv.out_channels, conv.in_channels) = (rows.len(), inputs.len());
                }
                Op::Depthwise(depthwise) => {
                    let taps = depthwise.window.kernel[0] * depthwise.window.kernel[1];
                    let kernel = |&row: &usize| depthwise.weights[row * taps..][..taps].iter().copied();
                    depthwise.weights = rows.iter().flat_map(kernel).collect();
                    depthwise.bias = rows.iter().map(|&row| depthwise.bias[row]).collect();
                    depthwise.channels = rows.len();
                }
                _ => {}
            }
        }
        network
    }
}

/// Spaces while they are being tied: a forest whose roots are the spaces that remain.
struct Builder {
    spaces: Vec<Space>,
    parents: Vec<usize>,
    segments: Vec<Vec<Segment>>,
}

impl Builder {
    fn space(&mut self, channels: usize, fixed: bool) -> Segment {
        self.spaces.push(Space { channels, fixed });
        self.parents.push(self.spaces.len() - 1);
        Segment { space: self.spaces.len() - 1, factor: 1 }
    }

    fn root(&mut self, mut space: usize) -> usize {
        while self.parents[space] != space {
            // Halves the path, so that the next search is short.
            self.parents[space] = self.parents[self.parents[space]];
            space = self.parents[space];
        }
        space
    }

    fn fix(&mut self, segment: Segment) {
        let root = self.root(segment.space);
        self.spaces[root].fixed = true;
    }

    fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        if a != b {
            self.spaces[a].fixed |= self.spaces[b].fixed;
            self.parents[b] = a;
        }
    }

    /// Cuts a space in two after `at` channels, wherever it occurs.
    fn split(&mut self, space: usize, at: usize) {
        let root = self.root(space);
        let Space { channels, fixed } = self.spaces[root];
        let (first, second) = (self.space(at, fixed), self.space(channels - at, fixed));
        for node in 0..self.segments.len() {
            let old = std::mem::take(&mut self.segments[node]);
            for segment in old {
                if self.root(segment.space) == root {
                    self.segments[node].push(Segment { factor: segment.factor, ..first });
                    self.segments[node].push(Segment { factor: segment.factor, ..second });
                } else {
                    self.segments[node].push(segment);
                }
            }
        }
    }

    /// Makes the tensors of two nodes, equally wide, keep the same order.
    fn tie(&mut self, a: NodeId, b: NodeId) {
        // Index of the segment and channels of it that are done, on both sides.
        let (mut i, mut j, mut done_i, mut done_j) = (0, 0, 0, 0);
        while i < self.segments[a].len() && j < self.segments[b].len() {
            let (x, y) = (self.segments[a][i], self.segments[b][j]);
            let (p, q) = (self.root(x.space), self.root(y.space));
            let (n, m) = (self.spaces[p].channels, self.spaces[q].channels);
            let aligned = done_i == 0 && done_j == 0 && x.factor == y.factor;
            if aligned && n == m {
                self.unite(x.space, y.space);
                (i, j) = (i + 1, j + 1);
            } else if aligned && self.spaces.len() < MAX_SPACES {
                self.split(if n > m { x.space } else { y.space }, n.min(m));
                // Positions may have moved, also on the side that was not meant; what is tied already ties again at once.
                (i, j) = (0, 0);
            } else {
                // Channels that come in groups on one side only: their order cannot be shared.
                self.fix(x);
                self.fix(y);
                let (left_i, left_j) = (n * x.factor - done_i, m * y.factor - done_j);
                let step = left_i.min(left_j);
                (i, done_i) = if step == left_i { (i + 1, 0) } else { (i, done_i + step) };
                (j, done_j) = if step == left_j { (j + 1, 0) } else { (j, done_j + step) };
            }
        }
    }

    fn finish(mut self) -> Spaces {
        let mut numbers = vec![usize::MAX; self.spaces.len()];
        let mut spaces = Vec::new();
        let mut segments = Vec::with_capacity(self.segments.len());
        for list in std::mem::take(&mut self.segments) {
            let mut renamed = Vec::with_capacity(list.len());
            for segment in list {
                let root = self.root(segment.space);
                if numbers[root] == usize::MAX {
                    numbers[root] = spaces.len();
                    spaces.push(self.spaces[root]);
                }
                renamed.push(Segment { space: numbers[root], factor: segment.factor });
            }
            segments.push(renamed);
        }
        Spaces { spaces, segments }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Net, assert_same_function, shuffled};
    use super::*;
    use supple_models::convnet::Activation::{None as Linear, Relu, Relu6};

    /// Shuffles every free space; the function must stay the same. Returns how many channels may move.
    fn shuffle_is_invisible(network: &ConvNet) -> usize {
        let spaces = Spaces::of(network).expect("consistent");
        let selection: Vec<Vec<usize>> =
            spaces.spaces().iter().enumerate().map(|(i, space)| shuffled(space.channels, i as u64 + 7)).collect();
        let other = spaces.select(network, &selection);
        assert_same_function(network, &other, 1e-5);
        spaces.spaces().iter().filter(|space| !space.fixed).map(|space| space.channels).sum()
    }

    #[test]
    fn a_chain_has_a_space_for_each_convolution() {
        let mut net = Net::new(3, 9, 7);
        let a = net.conv(0, 8, 3, 2, Relu6);
        let b = net.depthwise(a, 1, 3, 1, Relu6);
        let c = net.conv(b, 12, 1, 1, Relu);
        let d = net.pool(c);
        let e = net.conv(d, 5, 1, 1, Linear);
        net.softmax(e);
        let network = net.finish();
        let spaces = Spaces::of(&network).expect("consistent");
        let found: Vec<(usize, bool)> = spaces.spaces().iter().map(|s| (s.channels, s.fixed)).collect();
        assert_eq!(found, [(3, true), (8, false), (12, false), (5, true)]);
        assert_eq!(shuffle_is_invisible(&network), 20);
    }

    #[test]
    fn fully_connected_and_larger_kernels_follow() {
        let mut net = Net::new(2, 8, 8);
        let a = net.conv(0, 6, 3, 2, Relu);
        let b = net.conv(a, 7, 3, 1, Relu);
        let c = net.average_pool(b, 2);
        let c = net.max_pool(c, 2);
        net.whole(c, 9);
        assert_eq!(shuffle_is_invisible(&net.finish()), 13);
    }

    #[test]
    fn an_addition_ties() {
        let mut net = Net::new(3, 6, 6);
        let a = net.conv(0, 8, 1, 1, Linear);
        let b = net.conv(a, 16, 1, 1, Relu6);
        let b = net.depthwise(b, 1, 3, 1, Relu6);
        let b = net.conv(b, 8, 1, 1, Linear);
        let c = net.add(a, b);
        let d = net.conv(c, 8, 1, 1, Linear);
        let d = net.add(c, d);
        net.conv(d, 4, 1, 1, Linear);
        let network = net.finish();
        let spaces = Spaces::of(&network).expect("consistent");
        assert_eq!(spaces.segments(a), spaces.segments(d));
        assert_eq!(shuffle_is_invisible(&network), 24);
    }

    #[test]
    fn an_addition_to_the_input_or_the_output_fixes() {
        let mut net = Net::new(4, 5, 5);
        let a = net.conv(0, 4, 3, 1, Linear);
        let a = net.add(a, 0);
        let b = net.conv(a, 4, 1, 1, Linear);
        net.add(a, b);
        assert_eq!(shuffle_is_invisible(&net.finish()), 0);
    }

    #[test]
    fn segments_of_a_concatenation_keep_their_own_order() {
        let mut net = Net::new(3, 6, 6);
        let a = net.conv(0, 5, 1, 1, Relu);
        let b = net.conv(0, 7, 3, 1, Relu);
        let c = net.concat(&[a, b, a]);
        let d = net.depthwise(c, 2, 3, 1, Relu);
        let e = net.conv(d, 6, 1, 1, Relu);
        net.conv(e, 2, 1, 1, Linear);
        assert_eq!(shuffle_is_invisible(&net.finish()), 5 + 7 + 6);
    }

    #[test]
    fn sums_of_concatenations_with_other_boundaries_split_spaces() {
        let mut net = Net::new(3, 4, 4);
        let a = net.conv(0, 5, 1, 1, Relu);
        let b = net.conv(0, 7, 1, 1, Relu);
        let c = net.conv(0, 12, 1, 1, Relu);
        let left = net.concat(&[a, b]);
        let left = net.add(left, c);
        let d = net.conv(0, 3, 1, 1, Relu);
        let e = net.conv(0, 9, 1, 1, Relu);
        let right = net.concat(&[d, e]);
        let sum = net.add(left, right);
        net.conv(sum, 2, 1, 1, Linear);
        let network = net.finish();
        let spaces = Spaces::of(&network).expect("consistent");
        let free: Vec<usize> = spaces.spaces().iter().filter(|s| !s.fixed).map(|s| s.channels).collect();
        assert_eq!(free, [3, 2, 7]);
        assert_eq!(shuffle_is_invisible(&network), 12);
    }

    #[test]
    fn a_space_tied_to_itself_at_an_offset_is_one_order_for_all() {
        let mut net = Net::new(3, 4, 4);
        let a = net.conv(0, 1, 1, 1, Relu);
        let b = net.conv(0, 9, 1, 1, Relu);
        let (x, y) = (net.concat(&[a, b]), net.concat(&[b, a]));
        let sum = net.add(x, y);
        net.conv(sum, 2, 1, 1, Linear);
        assert_eq!(shuffle_is_invisible(&net.finish()), 1);
    }

    #[test]
    fn widened_channels_added_to_plain_ones_stay() {
        let mut net = Net::new(3, 4, 4);
        let a = net.conv(0, 4, 1, 1, Relu);
        let wide = net.depthwise(a, 3, 3, 1, Relu);
        let b = net.conv(0, 12, 1, 1, Relu);
        let sum = net.add(wide, b);
        let c = net.conv(sum, 6, 1, 1, Relu);
        net.conv(c, 2, 1, 1, Linear);
        assert_eq!(shuffle_is_invisible(&net.finish()), 6);
    }

    #[test]
    fn widened_channels_added_to_widened_ones_move() {
        let mut net = Net::new(3, 4, 4);
        let a = net.conv(0, 4, 1, 1, Relu);
        let x = net.depthwise(a, 3, 3, 1, Relu);
        let b = net.conv(0, 4, 1, 1, Relu);
        let y = net.depthwise(b, 3, 3, 1, Relu);
        let sum = net.add(x, y);
        net.conv(sum, 2, 1, 1, Linear);
        assert_eq!(shuffle_is_invisible(&net.finish()), 4);
    }
}
