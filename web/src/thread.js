// The pool's side of one pool-worker.js: its life, and its answers as promises. In pages it is a Web Worker, in Node one of
// worker_threads.

const SCRIPT = new URL('./pool-worker.js', import.meta.url);

export class Thread {
  /** Numbers of the models that it has open. */
  models = new Set();
  #worker;
  #waiting = new Map();
  #next = 0;
  #ended;

  /** Starts a worker that loads an engine. */
  static async start(options, script = SCRIPT) {
    const thread = new Thread();
    const stopped = (why) => thread.end(new Error(`a thread of the engine stopped: ${why}`));
    thread.#worker = await spawn(script, (data) => thread.#answer(data), stopped);
    try {
      thread.facts = await thread.run('start', { options });
      return thread;
    } catch (error) {
      thread.end(error);
      throw error;
    }
  }

  /** Whether it takes no more tasks. */
  get dead() {
    return this.#ended !== undefined;
  }

  /** Runs a task; `progress` is told the part that is done. */
  run(task, input, progress) {
    return new Promise((resolve, reject) => {
      if (this.#ended) throw this.#ended;
      const id = this.#next++;
      this.#worker.postMessage({ id, task, ...input }); // throws if the input cannot be sent
      this.#waiting.set(id, { resolve, reject, progress });
      this.#worker.ref?.();
    });
  }

  /** Ends the worker with all that it is doing. */
  end(reason) {
    if (this.#ended) return;
    this.#ended = reason;
    this.#worker?.terminate();
    for (const task of this.#waiting.values()) task.reject(reason);
    this.#waiting.clear();
  }

  #answer({ id, progress, result, error, fatal }) {
    const task = this.#waiting.get(id);
    if (!task) return;
    if (progress !== undefined) return void task.progress?.(progress);
    this.#waiting.delete(id);
    if (this.#waiting.size === 0) this.#worker.unref?.();
    if (!error) return task.resolve(result);
    const made = Object.assign(new Error(error.message), error.hint && { hint: error.hint });
    task.reject(made);
    if (fatal) this.end(made);
  }
}

/** A worker that calls `message` with what it says and `stopped` with why it stopped. */
async function spawn(script, message, stopped) {
  if (typeof Worker === 'function') {
    const worker = new Worker(script, { type: 'module' });
    worker.onmessage = ({ data }) => message(data);
    worker.onmessageerror = () => stopped('its answer could not be read');
    worker.onerror = (event) => {
      event.preventDefault();
      stopped(event.message ?? 'it did not load');
    };
    return worker;
  }
  if (!globalThis.process) throw new Error('this host has no workers');
  const { Worker: NodeWorker } = await import('node:worker_threads');
  const worker = new NodeWorker(script);
  worker.unref(); // in Node a thread without work does not keep the program alive
  worker.on('message', message);
  worker.on('messageerror', () => stopped('its answer could not be read'));
  worker.on('error', (error) => stopped(error?.message ?? error));
  worker.on('exit', (status) => stopped(`it ended with status ${status}`));
  return worker;
}
