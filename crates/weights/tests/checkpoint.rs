//! Language models under their Hugging Face names, from every container; folders that lie are errors.
//!
//! A real llama2.c model is read from the folder `llm` of `SUPPLE_DATA`; without it that test is skipped.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use supple_weights::Error;
use supple_weights::checkpoint::{Checkpoint, IntegerMatrix, RopeLayout, Stored};
use supple_weights::gguf::{BlockType, Gguf, NewTensor, Value, save};

/// A tensor of a safetensors file: name, type, shape, bytes.
type Tensor<'a> = (&'a str, &'a str, Vec<usize>, Vec<u8>);

fn safetensors(path: &Path, tensors: &[Tensor]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let from = data.len();
        data.extend(bytes);
        header.insert(name.to_string(), json!({"dtype": dtype, "shape": shape, "data_offsets": [from, data.len()]}));
    }
    let header = Json::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    std::fs::write(path, bytes).unwrap();
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A folder with `config.json` and one file of weights.
fn folder(config: &Json, tensors: &[Tensor]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    safetensors(&folder.path().join("model.safetensors"), tensors);
    folder
}

fn matrix(model: &Checkpoint, name: &str) -> Result<IntegerMatrix, Error> {
    match model.tensor(name)? {
        Stored::Integers(matrix) => Ok(matrix),
        Stored::Blocks { block_type, .. } => panic!("{name} is stored as {block_type}"),
    }
}

fn plain(model: &Checkpoint, name: &str) -> (Vec<usize>, BlockType, Vec<u8>) {
    match model.tensor(name).unwrap() {
        Stored::Blocks { shape, block_type, bytes } => (shape, block_type, bytes.into_owned()),
        Stored::Integers(_) => panic!("{name} is stored as integers"),
    }
}

/// Codes that fill `bits` and are no simple sequence.
fn codes(count: usize, bits: u32) -> Vec<u8> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 & ((1u32 << bits) - 1) as u8).collect()
}

/// Bits of codes in a row, the lowest first.
fn pack(codes: impl IntoIterator<Item = u8>, bits: u32) -> Vec<u32> {
    let bools: Vec<bool> = codes.into_iter().flat_map(|code| (0..bits).map(move |bit| code >> bit & 1 == 1)).collect();
    bools.chunks(32).map(|word| word.iter().enumerate().map(|(i, &bit)| u32::from(bit) << i).sum()).collect()
}

/// `[rows][columns]` the other way round.
fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

const ROWS: usize = 32;
const COLUMNS: usize = 64;
const GROUP: usize = 16;
const GROUPS: usize = COLUMNS / GROUP;

fn scales() -> Vec<f32> {
    (0..ROWS * GROUPS).map(|i| 0.5 + i as f32 / 64.0).collect()
}

