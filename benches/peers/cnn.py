#!/usr/bin/env python3
"""MobileNet in other engines: the same network, weights, input and threads as Supple, in f32.

    python3 -m venv peers && . peers/bin/activate
    pip install numpy onnx onnxruntime openvino ncnn MNN ai-edge-litert torch

    python benches/peers/cnn.py --supple target/release/supple --isas avx512 avx2 --blocks 4 8 --json cnn.json

Every engine but numpy and onnx is optional: one that is missing is named and left out.

How it measures: each contender runs in a process of its own, which builds the network, checks its output against ONNX
Runtime's and waits. Then rounds are played in which each contender has one burst of runs (the first is not timed), so
that a change of the machine's load meets all of them; each round starts with another contender. The figures are the
median and the minimum over all timed runs, of wall time and, where the engine runs in Python, of the process's CPU
time. A run starts with an f32 array in the engine's own layout and ends with the scores as an f32 array. Supple's burst
is one call of `supple bench cnn`; its median is that of the medians of the calls. Where the system permits it, the
script makes itself and its children real-time (`SCHED_FIFO`, as `chrt -f 1`), so that other work on the machine is kept
from the timed core.

Where the network comes from: `mobilenet_v1` and `mobilenet_v2` list the layers; the weights are random, drawn from a
seed for each layer. `onnx_model` (ONNX Runtime, OpenVINO, MNN), `ncnn_model` and `tflite_model` (LiteRT) write them
down, `torch_run` runs them. Padding is TensorFlow's SAME.

Sparse peers (`--sparsities`), zeros in the 1x1 convolutions only:

* `mnn-1x4`: MNN with blocks of 4 output channels x 1 input channel, the pattern its kernels are made for. Its converter
  takes a layer as sparse only where more than 30 % of the weights are zero.
* `litert-sparse`: XNNPACK, with zeros anywhere. Its planar kernels want explicit padding of one pixel on each side, and
  it computes the dense network unless more than two thirds of all 1x1 weights are zero. On x86 with AVX it always does
  (`xnn_is_chw_compatible_config`), so that there this contender is left out.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

CLASSES = 1000

# ---------------------------------------------------------------------------------------------------------------------
# The networks


@dataclasses.dataclass
class Layer:
    """One operator. `kind` is conv, depthwise, add, pool (global average) or dense; `size` is the output's side."""

    kind: str
    name: str
    inputs: list
    channels: int
    size: int
    in_channels: int = 0
    kernel: int = 1
    stride: int = 1
    relu6: bool = False


