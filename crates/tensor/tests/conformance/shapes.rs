//! Any shapes whatever: operators answer with a result of the right shape or a typed error, and never panic.

use crate::devices;
use proptest::prelude::*;
use supple_tensor::ops::{self, Activation, Conv2d, ConvShape, Linear, ResizeMode};
use supple_tensor::{DType, Device, Error, Layout, Tensor};

fn device() -> &'static Device {
    &devices().last().expect("there is a device").1
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(device(), shape, DType::F32).unwrap()
}

fn shape(rank: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..6, rank)
}

fn pair(range: std::ops::Range<usize>) -> impl Strategy<Value = [usize; 2]> {
    [range.clone(), range]
}

/// A refused shape names the operator and says something.
fn well_formed(result: Result<Tensor, Error>) -> Option<Tensor> {
    match result {
        Ok(tensor) => {
            assert_eq!(tensor.to_vec::<f32>().unwrap().len(), tensor.elements());
            Some(tensor)
        }
        Err(error) => {
            assert!(error.to_string().len() > 10, "{error}");
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn broadcasting_is_as_in_numpy(a in shape(0..=6), b in shape(0..=6)) {
        let side = |shape: &[usize], d: usize| shape.len().checked_sub(d).map_or(1, |i| shape[i]);
        let rank = a.len().max(b.len());
        let sides: Vec<_> = (1..=rank).rev().map(|d| (side(&a, d), side(&b, d))).collect();
        let fits = sides.iter().all(|&(x, y)| x == y || x == 1 || y == 1);
        let wanted: Vec<usize> = sides.iter().map(|&(x, y)| if x == 1 { y } else { x }).collect();
        for operator in [ops::add, ops::sub, ops::mul, ops::div] {
            let found = well_formed(operator(&zeros(&a), &zeros(&b)));
            prop_assert_eq!(found.map(|t| t.shape().to_vec()), fits.then(|| wanted.clone()));
        }
    }

    #[test]
    fn convolutions_fit_or_are_refused(
        x in shape(3..=5),
        channels in pair(0..5),
        kernel in pair(0..4),
        stride in pair(0..3),
        padding in pair(0..3),
        dilation in pair(0..3),
        groups in 0usize..4,
    ) {
        let [in_channels, out_channels] = channels;
        let shape = ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups };
        let weights = vec![0.5; in_channels * out_channels * kernel[0] * kernel[1] / groups.max(1)];
        if let Ok(conv) = Conv2d::new(device(), shape, &weights, None) {
            let wanted = match &x[..] {
                &[n, h, w, c] if c == in_channels && n * h * w > 0 => {
                    shape.output_size(h, w).map(|(h, w)| vec![n, h, w, out_channels])
                }
                _ => None,
            };
            let found = well_formed(conv.forward(&zeros(&x), Activation::Relu, None));
            prop_assert_eq!(found.map(|t| t.shape().to_vec()), wanted);
        }
    }

    #[test]
    fn image_operators_fit_or_are_refused(
        x in shape(3..=5),
        kernel in pair(0..5),
        stride in pair(0..3),
        padding in pair(0..3),
        size in pair(0..9),
        factor in 0usize..3,
    ) {
        let x = zeros(&x);
        well_formed(ops::max_pool2d(&x, kernel, stride, padding));
        well_formed(ops::avg_pool2d(&x, kernel, stride, padding));
        well_formed(ops::pixel_shuffle(&x, factor));
        well_formed(ops::pixel_unshuffle(&x, factor));
        well_formed(ops::to_channels_last(&x));
        well_formed(ops::to_channels_first(&x));
        for mode in [ResizeMode::Nearest, ResizeMode::Bilinear, ResizeMode::Bicubic, ResizeMode::Area] {
            let found = well_formed(ops::resize(&x, mode, size));
            let fits = x.rank() == 4 && x.elements() > 0 && size[0] * size[1] > 0;
            prop_assert_eq!(found.is_some(), fits);
        }
    }

    #[test]
    fn matrix_and_row_operators_fit_or_are_refused(a in shape(0..=6), b in shape(0..=6), dim in 0usize..7, n in 0usize..4) {
        let (a, b) = (zeros(&a), zeros(&b));
        well_formed(ops::matmul(&a, &b));
        well_formed(ops::concat(&[&a, &b], dim));
        well_formed(ops::layer_norm(&a, &b, &b, 1e-5));
        well_formed(ops::rms_norm(&a, &b, 1e-5));
        well_formed(ops::group_norm(&a, n, &b, &b, 1e-5));
        well_formed(ops::linear(&a, &b, None, Activation::Relu));
        well_formed(ops::attention(&a, &b, &b, n == 1));
        well_formed(ops::rope(&a, &b, &b));
        well_formed(ops::sum_dims(&a, &[dim]));
        well_formed(ops::sum_to(&a, b.shape()));
        well_formed(ops::sum(&a));
        well_formed(ops::mean(&a));
        well_formed(ops::column_sums(&a));
        for operator in [ops::softmax, ops::silu, ops::abs, ops::exp, ops::relu, ops::gelu, ops::tanh, ops::sigmoid] {
            let found = operator(&a).unwrap();
            prop_assert_eq!(found.shape(), a.shape());
        }
        let found = ops::l2_normalize(&a, 1e-12).unwrap();
        prop_assert_eq!(found.shape(), a.shape());
        if let Ok(layer) = Linear::new(device(), [n, dim], &vec![0.0; n * dim], None) {
            let found = well_formed(layer.forward(&a, Activation::Identity));
            prop_assert_eq!(found.is_some(), a.shape().last() == Some(&dim));
        }
    }

    #[test]
    fn views_address_the_right_elements(
        shape in prop::collection::vec(1usize..5, 1..=5),
        swap in pair(0..5),
        narrow in (0usize..5, 0usize..4, 0usize..5),
        split in 1usize..5,
        padded in any::<bool>(),
    ) {
        let count = shape.iter().product::<usize>();
        let values: Vec<i32> = (0..count as i32).collect();
        let mut x = Tensor::from_slice(device(), &values, &shape).unwrap();
        if padded {
            x = x.padded().unwrap();
        }
        // The model: elements by index, moved one by one.
        let (mut model, mut model_shape) = (values, shape);
        let rank = model_shape.len();
        match x.transpose(swap[0], swap[1]) {
            Ok(y) => {
                let mut to_shape = model_shape.clone();
                to_shape.swap(swap[0], swap[1]);
                model = (0..count).map(|at| {
                    let mut index = unravel(at, &to_shape);
                    index.swap(swap[0], swap[1]);
                    model[ravel(&index, &model_shape)]
                }).collect();
                (x, model_shape) = (y, to_shape);
            }
            Err(_) => prop_assert!(swap[0] >= rank || swap[1] >= rank),
        }
        match x.narrow(narrow.0, narrow.1, narrow.2) {
            Ok(y) => {
                let mut to_shape = model_shape.clone();
                to_shape[narrow.0] = narrow.2;
                model = (0..to_shape.iter().product()).map(|at| {
                    let mut index = unravel(at, &to_shape);
                    index[narrow.0] += narrow.1;
                    model[ravel(&index, &model_shape)]
                }).collect();
                (x, model_shape) = (y, to_shape);
            }
            Err(_) => prop_assert!(narrow.0 >= rank || narrow.1 + narrow.2 > model_shape[narrow.0]),
        }
        prop_assert_eq!(&x.shape()[..], &model_shape[..]);
        prop_assert_eq!(x.to_vec::<i32>().unwrap(), model.clone());
        let contiguous = x.contiguous().unwrap();
        prop_assert_eq!(contiguous.to_vec::<i32>().unwrap(), model.clone());
        let is_cpu = matches!(device(), Device::Cpu(_));
        match contiguous.as_slice::<i32>() {
            Ok(values) => prop_assert_eq!(values, &model[..]),
            Err(_) => prop_assert!(!is_cpu),
        }
        prop_assert_eq!(x.padded().unwrap().to_vec::<i32>().unwrap(), model.clone());
        if model.len() % split == 0 {
            let y = x.reshape(&[split, model.len() / split]).unwrap();
            prop_assert_eq!(y.to_vec::<i32>().unwrap(), model.clone());
        }
        if model_shape[0] % split == 0 {
            let merged = [&[model_shape[0] / split, split], &model_shape[1..]].concat();
            prop_assert_eq!(x.reshape(&merged).unwrap().to_vec::<i32>().unwrap(), model.clone());
        }
        let mut flat = x.clone();
        if is_cpu {
            flat.as_mut_slice::<i32>().unwrap().fill(-1);
            prop_assert!(flat.to_vec::<i32>().unwrap().iter().all(|&v| v == -1));
        }
        prop_assert_eq!(x.to_vec::<i32>().unwrap(), model, "a written copy is not shared");
    }

    #[test]
    fn huge_shapes_are_errors(shape in prop::collection::vec(prop_oneof![0usize..3, (1usize << 40)..usize::MAX], 0..8)) {
        if let Ok(layout) = Layout::contiguous(&shape) {
            prop_assert!(layout.elements() == 0 || layout.elements() <= isize::MAX as usize / 4);
        }
        if !shape.contains(&0) && shape.iter().try_fold(1usize, |all, &d| all.checked_mul(d)).is_none_or(|all| all > 1 << 50) {
            prop_assert!(Tensor::zeros(device(), &shape, DType::F32).is_err());
        }
        let _ = zeros(&[1, 1]).broadcast_to(&shape).map(|x| well_formed_if_small(&x));
        let _ = zeros(&[1, 1]).reshape(&shape);
        let image = zeros(&[1, 1, 1, 1]);
        if let &[h, w, ..] = &shape[..] {
            if h.saturating_mul(w) > 1 << 50 {
                prop_assert!(ops::resize(&image, ResizeMode::Nearest, [h, w]).is_err());
            }
            let same = ConvShape::same(1, 1, 1);
            for shape in [
                ConvShape { padding: [h, w], ..same },
                ConvShape { stride: [h, w], ..same },
                ConvShape { dilation: [h, w], ..same },
            ] {
                // A kernel of one tap over a huge border would be a huge picture.
                if let Ok(conv) = Conv2d::new(device(), shape, &[1.0], None) {
                    let _ = conv.forward(&image, Activation::Identity, None).map(|y| well_formed_if_small(&y));
                }
            }
            well_formed(ops::max_pool2d(&image, [h, w], [1, 1], [0, 0]));
            well_formed(ops::max_pool2d(&image, [1, 1], [h, w], [0, 0]));
            well_formed(ops::avg_pool2d(&image, [h, w], [1, 1], [h / 2, w / 2]));
            well_formed(ops::pixel_shuffle(&image, h));
            well_formed(ops::matmul(&image, &image).and_then(|y| y.narrow(0, h, w)));
        }
    }
}

fn well_formed_if_small(x: &Tensor) {
    if x.elements() < 1 << 20 {
        assert_eq!(x.to_vec::<f32>().unwrap().len(), x.elements());
    }
}

fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&d| {
            let i = at % d;
            at /= d;
            i
        })
        .collect();
    index.reverse();
    index
}