#[test]
fn gptq_of_every_width_and_version_is_unpacked() {
    for (bits, version, act_order) in
        [(2, 1, false), (3, 1, true), (3, 2, false), (4, 1, true), (4, 2, true), (8, 1, false)]
    {
        let (wanted, zeros) = (codes(ROWS * COLUMNS, bits), codes(ROWS * GROUPS, bits));
        let largest = ((1u32 << bits) - 1) as u8;
        // A column of words a row of the matrix.
        let columns: Vec<u32> = wanted.chunks(COLUMNS).flat_map(|row| pack(row.iter().copied(), bits)).collect();
        let stored = |zero: u8| if version == 1 { zero.wrapping_sub(1) & largest } else { zero };
        let zero_rows: Vec<u32> = transposed(&zeros, ROWS, GROUPS)
            .chunks(ROWS)
            .flat_map(|row| pack(row.iter().map(|&zero| stored(zero)), bits))
            .collect();
        let (high, wide) = (columns.len() / ROWS, zero_rows.len() / GROUPS);
        let groups: Vec<u32> =
            (0..COLUMNS as u32).map(|i| if act_order { i % GROUPS as u32 } else { i / GROUP as u32 }).collect();
        let name = "model.layers.0.self_attn.q_proj";
        let format = if version == 1 { "gptq" } else { "gptq_v2" };
        let config = json!({"quantization_config": {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "checkpoint_format": format}});
        let folder = folder(
            &config,
            &[
                (&format!("{name}.qweight"), "I32", vec![high, ROWS], words(&transposed(&columns, ROWS, high))),
                (&format!("{name}.qzeros"), "I32", vec![GROUPS, wide], words(&zero_rows)),
                (&format!("{name}.scales"), "F32", vec![GROUPS, ROWS], f32s(&transposed(&scales(), ROWS, GROUPS))),
                (&format!("{name}.g_idx"), "I32", vec![COLUMNS], words(&groups)),
                ("model.norm.weight", "F32", vec![1], f32s(&[2.0])),
            ],
        );
        let model = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(model.names().collect::<Vec<_>>(), [&format!("{name}.weight"), "model.norm.weight"]);
        let found = matrix(&model, &format!("{name}.weight")).unwrap();
        assert_eq!(found.codes, wanted, "{bits} bits");
        assert_eq!(found.zeros, zeros.iter().map(|&zero| i16::from(zero)).collect::<Vec<_>>(), "{bits} bits");
        assert_eq!((found.scales.clone(), found.group_of.is_some()), (scales(), act_order));
        let values = found.dequantize();
        for (i, value) in values.iter().enumerate() {
            let at = i / COLUMNS * GROUPS + groups[i % COLUMNS] as usize;
            assert_eq!(*value, (f32::from(wanted[i]) - f32::from(zeros[at])) * scales()[at]);
        }
        assert_eq!(plain(&model, "model.norm.weight").2, f32s(&[2.0]));
    }
}

#[test]
fn awq_is_unpacked() {
    let (wanted, zeros) = (codes(ROWS * COLUMNS, 4), codes(ROWS * GROUPS, 4));
    // Nibble i of a word is column [0, 2, 4, 6, 1, 3, 5, 7][i] of eight.
    let pack8 = |lines: Vec<u8>| -> Vec<u32> {
        lines
            .chunks(8)
            .map(|eight| {
                [0, 2, 4, 6, 1, 3, 5, 7].iter().enumerate().map(|(i, &at)| u32::from(eight[at]) << (4 * i)).sum()
            })
            .collect()
    };
    let config =
        json!({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}});
    let folder = folder(
        &config,
        &[
            ("a.qweight", "I32", vec![COLUMNS, ROWS / 8], words(&pack8(transposed(&wanted, ROWS, COLUMNS)))),
            ("a.qzeros", "I32", vec![GROUPS, ROWS / 8], words(&pack8(transposed(&zeros, ROWS, GROUPS)))),
            ("a.scales", "F32", vec![GROUPS, ROWS], f32s(&transposed(&scales(), ROWS, GROUPS))),
        ],
    );
    let found = matrix(&Checkpoint::open(folder.path()).unwrap(), "a.weight").unwrap();
    assert_eq!((found.rows, found.columns, found.bits, found.group_size), (ROWS, COLUMNS, 4, GROUP));
    assert_eq!(found.codes, wanted);
    assert_eq!(found.zeros, zeros.iter().map(|&zero| i16::from(zero)).collect::<Vec<_>>());
    assert_eq!(found.scales, scales());
}

