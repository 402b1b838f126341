//! How vocabularies of the kind "BPE" cut text into words before merging: regular expressions by the name in
//! `tokenizer.ggml.pre`. Each expression cuts the pieces that the one before it left; what none matches is a piece as well.
//!
//! Source: the `tokenizer.json` of the models, and llama.cpp, whose names these are.

/// What a name stands for.
pub(super) struct PreTokenizer {
    /// Applied one after the other.
    pub(super) patterns: &'static [&'static str],
    /// Whether a word that is in the vocabulary is that token, whatever merging would give.
    pub(super) ignore_merges: bool,
    /// Whether a text begins with BOS unless the file says otherwise.
    pub(super) add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Letters with upper and lower case, of the Unicode version that the model was made with.
const CASED: &str = r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+";
/// Chinese, and what lies between it and Hangul.
const EAST_ASIAN: &str = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
const DEEPSEEK3_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// The names, with what they stand for.
const TABLE: &[(&[&str], PreTokenizer)] = &[
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        PreTokenizer { patterns: &[LLAMA3], ignore_merges: true, add_bos: true },
    ),
    (&["dbrx", "smaug-bpe", "chatglm-bpe"], PreTokenizer { patterns: &[LLAMA3], ignore_merges: false, add_bos: false }),
    (&["glm4"], PreTokenizer { patterns: &[LLAMA3], ignore_merges: true, add_bos: false }),
    (
        &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"],
        PreTokenizer { patterns: &[QWEN2], ignore_merges: false, add_bos: false },
    ),
    (&["qwen35"], PreTokenizer { patterns: &[QWEN35], ignore_merges: false, add_bos: false }),
    (
        &["gpt-2", "phi-2", "olmo", "mpt", "jais", "exaone4", "trillion", "modern-bert", "gigachat", "mellum"],
        PreTokenizer { patterns: &[GPT2], ignore_merges: false, add_bos: false },
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        PreTokenizer { patterns: &[r"\p{N}", GPT2], ignore_merges: false, add_bos: false },
    ),
    (&["tekken"], PreTokenizer { patterns: &[TEKKEN], ignore_merges: true, add_bos: true }),
    (&["gpt-4o", "llama4", "kanana2"], PreTokenizer { patterns: &[GPT4O], ignore_merges: false, add_bos: false }),
    (
        &["deepseek-llm"],
        PreTokenizer {
            patterns: &[r"[\r\n]", CASED, r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+", r"\s+$", EAST_ASIAN, r"\p{N}+"],
            ignore_merges: false,
            add_bos: false,
        },
    ),
    (
        &["deepseek-coder"],
        PreTokenizer {
            patterns: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, r"\p{N}"],
            ignore_merges: false,
            add_bos: false,
        },
    ),
    (
        &["deepseek-v3", "hunyuan-dense"],
        PreTokenizer {
            patterns: &[r"\p{N}{1,3}", r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+", DEEPSEEK3_WORDS],
            ignore_merges: false,
            add_bos: false,
        },
    ),
    (
        &["falcon"],
        PreTokenizer {
            patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
            ignore_merges: false,
            add_bos: false,
        },
    ),
    (
        &["default", ""],
        PreTokenizer {
            patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
            ignore_merges: false,
            add_bos: false,
        },
    ),
];

/// What `name` stands for.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    TABLE.iter().find(|(names, _)| names.contains(&name)).map(|row| &row.1)
}

/// The name of a way to cut words.
pub(in crate::text) fn name(patterns: &[String], ignore_merges: bool) -> Option<&'static str> {
    let same = |pre: &PreTokenizer| pre.patterns == patterns && pre.ignore_merges == ignore_merges;
    TABLE.iter().find(|row| same(&row.1)).and_then(|row| row.0.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    /// The pieces of `text`, as they are before bytes become letters.
    fn pieces(name: &str, text: &str) -> Vec<String> {
        let mut cut = PreTokenizedString::from(text);
        for split in super::super::gguf::splits(find(name).unwrap()).unwrap() {
            split.pre_tokenize(&mut cut).unwrap();
        }
        let pieces = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|piece| piece.0.to_string()).collect()
    }

    #[test]
    fn every_pattern_is_a_regular_expression_and_loses_nothing() {
        let text = "I'M  x\u{e9} 12345,\n\n \t漢字かな 3.14 \u{1f680}\u{a0}Don't ...  ";
        let mut seen = HashSet::new();
        for (names, _) in TABLE {
            for name in *names {
                assert!(seen.insert(*name), "{name} twice");
                assert_eq!(pieces(name, text).concat(), text, "{name}");
            }
        }
        assert!(find("no such name").is_none());
    }

    #[test]
    fn families_cut_as_published() {
        assert_eq!(
            pieces("gpt-2", "We'll pay  12345 \n\nnow"),
            ["We", "'ll", " pay", " ", " 12345", " \n", "\n", "now"]
        );
        assert_eq!(
            pieces("llama-bpe", "We'LL pay  12345 \n\nnow"),
            ["We", "'LL", " pay", " ", " ", "123", "45", " \n\n", "now"]
        );
        assert_eq!(pieces("qwen2", "a 123!\n\n"), ["a", " ", "1", "2", "3", "!\n\n"]);
        assert_eq!(pieces("smollm", "v12 x"), ["v", "1", "2", " x"]);
        assert_eq!(pieces("tekken", "HelloWorld ABCdef"), ["Hello", "World", " ABCdef"]);
        assert_eq!(pieces("deepseek-v3", "a1234漢字"), ["a", "123", "4", "漢字"]);
        assert_eq!(pieces("deepseek-coder", "f(x) 漢 12\n"), ["f", "(", "x", ")", " ", "漢", " ", "1", "2", "\n"]);
        assert_eq!(pieces("deepseek-llm", "f(x) 漢 12\n"), ["f", "(", "x", ")", " ", "漢", " ", "12", "\n"]);
    }
}
