//! A trainable decoder's parameters from any checkpoint, and back to a folder as Hugging Face has them.

use super::config::Config;
use super::definition::{Definition, HEAD};
use super::load::{Reader, Source, deinterleaved};
use crate::{Error, Network, Parameters};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use supple_tensor::kernels::low_bit::dequantise;
use supple_tensor::{Cpu, Device, Isa, Tensor};
use supple_weights::checkpoint::{Checkpoint, RopeLayout};
use supple_weights::{DType, save_safetensors};

impl Definition {
    /// The decoder that a checkpoint holds.
    ///
    /// # Errors
    /// [`Error::BadConfig`] if it is none that is known here.
    pub fn of(checkpoint: &Checkpoint) -> Result<Definition, Error> {
        let config = Config::from_json(checkpoint.source(), checkpoint.config())?;
        let biases = ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"]
            .map(|name| checkpoint.contains(&format!("model.layers.0.{name}")));
        if biases != [biases[0]; 3] {
            let problem = "some of queries, keys and values have biases, and others none".to_owned();
            return Err(Error::BadConfig { file: checkpoint.source().to_owned(), problem });
        }
        let head = !config.tied && checkpoint.contains(HEAD);
        let cpu = Cpu::new(Isa::detect(), 1);
        let divisors = Reader { packer: &cpu, source: checkpoint, config: &config }.divisors(config.context)?;
        Ok(Definition { biases: biases[0], head, divisors, ..Definition::new(config) })
    }

    /// The parameters of a checkpoint in `f32`, whatever it holds them as.
    ///
    /// # Errors
    /// [`Error::BadTensor`] for a tensor of another shape, and what reading takes.
    pub fn read(&self, device: &Device, checkpoint: &Checkpoint) -> Result<Parameters, Error> {
        let cpu = Cpu::new(Isa::detect(), 1);
        let read = Reader { packer: &cpu, source: checkpoint, config: &self.config };
        let mut parameters = Parameters::default();
        for (name, shape) in self.shapes() {
            let values = self.values(&read, &name, &shape)?;
            parameters.insert(&name, Tensor::from_slice(device, &values, &shape)?);
        }
        Ok(parameters)
    }

