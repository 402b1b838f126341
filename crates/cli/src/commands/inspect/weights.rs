//! What a file of named tensors holds.

use super::Args;
use crate::report::{Exit, message, show, show_json, table};
use crate::size;
use anyhow::Context as _;
use serde_json::json;
use supple::Upscaler;
use supple::weights::Weights;

/// Shows tensors, metadata, and which network for enlarging pictures they make, if any.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let name = args.file.display().to_string();
    let weights = Weights::open(&args.file).map_err(|error| {
        // Most of these errors name the file themselves.
        let text = error.to_string();
        let error = anyhow::Error::new(error);
        if text.contains(&name) { error } else { error.context(name.clone()) }
    })?;
    let bytes = std::fs::metadata(&args.file).with_context(|| name.clone())?.len();
    let network = Upscaler::open(&args.file);
    let tensors: Vec<_> = weights.names().filter_map(|name| Some((name, weights.info(name)?))).collect();

    if args.json {
        let network = match &network {
            Ok(upscaler) => {
                let (stored, run) = upscaler.network().parameters();
                json!({ "name": upscaler.name(), "scale": upscaler.scale(), "parameters": stored, "parameters_fused": run })
            }
            Err(error) => json!({ "error": error.to_string() }),
        };
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, info)| json!({ "name": name, "dtype": info.dtype.to_string(), "shape": info.shape }))
            .collect();
        show_json(&json!({
            "file": name,
            "format": weights.format().to_string(),
            "bytes": bytes,
            "parameters": weights.parameters(),
            "network": network,
            "metadata": weights.metadata(),
            "tensors": tensors,
        }))?;
        return Ok(Exit::Done);
    }
    let mut rows = Vec::new();
    for (name, info) in &tensors {
        let shape: Vec<String> = info.shape.iter().map(usize::to_string).collect();
        rows.push([(*name).to_string(), info.dtype.to_string(), shape.join(" x ")]);
    }
    let mut text = table(&rows);
    for (key, value) in weights.metadata() {
        text += &format!("metadata {key}: {value}\n");
    }
    text += &format!(
        "{name}: {}, {}, {} tensors, {} parameters\n",
        weights.format(),
        size::bytes(bytes),
        tensors.len(),
        size::thousands(weights.parameters())
    );
    text += &match network {
        Ok(upscaler) => {
            let (stored, run) = upscaler.network().parameters();
            let (stored, run) = (size::thousands(stored as u64), size::thousands(run as u64));
            format!("network: {} x{}, {stored} parameters, {run} after fusion\n", upscaler.name(), upscaler.scale())
        }
        Err(error) => format!("network: not usable ({})\n", message(&error.into())),
    };
    show(&text)?;
    Ok(Exit::Done)
}
