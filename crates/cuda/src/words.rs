//! Small numbers from the host to the GPU without a wait: they travel as arguments of a kernel.

use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, ElementsMut, Error, Gpu};

/// Words of one launch.
const WORDS: usize = 960;

#[repr(C)]
#[derive(Clone, Copy)]
struct Words([u32; WORDS]);

/// Queues writing `words` to the beginning of `to` (`U32`), in the order of the work around it. A launch for every 960 words: for
/// more than some thousands [`Gpu::write`] is better.
///
/// # Errors
/// If they do not fit, or are of another type.
pub fn post(gpu: &Gpu, words: &[u32], to: ElementsMut<'_>) -> Result<(), Error> {
    const KERNEL: &str = "post_words";
    if to.0.dtype() != DType::U32 {
        return refuse!(KERNEL, "wants U32, got {:?}", to.0.dtype());
    }
    to.0.check(KERNEL, "the destination", Some(words.len()))?;
    for (i, part) in words.chunks(WORDS).enumerate() {
        let mut from = Words([0; WORDS]);
        from.0[..part.len()].copy_from_slice(part);
        let (at, count) = (to.0.pointer() + (4 * i * WORDS) as u64, part.len() as i32);
        let grid = Grid { blocks: [1, 1, 1], threads: 256, shared: 0 };
        // SAFETY: the kernel takes these types, the words by value; the destination was checked to hold them.
        unsafe { gpu.launch(KERNEL, grid, arguments![at, count, from], &|| format!("{count} words")) }?;
    }
    Ok(())
}
