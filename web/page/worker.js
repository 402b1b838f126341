// The worker: decodes pictures and leaves them to the engine's threads, so that the page never waits.
//
// Messages in: { id, task, ... }. Messages out: { id, progress }, then { id, result } or { id, error: { message, hint },
// fatal }. After a fatal error the page starts another worker.

import { describe, isFatal, startPool } from './supple.js';

/** Pixels of a picture that is read, at most. */
const MOST_PIXELS = 64e6;
/** What canvases hold at most in every browser with WebAssembly SIMD: side, and pixels in all. */
const CANVAS_SIDE = 16384;
const CANVAS_PIXELS = 16384 ** 2;

/** The engine's threads. */
let pool;
/** Upscalers by URL, loaded when first asked for. */
const upscalers = new Map();
let classifier;

const problem = (message, hint) => Object.assign(new Error(message), { hint });
const megapixels = (pixels) => `${(pixels / 1e6).toFixed(1)} Mpixel`;

const tasks = {
  /** Starts the engine and tells what it is. */
  async start() {
    const started = await engine();
    return { version: started.version(), ...started.features() };
  },

  /** Takes a classifier from the bytes of a model file, or fetches it. */
  async openClassifier({ name, url, parts, labels }) {
    const bytes = parts ?? [await download(url)];
    const opened = await (await engine()).openClassifier(bytes, labels);
    classifier?.close();
    classifier = opened;
    return { name: opened.name || name, inputSize: opened.inputSize, classes: opened.classes };
  },

  /** Names what is in a picture: a file, or a frame of the camera. */
  async classify({ picture, top }) {
    if (!classifier) throw problem('no classifier is loaded', 'choose a model file first');
    const { data, width, height } = await decode(picture);
    const began = performance.now();
    const predictions = await classifier.classify(data, width, height, { top });
    return { predictions, milliseconds: performance.now() - began, width, height };
  },

  /** Enlarges a picture and encodes the result as PNG. */
  async upscale({ picture, url, scale }, progress) {
    if (!upscalers.has(url)) upscalers.set(url, await (await engine()).openUpscaler(await download(url)));
    const source = await decode(picture, scale);
    let began = performance.now();
    const enlarged = await upscalers.get(url).upscale(source.data, source.width, source.height, { progress });
    const milliseconds = performance.now() - began;
    began = performance.now();
    const { width, height } = enlarged;
    const canvas = new OffscreenCanvas(width, height);
    context(canvas).putImageData(new ImageData(enlarged.rgba, width, height), 0, 0);
    const png = await canvas.convertToBlob({ type: 'image/png' });
    const from = { width: source.width, height: source.height };
    return { png, width, height, from, milliseconds, encoding: performance.now() - began };
  },
};

/** The engine's threads, started when first asked for, and again if that failed. */
function engine() {
  pool ??= startPool().catch((error) => {
    pool = undefined;
    throw error;
  });
  return pool;
}

/** The pixels of a blob or a bitmap; `scale` is what they will be enlarged by. */
async function decode(picture, scale = 1) {
  let bitmap = picture;
  if (picture instanceof Blob) {
    if (picture.size === 0) throw problem('the file is empty');
    // Samples as they are in the file: networks are trained on those.
    bitmap = await createImageBitmap(picture, { colorSpaceConversion: 'none' }).catch(() => {
      throw problem('this is no picture that the browser can read', 'PNG, JPEG, WebP, GIF, BMP and AVIF can be read');
    });
  }
  try {
    const { width, height } = bitmap;
    const pixels = width * height;
    if (pixels > MOST_PIXELS) {
      throw problem(`${width}×${height} is ${megapixels(pixels)}, the limit is ${megapixels(MOST_PIXELS)}`, 'take a smaller picture');
    }
    const [w, h] = [width * scale, height * scale];
    if (Math.max(w, h) > CANVAS_SIDE || w * h > CANVAS_PIXELS) {
      throw problem(
        `the result would be ${w}×${h}, browsers hold pictures of ${CANVAS_SIDE}×${CANVAS_SIDE} at most`,
        'take a smaller picture or scale; the command line has no such limit',
      );
    }
    const drawing = context(new OffscreenCanvas(width, height));
    drawing.drawImage(bitmap, 0, 0);
    return drawing.getImageData(0, 0, width, height);
  } finally {
    bitmap.close();
  }
}

function context(canvas) {
  const drawing = canvas.getContext('2d', { willReadFrequently: true });
  if (!drawing) throw problem('the browser gave no canvas of this size', 'take a smaller picture or scale');
  return drawing;
}

async function download(url) {
  const response = await fetch(url).catch(() => undefined);
  if (!response?.ok) throw problem(`cannot load ${url}: ${response ? `status ${response.status}` : 'no answer'}`);
  return new Uint8Array(await response.arrayBuffer());
}

addEventListener('message', async ({ data: { id, task, ...input } }) => {
  try {
    const result = await tasks[task](input, (done) => postMessage({ id, progress: done }));
    postMessage({ id, result });
  } catch (error) {
    postMessage({ id, error: describe(error), fatal: isFatal(error) });
  }
});
