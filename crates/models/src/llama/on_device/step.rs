//! Taking tokens in: prompts in chunks, the last tokens of up to [`ROWS`] sequences together.

use super::pass::Tokens;
use super::{CHUNK, GpuLlama, GpuState, ROWS, failed};
use crate::Error;
use crate::llama::{Config, Forward, Input, Sequence, State, Wanted};
use std::ops::Range;
use supple_tensor::gpu::paged_attention::PAGE;
use supple_tensor::gpu::words::post;
use supple_tensor::gpu::{DType, Elements, ElementsMut, copy};

/// The numbers of rows that steps are recorded for: others are filled up to the next.
const SIZES: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, ROWS];
/// The shortest length that steps are recorded for; others are powers of two.
const LENGTH: usize = 256;

/// The least size that holds `rows`.
fn size_of(rows: usize) -> usize {
    SIZES.into_iter().find(|&size| size >= rows).unwrap_or(ROWS)
}

impl Forward for GpuLlama {
    fn config(&self) -> &Config {
        self.config()
    }

    fn forward<'s>(&self, state: &'s mut State, inputs: &mut [Input<'_>]) -> Result<&'s [f32], Error> {
        let State::Gpu(state) = state else { return Err(Error::OtherDevice) };
        if inputs.is_empty() || inputs.iter().any(|input| input.tokens.is_empty()) {
            return Err(Error::NoTokens);
        }
        for input in inputs.iter() {
            self.check(input.tokens)?;
        }
        for at in 0..inputs.len() {
            let Input { sequence, tokens, .. } = &mut inputs[at];
            if let Err(error) = state.extend(sequence, tokens.len()) {
                shrink(state, inputs[..at].iter_mut().map(|input| &mut *input.sequence));
                return Err(error);
            }
        }
        if let Err(error) = self.take_in(state, inputs) {
            shrink(state, inputs.iter_mut().map(|input| &mut *input.sequence));
            return Err(error);
        }
        for input in inputs.iter_mut() {
            input.sequence.len += input.tokens.len();
        }
        Ok(state.logits())
    }
}

/// Gives back the pages that sequences have beyond their length.
fn shrink<'a>(state: &mut GpuState, sequences: impl Iterator<Item = &'a mut Sequence>) {
    for sequence in sequences {
        let len = sequence.len;
        state.truncate(sequence, len);
    }
}

