// The package in Node: results against the command's, and what happens with bad input. SUPPLE_MODULE says which module.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { describe, isFatal, load } from '../dist/supple.js';
import { fromBmp, largestDifference, makePicture, toBmp } from './pictures.mjs';
import { colourModel, randomModel } from './tflite.mjs';

const root = fileURLToPath(new URL('../../', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'supple-'));
after(() => rmSync(folder, { recursive: true }));

const simd = process.env.SUPPLE_MODULE ?? 'simd128';
const { Upscaler, Classifier, version, features } = await load({ simd });
const weights = (scale) => new Uint8Array(readFileSync(new URL(`../dist/models/rlfn_s_x${scale}.safetensors`, import.meta.url)));

/** The command: SUPPLE names its file, otherwise cargo builds it. */
function supple(...args) {
  const [program, ...first] = process.env.SUPPLE ? [process.env.SUPPLE] : ['cargo', 'run', '--quiet', '--release', '--'];
  return execFileSync(program, [...first, ...args], { cwd: root, encoding: 'utf8' });
}

/** What a call throws. */
function thrown(call) {
  try {
    call();
  } catch (error) {
    return error;
  }
  assert.fail('nothing was thrown');
}

test('the module that was asked for is loaded', () => {
  assert.deepEqual(features(), { simd, threads: 1 });
  assert.equal(version(), JSON.parse(readFileSync(new URL('../dist/package.json', import.meta.url))).version);
});

test('pictures come out as the command makes them', () => {
  for (const [scale, width, height] of [[2, 97, 61], [4, 40, 33]]) {
    const picture = makePicture(width, height);
    const upscaler = new Upscaler(weights(scale));
    assert.deepEqual([upscaler.scale, upscaler.name], [scale, 'RLFN_S']);
    const ours = upscaler.upscale(picture.rgba, width, height);
    const [input, output] = [join(folder, `${scale}.bmp`), join(folder, `${scale}_large.bmp`)];
    writeFileSync(input, toBmp(picture));
    supple('upscale', input, '-o', output, '-s', `${scale}`, '--precision', 'f32');
    const theirs = fromBmp(readFileSync(output));
    assert.deepEqual([ours.width, ours.height], [width * scale, height * scale]);
    assert.ok(ours.rgba instanceof Uint8ClampedArray);
    const difference = largestDifference(ours, theirs);
    console.log(`x${scale}: largest difference ${difference}`);
    assert.ok(difference <= 1, `x${scale}: differs by ${difference}`);
    upscaler.free();
  }
});

test('a picture keeps its transparency', () => {
  const { rgba, width, height } = makePicture(48, 40, { opaque: false });
  const big = new Upscaler(weights(2)).upscale(rgba, width, height);
  const alpha = (x, y) => big.rgba[(y * big.width + x) * 4 + 3];
  assert.ok(alpha(48, 40) > 240 && alpha(0, 0) === 0 && alpha(95, 79) === 0);
});

test('progress grows to one, and can stop the work', () => {
  const { rgba, width, height } = makePicture(64, 64);
  const upscaler = new Upscaler(weights(2));
  const told = [];
  upscaler.upscale(rgba, width, height, (done) => void told.push(done));
  assert.ok(told.length > 2 && told[0] === 0 && told.at(-1) === 1, `${told}`);
  assert.deepEqual(told, told.toSorted((a, b) => a - b));
  assert.equal(thrown(() => upscaler.upscale(rgba, width, height, (done) => done < 0.5)).message, 'cancelled');
  const own = new Error('of the callback');
  assert.equal(thrown(() => upscaler.upscale(rgba, width, height, () => { throw own; })), own);
  assert.equal(upscaler.upscale(rgba, width, height).width, 128); // and it goes on working
});

test('sizes that make no sense are refused', () => {
  const upscaler = new Upscaler(weights(2));
  const { rgba } = makePicture(8, 8);
  for (const [width, height, message] of [
    [NaN, 8, /^width is NaN/],
    [8, 0, /^height is 0/],
    [-8, 8, /^width is -8/],
    [8.5, 8, /^width is 8.5/],
    [Infinity, 8, /^width is inf/],
    [1e9, 8, /^width is 1000000000/],
    [65000, 65000, /need 16900000000 samples, got 256/],
    [9, 8, /9x8 pixels need 288 samples, got 256/],
    [undefined, 8, /^width is NaN/],
  ]) {
    const error = thrown(() => upscaler.upscale(rgba, width, height));
    assert.ok(error instanceof Error && !isFatal(error));
    assert.match(error.message, message);
  }
  for (const samples of [undefined, null, [1, 2, 3, 4], 'abcd', new Float32Array(256)]) {
    assert.match(thrown(() => upscaler.upscale(samples, 8, 8)).message, /must be a Uint8ClampedArray/);
  }
  assert.equal(upscaler.upscale(rgba, 8, 8).width, 16);
});

