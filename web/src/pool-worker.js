// One thread of a pool: an engine of its own, which does what pool.js says.
//
// Messages in: { id, task, ... }. Messages out: { id, progress }, then { id, result } or { id, error: { message, hint },
// fatal }.

import { describe, isFatal, load } from './supple.js';

/** Networks by their number in the pool. */
const models = new Map();

const tasks = {
  /** Loads the engine: the first task of each worker. */
  async start({ options }) {
    const engine = await load(options);
    return { version: engine.version(), simd: engine.features().simd };
  },

  async open({ model, kind, source, labels }) {
    const engine = await load();
    if (kind === 'upscaler') {
      const upscaler = new engine.Upscaler(source);
      models.set(model, upscaler);
      return { scale: upscaler.scale, name: upscaler.name };
    }
    const classifier = new engine.Classifier(source, labels);
    models.set(model, classifier);
    return { inputSize: classifier.inputSize, classes: classifier.classes, name: classifier.name };
  },

  close({ model }) {
    models.get(model)?.free();
    models.delete(model);
  },

  split: ({ model, width, parts }) => models.get(model).split(width, parts),

  columns: ({ model, rgba, width, height, from, to }, progress) =>
    models.get(model).upscaleColumns(rgba, width, height, from, to, progress),

  classify: ({ model, rgba, width, height, top }) => models.get(model).classify(rgba, width, height, top),
};

/** Answers messages of `port`. */
async function receive(port, { id, task, ...input }) {
  try {
    const result = await tasks[task](input, (done) => port.postMessage({ id, progress: done }));
    port.postMessage({ id, result }, result?.rgba ? [result.rgba.buffer] : []);
  } catch (error) {
    port.postMessage({ id, error: describe(error), fatal: isFatal(error) });
  }
}

if (typeof WorkerGlobalScope === 'function') addEventListener('message', ({ data }) => receive(globalThis, data));
else import('node:worker_threads').then(({ parentPort }) => parentPort.on('message', (data) => receive(parentPort, data)));
