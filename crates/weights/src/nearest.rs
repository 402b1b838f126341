//! Suggestions for a tensor name that a file does not have.

/// Longer names are not compared letter by letter: the cost is the product of the lengths.
const LONGEST: usize = 256;
/// No more names than this are looked at.
const MOST_NAMES: usize = 20_000;

/// Up to three of `names` that resemble `wanted`, the nearest first.
///
/// A name that differs only by leading components (`model.conv.bias` for `conv.bias`) counts as nearest; otherwise the
/// distance is Levenshtein's, and may be at most a third of the name's length.
pub(crate) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    if wanted.len() > LONGEST {
        return Vec::new();
    }
    let limit = wanted.len() / 3 + 1;
    let mut found: Vec<(usize, &str)> = names
        .take(MOST_NAMES)
        .filter(|name| name.len() <= LONGEST)
        .filter_map(|name| {
            let same_tail = ends_with_component(name, wanted) || ends_with_component(wanted, name);
            if same_tail {
                return Some((0, name));
            }
            if name.len().abs_diff(wanted.len()) > limit {
                return None;
            }
            let distance = distance(wanted.as_bytes(), name.as_bytes());
            (distance <= limit).then_some((distance, name))
        })
        .collect();
    found.sort();
    found.into_iter().take(3).map(|(_, name)| name.to_string()).collect()
}

fn ends_with_component(long: &str, short: &str) -> bool {
    !short.is_empty() && long.strip_suffix(short).is_some_and(|head| head.ends_with('.'))
}

/// Levenshtein distance, one row of the table at a time.
fn distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_typing_errors_are_suggested() {
        let names = ["conv_1.weight", "conv_2.weight", "model.head.bias", "tail"];
        assert_eq!(nearest("conv_1.wieght", names.into_iter()), ["conv_1.weight", "conv_2.weight"]);
        assert_eq!(nearest("head.bias", names.into_iter()), ["model.head.bias"]);
        assert_eq!(nearest("net.tail", names.into_iter()), ["tail"]);
        assert!(nearest("something.else.entirely", names.into_iter()).is_empty());
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(distance(b"", b"abc"), 3);
    }
}
