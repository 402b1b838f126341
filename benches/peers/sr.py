#!/usr/bin/env python3
"""Super-resolution in other engines: the same RLFN_S network, weights, input and threads as Supple.

    python3 -m venv peers && . peers/bin/activate
    pip install numpy pillow safetensors torch onnx onnxruntime openvino ncnn

    python benches/peers/sr.py --weights rlfn_s_x2.safetensors --data DIR --supple target/release/supple

Every engine but numpy, pillow and safetensors is optional: one that is missing is named and left out. `torch.compile`
also needs a C++ compiler. DIR holds the folders Set5 and Set14; nothing of it is copied.

How it measures: all contenders are built first; then rounds are played in which each contender has one short turn (an
untimed warm-up where a run is short, then timed runs), so that a change of the machine's load meets all of them. The
figure is the median over all timed runs. A run starts with an f32 array (1, 3, H, W) and ends with an f32 array
(1, 3, sH, sW), without image decoding. Supple has its own process, so its turn is one `supple bench sr` call and its
sample is the median that the call prints. On a busy Linux machine run the whole script under `chrt -f 1`.

How the graph gets there: `rlfn` below is the only description of the network; TorchGraph runs it, OnnxGraph and
NcnnGraph write it down. OpenVINO reads the ONNX file.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# ---------------------------------------------------------------------------------------------------------------------
# The network


def rlfn(graph, x, blocks, scale):
    """RLFN: `blocks` residual local feature blocks, each closed by enhanced spatial attention (ESA), RGB in 0..1."""
    shallow = graph.conv(x, "conv_1", pad=1)
    features = shallow
    for index in range(1, blocks + 1):
        block = f"block_{index}"
        y = features
        for name in ("c1_r", "c2_r", "c3_r"):
            y = graph.conv(y, f"{block}.{name}", pad=1, activation="leaky")
        y = graph.conv(graph.add(y, features), f"{block}.c5")

        narrow = graph.conv(y, f"{block}.esa.conv1")
        coarse = graph.max_pool(graph.conv(narrow, f"{block}.esa.conv2", stride=2), kernel=7, stride=3)
        coarse = graph.resize_like(graph.conv(coarse, f"{block}.esa.conv3", pad=1), y)
        mask = graph.add(coarse, graph.conv(narrow, f"{block}.esa.conv_f"))
        features = graph.mul(y, graph.conv(mask, f"{block}.esa.conv4", activation="sigmoid"))
    y = graph.add(graph.conv(features, "conv_2", pad=1), shallow)
    return graph.pixel_shuffle(graph.conv(y, "upsampler.0", pad=1), scale)


LEAKY_SLOPE = 0.05


class Weights:
    """The safetensors file as f32 arrays, and what their shapes say about the network."""

    def __init__(self, path):
        from safetensors.numpy import load_file

        self.path = Path(path)
        self.tensors = {name: np.ascontiguousarray(t, np.float32) for name, t in load_file(str(path)).items()}
        self.blocks = sum(name.endswith(".c5.weight") for name in self.tensors)
        self.scale = math.isqrt(self.tensors["upsampler.0.weight"].shape[0] // 3)

    def pair(self, name):
        return self.tensors[name + ".weight"], self.tensors[name + ".bias"]


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch


def torch_module(weights):
    import torch
    import torch.nn.functional as F

    class TorchGraph(torch.nn.Module):
        """Runs the graph. Parameters keep their names, with '_' for '.'."""

        def __init__(self):
            super().__init__()
            for name, array in weights.tensors.items():
                parameter = torch.nn.Parameter(torch.from_numpy(array.copy()), requires_grad=False)
                self.register_parameter(name.replace(".", "_"), parameter)

        def conv(self, x, name, pad=0, stride=1, activation=None):
            name = name.replace(".", "_")
            y = F.conv2d(x, getattr(self, name + "_weight"), getattr(self, name + "_bias"), stride, pad)
            if activation == "leaky":
                return F.leaky_relu(y, LEAKY_SLOPE, inplace=True)
            return torch.sigmoid(y) if activation == "sigmoid" else y

        def add(self, a, b):
            return a + b

        def mul(self, a, b):
            return a * b

        def max_pool(self, x, kernel, stride):
            return F.max_pool2d(x, kernel, stride)

        def resize_like(self, x, like):
            return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)

        def pixel_shuffle(self, x, scale):
            return F.pixel_shuffle(x, scale)

        def forward(self, x):
            return rlfn(self, x, weights.blocks, weights.scale)

    return TorchGraph().eval().to(memory_format=torch.channels_last)


def build_torch(weights, threads, height, width, compiled=False, mode="f32"):
    import torch

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if mode == "bf16" else torch.float32
    model = torch_module(weights).to(dtype)
    if compiled:
        import torch._dynamo.config
        import torch._inductor.config

        torch._dynamo.config.recompile_limit = 64  # one compilation for each input size and precision
        torch._inductor.config.freezing = True  # packs weights ahead and folds activations into convolutions
        model = torch.compile(model, dynamic=False)

    def run(x):
        with torch.no_grad():
            x = torch.from_numpy(x).to(dtype).contiguous(memory_format=torch.channels_last)
            return model(x).float().contiguous().numpy()

    return run


# ---------------------------------------------------------------------------------------------------------------------
# ONNX Runtime and OpenVINO


class OnnxGraph:
    """Writes the graph as ONNX operators, for one input size."""

    def __init__(self, weights, height, width):
        from onnx import helper, numpy_helper

        self.helper, self.numpy_helper, self.weights = helper, numpy_helper, weights
        self.nodes, self.constants, self.stored = [], [], set()
        self.size = {"input": (height, width)}

    def constant(self, name, array):
        if name not in self.stored:
            self.stored.add(name)
            self.constants.append(self.numpy_helper.from_array(array, name))
        return name

    def node(self, operator, inputs, size, **attributes):
        out = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(operator, inputs, [out], name=out, **attributes))
        self.size[out] = size
        return out

    def conv(self, x, name, pad=0, stride=1, activation=None):
        weight, bias = self.weights.pair(name)
        kernel = weight.shape[2]
        size = tuple((n + 2 * pad - kernel) // stride + 1 for n in self.size[x])
        inputs = [x, self.constant(name + ".weight", weight), self.constant(name + ".bias", bias)]
        y = self.node("Conv", inputs, size, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
        if activation == "leaky":
            return self.node("LeakyRelu", [y], size, alpha=LEAKY_SLOPE)
        return self.node("Sigmoid", [y], size) if activation == "sigmoid" else y

    def add(self, a, b):
        return self.node("Add", [a, b], self.size[a])

    def mul(self, a, b):
        return self.node("Mul", [a, b], self.size[a])

    def max_pool(self, x, kernel, stride):
        size = tuple((n - kernel) // stride + 1 for n in self.size[x])
        return self.node("MaxPool", [x], size, kernel_shape=[kernel] * 2, strides=[stride] * 2)

    def resize_like(self, x, like):
        channels = self.weights.tensors["block_1.esa.conv3.bias"].shape[0]
        sizes = self.constant("resized", np.array([1, channels, *self.size[like]], np.int64))
        inputs = [x, "", "", sizes]
        return self.node("Resize", inputs, self.size[like], mode="linear", coordinate_transformation_mode="half_pixel")

    def pixel_shuffle(self, x, scale):
        return self.node("DepthToSpace", [x], tuple(scale * n for n in self.size[x]), blocksize=scale, mode="CRD")

    def serialize(self):
        import onnx

        helper, kind = self.helper, onnx.TensorProto.FLOAT
        out = rlfn(self, "input", self.weights.blocks, self.weights.scale)
        graph = helper.make_graph(
            self.nodes,
            "rlfn",
            [helper.make_tensor_value_info("input", kind, [1, 3, *self.size["input"]])],
            [helper.make_tensor_value_info(out, kind, [1, 3, *self.size[out]])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        return model.SerializeToString()


def build_onnxruntime(weights, threads, height, width):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = OnnxGraph(weights, height, width).serialize()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"input": x})[0]


def build_openvino(weights, threads, height, width, mode="f32"):
    import openvino

    core = openvino.Core()
    model = core.read_model(OnnxGraph(weights, height, width).serialize())
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": mode}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(x):
        request.infer([openvino.Tensor(x, shared_memory=True)])
        return request.get_output_tensor(0).data

    return run


# ---------------------------------------------------------------------------------------------------------------------
# ncnn


class NcnnGraph:
    """Writes the graph in ncnn's own format: a text of layers (.param) and their weights in the same order (.bin)."""

    def __init__(self, weights):
        self.weights = weights
        self.layers, self.stored = [], []  # layers: [kind, inputs, output, parameters]

    def layer(self, kind, inputs, parameters):
        out = f"{kind.lower()}_{len(self.layers)}"
        self.layers.append([kind, inputs, out, parameters])
        return out

    def conv(self, x, name, pad=0, stride=1, activation=None):
        weight, bias = self.weights.pair(name)
        parameters = f"0={weight.shape[0]} 1={weight.shape[2]} 3={stride} 4={pad} 5=1 6={weight.size}"
        parameters += {"leaky": f" 9=2 -23310=1,{LEAKY_SLOPE:e}", "sigmoid": " 9=4", None: ""}[activation]
        self.stored += [np.zeros(1, np.uint32), weight, bias]  # a zero tag: the weights follow as f32
        return self.layer("Convolution", [x], parameters)

    def add(self, a, b):
        return self.layer("BinaryOp", [a, b], "0=0")

    def mul(self, a, b):
        return self.layer("BinaryOp", [a, b], "0=2")

    def max_pool(self, x, kernel, stride):
        return self.layer("Pooling", [x], f"0=0 1={kernel} 2={stride} 5=1")

    def resize_like(self, x, like):
        return self.layer("Interp", [x, like], "0=2 5=1 6=0")

    def pixel_shuffle(self, x, scale):
        return self.layer("PixelShuffle", [x], f"0={scale}")

    def write(self, folder):
        """Writes net.param and net.bin; returns the output's name. Blobs with several readers pass through a Split."""
        out = rlfn(self, "input", self.weights.blocks, self.weights.scale)
        layers = [["Input", [], "input", ""]] + self.layers
        readers = {}
        for _, inputs, _, _ in layers:
            for blob in inputs:
                readers[blob] = readers.get(blob, 0) + 1
        lines, copies, blobs = [], {}, 0
        for kind, inputs, output, parameters in layers:
            inputs = [copies[blob].pop(0) if blob in copies else blob for blob in inputs]
            lines.append(" ".join([kind, output, str(len(inputs)), "1", *inputs, output, parameters]))
            blobs += 1
            if readers.get(output, 0) > 1:
                copies[output] = [f"{output}.{i}" for i in range(readers[output])]
                blobs += len(copies[output])
                counts = ["1", str(len(copies[output]))]
                lines.append(" ".join(["Split", output + ".split", *counts, output, *copies[output]]))
        (folder / "net.param").write_text(f"7767517\n{len(lines)} {blobs}\n" + "\n".join(lines) + "\n")
        (folder / "net.bin").write_bytes(b"".join(array.tobytes() for array in self.stored))
        return out


