// Formats of packed weights.
//
// A matrix is cut into tiles of 16 rows and K columns; tiles of the same rows follow each other. In a tile, lane l of a warp owns
// rows l / 4 and l / 4 + 8, and of each 32 columns the eight from 8 * (l % 4) on. That is a left operand of two 16x8x16 products if
// columns are counted in this order in both operands: product 0 takes elements 0, 1 (first register) and 2, 3 (second) of each
// lane's eight, product 1 the rest. So a row of activations is read as it lies, 16 bytes a lane.
//
// | part of a tile | bytes |
// |---|---|
// | 4-bit integers | for each 64 columns, 16 bytes a lane: columns 0-31 of both rows, columns 32-63 of both rows; pair p of a row's eight lies at bits 4p and 16 + 4p of its word |
// | 2 further bits | for each 128 columns, 16 bytes a lane, a word for each 32: bytes 0 and 2 are even and odd elements of the first row, 1 and 3 of the second |
// | 8-bit integers | for each 32 columns, 16 bytes a lane, 8 a row |
// | scales | 16 bytes a row, as the format has them |
//
// 16-bit floats lie as rows, of whole tiles, so that products of many rows of activations take them as they are.
//
// Integers are exact in f16 (times the scales of Q6_K within 2^-12), sums are f32, and scales are applied to those.
#pragma once
#include "mma.cuh"