fn compressed(bits: u32, format: &str) -> Json {
    let weights = json!({"num_bits": bits, "type": "int", "group_size": GROUP, "strategy": "group"});
    json!({"quantization_config": {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": {"weights": weights}}}})
}

#[test]
fn compressed_tensors_are_unpacked() {
    for bits in [2, 3, 4, 5, 8] {
        let (wanted, zeros) = (codes(ROWS * COLUMNS, bits), codes(ROWS * GROUPS, bits));
        let packed: Vec<u32> = wanted.chunks(COLUMNS).flat_map(|row| pack(row.iter().copied(), bits)).collect();
        let columns: Vec<u32> = transposed(&zeros, ROWS, GROUPS)
            .chunks(ROWS)
            .flat_map(|column| pack(column.iter().copied(), bits))
            .collect();
        let high = columns.len() / GROUPS;
        let mut tensors = vec![
            ("a.weight_packed", "I32", vec![ROWS, packed.len() / ROWS], words(&packed)),
            ("a.weight_scale", "F32", vec![ROWS, GROUPS], f32s(&scales())),
            (
                "a.weight_shape",
                "I64",
                vec![2],
                [ROWS as u64, COLUMNS as u64].iter().flat_map(|side| side.to_le_bytes()).collect(),
            ),
            ("lm_head.weight", "BF16", vec![1, 2], vec![0, 1, 2, 3]),
        ];
        let middle = vec![1i16 << (bits - 1); ROWS * GROUPS];
        let open = |tensors: &[Tensor]| {
            let folder = folder(&compressed(bits, "pack-quantized"), tensors);
            let model = Checkpoint::open(folder.path()).unwrap();
            assert_eq!(plain(&model, "lm_head.weight"), (vec![1, 2], BlockType::BF16, vec![0, 1, 2, 3]));
            matrix(&model, "a.weight").unwrap()
        };
        let found = open(&tensors);
        assert_eq!((&found.codes, &found.zeros, &found.scales), (&wanted, &middle, &scales()), "{bits} bits");
        tensors.push(("a.weight_zero_point", "I32", vec![high, GROUPS], words(&transposed(&columns, GROUPS, high))));
        assert_eq!(open(&tensors).zeros, zeros.iter().map(|&zero| i16::from(zero)).collect::<Vec<_>>(), "{bits} bits");
    }
}

#[test]
fn bytes_with_a_scale_a_row_are_unpacked() {
    let bytes: Vec<u8> = [-128i8, 0, 127, -1, 5, -6].iter().map(|&value| value as u8).collect();
    let folder = folder(
        &compressed(8, "int-quantized"),
        &[("a.weight", "I8", vec![2, 3], bytes), ("a.weight_scale", "F32", vec![2, 1], f32s(&[0.5, 2.0]))],
    );
    let found = matrix(&Checkpoint::open(folder.path()).unwrap(), "a.weight").unwrap();
    assert_eq!(found.dequantize(), [-64.0, 0.0, 63.5, -2.0, 10.0, -12.0]);
}

#[test]
fn quantised_layers_that_contradict_themselves_are_errors() {
    let config = json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 8}});
    let good: Vec<Tensor> = vec![
        ("a.qweight", "I32", vec![2, 8], words(&[0; 16])),
        ("a.qzeros", "I32", vec![2, 1], words(&[0; 2])),
        ("a.scales", "F32", vec![2, 8], f32s(&[1.0; 16])),
        ("a.g_idx", "I32", vec![16], words(&[0; 16])),
    ];
    let read = |tensors: &[Tensor], config: &Json| {
        let folder = folder(config, tensors);
        Checkpoint::open(folder.path()).and_then(|model| matrix(&model, "a.weight")).map(drop)
    };
    read(&good, &config).unwrap();
    let bad: [(usize, Tensor); 8] = [
        (0, ("a.qweight", "I32", vec![3, 8], words(&[0; 24]))),
        (0, ("a.qweight", "F32", vec![2, 8], f32s(&[0.0; 16]))),
        (0, ("a.qweight", "I32", vec![2, 2, 4], words(&[0; 16]))),
        (1, ("a.qzeros", "I32", vec![1, 1], words(&[0]))),
        (2, ("a.scales", "F32", vec![1, 8], f32s(&[1.0; 8]))),
        (2, ("a.scales", "F32", vec![2, 8], f32s(&[f32::NAN; 16]))),
        (3, ("a.g_idx", "I32", vec![16], words(&[2; 16]))),
        (3, ("a.g_idx", "I32", vec![16], words(&[u32::MAX; 16]))),
    ];
    for (index, tensor) in bad {
        let mut tensors = good.clone();
        tensors[index] = tensor.clone();
        let error = read(&tensors, &config).expect_err(&format!("{tensor:?}"));
        assert!(error.to_string().contains("\"a."), "{error}");
    }
    for missing in 1..3 {
        let mut tensors = good.clone();
        tensors.remove(missing);
        assert!(matches!(read(&tensors, &config), Err(Error::MissingTensor { .. })));
    }
    for settings in [
        json!({"quant_method": "gptq", "bits": 40}),
        json!({"quant_method": "gptq"}),
        json!({"quant_method": "awq", "bits": 3}),
        json!({"quant_method": "bitsandbytes"}),
        json!({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"type": "float", "num_bits": 8}}}}),
        json!({"quant_method": "compressed-tensors"}),
        json!("gptq"),
    ] {
        let error = read(&good, &json!({"quantization_config": settings})).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    // A shape that no memory holds.
    let config = compressed(4, "pack-quantized");
    let shape =
        |rows: u64, columns: u64| [rows, columns].iter().flat_map(|side| side.to_le_bytes()).collect::<Vec<u8>>();
    for (rows, columns) in [(2, 1 << 40), (u64::MAX, 8), (2, u64::MAX), (1, 8)] {
        let tensors: Vec<Tensor> = vec![
            ("a.weight_packed", "I32", vec![2, 1], words(&[0; 2])),
            ("a.weight_scale", "F32", vec![2, 1], f32s(&[1.0; 2])),
            ("a.weight_shape", "U64", vec![2], shape(rows, columns)),
        ];
        assert!(read(&tensors, &config).is_err(), "{rows} by {columns}");
    }
}

