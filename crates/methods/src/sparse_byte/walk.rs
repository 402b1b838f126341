//! Walking through a network layer by layer, on all calibration pictures, without computing everything again.
//!
//! A *cut* is a node whose tensor is all that later nodes need of it and those before. Once tensors at a cut fit the memory
//! budget for all pictures they are kept, and later layers are computed from there.

use super::forward::{Engine, Forward};
use super::{Error, options};
use supple_models::convnet::{Activation, ConvNet, Node, NodeId, Op, Shape};

/// A walk through one network.
pub struct Walk<'a> {
    engine: &'a dyn Engine,
    inputs: &'a [Vec<f32>],
    memory: usize,
    /// The cut that pictures are computed from; 0 is the input.
    at: NodeId,
    /// Tensors there; empty while it is the input.
    stored: Vec<Vec<f32>>,
    /// The run in hand, the cut that it passes if that is worth keeping, and tensors kept so far.
    run: Option<Box<dyn Forward>>,
    next: Option<NodeId>,
    keeping: Vec<Vec<f32>>,
}

impl<'a> Walk<'a> {
    /// Starts at the input. `memory` is how many bytes may be kept.
    pub fn new(engine: &'a dyn Engine, inputs: &'a [Vec<f32>], fit: &options::Reconstruction) -> Walk<'a> {
        // Two walks go side by side, and each holds two cuts while it moves from one to the next.
        let memory = fit.memory / 4;
        Walk { engine, inputs, memory, at: 0, stored: Vec::new(), run: None, next: None, keeping: Vec::new() }
    }

    /// Prepares to compute the tensor of `target`, which lies behind all targets before it, in `network`, whose nodes up to
    /// the last target have not changed since.
    pub fn aim(&mut self, network: &ConvNet, shapes: &[Shape], target: NodeId) -> Result<(), Error> {
        if let Some(next) = self.next.take() {
            self.at = next;
            self.stored = std::mem::take(&mut self.keeping);
        }
        let fits = |id: &NodeId| shapes[*id].len() * 4 * self.inputs.len() <= self.memory;
        self.next = (self.at + 1..=target).rev().filter(|&id| is_cut(network, id)).find(fits);
        let segment = segment(network, shapes, self.at, target);
        let mut wanted = vec![target - self.at];
        wanted.extend(self.next.filter(|&next| next != target).map(|next| next - self.at));
        self.run = if target == self.at { None } else { Some(self.engine.load(&segment, &wanted)?) };
        Ok(())
    }

    /// The target's tensor for a picture; pictures come in order.
    pub fn tensor(&mut self, picture: usize) -> Result<Vec<f32>, Error> {
        let from = self.stored.get(picture).unwrap_or(&self.inputs[picture]);
        let Some(run) = &mut self.run else { return Ok(from.clone()) };
        let mut tensors = run.run(from)?;
        if self.next.is_some() {
            let last = tensors.pop().unwrap_or_default();
            self.keeping.push(last);
            if tensors.is_empty() {
                return Ok(self.keeping[picture].clone());
            }
        }
        Ok(tensors.swap_remove(0))
    }
}

/// Whether nothing behind `id` reads anything before it.
fn is_cut(network: &ConvNet, id: NodeId) -> bool {
    network.nodes[id + 1..].iter().all(|node| node.inputs.iter().all(|&input| input >= id))
}

/// The nodes behind `at` up to `target`, as a network that starts from the tensor of `at`.
fn segment(network: &ConvNet, shapes: &[Shape], at: NodeId, target: NodeId) -> ConvNet {
    let input = Node {
        name: network.nodes[at].name.clone(),
        op: Op::Input(shapes[at]),
        inputs: Vec::new(),
        activation: Activation::None,
    };
    let mut nodes = vec![input];
    nodes.extend(network.nodes[at + 1..=target].iter().cloned().map(|mut node| {
        node.inputs.iter_mut().for_each(|input| *input -= at);
        node
    }));
    ConvNet {
        name: network.name.clone(),
        nodes,
        preprocessing: network.preprocessing,
        labels: Vec::new(),
        quantization: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::forward::Reference;
    use super::super::testing::{Net, pictures};
    use super::*;
    use supple_models::convnet::reference;

    #[test]
    fn tensors_are_those_of_the_whole_network_whatever_is_kept() {
        let mut net = Net::new(3, 8, 8);
        let a = net.conv(0, 6, 3, 2, Activation::Relu);
        let b = net.conv(a, 8, 1, 1, Activation::Relu);
        let c = net.conv(b, 6, 1, 1, Activation::None);
        let d = net.add(a, c);
        let e = net.conv(d, 4, 1, 1, Activation::Relu);
        let f = net.pool(e);
        net.conv(f, 3, 1, 1, Activation::None);
        let network = net.finish();
        let shapes = network.shapes().expect("consistent");
        let cuts: Vec<NodeId> = (0..network.nodes.len()).filter(|&id| is_cut(&network, id)).collect();
        assert_eq!(cuts, [0, a, d, e, f, f + 1]);
        let inputs = pictures(&network, 3, 1);
        let whole: Vec<_> = inputs.iter().map(|input| reference::run_all(&network, input).expect("runs")).collect();
        for memory in [0, 4 * 3 * 4 * 100, 1 << 20] {
            let fit = options::Reconstruction { memory, ..Default::default() };
            let mut walk = Walk::new(&Reference, &inputs, &fit);
            for target in [0, a, a, b, d, e, f] {
                walk.aim(&network, &shapes, target).expect("loads");
                for (picture, whole) in whole.iter().enumerate() {
                    let found = walk.tensor(picture).expect("runs");
                    let wanted = &whole[target];
                    assert_eq!(found.len(), wanted.len());
                    assert!(found.iter().zip(wanted).all(|(&x, &y)| (f64::from(x) - y).abs() < 1e-5));
                }
            }
            assert_eq!(walk.at > 0, memory > 0);
        }
    }
}
