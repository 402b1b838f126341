//! A tensor as a strided view of a storage.

use std::borrow::Cow;

use super::objects::Tensor;
use crate::error::clip;
use crate::{DType, Error};

/// A tensor may have more elements than its storage (an expanded view) only up to this many.
const MAX_EXPANDED: u64 = 1 << 20;

/// Where in a storage a tensor's elements are. The element at index `i` is number `offset + sum(i[d] * strides[d])`.
pub(crate) struct View {
    /// Index of the storage in the checkpoint.
    pub(super) storage: usize,
    /// Number of the first element.
    offset: usize,
    /// Elements between neighbours along each dimension.
    strides: Vec<usize>,
}

impl View {
    /// The view that `tensor` describes, after checking that all of it lies within the `available` bytes of its storage.
    pub(super) fn new(
        file: &str,
        name: &str,
        tensor: &Tensor<'_>,
        storage: usize,
        available: u64,
    ) -> Result<Self, Error> {
        let out_of_bounds = |wanted: u64| Error::OutOfBounds {
            file: file.to_string(),
            tensor: clip(name, 200),
            wanted,
            found: available,
        };
        // A type of unknown size cannot be read, only listed; one byte is the least it can take.
        let size_of = |dtype: DType| dtype.size().unwrap_or(1);
        let size = size_of(tensor.dtype);
        let promised = tensor.storage.elements.saturating_mul(tensor.storage.dtype.map_or(1, size_of) as u64);
        if promised > available {
            return Err(out_of_bounds(promised));
        }
        let elements = tensor.shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let elements = elements.ok_or_else(|| out_of_bounds(u64::MAX))?;
        if elements > 0 {
            // One past the last element, in elements, then bytes.
            let end = tensor.shape.iter().zip(&tensor.strides).try_fold(tensor.offset, |sum, (&dim, &stride)| {
                (dim - 1).checked_mul(stride).and_then(|step| sum.checked_add(step))
            });
            let end = end.and_then(|last| last.checked_add(1)).and_then(|end| end.checked_mul(size));
            match end {
                Some(end) if end as u64 <= available => {}
                end => return Err(out_of_bounds(end.map_or(u64::MAX, |end| end as u64))),
            }
        }
        let limit = MAX_EXPANDED.max(available / size as u64);
        if elements as u64 > limit {
            let what = format!("expanded tensor {:?} (elements)", clip(name, 200));
            return Err(Error::TooLarge { file: file.to_string(), what, wanted: elements as u64, limit });
        }
        Ok(Self { storage, offset: tensor.offset, strides: tensor.strides.clone() })
    }

    /// The view's elements of `size` bytes in row-major order; borrowed from the storage if they lie so already. `None`
    /// if the storage is too short, which [`View::new`] has ruled out.
    pub(crate) fn gather<'a>(&self, storage: Cow<'a, [u8]>, shape: &[usize], size: usize) -> Option<Cow<'a, [u8]>> {
        let elements: usize = shape.iter().product();
        if elements == 0 {
            return Some(Cow::Borrowed(&[]));
        }
        if self.is_contiguous(shape) {
            let range = self.offset * size..(self.offset + elements) * size;
            return match storage {
                Cow::Borrowed(bytes) => bytes.get(range).map(Cow::Borrowed),
                Cow::Owned(mut bytes) => {
                    bytes.truncate(range.end);
                    bytes.drain(..range.start.min(bytes.len()));
                    (bytes.len() == elements * size).then_some(Cow::Owned(bytes))
                }
            };
        }
        let mut gathered = Vec::with_capacity(elements * size);
        let mut index = vec![0; shape.len()];
        for _ in 0..elements {
            let element = self.offset + index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum::<usize>();
            gathered.extend_from_slice(storage.get(element * size..(element + 1) * size)?);
            // Counts the index up by one, the last dimension first.
            for (i, dim) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < *dim {
                    break;
                }
                *i = 0;
            }
        }
        Some(Cow::Owned(gathered))
    }

    /// Whether the strides are those of row-major order; a dimension of one has no say.
    fn is_contiguous(&self, shape: &[usize]) -> bool {
        let mut wanted = 1;
        shape.iter().zip(&self.strides).rev().all(|(&dim, &stride)| {
            let fits = dim == 1 || stride == wanted;
            wanted *= dim;
            fits
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(offset: usize, strides: &[usize], shape: &[usize]) -> Vec<u8> {
        let storage: Vec<u8> = (0..12).collect();
        let view = View { storage: 0, offset, strides: strides.to_vec() };
        let borrowed = view.gather(Cow::Borrowed(&storage), shape, 1).unwrap().into_owned();
        let owned = view.gather(Cow::Owned(storage.clone()), shape, 1).unwrap().into_owned();
        assert_eq!(borrowed, owned);
        owned
    }

    #[test]
    fn strides_and_offsets_are_followed() {
        assert_eq!(gather(2, &[3, 1], &[2, 3]), [2, 3, 4, 5, 6, 7]);
        assert_eq!(gather(0, &[1, 3], &[3, 2]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gather(1, &[0, 2], &[2, 3]), [1, 3, 5, 1, 3, 5]);
        assert_eq!(gather(7, &[], &[]), [7]);
        assert_eq!(gather(0, &[99, 1], &[1, 4]), [0, 1, 2, 3]);
        assert!(gather(0, &[1], &[0]).is_empty());
    }
}
