"""Writes the TFLite files in this folder, and beside each what TensorFlow Lite's interpreter makes of it.

Run: pip install ai-edge-litert numpy; python generate.py

NAME.json holds `input` in the file's order ([height][width][channels]) as real numbers, and `output`.
"""

import json
import pathlib

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

FOLDER = pathlib.Path(__file__).parent
OPERATOR, OPTIONS, TYPE = schema.BuiltinOperator, schema.BuiltinOptions, schema.TensorType
TYPES = {"float32": TYPE.FLOAT32, "float16": TYPE.FLOAT16, "int8": TYPE.INT8, "uint8": TYPE.UINT8, "int32": TYPE.INT32}
SAME, VALID = 0, 1
NONE, RELU, RELU6 = 0, 1, 3


class Network:
    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version = 3
        self.model.description = "made by generate.py"
        self.model.subgraphs = [self.graph]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, name, shape, dtype="float32", data=None, scale=None, zero=0, axis=0):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), TYPES[dtype], 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if scale is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = list(np.atleast_1d(np.float32(scale)))
            quantization.zeroPoint = [zero] * len(quantization.scale)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, name, array, dtype="float32", **quantization):
        return self.tensor(name, np.shape(array), dtype, array, **quantization)

    def weights(self, name, *shape):
        return self.constant(name, self.random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape))

    def apply(self, kind, inputs, output, **options):
        codes = [code.builtinCode for code in self.model.operatorCodes]
        if kind not in codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), 1
            self.model.operatorCodes.append(code)
            codes.append(kind)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = codes.index(kind), list(inputs), [output]
        name = {
            OPERATOR.CONV_2D: "Conv2DOptions",
            OPERATOR.DEPTHWISE_CONV_2D: "DepthwiseConv2DOptions",
            OPERATOR.FULLY_CONNECTED: "FullyConnectedOptions",
            OPERATOR.AVERAGE_POOL_2D: "Pool2DOptions",
            OPERATOR.MAX_POOL_2D: "Pool2DOptions",
            OPERATOR.CONCATENATION: "ConcatenationOptions",
            OPERATOR.ADD: "AddOptions",
            OPERATOR.SOFTMAX: "SoftmaxOptions",
            OPERATOR.MEAN: "ReducerOptions",
            OPERATOR.RESHAPE: "ReshapeOptions",
            OPERATOR.PAD: "PadOptions",
        }.get(kind)
        if name:
            operator.builtinOptionsType = getattr(OPTIONS, name)
            operator.builtinOptions = getattr(schema, name + "T")()
            for key, value in options.items():
                setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)
        return output

    def save(self, name, source, output):
        self.graph.inputs, self.graph.outputs = [source], [output]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path = FOLDER / f"{name}.tflite"
        path.write_bytes(bytes(builder.Output()))

        interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
        interpreter.allocate_tensors()
        given, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        assert given["dtype"] == got["dtype"] == np.float32
        pixels = self.random.uniform(-1, 1, given["shape"]).astype(np.float32)
        interpreter.set_tensor(given["index"], pixels)
        interpreter.invoke()
        result = interpreter.get_tensor(got["index"])
        flat = lambda array: [float(value) for value in array.reshape(-1)]
        (FOLDER / f"{name}.json").write_text(json.dumps({"input": flat(pixels), "output": flat(result)}) + "\n")
        print(name, path.stat().st_size, result.reshape(-1)[:6])


def stride(side, activation=NONE, padding=SAME):
    return dict(strideH=side, strideW=side, padding=padding, fusedActivationFunction=activation)


def undilated(side, activation=NONE, padding=SAME):
    return dict(stride(side, activation, padding), dilationHFactor=1, dilationWFactor=1)


def everything():
    """Each operator that is read, in floating point; several pixels are flattened."""
    n = Network(1)
    source = n.tensor("input", [1, 9, 8, 3])
    amounts = n.constant("amounts", [[0, 0], [1, 0], [0, 2], [0, 0]], "int32")
    padded = n.apply(OPERATOR.PAD, [source, amounts], n.tensor("padded", [1, 10, 10, 3]))
    weights, bias = n.weights("w0", 5, 3, 3, 3), n.weights("b0", 5)
    stem = n.tensor("net/stem/Relu", [1, 4, 4, 5])
    n.apply(OPERATOR.CONV_2D, [padded, weights, bias], stem, **undilated(2, RELU, VALID))
    weights, bias = n.constant("w1", n.random.normal(0, 0.4, [1, 3, 3, 10])), n.weights("b1", 10)
    deep = n.tensor("net/deep/Relu6", [1, 4, 4, 10])
    n.apply(OPERATOR.DEPTHWISE_CONV_2D, [stem, weights, bias], deep, depthMultiplier=2, **undilated(1, RELU6))
    largest, mean = n.tensor("max", [1, 4, 4, 5]), n.tensor("mean", [1, 4, 4, 5])
    n.apply(OPERATOR.MAX_POOL_2D, [stem], largest, filterHeight=2, filterWidth=2, **stride(1))
    n.apply(OPERATOR.AVERAGE_POOL_2D, [stem], mean, filterHeight=3, filterWidth=2, **stride(1))
    joined = n.tensor("joined", [1, 4, 4, 20])
    n.apply(OPERATOR.CONCATENATION, [deep, largest, mean], joined, axis=3, fusedActivationFunction=NONE)
    first, second = n.tensor("first", [1, 4, 4, 8]), n.tensor("second", [1, 4, 4, 8])
    bias = n.weights("b2", 8)
    n.apply(OPERATOR.CONV_2D, [joined, n.weights("w2", 8, 1, 1, 20), bias], first, **undilated(1))
    bias = n.weights("b3", 8)
    n.apply(OPERATOR.CONV_2D, [joined, n.weights("w3", 8, 1, 1, 20), bias], second, **undilated(1))
    # The activation of a tensor that is read twice cannot move into its convolution.
    active = n.apply(OPERATOR.RELU, [first], n.tensor("active", [1, 4, 4, 8]))
    added = n.tensor("added", [1, 4, 4, 8])
    n.apply(OPERATOR.ADD, [active, second], added, fusedActivationFunction=NONE)
    again = n.tensor("again", [1, 4, 4, 8])
    n.apply(OPERATOR.ADD, [added, first], again, fusedActivationFunction=NONE)
    clamped = n.apply(OPERATOR.RELU6, [again], n.tensor("clamped", [1, 4, 4, 8]))
    shape = n.constant("shape", [1, 128], "int32")
    flat = n.apply(OPERATOR.RESHAPE, [clamped, shape], n.tensor("flat", [1, 128]), newShape=[1, 128])
    dense = n.tensor("dense", [1, 6])
    # Without a bias.
    n.apply(OPERATOR.FULLY_CONNECTED, [flat, n.weights("w4", 6, 128), -1], dense, fusedActivationFunction=NONE)
    output = n.apply(OPERATOR.SOFTMAX, [dense], n.tensor("output", [1, 6]), beta=1.0)
    n.save("everything", source, output)


