//! What the bytes of a file say before a decoder reads them: whether a JPEG or WebP is complete (their decoders fill
//! what is missing with grey), and how many frames there are.

/// Whether a JPEG has its end-of-image marker. Markers are walked, so that embedded thumbnails do not count.
pub(super) fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut i = 2;
    loop {
        // To the next marker: 0xFF, perhaps repeated, and a byte that is neither a stuffed zero nor a restart.
        while i + 1 < bytes.len() && (bytes[i] != 0xFF || matches!(bytes[i + 1], 0x00 | 0xFF | 0xD0..=0xD7)) {
            i += 1;
        }
        let Some(&marker) = bytes.get(i + 1) else { return false };
        i += 2;
        match marker {
            0xD9 => return true,
            0x01 | 0xD8 => {}
            _ => match bytes.get(i..i + 2) {
                Some(length) => i += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2),
                None => return false,
            },
        }
    }
}

/// Whether a WebP file is as long as its header says.
pub(super) fn webp_is_complete(bytes: &[u8]) -> bool {
    bytes.get(4..8).is_some_and(|n| u64::from(u32::from_le_bytes([n[0], n[1], n[2], n[3]])) + 8 <= bytes.len() as u64)
}

/// Whether a WebP is an animation.
pub(super) fn webp_is_animated(bytes: &[u8]) -> bool {
    bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|flags| flags & 2 != 0)
}

/// Frames of an animated PNG, as its `acTL` chunk says; 1 without one.
pub(super) fn png_frames(bytes: &[u8]) -> u32 {
    let mut i = 8usize;
    while let Some(head) = bytes.get(i..i.saturating_add(12)) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        match &head[4..8] {
            b"acTL" => return u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
            b"IDAT" => return 1,
            _ => i = i.saturating_add(length).saturating_add(12),
        }
    }
    1
}

/// Number of frames in a GIF that are complete, walking its blocks.
pub(super) fn gif_frames(bytes: &[u8]) -> usize {
    let table = |flags: u8| if flags & 0x80 != 0 { 3usize << ((flags & 7) + 1) } else { 0 };
    let Some(&flags) = bytes.get(10) else { return 0 };
    let mut i = 13 + table(flags);
    let mut frames = 0;
    loop {
        match bytes.get(i) {
            Some(0x21) => i += 2,
            Some(0x2C) => {
                let Some(&flags) = bytes.get(i + 9) else { return frames };
                i += 10 + table(flags) + 1;
                frames += 1;
            }
            _ => return frames,
        }
        // Sub-blocks up to an empty one.
        loop {
            match bytes.get(i) {
                None => return frames,
                Some(0) => break,
                Some(&n) => i += usize::from(n) + 1,
            }
        }
        i += 1;
    }
}

/// What bytes that are no picture look like.
pub(super) fn describe(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(512)];
    if bytes.is_empty() {
        "the file is empty".into()
    } else if head.starts_with(b"%PDF") {
        "a PDF file".into()
    } else if head.get(4..8) == Some(b"ftyp") {
        "an AVIF, HEIC or video file, which cannot be read here".into()
    } else if std::str::from_utf8(head).is_ok_and(|t| !t.chars().any(|c| c.is_control() && !c.is_whitespace())) {
        "it looks like text".into()
    } else {
        format!("unknown file type, first bytes {:02x?}", &head[..head.len().min(8)])
    }
}