__device__ inline uint4 load_once(const void *p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
__device__ inline __half2 halves(uint32_t bits) { return *reinterpret_cast<__half2 *>(&bits); }
__device__ inline uint32_t bits_of(__half2 v) { return *reinterpret_cast<uint32_t *>(&v); }
__device__ inline __half2 twice(float x) { return __float2half2_rn(x); }
__device__ inline uint32_t word_of(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
// Half i of eight.
__device__ inline float half_of(const uint4 &v, int i) {
  return __half2float(__ushort_as_half(uint16_t(word_of(v, i / 2) >> (i % 2 * 16))));
}
// Byte i of a word in both halves, 1024 added.
__device__ inline __half2 byte_pair(uint32_t word, int i) { return halves(__byte_perm(word, 0x64646464u, 0x4040 | i * 0x0101)); }

// Left operands of the two products of 32 columns.
struct Operand {
  uint32_t a[2][4];
};

// The four pairs of a row's word of 4-bit integers, f(v, odd): v is 1024 + q, or 1024 + 16 q if odd.
template <class G> __device__ inline void nibble_pairs(uint32_t word, Operand &o, int row, G g) {
  constexpr uint32_t LOW = 0x000f000f, HIGH = 0x00f000f0, ONE = 0x64006400;
  const uint32_t next = word >> 8;
  o.a[0][row] = bits_of(g(halves((word & LOW) | ONE), false));
  o.a[0][row + 2] = bits_of(g(halves((word & HIGH) | ONE), true));
  o.a[1][row] = bits_of(g(halves((next & LOW) | ONE), false));
  o.a[1][row + 2] = bits_of(g(halves((next & HIGH) | ONE), true));
}
// q less `offset`, both rows.
__device__ inline void nibbles_less(const uint4 &v, int block, float offset, Operand &o) {
#pragma unroll
  for (int row = 0; row < 2; row++)
    nibble_pairs(word_of(v, block % 2 * 2 + row), o, row, [&](__half2 v, bool odd) {
      return odd ? __hfma2(v, twice(0.0625f), twice(-64.0f - offset)) : __hadd2(v, twice(-1024.0f - offset));
    });
}

// The eight scales of a row of Q4_K, or its minima, of the 6 bits each that they have.
struct SixBits {
  uint32_t low, high;
  __device__ uint32_t word(int i) const { return i < 4 ? low : high; }
};
__device__ inline SixBits scales_of(const uint4 &v) {
  return {v.y & 0x3f3f3f3fu, (v.w & 0x0f0f0f0fu) | ((v.y >> 2) & 0x30303030u)};
}
__device__ inline SixBits mins_of(const uint4 &v) {
  return {v.z & 0x3f3f3f3fu, ((v.w >> 4) & 0x0f0f0f0fu) | ((v.z >> 2) & 0x30303030u)};
}

// What is scaled: nothing, sums of a tile, sums of 32 columns, or both.
enum Scaling { PLAIN, BY_TILE, BY_32, BY_BOTH };

// What formats say: columns and bytes of a tile; the 16-bit type of products; what is scaled; whether there are minima, which are
// products of a constant row with the activations. `Raw` is what a lane loads of a tile.

template <class E> struct Dense {
  using T = E;
  static constexpr int K = 128, TILE = 16 * K * 2;
  static constexpr Scaling SCALING = PLAIN;
  static constexpr bool MINS = false;
  struct Raw {
    uint4 v[8];
    template <class P> static __device__ const uint8_t *at(const P &p, int group, int t, int lane) {
      return p.weights + (group * 16 + lane / 4) * (int64_t(p.tiles) * (K * 2)) + t * (K * 2) + lane % 4 * 16;
    }
    // The 32 columns from 32 b on; rows are `row` bytes apart.
    __device__ void load(const uint8_t *from, int64_t row, int b) {
      v[2 * b] = load_once(from + b * 64);
      v[2 * b + 1] = load_once(from + 8 * row + b * 64);
    }
    template <class P> __device__ void load(const P &p, int group, int t, int lane) {
#pragma unroll
      for (int b = 0; b < 4; b++) load(at(p, group, t, lane), int64_t(p.tiles) * (K * 2), b);
    }
    __device__ void operand(int b, int, Operand &o) const {
      const uint4 &first = v[2 * b], &second = v[2 * b + 1];
      o.a[0][0] = first.x, o.a[0][2] = first.y, o.a[1][0] = first.z, o.a[1][2] = first.w;
      o.a[0][1] = second.x, o.a[0][3] = second.y, o.a[1][1] = second.z, o.a[1][3] = second.w;
    }
    __device__ float2 scale(int) const { return {1.0f, 1.0f}; }
    __device__ float2 tile_scale() const { return {1.0f, 1.0f}; }
    __device__ uint2 min(int) const { return {}; }
    __device__ float2 min_factor() const { return {}; }
  };
  // Eight adjacent values of a row, from column 32 b + 8 c on.
  static __device__ void values(const uint8_t *weights, int tiles, int row, int t, int b, int c, float (&out)[8]) {
    const T *from = reinterpret_cast<const T *>(weights) + int64_t(row) * tiles * K + t * K + b * 32 + c * 8;
    for (int i = 0; i < 8; i++) out[i] = up(from[i]);
  }
};

template <bool MIN> struct Four {
  using T = f16;
  static constexpr int K = 256, TILE = 2048 + 256 * (1 + MIN);
  static constexpr Scaling SCALING = BY_32;
  static constexpr bool MINS = MIN;
  struct Raw {
    uint4 v[4], d[2], m[2];
    template <class P> __device__ void load(const P &p, int group, int t, int lane) {
      const uint8_t *tile = p.weights + (int64_t(group) * p.tiles + t) * TILE;
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = load_once(tile + (i * 32 + lane) * 16);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        d[h] = load_once(tile + 2048 + (lane / 4 + 8 * h) * 16);
        if (MIN) m[h] = load_once(tile + 2304 + (lane / 4 + 8 * h) * 16);
      }
    }
    __device__ void operand(int b, int, Operand &o) const { nibbles_less(v[b / 2], b, MIN ? 0.0f : 8.0f, o); }
    __device__ float2 scale(int b) const { return {half_of(d[0], b), half_of(d[1], b)}; }
    __device__ float2 tile_scale() const { return {1.0f, 1.0f}; }
    __device__ uint2 min(int b) const {
      const uint32_t which = b % 2 ? 0x3232 : 0x1010;
      return {__byte_perm(word_of(m[0], b / 2), 0, which), __byte_perm(word_of(m[1], b / 2), 0, which)};
    }
    __device__ float2 min_factor() const { return {1.0f, 1.0f}; }
  };
  static __device__ void values(const uint8_t *weights, int tiles, int row, int t, int b, int c, float (&out)[8]) {
    const uint8_t *tile = weights + (int64_t(row / 16) * tiles + t) * TILE;
    row %= 16;
    const uint32_t word =
        *reinterpret_cast<const uint32_t *>(tile + (b / 2 * 32 + row % 8 * 4 + c) * 16 + b % 2 * 8 + row / 8 * 4);
    const float d = __half2float(reinterpret_cast<const f16 *>(tile + 2048 + row * 16)[b]);
    const float m = MIN ? __half2float(reinterpret_cast<const f16 *>(tile + 2304 + row * 16)[b]) : 0.0f;
    for (int i = 0; i < 8; i++) {
      const int q = word >> (i / 2 * 4 + i % 2 * 16) & 15;
      out[i] = MIN ? d * q + m : d * (q - 8);
    }
  }
};

struct Q8_0 {
  using T = f16;
  static constexpr int K = 256, TILE = 4096 + 256;
  static constexpr Scaling SCALING = BY_32;
  static constexpr bool MINS = false;
  struct Raw {
    uint4 v[8], d[2];
    template <class P> __device__ void load(const P &p, int group, int t, int lane) {
      const uint8_t *tile = p.weights + (int64_t(group) * p.tiles + t) * TILE;
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = load_once(tile + (i * 32 + lane) * 16);
#pragma unroll
      for (int h = 0; h < 2; h++) d[h] = load_once(tile + 4096 + (lane / 4 + 8 * h) * 16);
    }
    __device__ void operand(int b, int, Operand &o) const {
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const uint32_t word = word_of(v[b], 2 * h + i) ^ 0x80808080u;
          o.a[i][h] = bits_of(__hadd2(halves(__byte_perm(word, 0x64646464u, 0x4140)), twice(-1152.0f)));
          o.a[i][h + 2] = bits_of(__hadd2(halves(__byte_perm(word, 0x64646464u, 0x4342)), twice(-1152.0f)));
        }
    }
    __device__ float2 scale(int b) const { return {half_of(d[0], b), half_of(d[1], b)}; }
    __device__ float2 tile_scale() const { return {1.0f, 1.0f}; }
    __device__ uint2 min(int) const { return {}; }
    __device__ float2 min_factor() const { return {}; }
  };
  static __device__ void values(const uint8_t *weights, int tiles, int row, int t, int b, int c, float (&out)[8]) {
    const uint8_t *tile = weights + (int64_t(row / 16) * tiles + t) * TILE;
    row %= 16;
    const int8_t *from = reinterpret_cast<const int8_t *>(tile + (b * 32 + row % 8 * 4 + c) * 16 + row / 8 * 8);
    const float d = __half2float(reinterpret_cast<const f16 *>(tile + 4096 + row * 16)[b]);
    for (int i = 0; i < 8; i++) out[i] = d * from[i];
  }
};

