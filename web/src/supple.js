// The package's entry: picks the module that this host can run, loads it, and hands out its classes.

import init, * as engine from './engine/engine.js';
import { probe } from './probe.js';

export { startPool } from './pool.js';
export { probe };

const MODULES = {
  'relaxed-simd': new URL('./engine/relaxed-simd.wasm', import.meta.url),
  simd128: new URL('./engine/simd128.wasm', import.meta.url),
};

let loading;

/**
 * Loads the engine, once; later calls return the same promise.
 * @param {import('./supple.js').LoadOptions} [options]
 */
export function load(options = {}) {
  loading ??= start(options).catch((error) => {
    loading = undefined; // so that another attempt is possible, for example when the network is back
    throw error;
  });
  return loading;
}

async function start({ simd = choose(), url }) {
  if (!(simd in MODULES)) throw problem(`no module is called ${simd}`, `known: ${Object.keys(MODULES).join(', ')}`);
  await init({ module_or_path: await source(url ? new URL(url, import.meta.url) : MODULES[simd]) });
  const { Upscaler, Classifier, version, features } = engine;
  return { Upscaler, Classifier, version, features };
}

/** The faster of the modules that this host can run. */
function choose() {
  const host = probe();
  if (host.relaxedSimd) return 'relaxed-simd';
  if (host.simd) return 'simd128';
  throw host.webAssembly
    ? problem('this browser has no WebAssembly SIMD', 'Chrome 91, Firefox 89, Safari 16.4 or newer have it')
    : problem('this browser has no WebAssembly', 'it may be turned off: lockdown mode and some policies do that');
}

/** What `init` takes: the bytes of a file, or the answer to a request. */
async function source(url) {
  if (url.protocol === 'file:') {
    const { readFile } = await import('node:fs/promises');
    return readFile(url);
  }
  const response = await fetch(url).catch(() => undefined);
  if (!response?.ok) {
    const why = response ? `status ${response.status}` : 'no answer';
    throw problem(`cannot load ${url.pathname.split('/').pop()}: ${why}`, 'check the connection, then try again');
  }
  // Streaming wants the right MIME type, which simple servers do not send.
  return response.headers.get('content-type')?.startsWith('application/wasm') ? response : response.arrayBuffer();
}

/** An error with a hint, as the engine makes them. */
function problem(message, hint) {
  return Object.assign(new Error(message), { hint });
}

/**
 * Whether the engine is unusable after this error and has to be loaded anew, in another worker. That is so when memory
 * ran out in the middle of the work, and after internal errors.
 * @param {unknown} error
 */
export function isFatal(error) {
  const trapped = typeof WebAssembly === 'object' && error instanceof WebAssembly.RuntimeError;
  return trapped || (error instanceof Error && error.message.startsWith('internal error'));
}

/**
 * One line for people, and where possible a hint of what to try, for anything that was thrown.
 * @param {unknown} error
 * @returns {{ message: string, hint?: string }}
 */
export function describe(error) {
  if (typeof WebAssembly === 'object' && error instanceof WebAssembly.RuntimeError) {
    const message = 'the engine stopped, most likely because memory ran out';
    return { message, hint: 'take a smaller picture or scale, or close other pages' };
  }
  if (error instanceof RangeError) {
    return { message: `out of memory: ${error.message}`, hint: 'take a smaller picture or scale' };
  }
  if (error instanceof Error) return { message: error.message, hint: error.hint };
  return { message: String(error) };
}
