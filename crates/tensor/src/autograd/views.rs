//! Gradients of views and copies: the elements go back to where they came from.

use super::record;
use crate::{Error, Tensor, ops};

/// A change of layout.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View {
    /// Two dimensions exchanged.
    Transpose(usize, usize),
    /// Some indices of a dimension, from a first one on.
    Narrow(usize, usize),
    /// Dimensions repeated.
    Broadcast,
    /// Another shape for the same elements.
    Reshape,
}

/// The view `y` of `x`, which remembers it if gradients are wanted.
pub(crate) fn recorded_view(x: &Tensor, y: Tensor, how: View) -> Tensor {
    record("view", y, &[x], || {
        let shape = *x.shape();
        move |grad, _| {
            let grad = match how {
                View::Transpose(a, b) => grad.transpose(a, b)?,
                View::Broadcast => ops::sum_to(grad, &shape)?,
                View::Reshape => grad.reshape(&shape)?,
                View::Narrow(dim, start) => ops::widen(grad.device(), &shape, dim, start, grad)?,
            };
            Ok(vec![Some(grad)])
        }
    })
}

/// The copy `y` of `x`, of the same shape.
pub(crate) fn recorded_copy(x: &Tensor, y: Tensor) -> Tensor {
    record("copy", y, &[x], || |grad: &Tensor, _: &[bool]| Ok(vec![Some(grad.clone())]))
}

/// `y`, which is `x` with elements of another type: the master copy of a weight gets its gradient in its own type.
pub(crate) fn recorded_cast(x: &Tensor, y: Tensor) -> Tensor {
    record("cast", y, &[x], || {
        let dtype = x.gradient_dtype();
        move |grad: &Tensor, _: &[bool]| Ok(vec![Some(grad.to_dtype(dtype)?)])
    })
}

impl Tensor {
    /// A view with dimensions in another order: dimension `d` of the result is dimension `order[d]` of this one.
    ///
    /// # Errors
    /// If `order` does not name every dimension once.
    pub fn permute(&self, order: &[usize]) -> Result<Tensor, Error> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..self.rank()) {
            return crate::error::refuse!("permute", "{order:?} is no order of the dimensions of {:?}", self.shape());
        }
        // As a chain of exchanges, each of which knows its own gradient.
        let mut current: Vec<usize> = (0..self.rank()).collect();
        let mut y = self.clone();
        for (d, &wanted) in order.iter().enumerate() {
            let at = current.iter().position(|&c| c == wanted).unwrap_or(d);
            if at != d {
                y = y.transpose(d, at)?;
                current.swap(d, at);
            }
        }
        Ok(y)
    }
}
