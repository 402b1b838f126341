//! A short list of dimensions that lives on the stack, so that shapes cost no allocation.

use crate::Error;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Most dimensions that a tensor can have.
pub const MAX_RANK: usize = 6;

/// Up to [`MAX_RANK`] dimensions, or strides. Dereferences to a slice.
#[derive(Clone, Copy, Default)]
pub struct Dims {
    values: [usize; MAX_RANK],
    rank: u8,
}

impl Dims {
    /// The dimensions `values`.
    ///
    /// # Errors
    /// [`Error::Rank`] if there are more than [`MAX_RANK`].
    pub fn new(values: &[usize]) -> Result<Dims, Error> {
        if values.len() > MAX_RANK {
            return Err(Error::Rank { found: values.len() });
        }
        let mut dims = Dims { values: [0; MAX_RANK], rank: values.len() as u8 };
        dims.copy_from_slice(values);
        Ok(dims)
    }
}

impl Deref for Dims {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.values[..usize::from(self.rank)]
    }
}

impl DerefMut for Dims {
    fn deref_mut(&mut self) -> &mut [usize] {
        &mut self.values[..usize::from(self.rank)]
    }
}

impl PartialEq for Dims {
    fn eq(&self, other: &Dims) -> bool {
        **self == **other
    }
}

impl Eq for Dims {}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_dimensions_are_refused() {
        assert_eq!(*Dims::new(&[1, 2, 3]).unwrap(), [1, 2, 3]);
        assert!(matches!(Dims::new(&[1; 7]), Err(Error::Rank { found: 7 })));
    }
}
