//! What a file of operators holds.

use super::Args;
use crate::report::{Exit, show, show_json, table};
use crate::size;
use anyhow::Context as _;
use serde_json::json;
use supple::Error;
use supple::convnet::{Activation, ConvNet, Node, Op, Padding, Pattern, Shape, Window2d};

/// Shows operators, shapes, parameters and zeros.
pub fn run(args: &Args, network: &ConvNet) -> anyhow::Result<Exit> {
    let name = args.file.display().to_string();
    let bytes = std::fs::metadata(&args.file).with_context(|| name.clone())?.len();
    let shapes = network.shapes().map_err(Error::from)?;
    let rows: Vec<Row> = network.nodes.iter().zip(&shapes).map(|(node, &shape)| Row::new(node, shape)).collect();
    let (input, output) = (shapes[0], shapes[shapes.len() - 1]);
    let macs: usize = rows.iter().map(|row| row.macs).sum();
    let (weights, zeros) = rows.iter().fold((0, 0), |sum, row| (sum.0 + row.weights, sum.1 + row.zeros));
    let preprocessing = network.preprocessing;
    let stored = if network.quantization.is_some() { "integers" } else { "floating point" };

    if args.json {
        let sides = |shape: Shape| [shape.channels, shape.height, shape.width];
        let operators = rows.iter().zip(&network.nodes).map(|(row, node)| {
            json!({
                "name": node.name,
                "operator": row.operator,
                "inputs": node.inputs.iter().map(|&id| &network.nodes[id].name).collect::<Vec<_>>(),
                "output": sides(row.shape),
                "activation": activation(node.activation),
                "parameters": row.parameters,
                "macs": row.macs,
                "sparsity": row.sparsity(),
                "pattern": row.pattern,
            })
        });
        show_json(&json!({
            "file": name,
            "bytes": bytes,
            "network": network.name,
            "stored_as": stored,
            "input": sides(input),
            "output": sides(output),
            "parameters": network.parameters(),
            "macs": macs,
            "sparsity": share(zeros, weights),
            "mean": preprocessing.mean,
            "deviation": preprocessing.deviation,
            "crop": preprocessing.crop,
            "labels": network.labels.len(),
            "operators": operators.collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Done);
    }
    let mut lines = vec![["operator", "what", "output", "parameters", "MMAC", "zeros", "pattern"].map(String::from)];
    lines.extend(rows.iter().zip(&network.nodes).map(|(row, node)| row.text(node)));
    let mut text = table(&lines);
    let parameters = size::thousands(network.parameters() as u64);
    text += &format!("{name}: {}, weights in {stored}, {parameters} parameters\n", size::bytes(bytes));
    text += &format!(
        "network: {}, {input} -> {output}, {:.1} million multiply-accumulates, {:.1} % of the weights are zero\n",
        network.name,
        macs as f64 / 1e6,
        share(zeros, weights) * 100.0
    );
    text += &format!(
        "input: (sample / 255 - {:?}) / {:?}, the middle {:.1} % of the shorter side\n",
        preprocessing.mean,
        preprocessing.deviation,
        preprocessing.crop * 100.0
    );
    text += &match network.labels.len() {
        0 => "labels: none in the file\n".to_string(),
        count => format!("labels: {count}, from {:?} to {:?}\n", network.labels[0], network.labels[count - 1]),
    };
    show(&text)?;
    Ok(Exit::Done)
}

/// What is said of one operator.
struct Row {
    operator: String,
    shape: Shape,
    parameters: usize,
    macs: usize,
    weights: usize,
    zeros: usize,
    pattern: Option<String>,
}

impl Row {
    fn new(node: &Node, shape: Shape) -> Row {
        let (weights, biases): (&[f32], usize) = match &node.op {
            Op::Conv(conv) => (&conv.weights, conv.bias.len()),
            Op::Depthwise(depthwise) => (&depthwise.weights, depthwise.bias.len()),
            _ => (&[], 0),
        };
        let pattern = match &node.op {
            Op::Conv(conv) => match conv.pattern {
                Pattern::Dense => None,
                Pattern::Block(channels) => Some(format!("1x{channels}")),
                Pattern::Kernel(channels) => Some(format!("1x{channels}, whole kernels")),
            },
            _ => None,
        };
        Row {
            operator: operator(&node.op),
            shape,
            parameters: weights.len() + biases,
            macs: weights.len() * shape.pixels(),
            weights: weights.len(),
            zeros: weights.iter().filter(|&&weight| weight == 0.0).count(),
            pattern,
        }
    }

    fn sparsity(&self) -> f64 {
        share(self.zeros, self.weights)
    }

    fn text(&self, node: &Node) -> [String; 7] {
        let number = |text: String| if self.weights == 0 { String::new() } else { text };
        let what = match activation(node.activation) {
            Some(activation) => format!("{}, {activation}", self.operator),
            None => self.operator.clone(),
        };
        [
            node.name.escape_debug().to_string(),
            what,
            self.shape.to_string(),
            number(size::thousands(self.parameters as u64)),
            number(format!("{:.2}", self.macs as f64 / 1e6)),
            number(format!("{:.1} %", self.sparsity() * 100.0)),
            self.pattern.clone().unwrap_or_default(),
        ]
    }
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn activation(activation: Activation) -> Option<&'static str> {
    match activation {
        Activation::None => None,
        Activation::Relu => Some("relu"),
        Activation::Relu6 => Some("relu6"),
    }
}

/// In words: `conv 3x3 /2`, `depthwise 3x3`, `add`.
fn operator(op: &Op) -> String {
    let windowed = |name: &str, window: &Window2d| {
        let [height, width] = window.kernel;
        let stride = match window.stride {
            [1, 1] => String::new(),
            [rows, columns] if rows == columns => format!(" /{rows}"),
            [rows, columns] => format!(" /{rows}x{columns}"),
        };
        let padding = match window.padding {
            Padding::Explicit(padding) if padding != [0; 4] => " padded",
            _ => "",
        };
        format!("{name} {height}x{width}{stride}{padding}")
    };
    match op {
        Op::Input(_) => "input".into(),
        Op::Conv(conv) => windowed("conv", &conv.window),
        Op::Depthwise(depthwise) => windowed("depthwise", &depthwise.window),
        Op::Add => "add".into(),
        Op::Concat => "concat".into(),
        Op::GlobalAveragePool => "global average pool".into(),
        Op::AveragePool(window) => windowed("average pool", window),
        Op::MaxPool(window) => windowed("max pool", window),
        Op::Softmax => "softmax".into(),
    }
}
