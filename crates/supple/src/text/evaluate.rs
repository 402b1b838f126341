//! Measuring language models on a text: perplexity, and how far one model's predictions are from another's.

use super::generate::{Session, TextGenerator};
use super::sampling::log_sum;
use crate::Error;
use std::sync::Mutex;
use supple_models::llama::Wanted;

/// Logits that are held at a time.
const ROWS: usize = 64;

/// Which predictions of a text count.
///
/// Windows of `window` tokens begin every `stride` tokens; in each, the predictions after its tokens `skip` to
/// `window - 2` count, numbered from 0. With `stride = window` and `skip = window / 2` these are the numbers of llama.cpp's
/// `llama-perplexity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of a window.
    pub window: usize,
    /// Tokens from the beginning of one to that of the next.
    pub stride: usize,
    /// Tokens of each that only give context.
    pub skip: usize,
}

impl Windows {
    /// Windows side by side whose second half counts; or, with a stride shorter than the window, of each what is new.
    pub fn new(window: usize, stride: Option<usize>) -> Windows {
        let stride = stride.unwrap_or(window);
        let skip = if stride < window { window - stride - 1 } else { window / 2 };
        Windows { window, stride, skip }
    }

    fn starts(&self, tokens: usize) -> Result<impl Iterator<Item = usize> + use<>, Error> {
        let Windows { window, stride, skip } = *self;
        if window < 2 || stride == 0 || skip > window - 2 {
            return Err(Error::BadOption(format!(
                "no predictions count in windows of {window} every {stride}, from {skip} on"
            )));
        }
        if tokens < window {
            return Err(Error::BadOption(format!("the text has {tokens} tokens, fewer than a window of {window}")));
        }
        Ok((0..=tokens - window).step_by(stride))
    }
}

/// The perplexity of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// `exp` of the mean of negative log-probabilities.
    pub perplexity: f64,
    /// Its standard error.
    pub error: f64,
    /// Predictions that count.
    pub predictions: usize,
    /// Windows.
    pub windows: usize,
}

/// How far a model is from a reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Mean of `Σ p · ln(p / q)` in nats, `p` being the reference's probabilities.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
    /// The 99th of a hundred.
    pub percentile_99: f64,
    /// The largest.
    pub max: f64,
    /// Share of predictions whose likeliest token is the same.
    pub agreement: f64,
    /// Predictions that count.
    pub predictions: usize,
}

/// Mean and standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

/// Calls `each(row, logits)` for the predictions of a window that count.
fn window(
    session: &mut Session<'_>,
    tokens: &[u32],
    skip: usize,
    each: &mut dyn FnMut(usize, &[f32]),
) -> Result<(), Error> {
    session.clear();
    for part in tokens[..skip].chunks(super::generate::PREFILL) {
        session.take_in(part, Wanted::Nothing)?;
    }
    let mut at = skip;
    for part in tokens[skip..tokens.len() - 1].chunks(ROWS) {
        each(at, session.take_in(part, Wanted::All)?);
        at += part.len();
    }
    Ok(())
}

/// The perplexity of `tokens`. `progress(done, all, perplexity so far)` is asked after each window whether to go on.
///
/// # Errors
/// [`Error::BadOption`] for windows that do not fit, [`Error::Cancelled`], [`Error::NotFiniteLogits`].
pub fn perplexity(
    generator: &TextGenerator,
    tokens: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(usize, usize, f64) -> bool,
) -> Result<Perplexity, Error> {
    let starts: Vec<usize> = windows.starts(tokens.len())?.collect();
    let mut session = generator.session();
    let vocabulary = generator.model().config().vocabulary;
    let (mut losses, mut done) = (Vec::new(), 0);
    for &start in &starts {
        let part = begin(generator, &tokens[start..start + windows.window]);
        window(&mut session, &part, windows.skip, &mut |at, logits| {
            let rows: Vec<(&[f32], u32)> =
                logits.chunks_exact(vocabulary).zip(part[at + 1..].iter().copied()).collect();
            losses.extend(by_row(generator, rows.len(), &|row| {
                let (logits, token) = rows[row];
                log_sum(logits) - f64::from(logits[token as usize])
            }));
        })?;
        done += 1;
        let (loss, _) = mean(&losses);
        if !loss.is_finite() {
            return Err(Error::NotFiniteLogits);
        }
        if !progress(done, starts.len(), loss.exp()) {
            return Err(Error::Cancelled);
        }
    }
    let (loss, error) = mean(&losses);
    let perplexity = loss.exp();
    Ok(Perplexity { perplexity, error: error * perplexity, predictions: losses.len(), windows: starts.len() })
}