#[test]
fn a_folder_of_shards_is_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    safetensors(&at("model-1.safetensors"), &[("a", "F16", vec![2], vec![1, 2, 3, 4])]);
    safetensors(
        &at("model-2.safetensors"),
        &[("b", "F32", vec![1], f32s(&[7.0])), ("unlisted", "F32", vec![0], vec![])],
    );
    let index =
        |map: Json| std::fs::write(at("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    index(json!({"a": "model-1.safetensors", "b": "model-2.safetensors"}));
    let model = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(model.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(plain(&model, "a"), (vec![2], BlockType::F16, vec![1, 2, 3, 4]));
    assert_eq!(plain(&model, "b").2, f32s(&[7.0]));
    assert!(matches!(model.tensor("c"), Err(Error::MissingTensor { .. })));
    assert_eq!(*model.config(), Json::Null);

    std::fs::create_dir(at("sub")).unwrap();
    safetensors(&at("sub/model-1.safetensors"), &[("a", "F16", vec![2], vec![1, 2, 3, 4])]);
    let outside = folder.path().join("model-1.safetensors").display().to_string();
    for shard in [
        "../model-1.safetensors",
        "sub/model-1.safetensors",
        "sub\\x",
        &outside,
        "",
        ".",
        "..",
        "a\0b",
        "C:x",
        "\u{1b}[2J",
    ] {
        index(json!({ "a": shard }));
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is no file in this folder") && !error.contains('\u{1b}'), "{error}");
    }
    // The index as its own shard, files that are not there or lack the tensor, and what is no index.
    for (map, wanted) in [
        (json!({"a": "model.safetensors.index.json"}), "found text"),
        (json!({"a": "absent.safetensors"}), "cannot open"),
        (json!({"a": "sub"}), "cannot"),
        (json!({"b": "model-1.safetensors"}), "is not in"),
        (json!({"a": 1}), "no text"),
        (json!({}), "empty weight_map"),
        (json!(["a"]), "no weight_map"),
    ] {
        index(map);
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    std::fs::write(at("model.safetensors.index.json"), "[".repeat(100_000)).unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(Error::Damaged { .. })));
}

#[test]
fn a_folder_without_a_model_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("without model.safetensors"), "{error}");
    for name in ["x.safetensors", "y.safetensors"] {
        safetensors(&folder.path().join(name), &[("a", "F32", vec![0], vec![])]);
    }
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("several .safetensors"), "{error}");
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    std::fs::remove_file(folder.path().join("y.safetensors")).unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(Error::Damaged { .. })));
}

