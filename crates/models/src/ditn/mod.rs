//! DITN, a transformer for super-resolution that divides the picture into patches once per unit.
//!
//! ```text
//! head  = sft(x)                                      3×3, 3 → C; x mirrored at its right and bottom to whole patches
//! unit  : patches of 8×8; inner-patch layers on each; back to a map; spatial-aware layers on the map
//! body  = conv_after_body(unit_n(…unit_1(head))) + head
//! out   = pixel_shuffle(upsample.0(body)), cropped
//!
//! inner-patch layer:    x += project_out(attention(qkv(conv1(tanh(x)))))      attention between channels of the patch
//!                       x += ffn(conv2(tanh(x)))                              zeros around the patch
//! spatial-aware layer:  a, v = proj_first(conv1(tanh(x)))
//!                       x += scale · proj_last(v · mix(dw7×7 dilated by 3(dw5×5(a))))
//!                       x += ffn(conv2(tanh(x)))
//! ffn:                  a, b = dw3×3(project_in(y));  project_out(gelu(a) · b)
//! ```
//!
//! The twin with layer norms has `norm1` and `norm2` where this has `tanh` with `conv1` and `conv2`.
//!
//! Exact fusions at load time: what follows the normalisation (`conv1`, `conv2`, or gain and shift of a layer norm) goes
//! into the linear operator after it, `scale` into `proj_last`.
//!
//! Inner-patch layers run one after the other on a patch that stays in the cache. Spatial-aware layers stream rows
//! through rolling windows, each stage lagging behind the one before it by what it reaches.
//!
//! Source: Liu et al., "Unfolding Once is Enough: A Deployment-Friendly Transformer Unit for Super-Resolution",
//! arXiv 2308.02794.

mod checkpoint;
mod definition;
mod layers;
mod load;
#[cfg(feature = "cuda")]
mod on_device;
mod pass;
mod schedule;

use crate::{Error, Sink, Source, SuperResolution, Window};
use layers::{Features, InnerPatchLayer, SpatialLayer};
use supple_tensor::Cpu;
use supple_tensor::kernels::conv::PackedConv;

pub use checkpoint::recognises;
pub use definition::{Definition, Norm, substitute_tanh};
#[cfg(feature = "cuda")]
pub use on_device::DitnLayers;

/// What a network of this size is called; `layers` are inner and spatial ones of each unit.
fn name(channels: usize, layer_norm: bool, layers: &[(usize, usize)]) -> String {
    match (channels, layer_norm, layers) {
        (60, false, [(4, 4)]) => "DITN_Real".to_owned(),
        (60, true, [(4, 4)]) => "DITN_Tiny".to_owned(),
        (60, true, [(4, 4), (4, 4), (4, 4)]) => "DITN".to_owned(),
        (channels, norm, layers) => {
            let layers: Vec<String> = layers.iter().map(|(i, s)| format!("{i}+{s}")).collect();
            format!("DITN{} {channels}/{}", if norm { "" } else { "_Real" }, layers.join("/"))
        }
    }
}

/// Side of a patch, in pixels. The weights do not tell; all published networks have this.
pub(crate) const PATCH: usize = 8;
/// Smallest side that can be mirrored to a whole patch.
const MIN_SIDE: usize = 5;

/// A loaded DITN.
#[derive(Debug)]
pub struct Ditn {
    name: String,
    scale: usize,
    /// In the checkpoint, and after fusion.
    parameters: (usize, usize),
    features: Features,
    head: PackedConv,
    units: Vec<Unit>,
    body: PackedConv,
    /// Output channels in the order `[sub-row][sub-column][colour]`.
    tail: PackedConv,
}

/// A UFONE unit ("unfolding once is enough").
#[derive(Debug)]
struct Unit {
    inner: Vec<InnerPatchLayer>,
    spatial: Vec<SpatialLayer>,
}

impl Ditn {
    /// How far an inner edge of a window spoils pixels, the edge being `edge` pixels from the picture's left, on the side
    /// of its left (`true`) or right neighbours.
    fn spoilt(&self, edge: usize, is_left: bool) -> usize {
        // A tile's rounding depends on all of its inputs.
        let tiles = [&self.body, &self.tail].map(PackedConv::row_step);
        let reach = schedule::NEAR_REACH + schedule::FAR_REACH + 1;
        if is_left {
            let mut end = edge + self.head.row_step();
            for unit in &self.units {
                end = end.next_multiple_of(PATCH) + unit.spatial.len() * reach;
            }
            tiles.iter().fold(end, |end, tile| (end / tile + 1) * tile) - edge
        } else {
            let mut start = edge - self.head.row_step();
            for unit in &self.units {
                start = start / PATCH * PATCH - unit.spatial.len() * reach;
            }
            edge - tiles.iter().fold(start, |start, tile| (start.div_ceil(*tile) - 1) * tile)
        }
    }
}

impl SuperResolution for Ditn {
    fn name(&self) -> &str {
        &self.name
    }

    fn scale(&self) -> usize {
        self.scale
    }

    fn parameters(&self) -> (usize, usize) {
        self.parameters
    }

    fn macs(&self, width: usize, height: usize) -> u64 {
        let pixels = (width.next_multiple_of(PATCH) * height.next_multiple_of(PATCH)) as u64;
        let (c, s) = (self.features.channels as u64, self.scale as u64);
        let is_real = matches!(self.features.normalisation, supple_tensor::kernels::attention::Normalisation::Tanh);
        // The two convolutions after the normalisation.
        let fused = if is_real { 2 * c * c } else { 0 };
        let feed_forward = |layer: &layers::FeedForward| {
            let hidden = layer.output.matrix.k() as u64;
            hidden * (2 * c + 9 * 2 + c)
        };
        let inner = |l: &InnerPatchLayer| feed_forward(&l.feed_forward) + fused + 6 * c * c;
        let spatial = |l: &SpatialLayer| feed_forward(&l.feed_forward) + fused + 4 * c * c + (25 + 49) * c;
        let units =
            self.units.iter().map(|u| u.inner.iter().map(inner).chain(u.spatial.iter().map(spatial)).sum::<u64>());
        pixels * (27 * c + 9 * c * c + 27 * c * s * s + units.sum::<u64>())
    }

    fn min_side(&self) -> usize {
        MIN_SIDE
    }

    fn halo(&self) -> usize {
        // Far enough from the picture's left for every edge, whatever its place in a patch.
        let far = self.units.iter().map(|u| u.spatial.len() + 2).sum::<usize>() * 4 * PATCH;
        let right = (far..far + PATCH).map(|edge| self.spoilt(edge, false)).max().unwrap_or(0);
        self.spoilt(far, true).max(right).next_multiple_of(PATCH)
    }

    fn alignment(&self) -> usize {
        PATCH
    }

    fn working_memory(&self, cpu: &Cpu, window: &Window) -> usize {
        pass::working_memory(self, cpu, window)
    }

    fn run(&self, cpu: &Cpu, window: &Window, source: &mut Source<'_>, sink: &mut Sink<'_>) -> Result<(), Error> {
        window.check(self)?;
        pass::Pass::new(self, cpu, window, None).run(source, sink);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
