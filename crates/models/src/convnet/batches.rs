//! A network of operators over batches of pictures, on a device or by what stands in for it.

use super::{ConvNet, Layer, Shape};
use crate::Error;

/// A device that runs a classifier over batches of pictures.
pub trait BatchDevice: Send + Sync + std::fmt::Debug {
    /// The device and its element type: such as `NVIDIA H100, f16`.
    fn name(&self) -> String;

    /// Whether it computes in f32.
    fn is_f32(&self) -> bool;

    /// Most pictures that it takes at a time.
    fn batch(&self) -> usize;

    /// The result of each picture one after the other, for pictures of the network's size, `[height][width][3]` bytes each.
    ///
    /// # Errors
    /// If a picture has another size, or the device fails.
    fn run(&mut self, pictures: &[&[u8]]) -> Result<Vec<f32>, Error>;
}

/// What a network computes, layer by layer, without packing it.
///
/// # Errors
/// If the network is inconsistent.
pub fn layers_of(network: &ConvNet) -> Result<(Shape, Shape, Vec<Layer>), Error> {
    let shapes = network.shapes()?;
    let layer = |id: usize| super::plan::describe(network, &shapes, &[id]);
    let steps = (0..shapes.len()).filter(|&id| !network.nodes[id].inputs.is_empty());
    let layers = steps.map(layer).collect();
    Ok((shapes[0], shapes[shapes.len() - 1], layers))
}

#[cfg(feature = "cuda")]
pub use on_gpu::GpuBatches;

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::BatchDevice;
    use crate::Error;
    use crate::convnet::{ConvNet, ConvNetLayers, Shape};
    use std::collections::BTreeMap;
    use supple_tensor::{DType, Device, RecordedBatches};

    /// Most pictures of a batch.
    const BATCH: usize = 32;

    /// A network on an NVIDIA GPU.
    #[derive(Debug)]
    pub struct GpuBatches {
        device: Device,
        network: String,
        layers: ConvNetLayers,
        table: Box<[[f32; 256]; 3]>,
        /// By pictures of a batch, powers of two.
        recorded: BTreeMap<usize, RecordedBatches>,
    }

    impl GpuBatches {
        /// Packs `network`, with activations of type `dtype`.
        ///
        /// # Errors
        /// If the network is inconsistent, takes no pictures of three colours, or has an operator that does not run there, or the
        /// device fails.
        pub fn new(device: &Device, dtype: DType, network: &ConvNet) -> Result<GpuBatches, Error> {
            let layers = ConvNetLayers::new(device, dtype, network)?;
            if layers.input_shape().channels != 3 {
                let wanted = layers.input_shape();
                return Err(Error::WrongInput { network: network.name.clone(), wanted, found: 3 });
            }
            let table: [[f32; 256]; 3] = super::super::plan::sample_tables(&network.preprocessing)
                .try_into()
                .unwrap_or_else(|_| unreachable!("a table for each of three colours"));
            let device = device.clone();
            let network = network.name.clone();
            Ok(GpuBatches { device, network, layers, table: Box::new(table), recorded: BTreeMap::new() })
        }

        /// The recorded work for batches of `n`.
        ///
        /// # Errors
        /// If the device fails.
        pub fn recorded(&mut self, n: usize) -> Result<&mut RecordedBatches, Error> {
            let Shape { height, width, .. } = self.layers.input_shape();
            if !self.recorded.contains_key(&n) {
                let work = |x: &supple_tensor::Tensor| self.layers.forward(x);
                let dtype = self.layers.dtype();
                let recorded = RecordedBatches::new(&self.device, [n, height, width], dtype, &self.table, &work)?;
                self.recorded.insert(n, recorded);
            }
            Ok(self.recorded.get_mut(&n).expect("made above"))
        }
    }

    impl BatchDevice for GpuBatches {
        fn name(&self) -> String {
            format!("{}, {}", self.device.name(), self.layers.dtype())
        }

        fn is_f32(&self) -> bool {
            self.layers.dtype() == DType::F32
        }

        fn batch(&self) -> usize {
            BATCH
        }

        fn run(&mut self, pictures: &[&[u8]]) -> Result<Vec<f32>, Error> {
            let (wanted, one) = (self.layers.input_shape(), self.layers.output_shape().len());
            if let Some(wrong) = pictures.iter().find(|picture| picture.len() != wanted.len()) {
                return Err(Error::WrongInput { network: self.network.clone(), wanted, found: wrong.len() });
            }
            let mut all = Vec::with_capacity(pictures.len() * one);
            for part in pictures.chunks(BATCH) {
                let results = self.recorded(part.len().next_power_of_two())?.run(part)?;
                all.extend_from_slice(&results[..part.len() * one]);
            }
            Ok(all)
        }
    }
}