class Network:
    """A list of layers under construction."""

    def __init__(self, resolution):
        self.layers = [Layer("input", "input", [], 3, resolution)]

    def append(self, kind, inputs, channels, size, **fields):
        name = f"{kind}_{len(self.layers)}"
        self.layers.append(Layer(kind, name, [x.name for x in inputs], channels, size, inputs[0].channels, **fields))
        return self.layers[-1]

    def conv(self, x, channels, kernel=1, stride=1, relu6=True):
        size = -(-x.size // stride)
        return self.append("conv", [x], channels, size, kernel=kernel, stride=stride, relu6=relu6)

    def depthwise(self, x, stride):
        return self.append("depthwise", [x], x.channels, -(-x.size // stride), kernel=3, stride=stride, relu6=True)

    def add(self, a, b):
        return self.append("add", [a, b], a.channels, a.size)

    def head(self, x):
        return self.append("dense", [self.append("pool", [x], x.channels, 1)], CLASSES, 1)


def mobilenet_v1(width, resolution):
    network = Network(resolution)
    channels = lambda n: max(int(n * width), 8)
    x = network.conv(network.layers[0], channels(32), 3, 2)
    for n, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        x = network.conv(network.depthwise(x, stride), channels(n))
    network.head(x)
    return network.layers


def mobilenet_v2(width, resolution):
    network = Network(resolution)

    def channels(n):
        """`n * width` as a multiple of 8 that is not below 90 % of it."""
        rounded = max(8, int(n * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * n * width else rounded

    x = network.conv(network.layers[0], channels(32), 3, 2)
    blocks = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, n, repeats, first_stride in blocks:
        for index in range(repeats):
            stride = first_stride if index == 0 else 1
            y = x if expansion == 1 else network.conv(x, expansion * x.channels)
            y = network.conv(network.depthwise(y, stride), channels(n), relu6=False)
            x = network.add(x, y) if stride == 1 and x.channels == y.channels else y
    network.head(network.conv(x, max(1280, channels(1280))))
    return network.layers


NETWORKS = {"mobilenet_v1": mobilenet_v1, "mobilenet_v2": mobilenet_v2}


@dataclasses.dataclass
class Variant:
    """Which network, with which zeros and which padding: what tells one model file from another."""

    network: str
    width: float
    resolution: int
    sparsity: float = 0.0
    block: int = 1
    """Output channels that are zero together."""
    padding: str = "same"
    """`same` as TensorFlow's, or `one` pixel on each side."""

    def layers(self):
        return NETWORKS[self.network](self.width, self.resolution)

    def weights(self, layer):
        """(weights [out, in, height, width], bias) of a conv, depthwise or dense layer."""
        random = np.random.default_rng(zlib.crc32(layer.name.encode()))
        fan = layer.kernel**2 * (1 if layer.kind == "depthwise" else layer.in_channels)
        shape = (layer.channels, fan // layer.kernel**2, layer.kernel, layer.kernel)
        gain = 2 if layer.relu6 else 1
        weights = random.standard_normal(shape, np.float32) * np.float32(np.sqrt(gain / fan))
        bias = random.standard_normal(layer.channels, np.float32) * np.float32(0.01)
        if self.sparsity and layer.kind == "conv" and layer.kernel == 1:
            weights = self.prune(weights)
        return weights, bias

    def prune(self, weights):
        """Zeros the weakest blocks: just more than the share, because MNN's threshold is exclusive."""
        blocks = weights.reshape(-1, self.block, weights.shape[1])
        strength = np.square(blocks).sum(1)
        zeros = int(self.sparsity * strength.size) + 1
        weakest = np.argsort(strength, axis=None, kind="stable")[:zeros]
        keep = np.ones(strength.size, np.float32)
        keep[weakest] = 0
        return (blocks * keep.reshape(strength.shape)[:, None, :]).reshape(weights.shape)

    def pads(self, layer):
        """Padding before and after, the same for rows and columns."""
        if layer.kernel == 1:
            return 0, 0
        if self.padding == "one" or layer.stride == 1:
            return layer.kernel // 2, layer.kernel // 2
        total = max(0, layer.kernel - layer.stride)  # sides divisible by the stride, as those of MobileNet are
        return total // 2, total - total // 2

    def input(self):
        size = (1, 3, self.resolution, self.resolution)
        return np.random.default_rng(1).uniform(-1, 1, size).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# ONNX: ONNX Runtime, OpenVINO, MNN


def onnx_model(variant):
    """The network as the bytes of an ONNX file: input `input` [1, 3, h, w], output `scores` [1, classes]."""
    import onnx
    from onnx import helper, numpy_helper

    stored = [numpy_helper.from_array(np.float32(n), name) for n, name in ((0, "zero"), (6, "six"))]
    nodes, out = [], {"input": "input"}
    for layer in variant.layers()[1:]:
        inputs, name = [out[x] for x in layer.inputs], layer.name
        if layer.kind == "add":
            nodes.append(helper.make_node("Add", inputs, [name]))
        elif layer.kind == "pool":
            nodes.append(helper.make_node("GlobalAveragePool", inputs, [name + ".mean"]))
            nodes.append(helper.make_node("Flatten", [name + ".mean"], [name]))
        else:
            weights, bias = variant.weights(layer)
            weights = weights[:, :, 0, 0] if layer.kind == "dense" else weights
            arrays = {name + ".weight": weights, name + ".bias": bias}
            stored += [numpy_helper.from_array(np.ascontiguousarray(a), key) for key, a in arrays.items()]
            inputs += arrays
            if layer.kind == "dense":
                name = "scores"
                nodes.append(helper.make_node("Gemm", inputs, [name], transB=1))
            else:
                before, after = variant.pads(layer)
                group = layer.channels if layer.kind == "depthwise" else 1
                fields = dict(kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2, group=group)
                fields["pads"] = [before, before, after, after]
                nodes.append(helper.make_node("Conv", inputs, [name], **fields))
        if layer.relu6:
            nodes.append(helper.make_node("Clip", [name, "zero", "six"], [name + ".relu6"]))
            name += ".relu6"
        out[layer.name] = name
    value = lambda name, shape: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    inputs = [value("input", [1, 3, variant.resolution, variant.resolution])]
    graph = helper.make_graph(nodes, variant.network, inputs, [value("scores", [1, CLASSES])], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def onnxruntime_run(variant, threads, folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(onnx_model(variant), options, providers=["CPUExecutionProvider"])
    x = variant.input()
    return lambda: session.run(None, {"input": x})[0], "graph optimisation: all"


def openvino_run(variant, threads, folder):
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(onnx_model(variant)), "CPU", settings)
    request, x = model.create_infer_request(), variant.input()
    tensor = openvino.Tensor(x, shared_memory=True)

    def run():
        request.infer([tensor])
        return request.get_output_tensor(0).data

    return run, "latency hint, precision hint f32"


# Pipeline { version: "0.0.0", algo { type: PRUNE, prune_params { type: SIMD_OC, simd_oc_pruner_params { oc_blocks }}}}
# of MNN_compression.proto, in protocol buffers' wire format; the last byte is the block.
MNN_PRUNED = bytes.fromhex("0a05302e302e30 120a 0801 1a06 0801 1a02 20")


def mnn_run(variant, threads, folder):
    """MNN through its module API. The converter is called in the extension module that the command `mnnconvert` wraps:
    the wrapper installs a package for usage statistics and sends them."""
    (folder / "net.onnx").write_bytes(onnx_model(variant))
    words = ["mnnconvert", "-f", "ONNX", "--modelFile", f"{folder}/net.onnx", "--MNNModel", f"{folder}/net.mnn"]
    words += ["--bizCode", "bench"]
    note = "precision high"
    if variant.sparsity:
        (folder / "pruned.bin").write_bytes(MNN_PRUNED + bytes([variant.block]))
        words += ["--detectSparseSpeedUp", "--compressionParamsFile", f"{folder}/pruned.bin"]
    script = "import sys, _tools; _tools.mnnconvert(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", script, *words], check=False, capture_output=True, text=True)
    if not (folder / "net.mnn").exists():
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
    if variant.sparsity:
        stored = (folder / "net.mnn").stat().st_size / (folder / "net.onnx").stat().st_size
        layers = (folder / "net.mnn").read_bytes().count(b"sparseBlockOC")
        if layers == 0:
            raise RuntimeError("the converter took no layer as sparse")
        note += f", {layers} sparse layers, blocks of {variant.block}, file at {stored:.0%} of the dense size"

    import MNN

    manager = MNN.nn.create_runtime_manager(({"precision": "high", "backend": 0, "numThread": threads},))
    net = MNN.nn.load_module_from_file(f"{folder}/net.mnn", ["input"], ["scores"], runtime_manager=manager)
    x = variant.input()
    x = MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)

    def run():
        y = net.forward([x])
        return (y[0] if isinstance(y, (list, tuple)) else y).read()

    run.keep = manager
    return run, note


# ---------------------------------------------------------------------------------------------------------------------
# ncnn


def ncnn_model(variant, folder):
    """Writes net.param (a text of layers) and net.bin (their weights in the same order); returns the output's name.
    What is read more than once passes through a Split."""
    layers, readers = variant.layers(), {}
    for layer in layers:
        for x in layer.inputs:
            readers[x] = readers.get(x, 0) + 1
    lines, stored, copies, blobs = [], [], {}, 0
    for layer in layers:
        inputs = [copies[x].pop() if x in copies else x for x in layer.inputs]
        kind, fields = {"input": ("Input", ""), "add": ("BinaryOp", "0=0"), "pool": ("Pooling", "0=1 4=1")}.get(
            layer.kind, ("", "")
        )
        if not kind:
            weights, bias = variant.weights(layer)
            before, after = variant.pads(layer)
            stored += [np.zeros(1, np.uint32), weights, bias]  # a zero tag: the weights follow as f32
            kind = {"conv": "Convolution", "depthwise": "ConvolutionDepthWise", "dense": "InnerProduct"}[layer.kind]
            fields = (
                f"0={layer.channels} 1={layer.kernel} 3={layer.stride} 4={before} 14={before} 15={after} 16={after}"
            )
            fields += f" 5=1 6={weights.size}"
            fields += f" 7={layer.channels}" if layer.kind == "depthwise" else ""
            fields += " 9=3 -23310=2,0.0,6.0" if layer.relu6 else ""
            if layer.kind == "dense":
                fields = f"0={layer.channels} 1=1 2={weights.size}"
        lines.append(" ".join([kind, layer.name, str(len(inputs)), "1", *inputs, layer.name, fields]))
        blobs += 1
        if readers.get(layer.name, 0) > 1:
            copies[layer.name] = [f"{layer.name}.{i}" for i in range(readers[layer.name])]
            blobs += len(copies[layer.name])
            counts = ["1", str(len(copies[layer.name]))]
            lines.append(" ".join(["Split", layer.name + ".split", *counts, layer.name, *copies[layer.name]]))
    (folder / "net.param").write_text(f"7767517\n{len(lines)} {blobs}\n" + "\n".join(lines) + "\n")
    (folder / "net.bin").write_bytes(b"".join(array.tobytes() for array in stored))
    return layers[-1].name


def ncnn_run(variant, threads, folder):
    import ncnn

    net = ncnn.Net()
    option = net.opt
    option.num_threads, option.use_vulkan_compute = threads, False
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
    option.use_bf16_storage = option.use_bf16_packed = False
    blobs, workspace = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()  # as in ncnn's own benchmark
    option.blob_allocator, option.workspace_allocator = blobs, workspace
    out = ncnn_model(variant, folder)
    if net.load_param(f"{folder}/net.param") or net.load_model(f"{folder}/net.bin"):
        raise RuntimeError("ncnn could not load the model")
    array = variant.input()[0]
    x = ncnn.Mat(array)  # borrows the array

    def run():
        extractor = net.create_extractor()
        extractor.input("input", x)
        status, y = extractor.extract(out)
        if status:
            raise RuntimeError(f"ncnn returned {status}")
        result = np.array(y)
        del y, extractor
        return result

    run.keep = (array, blobs, workspace)
    return run, "no fp16, no bf16, pool allocators"


# ---------------------------------------------------------------------------------------------------------------------
# LiteRT (TensorFlow Lite) with XNNPACK


class TfliteWriter:
    """Writes the network as a TFLite file in NHWC. Sparse weights are stored row-compressed, each with a DENSIFY, by
    which the XNNPACK delegate knows that it may keep them sparse."""

    def __init__(self, variant):
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.variant = schema, variant
        self.graph, self.buffers, self.codes = schema.SubGraphT(), [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, name, shape, data=None, kind="FLOAT32"):
        tensor, buffer = self.schema.TensorT(), 0
        if data is not None:
            buffer = len(self.buffers)
            self.buffers.append(self.schema.BufferT())
            self.buffers[-1].data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        tensor.name, tensor.shape, tensor.buffer = name, np.array(shape, np.int32), buffer
        tensor.type = getattr(self.schema.TensorType, kind)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, name, inputs, output, options=None, **fields):
        code = getattr(self.schema.BuiltinOperator, name)
        if code not in self.codes:
            self.codes.append(code)
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self.codes.index(code), inputs, [output]
        if options:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.schema, options + "T")()
            for key, value in fields.items():
                setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)
        return output

    def sparse(self, name, weights):
        """[out, 1, 1, in] weights, stored without their zeros."""
        rows = weights.reshape(weights.shape[0], -1)
        stored = self.tensor(name + ".stored", weights.shape, rows[rows != 0])
        metadata = []
        for size in weights.shape[:3]:
            metadata.append(self.schema.DimensionMetadataT())
            metadata[-1].format, metadata[-1].denseSize = self.schema.DimensionType.DENSE, size
        metadata.append(self.schema.DimensionMetadataT())
        metadata[-1].format = self.schema.DimensionType.SPARSE_CSR
        segments = np.concatenate([[0], np.cumsum((rows != 0).sum(1))]).astype(np.int32)
        for key, values in (("arraySegments", segments), ("arrayIndices", np.nonzero(rows)[1].astype(np.int32))):
            vector = self.schema.Int32VectorT()
            vector.values = values
            setattr(metadata[-1], key + "Type", self.schema.SparseIndexVector.Int32Vector)
            setattr(metadata[-1], key, vector)
        parameters = self.schema.SparsityParametersT()
        parameters.traversalOrder, parameters.dimMetadata = np.arange(4, dtype=np.int32), metadata
        self.graph.tensors[stored].sparsity = parameters
        return self.operator("DENSIFY", [stored], self.tensor(name, weights.shape), "DensifyOptions")

    def layer(self, layer, inputs):
        variant, schema, name = self.variant, self.schema, layer.name
        shape = [1, layer.size, layer.size, layer.channels]
        relu6 = schema.ActivationFunctionType.RELU6 if layer.relu6 else schema.ActivationFunctionType.NONE
        if layer.kind == "add":
            return self.operator("ADD", inputs, self.tensor(name, shape), "AddOptions")
        if layer.kind == "pool":
            axes = self.tensor(name + ".axes", [2], np.array([1, 2], np.int32), "INT32")
            out = self.tensor(name, [1, layer.channels])
            return self.operator("MEAN", [*inputs, axes], out, "ReducerOptions", keepDims=False)
        weights, bias = variant.weights(layer)
        bias = self.tensor(name + ".bias", bias.shape, bias)
        if layer.kind == "dense":
            weights = self.tensor(name + ".weight", weights.shape[:2], weights)
            out = self.tensor(name, [1, layer.channels])
            return self.operator("FULLY_CONNECTED", [*inputs, weights, bias], out, "FullyConnectedOptions")
        padding = schema.Padding.SAME
        if variant.padding == "one" and layer.kernel > 1:
            padding = schema.Padding.VALID
            before, after = variant.pads(layer)
            amounts = np.array([[0, 0], [before, after], [before, after], [0, 0]], np.int32)
            side = layer.size * layer.stride + before + after
            padded = self.tensor(name + ".padded", [1, side, side, layer.in_channels])
            inputs = [*inputs, self.tensor(name + ".pads", [4, 2], amounts, "INT32")]
            inputs = [self.operator("PAD", inputs, padded, "PadOptions")]
        order = (1, 2, 3, 0) if layer.kind == "depthwise" else (0, 2, 3, 1)
        weights = np.ascontiguousarray(weights.transpose(order))
        if variant.sparsity and layer.kernel == 1:
            weights = self.sparse(name + ".weight", weights)
        else:
            weights = self.tensor(name + ".weight", weights.shape, weights)
        kind = {"conv": ("CONV_2D", "Conv2DOptions"), "depthwise": ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions")}
        fields = dict(strideH=layer.stride, strideW=layer.stride, padding=padding, fusedActivationFunction=relu6)
        if layer.kind == "depthwise":
            fields["depthMultiplier"] = 1
        operator, options = kind[layer.kind]
        return self.operator(operator, [*inputs, weights, bias], self.tensor(name, shape), options, **fields)

    def write(self):
        import flatbuffers

        out = {}
        for layer in self.variant.layers():
            if layer.kind == "input":
                index = self.tensor("input", [1, layer.size, layer.size, 3])
                self.graph.inputs = [index]
            else:
                index = self.layer(layer, [out[x] for x in layer.inputs])
            out[layer.name] = index
        self.graph.outputs = [index]
        model = self.schema.ModelT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [self.graph], self.buffers, []
        for code in self.codes:
            model.operatorCodes.append(self.schema.OperatorCodeT())
            model.operatorCodes[-1].builtinCode, model.operatorCodes[-1].deprecatedBuiltinCode = code, min(code, 127)
            model.operatorCodes[-1].version = 1
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def tflite_model(variant):
    return TfliteWriter(variant).write()


def litert_run(variant, threads, folder):
    from ai_edge_litert.interpreter import Interpreter

    if variant.sparsity and "avx" in processor_flags():
        raise RuntimeError("XNNPACK computes sparse weights densely on x86 with AVX")
    if variant.sparsity and variant.sparsity < 2 / 3:
        raise RuntimeError("XNNPACK computes sparse weights densely below two thirds of zeros")
    interpreter = Interpreter(model_content=tflite_model(variant), num_threads=threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    x = np.ascontiguousarray(variant.input().transpose(0, 2, 3, 1))

    def run():
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run, "XNNPACK delegate" + (", sparse weights" if variant.sparsity else "")


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch


def torch_run(variant, threads, folder):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    layers = variant.layers()
    parameters = {}
    for layer in layers:
        if layer.kind in ("conv", "depthwise", "dense"):
            weights, bias = (torch.from_numpy(a) for a in variant.weights(layer))
            weights = weights[:, :, 0, 0] if layer.kind == "dense" else weights
            weights = weights.contiguous(memory_format=torch.channels_last) if weights.ndim == 4 else weights
            parameters[layer.name] = (weights, bias)
    source = torch.from_numpy(variant.input()).contiguous(memory_format=torch.channels_last)

    def run():
        out = {"input": source}
        with torch.inference_mode():
            for layer in layers[1:]:
                x = out[layer.inputs[0]]
                if layer.kind == "add":
                    y = x + out[layer.inputs[1]]
                elif layer.kind == "pool":
                    y = x.mean((2, 3))
                elif layer.kind == "dense":
                    y = F.linear(x, *parameters[layer.name])
                else:
                    before, after = variant.pads(layer)
                    if before != after:
                        x, before = F.pad(x, (before, after, before, after)), 0
                    group = layer.channels if layer.kind == "depthwise" else 1
                    y = F.conv2d(x, *parameters[layer.name], layer.stride, before, groups=group)
                out[layer.name] = y.clamp_(0, 6) if layer.relu6 else y
        return out[layers[-1].name].numpy()

    return run, "eager, channels last"


# ---------------------------------------------------------------------------------------------------------------------
# The contenders

ENGINES = {  # name: (packages to import, distribution whose version is told, builder)
    "onnxruntime": (["onnxruntime", "onnx"], "onnxruntime", onnxruntime_run),
    "openvino": (["openvino", "onnx"], "openvino", openvino_run),
    "ncnn": (["ncnn"], "ncnn", ncnn_run),
    "mnn": (["MNN", "onnx"], "MNN", mnn_run),
    "litert": (["ai_edge_litert", "flatbuffers"], "ai-edge-litert", litert_run),
    "torch": (["torch"], "torch", torch_run),
}


def cpuinfo():
    """What Linux says of the last core; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = (line.partition(":") for line in (path.read_text().splitlines() if path.exists() else []))
    return {key.strip(): value.strip() for key, _, value in lines}


def processor_flags():
    found = cpuinfo()
    return found.get("flags", found.get("Features", "")).split()


def serve(engine, variant, threads):
    """The contender's process: builds the network, tells its scores, then answers each number of runs on standard input
    with their times. What the engine itself prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run, note = ENGINES[engine][2](variant, threads, Path(folder))
            scores = np.array(run()).ravel()
            run()
        except Exception as error:  # an engine's failure is told and must not end the others' run
            text = f"{type(error).__name__}: {str(error).strip()[:300]}".splitlines()[0]
            print(json.dumps({"error": text}), file=answers, flush=True)
            return
        print(json.dumps({"scores": scores.tolist(), "note": note}), file=answers, flush=True)
        for line in sys.stdin:
            run()
            wall, cpu = [], []
            for _ in range(int(line)):
                start, start_cpu = time.perf_counter(), time.process_time()
                run()
                wall.append((time.perf_counter() - start) * 1e3)
                cpu.append((time.process_time() - start_cpu) * 1e3)
            print(json.dumps({"wall": wall, "cpu": cpu}), file=answers, flush=True)


class Peer:
    """An engine in a process of its own."""

    def __init__(self, name, engine, variant, threads):
        self.name, self.engine, self.variant, self.threads = name, engine, variant, threads
        self.version, self.note = None, ""

    def start(self):
        packages, distribution, _ = ENGINES[self.engine]
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            raise RuntimeError(f"not installed: {' '.join(missing)}")
        self.version = importlib.metadata.version(distribution)
        fields = json.dumps(dataclasses.asdict(self.variant))
        words = [sys.executable, __file__, "--serve", self.engine, "--variant", fields, "--threads", str(self.threads)]
        limits = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **limits},
        )  # fmt: skip
        answer = self.answer()
        self.note = answer["note"]
        return np.array(answer["scores"])

    def answer(self):
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended with status {self.process.wait()}"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def burst(self, runs):
        print(runs, file=self.process.stdin, flush=True)
        answer = self.answer()
        return dict(answer, fastest=min(answer["wall"]))

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


class Supple:
    """Supple through its command line, which tells no scores. A burst is one call of `supple bench cnn` with random
    weights, which tells the median and the minimum of its runs. For a sparse network it measures the dense one too, in
    turns; the last one counts."""

    engine = "supple"

    def __init__(self, name, binary, variant, threads, isa):
        self.name, self.binary, self.variant, self.threads, self.isa = name, binary, variant, threads, isa
        self.version, self.note = None, ""

    def call(self, words):
        environment = {**os.environ, **({"SUPPLE_ISA": self.isa} if self.isa else {})}
        done = subprocess.run([self.binary, *words], check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0])
        return done.stdout

    def bench(self, runs):
        variant = self.variant
        words = ["bench", "cnn", "--network", variant.network, "--width", f"{variant.width:g}"]
        words += ["--size", str(variant.resolution), "--threads", str(self.threads), "--runs", str(runs), "--json"]
        if variant.sparsity:
            words += ["--sparsity", f"{variant.sparsity:g}", "--pattern", f"1x{variant.block}"]
        return json.loads(self.call(words))

    def start(self):
        if not self.binary or not os.access(self.binary, os.X_OK):
            raise RuntimeError(f"no program at {self.binary}" if self.binary else "no --supple PATH given")
        self.version = self.call(["--version"]).split()[-1]
        self.note = self.bench(1)["isa"] + (f", blocks of {self.variant.block}" if self.variant.sparsity else "")

    def burst(self, runs):
        network = self.bench(runs)["networks"][-1]
        return {"wall": [network["median_ms"]], "fastest": network["min_ms"], "cpu": []}

    def stop(self):
        pass


