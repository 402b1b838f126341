//! Texts at which generation stops, found as text arrives.

/// Finds the first of some texts in a stream, and holds back what may be the beginning of one.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Texts to stop at; empty ones are ignored.
    pub fn new(stops: &[String]) -> StopStrings {
        StopStrings { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// What may be shown now that `text` has come, and whether one of the texts came. Nothing is shown from it on.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let begins = |from: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[from..]));
        let safe = self.held.char_indices().map(|(at, _)| at).find(|&at| begins(at)).unwrap_or(self.held.len());
        let rest = self.held.split_off(safe);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, when no more comes.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut found = StopStrings::new(&stops.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let mut shown = String::new();
        for piece in pieces {
            let (text, stopped) = found.push(piece);
            shown += &text;
            if stopped {
                return (shown, true);
            }
        }
        (shown + &found.finish(), false)
    }

    #[test]
    fn text_before_a_stop_is_shown_and_nothing_after() {
        assert_eq!(run(&["</s>"], &["ab<", "/", "s>cd"]), ("ab".into(), true));
        assert_eq!(run(&["</s>"], &["ab<", "/", "x>cd"]), ("ab</x>cd".into(), false));
        // Of two that are complete at once, the one that begins first.
        assert_eq!(run(&["bc", "abcd"], &["xa", "b", "cd"]), ("x".into(), true));
        assert_eq!(run(&["aab"], &["aa", "ab"]), ("a".into(), true));
        assert_eq!(run(&["é!"], &["né", "e", "é", "!"]), ("née".into(), true));
        assert_eq!(run(&["", "z"], &["no end <"]), ("no end <".into(), false));
    }

    #[test]
    fn only_what_may_be_a_beginning_is_held_back() {
        let mut stops = StopStrings::new(&["STOP".to_owned()]);
        assert_eq!(stops.push("a S"), ("a ".into(), false));
        assert_eq!(stops.push("TO"), (String::new(), false));
        assert_eq!(stops.push("W"), ("STOW".into(), false));
    }
}
