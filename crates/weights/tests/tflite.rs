//! TFLite files built by hand, honest ones and ones that lie, and mutations of real ones.
//!
//! Published networks are read from the folder `vision` of `SUPPLE_DATA`; without it those tests are skipped.

use std::path::Path;

use supple_weights::tflite::{Activation, Model, Options, Padding, Window};
use supple_weights::{DType, Error, Weights};

/// A flatbuffer under construction: parts are appended, and what points to them was written before.
#[derive(Default)]
struct Builder(Vec<u8>);

/// A field of a table: its number and its value, four zeros where a distance will be written.
type Field<'a> = (usize, &'a [u8]);
const LATER: &[u8] = &[0; 4];

impl Builder {
    /// Writes at `place` the distance from there to here.
    fn point_here(&mut self, place: usize) {
        let distance = (self.0.len() - place) as u32;
        self.0[place..place + 4].copy_from_slice(&distance.to_le_bytes());
    }

    /// A table; the places of its fields.
    fn table(&mut self, from: usize, fields: &[Field<'_>]) -> Vec<usize> {
        let count = fields.iter().map(|(field, _)| field + 1).max().unwrap_or(0);
        let (vtable_size, vtable) = (4 + 2 * count, self.0.len());
        let size: usize = 4 + fields.iter().map(|(_, value)| value.len()).sum::<usize>();
        let mut offsets = vec![0u16; count];
        let mut offset = 4;
        for (field, value) in fields {
            offsets[*field] = offset;
            offset += value.len() as u16;
        }
        self.0.extend((vtable_size as u16).to_le_bytes());
        self.0.extend((size as u16).to_le_bytes());
        self.0.extend(offsets.iter().flat_map(|offset| offset.to_le_bytes()));
        let start = self.0.len();
        self.point_here(from);
        self.0.extend(((start - vtable) as i32).to_le_bytes());
        self.0.extend(fields.iter().flat_map(|(_, value)| value.iter()));
        fields.iter().map(|(field, _)| start + usize::from(offsets[*field])).collect()
    }

    /// A vector of `count` elements, which are `bytes`; the place of the first.
    fn vector(&mut self, from: usize, count: usize, bytes: &[u8]) -> usize {
        self.point_here(from);
        self.0.extend((count as u32).to_le_bytes());
        self.0.extend(bytes);
        self.0.len() - bytes.len()
    }

    fn numbers(&mut self, from: usize, numbers: &[i32]) -> usize {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.vector(from, numbers.len(), &bytes)
    }

    /// A vector of `count` tables yet to be written; the places that will point to them.
    fn tables(&mut self, from: usize, count: usize) -> Vec<usize> {
        let first = self.vector(from, count, &vec![0; 4 * count]);
        (0..count).map(|i| first + 4 * i).collect()
    }
}

/// Where what a test lies about stands.
#[derive(Clone, Default)]
struct Places {
    version: usize,
    operator_code: usize,
    operator_inputs: usize,
    padding: usize,
    shape: usize,
    scale: usize,
    zero_points: usize,
    axis: usize,
    buffer_index: usize,
    data_count: usize,
    tensors: usize,
    first_tensor: usize,
}

/// A network of one 1×1 convolution from 2 channels to 3.
fn convolution() -> (Vec<u8>, Places) {
    let mut places = Places::default();
    let mut b = Builder(vec![0; 4]);
    b.0.extend(b"TFL3");
    let root = b.table(0, &[(0, &3u32.to_le_bytes()), (1, LATER), (2, LATER), (3, LATER), (4, LATER), (6, LATER)]);
    places.version = root[0];

    let codes = b.tables(root[1], 2);
    b.table(codes[0], &[(0, &[3]), (3, &3i32.to_le_bytes())]);
    let custom = b.table(codes[1], &[(0, &[32]), (1, LATER), (3, &32i32.to_le_bytes())]);
    b.vector(custom[1], 8, b"My\x1b[2Jop");
    b.vector(root[3], 4, b"test");

    let buffers = b.tables(root[4], 3);
    b.table(buffers[0], &[]);
    let weights = b.table(buffers[1], &[(0, LATER)]);
    places.data_count = b.vector(weights[0], 6, &[1, 2, 3, 250, 251, 252]) - 4;
    let bias = b.table(buffers[2], &[(0, LATER)]);
    b.vector(bias[0], 12, &[1, 0, 0, 0, 2, 0, 0, 0, 255, 255, 255, 255]);
    let metadata = b.tables(root[5], 1);
    let block = b.table(metadata[0], &[(0, LATER), (1, &1u32.to_le_bytes())]);
    b.vector(block[0], 5, b"notes");

    let graphs = b.tables(root[2], 1);
    let graph = b.table(graphs[0], &[(0, LATER), (1, LATER), (2, LATER), (3, LATER), (4, LATER)]);
    let tensors = b.tables(graph[0], 4);
    (places.tensors, places.first_tensor) = (tensors[0] - 4, tensors[0]);
    let pixels = b.table(tensors[0], &[(0, LATER), (1, &[0]), (2, &0u32.to_le_bytes()), (3, LATER)]);
    places.shape = b.numbers(pixels[0], &[1, 4, 4, 2]);
    b.vector(pixels[3], 5, b"input");
    let weights = b.table(tensors[1], &[(0, LATER), (1, &[3]), (2, &1u32.to_le_bytes()), (3, LATER), (4, LATER)]);
    places.buffer_index = weights[2];
    b.numbers(weights[0], &[3, 1, 1, 2]);
    b.vector(weights[3], 1, b"w");
    let quantization = b.table(weights[4], &[(2, LATER), (3, LATER), (6, &0i32.to_le_bytes())]);
    let scales: Vec<u8> = [0.5f32, 0.25, 2.0].iter().flat_map(|scale| scale.to_le_bytes()).collect();
    places.scale = b.vector(quantization[0], 3, &scales);
    let zeros: Vec<u8> = [0i64, 128, 255].iter().flat_map(|zero| zero.to_le_bytes()).collect();
    places.zero_points = b.vector(quantization[1], 3, &zeros) - 4;
    places.axis = quantization[2];
    let bias = b.table(tensors[2], &[(0, LATER), (1, &[2]), (2, &2u32.to_le_bytes())]);
    b.numbers(bias[0], &[3]);
    let output = b.table(tensors[3], &[(0, LATER), (1, &[0])]);
    b.numbers(output[0], &[1, 2, 4, 3]);
    b.numbers(graph[1], &[0]);
    b.numbers(graph[2], &[3]);
    b.vector(graph[4], 4, b"main");

    let operators = b.tables(graph[3], 2);
    let fields: [Field<'_>; 5] = [(0, &0u32.to_le_bytes()), (1, LATER), (2, LATER), (3, &[1]), (4, LATER)];
    let operator = b.table(operators[0], &fields);
    places.operator_code = operator[0];
    places.operator_inputs = b.numbers(operator[1], &[0, 1, 2]);
    b.numbers(operator[2], &[3]);
    let options = b.table(operator[4], &[(0, &[1]), (1, &1i32.to_le_bytes()), (2, &2i32.to_le_bytes()), (3, &[3])]);
    places.padding = options[0];
    let custom = b.table(operators[1], &[(0, &1u32.to_le_bytes()), (1, LATER), (2, LATER)]);
    b.numbers(custom[1], &[3, -1]);
    b.numbers(custom[2], &[3]);
    (b.0, places)
}

#[test]
fn a_file_is_described_as_it_is() {
    let (bytes, _) = convolution();
    let model = Model::from_bytes("test", bytes).unwrap();
    assert_eq!(model.description, "test");
    assert_eq!(model.metadata_bytes("notes"), Some(&[1, 2, 3, 250, 251, 252][..]));
    let [graph] = &model.subgraphs[..] else { panic!("one network") };
    assert_eq!((&graph.name[..], &graph.inputs[..], &graph.outputs[..]), ("main", &[0][..], &[3][..]));
    let [operator, custom] = &graph.operators[..] else { panic!("two operators") };
    assert_eq!(operator.name, "CONV_2D");
    assert_eq!(operator.inputs, [Some(0), Some(1), Some(2)]);
    // The file has the width's stride before the height's.
    let window = Window { padding: Padding::Valid, stride: [2, 1] };
    let wanted = Options::Conv2d { window, dilation: [1, 1], activation: Activation::Relu6 };
    assert_eq!(operator.options, wanted);
    assert_eq!(custom.name, "My\\u{1b}[2Jop", "control characters are escaped");
    assert_eq!(custom.inputs, [Some(3), None]);

    let [pixels, weights, bias, output] = &graph.tensors[..] else { panic!("four tensors") };
    assert_eq!((pixels.dtype, &pixels.shape[..], pixels.is_constant()), (DType::F32, &[1, 4, 4, 2][..], false));
    assert_eq!((weights.dtype, &weights.quantization.scale[..]), (DType::U8, &[0.5, 0.25, 2.0][..]));
    assert_eq!((&weights.quantization.zero_point[..], weights.quantization.axis), (&[0, 128, 255][..], 0));
    assert_eq!(model.values(weights).unwrap(), Some(vec![1.0, 2.0, 3.0, 250.0, 251.0, 252.0]));
    assert_eq!(model.integers(bias).unwrap(), Some(vec![1, 2, -1]));
    assert_eq!(model.values(output).unwrap(), None);
}

#[test]
fn files_that_lie_are_refused() {
    let (good, places) = convolution();
    let refused = |name: &str, at: usize, value: &[u8], wanted: &str| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        let error = Model::from_bytes("test", bytes).expect_err(name).to_string();
        assert!(error.contains(wanted), "{name}: {error}");
    };
    let all = &[0xff; 4];
    refused("identifier", 4, b"TFL2", "not a TFLite network");
    refused("version", places.version, &[9], "another version");
    refused("root at itself", 0, &[0; 4], "distance 0");
    refused("root past the end", 0, all, "truncated");
    refused("operator code", places.operator_code, &[7], "operator code 7 of 2");
    refused("tensor of an operator", places.operator_inputs, &[4], "tensor 4 of 4");
    refused("negative tensor", places.operator_inputs, &(-2i32).to_le_bytes(), "tensor -2 of 4");
    refused("padding", places.padding, &[2], "padding 2");
    refused("negative side", places.shape, &(-4i32).to_le_bytes(), "a side of -4");
    refused("scale NaN", places.scale, &f32::NAN.to_le_bytes(), "a scale of NaN");
    refused("scale zero", places.scale, &[0; 4], "a scale of 0");
    refused("zero points", places.zero_points, &[2], "3 scales and 2 zero points");
    refused("axis", places.axis, &[3], "along dimension 3");
    refused("negative axis", places.axis, all, "3 scales");
    refused("buffer", places.buffer_index, &[3], "buffer 3 of 3");
    refused("data past the end", places.data_count, all, "truncated");
    refused("tensors past the end", places.tensors, all, "truncated");
    refused("tensor at itself", places.first_tensor, &[0; 4], "distance 0");

    // What is found only when the data are asked for.
    let mut bytes = good.clone();
    bytes[places.data_count] = 5;
    let model = Model::from_bytes("test", bytes).unwrap();
    let error = model.values(&model.subgraphs[0].tensors[1]).unwrap_err().to_string();
    assert!(error.contains("5 bytes for shape [3, 1, 1, 2]"), "{error}");
}

#[test]
fn one_table_named_a_million_times_is_too_large() {
    let mut b = Builder(vec![0; 4]);
    b.0.extend(b"TFL3");
    let root = b.table(0, &[(0, &3u32.to_le_bytes()), (2, LATER), (4, LATER)]);
    let buffers = b.tables(root[2], 1);
    b.table(buffers[0], &[]);
    let graphs = b.tables(root[1], 1);
    let graph = b.table(graphs[0], &[(0, LATER)]);
    let tensors = b.tables(graph[0], 50_000);
    // The same table under all of them, with a name of 4,000 letters.
    let table = b.0.len();
    let tensor = b.table(tensors[0], &[(3, LATER)]);
    b.vector(tensor[0], 4000, &[b'a'; 4000]);
    let start = table + 4 + 2 * 4;
    for place in tensors {
        b.0[place..place + 4].copy_from_slice(&((start - place) as u32).to_le_bytes());
    }
    let error = Model::from_bytes("test", b.0).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

/// Everything that can be asked of a model.
fn read_all(bytes: Vec<u8>) -> bool {
    let Ok(model) = Model::from_bytes("test", bytes) else { return false };
    for tensor in model.subgraphs.iter().flat_map(|graph| &graph.tensors) {
        let _ = (model.data(tensor), model.values(tensor), model.integers(tensor));
    }
    true
}

#[test]
fn cut_and_changed_files_never_panic() {
    let (good, _) = convolution();
    assert!(read_all(good.clone()));
    for length in 0..good.len() {
        read_all(good[..length].to_vec());
    }
    for at in 0..good.len() {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            read_all(bytes);
        }
        for value in [[0; 4], [0xff; 4], [0xff, 0xff, 0xff, 0x7f], [0, 0, 0, 0x80]] {
            let mut bytes = good.clone();
            let end = (at + 4).min(bytes.len());
            bytes[at..end].copy_from_slice(&value[..end - at]);
            read_all(bytes);
        }
    }
}

#[test]
fn published_files_are_read_and_survive_changes() {
    let Some(data) = std::env::var_os("SUPPLE_DATA") else {
        println!("skipped: SUPPLE_DATA is not set");
        return;
    };
    let folder = Path::new(&data).join("vision");
    let mut state = 7u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "tflite") {
            continue;
        }
        files += 1;
        let good = std::fs::read(&path).unwrap();
        assert!(read_all(good.clone()), "{}", path.display());
        let error = Weights::open(&path).unwrap_err().to_string();
        assert!(error.contains("a TFLite network"), "{error}");
        for i in 0..40 {
            read_all(good[..good.len() * i / 40].to_vec());
        }
        // Tables lie at the end or at the beginning, weights between.
        for _ in 0..60 {
            let mut bytes = good.clone();
            let reach = 20_000.min(bytes.len());
            let at = if random() % 2 == 0 { random() % reach } else { bytes.len() - 1 - random() % reach };
            bytes[at] = random() as u8;
            read_all(bytes);
        }
    }
    assert!(files > 0);
}
