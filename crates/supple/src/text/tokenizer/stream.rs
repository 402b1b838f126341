//! Text as tokens arrive: no character is shown before all of its bytes are there.

use super::Tokenizer;

/// Turns tokens into text one by one. What it has given, together with [`Stream::finish`], is the text of all tokens.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    waiting: Vec<u8>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Stream<'a> {
        Stream { tokenizer, waiting: Vec::new() }
    }

    /// The text that token `id` completes; empty while a character is incomplete, and for special tokens. Bytes that
    /// are no UTF-8 become U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        if !self.tokenizer.is_special(id) {
            self.waiting.extend_from_slice(self.tokenizer.token(id));
        }
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.waiting) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.waiting.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = self.waiting.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        // The start of a character whose rest may come.
                        None => {
                            self.waiting = rest.to_vec();
                            return text;
                        }
                        Some(wrong) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            self.waiting = rest[wrong..].to_vec();
                        }
                    }
                }
            }
        }
    }

    /// What is left when no token follows: nothing, or U+FFFD for a character cut short.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.waiting).into_owned()
    }
}