def contenders(arguments):
    dense = Variant(arguments.network, arguments.width, arguments.resolution)
    chosen = [Peer(name, name, dense, arguments.threads) for name in ENGINES]
    share = lambda sparsity: f"-{sparsity * 100:g}%"
    for sparsity in arguments.sparsities:
        mnn = dataclasses.replace(dense, sparsity=sparsity, block=4)
        chosen.append(Peer("mnn-1x4" + share(sparsity), "mnn", mnn, arguments.threads))
        xnnpack = dataclasses.replace(dense, sparsity=sparsity, padding="one")
        chosen.append(Peer("litert-sparse" + share(sparsity), "litert", xnnpack, arguments.threads))
    for isa in arguments.isas or [None]:
        name = "supple" + (f"-{isa}" if isa else "")
        chosen.append(Supple(name, arguments.supple, dense, arguments.threads, isa))
        for sparsity in arguments.sparsities:
            for block in arguments.blocks:
                sparse = dataclasses.replace(dense, sparsity=sparsity, block=block)
                chosen.append(
                    Supple(f"{name}-1x{block}{share(sparsity)}", arguments.supple, sparse, arguments.threads, isa)
                )
    starts = lambda name, prefixes: any(name.startswith(prefix) for prefix in prefixes)
    chosen = [c for c in chosen if not arguments.only or starts(c.name, arguments.only)]
    return [c for c in chosen if not starts(c.name, arguments.skip)]


