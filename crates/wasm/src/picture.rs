//! Pictures between JavaScript and the library.

use crate::{error, number};
use js_sys::{Reflect, Uint8Array, Uint8ClampedArray};
use supple::Picture;
use wasm_bindgen::prelude::*;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** Samples as a canvas has them: red, green, blue, alpha of each pixel, row after row. An `ImageData` is one but for its name `data`. */
export interface Picture {
    width: number;
    height: number;
    rgba: Uint8ClampedArray<ArrayBuffer>;
}
"#;

/// No picture has a longer side: what canvases of the larger browsers hold at most.
pub(crate) const MAX_SIDE: usize = 65_535;

/// Pixels that are copied between the two memories at a time.
const CHUNK: usize = 1 << 16;

/// Checks a picture from JavaScript and copies it; alpha is dropped where all of it is opaque.
pub(crate) fn read(rgba: &JsValue, width: f64, height: f64) -> Result<Picture, JsValue> {
    let (width, height) = (number::count("width", width, MAX_SIDE)?, number::count("height", height, MAX_SIDE)?);
    let samples = samples(rgba)?;
    let pixels = width as u64 * height as u64;
    if samples.length() as u64 != pixels * 4 {
        let found = samples.length();
        return Err(error::new(&format!("{width}x{height} pixels need {} samples, got {found}", pixels * 4), None));
    }
    let pixels = pixels as usize;
    let opaque = is_opaque(&samples, pixels);
    let channels = if opaque { 3 } else { 4 };
    let mut copy = reserve(pixels * channels, "the picture")?;
    each_chunk(&samples, pixels, &mut |chunk| {
        let at = copy.len();
        match opaque {
            true => {
                copy.resize(at + chunk.len() / 4 * 3, 0);
                copy[at..]
                    .chunks_exact_mut(3)
                    .zip(chunk.chunks_exact(4))
                    .for_each(|(to, p)| to.copy_from_slice(&p[..3]));
            }
            false => copy.extend_from_slice(chunk),
        }
        true
    });
    let picture = match opaque {
        true => Picture::from_rgb8(width, height, copy),
        false => Picture::from_rgba8(width, height, copy),
    };
    picture.map_err(|e| error::of(&e))
}

/// A picture of 8-bit colours as `{ width, height, rgba }`.
pub(crate) fn write(picture: &Picture) -> Result<JsValue, JsValue> {
    let (width, height, channels) = (picture.width(), picture.height(), picture.channels());
    let rgba = clamped_array(width * height * 4)?;
    let bytes = Uint8Array::new_with_byte_offset_and_length(&rgba.buffer(), 0, rgba.length());
    let mut chunk = Vec::with_capacity(CHUNK * 4);
    for (i, pixels) in picture.samples8().unwrap_or_default().chunks(CHUNK * channels).enumerate() {
        chunk.clear();
        for p in pixels.chunks_exact(channels) {
            chunk.extend_from_slice(&[p[0], p[1], p[2], if channels == 4 { p[3] } else { 255 }]);
        }
        let start = (i * CHUNK * 4) as u32;
        bytes.subarray(start, start + chunk.len() as u32).copy_from(&chunk);
    }
    let object = js_sys::Object::new().into();
    error::set(&object, "width", &(width as f64).into());
    error::set(&object, "height", &(height as f64).into());
    error::set(&object, "rgba", &rgba);
    Ok(object)
}

/// Room for `len` bytes of `what`, or an error where a plain vector would stop the module.
pub(crate) fn reserve(len: usize, what: &str) -> Result<Vec<u8>, JsValue> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| out_of_memory(what, len as u64))?;
    Ok(bytes)
}

/// The error for `what`, which needs `bytes` more than there are.
pub(crate) fn out_of_memory(what: &str, bytes: u64) -> JsValue {
    error::new(
        &format!("out of memory: {what} needs {} MiB", bytes.div_ceil(1 << 20)),
        Some("take a smaller picture or scale, or close other pages"),
    )
}

/// The bytes of a `Uint8ClampedArray` or a `Uint8Array`.
fn samples(rgba: &JsValue) -> Result<Uint8Array, JsValue> {
    if let Some(clamped) = rgba.dyn_ref::<Uint8ClampedArray>() {
        let (buffer, offset) = (clamped.buffer(), clamped.byte_offset());
        return Ok(Uint8Array::new_with_byte_offset_and_length(&buffer, offset, clamped.length()));
    }
    let wanted = || error::new("a picture's samples must be a Uint8ClampedArray or a Uint8Array", None);
    rgba.dyn_ref::<Uint8Array>().cloned().ok_or_else(wanted)
}

fn is_opaque(samples: &Uint8Array, pixels: usize) -> bool {
    let mut opaque = true;
    each_chunk(samples, pixels, &mut |chunk| {
        // Without a way out early, so that vectors can do it.
        opaque = chunk.chunks_exact(4).fold(u8::MAX, |all, p| all & p[3]) == u8::MAX;
        opaque
    });
    opaque
}

/// Calls `take` with some pixels after the other while it returns `true`.
fn each_chunk(samples: &Uint8Array, pixels: usize, take: &mut dyn FnMut(&[u8]) -> bool) {
    let mut chunk = vec![0; CHUNK.min(pixels) * 4];
    for start in (0..pixels).step_by(CHUNK) {
        let len = CHUNK.min(pixels - start) * 4;
        samples.subarray((start * 4) as u32, (start * 4 + len) as u32).copy_to(&mut chunk[..len]);
        if !take(&chunk[..len]) {
            return;
        }
    }
}

/// An array of JavaScript's, which throws if it cannot be had.
fn clamped_array(len: usize) -> Result<Uint8ClampedArray, JsValue> {
    let class = Reflect::get(&js_sys::global(), &"Uint8ClampedArray".into())?;
    let class: &js_sys::Function = class.unchecked_ref();
    let made = Reflect::construct(class, &js_sys::Array::of1(&(len as f64).into()));
    made.map(JsCast::unchecked_into).map_err(|_| out_of_memory("the result", len as u64))
}
