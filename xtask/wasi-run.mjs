// Runs a WebAssembly program with WASI in Node, as Cargo's runner: `node wasi-run.mjs PROGRAM ARGUMENTS...`.
// `node wasi-run.mjs --probe NAME` exits with 0 if this Node can run modules with that target feature, else with 1.
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { WASI } from 'node:wasi';

// The smallest modules with a function that uses the feature: v128.const and drop; f32x4.relaxed_madd of three constants.
const header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0];
const constant = [0xfd, 12, ...new Array(16).fill(0)];
const functions = {
  simd128: [...constant, 0x1a],
  'relaxed-simd': [...constant, ...constant, ...constant, 0xfd, 0x85, 0x02, 0x1a],
};

function supports(feature) {
  const body = [0, ...functions[feature], 0x0b];
  return WebAssembly.validate(new Uint8Array([...header, 10, body.length + 2, 1, body.length, ...body]));
}

// Node 20 knows relaxed-simd, but behind a flag that later versions do not have.
if (!supports('relaxed-simd')) setFlagsFromString('--experimental-wasm-relaxed-simd');

const [program, ...rest] = process.argv.slice(2);
if (program === '--probe') process.exit(supports(rest[0]) ? 0 : 1);
const wasi = new WASI({
  version: 'preview1',
  args: [program, ...rest],
  env: process.env,
  preopens: { '/': '/' },
  returnOnExit: true,
});
const module = await WebAssembly.compile(readFileSync(program));
process.exit(wasi.start(await WebAssembly.instantiate(module, { wasi_snapshot_preview1: wasi.wasiImport })));