# ---------------------------------------------------------------------------------------------------------------------
# Measuring and report


def expected_scores(variant, threads):
    """ONNX Runtime's scores for this variant, or None without it."""
    reference = Peer("reference", "onnxruntime", variant, threads)
    try:
        scores = reference.start()
    except RuntimeError:
        return None
    reference.stop()
    return scores


def make_real_time():
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, OSError):
        return False
    return True


def measure(chosen, arguments):
    """-> (records of those that ran, reasons of those that did not)."""
    running, skipped, known = [], {}, {}
    for contender in chosen:
        try:
            scores = contender.start()
        except Exception as error:  # named in the report; the others go on
            skipped[contender.name] = str(error)
            continue
        difference = None
        if scores is not None:
            key = json.dumps(dataclasses.asdict(contender.variant))
            if key not in known:
                known[key] = scores if contender.engine == "onnxruntime" else expected_scores(contender.variant, 1)
            if known[key] is not None:
                difference = float(np.abs(scores - known[key]).max() / np.abs(known[key]).max())
        print(f"built {contender.name}", file=sys.stderr)
        running.append((contender, dict(difference=difference, wall=[], fastest=[], cpu=[])))
    for number in range(arguments.rounds):
        shift = number % max(1, len(running))  # another starter each round
        for contender, record in running[shift:] + running[:shift]:
            if contender.name in skipped:
                continue
            time.sleep(0.03)  # lets the previous engine's spinning threads fall asleep
            try:
                times = contender.burst(arguments.runs)
            except Exception as error:
                skipped[contender.name] = str(error)
                continue
            record["wall"] += times["wall"]
            record["fastest"].append(times["fastest"])
            record["cpu"] += times["cpu"]
        print(f"round {number + 1}/{arguments.rounds}", file=sys.stderr)
    for contender, _ in running:
        contender.stop()
    records = []
    for contender, record in running:
        if contender.name in skipped:
            continue
        figures = {"name": contender.name, "version": contender.version, "options": contender.note}
        figures.update(sparsity=contender.variant.sparsity, difference=record["difference"])
        figures.update(median_ms=statistics.median(record["wall"]), min_ms=min(record["fastest"]))
        if record["cpu"]:
            figures.update(cpu_median_ms=statistics.median(record["cpu"]), cpu_min_ms=min(record["cpu"]))
        records.append(dict(figures, samples_ms=record["wall"], cpu_samples_ms=record["cpu"]))
    return records, skipped


