/** Small, fast vision models in the browser and in Node. */

import type { Classifier, Features, Picture, Prediction, Upscaler } from './engine/engine.js';

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

/** Starts threads with an engine each, in workers. Throws a `SuppleError` if there can be none. */
export function startPool(options?: PoolOptions): Promise<Pool>;

export interface PoolOptions extends LoadOptions {
  /** Threads that work at the same time, 1 to 256; by default as many as the processor has, 8 at most. They start when needed. */
  threads?: number;
  /** Where the script of a thread is, if it does not lie beside this one. */
  worker?: string | URL;
}

/** Threads with an engine each. Its calls return at once, with promises. */
export interface Pool {
  readonly threads: number;
  /** The version of the package, such as `0.1.0`. */
  version(): string;
  /** What the threads use of the processor, and how many they are. */
  features(): Features;
  /** A network as `new Upscaler(model)` makes it. */
  openUpscaler(model: Uint8Array): Promise<PoolUpscaler>;
  /** A network as `new Classifier(model, labels)` makes it. */
  openClassifier(model: Uint8Array | [Uint8Array] | [Uint8Array, Uint8Array], labels?: string): Promise<PoolClassifier>;
  /** Ends all threads; what is under way fails. */
  close(): void;
}

/** A network that enlarges pictures, on several threads at a time. */
export interface PoolUpscaler {
  readonly scale: number;
  readonly name: string;
  /** What `Upscaler.upscale` gives, bit for bit. */
  upscale(
    rgba: Uint8ClampedArray | Uint8Array,
    width: number,
    height: number,
    options?: {
      /** Told the part that is done, 0 to 1; `false` stops the work with the error `cancelled`. */
      progress?: (done: number) => boolean | void;
      /** Stops the work: the promise is rejected with the signal's reason. */
      signal?: AbortSignal;
    },
  ): Promise<Picture>;
  /** Gives back its memory in all threads. */
  close(): void;
}

/** A network that names what is in pictures, as many at a time as there are threads. */
export interface PoolClassifier {
  readonly name: string;
  readonly inputSize: [number, number];
  readonly classes: number;
  /** What `Classifier.classify` gives; `top` is 5 by default. */
  classify(
    rgba: Uint8ClampedArray | Uint8Array,
    width: number,
    height: number,
    options?: { top?: number; signal?: AbortSignal },
  ): Promise<Prediction[]>;
  /** The same for each of several pictures, in their order. The first that fails stops the others. */
  classifyAll(
    pictures: Iterable<Pick<Picture, 'width' | 'height' | 'rgba'> | ImageData>,
    options?: { top?: number; signal?: AbortSignal },
  ): Promise<Prediction[][]>;
  /** Gives back its memory in all threads. */
  close(): void;
}

/** What this host's WebAssembly can do. */
export function probe(): Host;

/** Whether the engine is unusable after this error and has to be loaded anew, in another worker. */
export function isFatal(error: unknown): boolean;

/** One line for people, and where possible a hint, for anything that was thrown. */
export function describe(error: unknown): { message: string; hint?: string };
