//! `tojson` as Python's `json.dumps(..., ensure_ascii=False)` writes it, keys in their order.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Deepest nesting.
const MAX_DEPTH: usize = 64;

/// The filter: `value | tojson`, with `indent`; `ensure_ascii` and `separators` as they are by default.
pub(super) fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let indent = indent.or(options.get::<Option<Value>>("indent")?);
    let indent = indent.filter(|indent| !indent.is_none()).map(usize::try_from).transpose()?;
    for known in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(known)?;
    }
    options.assert_all_used()?;
    let mut text = String::new();
    write(value, indent, 0, &mut text)?;
    Ok(text)
}

fn write(value: &Value, indent: Option<usize>, depth: usize, text: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deep"));
    }
    let line = |depth: usize, text: &mut String| {
        if let Some(indent) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    // Between two items: in one line with a space, else on the next.
    let comma = |text: &mut String| text.push_str(if indent.is_some() { "," } else { ", " });
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => text.push_str(&value.to_string()),
        ValueKind::Map => {
            text.push('{');
            let mut empty = true;
            for key in value.try_iter()? {
                if !empty {
                    comma(text);
                }
                empty = false;
                line(depth + 1, text);
                quote(&key.to_string(), text);
                text.push_str(": ");
                write(&value.get_item(&key)?, indent, depth + 1, text)?;
            }
            if !empty {
                line(depth, text);
            }
            text.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            text.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                if !empty {
                    comma(text);
                }
                empty = false;
                line(depth + 1, text);
                write(&item, indent, depth + 1, text)?;
            }
            if !empty {
                line(depth, text);
            }
            text.push(']');
        }
        ValueKind::String => quote(value.as_str().unwrap_or_default(), text),
        other => return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {other} cannot be written"))),
    }
    Ok(())
}

fn quote(words: &str, text: &mut String) {
    text.push('"');
    for letter in words.chars() {
        match letter {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            control if (control as u32) < 0x20 => text.push_str(&format!("\\u{:04x}", control as u32)),
            other => text.push(other),
        }
    }
    text.push('"');
}
