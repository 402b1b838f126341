// `npm test`: the engine in Node, once with each module, then the types, then the page in a headless Chromium.
//
// What this machine lacks is named in a line that begins with SKIPPED; everything else must pass.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chromiumPath } from './chromium.mjs';

const folder = fileURLToPath(new URL('.', import.meta.url));
const dist = fileURLToPath(new URL('../dist/', import.meta.url));
if (!existsSync(`${dist}supple.js`)) {
  console.error('web/dist is missing: run `cargo xtask web` first');
  process.exit(1);
}

let failures = 0;
function run(what, program, args, env = {}) {
  console.log(`--- ${what}`);
  const { status, error } = spawnSync(program, args, { cwd: folder, stdio: 'inherit', env: { ...process.env, ...env } });
  if (error) console.error(error.message);
  if (status !== 0) failures += 1;
}
const skip = (what, why) => console.log(`SKIPPED: ${what}: ${why}`);

const tests = (flags, files) => [...flags, '--test', '--test-reporter=spec', ...files];
run('engine, simd128', process.execPath, tests([], ['engine.test.mjs', 'pool.test.mjs']), { SUPPLE_MODULE: 'simd128' });

// Older Node has relaxed SIMD behind a flag, newer refuses the flag.
const relaxed = [[], ['--experimental-wasm-relaxed-simd']].find((flags) => {
  const question = "import('../src/probe.js').then(({ probe }) => process.exit(probe().relaxedSimd ? 0 : 1))";
  return spawnSync(process.execPath, [...flags, '--input-type=module', '-e', question], { cwd: folder }).status === 0;
});
if (relaxed) run('engine, relaxed-simd', process.execPath, tests(relaxed, ['engine.test.mjs', 'pool.test.mjs']), { SUPPLE_MODULE: 'relaxed-simd' });
else skip('engine, relaxed-simd', `Node ${process.version} has no relaxed SIMD`);

const tsc = fileURLToPath(new URL('../node_modules/typescript/bin/tsc', import.meta.url));
if (existsSync(tsc)) {
  const options = '--noEmit --strict --module nodenext --target es2022 --lib es2022,dom,esnext.disposable types.ts';
  run('types', process.execPath, [tsc, ...options.split(' ')]);
} else skip('types', 'run `npm ci` for TypeScript');

const chromium = chromiumPath();
if (!existsSync(new URL('../node_modules/playwright-core', import.meta.url))) skip('page', 'run `npm ci` for Playwright');
else if (!chromium) skip('page', 'no Chromium found; CHROMIUM names one');
else run(`page, ${chromium}`, process.execPath, tests([], ['page.test.mjs']));

process.exit(failures ? 1 : 0);