fn tiny_gguf(path: &Path, architecture: &str, extra: &[(&str, Value)], names: &[&str]) {
    let number = |key: &str, value: u32| (format!("{architecture}.{key}"), Value::U32(value));
    let mut metadata = vec![
        ("general.architecture".to_string(), Value::from(architecture)),
        number("block_count", 1),
        number("context_length", 128),
        number("embedding_length", 8),
        number("feed_forward_length", 16),
        number("attention.head_count", 4),
        number("attention.head_count_kv", 2),
        (format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
        (format!("{architecture}.rope.freq_base"), Value::F32(1e5)),
        ("tokenizer.ggml.eos_token_id".to_string(), Value::U32(2)),
    ];
    metadata.extend(extra.iter().map(|(key, value)| (key.to_string(), value.clone())));
    let tensors: Vec<NewTensor> = names
        .iter()
        .map(|name| NewTensor { name: name.to_string(), shape: vec![4, 8], block_type: BlockType::I8 })
        .collect();
    save(path, &metadata, &tensors, |index, output| {
        output.resize(32, index as u8);
        Ok::<(), Error>(())
    })
    .unwrap();
}

#[test]
fn what_was_let_go_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny_gguf(&path, "llama", &[], &["token_embd.weight", "blk.0.attn_q.weight"]);
    let mapped = Checkpoint::open(&path).unwrap();
    let given = Checkpoint::of_gguf(Gguf::from_bytes("memory", std::fs::read(&path).unwrap()).unwrap()).unwrap();
    for model in [mapped, given] {
        let names: Vec<String> = model.names().map(String::from).collect();
        let before: Vec<_> = names.iter().map(|name| plain(&model, name)).collect();
        for name in names.iter().map(String::as_str).chain(["no.such.tensor"]) {
            model.release(name);
        }
        let after: Vec<_> = names.iter().map(|name| plain(&model, name)).collect();
        assert!(before == after && before[1].2 == [1; 32]);
    }
}

#[test]
fn a_gguf_file_has_hugging_face_names_and_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny_gguf(&path, "llama", &[], &["token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_norm.weight", "strange"]);
    let model = Checkpoint::open(&path).unwrap();
    assert_eq!(
        model.names().collect::<Vec<_>>(),
        [
            "model.embed_tokens.weight",
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "strange",
        ]
    );
    assert_eq!(plain(&model, "model.layers.0.self_attn.q_proj.weight"), (vec![4, 8], BlockType::I8, vec![1; 32]));
    assert_eq!(model.conventions().rope, RopeLayout::Interleaved);
    assert!(!model.conventions().norms_include_one);
    assert_eq!(
        *model.config(),
        json!({
            "model_type": "llama", "num_hidden_layers": 1, "max_position_embeddings": 128, "hidden_size": 8,
            "intermediate_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2,
            "rms_norm_eps": 1e-5, "rope_theta": 1e5, "eos_token_id": 2, "vocab_size": 4, "tie_word_embeddings": true,
            "hidden_act": "silu",
        })
    );
    // The folder that has this file only is the same model.
    assert_eq!(Checkpoint::open(folder.path()).unwrap().config(), model.config());

    let extra = [
        ("gemma2.attention.key_length", Value::U32(4)),
        ("gemma2.final_logit_softcapping", Value::F32(30.0)),
        ("gemma2.rope.scaling.type", Value::from("yarn")),
        ("gemma2.rope.scaling.factor", Value::F32(4.0)),
    ];
    tiny_gguf(&path, "gemma2", &extra, &["blk.0.ffn_norm.weight", "output.weight"]);
    let model = Checkpoint::open(&path).unwrap();
    assert!(model.contains("model.layers.0.pre_feedforward_layernorm.weight"));
    assert_eq!((model.conventions().rope, model.conventions().norms_include_one), (RopeLayout::Halves, true));
    let config = model.config();
    assert_eq!(
        (&config["head_dim"], &config["query_pre_attn_scalar"], &config["final_logit_softcapping"]),
        (&json!(4), &json!(4), &json!(30.0))
    );
    assert_eq!(config["rope_scaling"], json!({"rope_type": "yarn", "factor": 4.0}));
    assert_eq!(config["tie_word_embeddings"], json!(false));
}

