// What threads are worth, in Node: `node web/bench.mjs [--width 1280] [--height 320] [--scale 2] [--threads 1,2] [--rounds 5]`,
// after `cargo xtask web`. Enlarges a made-up picture, and with `--classifier FILE.tflite` names 16 pictures, in turns.

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { startPool } from './dist/supple.js';
import { makePicture } from './tests/pictures.mjs';

const text = { type: 'string' };
const { values } = parseArgs({ options: { width: text, height: text, scale: text, threads: text, rounds: text, classifier: text } });
const { width = 1280, height = 320, scale = 2, threads = '1,2', rounds = 5, classifier } = values;

const picture = makePicture(Number(width), Number(height));
const weights = new Uint8Array(readFileSync(new URL(`./dist/models/rlfn_s_x${scale}.safetensors`, import.meta.url)));
const pictures = Array.from({ length: 16 }, (_, i) => makePicture(224, 224, { seed: i }));

const contenders = [];
for (const count of threads.split(',').map(Number)) {
  const pool = await startPool({ threads: count });
  const upscaler = await pool.openUpscaler(weights);
  const named = classifier && (await pool.openClassifier(new Uint8Array(readFileSync(classifier))));
  contenders.push({ count, pool, upscaler, named, upscaling: [], classifying: [] });
}
const time = async (times, work) => {
  const began = performance.now();
  await work();
  if (times) times.push(performance.now() - began);
};
for (let round = -1; round < Number(rounds); round++) {
  for (const { upscaler, named, upscaling, classifying } of contenders) {
    const counts = round >= 0; // the first warms up
    await time(counts && upscaling, () => upscaler.upscale(picture.rgba, picture.width, picture.height));
    if (named) await time(counts && classifying, () => named.classifyAll(pictures));
  }
}
const median = (times) => times.toSorted((a, b) => a - b)[times.length >> 1];
const row = (name, key) => {
  for (const contender of contenders) {
    const [least, middle] = [Math.min(...contender[key]), median(contender[key])];
    const gain = Math.min(...contenders[0][key]) / least;
    console.log(`${name}, ${contender.count} threads: median ${middle.toFixed(0)} ms, least ${least.toFixed(0)} ms, ${gain.toFixed(2)}x`);
  }
};
console.log(`${contenders[0].pool.features().simd}, ${rounds} rounds in turns`);
row(`${width}x${height} x${scale}`, 'upscaling');
if (classifier) row('16 pictures', 'classifying');
contenders.forEach(({ pool }) => pool.close());