def build_ncnn(weights, threads, height, width, mode="f32", winograd=True):
    import ncnn

    net = ncnn.Net()
    option = net.opt
    option.num_threads = threads
    option.use_vulkan_compute = False
    option.use_winograd_convolution = winograd
    option.use_bf16_storage = option.use_bf16_packed = mode == "bf16"
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = mode == "fp16"
    blobs, workspace = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()  # as in ncnn's own benchmark
    option.blob_allocator, option.workspace_allocator = blobs, workspace
    with tempfile.TemporaryDirectory() as folder:
        out = NcnnGraph(weights).write(Path(folder))
        if net.load_param(folder + "/net.param") or net.load_model(folder + "/net.bin"):
            raise RuntimeError("ncnn could not load the model")

    def run(x):
        extractor = net.create_extractor()
        extractor.input("input", ncnn.Mat(x[0]))
        status, y = extractor.extract(out)
        if status:
            raise RuntimeError(f"ncnn returned {status}")
        result = np.array(y)[None]
        del y, extractor
        return result

    run.keep = (net, blobs, workspace)
    return run


# ---------------------------------------------------------------------------------------------------------------------
# The contenders


class Contender:
    def __init__(self, name, package, precision, build, **options):
        self.name, self.package, self.precision = name, package, precision
        self.builder, self.options = build, options

    def build(self, weights, threads, height, width):
        """The network ready to run at one size: a function from an f32 array to an f32 array."""
        return self.builder(weights, threads, height, width, **self.options)


