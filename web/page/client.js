// The page's side of worker.js: tasks as promises, and a new worker after a fatal error or when one is stopped.

/** What a task that was stopped fails with. */
export class Stopped extends Error {}

export class Client {
  #worker;
  #waiting = new Map();
  #next = 0;
  /** Called with each new worker, to load again what the last one had. */
  onrestart = () => {};

  constructor() {
    this.#start();
  }

  #start() {
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    this.#worker.onmessage = ({ data }) => this.#answer(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const message = `the worker cannot run: ${event.message ?? 'it did not load'}`;
      this.#fail({ message, hint: 'open the page from a web server, in a browser of the last years' });
    };
  }

  #answer({ id, progress, result, error, fatal }) {
    const task = this.#waiting.get(id);
    if (!task) return;
    if (progress !== undefined) return task.progress?.(progress);
    this.#waiting.delete(id);
    if (error) task.reject(Object.assign(new Error(error.message), { hint: error.hint }));
    else task.resolve(result);
    if (fatal) this.restart(error);
  }

  #fail({ message, hint }) {
    for (const task of this.#waiting.values()) task.reject(Object.assign(new Error(message), { hint }));
    this.#waiting.clear();
  }

  /** Runs a task. `transfer` lists what the page gives away; `progress` is told the part that is done. */
  run(task, input = {}, { transfer = [], progress } = {}) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, progress });
      this.#worker.postMessage({ id, task, ...input }, transfer);
    });
  }

  /** Ends the worker with all it is doing, and starts another. */
  restart(reason) {
    this.#worker.terminate();
    for (const task of this.#waiting.values()) task.reject(new Stopped(reason?.message ?? 'stopped'));
    this.#waiting.clear();
    this.#start();
    this.onrestart();
  }
}
