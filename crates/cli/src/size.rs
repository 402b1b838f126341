//! Sizes as people write and read them: `500M`, `1.5G`, `3.2 MiB`, `12.3 Mpixel`.

/// Parses a size in bytes: a number with an optional suffix K, M, G or T (powers of 1024; `MB` and `MiB` mean the same).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text, 1024.0, "a size such as 500M or 2G")
}

/// Parses a number of pixels: a number with an optional suffix K, M or G (powers of 1000).
pub fn parse_pixels(text: &str) -> Result<u64, String> {
    parse(text, 1000.0, "a number of pixels such as 400M")
}

fn parse(text: &str, base: f64, wanted: &str) -> Result<u64, String> {
    let error = || format!("expected {wanted}");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let exponent = match lower[digits.len()..].trim_start().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(error()),
    };
    // Only digits and a point: `f64` would also accept `inf`, `nan`, `-1` and `1e3`.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(error());
    }
    let value = digits.parse::<f64>().map_err(|_| error())? * base.powi(exponent);
    if (1.0..1e18).contains(&value) { Ok(value as u64) } else { Err(error()) }
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    let count = count as f64;
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let exponent = (0..units.len()).rev().find(|&e| count >= 1024f64.powi(e as i32)).unwrap_or(0);
    let digits = if exponent == 0 { 0 } else { 1 };
    format!("{:.digits$} {}", count / 1024f64.powi(exponent as i32), units[exponent])
}

/// A count with its thousands set apart: `454,620`.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in seconds for people.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.1} s"),
        s => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, want) in
            [("500M", 500 << 20), ("2G", 2 << 30), ("1.5GiB", 3 << 29), ("64 kb", 64 << 10), ("123", 123), ("10b", 10)]
        {
            assert_eq!(parse_bytes(text), Ok(want), "{text}");
        }
        assert_eq!(parse_pixels("400M"), Ok(400_000_000));
        for text in ["", "M", "-1", "0", "nan", "inf", "1e3", "2X", "1..2", "99999999T"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(thousands(1_454_620), "1,454,620");
        assert_eq!(thousands(999), "999");
        assert_eq!(seconds(125.0), "2 min 05 s");
    }
}
