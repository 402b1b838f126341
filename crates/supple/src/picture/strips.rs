//! PNG's picture data, filtered and compressed in strips by several threads.
//!
//! A strip is some rows: each takes the filter whose result has the least sum of magnitudes; then the strip becomes one deflate
//! block with a Huffman code of its own, in which runs of zeros are the only repetitions looked for. That is what is quick, and
//! for photographs nearly as small as a search. What comes out does not depend on the number of threads.
//!
//! Source: RFC 1950 (zlib), RFC 1951 (deflate), and the PNG specification, section 9 (filters).

/// Bytes of a strip before compression, about.
const STRIP: usize = 512 << 10;

/// Rows of bytes, as PNG has them.
pub(super) struct Rows<'a> {
    /// Bytes of a row.
    pub len: usize,
    pub height: usize,
    /// Bytes of a pixel.
    pub pixel: usize,
    /// Writes row `y`.
    pub row: &'a (dyn Fn(usize, &mut [u8]) + Sync),
}

impl Rows<'_> {
    /// Gives the compressed data to `sink`, piece by piece.
    pub(super) fn compress<E>(&self, threads: usize, sink: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let rows = (STRIP / (self.len + 1)).max(1);
        let starts: Vec<usize> = (0..self.height).step_by(rows).collect();
        let mut checksum = Adler { low: 1, high: 0, len: 0 };
        // Two bytes that say: deflate, a window of 32 KiB, quick.
        let mut head = Some([0x78, 0x01]);
        for wave in starts.chunks(threads.max(1)) {
            let strip = |&start: &usize| self.strip(start, (start + rows).min(self.height));
            let strips: Vec<(Vec<u8>, Adler)> = match wave {
                [only] => vec![strip(only)],
                _ => std::thread::scope(|scope| {
                    let workers: Vec<_> = wave.iter().map(|start| scope.spawn(move || strip(start))).collect();
                    workers.into_iter().map(|worker| worker.join().expect("compressing does not panic")).collect()
                }),
            };
            for (mut bytes, part) in strips {
                checksum = checksum.then(part);
                if let Some(head) = head.take() {
                    bytes.splice(0..0, head);
                }
                if checksum.len == (self.len + 1) * self.height {
                    bytes.extend(checksum.value().to_be_bytes());
                }
                sink(&bytes)?;
            }
        }
        Ok(())
    }

    /// Rows `start..end`, compressed, and the checksum of what was.
    fn strip(&self, start: usize, end: usize) -> (Vec<u8>, Adler) {
        let mut before = vec![0; self.len];
        if start > 0 {
            (self.row)(start - 1, &mut before);
        }
        let (mut row, mut trial, mut best) = (vec![0; self.len], vec![0; self.len], vec![0; self.len]);
        let mut filtered = vec![0; (self.len + 1) * (end - start)];
        for (y, out) in (start..end).zip(filtered.chunks_exact_mut(self.len + 1)) {
            (self.row)(y, &mut row);
            let (mut least, mut chosen) = (magnitude(&row), 0);
            for kind in 1..5 {
                filter(kind, self.pixel, &row, &before, &mut trial);
                let sum = magnitude(&trial);
                if sum < least {
                    (least, chosen) = (sum, kind);
                    std::mem::swap(&mut trial, &mut best);
                }
            }
            out[0] = chosen;
            out[1..].copy_from_slice(if chosen == 0 { &row } else { &best });
            std::mem::swap(&mut row, &mut before);
        }
        (deflate(&filtered, end == self.height), Adler::of(&filtered))
    }
}

/// Sum of the magnitudes of signed bytes.
fn magnitude(bytes: &[u8]) -> u64 {
    bytes
        .chunks(4096)
        .map(|part| u64::from(part.iter().map(|&b| u32::from((b as i8).unsigned_abs())).sum::<u32>()))
        .sum()
}

