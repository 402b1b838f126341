// MobileNet as WebAssembly in other engines, tfjs (WASM backend, SIMD) and ONNX Runtime Web, one thread, next to
// Supple, in Node and in headless Chromium.
//
//     mkdir /tmp/peers && cp benches/peers/package*.json /tmp/peers && npm ci --prefix /tmp/peers
//     python benches/peers/cnn.py --onnx /tmp/peers/v1.onnx --tflite /tmp/peers/v1.tflite
//     node benches/peers/cnn_web.mjs --modules /tmp/peers --onnx /tmp/peers/v1.onnx \
//         --supple web/dist --supple-model /tmp/peers/v1.tflite [--chromium /usr/bin/chromium-headless-shell]
//
// Further models, each after a `--supple-model` of its own, are run by Supple alone: the same network pruned, made by
// `supple compress /tmp/peers/v1.tflite -s 0.3 --pattern 1x4 --spread even -o v1_30.safetensors`, say.
//
// How it measures: each contender has a Node process, or a page, of its own, which builds the network, runs it a dozen
// times so that V8 has optimised its module, and waits. Then rounds are played in which each contender has one burst of
// runs, so that a change of the machine's load meets all of them. The figures are the median and the minimum over all
// runs, of wall time and in Node of the process's CPU time. A run starts with an f32 array and ends with the scores as
// an f32 array; for Supple it starts with a picture's samples, so that cutting it to the network's size is included. On a busy
// Linux machine run the script under `chrt -f 1`, which the Node processes and Chromium inherit.
//
// Relaxed SIMD: Chromium has it from 114, Node from 21; Node 20 needs `--experimental-wasm-relaxed-simd`, which the
// script gives to the process of `supple-relaxed-simd` only.
//
// This file is also the module that Chromium's pages load: everything above `main` runs in both.

const WARM_UP_RUNS = 12;

// --------------------------------------------------------------------------------------------------------------------
// ONNX: as much of it as cnn.py writes

/** The fields of a protocol-buffers message: [number, value], where a value is a number or the bytes of the field. */
function* fields(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = () => {
    let value = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte > 127);
    return value;
  };
  while (at < bytes.length) {
    const key = varint(), kind = key & 7;
    let value;
    if (kind === 0) value = varint();
    else if (kind === 1) value = view.getFloat64((at += 8) - 8, true);
    else if (kind === 2) {
      const length = varint();
      value = bytes.subarray(at, (at += length));
    } else if (kind === 5) value = view.getFloat32((at += 4) - 4, true);
    else throw new Error(`ONNX: wire type ${kind}`);
    yield [key >> 3, value];
  }
}

const text = (bytes) => new TextDecoder().decode(bytes);
const all = (bytes, number) => [...fields(bytes)].filter(([n]) => n === number).map(([, value]) => value);

/** Repeated integers, packed or not. */
function integers(bytes, number) {
  return all(bytes, number).flatMap((value) => {
    if (typeof value === 'number') return [value];
    const list = [];
    let n = 0, scale = 1;
    for (const byte of value) {
      n += (byte & 127) * scale;
      scale *= 128;
      if (byte < 128) {
        list.push(n);
        n = 0;
        scale = 1;
      }
    }
    return list;
  });
}

/** { nodes: [{ op, inputs, output, attributes }], tensors: { name: { dims, data } } }, attributes integers or lists. */
function readOnnx(bytes) {
  const graph = all(bytes, 7)[0];
  const tensors = {};
  for (const tensor of all(graph, 5)) {
    const raw = all(tensor, 9)[0] ?? new Uint8Array();
    const data = new Float32Array(new Uint8Array(raw).buffer); // a copy, because the bytes may lie unaligned
    tensors[text(all(tensor, 8)[0])] = { dims: integers(tensor, 1), data };
  }
  const nodes = all(graph, 1).map((node) => ({
    op: text(all(node, 4)[0]),
    inputs: all(node, 1).map(text),
    output: text(all(node, 2)[0]),
    attributes: Object.fromEntries(
      all(node, 5).map((a) => [text(all(a, 1)[0]), integers(a, 8).length ? integers(a, 8) : all(a, 3)[0]]),
    ),
  }));
  return { nodes, tensors };
}

/** The network's input as planes, red to blue: the same values for all contenders. */
function input(size) {
  let state = 1;
  const next = () => (state = (state * 48271) % 2147483647) / 1073741823.5 - 1;
  return Float32Array.from({ length: 3 * size * size }, next);
}

