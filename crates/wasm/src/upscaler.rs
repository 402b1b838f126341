//! `Upscaler`: enlarging pictures by a network.

use crate::{error, number, picture};
use js_sys::Function;
use std::ops::Range;
use supple::{Error, Picture, Progress, UpscalerOptions};
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
        self.check_size(&picture, 0..picture.width())?;
        report(progress, &mut |progress| self.upscaler.upscale_with(&picture, progress))
    }

    /// Where to cut a picture of `width` columns, so that up to `parts` workers with an engine each take about the same
    /// time for a part: the first column of each, and `width`.
    #[wasm_bindgen]
    pub fn split(&self, width: f64, parts: f64) -> Result<Vec<u32>, JsValue> {
        let width = number::count("width", width, picture::MAX_SIDE)?;
        let parts = number::count("parts", parts, usize::MAX >> 1)?;
        Ok(std::iter::once(0).chain(self.upscaler.split(width, parts).iter().map(|part| part.end as u32)).collect())
    }

    /// What `upscale` gives, bit for bit, of the columns of the picture from `from` to before `to`.
    #[wasm_bindgen(js_name = upscaleColumns, unchecked_return_type = "Picture")]
    pub fn upscale_columns(
        &self,
        #[wasm_bindgen(unchecked_param_type = "Uint8ClampedArray | Uint8Array")] rgba: &JsValue,
        width: f64,
        height: f64,
        from: f64,
        to: f64,
        #[wasm_bindgen(unchecked_param_type = "(done: number) => boolean | void")] progress: Option<Function>,
    ) -> Result<JsValue, JsValue> {
        let picture = picture::read(rgba, width, height)?;
        let to = number::count("to", to, picture.width())?;
        let columns = number::index("from", from, to)?..to;
        self.check_size(&picture, columns.clone())?;
        // All parts together get what one picture gets.
        let share = MEMORY * columns.len() as u64 / picture.width() as u64;
        let options = UpscalerOptions { max_memory: Some(share), ..UpscalerOptions::default() };
        let upscaler = self.upscaler.clone().with_options(options).map_err(|e| error::of(&e))?;
        report(progress, &mut |progress| upscaler.upscale_columns(&picture, columns.clone(), progress))
    }

    /// Refuses results that no array can hold, and columns of them that there is no memory for.
    fn check_size(&self, picture: &Picture, columns: Range<usize>) -> Result<(), JsValue> {
        let scale = self.upscaler.scale();
        let (width, height) = (picture.width() as u64 * scale as u64, picture.height() as u64 * scale as u64);
        if width.max(height) > picture::MAX_SIDE as u64 {
            let message =
                format!("the result would be {width}x{height}, sides of up to {} are possible", picture::MAX_SIDE);
            return Err(error::new(&message, Some("take a smaller picture or scale")));
        }
        let channels = picture.channels() as u64;
        let samples = (columns.len() as u64 * scale as u64 * height).saturating_mul(channels);
        let fits = usize::try_from(samples).ok().filter(|_| width * height < 1 << 29);
        let fits = fits.ok_or_else(|| picture::out_of_memory("the result", width * height * channels))?;
        // Given back at once: the module's memory has grown by then, or cannot.
        picture::reserve(fits, "the result").map(drop)
    }
}

/// Told how far the work is; `false` stops it.
type Tell<'a> = dyn FnMut(Progress) -> bool + 'a;

/// Runs `work`, tells `progress` 0 to 1 meanwhile, and hands out the picture.
fn report(
    progress: Option<Function>,
    work: &mut dyn FnMut(&mut Tell<'_>) -> Result<Picture, Error>,
) -> Result<JsValue, JsValue> {
    let (mut thrown, mut last) = (None, -1.0);
    let enlarged = work(&mut |p| {
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
