// TFLite files for tests: small networks, written as flatbuffers by hand.
//
// A flatbuffer is tables that refer to each other by distances forward. Here each table is laid down with its vtable before
// it, and what it refers to after it.

class Writer {
  bytes = Buffer.alloc(1 << 20);
  end = 0;

  align(size) {
    this.end = Math.ceil(this.end / size) * size;
  }

  /** Lays down a reference at `at` to whatever `value` is: a table, a string or a vector. */
  refer(at, value) {
    this.align(value instanceof Float32Array || Buffer.isBuffer(value) ? 16 : 4);
    const start = value.fields ? this.table(value.fields) : this.vector(value);
    this.bytes.writeUInt32LE(start - at, at);
  }

  /** Fields by their number: `i32`, `f32`, `i8` or what is referred to. Returns where the table starts. */
  table(fields) {
    const numbers = Object.keys(fields).map(Number);
    const count = numbers.length ? Math.max(...numbers) + 1 : 0;
    const vtable = this.end;
    this.end += 4 + count * 2;
    this.align(4);
    const start = this.end;
    this.end += 4 + numbers.length * 4;
    this.bytes.writeUInt16LE(4 + count * 2, vtable);
    this.bytes.writeUInt16LE(this.end - start, vtable + 2);
    this.bytes.writeInt32LE(start - vtable, start);
    const later = [];
    numbers.forEach((number, i) => {
      const at = start + 4 + i * 4;
      const value = fields[number];
      this.bytes.writeUInt16LE(at - start, vtable + 4 + number * 2);
      if ('i32' in value) this.bytes.writeInt32LE(value.i32, at);
      else if ('f32' in value) this.bytes.writeFloatLE(value.f32, at);
      else if ('i8' in value) this.bytes.writeInt8(value.i8, at);
      else later.push([at, value.to]);
    });
    for (const [at, value] of later) this.refer(at, value);
    return start;
  }

  /** A string, numbers, bytes, or tables. Returns where it starts. */
  vector(value) {
    const text = typeof value === 'string';
    const data = text ? Buffer.from(value) : value;
    const start = this.end;
    if (Buffer.isBuffer(data)) {
      this.bytes.writeUInt32LE(data.length, start);
      data.copy(this.bytes, start + 4);
      this.end = start + 4 + data.length + (text ? 1 : 0);
      return start;
    }
    this.bytes.writeUInt32LE(data.length, start);
    this.end = start + 4 + data.length * 4;
    data.forEach((item, i) => {
      const at = start + 4 + i * 4;
      if (typeof item === 'number') this.bytes.writeInt32LE(item, at);
      else this.refer(at, item);
    });
    return start;
  }
}

const table = (fields) => ({ fields });
const to = (value) => ({ to: value });
const i32 = (value) => ({ i32: value });
const i8 = (value) => ({ i8: value });

/** Numbers and names of the schema: operator code, type of its options. */
const CODES = { AVERAGE_POOL_2D: [1, 5], CONV_2D: [3, 1], DEPTHWISE_CONV_2D: [4, 2], SOFTMAX: [25, 9] };
const RELU6 = 3;

/**
 * A TFLite file. `layers` are `{ code, options, output, weights?, bias? }`: the fields of the options table, the shape that
 * comes out, and constants as `{ shape, values }`.
 */
function tflite(input, layers) {
  const tensors = [];
  const buffers = [table({})];
  const tensor = (name, shape, values) => {
    if (values) buffers.push(table({ 0: to(Buffer.from(Float32Array.from(values).buffer)) }));
    const buffer = values ? buffers.length - 1 : 0;
    tensors.push(table({ 0: to(shape), 1: i8(0), 2: i32(buffer), 3: to(name) }));
    return tensors.length - 1;
  };
  const names = Object.keys(CODES);
  let last = tensor('input', input);
  const operators = layers.map(({ code, options, output, weights, bias }, i) => {
    const inputs = [last];
    if (weights) inputs.push(tensor(`weights_${i}`, weights.shape, weights.values), tensor(`bias_${i}`, [bias.length], bias));
    last = tensor(`layer_${i}`, output);
    const [opcode, kind] = [names.indexOf(code), CODES[code][1]];
    return table({ 0: i32(opcode), 1: to(inputs), 2: to([last]), 3: i8(kind), 4: to(table(options)) });
  });
  const codes = names.map((name) => table({ 0: i8(CODES[name][0]), 2: i32(1), 3: i32(CODES[name][0]) }));
  const graph = table({ 0: to(tensors), 1: to([0]), 2: to([last]), 3: to(operators), 4: to('main') });
  const writer = new Writer();
  writer.bytes.write('TFL3', 4, 'latin1');
  writer.end = 8;
  writer.refer(0, table({ 0: i32(3), 1: to(codes), 2: to([graph]), 3: to('made for a test'), 4: to(buffers) }));
  return new Uint8Array(writer.bytes.subarray(0, writer.end));
}

const softmax = (classes) => ({ code: 'SOFTMAX', options: { 0: { f32: 1 } }, output: [1, 1, 1, classes] });
const meanOf = (side, channels) => ({
  code: 'AVERAGE_POOL_2D',
  options: { 0: i8(1), 1: i32(1), 2: i32(1), 3: i32(side), 4: i32(side), 5: i8(0) },
  output: [1, 1, 1, channels],
});

/** Three classes, whose scores are `gain` times the mean red, green and blue in −1..1. */
export function colourModel(gain = 4) {
  const conv = {
    code: 'CONV_2D',
    options: { 0: i8(0), 1: i32(1), 2: i32(1), 3: i8(0) },
    output: [1, 16, 16, 3],
    weights: { shape: [3, 1, 1, 3], values: [gain, 0, 0, 0, gain, 0, 0, 0, gain] },
    bias: [0, 0, 0],
  };
  return tflite([1, 16, 16, 3], [conv, meanOf(16, 3), softmax(3)]);
}

/** MobileNet's kinds of layers with weights that are noise: 3×3, then depthwise and 1×1, a mean, and 10 classes. */
export function randomModel(side = 64, width = 24, classes = 10) {
  let seed = 7;
  const random = (count, scale) =>
    Array.from({ length: count }, () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return (seed / 2 ** 31 - 1) * scale;
    });
  const half = side / 2;
  const conv = (kernel, stride, from, channels, output, activation) => ({
    code: 'CONV_2D',
    options: { 0: i8(0), 1: i32(stride), 2: i32(stride), 3: i8(activation) },
    output: [1, output, output, channels],
    weights: { shape: [channels, kernel, kernel, from], values: random(channels * kernel * kernel * from, 3 / Math.sqrt(kernel * kernel * from)) },
    bias: random(channels, 0.2),
  });
  const depthwise = {
    code: 'DEPTHWISE_CONV_2D',
    options: { 0: i8(0), 1: i32(1), 2: i32(1), 3: i32(1), 4: i8(RELU6) },
    output: [1, half, half, width],
    weights: { shape: [1, 3, 3, width], values: random(9 * width, 1) },
    bias: random(width, 0.2),
  };
  return tflite([1, side, side, 3], [
    conv(3, 2, 3, width, half, RELU6),
    depthwise,
    conv(1, 1, width, width * 2, half, RELU6),
    meanOf(half, width * 2),
    conv(1, 1, width * 2, classes, 1, 0),
    softmax(classes),
  ]);
}
