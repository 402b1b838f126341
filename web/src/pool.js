// Several threads, each with an engine of its own. They share no memory but that of a picture that comes in, and where the
// host does not allow this, not even that: so they run on any page. A picture is cut into parts of columns, whose results
// are exactly those of the whole.

import { probe } from './probe.js';
import { Thread } from './thread.js';

/** More threads than this are not the default: each takes memory of its own. */
const USUAL_THREADS = 8;
const MOST_THREADS = 256;

/**
 * @param {import('./supple.js').PoolOptions} [options]
 * @returns {Promise<import('./supple.js').Pool>}
 */
export async function startPool({ threads, worker, url, ...rest } = {}) {
  threads ??= Math.min(Math.max(await processors(), 1), USUAL_THREADS);
  if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS) {
    throw new Error(`threads is ${threads}, wanted a whole number from 1 to ${MOST_THREADS}`);
  }
  const options = { ...rest, ...(url && { url: new URL(url, import.meta.url).href }) };
  const start = () => Thread.start(options, worker && new URL(worker, import.meta.url));
  // The first thread tells whether there can be any; the others start when there is work for them.
  return new Pool(threads, start, await start());
}

/** How many threads the host runs at a time, as far as it says. */
async function processors() {
  if (globalThis.navigator?.hardwareConcurrency) return navigator.hardwareConcurrency;
  return globalThis.process ? (await import('node:os')).availableParallelism() : 1;
}

class Pool {
  #start;
  #facts;
  #closed;
  /** Threads that wait for work, threads that work, and turns that are waited for. */
  #idle = [];
  #busy = new Set();
  #free;
  #queue = [];
  /** What models are opened with, by their number. */
  #sources = new Map();
  #next = 0;

  constructor(threads, start, first) {
    this.threads = threads;
    this.#free = threads;
    this.#start = start;
    this.#facts = first.facts;
    this.#idle.push(first);
  }

  version() {
    return this.#facts.version;
  }

  features() {
    return { simd: this.#facts.simd, threads: this.threads };
  }

  async openUpscaler(model) {
    const [handle, facts] = await this.#open({ kind: 'upscaler', source: copy(model) });
    return new PoolUpscaler(handle, facts, this.threads);
  }

  async openClassifier(model, labels) {
    const source = Array.isArray(model) ? model.map(copy) : copy(model);
    const [handle, facts] = await this.#open({ kind: 'classifier', source, labels });
    return new PoolClassifier(handle, facts);
  }

  close() {
    this.#closed = new Error('the pool is closed');
    for (const thread of [...this.#idle.splice(0), ...this.#busy]) thread.end(this.#closed);
    for (const { reject } of this.#queue.splice(0)) reject(this.#closed);
  }

  async #open(source) {
    const model = this.#next++;
    this.#sources.set(model, source);
    const handle = {
      run: (group, task, input, progress) =>
        this.#job(group, async (thread) => {
          await this.#openIn(thread, model);
          return thread.run(task, { model, ...input }, progress);
        }),
      close: () => this.#close(model),
    };
    try {
      return [handle, await this.#job(new Group(), (thread) => this.#openIn(thread, model))];
    } catch (error) {
      this.#sources.delete(model);
      throw error;
    }
  }

  async #openIn(thread, model) {
    if (thread.models.has(model)) return undefined;
    const source = this.#sources.get(model);
    if (!source) throw new Error('the model is closed');
    const facts = await thread.run('open', { model, ...source });
    thread.models.add(model);
    return facts;
  }

  #close(model) {
    this.#sources.delete(model);
    for (const thread of [...this.#idle, ...this.#busy]) {
      if (thread.models.delete(model)) thread.run('close', { model }).catch(() => {});
    }
  }

  /** Does `work` in a thread as soon as one is free. If it is given up, the thread ends, as it would not hear of it. */
  async #job(group, work) {
    await this.#turn(group);
    let thread;
    const stop = (reason) => thread?.end(reason);
    group.stops.add(stop);
    try {
      thread = this.#idle.pop() ?? (await this.#start());
      this.#busy.add(thread);
      if (this.#closed) thread.end(this.#closed);
      group.check();
      return await work(thread);
    } finally {
      group.stops.delete(stop);
      this.#busy.delete(thread);
      if (thread && !thread.dead) this.#idle.push(thread);
      this.#free += 1;
      this.#pass();
    }
  }

  /** Waits until fewer than all threads work. */
  #turn(group) {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw this.#closed;
      group.check();
      const stop = (reason) => {
        this.#queue = this.#queue.filter((other) => other !== waiting);
        reject(reason);
      };
      const waiting = {
        resolve: () => {
          group.stops.delete(stop);
          resolve();
        },
        reject,
      };
      group.stops.add(stop);
      this.#queue.push(waiting);
      this.#pass();
    });
  }

  #pass() {
    while (this.#free > 0 && this.#queue.length > 0) {
      this.#free -= 1;
      this.#queue.shift().resolve();
    }
  }
}