fn ravel(index: &[usize], shape: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |at, (&i, &d)| at * d + i)
}

#[test]
fn element_types_convert() {
    let values = [-300.7f32, -1.5, -0.0, 0.4, 1.0, 127.5, 255.9, 70000.0, f32::NAN];
    let x = Tensor::from_slice(device(), &values, &[9]).unwrap();
    let to = |dtype| x.to_dtype(dtype).unwrap();
    assert_eq!(to(DType::U8).to_vec::<u8>().unwrap(), [0, 0, 0, 0, 1, 127, 255, 255, 0]);
    assert_eq!(to(DType::I8).to_vec::<i8>().unwrap(), [-128, -1, 0, 0, 1, 127, 127, 127, 0]);
    assert_eq!(to(DType::I32).to_vec::<i32>().unwrap(), [-300, -1, 0, 0, 1, 127, 255, 70000, 0]);
    assert_eq!(to(DType::U32).to_vec::<u32>().unwrap(), [0, 0, 0, 0, 1, 127, 255, 70000, 0]);
    let half = to(DType::F16).to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(half[1..6], [-1.5, 0.0, 0.399_902_34, 1.0, 127.5]);
    assert!(half[7].is_infinite() && half[8].is_nan());
    let brain = to(DType::BF16).to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(brain[..6], [-300.0, -1.5, 0.0, 0.400_390_63, 1.0, 127.5]);
    for dtype in DType::ALL {
        assert_eq!(to(dtype).dtype(), dtype);
        let is_float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        let computes = dtype == DType::F32 || (is_float && !matches!(device(), Device::Cpu(_)));
        assert!(computes || matches!(ops::relu(&to(dtype)), Err(Error::DType { op: "activation", .. })));
    }
}