/// PNG's filters but the first, which is none: what is left, what is above, the mean of both, and Paeth's choice between them and the
/// corner.
fn filter(kind: u8, pixel: usize, row: &[u8], above: &[u8], out: &mut [u8]) {
    let step = pixel.min(row.len());
    let (first, rest) = out.split_at_mut(step);
    let now = &row[step..];
    let left = &row[..now.len()];
    let (up, corner) = (&above[step..], &above[..now.len()]);
    match kind {
        1 => {
            first.copy_from_slice(&row[..step]);
            rest.iter_mut().zip(now).zip(left).for_each(|((o, v), a)| *o = v.wrapping_sub(*a));
        }
        2 => out.iter_mut().zip(row).zip(above).for_each(|((o, v), b)| *o = v.wrapping_sub(*b)),
        3 => {
            first.iter_mut().zip(row).zip(above).for_each(|((o, v), b)| *o = v.wrapping_sub(b / 2));
            let all = rest.iter_mut().zip(now).zip(left).zip(up);
            all.for_each(|(((o, v), a), b)| *o = v.wrapping_sub(((u16::from(*a) + u16::from(*b)) / 2) as u8));
        }
        _ => {
            first.iter_mut().zip(row).zip(above).for_each(|((o, v), b)| *o = v.wrapping_sub(*b));
            let all = rest.iter_mut().zip(now).zip(left).zip(up).zip(corner);
            all.for_each(|((((o, v), a), b), c)| *o = v.wrapping_sub(paeth(*a, *b, *c)));
        }
    }
}

/// Whichever of left, above and corner is nearest to left + above − corner. Without branches, so that vectors can do it.
#[inline]
fn paeth(a: u8, b: u8, c: u8) -> u8 {
    let [wide_a, wide_b, wide_c] = [a, b, c].map(i16::from);
    let (pa, pb) = ((wide_b - wide_c).abs(), (wide_a - wide_c).abs());
    let pc = (wide_a + wide_b - 2 * wide_c).abs();
    let other = if pb <= pc { wide_b } else { wide_c };
    (if (pa <= pb) & (pa <= pc) { wide_a } else { other }) as u8
}

// ------------------------------------------------------------------------------------------------------------------- deflate

/// Literals, the end of a block, and lengths.
const SYMBOLS: usize = 286;
const END: usize = 256;
/// Longest code, in bits; deflate allows 15.
const MOST_BITS: u8 = 12;
/// Longest repetition.
const MOST_RUN: usize = 258;

/// What becomes of the tokens of a block.
trait Tokens {
    /// A byte that is written by itself.
    fn literal(&mut self, byte: u8);
    /// A run of zeros after a zero.
    fn run(&mut self, len: usize);

    /// Takes `data` apart.
    #[inline]
    fn take(&mut self, data: &[u8])
    where
        Self: Sized,
    {
        let mut at = 0;
        while at < data.len() {
            let byte = data[at];
            self.literal(byte);
            at += 1;
            if byte == 0 {
                let mut zeros = data[at..].iter().take_while(|&&b| b == 0).count();
                at += zeros;
                while zeros >= 3 {
                    let part = zeros.min(MOST_RUN);
                    self.run(part);
                    zeros -= part;
                }
                (0..zeros).for_each(|_| self.literal(0));
            }
        }
    }
}

/// How often each symbol occurs.
struct Counts([u32; SYMBOLS]);

impl Tokens for Counts {
    #[inline]
    fn literal(&mut self, byte: u8) {
        self.0[usize::from(byte)] += 1;
    }

    fn run(&mut self, len: usize) {
        self.0[length_symbol(len).0] += 1;
    }
}

/// Symbol, number of extra bits and their value, of a run's length.
fn length_symbol(len: usize) -> (usize, u32, u32) {
    if len == MOST_RUN {
        return (285, 0, 0);
    }
    let from = (len - 3) as u32;
    if from < 8 {
        return (257 + from as usize, 0, 0);
    }
    let extra = from.ilog2() - 2;
    let symbol = 257 + 4 * (extra as usize + 1) + ((from >> extra) & 3) as usize;
    (symbol, extra, from & ((1 << extra) - 1))
}

/// One block of `data`, ending at a whole byte.
fn deflate(data: &[u8], is_last: bool) -> Vec<u8> {
    let mut counts = Counts([0; SYMBOLS]);
    counts.0[END] = 1;
    counts.take(data);
    let lengths = code_lengths(&counts.0);
    let codes = canonical(&lengths);

    let pairs = std::array::from_fn(|symbol| (codes[symbol], u32::from(lengths[symbol])));
    let mut out = Bits { codes: pairs, bytes: Vec::with_capacity(data.len() / 2 + 512), held: 0, count: 0 };
    // The last block or not; Huffman codes of its own.
    out.put(u32::from(is_last) | 2 << 1, 3);
    // 286 codes of literals and lengths, one of distances, and lengths of all 19 codes of lengths: 4 bits for 0 to 15 each, in the
    // order that RFC 1951 puts them, and none for repetitions.
    out.put((SYMBOLS - 257) as u32, 5);
    out.put(0, 5);
    out.put(19 - 4, 4);
    for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15] {
        out.put(if symbol < 16 { 4 } else { 0 }, 3);
    }
    for &length in lengths.iter().chain(&[1]) {
        out.put(u32::from(length).reverse_bits() >> 28, 4);
    }
    out.take(data);
    out.symbol(END);
    if !is_last {
        // An empty stored block begins with three zeros and goes on at a whole byte.
        out.put(0, 3);
    }
    let mut bytes = out.finish();
    if !is_last {
        bytes.extend([0, 0, 0xff, 0xff]);
    }
    bytes
}

