//! `Upscaler`: enlarging pictures by a network.

use crate::{error, picture};
use js_sys::Function;
use supple::{Error, UpscalerOptions};
use wasm_bindgen::prelude::*;

/// What pictures and network may take together, in bytes, unless the pictures need more. Pages live with less memory
/// than programs; strips of a picture as wide as fit into this lose little time to their overlap.
const MEMORY: u64 = 512 << 20;

/// A network with its weights, ready to enlarge pictures.
#[wasm_bindgen]
pub struct Upscaler {
    upscaler: supple::Upscaler,
}

#[wasm_bindgen]
impl Upscaler {
    /// A network from the bytes of a model file: RLFN as `.safetensors`.
    #[wasm_bindgen(constructor)]
    pub fn new(model: &[u8]) -> Result<Upscaler, JsValue> {
        let options = UpscalerOptions { max_memory: Some(MEMORY), ..UpscalerOptions::default() };
        let upscaler = supple::Upscaler::from_bytes("the model", model.to_vec(), options).map_err(|e| error::of(&e))?;
        Ok(Upscaler { upscaler })
    }

    /// Output pixels along a side of an input pixel.
    #[wasm_bindgen(getter)]
    pub fn scale(&self) -> usize {
        self.upscaler.scale()
    }

    /// Architecture of the network, such as `RLFN_S`.
    #[wasm_bindgen(getter)]
    pub fn name(&self) -> String {
        self.upscaler.name().into()
    }

    /// The picture `scale` times as wide and high. `progress` is called now and then with the part that is done, 0 to 1;
    /// if it returns `false`, the work is given up and an `Error` with the message `cancelled` thrown.
    #[wasm_bindgen(unchecked_return_type = "Picture")]
    pub fn upscale(
        &self,
        #[wasm_bindgen(unchecked_param_type = "Uint8ClampedArray | Uint8Array")] rgba: &JsValue,
        width: f64,
        height: f64,
        #[wasm_bindgen(unchecked_param_type = "(done: number) => boolean | void")] progress: Option<Function>,
    ) -> Result<JsValue, JsValue> {
        let picture = picture::read(rgba, width, height)?;
        self.check_size(&picture)?;
        let mut thrown = None;
        let mut last = -1.0;
        let enlarged = self.upscaler.upscale_with(&picture, &mut |p| {
            let (Some(progress), done) = (&progress, p.fraction()) else { return true };
            if done - last < 1.0 / 256.0 && done < 1.0 {
                return true;
            }
            last = done;
            match progress.call1(&JsValue::NULL, &done.into()) {
                Ok(answer) => answer.as_bool() != Some(false),
                Err(e) => {
                    thrown = Some(e);
                    false
                }
            }
        });
        match (enlarged, thrown) {
            (_, Some(e)) => Err(e),
            (Err(Error::Cancelled), _) => Err(error::new("cancelled", None)),
            (Err(e), _) => Err(error::of(&e)),
            (Ok(enlarged), _) => picture::write(&enlarged),
        }
    }

    /// Refuses what no array can hold, and what there is no memory for.
    fn check_size(&self, picture: &supple::Picture) -> Result<(), JsValue> {
        let scale = self.upscaler.scale();
        let (width, height) = (picture.width() as u64 * scale as u64, picture.height() as u64 * scale as u64);
        if width.max(height) > picture::MAX_SIDE as u64 {
            let message =
                format!("the result would be {width}x{height}, sides of up to {} are possible", picture::MAX_SIDE);
            return Err(error::new(&message, Some("take a smaller picture or scale")));
        }
        let samples = (width * height).saturating_mul(picture.channels() as u64);
        let fits = usize::try_from(samples).ok().filter(|_| width * height < 1 << 29);
        let fits = fits.ok_or_else(|| picture::out_of_memory("the result", samples))?;
        // Given back at once: the module's memory has grown by then, or cannot.
        picture::reserve(fits, "the result").map(drop)
    }
}