test('pictures whose result is too large are refused before any work', () => {
  const upscaler = new Upscaler(weights(4));
  const wide = thrown(() => upscaler.upscale(new Uint8ClampedArray(30000 * 4), 30000, 1));
  assert.match(wide.message, /would be 120000x4/);
  assert.ok(wide.hint);
  const side = 6000; // 24000 x 24000 pixels
  const large = thrown(() => upscaler.upscale(new Uint8ClampedArray(side * side * 4).fill(255), side, side));
  assert.match(large.message, /memory/);
  assert.ok(large.hint && !isFatal(large));
  const { rgba, width, height } = makePicture(20, 20);
  assert.equal(upscaler.upscale(rgba, width, height).width, 80);
});

test('damaged models are refused with one line', () => {
  const good = weights(2);
  const nan = good.slice();
  nan.fill(0xff, good.length - 4000);
  const cases = [new Uint8Array(), good.slice(0, 7), good.slice(0, 1000), good.slice(0, -1), nan, new Uint8Array(4096), new TextEncoder().encode('<html>not found</html>')];
  for (const bytes of cases) {
    for (const make of [() => new Upscaler(bytes), () => new Classifier(bytes)]) {
      const error = thrown(make);
      assert.ok(error instanceof Error && !isFatal(error), `${error}`);
      assert.match(error.message, /^the model: [^\n]+$/);
    }
  }
  assert.equal(new Upscaler(good).scale, 2);
});

const solid = (r, g, b, width = 40, height = 30) => ({ width, height, rgba: Uint8ClampedArray.from({ length: width * height * 4 }, (_, i) => [r, g, b, 255][i % 4]) });

test('a picture is classified as its colours say', () => {
  const classifier = new Classifier(colourModel(4), 'red\ngreen\nblue\n');
  assert.deepEqual([classifier.inputSize, classifier.classes], [[16, 16], 3]);
  for (const colour of [[200, 30, 90], [0, 255, 0], [10, 20, 240]]) {
    const { rgba, width, height } = solid(...colour);
    const powers = colour.map((v) => Math.exp(4 * (v / 127.5 - 1)));
    const sum = powers.reduce((a, b) => a + b);
    const expected = ['red', 'green', 'blue']
      .map((label, index) => ({ label, index, probability: powers[index] / sum }))
      .sort((a, b) => b.probability - a.probability);
    const predictions = classifier.classify(rgba, width, height, 2);
    assert.equal(predictions.length, 2);
    predictions.forEach(({ label, index, probability }, i) => {
      assert.deepEqual({ label, index }, { label: expected[i].label, index: expected[i].index });
      assert.ok(Math.abs(probability - expected[i].probability) < 1e-5, `${label}: ${probability}, ${expected[i].probability}`);
    });
  }
});

test('pictures are classified as the command does it', () => {
  const model = join(folder, 'random.tflite');
  writeFileSync(model, randomModel());
  const classifier = new Classifier(randomModel());
  for (const [width, height] of [[64, 64], [150, 97], [31, 70]]) {
    const picture = makePicture(width, height, { seed: width });
    const input = join(folder, `${width}.bmp`);
    writeFileSync(input, toBmp(picture));
    const { files } = JSON.parse(supple('classify', input, '--model', model, '--top', '10', '--json'));
    const theirs = new Map(files[0].predictions.map(({ index, probability }) => [index, probability]));
    const ours = classifier.classify(picture.rgba, width, height, 10);
    assert.equal(ours.length, 10);
    assert.equal(ours[0].label, `class ${ours[0].index}`);
    for (const { index, probability } of ours) {
      assert.ok(Math.abs(probability - theirs.get(index)) < 1e-4, `${width}x${height}, ${index}: ${probability}, ${theirs.get(index)}`);
    }
  }
});

test('classifiers refuse what makes no sense', () => {
  const model = colourModel();
  const { rgba, width, height } = solid(1, 2, 3);
  const classifier = new Classifier([model]);
  assert.equal(classifier.classify(rgba, width, height).length, 3); // top is 5 by default
  assert.match(thrown(() => classifier.classify(rgba, width, height, 0)).message, /^top is 0/);
  assert.match(thrown(() => classifier.classify(rgba, width, height, NaN)).message, /^top is NaN/);
  assert.match(thrown(() => classifier.classify(rgba, width + 1, height)).message, /need \d+ samples/);
  for (let end = 0; end < model.length; end += 97) {
    const error = thrown(() => new Classifier(model.slice(0, end)));
    assert.ok(!isFatal(error) && error.message, `${end}: ${error}`);
  }
  for (const wrong of [undefined, 'model', [], [model, model, model], [1], weights(2)]) {
    assert.ok(!isFatal(thrown(() => new Classifier(wrong))));
  }
  assert.match(thrown(() => new Classifier(model, 'one\ntwo')).message, /2/);
});

test('what stops the engine is told apart from what does not', () => {
  const trap = new WebAssembly.RuntimeError('unreachable');
  assert.ok(isFatal(trap) && isFatal(new Error('internal error: index out of bounds')));
  assert.match(describe(trap).message, /memory ran out/);
  assert.ok(describe(trap).hint);
  const error = thrown(() => new Upscaler(new Uint8Array()));
  assert.ok(!isFatal(error));
  assert.deepEqual(describe(error), { message: error.message, hint: error.hint });
  assert.deepEqual(describe('text'), { message: 'text' });
});