/// Bits, the lowest first.
struct Bits {
    /// Code and length of each symbol.
    codes: [(u32, u32); SYMBOLS],
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl Bits {
    #[inline]
    fn put(&mut self, bits: u32, count: u32) {
        self.held |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.held as u32).to_le_bytes());
            self.held >>= 32;
            self.count -= 32;
        }
    }

    #[inline]
    fn symbol(&mut self, symbol: usize) {
        let (code, length) = self.codes[symbol];
        self.put(code, length);
    }

    fn finish(mut self) -> Vec<u8> {
        let left = self.count.div_ceil(8) as usize;
        self.bytes.extend_from_slice(&self.held.to_le_bytes()[..left]);
        self.bytes
    }
}

impl Tokens for Bits {
    #[inline]
    fn literal(&mut self, byte: u8) {
        self.symbol(usize::from(byte));
    }

    fn run(&mut self, len: usize) {
        let (symbol, extra, value) = length_symbol(len);
        self.symbol(symbol);
        // The distance is 1, whose code is a single 0.
        self.put(value, extra + 1);
    }
}

/// Lengths of a Huffman code for symbols that occur so often; 0 for those that do not.
fn code_lengths(counts: &[u32; SYMBOLS]) -> [u8; SYMBOLS] {
    let mut counts = *counts;
    loop {
        let lengths = huffman(&counts);
        if lengths.iter().all(|&length| length <= MOST_BITS) {
            return lengths;
        }
        // Flatter counts give shorter codes.
        counts.iter_mut().filter(|count| **count > 0).for_each(|count| *count = *count / 2 + 1);
    }
}

/// Huffman's algorithm, with two queues.
fn huffman(counts: &[u32; SYMBOLS]) -> [u8; SYMBOLS] {
    let mut lengths = [0; SYMBOLS];
    let mut leaves: Vec<usize> = (0..SYMBOLS).filter(|&symbol| counts[symbol] > 0).collect();
    leaves.sort_by_key(|&symbol| counts[symbol]);
    let n = leaves.len();
    if n < 2 {
        // A code wants two.
        leaves.iter().for_each(|&symbol| lengths[symbol] = 1);
        return lengths;
    }
    // Nodes 0..n are the leaves, others follow in the order in which they are made, which is that of their weight.
    let mut weights: Vec<u64> = leaves.iter().map(|&symbol| u64::from(counts[symbol])).collect();
    let mut parents = vec![0; 2 * n - 1];
    let (mut leaf, mut node) = (0, n);
    for next in n..2 * n - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let takes_leaf = leaf < n && (node >= next || weights[leaf] <= weights[node]);
            let taken = if takes_leaf { &mut leaf } else { &mut node };
            weight += weights[*taken];
            parents[*taken] = next;
            *taken += 1;
        }
        weights.push(weight);
    }
    let mut depths = vec![0u8; 2 * n - 1];
    for at in (0..2 * n - 2).rev() {
        depths[at] = depths[parents[at]].saturating_add(1);
    }
    leaves.iter().zip(depths).for_each(|(&symbol, depth)| lengths[symbol] = depth);
    lengths
}

/// The codes that deflate gives to lengths, their first bit lowest.
fn canonical(lengths: &[u8; SYMBOLS]) -> [u32; SYMBOLS] {
    let mut codes = [0; SYMBOLS];
    let mut code = 0u32;
    for length in 1..=MOST_BITS {
        for symbol in (0..SYMBOLS).filter(|&symbol| lengths[symbol] == length) {
            codes[symbol] = code.reverse_bits() >> (32 - u32::from(length));
            code += 1;
        }
        code <<= 1;
    }
    codes
}

// ------------------------------------------------------------------------------------------------------------------ checksum

