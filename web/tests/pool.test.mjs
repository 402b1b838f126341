// The pool in Node: results are those of one engine, work can be stopped, and a thread that fails is one clear error.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { load, startPool } from '../dist/supple.js';
import { makePicture } from './pictures.mjs';
import { colourModel, randomModel } from './tflite.mjs';

const simd = process.env.SUPPLE_MODULE ?? 'simd128';
const engine = await load({ simd });
const weights = new Uint8Array(readFileSync(new URL('../dist/models/rlfn_s_x2.safetensors', import.meta.url)));
const wide = makePicture(1000, 20, { seed: 3 });
const options = { simd, threads: 3 };

let pool;
before(async () => (pool = await startPool(options)));
after(() => pool.close());

/** Whether two pictures have the same samples. */
const same = (a, b) => Buffer.from(a.rgba.buffer).equals(Buffer.from(b.rgba.buffer));

/** `promise` must be rejected; with what. */
const failure = (promise) => promise.then(() => assert.fail('it did not fail'), (error) => error);

test('a pool says what it is', async () => {
  assert.deepEqual(pool.features(), { simd, threads: 3 });
  assert.equal(pool.version(), engine.version());
  const usual = await startPool();
  assert.ok(usual.threads >= 1 && usual.threads <= 8, `${usual.threads}`);
  usual.close();
});

test('a picture comes out as one engine makes it', async () => {
  const alone = new engine.Upscaler(weights);
  const upscaler = await pool.openUpscaler(weights);
  assert.deepEqual([upscaler.scale, upscaler.name], [alone.scale, alone.name]);
  assert.ok(alone.split(wide.width, 3).length > 2, 'the picture is not cut');
  for (const picture of [wide, makePicture(1000, 20, { opaque: false }), makePicture(9, 7)]) {
    const told = [];
    const { rgba, width, height } = picture;
    const expected = alone.upscale(rgba, width, height);
    const made = await upscaler.upscale(rgba, width, height, { progress: (done) => void told.push(done) });
    assert.deepEqual([made.width, made.height], [expected.width, expected.height]);
    assert.ok(made.rgba instanceof Uint8ClampedArray && same(made, expected), `${width}x${height} differs`);
    assert.ok(told[0] < 0.5 && told.at(-1) === 1, `${told}`);
    assert.deepEqual(told, told.toSorted((a, b) => a - b));
  }
  // Several at a time, more than there are threads; samples that are a part of a larger buffer.
  const room = new Uint8Array(8 + wide.rgba.length);
  room.set(wide.rgba, 4);
  const part = room.subarray(4, 4 + wide.rgba.length);
  const expected = alone.upscale(wide.rgba, wide.width, wide.height);
  const many = await Promise.all([part, part, part].map((rgba) => upscaler.upscale(rgba, wide.width, wide.height)));
  assert.ok(many.every((made) => same(made, expected)));
  upscaler.close();
  assert.match((await failure(upscaler.upscale(wide.rgba, wide.width, wide.height))).message, /^the model is closed$/);
});

test('pictures are classified in their order', async () => {
  const alone = new engine.Classifier(randomModel());
  const classifier = await pool.openClassifier(randomModel());
  assert.deepEqual([classifier.classes, classifier.inputSize], [alone.classes, alone.inputSize]);
  const pictures = Array.from({ length: 8 }, (_, i) => makePicture(40 + i, 64, { seed: i }));
  const expected = pictures.map(({ rgba, width, height }) => alone.classify(rgba, width, height, 4));
  assert.deepEqual(await classifier.classifyAll(pictures, { top: 4 }), expected);
  const { rgba, width, height } = pictures[5];
  assert.deepEqual(await classifier.classify(rgba, width, height, { top: 4 }), expected[5]);
  assert.deepEqual(await classifier.classifyAll([{ data: rgba, width, height }], { top: 4 }), [expected[5]]); // an ImageData
  assert.deepEqual(await classifier.classifyAll([]), []);
  const named = await pool.openClassifier([colourModel()], 'red\ngreen\nblue');
  assert.match((await named.classify(rgba, width, height))[0].label, /red|green|blue/);
});

