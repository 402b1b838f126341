//! GPT-2's alphabet: every byte as a printable character, so that a vocabulary of bytes is a list of texts.
//!
//! Printable bytes of Latin-1 stand for themselves; the others are characters 256 and up, in order.

/// Whether a byte stands for itself.
fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// Character `256 + i` is byte `OTHERS[i]`.
const OTHERS: [u8; 68] = {
    let (mut others, mut count, mut byte) = ([0; 68], 0, 0);
    while byte < 256 {
        if !matches!(byte as u8, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            others[count] = byte as u8;
            count += 1;
        }
        byte += 1;
    }
    others
};

/// The bytes that `token` stands for; `None` if a character is outside the alphabet.
pub(super) fn bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte).collect()
}

fn byte(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ 0..=255 if is_itself(code as u8) => Some(code as u8),
        code => OTHERS.get((code as usize).checked_sub(256)?).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter() {
        let letters = (0..=255u8).filter(|&byte| is_itself(byte)).map(char::from);
        let letters = letters.chain((256..256 + 68).filter_map(char::from_u32));
        let mut found: Vec<u8> = letters.filter_map(byte).collect();
        found.sort_unstable();
        assert_eq!(found, (0..=255).collect::<Vec<u8>>());
        assert_eq!(bytes("Ġworld\u{10a}").as_deref(), Some(b" world\n".as_slice()));
        assert_eq!(bytes("a b"), None);
        assert_eq!(bytes("\u{144}"), None);
    }
}
