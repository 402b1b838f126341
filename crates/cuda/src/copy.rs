//! Copies between layouts and between element types.

use crate::error::refuse;
use crate::launch::{Grid, arguments};
use crate::{DType, Elements, ElementsMut, Error, Gpu};

/// Most dimensions of a strided copy.
const RANK: usize = 6;

#[repr(C)]
#[derive(Clone, Copy)]
struct Strided {
    elements: i64,
    size: [i64; RANK],
    from: [i64; RANK],
    to: [i64; RANK],
}

/// Copies elements from one layout to another: `shape` with the steps of each dimension in `from` and in `to`, in elements.
///
/// # Errors
/// If the types differ, there are more than six dimensions that do not merge, or an element lies outside its memory.
pub fn strided(
    gpu: &Gpu,
    shape: &[usize],
    from: (Elements<'_>, &[usize]),
    to: (ElementsMut<'_>, &[usize]),
) -> Result<(), Error> {
    const KERNEL: &str = "strided copy";
    if from.0.dtype() != to.0.0.dtype() || from.1.len() != shape.len() || to.1.len() != shape.len() {
        return refuse!(KERNEL, "shape {shape:?} with steps {:?} and {:?}, or element types, differ", from.1, to.1);
    }
    if shape.contains(&0) {
        return Ok(());
    }
    let extent = |steps: &[usize]| {
        shape.iter().zip(steps).try_fold(1usize, |sum, (size, step)| sum.checked_add((size - 1).checked_mul(*step)?))
    };
    from.0.check(KERNEL, "the source", extent(from.1))?;
    to.0.0.check(KERNEL, "the destination", extent(to.1))?;
    // Dimensions that continue each other on both sides become one.
    let mut merged: Vec<(usize, usize, usize)> = Vec::with_capacity(shape.len());
    for ((&size, &a), &b) in shape.iter().zip(from.1).zip(to.1).filter(|((size, _), _)| **size > 1) {
        match merged.last_mut() {
            Some(last) if last.1 == a * size && last.2 == b * size => *last = (last.0 * size, a, b),
            _ => merged.push((size, a, b)),
        }
    }
    let mut size_of = from.0.dtype().size();
    // Adjacent elements go 16 or 8 bytes at a time where everything is aligned.
    for bytes in [16, 8] {
        let wide = bytes / size_of;
        let Some((&mut (ref mut size, ref mut a, ref mut b), outer)) = merged.split_last_mut() else { break };
        let fits = wide > 1 && *a == 1 && *b == 1 && size.is_multiple_of(wide);
        let aligned = |e: &Elements<'_>| e.is_aligned(bytes);
        let steps = outer.iter().all(|(_, a, b)| a.is_multiple_of(wide) && b.is_multiple_of(wide));
        if fits && steps && aligned(&from.0) && aligned(&to.0.0) {
            *size /= wide;
            for (_, a, b) in outer {
                *a /= wide;
                *b /= wide;
            }
            (*a, *b) = (1, 1);
            size_of = bytes;
            break;
        }
    }
    if merged.len() > RANK {
        return refuse!(KERNEL, "shape {shape:?} has more than {RANK} dimensions that do not merge");
    }
    let mut layout = Strided { elements: 1, size: [1; RANK], from: [0; RANK], to: [0; RANK] };
    let first = RANK - merged.len();
    for (i, (size, a, b)) in merged.into_iter().enumerate() {
        layout.elements *= size as i64;
        (layout.size[first + i], layout.from[first + i], layout.to[first + i]) = (size as i64, a as i64, b as i64);
    }
    let kernel = match size_of {
        1 => "strided_1",
        2 => "strided_2",
        4 => "strided_4",
        8 => "strided_8",
        _ => "strided_16",
    };
    let pointers = [from.0.pointer(), to.0.0.pointer()];
    // SAFETY: the kernel takes these types; both extents were checked to lie in their memory.
    unsafe {
        gpu.launch(kernel, Grid::flat(layout.elements as usize), arguments![layout, pointers[0], pointers[1]], &|| {
            format!("{shape:?}")
        })
    }
}

fn code(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        DType::I8 => 3,
        DType::U8 => 4,
        DType::I32 => 5,
        DType::U32 => 6,
    }
}

/// Converts `elements` adjacent elements: floats round to nearest, integers drop fractions and saturate, NaN becomes integer 0.
///
/// # Errors
/// If they are not all there.
pub fn convert(gpu: &Gpu, elements: usize, from: Elements<'_>, to: ElementsMut<'_>) -> Result<(), Error> {
    const KERNEL: &str = "convert_elements";
    from.check(KERNEL, "the source", Some(elements))?;
    to.0.check(KERNEL, "the destination", Some(elements))?;
    if elements == 0 {
        return Ok(());
    }
    let (a, b, count) = (code(from.dtype()), code(to.0.dtype()), elements as i64);
    let pointers = [from.pointer(), to.0.pointer()];
    let floats = [from.dtype(), to.0.dtype()].into_iter().all(crate::elementwise::is_float);
    let eights = floats && from.is_aligned(16) && to.0.is_aligned(16);
    let grid = Grid::flat(if eights { elements.div_ceil(8) } else { elements });
    // SAFETY: the kernel takes these types; both ends were checked to hold so many elements.
    unsafe {
        gpu.launch(KERNEL, grid, arguments![a, b, count, pointers[0], pointers[1]], &|| format!("{elements} elements"))
    }
}
