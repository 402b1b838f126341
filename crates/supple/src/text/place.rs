//! Bringing a decoder to the device that was asked for.

use super::generate::{DEFAULT_CONTEXT, OpenOptions};
use crate::compute::{self, DeviceChoice};
use crate::{Cpu, Error};
use supple_models::llama::{CACHE_FORMATS, Decoder, Format, State, Weights};

/// A decoder where it runs.
#[derive(Debug)]
pub struct Placed {
    /// The decoder.
    pub decoder: Decoder,
    /// Most tokens of prompt and answer together.
    pub context: usize,
    /// A cache of that length, if it is on a GPU: that there is room for it is known when the model is open.
    pub state: Option<State>,
    /// Why the CPU stands in for a GPU that is there, if it does.
    pub stand_in: Option<String>,
}

/// The format that keys and values are kept in.
pub(super) fn cache_format(options: OpenOptions) -> Format {
    options.cache.unwrap_or(Format::F16)
}

/// Loads a decoder for the device that `options` ask for; where that is a GPU if there is one, and it has no kernels or no room
/// for this decoder, for the CPU.
///
/// # Errors
/// If the weights are no decoder known here, or a GPU is asked for and cannot be had, or does not hold it.
pub fn place(cpu: &Cpu, weights: Weights<'_>, options: OpenOptions) -> Result<Placed, Error> {
    if options.context == Some(0) {
        return Err(Error::BadOption("a context of no tokens".into()));
    }
    let format = cache_format(options);
    if !CACHE_FORMATS.contains(&format) {
        return Err(Error::BadOption(format!("keys and values as {}", format.name())));
    }
    let choice = match options.device {
        // Other formats of keys and values are the CPU's.
        DeviceChoice::Auto if format != Format::F16 => DeviceChoice::Cpu,
        DeviceChoice::Cuda(_) if format != Format::F16 => {
            return Err(Error::BadOption("a GPU keeps keys and values as f16: leave out --cache-type".into()));
        }
        choice => choice,
    };
    let context = |model: &Decoder| options.context.unwrap_or_else(|| model.config().context.min(DEFAULT_CONTEXT));
    let placement = compute::placement(choice)?;
    let mut stand_in = compute::unused_gpu(choice);
    if let Some(device) = &placement.device {
        let opened = Decoder::load_on(device, weights, options.context).and_then(|decoder| {
            let state = decoder.state(format, context(&decoder))?;
            Ok((decoder, state))
        });
        match opened {
            Ok((decoder, state)) => {
                return Ok(Placed { context: context(&decoder), decoder, state: Some(state), stand_in: None });
            }
            Err(error) if placement.fall_back => {
                stand_in = Some(format!("the CPU stands in for the GPU: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let decoder = Decoder::load(cpu, weights, options.context)?;
    Ok(Placed { context: context(&decoder), decoder, state: None, stand_in })
}
