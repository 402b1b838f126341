//! The catalogue of models: those in the binary, and those in the models folder (`SUPPLE_MODELS`, or
//! `~/.local/share/supple/models`).

use crate::{Error, Upscaler, UpscalerOptions};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Scales of the bundled models.
pub const BUNDLED_SCALES: [usize; 3] = [2, 3, 4];

/// Licence of what is bundled.
pub const BUNDLED_LICENSE: &str = "MIT OR Apache-2.0, see models/README.md";

#[cfg(not(feature = "bundled"))]
static BUNDLED: [(&str, usize, &[u8]); 0] = [];

#[cfg(feature = "bundled")]
static BUNDLED: [(&str, usize, &[u8]); 4] = [
    ("rlfn_s_x2", 2, include_bytes!("../../../models/rlfn_s_x2.safetensors")),
    ("rlfn_s_x3", 3, include_bytes!("../../../models/rlfn_s_x3.safetensors")),
    ("rlfn_s_x4", 4, include_bytes!("../../../models/rlfn_s_x4.safetensors")),
    ("ditn_real_x4", 4, include_bytes!("../../../models/ditn_real_x4.safetensors")),
];

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the binary.
    Bundled {
        /// What it is called.
        name: &'static str,
        /// Its scale.
        scale: usize,
    },
    /// In a file.
    File(PathBuf),
}

/// A model of the catalogue.
#[derive(Clone, Debug)]
pub struct ModelEntry {
    /// Name to ask for it by.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// Scale, if the file tells without being loaded.
    pub scale: Option<usize>,
    /// Size in bytes.
    pub bytes: u64,
    /// Licence, as the file says.
    pub license: String,
    /// Number of parameters, if the file tells without being loaded.
    pub parameters: Option<u64>,
    /// What else the file says of itself.
    pub metadata: BTreeMap<String, String>,
}

/// Name and bytes of the bundled model for a scale: the first, where there are several.
pub(crate) fn bundled(scale: usize) -> Option<(&'static str, &'static [u8])> {
    BUNDLED.iter().find(|m| m.1 == scale).map(|m| (m.0, m.2))
}

/// The bytes of a bundled model.
pub(crate) fn bundled_named(name: &str) -> Option<&'static [u8]> {
    BUNDLED.iter().find(|m| m.0 == name).map(|m| m.2)
}

/// The folder that models are looked for in, if one can be named.
pub fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("SUPPLE_MODELS")
        .or_else(|| set("XDG_DATA_HOME").map(|p| p.join("supple/models")))
        .or_else(|| set("HOME").map(|p| p.join(".local/share/supple/models")))
}

/// All models: the bundled ones, then those in the models folder by name.
pub fn catalogue() -> Vec<ModelEntry> {
    let mut entries: Vec<ModelEntry> = BUNDLED
        .iter()
        .map(|&(name, scale, bytes)| {
            let mut entry = entry(name, Location::Bundled { name, scale }, bytes.len() as u64, read_header(bytes));
            entry.scale = Some(scale);
            entry.license = BUNDLED_LICENSE.into();
            entry
        })
        .collect();
    let files = folder().and_then(|f| std::fs::read_dir(f).ok()).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = files.map(|f| f.path()).filter(|p| is_model_file(p)).collect();
    files.sort();
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = path.metadata().map_or(0, |m| m.len());
        let header = File::open(&path).ok().and_then(read_header);
        entries.push(entry(&name, Location::File(path), bytes, header));
    }
    entries
}

fn is_model_file(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|e| ["safetensors", "pth", "pt"].iter().any(|known| e == *known))
}

/// Finds a model by its name in the catalogue, or by the path of its file.
///
/// # Errors
/// If there is neither.
pub fn resolve(name_or_path: &str) -> Result<Location, Error> {
    let entries = catalogue();
    if let Some(entry) = entries.iter().find(|e| e.name == name_or_path) {
        return Ok(entry.location.clone());
    }
    let path = Path::new(name_or_path);
    if path.is_file() {
        return Ok(Location::File(path.into()));
    }
    let looks_like_path = path.components().count() > 1 || is_extension_known(path);
    match looks_like_path {
        true => Err(Error::Io {
            path: path.into(),
            action: "read",
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        }),
        false => {
            Err(Error::UnknownModel { name: name_or_path.into(), known: entries.into_iter().map(|e| e.name).collect() })
        }
    }
}

