//! Finds a file's format by its content: extensions lie, and a failed download is an HTML page named `.pth`.

use crate::weights::Format;
use crate::{Error, safetensors, tflite};

/// How the checkpoints of PyTorch before version 1.6 begin: the pickle of a magic number.
pub(crate) const BARE_PICKLES: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The format of `bytes`, or the error that says what the file is instead.
pub(crate) fn detect(file: &str, bytes: &[u8]) -> Result<Format, Error> {
    let file = || file.to_string();
    if bytes.is_empty() {
        return Err(Error::Empty { file: file() });
    }
    // Before what follows: a header of 640 bytes begins like a pickle. No other format has zeros and a brace there, but
    // for a GGUF of 123 tensors, whose magic would be a header of a gigabyte.
    if !bytes.starts_with(b"GGUF") && safetensors::looks_like(bytes) {
        return Ok(Format::Safetensors);
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return Ok(Format::PyTorch);
    }
    if bytes.starts_with(b"GGUF") {
        return Err(Error::UnsupportedFormat {
            file: file(),
            found: "GGUF",
            hint: "it holds a language model in packed blocks, which only commands for language models read",
        });
    }
    if tflite::recognises(bytes) {
        return Err(Error::UnsupportedFormat {
            file: file(),
            found: "a TFLite network",
            hint: "it is a list of operators, not of named tensors; only classifiers are read from it",
        });
    }
    if bytes.starts_with(BARE_PICKLES) {
        return Ok(Format::PyTorch);
    }
    // Another pickle: PROTO 2 to 5.
    if matches!(bytes, [0x80, 2..=5, ..]) {
        return Err(Error::UnsupportedFormat {
            file: file(),
            found: "a pickle that PyTorch did not write",
            hint: "load it in Python and save the state_dict with torch.save, or convert it to safetensors",
        });
    }
    Err(Error::UnknownFormat {
        file: file(),
        wanted: "safetensors or a PyTorch checkpoint",
        found: describe(bytes).to_string(),
    })
}

/// What bytes that are no weights look like.
pub(crate) fn describe(bytes: &[u8]) -> &'static str {
    const MAGIC: [(&[u8], &str); 9] = [
        (b"version https://git-lfs", "a Git LFS pointer (the weights themselves were not downloaded)"),
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"\x1f\x8b", "gzip-compressed data (unpack it first)"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive (unpack it first)"),
        (b"\xfd7zXZ", "xz-compressed data (unpack it first)"),
        (b"\x28\xb5\x2f\xfd", "zstd-compressed data (unpack it first)"),
    ];
    if let Some((_, name)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return name;
    }
    let head = &bytes[..bytes.len().min(512)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut at 512 bytes may fall inside a character.
        Err(error) if head.len() - error.valid_up_to() < 4 => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return "unknown binary data",
    };
    if text.chars().any(|letter| letter.is_control() && !letter.is_whitespace()) || text.is_empty() {
        return "unknown binary data";
    }
    let start = text.trim_start().get(..5).unwrap_or_default().to_ascii_lowercase();
    if start.starts_with("<!doc") || start.starts_with("<html") { "an HTML page" } else { "text" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_weights_are_named() {
        let cases: [(&[u8], &str); 6] = [
            (b"\n <!DOCTYPE html><html>", "an HTML page"),
            (b"Not Found", "text"),
            ("\u{e9}".as_bytes(), "text"),
            (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
            (b"\x00\x01\x02", "unknown binary data"),
            (b"\x80", "unknown binary data"),
        ];
        for (bytes, wanted) in cases {
            let error = detect("a.pth", bytes).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