/// How far `model` is from `reference` on `tokens`.
///
/// # Errors
/// As [`perplexity`]; also if the vocabularies differ in size.
pub fn divergence(
    reference: &TextGenerator,
    model: &TextGenerator,
    tokens: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(usize, usize, f64) -> bool,
) -> Result<Divergence, Error> {
    let vocabulary = reference.model().config().vocabulary;
    if model.model().config().vocabulary != vocabulary {
        let other = model.model().config().vocabulary;
        return Err(Error::BadOption(format!("models with vocabularies of {vocabulary} and {other} tokens")));
    }
    let starts: Vec<usize> = windows.starts(tokens.len())?.collect();
    let mut sessions = [reference.session(), model.session()];
    let (mut all, mut same) = (Vec::new(), 0usize);
    for (done, &start) in starts.iter().enumerate() {
        let part = begin(reference, &tokens[start..start + windows.window]);
        let [first, second] = &mut sessions;
        [&mut *first, &mut *second].into_iter().for_each(Session::clear);
        for part in part[..windows.skip].chunks(super::generate::PREFILL) {
            first.take_in(part, Wanted::Nothing)?;
            second.take_in(part, Wanted::Nothing)?;
        }
        for part in part[windows.skip..part.len() - 1].chunks(ROWS) {
            let (p, q) = (first.take_in(part, Wanted::All)?, second.take_in(part, Wanted::All)?);
            let results = by_row(reference, part.len(), &|row| {
                let row = row * vocabulary..(row + 1) * vocabulary;
                compare(&p[row.clone()], &q[row])
            });
            same += results.iter().filter(|result| result.1).count();
            all.extend(results.iter().map(|result| result.0));
        }
        let (kl, _) = mean(&all);
        if !kl.is_finite() {
            return Err(Error::NotFiniteLogits);
        }
        if !progress(done + 1, starts.len(), kl) {
            return Err(Error::Cancelled);
        }
    }
    let (kl, error) = mean(&all);
    let agreement = same as f64 / all.len() as f64;
    all.sort_unstable_by(f64::total_cmp);
    Ok(Divergence {
        mean: kl,
        error,
        percentile_99: all[(all.len() * 99 / 100).min(all.len() - 1)],
        max: all[all.len() - 1],
        agreement,
        predictions: all.len(),
    })
}

/// A window as the model sees it: with the token that begins a text in place of the first, where it expects one.
fn begin(generator: &TextGenerator, tokens: &[u32]) -> Vec<u32> {
    let mut tokens = tokens.to_vec();
    let tokenizer = generator.tokenizer();
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos()) {
        tokens[0] = bos;
    }
    tokens
}

/// `Σ p · ln(p / q)`, and whether the likeliest is the same.
fn compare(p: &[f32], q: &[f32]) -> (f64, bool) {
    let (p_sum, q_sum) = (log_sum(p), log_sum(q));
    let (mut kl, mut best) = (0.0, [0usize; 2]);
    for (i, (&a, &b)) in p.iter().zip(q).enumerate() {
        let log_p = f64::from(a) - p_sum;
        kl += log_p.exp() * (log_p - (f64::from(b) - q_sum));
        if a > p[best[0]] {
            best[0] = i;
        }
        if b > q[best[1]] {
            best[1] = i;
        }
    }
    (kl.max(0.0), best[0] == best[1])
}

/// `f(row)` for all rows, by all threads.
pub(super) fn by_row<T: Send + Default + Clone>(
    generator: &TextGenerator,
    rows: usize,
    f: &(dyn Fn(usize) -> T + Sync),
) -> Vec<T> {
    let results: Vec<Mutex<T>> = vec![T::default(); rows].into_iter().map(Mutex::new).collect();
    generator.cpu().pool.run(rows, &|row, _| {
        let value = f(row);
        *results[row].lock().unwrap_or_else(|e| e.into_inner()) = value;
    });
    results.into_iter().map(|value| value.into_inner().unwrap_or_else(|e| e.into_inner())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_after_the_first_window_counts_once_with_a_stride() {
        let windows = Windows::new(8, Some(3));
        let counted: Vec<usize> = windows
            .starts(17)
            .unwrap()
            .flat_map(|start| (windows.skip..windows.window - 1).map(move |at| start + at + 1))
            .collect();
        assert_eq!(counted, (5..17).collect::<Vec<_>>());
        let side_by_side = Windows::new(512, None);
        assert_eq!((side_by_side.stride, side_by_side.skip), (512, 256));
        assert!(windows.starts(7).is_err() && Windows { skip: 7, ..windows }.starts(100).is_err());
    }

    #[test]
    fn divergence_is_zero_of_itself_and_as_defined_of_another() {
        let p = [0.5f32, 0.3, 0.2].map(f32::ln);
        let q = [0.2f32, 0.3, 0.5].map(|v| v.ln() + 3.0);
        assert!(compare(&p, &p).1);
        assert!(compare(&p, &p).0 < 1e-9);
        let wanted = 0.5 * 2.5f64.ln() + 0.2 * 0.4f64.ln();
        let (found, same) = compare(&p, &q);
        assert!((found - wanted).abs() < 1e-6 && !same);
    }
}