/// Adler-32 of a number of bytes.
#[derive(Clone, Copy)]
struct Adler {
    low: u32,
    high: u32,
    len: usize,
}

const MODULUS: u32 = 65521;

impl Adler {
    fn of(bytes: &[u8]) -> Adler {
        let (mut low, mut high) = (1u32, 0u32);
        // As many as cannot overflow.
        for part in bytes.chunks(5552) {
            for &byte in part {
                low += u32::from(byte);
                high += low;
            }
            low %= MODULUS;
            high %= MODULUS;
        }
        Adler { low, high, len: bytes.len() }
    }

    /// Of these bytes and then those.
    fn then(self, next: Adler) -> Adler {
        let modulus = u64::from(MODULUS);
        let shift = (next.len as u64 % modulus) * u64::from(self.low + MODULUS - 1);
        let high = u64::from(self.high) + u64::from(next.high) + shift;
        let low = self.low + next.low + MODULUS - 1;
        Adler { low: low % MODULUS, high: (high % modulus) as u32, len: self.len + next.len }
    }

    fn value(self) -> u32 {
        self.high << 16 | self.low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A PNG file of 8-bit samples and what the decoder makes of it.
    fn round_trip(width: usize, height: usize, pixel: usize, samples: &[u8], threads: usize) -> (Vec<u8>, Vec<u8>) {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
        encoder.set_color(if pixel == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale });
        let mut writer = encoder.write_header().unwrap();
        let len = width * pixel;
        let row = |y: usize, out: &mut [u8]| out.copy_from_slice(&samples[y * len..][..len]);
        let rows = Rows { len, height, pixel, row: &row };
        rows.compress(threads, &mut |bytes| writer.write_chunk(png::chunk::IDAT, bytes)).unwrap();
        writer.finish().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let mut found = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut found).unwrap();
        reader.finish().unwrap();
        (file, found)
    }

    fn noise(len: usize, mask: u8) -> Vec<u8> {
        (0..len).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 21) as u8 & mask).collect()
    }

    #[test]
    fn strips_decode_to_what_they_were_made_of_whatever_the_threads() {
        // The last is of several strips, the second one of rows wider than a strip.
        for (width, height, pixel) in [(1, 1, 1), (200_000, 3, 3), (7, 5, 3), (700, 900, 3)] {
            for mask in [0, 1, 15, 255] {
                let samples = noise(width * height * pixel, mask);
                let (file, found) = round_trip(width, height, pixel, &samples, 1);
                assert!(found == samples, "{width}x{height}x{pixel}, mask {mask}");
                assert!(round_trip(width, height, pixel, &samples, 3).0 == file, "{width}x{height}x{pixel}");
                assert!(file.len() < samples.len() + samples.len() / 500 + 1000, "{} bytes", file.len());
            }
        }
    }

    #[test]
    fn rare_symbols_get_codes_that_are_not_too_long() {
        let mut counts = [0; SYMBOLS];
        let (mut a, mut b) = (1u32, 1u32);
        for count in counts.iter_mut().take(30) {
            *count = a;
            (a, b) = (b, a + b);
        }
        assert!(huffman(&counts).iter().max() > Some(&15));
        let lengths = code_lengths(&counts);
        let kraft: f64 = lengths.iter().filter(|&&l| l > 0).map(|&l| 0.5f64.powi(i32::from(l))).sum();
        assert!(lengths.iter().all(|&l| l <= MOST_BITS) && kraft == 1.0, "{kraft}");
    }

    proptest! {
        #[test]
        fn any_bytes_survive(
            width in 1usize..40, height in 1usize..40, bytes in prop::collection::vec(prop::sample::select(vec![0u8, 0, 0, 0, 1, 255, 77]), 1600),
        ) {
            let samples = &bytes[..width * height];
            prop_assert_eq!(round_trip(width, height, 1, samples, 2).1, samples);
        }

        #[test]
        fn checksums_of_parts_make_that_of_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..9000), at in 0usize..9000) {
            let (a, b) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(Adler::of(a).then(Adler::of(b)).value(), Adler::of(&bytes).value());
        }

        #[test]
        fn lengths_are_taken_apart_as_they_are_put_together(len in 3usize..=258) {
            let (symbol, extra, value) = length_symbol(len);
            const FIRST: [usize; 29] = [
                3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
            ];
            prop_assert_eq!(FIRST[symbol - 257] + value as usize, len);
            prop_assert!(value < 1 << extra);
        }
    }
}