fn is_extension_known(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["safetensors", "pth", "pt"].iter().any(|known| e == *known))
}

/// Loads a model.
///
/// # Errors
/// As [`Upscaler::bundled`] and [`Upscaler::open`].
pub fn load(location: &Location, options: UpscalerOptions) -> Result<Upscaler, Error> {
    match location {
        Location::Bundled { name, .. } => Upscaler::bundled_named(name, options),
        Location::File(path) => Upscaler::open_with(path, options),
    }
}

fn entry(name: &str, location: Location, bytes: u64, header: Option<Header>) -> ModelEntry {
    let header = header.unwrap_or_default();
    let license = header.metadata.get("license").or_else(|| header.metadata.get("licence")).cloned();
    ModelEntry {
        name: name.into(),
        location,
        scale: header.scale,
        bytes,
        license: license.unwrap_or_else(|| "not stated in the file".into()),
        parameters: header.parameters,
        metadata: header.metadata,
    }
}

/// What the head of a safetensors file tells.
#[derive(Default)]
struct Header {
    metadata: BTreeMap<String, String>,
    parameters: Option<u64>,
    scale: Option<usize>,
}

/// Longest header that is read.
const MAX_HEADER: u64 = 16 << 20;

/// The header of a safetensors file; nothing if it is none.
fn read_header(mut file: impl Read) -> Option<Header> {
    let mut length = [0u8; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    let mut text = Vec::new();
    if length > MAX_HEADER || file.take(length).read_to_end(&mut text).ok()? as u64 != length {
        return None;
    }
    let serde_json::Value::Object(tensors) = serde_json::from_slice(&text).ok()? else { return None };
    let shape = |v: &serde_json::Value| -> Option<Vec<u64>> {
        v.get("shape")?.as_array()?.iter().map(serde_json::Value::as_u64).collect()
    };
    let mut header = Header { parameters: Some(0), ..Header::default() };
    for (name, value) in &tensors {
        if name == "__metadata__" {
            let pairs = value.as_object().into_iter().flatten();
            header.metadata = pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect();
            continue;
        }
        let shape = shape(value)?;
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        header.parameters = header.parameters.and_then(|n| n.checked_add(count));
        // The last convolution of RLFN and DITN has 3 * scale * scale outputs.
        if name.ends_with("upsampler.0.weight") || name.ends_with("upsample.0.weight") {
            header.scale = shape.first().and_then(|&n| (2..=16).find(|s| 3 * s * s == n)).map(|s| s as usize);
        }
    }
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_models_are_listed_with_their_size() {
        let entries = catalogue();
        let all = [
            ("rlfn_s_x2", 2, 454_620),
            ("rlfn_s_x3", 3, 461_115),
            ("rlfn_s_x4", 4, 470_208),
            ("ditn_real_x4", 4, 444_112),
        ];
        for (name, scale, parameters) in all {
            let entry = entries.iter().find(|e| e.location == Location::Bundled { name, scale }).unwrap();
            assert_eq!(entry.parameters, Some(parameters));
            assert_eq!(entry.scale, Some(scale));
            assert_eq!(read_header(bundled_named(name).unwrap()).unwrap().scale, Some(scale));
            assert_eq!(resolve(&entry.name).unwrap(), entry.location);
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones_and_paths_say_that_nothing_is_there() {
        let error = resolve("swinir").unwrap_err();
        assert!(error.hint().unwrap().contains("rlfn_s_x4"), "{error}");
        assert!(matches!(resolve("no/such/file.pth"), Err(Error::Io { .. })));
    }

    #[test]
    fn damaged_headers_are_no_headers() {
        assert!(read_header(&[][..]).is_none());
        assert!(read_header(&u64::MAX.to_le_bytes()[..]).is_none());
        assert!(read_header(&[3, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'][..]).is_none());
        let shapes = br#"{"a":{"shape":[4294967296,4294967296,2]}}"#;
        let bytes = [&(shapes.len() as u64).to_le_bytes()[..], shapes].concat();
        assert!(read_header(&bytes[..]).is_none());
    }
}
