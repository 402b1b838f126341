// Pictures for tests: made by arithmetic, written as BMP (which needs no compression) or PNG, read from BMP.

import { crc32, deflateSync } from 'node:zlib';

/** Gradients, edges and noise that do not change from run to run, as RGBA. */
export function makePicture(width, height, { seed = 1, opaque = true } = {}) {
  const rgba = new Uint8ClampedArray(width * height * 4);
  let random = seed >>> 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
      const edge = (x >> 3) % 2 === (y >> 4) % 2 ? 60 : 0;
      const noise = random >>> 28;
      const alpha = opaque ? 255 : Math.max(0, 255 - Math.hypot(x - width / 2, y - height / 2) * 12);
      rgba.set([x * 3 + edge + noise, y * 4 + edge, 255 - x - y + noise, alpha], (y * width + x) * 4);
    }
  }
  return { width, height, rgba };
}

/** A 24-bit BMP: rows from the bottom, blue green red, padded to four bytes. */
export function toBmp({ width, height, rgba }) {
  const stride = (width * 3 + 3) & ~3;
  const bmp = Buffer.alloc(54 + stride * height);
  bmp.write('BM', 0, 'latin1');
  bmp.writeUInt32LE(bmp.length, 2);
  bmp.writeUInt32LE(54, 10);
  bmp.writeUInt32LE(40, 14);
  bmp.writeInt32LE(width, 18);
  bmp.writeInt32LE(height, 22);
  bmp.writeUInt16LE(1, 26);
  bmp.writeUInt16LE(24, 28);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [r, g, b] = rgba.subarray((y * width + x) * 4);
      bmp.set([b, g, r], 54 + (height - 1 - y) * stride + x * 3);
    }
  }
  return bmp;
}

/** An uncompressed BMP of 24 or 32 bits as RGBA, opaque. */
export function fromBmp(bmp) {
  const start = bmp.readUInt32LE(10);
  const [width, signed, bits] = [bmp.readInt32LE(18), bmp.readInt32LE(22), bmp.readUInt16LE(28)];
  const [height, pixel] = [Math.abs(signed), bits / 8];
  const stride = (width * pixel + 3) & ~3;
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let y = 0; y < height; y++) {
    const row = start + (signed > 0 ? height - 1 - y : y) * stride;
    for (let x = 0; x < width; x++) {
      const [b, g, r] = bmp.subarray(row + x * pixel);
      rgba.set([r, g, b, 255], (y * width + x) * 4);
    }
  }
  return { width, height, rgba };
}

/** An RGBA PNG without filters. */
export function toPng({ width, height, rgba }) {
  const rows = Buffer.alloc((width * 4 + 1) * height);
  for (let y = 0; y < height; y++) rows.set(rgba.subarray(y * width * 4, (y + 1) * width * 4), y * (width * 4 + 1) + 1);
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 6, 0, 0, 0], 8);
  const chunk = (name, data) => {
    const body = Buffer.concat([Buffer.from(name, 'latin1'), data]);
    const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    check.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, check]);
  };
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', deflateSync(rows)), chunk('IEND', Buffer.alloc(0))]);
}

/** The largest difference of two pictures' samples. */
export function largestDifference(a, b) {
  if (a.width !== b.width || a.height !== b.height) return Infinity;
  return a.rgba.reduce((most, v, i) => Math.max(most, Math.abs(v - b.rgba[i])), 0);
}