struct Q4_K {
  using T = f16;
  static constexpr int K = 256, TILE = 2048 + 256;
  static constexpr Scaling SCALING = BY_BOTH;
  static constexpr bool MINS = true;
  struct Raw {
    uint4 v[4], s[2];
    template <class P> __device__ void load(const P &p, int group, int t, int lane) {
      const uint8_t *tile = p.weights + (int64_t(group) * p.tiles + t) * TILE;
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = load_once(tile + (i * 32 + lane) * 16);
#pragma unroll
      for (int h = 0; h < 2; h++) s[h] = load_once(tile + 2048 + (lane / 4 + 8 * h) * 16);
    }
    // Integers as they are: as f16 they are so many times 2^-24, which tensor cores multiply exactly.
    __device__ void operand(int b, int, Operand &o) const {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const uint32_t word = word_of(v[b / 2], b % 2 * 2 + h);
#pragma unroll
        for (int p = 0; p < 4; p++) o.a[p / 2][h + p % 2 * 2] = (word >> (4 * p)) & 0x000f000fu;
      }
    }
    __device__ float2 scale(int b) const {
      float by[2];
#pragma unroll
      for (int h = 0; h < 2; h++)
        by[h] = __uint_as_float(__byte_perm(scales_of(s[h]).word(b), 0x4b000000u, 0x7440 | b % 4)) - 8388608.0f;
      return {by[0], by[1]};
    }
    __device__ float2 tile_scale() const { return {half_of(s[0], 0) * 16777216.0f, half_of(s[1], 0) * 16777216.0f}; }
    __device__ uint2 min(int b) const {
      return {__byte_perm(mins_of(s[0]).word(b), 0, 0x4040 | b % 4 * 0x0101), __byte_perm(mins_of(s[1]).word(b), 0, 0x4040 | b % 4 * 0x0101)};
    }
    __device__ float2 min_factor() const { return {-half_of(s[0], 1) * 16777216.0f, -half_of(s[1], 1) * 16777216.0f}; }
  };
  static __device__ void values(const uint8_t *weights, int tiles, int row, int t, int b, int c, float (&out)[8]) {
    const uint8_t *tile = weights + (int64_t(row / 16) * tiles + t) * TILE;
    row %= 16;
    const uint32_t word =
        *reinterpret_cast<const uint32_t *>(tile + (b / 2 * 32 + row % 8 * 4 + c) * 16 + b % 2 * 8 + row / 8 * 4);
    const uint4 s = *reinterpret_cast<const uint4 *>(tile + 2048 + row * 16);
    const float d = half_of(s, 0) * (scales_of(s).word(b) >> (b % 4 * 8) & 63);
    const float m = half_of(s, 1) * (mins_of(s).word(b) >> (b % 4 * 8) & 63);
    for (int i = 0; i < 8; i++) out[i] = d * (word >> (i / 2 * 4 + i % 2 * 16) & 15) - m;
  }
};