def halves():
    """Weights in 16 bits with an operator that widens them; the mean over height and width."""
    n = Network(2)

    def widened(name, *shape):
        narrow = n.constant(name, n.random.normal(0, 0.3, shape), "float16")
        return n.apply(OPERATOR.DEQUANTIZE, [narrow], n.tensor(name + "_wide", shape))

    source = n.tensor("input", [1, 7, 7, 3])
    hidden = n.tensor("hidden", [1, 4, 4, 6])
    n.apply(OPERATOR.CONV_2D, [source, widened("w0", 6, 3, 3, 3), widened("b0", 6)], hidden, **undilated(2, RELU6))
    mean = n.tensor("mean", [1, 6])
    n.apply(OPERATOR.MEAN, [hidden, n.constant("axes", [1, 2], "int32")], mean, keepDims=False)
    output = n.tensor("output", [1, 4])
    weights, bias = widened("w1", 4, 6), widened("b1", 4)
    n.apply(OPERATOR.FULLY_CONNECTED, [mean, weights, bias], output, fusedActivationFunction=NONE)
    n.save("halves", source, output)


def per_channel():
    """8-bit integers with a scale for each channel, between operators that convert."""
    n = Network(3)

    def convolution(kind, given, given_scale, shape, axis, output, **options):
        real = n.random.normal(0, 0.35, shape)
        others = tuple(i for i in range(4) if i != axis)
        scale = np.float32(np.abs(real).max(others) / 127)
        spread = scale.reshape([-1 if i == axis else 1 for i in range(4)])
        integers = np.clip(np.round(real / spread), -127, 127)
        weights = n.constant("w", integers, "int8", scale=scale, axis=axis)
        units = np.float32(given_scale) * scale
        bias = n.constant("b", np.round(n.random.normal(0, 0.2, len(scale)) / units), "int32", scale=units)
        n.apply(kind, [given, weights, bias], output, **options)

    source = n.tensor("input", [1, 8, 8, 3])
    quantised = n.tensor("quantised", [1, 8, 8, 3], "int8", scale=2 / 255, zero=0)
    n.apply(OPERATOR.QUANTIZE, [source], quantised)
    hidden = n.tensor("hidden", [1, 4, 4, 8], "int8", scale=6 / 255, zero=-128)
    convolution(OPERATOR.CONV_2D, quantised, 2 / 255, [8, 3, 3, 3], 0, hidden, **undilated(2, RELU6))
    deep = n.tensor("deep", [1, 4, 4, 8], "int8", scale=6 / 255, zero=-100)
    options = dict(undilated(1), depthMultiplier=1)
    convolution(OPERATOR.DEPTHWISE_CONV_2D, hidden, 6 / 255, [1, 3, 3, 8], 3, deep, **options)
    # Another scale in mid network.
    changed = n.tensor("changed", [1, 4, 4, 8], "int8", scale=5 / 255, zero=-90)
    n.apply(OPERATOR.QUANTIZE, [deep], changed)
    point = n.tensor("point", [1, 4, 4, 5], "int8", scale=8 / 255, zero=-10)
    convolution(OPERATOR.CONV_2D, changed, 5 / 255, [5, 1, 1, 8], 0, point, **undilated(1))
    pooled = n.tensor("pooled", [1, 1, 1, 5], "int8", scale=8 / 255, zero=-10)
    n.apply(OPERATOR.AVERAGE_POOL_2D, [point], pooled, filterHeight=4, filterWidth=4, **stride(4, NONE, VALID))
    output = n.apply(OPERATOR.DEQUANTIZE, [pooled], n.tensor("output", [1, 1, 1, 5]))
    n.save("per_channel", source, output)


def unsupported():
    """An operator that no classifier here has."""
    n = Network(4)
    source = n.tensor("input", [1, 4, 4, 3])
    output = n.apply(OPERATOR.HARD_SWISH, [source], n.tensor("output", [1, 4, 4, 3]))
    n.save("unsupported", source, output)
    (FOLDER / "unsupported.json").unlink()


everything()
halves()
per_channel()
unsupported()