    fn values(&self, read: &Reader<'_, Cpu>, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let &[rows, k] = shape else {
            let mut values = read.vector(name, shape[0])?;
            if self.config.norm_plus_one && read.source.norms_include_one() && name.ends_with("norm.weight") {
                values.iter_mut().for_each(|value| *value -= 1.0);
            }
            return Ok(self.straightened(read, name, values, 1));
        };
        let (stored, all, first) = self.stored(read.source, name, rows);
        let tensor = read.matrix(&stored, all, k)?;
        let size = tensor.bytes.len() / all.max(1);
        let mut values = vec![0.0; rows * k];
        dequantise(tensor.format, &tensor.bytes[first * size..(first + rows) * size], &mut values);
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(read.bad(name, "finite numbers", format!("holds {value}")));
        }
        Ok(self.straightened(read, name, values, k))
    }

    /// The tensor that holds parameter `name` of `rows` rows, its rows, and the first of them that belong to it: Phi-3 stores some
    /// projections as one.
    fn stored(&self, source: &dyn Source, name: &str, rows: usize) -> (String, usize, usize) {
        let (heads, wide) = (self.config.heads, self.config.intermediate);
        let (q, kv) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        for (part, whole, all, first) in [
            ("self_attn.q_proj", "self_attn.qkv_proj", q + 2 * kv, 0),
            ("self_attn.k_proj", "self_attn.qkv_proj", q + 2 * kv, q),
            ("self_attn.v_proj", "self_attn.qkv_proj", q + 2 * kv, q + kv),
            ("mlp.gate_proj", "mlp.gate_up_proj", 2 * wide, 0),
            ("mlp.up_proj", "mlp.gate_up_proj", 2 * wide, wide),
        ] {
            if name.contains(part) && name.ends_with(".weight") {
                let fused = name.replace(part, whole);
                if source.contains(&fused) {
                    return (fused, all, first);
                }
            }
        }
        (name.to_owned(), rows, 0)
    }

    /// Rows of `k` values in the order of Hugging Face, where the container has rows that turn together side by side.
    fn straightened(&self, read: &Reader<'_, Cpu>, name: &str, values: Vec<f32>, k: usize) -> Vec<f32> {
        let turns = ["q_proj.", "k_proj."].iter().any(|part| name.contains(part));
        if !turns || read.source.rope() != RopeLayout::Interleaved {
            return values;
        }
        let (dim, turned) = (self.config.heads.head_dim, self.config.rope.dim);
        (0..values.len() / k).flat_map(|row| values[deinterleaved(row, dim, turned) * k..][..k].to_vec()).collect()
    }

    /// Writes `config.json` and `model.safetensors` to `folder`, which is made: what `transformers` and Supple read. `config` is the
    /// configuration that the decoder was made from; weights are stored as `dtype`. The tokeniser's files are the caller's.
    ///
    /// # Errors
    /// If a parameter is missing or not finite, or something cannot be written.
    pub fn save(&self, parameters: &Parameters, config: &Value, dtype: DType, folder: &Path) -> Result<(), Error> {
        let parameters = self.merged(parameters)?;
        let mut tensors = Vec::new();
        let joined = self.config.family == "phi3";
        for (name, shape) in self.shapes() {
            let values = parameters.get(&self.name(), &name)?.to_vec::<f32>()?;
            // Phi-3's projections follow each other, in the order in which they are joined.
            let part = |first: &str, rest: &[&str], whole: &str| {
                let is = |part: &&str| name.contains(*part);
                (joined && (is(&first) || rest.iter().any(is)), is(&first), whole.to_owned())
            };
            let qkv = part("self_attn.q_proj", &["self_attn.k_proj", "self_attn.v_proj"], "self_attn.qkv_proj");
            let feed = part("mlp.gate_proj", &["mlp.up_proj"], "mlp.gate_up_proj");
            let Some((_, first, whole)) = [qkv, feed].into_iter().find(|(belongs, ..)| *belongs) else {
                tensors.push((name, dtype, shape, values));
                continue;
            };
            if first {
                let layer = name.split('.').take(3).collect::<Vec<_>>().join(".");
                tensors.push((format!("{layer}.{whole}.weight"), dtype, shape, values));
            } else if let Some((_, _, all, before)) = tensors.iter_mut().rev().find(|(name, ..)| name.contains(&whole))
            {
                all[0] += shape[0];
                before.extend(values);
            }
        }
        if !self.divisors.is_empty() {
            let len = self.divisors.len();
            tensors.push(("model.rope_freqs.weight".to_owned(), DType::F32, vec![len], self.divisors.clone()));
        }
        let mut config = config.clone();
        if let Some(fields) = config.as_object_mut() {
            fields.remove("quantization_config");
            let name = if dtype == DType::F32 {
                "float32"
            } else if dtype == DType::F16 {
                "float16"
            } else {
                "bfloat16"
            };
            fields.insert("torch_dtype".into(), json!(name));
        }
        std::fs::create_dir_all(folder).map_err(failed(folder, "create"))?;
        save_safetensors(&folder.join("model.safetensors"), &tensors, &self.metadata())?;
        write_json(&folder.join("config.json"), &config)
    }

    /// Writes the adapter alone, under the names of PEFT: `adapter_config.json` and `adapter_model.safetensors`. `base` is where the
    /// weights that it belongs to are.
    ///
    /// # Errors
    /// As [`save`](Self::save), or if there is no adapter.
    pub fn save_adapter(&self, parameters: &Parameters, base: &str, folder: &Path) -> Result<(), Error> {
        let Some(adapter) = &self.adapter else {
            let problem = "there is no adapter to save".to_owned();
            return Err(Error::BadConfig { file: folder.display().to_string(), problem });
        };
        let mut tensors = Vec::new();
        for (name, shape) in self.adapter_shapes() {
            let values = parameters.get(&self.name(), &name)?.to_vec::<f32>()?;
            tensors.push((format!("base_model.model.{name}"), DType::F32, shape, values));
        }
        let config = json!({
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "lora_alpha": adapter.alpha,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": adapter.rank,
            "target_modules": adapter.targets,
            "task_type": "CAUSAL_LM",
        });
        std::fs::create_dir_all(folder).map_err(failed(folder, "create"))?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        save_safetensors(&folder.join("adapter_model.safetensors"), &tensors, &metadata)?;
        write_json(&folder.join("adapter_config.json"), &config)
    }
}

fn failed<'a>(path: &'a Path, action: &'static str) -> impl Fn(std::io::Error) -> Error + 'a {
    move |source| supple_weights::Error::Io { file: path.display().to_string(), action, source }.into()
}

/// Writes JSON under another name and renames it: whole or not at all.
fn write_json(path: &Path, value: &Value) -> Result<(), Error> {
    let partial = path.with_extension("json.part");
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    std::fs::write(&partial, text).map_err(failed(path, "write"))?;
    std::fs::rename(&partial, path).map_err(failed(path, "rename"))
}