struct Q6_K {
  using T = f16;
  static constexpr int K = 256, TILE = 2048 + 1024 + 256 + 32;
  static constexpr Scaling SCALING = BY_TILE;
  static constexpr bool MINS = false;
  struct Raw {
    uint4 v[4], h[2], s[2];
    uint16_t d[2];
    template <class P> __device__ void load(const P &p, int group, int t, int lane) {
      const uint8_t *tile = p.weights + (int64_t(group) * p.tiles + t) * TILE;
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = load_once(tile + (i * 32 + lane) * 16);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        h[i] = load_once(tile + 2048 + (i * 32 + lane) * 16);
        s[i] = load_once(tile + 3072 + (lane / 4 + 8 * i) * 16);
        d[i] = __ldg(reinterpret_cast<const uint16_t *>(tile + 3328) + lane / 4 + 8 * i);
      }
    }
    __device__ void operand(int b, int c, Operand &o) const {
      const uint32_t more = word_of(h[b / 4], b % 4);
#pragma unroll
      for (int row = 0; row < 2; row++) {
        const uint32_t word = word_of(v[b / 2], b % 2 * 2 + row);
        // The sub-blocks of 16 columns are those of lanes 0, 1 and 2, 3 of a row.
        const uint32_t scales = (word_of(s[row], b / 2) ^ 0x80808080u) >> (c / 2 * 8);
        const __half2 by = __hadd2(byte_pair(scales, b % 2 * 2), twice(-1152.0f));
#pragma unroll
        for (int p = 0; p < 4; p++) {
          const int right = 2 * p - 4 + 8 * row;
          const uint32_t high = (right < 0 ? more << -right : more >> right) & 0x00300030u;
          const uint32_t q = ((word >> (4 * p)) & 0x000f000fu) | high | 0x64006400u;
          o.a[p / 2][row + p % 2 * 2] = bits_of(__hmul2(__hadd2(halves(q), twice(-1056.0f)), by));
        }
      }
    }
    __device__ float2 scale(int) const { return {1.0f, 1.0f}; }
    __device__ float2 tile_scale() const {
      return {__half2float(__ushort_as_half(d[0])), __half2float(__ushort_as_half(d[1]))};
    }
    __device__ uint2 min(int) const { return {}; }
    __device__ float2 min_factor() const { return {}; }
  };
  static __device__ void values(const uint8_t *weights, int tiles, int row, int t, int b, int c, float (&out)[8]) {
    const uint8_t *tile = weights + (int64_t(row / 16) * tiles + t) * TILE;
    row %= 16;
    const int lane = row % 8 * 4 + c;
    const uint32_t word = *reinterpret_cast<const uint32_t *>(tile + (b / 2 * 32 + lane) * 16 + b % 2 * 8 + row / 8 * 4);
    const uint8_t *high = tile + 2048 + (b / 4 * 32 + lane) * 16 + b % 4 * 4 + row / 8;
    const int8_t scale = reinterpret_cast<const int8_t *>(tile + 3072 + row * 16)[b * 2 + c / 2];
    const float d = __half2float(reinterpret_cast<const f16 *>(tile + 3328)[row]) * scale;
    for (int i = 0; i < 8; i++) {
      const int q = (word >> (i / 2 * 4 + i % 2 * 16) & 15) | (high[i % 2 * 2] >> (i / 2 * 2) & 3) << 4;
      out[i] = d * (q - 32);
    }
  }
};

using F16 = Dense<f16>;
using Bf16 = Dense<bf16>;
using Q4_0 = Four<false>;
using Q4_1 = Four<true>;
#define FOR_FORMATS(X) X(f16, F16) X(bf16, Bf16) X(q8_0, Q8_0) X(q4_0, Q4_0) X(q4_1, Q4_1) X(q4_k, Q4_K) X(q6_k, Q6_K)
