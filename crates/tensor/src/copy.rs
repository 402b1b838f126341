//! Copies between layouts and element types.

use crate::{Dims, Element, Layout};

/// Copies the elements of a tensor from one layout to another of the same shape. `from` starts at the first element, `to`
/// at the start of its buffer.
pub(crate) fn copy_strided<T: Copy>(from: &[T], from_layout: &Layout, to: &mut [T], to_layout: &Layout) {
    let shape = *from_layout.shape();
    debug_assert_eq!(shape, *to_layout.shape());
    if shape.contains(&0) {
        return;
    }
    let Some((&len, outer)) = shape.split_last() else {
        to[to_layout.offset()] = from[0];
        return;
    };
    let (from_step, to_step) = (from_layout.strides()[outer.len()], to_layout.strides()[outer.len()]);
    let mut index = Dims::default();
    index.clone_from(&shape);
    index.fill(0);
    let (mut a, mut b) = (0, to_layout.offset());
    loop {
        if from_step == 1 && to_step == 1 {
            to[b..b + len].copy_from_slice(&from[a..a + len]);
        } else {
            for i in 0..len {
                to[b + i * to_step] = from[a + i * from_step];
            }
        }
        // The next row, as an odometer counts.
        let mut d = outer.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            a += from_layout.strides()[d];
            b += to_layout.strides()[d];
            if index[d] < shape[d] {
                break;
            }
            a -= from_layout.strides()[d] * shape[d];
            b -= to_layout.strides()[d] * shape[d];
            index[d] = 0;
        }
    }
}

/// Converts elements one by one.
pub(crate) fn convert<A: Element, B: Element>(from: &[A], to: &mut [B]) {
    for (&from, to) in from.iter().zip(to) {
        *to = B::from_f64(from.to_f64());
    }
}
