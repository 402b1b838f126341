//! Rows of tokens that the host sends to a GPU batch after batch, into tensors that stay.

use crate::error::refuse;
use crate::{DType, Device, Error, Tensor};
use supple_cuda::Feed;

/// Batches that may be under way at once.
const SLOTS: usize = 3;

/// Tokens and targets, `[batch, length]` of `u32`, and a number that belongs to them, on a GPU; [`send`](Self::send) fills them.
#[derive(Debug)]
pub struct TokenFeed {
    feed: Feed,
    all: Tensor,
    rows: [Tensor; 2],
    share: Tensor,
}

impl TokenFeed {
    /// Room for `batch` rows of `length` tokens.
    ///
    /// # Errors
    /// If `device` is no GPU or its memory is exhausted.
    pub fn new(device: &Device, shape @ [batch, length]: [usize; 2]) -> Result<TokenFeed, Error> {
        let Some(count) = batch.checked_mul(length).filter(|&count| (1..1 << 30).contains(&count)) else {
            return refuse!("tokens", "{batch} rows of {length} tokens");
        };
        let all = Tensor::from_slice(device, &vec![0u32; 2 * count + 1], &[2 * count + 1])?;
        let rows = |first: usize| all.narrow(0, first, count)?.reshape(&shape);
        let (rows, share) = ([rows(0)?, rows(count)?], all.narrow(0, 2 * count, 1)?.reshape(&[])?);
        let feed = Feed::new(device.gpu()?, SLOTS, (2 * count + 1) * 4)?;
        Ok(TokenFeed { feed, rows, share: share.reinterpreted(DType::F32)?, all })
    }

    /// Tokens and targets: those sent last, once work queued before is done.
    pub fn rows(&self) -> &[Tensor; 2] {
        &self.rows
    }

    /// The number that was sent with them, f32.
    pub fn share(&self) -> &Tensor {
        &self.share
    }

    /// Sends tokens, targets and the number. Waits only if the GPU is several batches behind.
    ///
    /// # Errors
    /// If there are more or fewer than there is room for, or the GPU fails.
    pub fn send(&mut self, tokens: &[u32], targets: &[u32], share: f32) -> Result<(), Error> {
        let count = self.rows[0].elements();
        if tokens.len() != count || targets.len() != count {
            return refuse!("tokens", "{} tokens and {} targets, not {count}", tokens.len(), targets.len());
        }
        let (all, bytes) = (&self.all, (2 * count + 1) * 4);
        let fill = |slot: &mut [u8]| {
            slot[..4 * count].copy_from_slice(bytemuck::cast_slice(tokens));
            slot[4 * count..8 * count].copy_from_slice(bytemuck::cast_slice(targets));
            slot[8 * count..bytes].copy_from_slice(&share.to_ne_bytes());
        };
        self.feed.send(fill, |memory| Ok(all.device().gpu()?.copy(memory, all.memory()?, bytes)?))
    }
}
