//! The shape of every tensor of a network, and the checks that make the rest safe to run.

use serde::{Deserialize, Serialize};

use super::{ConvNet, Node, Op, Padding, Window2d};
use crate::Error;

/// Sides of a planar tensor, `[channels][height][width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Number of planes.
    pub channels: usize,
    /// Rows of a plane.
    pub height: usize,
    /// Columns of a plane.
    pub width: usize,
}

/// Most elements of a tensor, 1 GiB as `f32`: what asks for more is a mistake or an attack.
const MAX_ELEMENTS: usize = 1 << 28;
/// Longest side of a kernel or a stride.
const MAX_WINDOW: usize = 1 << 12;

impl Shape {
    /// Pixels of a plane.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Elements of all planes.
    pub fn len(self) -> usize {
        self.channels * self.pixels()
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    fn checked(self) -> Result<Shape, String> {
        let elements = self.channels.checked_mul(self.height).and_then(|n| n.checked_mul(self.width));
        match elements {
            Some(1..=MAX_ELEMENTS) => Ok(self),
            Some(0) => Err(format!("a tensor of {self} is empty")),
            _ => Err(format!("a tensor of {self} is too large")),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

impl Window2d {
    /// Zeros at the top, bottom, left and right of an input of this height and width.
    pub fn padding_at(&self, height: usize, width: usize) -> [usize; 4] {
        match self.padding {
            Padding::Explicit(padding) => padding,
            Padding::Same => {
                let total = |side: usize, i: usize| {
                    let last = (side.div_ceil(self.stride[i]).max(1) - 1) * self.stride[i];
                    (last + self.kernel[i]).saturating_sub(side)
                };
                let (rows, columns) = (total(height, 0), total(width, 1));
                [rows / 2, rows - rows / 2, columns / 2, columns - columns / 2]
            }
        }
    }

    /// Height and width of the output for an input of these sides.
    ///
    /// # Errors
    /// If the window has an impossible size, or is larger than the padded input.
    pub fn output(&self, height: usize, width: usize) -> Result<[usize; 2], String> {
        let possible = |n: usize| (1..=MAX_WINDOW).contains(&n);
        if !self.kernel.into_iter().chain(self.stride).all(possible) {
            return Err(format!("kernel {:?} with stride {:?} is not possible", self.kernel, self.stride));
        }
        let padding = self.padding_at(height, width);
        if padding.iter().any(|&p| p > MAX_WINDOW) {
            return Err(format!("padding {padding:?} is not possible"));
        }
        let side = |side: usize, before: usize, after: usize, i: usize| {
            (side + before + after).checked_sub(self.kernel[i]).map(|rest| rest / self.stride[i] + 1)
        };
        match (side(height, padding[0], padding[1], 0), side(width, padding[2], padding[3], 1)) {
            (Some(height), Some(width)) => Ok([height, width]),
            _ => Err(format!("kernel {:?} is larger than its padded input, {height}x{width}", self.kernel)),
        }
    }
}

impl ConvNet {
    /// The shape of each node's tensor. A network that passes can be run: indices, lengths and sizes are consistent,
    /// and all weights are finite.
    ///
    /// # Errors
    /// [`Error::BadNetwork`] names the node and says what is wrong.
    pub fn shapes(&self) -> Result<Vec<Shape>, Error> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        if !matches!(self.nodes.first(), Some(Node { op: Op::Input(_), .. })) {
            return Err(self.bad("", "the first operator is not the input".into()));
        }
        for (id, node) in self.nodes.iter().enumerate() {
            if let Some(&input) = node.inputs.iter().find(|&&input| input >= id) {
                return Err(self.bad(&node.name, format!("reads tensor {input}, which does not come before it")));
            }
            let inputs: Vec<Shape> = node.inputs.iter().map(|&input| shapes[input]).collect();
            let shape = shape_of(node, id, &inputs).and_then(Shape::checked);
            shapes.push(shape.map_err(|problem| self.bad(&node.name, problem))?);
        }
        Ok(shapes)
    }

    fn bad(&self, node: &str, problem: String) -> Error {
        Error::BadNetwork { network: self.name.clone(), node: node.into(), problem }
    }
}

fn shape_of(node: &Node, id: usize, inputs: &[Shape]) -> Result<Shape, String> {
    match (&node.op, inputs) {
        (Op::Input(shape), []) if id == 0 => Ok(*shape),
        (Op::Conv(conv), [input]) => {
            let [height, width] = conv.window.output(input.height, input.width)?;
            let columns = conv.window.kernel.iter().try_fold(conv.in_channels, |n, &k| n.checked_mul(k));
            let weights = columns.and_then(|n| n.checked_mul(conv.out_channels));
            if conv.in_channels != input.channels {
                return Err(format!("takes {} channels and gets {}", conv.in_channels, input.channels));
            }
            check_lengths(&conv.weights, &conv.bias, weights, conv.out_channels)?;
            Ok(Shape { channels: conv.out_channels, height, width })
        }
        (Op::Depthwise(depthwise), [input]) => {
            let [height, width] = depthwise.window.output(input.height, input.width)?;
            if input.channels.checked_mul(depthwise.multiplier) != Some(depthwise.channels) {
                let (channels, multiplier) = (depthwise.channels, depthwise.multiplier);
                return Err(format!("makes {channels} channels, {multiplier} from each of {}", input.channels));
            }
            let weights = depthwise.window.kernel.iter().try_fold(depthwise.channels, |n, &k| n.checked_mul(k));
            check_lengths(&depthwise.weights, &depthwise.bias, weights, depthwise.channels)?;
            Ok(Shape { channels: depthwise.channels, height, width })
        }
        (Op::Add, [a, b]) if a == b => Ok(*a),
        (Op::Add, [a, b]) => Err(format!("adds {a} to {b}")),
        (Op::Concat, [first, rest @ ..]) => {
            let mut channels = first.channels;
            for other in rest {
                if (other.height, other.width) != (first.height, first.width) {
                    return Err(format!("joins {first} and {other}"));
                }
                channels = channels.checked_add(other.channels).ok_or("too many channels")?;
            }
            Ok(Shape { channels, ..*first })
        }
        (Op::GlobalAveragePool, [input]) => Ok(Shape { height: 1, width: 1, ..*input }),
        (Op::AveragePool(window) | Op::MaxPool(window), [input]) => {
            let [height, width] = window.output(input.height, input.width)?;
            // A window that saw padding alone would have no mean and no maximum.
            let padding = window.padding_at(input.height, input.width);
            if (0..4).any(|i| padding[i] >= window.kernel[i / 2]) {
                return Err(format!("padding {padding:?} is as large as the window {:?}", window.kernel));
            }
            Ok(Shape { height, width, ..*input })
        }
        (Op::Softmax, [input]) => Ok(*input),
        (_, inputs) => Err(format!("cannot have {} inputs", inputs.len())),
    }
}

fn check_lengths(weights: &[f32], bias: &[f32], wanted: Option<usize>, channels: usize) -> Result<(), String> {
    if Some(weights.len()) != wanted || bias.len() != channels {
        return Err(format!("has {} weights and {} biases, which does not fit its shape", weights.len(), bias.len()));
    }
    match weights.iter().chain(bias).find(|value| !value.is_finite()) {
        Some(value) => Err(format!("has a weight that is {value}")),
        None => Ok(()),
    }
}