/** Planes to pixels. */
function interleaved(planes, size) {
  const area = size * size;
  return Float32Array.from({ length: 3 * area }, (_, i) => planes[(i % 3) * area + Math.floor(i / 3)]);
}

// --------------------------------------------------------------------------------------------------------------------
// The contenders: (host, settings) => { version, note, run: async () => scores }

async function tfjs(host, { size }) {
  const tf = await host.tfjs();
  tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', false);
  await tf.setBackend('wasm');
  await tf.ready();
  if (!(await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT'))) throw new Error('no SIMD');
  const { nodes, tensors } = readOnnx(await host.onnx());

  // Each step is a layer as a function of the tensors so far; a Clip is fused into the convolution before it.
  const steps = [];
  const clipped = new Map(nodes.filter((n) => n.op === 'Clip').map((n) => [n.inputs[0], n.output]));
  for (const { op, inputs, output, attributes } of nodes) {
    const [x, weight, bias] = inputs;
    if (op === 'Conv') {
      const { dims, data } = tensors[weight];
      const depthwise = attributes.group > 1;
      const order = depthwise ? [2, 3, 0, 1] : [2, 3, 1, 0];
      const layer = {
        filter: tf.tidy(() => tf.transpose(tf.tensor4d(data, dims), order)),
        bias: tf.tensor1d(tensors[bias].data),
        strides: attributes.strides[0],
        pad: 'same',
        activation: clipped.has(output) ? 'relu6' : 'linear',
      };
      const conv = depthwise ? tf.fused.depthwiseConv2d : tf.fused.conv2d;
      steps.push([clipped.get(output) ?? output, (t) => conv({ x: t[x], ...layer })]);
    } else if (op === 'Add') steps.push([output, (t) => tf.add(t[x], t[weight])]);
    else if (op === 'GlobalAveragePool') steps.push([output, (t) => tf.mean(t[x], [1, 2])]);
    else if (op === 'Flatten') steps.push([output, (t) => t[x]]);
    else if (op === 'Gemm') {
      // Transposed here: with `transposeB` the fused product of tfjs-wasm 4.22 comes out wrong.
      const matrix = tf.tidy(() => tf.transpose(tf.tensor2d(tensors[weight].data, tensors[weight].dims)));
      const offset = tf.tensor1d(tensors[bias].data);
      steps.push([output, (t) => tf.fused.matMul({ a: t[x], b: matrix, bias: offset })]);
    } else if (op !== 'Clip') throw new Error(`operator ${op}`);
  }
  const source = tf.tensor4d(interleaved(input(size), size), [1, size, size, 3]);
  const run = async () => {
    const y = tf.tidy(() => {
      const values = { input: source };
      let last;
      for (const [name, step] of steps) values[name] = last = step(values);
      return last;
    });
    const scores = y.dataSync();
    y.dispose();
    return scores;
  };
  return { version: tf.version_wasm ?? tf.version_core, note: 'SIMD, 1 thread, fused convolutions', run };
}

async function onnxruntimeWeb(host, { size }) {
  const ort = await host.onnxruntime();
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(await host.onnx(), { executionProviders: ['wasm'] });
  const x = new ort.Tensor('float32', input(size), [1, 3, size, size]);
  const run = async () => (await session.run({ input: x })).scores.data;
  return { version: ort.env.versions?.web, note: 'wasm execution provider, SIMD, 1 thread', run };
}

/**
 * ADAPTER to Supple's npm package, the only place that knows its API: `load({ simd })` gives `Classifier`, made from
 * the bytes of a model file; `classify` takes what a canvas has. Of a picture of 256 pixels it cuts out 224.
 */
const supple = (simd) => async (host, { model }) => {
  const { load } = await host.supple();
  const { Classifier, version, features } = await load({ simd });
  const classifier = new Classifier(await host.suppleModel(model));
  const side = 256;
  const rgba = Uint8ClampedArray.from(interleaved(input(side), side), (v) => v * 127 + 128);
  const picture = Uint8ClampedArray.from({ length: 4 * side * side }, (_, i) =>
    i % 4 === 3 ? 255 : rgba[Math.floor(i / 4) * 3 + (i % 4)],
  );
  const run = async () => {
    classifier.classify(picture, side, side, 5);
    return null; // probabilities after another preprocessing: not comparable with the others' scores
  };
  return { version: version(), note: `${features().simd}, from the picture's bytes`, run };
};

const CONTENDERS = {
  'tfjs-wasm': tfjs,
  'onnxruntime-web': onnxruntimeWeb,
  'supple-simd128': supple('simd128'),
  'supple-relaxed-simd': supple('relaxed-simd'),
};

/** Contenders by their names: each once, and Supple's again for each further model. */
function contenders({ suppleModels }) {
  const further = suppleModels.slice(1).map((file, i) => [i + 1, file.split('/').pop()]);
  return new Map(Object.entries(CONTENDERS).flatMap(([name, build]) => [
    [name, { build, model: 0 }],
    ...(name.startsWith('supple') ? further : []).map(([model, file]) => [`${name} ${file}`, { build, model }]),
  ]));
}

/** A contender ready to run: its description, and `burst`. */
export async function prepare(name, host, settings) {
  const { build, model } = contenders(settings).get(name);
  const { version, note, run } = await build(host, { ...settings, model });
  const scores = await run();
  for (let i = 1; i < WARM_UP_RUNS; i++) await run();
  const cpuNow = host.cpuNow ?? (() => NaN);
  const burst = async (runs) => {
    const wall = [], cpu = [];
    await run();
    for (let i = 0; i < runs; i++) {
      const start = performance.now(), startCpu = cpuNow();
      await run();
      wall.push(performance.now() - start);
      cpu.push(cpuNow() - startCpu);
    }
    return { wall, cpu: host.cpuNow ? cpu : [] };
  };
  return { version, note, scores: scores && Array.from(scores), burst };
}

/** What contenders take from the page that `main` serves. */
export const pageHost = {
  bytes: async (path) => {
    const response = await fetch(path);
    if (!response.ok) throw new Error(`${path}: status ${response.status}`);
    return new Uint8Array(await response.arrayBuffer());
  },
  onnx: () => pageHost.bytes('/onnx'),
  suppleModel: (model) => pageHost.bytes(`/supple-model/${model}`),
  supple: () => import('/supple/supple.js'),
  onnxruntime: async () => {
    const ort = await import('/modules/onnxruntime-web/dist/ort.wasm.min.mjs');
    ort.env.wasm.wasmPaths = '/modules/onnxruntime-web/dist/';
    return ort;
  },
  tfjs: async () => {
    for (const name of ['core', 'backend-cpu', 'backend-wasm']) {
      await new Promise((resolve, reject) => {
        const script = Object.assign(document.createElement('script'), { onload: resolve, onerror: reject });
        script.src = `/modules/@tensorflow/tfjs-${name}/dist/tf-${name}.min.js`;
        document.head.append(script);
      });
    }
    tf.wasm.setWasmPaths('/modules/@tensorflow/tfjs-backend-wasm/dist/');
    return Object.assign(Object.create(tf), { version_wasm: tf.wasm.version_wasm });
  },
};

// --------------------------------------------------------------------------------------------------------------------
// Node

async function nodeHost(settings) {
  const { readFile } = await import('node:fs/promises');
  const { createRequire } = await import('node:module');
  const { pathToFileURL } = await import('node:url');
  const { resolve } = await import('node:path');
  const require = createRequire(resolve(settings.modules, 'package.json'));
  return {
    onnx: () => readFile(settings.onnx),
    suppleModel: (model) => readFile(settings.suppleModels[model]),
    supple: () => import(pathToFileURL(resolve(settings.supple, 'supple.js'))),
    onnxruntime: async () => {
      const folder = resolve(settings.modules, 'node_modules/onnxruntime-web/dist');
      return import(pathToFileURL(resolve(folder, 'ort.node.min.mjs')));
    },
    tfjs: async () => {
      const tf = require('@tensorflow/tfjs-core');
      require('@tensorflow/tfjs-backend-cpu');
      const wasm = require('@tensorflow/tfjs-backend-wasm');
      wasm.setWasmPaths(resolve(settings.modules, 'node_modules/@tensorflow/tfjs-backend-wasm/dist') + '/');
      return Object.assign(Object.create(tf), { version_wasm: wasm.version_wasm });
    },
    cpuNow: () => {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1000;
    },
  };
}

/** A contender's own process: tells how it is, then answers each number of runs with their times. */
async function serve(name, settings) {
  try {
    const { burst, ...description } = await prepare(name, await nodeHost(settings), settings);
    process.on('message', async (runs) => process.send(await burst(runs)));
    process.send(description);
  } catch (error) {
    process.send({ error: String(error?.message ?? error).split('\n')[0] }, () => process.exit(1));
  }
}

/** Starts a contender in a Node process. */
async function startProcess(name, settings) {
  const { fork } = await import('node:child_process');
  const { fileURLToPath } = await import('node:url');
  const relaxed = name.includes('relaxed') && Number(process.versions.node.split('.')[0]) < 21;
  const child = fork(fileURLToPath(import.meta.url), ['--serve', name, JSON.stringify(settings)], {
    execArgv: relaxed ? ['--experimental-wasm-relaxed-simd'] : [],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const answer = () =>
    new Promise((resolve, reject) => {
      const gone = (code) => reject(new Error(`ended with status ${code}`));
      child.once('exit', gone);
      child.once('message', (message) => {
        child.off('exit', gone);
        if (message.error) reject(new Error(message.error));
        else resolve(message);
      });
    });
  const burst = (runs) => {
    const answered = answer();
    child.send(runs);
    return answered;
  };
  return { ...(await answer()), burst, stop: () => child.kill() };
}

/** Serves this file, the packages and the models to pages, cross-origin isolated as threads and fine timers want it. */
async function startServer(settings) {
  const { createServer } = await import('node:http');
  const { readFile } = await import('node:fs/promises');
  const { resolve, sep } = await import('node:path');
  const { fileURLToPath } = await import('node:url');
  const types = { js: 'text/javascript', mjs: 'text/javascript', wasm: 'application/wasm', html: 'text/html' };
  const roots = { '/modules/': resolve(settings.modules, 'node_modules'), '/supple/': settings.supple };
  const files = {
    '/cnn_web.mjs': fileURLToPath(import.meta.url), '/onnx': settings.onnx,
    ...Object.fromEntries(settings.suppleModels.map((file, i) => [`/supple-model/${i}`, file])),
  };
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, 'http://localhost').pathname;
    const headers = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };
    let file = files[path];
    for (const [prefix, root] of Object.entries(roots)) {
      const inside = root && path.startsWith(prefix) && resolve(root, path.slice(prefix.length));
      if (inside && inside.startsWith(resolve(root) + sep)) file = inside;
    }
    try {
      const body = path === '/' ? '<!doctype html><title>peers</title>' : await readFile(file);
      const type = types[path === '/' ? 'html' : path.split('.').pop()] ?? 'application/octet-stream';
      response.writeHead(200, { ...headers, 'Content-Type': type }).end(body);
    } catch {
      response.writeHead(404, headers).end();
    }
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

/** Starts Chromium; the result starts a contender in a page of its own. */
async function startChromium(settings) {
  const { createRequire } = await import('node:module');
  const { resolve } = await import('node:path');
  const { chromium } = createRequire(resolve(settings.modules, 'package.json'))('playwright-core');
  const root = process.getuid?.() === 0; // Chromium's sandbox refuses to work for root
  const browser = await chromium.launch({ executablePath: settings.chromium, args: root ? ['--no-sandbox'] : [] });
  const server = await startServer(settings);
  const start = async (name) => {
    const page = await (await browser.newContext()).newPage();
    await page.goto(server.url);
    const description = await page.evaluate(
      async ([name, settings]) => {
        const { prepare, pageHost } = await import('/cnn_web.mjs');
        const { burst, ...description } = await prepare(name, pageHost, settings);
        globalThis.burst = burst;
        return description;
      },
      [name, settings],
    );
    const burst = (runs) => page.evaluate((n) => globalThis.burst(n), runs);
    return { ...description, burst, stop: () => page.close() };
  };
  const close = async () => {
    await browser.close();
    server.close();
  };
  return { name: `Chromium ${browser.version()}`, start, close };
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Builds all contenders with `start`, plays the rounds, and tells the results. */
async function measure(start, settings) {
  const running = [], skipped = {};
  for (const name of contenders(settings).keys()) {
    if (settings.only && !settings.only.split(',').some((prefix) => name.startsWith(prefix))) continue;
    try {
      if (name.startsWith('supple') && !settings.supple) throw new Error('no --supple FOLDER given');
      if (name.startsWith('supple') && !settings.suppleModels.length) throw new Error('no --supple-model FILE given');
      running.push({ name, wall: [], cpu: [], ...(await start(name, settings)) });
    } catch (error) {
      skipped[name] = String(error.message).split('\n')[0];
    }
  }
  for (let round = 0; round < settings.rounds; round++) {
    const shift = running.length ? round % running.length : 0; // another starter each round
    for (const contender of [...running.slice(shift), ...running.slice(0, shift)]) {
      if (contender.name in skipped) continue;
      try {
        const { wall, cpu } = await contender.burst(settings.runs);
        contender.wall.push(...wall);
        contender.cpu.push(...cpu);
      } catch (error) {
        skipped[contender.name] = String(error.message).split('\n')[0];
      }
    }
  }
  for (const contender of running) await contender.stop();
  const reference = running.find((contender) => contender.scores)?.scores;
  const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const results = running.filter(({ name }) => !(name in skipped)).map((contender) => ({
    name: contender.name,
    version: contender.version ?? '?',
    options: contender.note,
    difference: contender.scores && largest(contender.scores.map((v, i) => v - reference[i])) / largest(reference),
    median_ms: median(contender.wall),
    min_ms: Math.min(...contender.wall),
    cpu_median_ms: contender.cpu.length ? median(contender.cpu) : null,
    cpu_min_ms: contender.cpu.length ? Math.min(...contender.cpu) : null,
    samples_ms: contender.wall,
  }));
  return { results, skipped };
}

function markdown(title, { results, skipped }, settings) {
  const cell = (value, digits = 2) => (value === null || value === undefined ? '–' : value.toFixed(digits));
  const lines = [
    `### ${title}`, '', `1 thread, ${settings.rounds} rounds of ${settings.runs} runs.`, '',
    '| contender | version | median ms | min ms | CPU median | CPU min | difference | options |',
    '|---|---|--:|--:|--:|--:|--:|---|',
  ];
  for (const r of [...results].sort((a, b) => a.min_ms - b.min_ms)) {
    const times = [r.median_ms, r.min_ms, r.cpu_median_ms, r.cpu_min_ms].map((value) => cell(value)).join(' | ');
    const difference = typeof r.difference === 'number' ? r.difference.toExponential(0) : '–';
    lines.push(`| ${r.name} | ${r.version} | ${times} | ${difference} | ${r.options} |`);
  }
  const left = Object.entries(skipped).map(([name, reason]) => `- ${name}: ${reason}`);
  return [...lines, ...(left.length ? ['', 'Skipped:', ...left] : []), ''].join('\n');
}

const USAGE = `usage: node cnn_web.mjs --onnx FILE [options]
  --onnx FILE          the network, written by cnn.py --onnx
  --modules FOLDER     where package.json was installed (default: this file's folder)
  --supple FOLDER      Supple's npm package (with supple.js)
  --supple-model FILE  the network for Supple, written by cnn.py --tflite; given again, further ones
  --chromium FILE      measure in this Chromium too, such as /usr/bin/chromium-headless-shell
  --no-node            do not measure in Node
  --only A,B           only contenders whose names start so: ${Object.keys(CONTENDERS).join(', ')}
  --size N             side of the network's input (default: 224)
  --rounds N, --runs N rounds of bursts, timed runs in a burst (default: 7 and 10)
  --json FILE          write all samples and results here`;

async function main(words) {
  const { parseArgs } = await import('node:util');
  const { existsSync, writeFileSync } = await import('node:fs');
  const { fileURLToPath } = await import('node:url');
  const string = (value) => ({ type: 'string', default: value });
  let values;
  try {
    ({ values } = parseArgs({
      args: words,
      options: {
        onnx: string(), modules: string(fileURLToPath(new URL('.', import.meta.url))), supple: string(),
        'supple-model': { type: 'string', multiple: true }, chromium: string(), 'no-node': { type: 'boolean' },
        only: string(), size: string('224'), rounds: string('7'), runs: string('10'),
        json: string(), help: { type: 'boolean' },
      },
    }));
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    process.exit(2);
  }
  const settings = { ...values, suppleModels: values['supple-model'] ?? [] };
  for (const name of ['size', 'rounds', 'runs']) settings[name] = Number(values[name]);
  const whole = (n) => Number.isInteger(n) && n > 0;
  if (values.help || !values.onnx || ![settings.size, settings.rounds, settings.runs].every(whole)) {
    console.error(USAGE);
    process.exit(values.help ? 0 : 2);
  }
  for (const file of [values.onnx, values.supple, ...settings.suppleModels, values.chromium]) {
    if (file && !existsSync(file)) {
      console.error(`no file at ${file}`);
      process.exit(2);
    }
  }
  const report = {};
  if (!values['no-node']) {
    const title = `Node ${process.versions.node} (V8 ${process.versions.v8})`;
    report[title] = await measure(startProcess, settings);
    console.log(markdown(title, report[title], settings));
  }
  if (values.chromium) {
    const browser = await startChromium(settings);
    report[browser.name] = await measure(browser.start, settings);
    await browser.close();
    console.log(markdown(browser.name, report[browser.name], settings));
  }
  if (values.json) writeFileSync(values.json, JSON.stringify(report, null, 1) + '\n');
}

if (typeof process === 'object' && import.meta.url === `file://${process.argv[1]}`) {
  if (process.argv[2] === '--serve') await serve(process.argv[3], JSON.parse(process.argv[4]));
  else await main(process.argv.slice(2));
}
