//! `supple models`: the models that can be asked for by name.

use crate::report::{Exit, show, show_json};
use crate::size;
use serde_json::json;
use supple::models::{BUNDLED_LICENSE, Location, catalogue, folder};
use supple::text::bundled;

const EXAMPLES: &str = "\
Examples:
  supple models
  supple models --json
  supple upscale photo.jpg -m rlfn_s_x2

Models are looked for in the folder that SUPPLE_MODELS names, or ~/.local/share/supple/models.";

/// List models: the bundled ones and those in the models folder
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let models = catalogue();
    let text = |model: &supple::models::ModelEntry, key: &str| model.metadata.get(key).cloned();
    let place = |location: &Location| match location {
        Location::Bundled { .. } => "bundled".to_string(),
        Location::File(path) => path.display().to_string(),
    };
    let architecture = |model: &supple::models::ModelEntry| {
        text(model, "architecture").or_else(|| text(model, "arch")).unwrap_or_else(|| "?".into())
    };
    // The language model of the program is no file of the folder's kind.
    let stories = bundled::bytes().zip(bundled::parameters());
    if args.json {
        let stories = stories.map(|(bytes, parameters)| {
            json!({
                "name": bundled::NAME,
                "architecture": "llama",
                "scale": null,
                "parameters": parameters,
                "bytes": bytes.len(),
                "license": BUNDLED_LICENSE,
                "location": "bundled",
                "bundled": true,
            })
        });
        let list = models.iter().map(|model| {
            json!({
                "name": model.name,
                "architecture": architecture(model),
                "scale": model.scale,
                "parameters": model.parameters,
                "bytes": model.bytes,
                "license": model.license,
                "location": place(&model.location),
                "bundled": matches!(model.location, Location::Bundled { .. }),
            })
        });
        show_json(&json!({ "models": list.chain(stories).collect::<Vec<_>>(), "folder": folder() }))?;
        return Ok(Exit::Done);
    }
    let mut rows = vec![["name", "network", "scale", "parameters", "size", "licence", "place"].map(String::from)];
    for model in &models {
        rows.push([
            model.name.clone(),
            architecture(model),
            model.scale.map_or_else(|| "?".into(), |scale| format!("x{scale}")),
            model.parameters.map_or_else(|| "?".into(), size::thousands),
            size::bytes(model.bytes),
            model.license.clone(),
            place(&model.location),
        ]);
    }
    if let Some((bytes, parameters)) = stories {
        let (parameters, bytes) = (size::thousands(parameters), size::bytes(bytes.len() as u64));
        rows.push([
            bundled::NAME.into(),
            "llama".into(),
            "-".into(),
            parameters,
            bytes,
            BUNDLED_LICENSE.into(),
            "bundled".into(),
        ]);
    }
    show(&crate::report::table(&rows))?;
    Ok(Exit::Done)
}