#[test]
fn a_gguf_in_several_files_is_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: u32| folder.path().join(format!("big-{number:05}-of-00002.gguf"));
    let part = |number: u32, names: &[&str]| {
        let extra = [("split.count", Value::U16(2)), ("split.no", Value::U16(number as u16))];
        tiny_gguf(&path(number + 1), "llama", &extra, names);
    };
    part(0, &["token_embd.weight"]);
    assert!(matches!(Checkpoint::open(&path(1)), Err(Error::Io { .. })), "the second file is missing");
    part(1, &["output.weight", "output_norm.weight"]);
    let model = Checkpoint::open(&path(1)).unwrap();
    assert_eq!(model.names().count(), 3);
    assert_eq!(plain(&model, "model.norm.weight").2, [1; 32]);
    assert!(Checkpoint::open(&path(2)).unwrap_err().to_string().contains("not the first"));
    part(1, &["token_embd.weight"]);
    assert!(Checkpoint::open(&path(1)).unwrap_err().to_string().contains("twice"));
    std::fs::copy(path(1), path(2)).unwrap();
    assert!(Checkpoint::open(&path(1)).unwrap_err().to_string().contains("not file 2 of 2"));
}

#[test]
fn llama2c_files_are_told_by_their_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    // dim, hidden, layers, heads, key-value heads, vocabulary (negative: its own head), context
    let header = [4i32, 6, 2, 2, 1, -3, 5];
    let floats = 3 * 4 + 2 * (4 + 16 + 8 + 8 + 16 + 4 + 24 + 24 + 24) + 4 + 5 * 2 + 3 * 4;
    let mut bytes: Vec<u8> = header.iter().flat_map(|value| value.to_le_bytes()).collect();
    bytes.extend(f32s(&(0..floats).map(|i| i as f32).collect::<Vec<_>>()));
    std::fs::write(&path, &bytes).unwrap();
    let model = Checkpoint::open(&path).unwrap();
    assert_eq!(model.names().count(), 2 + 2 * 9 + 1);
    assert_eq!(plain(&model, "model.layers.1.input_layernorm.weight").2, f32s(&[16.0, 17.0, 18.0, 19.0]));
    let head = plain(&model, "lm_head.weight");
    assert_eq!((head.0, head.2), (vec![3, 4], f32s(&(floats - 12..floats).map(|i| i as f32).collect::<Vec<_>>())));
    assert_eq!(model.config()["tie_word_embeddings"], json!(false));
    assert_eq!(model.conventions().rope, RopeLayout::Interleaved);
    bytes.push(0);
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(Checkpoint::open(&path), Err(Error::UnknownFormat { .. })));
    // Sides whose product overflows.
    let absurd: Vec<u8> = [1i32 << 24; 7].iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(&path, absurd).unwrap();
    assert!(Checkpoint::open(&path).is_err());
}

#[test]
fn a_published_llama2c_model_is_read() {
    let Some(data) = std::env::var_os("SUPPLE_DATA").map(PathBuf::from) else {
        println!("skipped: SUPPLE_DATA is not set");
        return;
    };
    let model = Checkpoint::open(&data.join("llm/stories260K.bin")).unwrap();
    let config = model.config();
    assert_eq!(
        (&config["hidden_size"], &config["num_hidden_layers"], &config["vocab_size"]),
        (&json!(64), &json!(5), &json!(512))
    );
    let mut parameters = 0;
    for name in model.names() {
        let (shape, _, bytes) = plain(&model, name);
        assert_eq!(bytes.len(), shape.iter().product::<usize>() * 4);
        assert!(bytes.as_chunks::<4>().0.iter().all(|raw| f32::from_le_bytes(*raw).abs() < 1e3), "{name}");
        parameters += shape.iter().product::<usize>();
    }
    assert_eq!(parameters, 260_032);
}