impl GpuLlama {
    fn check(&self, tokens: &[u32]) -> Result<(), Error> {
        let vocabulary = self.config.vocabulary;
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(Error::BadToken { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Takes in the tokens of sequences that have room for them.
    fn take_in(&self, state: &mut GpuState, inputs: &[Input<'_>]) -> Result<(), Error> {
        let vocabulary = self.config.vocabulary;
        // Where the logits of each input go.
        let mut places = Vec::with_capacity(inputs.len());
        let mut wanted = 0;
        for input in inputs {
            places.push(wanted);
            wanted += match input.wanted {
                Wanted::Nothing => 0,
                Wanted::Last => 1,
                Wanted::All => input.tokens.len(),
            };
        }
        state.want(wanted * vocabulary)?;
        let single: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i].tokens.len() == 1).collect();
        for group in single.chunks(ROWS) {
            let tokens: Vec<u32> = group.iter().map(|&i| inputs[i].tokens[0]).collect();
            let sequences = group.iter().map(|&i| &*inputs[i].sequence);
            self.begin(state, sequences)?;
            self.ids(state, &tokens)?;
            self.step(state, &positions(group.iter().map(|&i| &*inputs[i].sequence), 0))?;
            // Neighbours in the results come in one piece.
            let mut row = 0;
            while row < group.len() {
                let first = group[row];
                let mut count = 0;
                while row + count < group.len()
                    && inputs[group[row + count]].wanted != Wanted::Nothing
                    && places[group[row + count]] == places[first] + count
                {
                    count += 1;
                }
                if count > 0 {
                    state.fetch(row * vocabulary, places[first] * vocabulary, count * vocabulary)?;
                }
                row += count.max(1);
            }
        }
        for (input, &place) in inputs.iter().zip(&places).filter(|(input, _)| input.tokens.len() > 1) {
            self.prompt(state, input, place)?;
        }
        Ok(())
    }

    /// Takes in a part of a prompt; its logits go to row `place` of the host's.
    fn prompt(&self, state: &mut GpuState, input: &Input<'_>, place: usize) -> Result<(), Error> {
        let (start, count) = (input.sequence.len, input.tokens.len());
        let first_wanted = match input.wanted {
            Wanted::Nothing => count,
            Wanted::Last => count - 1,
            Wanted::All => 0,
        };
        // Where attention takes each token by itself, each has a row of the table.
        for row in 0..ROWS.min(count) {
            state.place(row, Some(input.sequence))?;
        }
        for (i, tokens) in input.tokens.chunks(CHUNK).enumerate() {
            let (at, end) = (i * CHUNK, i * CHUNK + tokens.len());
            let positions: Vec<u32> = (start + at..start + end).map(|position| position as u32).collect();
            self.ids(state, tokens)?;
            self.positions(state, &positions)?;
            self.layers(state, Tokens { count: tokens.len(), longest: start + end, together: true })?;
            let wanted: Vec<u32> = (first_wanted.max(at)..end).map(|row| (row - at) as u32).collect();
            for (j, rows) in wanted.chunks(ROWS).enumerate() {
                post(&state.gpu, rows, ElementsMut::new(&state.control.rows, 0, DType::U32)).map_err(failed)?;
                self.head(state, rows.len(), true)?;
                let row = place + first_wanted.max(at) - first_wanted + j * ROWS;
                let vocabulary = self.config.vocabulary;
                state.fetch(0, row * vocabulary, rows.len() * vocabulary)?;
            }
        }
        Ok(())
    }

    /// The table of pages for a step of these sequences.
    fn begin<'a>(
        &self,
        state: &mut GpuState,
        sequences: impl ExactSizeIterator<Item = &'a Sequence>,
    ) -> Result<(), Error> {
        let rows = sequences.len();
        for (row, sequence) in sequences.enumerate() {
            state.place(row, Some(sequence))?;
        }
        (rows..size_of(rows)).try_for_each(|row| state.place(row, None))
    }

    fn ids(&self, state: &GpuState, tokens: &[u32]) -> Result<(), Error> {
        post(&state.gpu, tokens, ElementsMut::new(&state.control.ids, 0, DType::U32)).map_err(failed)
    }

    fn positions(&self, state: &GpuState, positions: &[u32]) -> Result<(), Error> {
        let lengths: Vec<u32> = positions.iter().map(|position| position + 1).collect();
        for (numbers, memory) in [(positions, &state.control.positions), (&lengths, &state.control.lengths)] {
            post(&state.gpu, numbers, ElementsMut::new(memory, 0, DType::U32)).map_err(failed)?;
        }
        Ok(())
    }

    /// A step of as many rows as positions, whose tokens and pages are in place: logits, and the likeliest tokens in place of
    /// those that were taken in.
    fn step(&self, state: &mut GpuState, positions: &[u32]) -> Result<(), Error> {
        let size = size_of(positions.len());
        let mut padded = positions.to_vec();
        padded.resize(size, 0);
        self.positions(state, &padded)?;
        let length = positions.iter().max().map_or(1, |&position| position as usize + 1);
        let longest = length.next_power_of_two().max(LENGTH).min(state.control.pages * PAGE);
        if !state.use_graphs {
            return self.decode(state, size, longest);
        }
        let key = [size, longest];
        match state.graphs.get_mut(&key) {
            Some(Some(graph)) => graph.replay().map_err(failed),
            // What is asked for again will be asked for often. The first time has found all kernels, so that nothing but
            // launches is left.
            Some(None) => {
                let gpu = state.gpu.clone();
                let mut result = Ok(());
                let captured = gpu.capture(|| {
                    result = self.decode(state, size, longest);
                    Ok::<_, supple_tensor::GpuError>(())
                });
                result?;
                let ((), mut graph) = captured.map_err(failed)?;
                graph.replay().map_err(failed)?;
                state.graphs.insert(key, Some(graph));
                Ok(())
            }
            None => {
                self.decode(state, size, longest)?;
                state.graphs.insert(key, None);
                Ok(())
            }
        }
    }

    /// As [`Decoder::greedy`](crate::llama::Decoder::greedy).
    pub(in crate::llama) fn greedy(
        &self,
        state: &mut GpuState,
        sequences: &mut [&mut Sequence],
        last: &[u32],
        count: usize,
    ) -> Result<Vec<u32>, Error> {
        self.check(last)?;
        let width = sequences.len();
        if width == 0 || last.len() != width {
            return Err(Error::NoTokens);
        }
        for at in 0..width {
            if let Err(error) = state.extend(sequences[at], count) {
                shrink(state, sequences[..at].iter_mut().map(|sequence| &mut **sequence));
                return Err(error);
            }
        }
        let mut all = vec![0; width * count];
        for (group, first) in sequences.chunks(ROWS).zip((0..width).step_by(ROWS)) {
            let group: Vec<&Sequence> = group.iter().map(|sequence| &**sequence).collect();
            let columns = first..first + group.len();
            if let Err(error) = self.continued(state, &group, &last[columns.clone()], columns, width, &mut all) {
                shrink(state, sequences.iter_mut().map(|sequence| &mut **sequence));
                return Err(error);
            }
        }
        sequences.iter_mut().for_each(|sequence| sequence.len += count);
        Ok(all)
    }

    fn continued(
        &self,
        state: &mut GpuState,
        group: &[&Sequence],
        last: &[u32],
        columns: Range<usize>,
        width: usize,
        all: &mut [u32],
    ) -> Result<(), Error> {
        let count = all.len() / width;
        self.begin(state, group.iter().copied())?;
        self.ids(state, last)?;
        let (rows, vocabulary) = (group.len(), self.config.vocabulary);
        let results = state.gpu.allocate(4 * rows * (count + 1)).map_err(failed)?;
        for i in 0..count {
            self.step(state, &positions(group.iter().copied(), i))?;
            let chosen = (Elements::new(&state.control.ids, 0, DType::U32), &[1][..]);
            let kept = (ElementsMut::new(&results, i * rows, DType::U32), &[1][..]);
            copy::strided(&state.gpu, &[rows], chosen, kept).map_err(failed)?;
        }
        // Where arithmetic goes wrong all logits of a row are no numbers, from then on: one of each tells.
        let logits = (Elements::new(&state.work.logits, 0, DType::F32), &[vocabulary][..]);
        let kept = (ElementsMut::new(&results, count * rows, DType::F32), &[1][..]);
        copy::strided(&state.gpu, &[rows], logits, kept).map_err(failed)?;
        let mut found = vec![0u32; rows * (count + 1)];
        state.gpu.download(&results, 0, bytemuck::cast_slice_mut(&mut found)).map_err(failed)?;
        let (chosen, logits) = found.split_at(rows * count);
        let steps = all.chunks_exact_mut(width).zip(chosen.chunks_exact(rows));
        for (i, (all, chosen)) in steps.enumerate() {
            all[columns.clone()].copy_from_slice(chosen);
            if i + 1 == count {
                let bad = all[columns.clone()].iter_mut().zip(logits).filter(|(_, l)| !f32::from_bits(**l).is_finite());
                bad.for_each(|(token, _)| *token = u32::MAX);
            }
        }
        Ok(())
    }
}

/// Where the next tokens of sequences stand, `ahead` tokens on.
fn positions<'a>(sequences: impl Iterator<Item = &'a Sequence>, ahead: usize) -> Vec<u32> {
    sequences.map(|sequence| (sequence.len + ahead) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_filled_up_to_the_next_size() {
        for rows in 1..=ROWS {
            let size = size_of(rows);
            assert!(size >= rows && SIZES.contains(&size) && size <= rows.next_power_of_two(), "{rows}");
        }
    }
}