test('bad input is refused as the engine refuses it', async () => {
  const upscaler = await pool.openUpscaler(weights);
  const { rgba } = makePicture(8, 8);
  for (const [samples, width, height, message] of [
    [rgba, NaN, 8, /^width is NaN/],
    [rgba, 8, 0, /^height is 0/],
    [rgba, 9, 8, /9x8 pixels need 288 samples, got 256/],
    [[1, 2], 8, 8, /must be a Uint8ClampedArray/],
    [undefined, 8, 8, /must be a Uint8ClampedArray/],
    [() => 0, 8, 8, /could not be cloned/],
  ]) {
    assert.match((await failure(upscaler.upscale(samples, width, height))).message, message);
  }
  const classifier = await pool.openClassifier(colourModel());
  const pictures = [makePicture(8, 8), { ...makePicture(8, 8), width: 9 }, makePicture(8, 8)];
  assert.match((await failure(classifier.classifyAll(pictures))).message, /need 288 samples/);
  assert.match((await failure(pool.openUpscaler(new Uint8Array(9)))).message, /^the model: /);
  assert.match((await failure(pool.openClassifier('model'))).message, /must be a Uint8Array/);
  for (const threads of [0, 1.5, -1, 1000, '2', NaN]) {
    assert.match((await failure(startPool({ threads }))).message, /^threads is /);
  }
  assert.equal((await upscaler.upscale(rgba, 8, 8)).width, 16); // and it goes on working
});

test('work can be stopped, and the pool goes on', async () => {
  const upscaler = await pool.openUpscaler(weights);
  const large = makePicture(1000, 400);
  const upscale = (options) => upscaler.upscale(large.rgba, large.width, large.height, options);
  const began = performance.now();
  const controller = new AbortController();
  const reason = new Error('changed my mind');
  const stopped = failure(upscale({ signal: controller.signal, progress: () => controller.abort(reason) }));
  const queued = failure(upscale({ signal: controller.signal }));
  assert.equal(await stopped, reason);
  assert.equal(await queued, reason);
  assert.equal(await failure(upscale({ signal: AbortSignal.abort(reason) })), reason);
  assert.equal((await failure(upscale({ progress: () => false }))).message, 'cancelled');
  const own = new Error('of the callback');
  assert.equal(await failure(upscale({ progress: () => { throw own; } })), own);
  console.log(`stopped after ${Math.round(performance.now() - began)} ms`);
  const { rgba, width, height } = wide;
  assert.ok(same(await upscaler.upscale(rgba, width, height), new engine.Upscaler(weights).upscale(rgba, width, height)));
});

test('a thread that fails is one clear error', async () => {
  const missing = await failure(startPool({ ...options, url: './engine/none.wasm' }));
  assert.match(missing.message, /none\.wasm/);
  assert.match((await failure(startPool({ ...options, simd: 'avx2' }))).message, /no module is called avx2/);
  const script = new URL('./failing-worker.mjs', import.meta.url);
  const failing = await startPool({ ...options, worker: script });
  const upscaler = await failing.openUpscaler(weights);
  for (let i = 0; i < 2; i++) {
    const error = await failure(upscaler.upscale(wide.rgba, wide.width, wide.height));
    assert.equal(error.message, 'a thread of the engine stopped: on purpose');
    const { rgba, width, height } = makePicture(16, 16);
    assert.equal((await upscaler.upscale(rgba, width, height)).width, 32); // what needs no other part works
  }
  failing.close();
});

test('a pool that is closed says so', async () => {
  const closing = await startPool({ ...options, threads: 1 });
  const upscaler = await closing.openUpscaler(weights);
  const both = [1, 2].map(() => failure(upscaler.upscale(wide.rgba, wide.width, wide.height)));
  closing.close();
  for (const error of [...(await Promise.all(both)), await failure(upscaler.upscale(wide.rgba, wide.width, wide.height))]) {
    assert.equal(error.message, 'the pool is closed');
  }
});
