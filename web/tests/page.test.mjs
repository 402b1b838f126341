// The page in a headless Chromium: classifies a picture, enlarges one, and says what is wrong with bad input.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { load } from '../dist/supple.js';
import { chromiumPath } from './chromium.mjs';
import { largestDifference, makePicture, toPng } from './pictures.mjs';
import { serve } from './server.mjs';
import { colourModel } from './tflite.mjs';

let browser;
before(async () => {
  browser = await chromium.launch({ executablePath: chromiumPath(), args: ['--no-sandbox', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'] });
});
after(() => browser?.close());

const png = (name, picture) => ({ name, mimeType: 'image/png', buffer: toPng(picture) });
const file = (name, buffer) => ({ name, mimeType: 'application/octet-stream', buffer: Buffer.from(buffer) });

/** Opens the page, calls `use(page)`, and fails if the console said anything wrong that `allowed` does not match. */
async function visit(options, use, allowed) {
  const server = await serve(options);
  const context = await browser.newContext({ permissions: ['camera'] });
  const page = await context.newPage();
  const problems = [];
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && problems.push(message.text()));
  page.on('pageerror', (error) => problems.push(`${error}`));
  try {
    await page.goto(server.url);
    await use(page);
    assert.deepEqual(problems.filter((text) => !allowed?.test(text)), []);
  } finally {
    await context.close();
    server.close();
  }
}

const ready = (page) => page.locator('#engine[data-simd]').waitFor();
const notice = async (page, text) => {
  await page.locator('#notice', { hasText: text }).waitFor();
  return page.locator('#notice').innerText();
};

/** The pixels of the picture that the page offers for download. */
const downloaded = (page) =>
  page.evaluate(async () => {
    const blob = await (await fetch(document.getElementById('download').href)).blob();
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: 'none' });
    const drawing = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d');
    drawing.drawImage(bitmap, 0, 0);
    return { width: bitmap.width, height: bitmap.height, rgba: [...drawing.getImageData(0, 0, bitmap.width, bitmap.height).data] };
  });

test('the page loads with the fastest module, and with or without cross-origin isolation', async () => {
  const isolated = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };
  for (const headers of [{}, isolated]) {
    await visit({ headers }, async (page) => {
      await ready(page);
      assert.match(await page.locator('#engine').innerText(), /^(relaxed-simd|simd128) · \d+ threads? · v\d/);
      assert.equal(await page.locator('#notice').isVisible(), false);
    });
  }
});

test('a picture is enlarged as the engine does it in Node', async () => {
  const picture = makePicture(90, 70);
  await visit({}, async (page) => {
    await ready(page);
    await page.getByRole('tab', { name: 'Enlarge' }).click();
    await page.getByLabel('2×').check();
    await page.setInputFiles('#picture-input', png('holiday.png', picture));
    await page.locator('#download').waitFor();
    assert.equal(await page.locator('#download').getAttribute('download'), 'holiday_x2.png');
    assert.match(await page.locator('#enlarge-facts').innerText(), /90×70 → 180×140 in [\d.]+ m?s/);
    const { Upscaler } = await load({ simd: 'simd128' });
    const weights = readFileSync(new URL('../dist/models/rlfn_s_x2.safetensors', import.meta.url));
    const expected = new Upscaler(new Uint8Array(weights)).upscale(picture.rgba, 90, 70);
    const difference = largestDifference(expected, await downloaded(page));
    assert.ok(difference <= 1, `differs by ${difference}`);
    // Another scale starts at once; the slider moves the edge between before and after.
    await page.getByLabel('3×').check();
    await page.locator('#enlarge-facts', { hasText: '→ 270×210' }).waitFor();
    await page.locator('#slider').press('ArrowRight');
    assert.equal(await page.locator('#compare').evaluate((node) => node.style.getPropertyValue('--cut')), '51%');
  });
});

test('a wide picture is enlarged on several threads as on one', async () => {
  const isolated = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };
  const { rgba, width, height } = makePicture(1000, 24);
  for (const headers of [{}, isolated]) {
    await visit({ headers }, async (page) => {
      await ready(page);
      const found = await page.evaluate(async ({ rgba, width, height }) => {
        const { startPool } = await import('./supple.js');
        const bytes = new Uint8Array(await (await fetch('models/rlfn_s_x2.safetensors')).arrayBuffer());
        const upscale = async (threads) => {
          const pool = await startPool({ threads });
          const upscaler = await pool.openUpscaler(bytes);
          const made = await upscaler.upscale(Uint8ClampedArray.from(rgba), width, height);
          pool.close();
          return [...new Uint8Array(await crypto.subtle.digest('SHA-256', made.rgba)), made.width, made.height];
        };
        const gone = await startPool({ worker: 'gone.js' }).then(() => 'started', (error) => error.message);
        return { one: await upscale(1), three: await upscale(3), gone, isolated: crossOriginIsolated };
      }, { rgba: [...rgba], width, height });
      assert.equal(found.isolated, headers === isolated);
      assert.deepEqual(found.three.slice(-2), [2000, 48]);
      assert.deepEqual(found.three, found.one);
      assert.match(found.gone, /^a thread of the engine stopped: /);
    }, /404/);
  }
});