/** Jobs that stop together. */
class Group {
  /** What each does when it is to stop. */
  stops = new Set();
  #stopped;

  stop(reason) {
    if (this.#stopped) return;
    this.#stopped = { reason };
    for (const stop of [...this.stops]) stop(reason);
  }

  /** Throws if the jobs are to stop. */
  check() {
    if (this.#stopped) throw this.#stopped.reason;
  }
}

/**
 * Does `tasks`, each `(run, stop) => promise`, at the same time. The first failure, `stop(reason)` and `signal` stop all.
 */
async function together(handle, signal, tasks) {
  const group = new Group();
  const stop = (reason) => group.stop(reason);
  const stopped = () => stop(signal.reason);
  if (signal?.aborted) stopped();
  signal?.addEventListener('abort', stopped);
  const run = (...input) => handle.run(group, ...input);
  try {
    return await Promise.all(tasks.map((task) => task(run, stop)));
  } catch (error) {
    stop(error);
    throw error;
  } finally {
    signal?.removeEventListener('abort', stopped);
  }
}

class PoolUpscaler {
  #handle;
  #threads;

  constructor(handle, facts, threads) {
    this.#handle = handle;
    this.#threads = threads;
    Object.assign(this, facts);
  }

  close() {
    this.#handle.close();
  }

  async upscale(rgba, width, height, { progress, signal } = {}) {
    const [edges] = await together(this.#handle, signal, [(run) => run('split', { width, parts: this.#threads })]);
    const parts = [...edges].slice(1).map((to, i) => ({ from: edges[i], to, done: 0 }));
    const input = { rgba: parts.length > 1 ? shared(rgba) : copy(rgba), width, height };
    const [w, h] = [width * this.scale, height * this.scale];
    const tell = told(progress, width);
    let whole;
    const tasks = parts.map((part) => async (run, stop) => {
      const { from, to } = part;
      const made = await run('columns', { ...input, from, to }, (done) => {
        part.done = done;
        try {
          if (tell(parts) === false) stop(new Error('cancelled'));
        } catch (error) {
          stop(error);
        }
      });
      if (parts.length === 1) return void (whole = made.rgba);
      whole ??= new Uint8ClampedArray(w * h * 4);
      const row = made.width * 4;
      for (let y = 0; y < h; y++) whole.set(made.rgba.subarray(y * row, (y + 1) * row), (y * w + from * this.scale) * 4);
    });
    await together(this.#handle, signal, tasks);
    return { width: w, height: h, rgba: whole };
  }
}

/** Calls `progress` with the part that is done of all parts, when there is something to tell. */
function told(progress, width) {
  let last = -1;
  return (parts) => {
    const done = parts.reduce((sum, part) => sum + part.done * (part.to - part.from), 0) / width;
    if (!progress || done <= last || (done - last < 1 / 256 && done < 1)) return undefined;
    last = done;
    return progress(done);
  };
}

class PoolClassifier {
  #handle;

  constructor(handle, facts) {
    this.#handle = handle;
    Object.assign(this, facts);
  }

  close() {
    this.#handle.close();
  }

  async classify(rgba, width, height, { top, signal } = {}) {
    const [found] = await this.classifyAll([{ rgba, width, height }], { top, signal });
    return found;
  }

  classifyAll(pictures, { top, signal } = {}) {
    const task = ({ rgba, data, width, height }) => (run) => run('classify', { rgba: copy(rgba ?? data), width, height, top });
    return together(this.#handle, signal, [...pictures].map(task));
  }
}

/** Bytes by themselves: of a part of a buffer all would be sent. What is no bytes goes to the engine, which says so. */
function copy(bytes) {
  return bytes instanceof Uint8Array || bytes instanceof Uint8ClampedArray ? bytes.slice() : bytes;
}

/** Samples in memory that threads share, if there can be such. */
function shared(rgba) {
  if (!probe().sharedMemory || !(rgba instanceof Uint8Array || rgba instanceof Uint8ClampedArray)) return copy(rgba);
  const samples = new Uint8Array(new SharedArrayBuffer(rgba.length));
  samples.set(rgba);
  return samples;
}
