//! `Classifier`: naming what is in a picture.

use crate::error::{self, set};
use crate::{number, picture};
use js_sys::{Array, Uint8Array};
use supple::classifier::{self, ClassifierOptions};
use supple::convnet::ConvNet;
use wasm_bindgen::prelude::*;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** One thing that a picture may show. */
export interface Prediction {
    /** Its name, or `class 281` where the model comes without names. */
    label: string;
    /** Which output of the network this is, from 0. */
    index: number;
    /** How sure the network is, 0 to 1; all outputs together make 1. */
    probability: number;
}
"#;

/// What errors call a model, and networks from files that give no name.
const SOURCE: &str = "the model";

/// A network that names what is in a picture.
#[wasm_bindgen]
pub struct Classifier {
    classifier: supple::Classifier,
}

#[wasm_bindgen]
impl Classifier {
    /// A network from the bytes of a model file, TFLite or safetensors as this project writes them; or from two files,
    /// the second of which takes what the first gives. `labels` has a name for each output, one a line, instead of those
    /// in the file.
    #[wasm_bindgen(constructor)]
    pub fn new(
        #[wasm_bindgen(unchecked_param_type = "Uint8Array | [Uint8Array] | [Uint8Array, Uint8Array]")] model: &JsValue,
        labels: Option<String>,
    ) -> Result<Classifier, JsValue> {
        let network = network(model)?;
        // Threads of their own are what modules for pages lack.
        let options = ClassifierOptions { threads: Some(1), ..ClassifierOptions::default() };
        let made = supple::Classifier::from_network(network, options);
        let made = made.and_then(|made| match labels {
            Some(labels) => made.with_labels(classifier::parse_labels(&labels)),
            None => Ok(made),
        });
        Ok(Classifier { classifier: made.map_err(|e| error::of(&e))? })
    }

    /// What the network is called, such as `mobilenet_v1_1.0_224`; empty where its file does not say.
    #[wasm_bindgen(getter)]
    pub fn name(&self) -> String {
        let name = self.classifier.name();
        if name == SOURCE { String::new() } else { name.into() }
    }

    /// Width and height that pictures are shrunk to.
    #[wasm_bindgen(getter, js_name = inputSize, unchecked_return_type = "[number, number]")]
    pub fn input_size(&self) -> JsValue {
        let input = self.classifier.input();
        Array::of2(&(input.width as f64).into(), &(input.height as f64).into()).into()
    }

    /// Number of outputs.
    #[wasm_bindgen(getter)]
    pub fn classes(&self) -> usize {
        self.classifier.outputs()
    }

    /// The `top` (usually 5) most probable names of what a picture of any size shows, the most probable first.
    #[wasm_bindgen(unchecked_return_type = "Prediction[]")]
    pub fn classify(
        &mut self,
        #[wasm_bindgen(unchecked_param_type = "Uint8ClampedArray | Uint8Array")] rgba: &JsValue,
        width: f64,
        height: f64,
        top: Option<f64>,
    ) -> Result<JsValue, JsValue> {
        let top = number::count("top", top.unwrap_or(5.0), usize::MAX >> 1)?;
        let picture = picture::read(rgba, width, height)?;
        let predictions = self.classifier.classify(&picture, top).map_err(|e| error::of(&e))?;
        let objects = predictions.into_iter().map(|prediction| {
            let object = js_sys::Object::new().into();
            set(&object, "label", &prediction.name().into_owned().into());
            set(&object, "index", &(prediction.index as f64).into());
            set(&object, "probability", &f64::from(prediction.probability).into());
            object
        });
        Ok(objects.collect::<Array>().into())
    }
}

/// The network in one file or in two.
fn network(model: &JsValue) -> Result<ConvNet, JsValue> {
    let parts: Vec<JsValue> = if Array::is_array(model) { Array::from(model).to_vec() } else { vec![model.clone()] };
    let part = |part: &JsValue| {
        let bytes =
            part.dyn_ref::<Uint8Array>().ok_or_else(|| error::new("a model must be a Uint8Array, or two", None))?;
        let mut copy = picture::reserve(bytes.length() as usize, "the model")?;
        copy.resize(bytes.length() as usize, 0);
        bytes.copy_to(&mut copy);
        ConvNet::from_bytes(SOURCE, copy).map_err(|e| error::of(&e.into()))
    };
    match parts.as_slice() {
        [only] => part(only),
        [body, head] => ConvNet::join(part(body)?, part(head)?).map_err(|e| error::of(&e.into())),
        _ => Err(error::new(&format!("a model comes in one file or in two, not in {}", parts.len()), None)),
    }
}
