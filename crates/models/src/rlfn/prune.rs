//! Channels taken out of a trained RLFN: how the NTIRE 2022 entry went from 48 to 46, before it was trained on.
//!
//! Channels that are added to or multiplied with each other must go together. So the trunk is several spaces, each of
//! which is entered and left through whole convolutions: the one of `conv_1`, up to and including the first block's `c5`
//! input, and again the sum before the tail; and the one behind each block's `c5`. In each space the channels go whose
//! weights, in and out, have the least sum of squares. (Source of the stage: Kong et al., arXiv 2205.07514; the criterion of
//! the entry is not published.)

use super::Definition;
use crate::{Error, Network, Parameters};
use supple_tensor::Tensor;

/// A convolution that touches a space.
struct Touch {
    layer: String,
    /// The channels are the convolution's outputs, else its inputs.
    output: bool,
}

fn spaces(definition: &Definition) -> Vec<Vec<Touch>> {
    let out = |layer: &str| Touch { layer: layer.to_owned(), output: true };
    let input = |layer: &str| Touch { layer: layer.to_owned(), output: false };
    // What reads a block's input, and what is added to it.
    let block = |b: usize| {
        let name = |part: &str| format!("block_{b}.{part}");
        [input(&name("c1_r")), out(&name("c3_r")), input(&name("c5"))]
    };
    let mut first = vec![out("conv_1"), out("conv_2"), input("upsampler.0")];
    first.extend(block(1));
    let mut spaces = vec![first];
    for b in 1..=definition.blocks {
        let name = |part: &str| format!("block_{b}.{part}");
        let mut space = vec![out(&name("c5")), input(&name("esa.conv1")), out(&name("esa.conv4"))];
        if b < definition.blocks {
            space.extend(block(b + 1));
        } else {
            space.push(input("conv_2"));
        }
        spaces.push(space);
    }
    spaces
}

/// The network and its parameters with `channels` channels left in the trunk.
///
/// # Errors
/// If there are not that many, or a parameter is missing or has another shape.
pub fn prune_channels(
    definition: &Definition,
    parameters: &Parameters,
    channels: usize,
) -> Result<(Definition, Parameters), Error> {
    let network = definition.name();
    if channels == 0 || channels > definition.channels {
        let problem = format!("cannot keep {channels} of {} channels", definition.channels);
        return Err(Error::BadNetwork { network, node: String::new(), problem });
    }
    let mut pruned = parameters.clone();
    for space in spaces(definition) {
        let mut energy = vec![0.0f64; definition.channels];
        for touch in &space {
            let weight = parameters.get(&network, &format!("{}.weight", touch.layer))?;
            let (axis, values) = (usize::from(!touch.output), weight.to_vec::<f32>()?);
            let inner: usize = weight.shape()[axis + 1..].iter().product();
            for (i, value) in values.iter().enumerate() {
                energy[i / inner % weight.shape()[axis]] += f64::from(*value).powi(2);
            }
        }
        let mut order: Vec<usize> = (0..energy.len()).collect();
        // Among equals the first stay.
        order.sort_by(|&a, &b| energy[b].total_cmp(&energy[a]).then(a.cmp(&b)));
        order.truncate(channels);
        order.sort_unstable();
        for touch in &space {
            let weight = format!("{}.weight", touch.layer);
            let kept = select(pruned.get(&network, &weight)?, usize::from(!touch.output), &order)?;
            pruned.insert(&weight, kept);
            if touch.output {
                let bias = format!("{}.bias", touch.layer);
                let kept = select(pruned.get(&network, &bias)?, 0, &order)?;
                pruned.insert(&bias, kept);
            }
        }
    }
    Ok((Definition { channels, ..*definition }, pruned))
}

/// Indices `keep` of dimension `axis`.
fn select(x: &Tensor, axis: usize, keep: &[usize]) -> Result<Tensor, Error> {
    let (shape, values) = (x.shape().to_vec(), x.to_vec::<f32>()?);
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let mut kept = Vec::with_capacity(outer * keep.len() * inner);
    for o in 0..outer {
        for &i in keep {
            kept.extend_from_slice(&values[(o * shape[axis] + i) * inner..][..inner]);
        }
    }
    let mut shape = shape;
    shape[axis] = keep.len();
    Ok(Tensor::from_slice(x.device(), &kept, &shape)?)
}
