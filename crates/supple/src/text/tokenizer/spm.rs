//! Vocabularies of SentencePiece's kind "BPE", as Llama 2, Mistral 7B, Gemma and Phi-3 have: neighbours are joined whose
//! union is in the vocabulary, the best score first, the leftmost of equals first; what is in no token is spelled in bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// What stands for a space in the vocabulary.
pub(super) const SPACE: &str = "\u{2581}";

/// Tokens that text is made of, and their scores.
pub(super) struct Merges {
    tokens: HashMap<Box<[u8]>, (u32, f32)>,
    longest: usize,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
}

/// Two neighbours that may be joined.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of the union when the pair was found: if they are no longer as many, one of the two has been joined otherwise.
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// A run of bytes; `length` 0 once it was joined to the one before it.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    length: usize,
    previous: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

impl Merges {
    /// `tokens`: spelling, number and score of tokens that text may become; `bytes`: those that stand for one byte.
    pub(super) fn new(
        tokens: impl Iterator<Item = (Vec<u8>, u32, f32)>,
        bytes: [Option<u32>; 256],
        unknown: Option<u32>,
    ) -> Merges {
        let tokens: HashMap<Box<[u8]>, (u32, f32)> =
            tokens.filter(|token| !token.0.is_empty()).map(|(text, id, score)| (text.into(), (id, score))).collect();
        let longest = tokens.keys().map(|text| text.len()).max().unwrap_or(0);
        Merges { tokens, longest, bytes, unknown }
    }

    /// Appends the tokens of `text`, in which spaces are [`SPACE`] already.
    pub(super) fn encode(&self, text: &str, output: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let mut symbols: Vec<Symbol> = Vec::with_capacity(bytes.len());
        for (start, letter) in text.char_indices() {
            let index = symbols.len();
            let previous = index.checked_sub(1).unwrap_or(NONE);
            symbols.push(Symbol { start, length: letter.len_utf8(), previous, next: index + 1 });
        }
        let Some(last) = symbols.last_mut() else { return };
        last.next = NONE;

        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            self.offer(bytes, &symbols, right - 1, right, &mut queue);
        }
        while let Some(Pair { left, right, length, .. }) = queue.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            if a.length == 0 || b.length == 0 || a.length + b.length != length {
                continue;
            }
            symbols[left].length = length;
            symbols[left].next = b.next;
            symbols[right].length = 0;
            if b.next != NONE {
                symbols[b.next].previous = left;
                self.offer(bytes, &symbols, left, b.next, &mut queue);
            }
            if a.previous != NONE {
                self.offer(bytes, &symbols, a.previous, left, &mut queue);
            }
        }
        for symbol in symbols.iter().filter(|symbol| symbol.length > 0) {
            let piece = &bytes[symbol.start..symbol.start + symbol.length];
            match self.tokens.get(piece) {
                Some(&(id, _)) => output.push(id),
                None => output.extend(piece.iter().filter_map(|&byte| self.bytes[usize::from(byte)].or(self.unknown))),
            }
        }
    }

    fn offer(&self, bytes: &[u8], symbols: &[Symbol], left: usize, right: usize, queue: &mut BinaryHeap<Pair>) {
        let (start, length) = (symbols[left].start, symbols[left].length + symbols[right].length);
        if length <= self.longest
            && let Some(&(_, score)) = self.tokens.get(&bytes[start..start + length])
        {
            queue.push(Pair { score, left, right, length });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_score_is_joined_first_and_the_rest_is_bytes() {
        let tokens = [("a", 0, -9.0), ("b", 1, -9.0), ("ab", 2, -2.0), ("ba", 3, -1.0), ("aba", 4, -5.0), ("", 9, 0.0)];
        let bytes = std::array::from_fn(|byte| Some(100 + byte as u32));
        let merges = Merges::new(tokens.iter().map(|&(text, id, score)| (text.into(), id, score)), bytes, None);
        let encode = |text: &str| {
            let mut output = Vec::new();
            merges.encode(text, &mut output);
            output
        };
        assert_eq!(encode("aba"), [4]);
        assert_eq!(encode("abba"), [2, 3]);
        assert_eq!(encode("abab"), [4, 1]);
        assert_eq!(encode("a\u{e9}"), [0, 100 + 0xc3, 100 + 0xa9]);
        assert_eq!(encode(""), Vec::<u32>::new());
        let unknown = Merges::new(std::iter::empty(), [None; 256], Some(7));
        let mut output = Vec::new();
        unknown.encode("x", &mut output);
        assert_eq!(output, [7]);
    }
}
