// Compiled only: what the types must allow, and what they must not.

import { load, probe, type Picture, type Prediction, type SuppleError } from '../dist/supple.js';

const engine = await load({ simd: 'simd128' });
const model = new Uint8Array();

const upscaler = new engine.Upscaler(model);
const pixels = new Uint8ClampedArray(4);
const big: Picture = upscaler.upscale(pixels, 1, 1, (done: number) => done < 0.5);
new ImageData(big.rgba, big.width, big.height);

const classifier = new engine.Classifier([model, model], 'cat\ndog');
const [width, height]: [number, number] = classifier.inputSize;
const predictions: Prediction[] = classifier.classify(pixels, width, height, 5);
predictions.map(({ label, probability }) => `${label}: ${probability.toFixed(2)}`);

const threads: number = engine.features().threads;
const shared: boolean = probe().sharedMemory;
const hint = (error: SuppleError): string | undefined => error.hint;
console.log(threads, shared, hint, engine.version().length);

// @ts-expect-error: samples are bytes
upscaler.upscale([1, 2, 3, 4], 1, 1);
// @ts-expect-error: no such module
await load({ simd: 'avx2' });
