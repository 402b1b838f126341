// Compiled only: what the types must allow, and what they must not.

import { load, probe, startPool, type Picture, type Prediction, type SuppleError } from '../dist/supple.js';

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

const pool = await startPool({ threads: 2, simd: 'simd128', worker: new URL('https://example.org/pool-worker.js') });
const inPool = await pool.openUpscaler(model);
const fromPool: Picture = await inPool.upscale(pixels, 1, 1, { progress: (done) => done < 1, signal: new AbortController().signal });
const naming = await pool.openClassifier([model, model]);
const all: Prediction[][] = await naming.classifyAll([fromPool, new ImageData(1, 1)], { top: 3 });
const one: Prediction[] = await naming.classify(pixels, naming.inputSize[0], 1, { top: 1 });
console.log(all.length, one.length, pool.threads, pool.features().simd);
naming.close();
pool.close();

// @ts-expect-error: a number of threads
await startPool({ threads: 'all' });
// @ts-expect-error: samples are bytes
upscaler.upscale([1, 2, 3, 4], 1, 1);
// @ts-expect-error: no such module
await load({ simd: 'avx2' });
