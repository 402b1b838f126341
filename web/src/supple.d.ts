/** Small, fast vision models in the browser and in Node. */

import type { Classifier, Features, Upscaler } from './engine/engine.js';

export type { Classifier, Features, Picture, Prediction, SuppleError, Upscaler } from './engine/engine.js';

/** What a loaded engine offers. */
export interface Engine {
  Upscaler: typeof Upscaler;
  Classifier: typeof Classifier;
  /** The version of the package, such as `0.1.0`. */
  version(): string;
  /** What the loaded module uses of the processor. */
  features(): Features;
}

export interface LoadOptions {
  /** The module to take instead of the fastest that this host can run. */
  simd?: 'relaxed-simd' | 'simd128';
  /** Where that module's file is, if it does not lie beside this one. */
  url?: string | URL;
}

/** What this host's WebAssembly can do. */
export interface Host {
  webAssembly: boolean;
  simd: boolean;
  relaxedSimd: boolean;
  /** Whether threads could share memory: in pages only with cross-origin isolation. */
  sharedMemory: boolean;
}

/** Loads the engine, once; later calls return the same promise. Throws a `SuppleError`. */
export function load(options?: LoadOptions): Promise<Engine>;

/** What this host's WebAssembly can do. */
export function probe(): Host;

/** Whether the engine is unusable after this error and has to be loaded anew, in another worker. */
export function isFatal(error: unknown): boolean;

/** One line for people, and where possible a hint, for anything that was thrown. */
export function describe(error: unknown): { message: string; hint?: string };