test('a picture is classified with a model that is opened', async () => {
  const green = { width: 40, height: 30, rgba: Uint8ClampedArray.from({ length: 4800 }, (_, i) => [30, 200, 60, 255][i % 4]) };
  await visit({}, async (page) => {
    await ready(page);
    await page.setInputFiles('#model-input', [file('colours.tflite', colourModel()), file('labels.txt', 'red\ngreen\nblue')]);
    await page.locator('#classifier-facts', { hasText: 'colours.tflite: 3 classes, pictures of 16×16' }).waitFor();
    await page.setInputFiles('#picture-input', png('leaf.png', green));
    await page.locator('#predictions li').first().waitFor();
    const shown = await page.locator('#predictions li').allInnerTexts();
    assert.equal(shown.length, 3);
    assert.match(shown[0], /green\s+98.3 %/); // exp(4 · 200 / 127.5) of the sum with 30 and 60
    assert.match(await page.locator('#classify-facts').innerText(), /40×30 classified in [\d.]+ ms/);
  });
});

test('the camera is classified until it is stopped', async () => {
  await visit({}, async (page) => {
    await ready(page);
    await page.setInputFiles('#model-input', file('colours.tflite', colourModel()));
    await page.locator('#classifier-facts', { hasText: '3 classes' }).waitFor();
    await page.locator('#camera-button').click();
    await page.locator('#classify-facts', { hasText: 'pictures a second' }).waitFor();
    assert.match((await page.locator('#predictions li').allInnerTexts())[0], /class \d/);
    await page.locator('#camera-button').click();
    assert.equal(await page.locator('#camera').isVisible(), false);
  });
});

test('bad input is named, and the page goes on working', async () => {
  await visit({}, async (page) => {
    await ready(page);
    await page.setInputFiles('#model-input', file('broken.tflite', colourModel().slice(0, 200)));
    await notice(page, 'the model');
    await page.setInputFiles('#picture-input', png('a.png', makePicture(9, 9)));
    assert.match(await notice(page, 'no model is open'), /open a model file first/);
    await page.getByRole('tab', { name: 'Enlarge' }).click();
    await page.setInputFiles('#picture-input', { name: 'a.png', mimeType: 'image/png', buffer: Buffer.from('no picture') });
    await notice(page, 'no picture that the browser can read');
    await page.setInputFiles('#picture-input', { name: 'a.png', mimeType: 'image/png', buffer: Buffer.alloc(0) });
    await notice(page, 'the file is empty');
    await page.setInputFiles('#picture-input', png('wide.png', makePicture(6000, 2)));
    assert.match(await notice(page, 'the result would be 24000×8'), /smaller picture or scale/);
    await page.setInputFiles('#picture-input', png('good.png', makePicture(20, 20)));
    await page.locator('#download').waitFor();
    assert.equal(await page.locator('#notice').isVisible(), false);
  });
});

test('long work can be stopped', async () => {
  await visit({}, async (page) => {
    await ready(page);
    await page.getByRole('tab', { name: 'Enlarge' }).click();
    await page.setInputFiles('#picture-input', png('large.png', makePicture(1500, 1500)));
    await page.locator('#percent', { hasText: /^[1-9]/ }).waitFor();
    await page.locator('#stop').click();
    await page.locator('#working').waitFor({ state: 'hidden' });
    await page.setInputFiles('#picture-input', png('small.png', makePicture(16, 16)));
    await page.locator('#enlarge-facts', { hasText: '→ 64×64' }).waitFor();
  });
});

test('browsers without SIMD, and engines that are missing, are told of', async () => {
  const probe = (text) => `export const probe = () => (${text});`;
  const without = probe('{ webAssembly: true, simd: false, relaxedSimd: false, sharedMemory: false }');
  await visit({ replaced: { '/probe.js': without } }, async (page) => {
    assert.match(await notice(page, 'this browser has no WebAssembly SIMD'), /Chrome 91/);
    assert.equal(await page.locator('#engine').innerText(), 'not available');
  });
  const lost = "export const probe = () => ({ webAssembly: true, simd: true, relaxedSimd: false });";
  await visit(
    { replaced: { '/probe.js': lost, '/engine/simd128.wasm': 'not a module' } },
    async (page) => void (await page.locator('#notice').waitFor()),
    /WebAssembly|wasm/,
  );
});

test('the keyboard reaches the tabs', async () => {
  await visit({}, async (page) => {
    await ready(page);
    await page.getByRole('tab', { name: 'Classify' }).focus();
    await page.keyboard.press('ArrowRight');
    assert.equal(await page.getByRole('tabpanel', { name: 'Enlarge' }).isVisible(), true);
    assert.equal(await page.getByRole('tab', { name: 'Enlarge' }).getAttribute('aria-selected'), 'true');
    await page.keyboard.press('Home');
    assert.equal(await page.getByRole('tabpanel', { name: 'Classify' }).isVisible(), true);
  });
});