CONTENDERS = [
    Contender("torch-eager-f32", "torch", "f32", build_torch),
    Contender("torch-compile-f32", "torch", "f32", build_torch, compiled=True),
    Contender("onnxruntime-f32", "onnxruntime", "f32", build_onnxruntime),
    Contender("openvino-f32", "openvino", "f32", build_openvino),
    Contender("ncnn-f32", "ncnn", "f32", build_ncnn),
    Contender("ncnn-f32-direct", "ncnn", "f32, no Winograd", build_ncnn, winograd=False),
    Contender("torch-eager-bf16", "torch", "bf16", build_torch, mode="bf16"),
    Contender("torch-compile-bf16", "torch", "bf16", build_torch, compiled=True, mode="bf16"),
    Contender("openvino-bf16", "openvino", "bf16", build_openvino, mode="bf16"),
    Contender("ncnn-bf16", "ncnn", "bf16 storage", build_ncnn, mode="bf16"),
    Contender("ncnn-fp16", "ncnn", "fp16 where supported", build_ncnn, mode="fp16"),
]


class Supple:
    """Supple through its command line; a turn is one call of `supple bench sr`."""

    package = "supple"

    def __init__(self, binary, precision, upscale):
        self.binary, self.precision, self.upscale_template = binary, precision, upscale
        self.name = f"supple-{precision}"

    def call(self, words):
        done = subprocess.run([self.binary, *words], check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
        return done.stdout

    def bench(self, weights, threads, height, width):
        words = ["bench", "sr", "--model", str(weights.path), "--width", str(width), "--height", str(height)]
        words += ["--threads", str(threads), "--precision", self.precision, "--json"]
        return json.loads(self.call(words))

    def upscale(self, weights, threads, image):
        from PIL import Image

        with tempfile.TemporaryDirectory() as folder:
            paths = {"input": f"{folder}/in.png", "output": f"{folder}/out.png"}
            Image.fromarray(image).save(paths["input"])
            fields = dict(paths, model=weights.path, threads=threads, precision=self.precision)
            self.call([word.format(**fields) for word in self.upscale_template.split()])
            return np.asarray(Image.open(paths["output"]).convert("RGB"))


# ---------------------------------------------------------------------------------------------------------------------
# Images and quality


def read_rgb(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def to_input(image):
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)


def to_u8(output):
    return np.floor(np.clip(output[0], 0, 1).transpose(1, 2, 0) * 255.0 + 0.5).astype(np.uint8)


def photo_input(image, height, width):
    """A crop from the photo's middle; a photo that is too small is continued by its mirror images."""
    grow = [max(0, height - image.shape[0]), max(0, width - image.shape[1])]
    image = np.pad(image, [(g // 2, g - g // 2) for g in grow] + [(0, 0)], mode="symmetric")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return to_input(image[top : top + height, left : left + width])


def cubic(t):
    """Keys' cubic kernel with a = -0.5."""
    t = np.abs(t)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def shrink_matrix(length, factor):
    """MATLAB's antialiased bicubic as a (length / factor, length) matrix: kernel `factor` times as wide, mirrored ends."""
    matrix = np.zeros((length // factor, length))
    for row in range(matrix.shape[0]):
        centre = (row + 0.5) * factor - 0.5
        source = np.arange(math.floor(centre - 2 * factor), math.ceil(centre + 2 * factor) + 1)
        weight = cubic((source - centre) / factor)
        folded = source % (2 * length)
        np.add.at(matrix[row], np.where(folded < length, folded, 2 * length - 1 - folded), weight / weight.sum())
    return matrix


def shrink(image, factor):
    """MATLAB's imresize(u8 image, 1 / factor, 'bicubic'): rows, then columns, rounded to u8 after each."""
    round_u8 = lambda a: np.clip(np.floor(a + 0.5), 0, 255)
    rows = round_u8(np.einsum("oh,hwc->owc", shrink_matrix(image.shape[0], factor), image.astype(np.float64)))
    return round_u8(np.einsum("ow,hwc->hoc", shrink_matrix(image.shape[1], factor), rows)).astype(np.uint8)


def luma_psnr(a, b, border):
    """PSNR of BT.601 luma, in dB, without `border` pixels on each side."""
    y = lambda image: image[border:-border, border:-border].astype(np.float64) @ [65.481, 128.553, 24.966] / 255
    error = np.mean((y(a) - y(b)) ** 2)
    return 10 * math.log10(255**2 / error)


def unit_psnr(a, b):
    """PSNR for peak 1 after clamping, in dB; None where the two are equal."""
    error = np.mean((np.clip(a, 0, 1).astype(np.float64) - np.clip(b, 0, 1)) ** 2)
    return None if error == 0 else 10 * math.log10(1 / error)


def test_pairs(folder, scale):
    """(low-resolution, high-resolution) u8 images of a test set."""
    for path in sorted(Path(folder).glob("*.png")):
        image = read_rgb(path)
        image = image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]
        yield shrink(image, scale), image


def set_quality(upscale, pairs, scale):
    """Mean luma PSNR of `upscale(low) -> u8 image` over the pairs."""
    return float(np.mean([luma_psnr(upscale(low), high, scale) for low, high in pairs]))


def contender_quality(contender, weights, threads, pairs):
    def upscale(low):
        return to_u8(contender.build(weights, threads, *low.shape[:2])(to_input(low)))

    return set_quality(upscale, pairs, weights.scale)


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def timed(run, x):
    start = time.perf_counter()
    run(x)
    return (time.perf_counter() - start) * 1e3


def turn(run, x, expected_ms, turn_ms=600):
    """One contender's turn in a round: short runs are warmed up once and repeated, long ones run once."""
    time.sleep(0.03)  # lets the previous engine's spinning threads fall asleep
    if expected_ms > turn_ms / 2:
        return [timed(run, x)]
    timed(run, x)
    return [timed(run, x) for _ in range(max(1, int(turn_ms / expected_ms)))]


def resident_bytes(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None


def probe_memory(contender, weights, threads, height, width):
    """Peak resident memory of a warm run above that of the process with the engine imported but no network loaded."""
    importlib.import_module(contender.package)
    before = resident_bytes("VmRSS")
    run = contender.build(weights, threads, height, width)
    x = np.random.default_rng(1).random((1, 3, height, width), np.float32)
    run(x)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    run(x)
    return resident_bytes("VmHWM") - before


def measured_memory(name, arguments, size):
    """`probe_memory` in a fresh process; None where it cannot be had."""
    words = [sys.executable, __file__, "--weights", arguments.weights, "--threads", str(arguments.threads)]
    words += ["--sizes", "x".join(map(str, size)), "--probe-memory", name]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    try:
        return int(done.stdout.split()[-1])
    except (IndexError, ValueError):
        return None


def measure_size(contenders, supples, weights, photo, arguments, size, skipped):
    """All contenders at one input size -> list of result records."""
    width, height = size
    x = photo_input(photo, height, width)
    running, records, reference = [], [], None
    for contender in contenders:
        try:
            run = contender.build(weights, arguments.threads, height, width)
            output = np.array(run(x))
            expected = timed(run, x)
        except Exception as error:  # an engine's failure is reported and must not end the others' run
            skipped[contender.name] = f"{type(error).__name__}: {str(error).strip()[:300]}".splitlines()[0]
            continue
        if reference is None and contender.precision.startswith("f32"):
            reference = output
        record = {"name": contender.name, "precision": contender.precision, "width": width, "height": height}
        record["psnr_db"] = None if reference is None else unit_psnr(output, reference)
        record["samples_ms"] = []
        running.append((run, expected, record))
        records.append(record)
        print(f"  built {contender.name}: {expected:.0f} ms", file=sys.stderr)
    callers = []
    for supple in supples:
        record = {"name": supple.name, "precision": supple.precision, "width": width, "height": height}
        record.update(psnr_db=None, samples_ms=[])
        callers.append((supple, record))
        records.append(record)

    for number in range(arguments.rounds):
        shift = number % max(1, len(running))  # another starter each round
        for run, expected, record in running[shift:] + running[:shift]:
            record["samples_ms"] += turn(run, x, expected)
        for supple, record in callers:
            try:
                time.sleep(0.03)
                record["samples_ms"].append(float(supple.bench(weights, arguments.threads, height, width)["median_ms"]))
            except Exception as error:
                skipped[supple.name] = str(error)
        print(f"  round {number + 1}/{arguments.rounds}", file=sys.stderr)

    for record in records:
        samples = record["samples_ms"]
        if samples:
            record["median_ms"] = float(np.median(samples))
            record["min_ms"] = float(np.min(samples))
            record["megapixels_per_s"] = width * height / record["median_ms"] / 1e3
    return [record for record in records if record["samples_ms"]]


# ---------------------------------------------------------------------------------------------------------------------
# Report


def processor():
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() == "flags":
                flags = value.split()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8")
    return f"{name}, {os.cpu_count()} logical cores ({' '.join(f for f in wanted if f in flags)})"


def versions(names):
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cell(value, form):
    return "–" if value is None else format(value, form)


def markdown(report):
    lines = [
        f"RLFN_S ×{report['scale']}, {report['weights']}, {report['threads']} threads, {report['rounds']} rounds. "
        f"{report['processor']}. Python {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + "."
    ]
    for size in dict.fromkeys((r["width"], r["height"]) for r in report["results"]):
        rows = [r for r in report["results"] if (r["width"], r["height"]) == size]
        lines += ["", f"### {size[0]}×{size[1]} input", ""]
        lines += ["| contender | precision | median ms | min ms | MP/s | PSNR to f32, dB | Set5 loss, dB | peak MiB |"]
        lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
        for r in sorted(rows, key=lambda r: r["median_ms"]):
            memory = r.get("peak_bytes")
            lines.append(
                f"| {r['name']} | {r['precision']} | {r['median_ms']:.1f} | {r['min_ms']:.1f} | {r['megapixels_per_s']:.3f} "
                f"| {cell(r['psnr_db'], '.1f')} | {cell(r.get('set5_loss_db'), '.4f')} "
                f"| {cell(memory and memory / 2**20, '.0f')} |"
            )
    if report["reference"]:
        name, quality = report["reference"]["name"], report["reference"]["set5_db"]
        lines += [
            "",
            f"PSNR is against {name}, Set5 Y-PSNR {cell(quality, '.4f')} dB; a PSNR of – means equal or unknown.",
        ]
    if report["skipped"]:
        lines += ["", "Skipped:", *(f"- {name}: {reason}" for name, reason in report["skipped"].items())]
    return "\n".join(lines)


def arguments_from(words):
    parser = argparse.ArgumentParser(
        description="Super-resolution (RLFN_S) in PyTorch, ONNX Runtime, OpenVINO, ncnn and Supple, side by side.",
        epilog="Contenders: " + ", ".join(c.name for c in CONTENDERS) + ", supple-f32, supple-fast.",
    )
    size = lambda word: tuple(int(n) for n in word.lower().split("x"))
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="RLFN_S safetensors file; its shapes give the scale"
    )
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), help="refuse a weight file of another scale")
    sizes = [(256, 256), (1280, 720)]
    parser.add_argument("--sizes", type=size, nargs="+", default=sizes, metavar="WxH", help="default: 256x256 1280x720")
    parser.add_argument("--threads", type=int, default=2, help="threads of each engine (default: 2)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of turns per size (default: 9)")
    parser.add_argument("--only", nargs="+", metavar="PREFIX", help="only contenders whose names start so")
    parser.add_argument(
        "--skip", nargs="+", default=[], metavar="PREFIX", help="leave out contenders whose names start so"
    )
    parser.add_argument("--image", metavar="FILE", help="photo to run on (default: the largest of DIR/Set14)")
    parser.add_argument("--data", metavar="DIR", help="folder with Set5 (quality loss) and Set14 (photo)")
    parser.add_argument("--no-quality", action="store_true", help="leave out the quality loss on Set5")
    parser.add_argument(
        "--memory", action="store_true", help="measure peak memory too, each contender in its own process"
    )
    parser.add_argument("--supple", metavar="PATH", help="the supple program")
    parser.add_argument(
        "--supple-upscale",
        metavar="WORDS",
        default="upscale {input} --output {output} --model {model} --threads {threads} --precision {precision}",
        help="supple's words for upscaling one file, for the quality loss (default: '%(default)s')",
    )
    parser.add_argument("--json", metavar="FILE", help="write all samples and results here")
    parser.add_argument("--probe-memory", metavar="NAME", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def chosen(name, arguments):
    wanted = not arguments.only or any(name.startswith(prefix) for prefix in arguments.only)
    return wanted and not any(name.startswith(prefix) for prefix in arguments.skip)


def main():
    arguments = arguments_from(sys.argv[1:])
    weights = Weights(arguments.weights)
    if arguments.scale not in (None, weights.scale):
        sys.exit(f"{arguments.weights} is a x{weights.scale} network, not x{arguments.scale}")
    if arguments.probe_memory:
        contender = next(c for c in CONTENDERS if c.name == arguments.probe_memory)
        width, height = arguments.sizes[0]
        print(probe_memory(contender, weights, arguments.threads, height, width))
        return

    skipped, contenders, supples = {}, [], []
    for contender in CONTENDERS:
        if chosen(contender.name, arguments):
            needed = [contender.package] + (["onnx"] if contender.package in ("onnxruntime", "openvino") else [])
            missing = [name for name in needed if importlib.util.find_spec(name) is None]
            if missing:
                skipped[contender.name] = f"pip install {' '.join(missing)}"
            else:
                contenders.append(contender)
    for precision in ("f32", "fast"):
        supple = Supple(arguments.supple, precision, arguments.supple_upscale)
        if not chosen(supple.name, arguments):
            continue
        if arguments.supple and os.access(arguments.supple, os.X_OK):
            supples.append(supple)
        else:
            skipped[supple.name] = f"no program at {arguments.supple}" if arguments.supple else "no --supple PATH given"

    if arguments.image:
        photo = read_rgb(arguments.image)
    elif arguments.data:
        photo = max((read_rgb(p) for p in Path(arguments.data, "Set14").glob("*.png")), key=lambda image: image.size)
    else:
        print("neither --image nor --data: the input is random noise", file=sys.stderr)
        photo = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), np.uint8)

    results = []
    for size in arguments.sizes:
        print(f"{size[0]}x{size[1]}", file=sys.stderr)
        results += measure_size(contenders, supples, weights, photo, arguments, size, skipped)

    exact = [r["name"] for r in results if r["precision"].startswith("f32") and not r["name"].startswith("supple-")]
    reference = {"name": exact[0], "set5_db": None} if exact else None
    pairs = []
    if arguments.data and not arguments.no_quality:
        pairs = list(test_pairs(Path(arguments.data, "Set5"), weights.scale))
    if pairs:
        quality = {}
        for contender in contenders:
            if any(r["name"] == contender.name for r in results):
                print(f"quality of {contender.name}", file=sys.stderr)
                quality[contender.name] = contender_quality(contender, weights, arguments.threads, pairs)
        for supple in supples:
            try:
                upscale = functools.partial(supple.upscale, weights, arguments.threads)
                quality[supple.name] = set_quality(upscale, pairs, weights.scale)
            except Exception as error:
                print(f"no quality of {supple.name}: {error}", file=sys.stderr)
        if reference:
            reference["set5_db"] = quality[reference["name"]]
            for r in results:
                if r["name"] in quality:
                    r["set5_db"] = quality[r["name"]]
                    r["set5_loss_db"] = round(reference["set5_db"] - quality[r["name"]], 4) + 0.0  # no "-0.0"
    if arguments.memory:
        for r in results:
            if not r["name"].startswith("supple-"):
                r["peak_bytes"] = measured_memory(r["name"], arguments, (r["width"], r["height"]))

    report = {
        "weights": weights.path.name,
        "scale": weights.scale,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "processor": processor(),
        "versions": versions(["numpy", "torch", "onnx", "onnxruntime", "openvino", "ncnn"]),
        "reference": reference,
        "results": results,
        "skipped": skipped,
    }
    print(markdown(report))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