def processor():
    name = cpuinfo().get("model name", platform.processor() or platform.machine())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "asimddp", "i8mm")
    return f"{name}, {os.cpu_count()} logical cores ({' '.join(f for f in wanted if f in processor_flags())})"


def cell(value, form):
    return "–" if value is None else format(value, form)


def markdown(report):
    lines = [
        f"{report['network']} {report['width']:g} {report['resolution']}, f32, batch 1, {report['threads']} thread(s), "
        f"{report['rounds']} rounds of {report['runs']} runs, {'' if report['real_time'] else 'not '}real-time. "
        f"{report['processor']}. Load at start: {report['load']}.",
        "",
        "| contender | version | median ms | min ms | CPU median | CPU min | difference | options |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for r in sorted(report["results"], key=lambda r: r["min_ms"]):
        cpu = [cell(r.get(key), ".2f") for key in ("cpu_median_ms", "cpu_min_ms")]
        lines.append(
            f"| {r['name']} | {r['version']} | {r['median_ms']:.2f} | {r['min_ms']:.2f} | {' | '.join(cpu)} "
            f"| {cell(r['difference'], '.0e')} | {r['options']} |"
        )
    lines += ["", "Difference: the largest one of the scores to ONNX Runtime's, relative to the largest score."]
    if report["skipped"]:
        lines += ["", "Skipped:", *(f"- {name}: {reason}" for name, reason in report["skipped"].items())]
    return "\n".join(lines)


def arguments_from(words):
    parser = argparse.ArgumentParser(
        description="MobileNet in ONNX Runtime, OpenVINO, ncnn, MNN, LiteRT, PyTorch and Supple, side by side.",
        epilog="Contenders: " + ", ".join(ENGINES) + ", mnn-1x4-N%, litert-sparse-N%, supple[-ISA][-1xB-N%].",
    )
    parser.add_argument("--network", choices=NETWORKS, default="mobilenet_v1", help="default: mobilenet_v1")
    parser.add_argument("--width", type=float, default=1.0, help="width multiplier (default: 1.0)")
    parser.add_argument(
        "--resolution", type=int, default=224, help="side of the input, a multiple of 32 (default: 224)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default: 1)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of bursts (default: 9)")
    parser.add_argument("--runs", type=int, default=10, help="timed runs in a burst (default: 10)")
    shares = [0.3, 0.5, 0.7]
    parser.add_argument(
        "--sparsities", type=float, nargs="*", default=shares, help="default: 0.3 0.5 0.7; none: dense only"
    )
    parser.add_argument("--only", nargs="+", metavar="PREFIX", help="only contenders whose names start so")
    parser.add_argument("--skip", nargs="+", default=[], metavar="PREFIX", help="leave out those whose names start so")
    parser.add_argument("--supple", metavar="PATH", help="the supple program")
    parser.add_argument("--isas", nargs="+", metavar="ISA", help="values of SUPPLE_ISA to run Supple with, one by one")
    parser.add_argument("--blocks", type=int, nargs="+", default=[4], help="Supple's sparse patterns 1xN (default: 4)")
    parser.add_argument("--json", metavar="FILE", help="write all samples and results here")
    parser.add_argument("--onnx", metavar="FILE", help="only write the dense network as ONNX, for cnn_web.mjs")
    parser.add_argument("--tflite", metavar="FILE", help="only write the dense network as TFLite")
    parser.add_argument("--serve", metavar="ENGINE", help=argparse.SUPPRESS)
    parser.add_argument("--variant", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.resolution % 32 or arguments.resolution < 32:
        parser.error("--resolution must be a multiple of 32")
    if any(not 0 < sparsity < 1 for sparsity in arguments.sparsities):
        parser.error("--sparsities are between 0 and 1, without these")
    return arguments


def main():
    arguments = arguments_from(sys.argv[1:])
    if arguments.serve:
        serve(arguments.serve, Variant(**arguments.variant), arguments.threads)
        return
    if arguments.onnx or arguments.tflite:
        dense = Variant(arguments.network, arguments.width, arguments.resolution)
        for path, model in ((arguments.onnx, onnx_model), (arguments.tflite, tflite_model)):
            if path:
                Path(path).write_bytes(model(dense))
        return
    load = " ".join(f"{n:.1f}" for n in os.getloadavg())
    real_time = make_real_time()
    results, skipped = measure(contenders(arguments), arguments)
    settings = ("network", "width", "resolution", "threads", "rounds", "runs")
    report = {name: getattr(arguments, name) for name in settings}
    report.update(real_time=real_time, processor=processor(), load=load, results=results, skipped=skipped)
    print(markdown(report))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
