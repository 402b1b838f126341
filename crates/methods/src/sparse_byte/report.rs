//! What was done to a network: numbers for each layer, and a picture of the masks.

use supple_models::convnet::{Conv, ConvNet, Pattern};

/// What was done to a network.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Name of the network.
    pub network: String,
    /// The pattern asked for, such as `1x4`, `unstructured`, `filters`.
    pub pattern: String,
    /// Share of the pruned layers' weights that are gone.
    pub sparsity: f64,
    /// Share of all multiplications of the network that are gone.
    pub saved_multiplications: f64,
    /// Whether channels were reordered.
    pub rearranged: bool,
    /// Calibration pictures used.
    pub calibration: usize,
    /// The pruned layers.
    pub layers: Vec<LayerReport>,
}

/// What was done to a layer.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LayerReport {
    /// Name of its node.
    pub name: String,
    /// `[out_channels, in_channels, kernel height, kernel width]` of the dense layer.
    pub shape: [usize; 4],
    /// Which weights are zero together.
    pub pattern: String,
    /// Share of its weights that are gone.
    pub sparsity: f64,
    /// Share of its score that a mask of this sparsity keeps in the order of channels that the network came with; where whole
    /// filters go, what those that stay have of it.
    pub kept_before_rearrangement: f64,
    /// The same in the new order.
    pub kept: f64,
    /// Squared error of its outputs on the calibration pictures as a share of their variance, with the original weights
    /// under the final mask; none where nothing was fitted.
    pub error_before: Option<f64>,
    /// The same with fitted weights.
    pub error_after: Option<f64>,
}

/// A pattern's name, such as `1x4`.
pub fn pattern_name(pattern: Pattern) -> String {
    match pattern {
        Pattern::Dense => "dense".into(),
        Pattern::Block(1) => "unstructured".into(),
        Pattern::Block(block) => format!("1x{block}"),
        Pattern::Kernel(block) => format!("1x{block} kernels"),
    }
}

/// Sides of a panel at most; larger layers are shrunk.
const PANEL: usize = 256;
/// Width of the picture.
const WIDTH: usize = 1200;
/// Pixels between panels.
const GAP: usize = 8;
const BACKGROUND: [u8; 3] = [24, 26, 30];
const GONE: [u8; 3] = [52, 56, 66];

/// A picture of the weights of all layers with a pattern, as `(width, height, RGB bytes)`: one panel a layer in the order
/// of the network, rows are output channels and columns are inputs; what is zero is dark, and what is not is the brighter the
/// larger it is.
pub fn masks_picture(network: &ConvNet) -> (usize, usize, Vec<u8>) {
    let layers = network.convs().map(|(_, conv)| conv).filter(|conv| conv.pattern != Pattern::Dense);
    let panels: Vec<(usize, usize, Vec<[u8; 3]>)> = layers.map(panel).collect();
    // Shelves: panels from left to right, and a new shelf where the row is full.
    let (mut x, mut y, mut shelf, mut places) = (GAP, GAP, 0, Vec::new());
    for (width, height, _) in &panels {
        if x + width + GAP > WIDTH {
            (x, y, shelf) = (GAP, y + shelf + GAP, 0);
        }
        places.push((x, y));
        x += width + GAP;
        shelf = shelf.max(*height);
    }
    let height = y + shelf + GAP;
    let mut picture = BACKGROUND.repeat(WIDTH * height);
    for ((width, _, pixels), (x, y)) in panels.iter().zip(places) {
        for (row, pixels) in pixels.chunks_exact(*width).enumerate() {
            let start = ((y + row) * WIDTH + x) * 3;
            picture[start..start + width * 3].copy_from_slice(pixels.as_flattened());
        }
    }
    (WIDTH, height, picture)
}

/// One layer: width, height and pixels.
fn panel(conv: &Conv) -> (usize, usize, Vec<[u8; 3]>) {
    let (rows, columns) = (conv.out_channels, conv.columns());
    let (height, width) = (rows.min(PANEL), columns.min(PANEL));
    let mean = conv.weights.iter().map(|w| w.abs()).sum::<f32>() / conv.weights.len().max(1) as f32;
    let pixel = |i: usize| {
        // A pixel shows one weight, not a mean of several, in which small holes would drown.
        let (row, column) = (i / width * rows / height, i % width * columns / width);
        let weight = conv.weights[row * columns + column].abs();
        if weight == 0.0 {
            return GONE;
        }
        let bright = (weight / (3.0 * mean)).min(1.0).sqrt();
        [255.0, 214.0, 130.0].map(|full: f32| (90.0 + (full - 90.0) * bright) as u8)
    };
    (width, height, (0..width * height).map(pixel).collect())
}

#[cfg(test)]
mod tests {
    use super::super::reconstruct::{Job, prune_only};
    use super::super::testing::mobile;
    use super::*;
    use supple_models::convnet::Op;

    #[test]
    fn the_picture_shows_what_is_zero() {
        let mut network = mobile();
        let convs: Vec<usize> = network.convs().map(|(id, _)| id).collect();
        for &id in &convs[1..4] {
            let Op::Conv(conv) = &mut network.nodes[id].op else { panic!("is a convolution") };
            let job = Job { id, rows: Vec::new(), pattern: Pattern::Block(4), sparsity: 0.5, importance: None };
            prune_only(conv, &job);
        }
        let (width, height, pixels) = masks_picture(&network);
        assert_eq!(pixels.len(), width * height * 3);
        let weights: usize = convs[1..4]
            .iter()
            .map(|&id| match &network.nodes[id].op {
                Op::Conv(conv) => conv.weights.len(),
                _ => 0,
            })
            .sum();
        let dark = pixels.chunks_exact(3).filter(|p| *p == GONE).count();
        let bright = pixels.chunks_exact(3).filter(|p| *p != GONE && *p != BACKGROUND).count();
        assert_eq!(dark + bright, weights);
        assert!((dark as f64 / weights as f64 - 0.5).abs() < 0.02);
    }

    #[test]
    fn a_dense_network_has_an_empty_picture() {
        let (width, height, pixels) = masks_picture(&mobile());
        assert_eq!(pixels, BACKGROUND.repeat(width * height));
    }
}
