// What this host's WebAssembly can do, by validating modules of a few bytes. Nothing is compiled or run.

/** A module with one function of the given type's bytes and body. */
const module = (signature, body) =>
  Uint8Array.from([
    0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, // "\0asm", version 1
    0x01, signature.length + 2, 0x01, 0x60, ...signature, // types: one function type
    0x03, 0x02, 0x01, 0x00, // functions: one, of type 0
    0x0a, body.length + 4, 0x01, body.length + 2, 0x00, ...body, 0x0b, // code: no locals, the body, end
  ]);

// () -> v128: i32.const 0, i8x16.splat, i8x16.popcnt
const SIMD = module([0x00, 0x01, 0x7b], [0x41, 0x00, 0xfd, 0x0f, 0xfd, 0x62]);
// (v128, v128) -> v128: local.get 0, local.get 1, i8x16.relaxed_swizzle (opcode 0x100)
const RELAXED_SIMD = module([0x02, 0x7b, 0x7b, 0x01, 0x7b], [0x20, 0x00, 0x20, 0x01, 0xfd, 0x80, 0x02]);

/**
 * What this host offers.
 * @returns {{ webAssembly: boolean, simd: boolean, relaxedSimd: boolean, sharedMemory: boolean }}
 */
export function probe() {
  const webAssembly = typeof WebAssembly === 'object' && typeof WebAssembly.validate === 'function';
  return {
    webAssembly,
    simd: webAssembly && WebAssembly.validate(SIMD),
    relaxedSimd: webAssembly && WebAssembly.validate(RELAXED_SIMD),
    sharedMemory:
      webAssembly &&
      typeof SharedArrayBuffer === 'function' &&
      (globalThis.crossOriginIsolated === true || typeof process === 'object'),
  };
}
