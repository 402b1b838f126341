// What kernels of products with packed weights share: arguments, a tile's part of a product, what becomes of sums.
#pragma once
#include "dependent.cuh"
#include "low_bit.cuh"

// As in `product.rs`.
struct Product {
  const uint8_t *weights;
  const void *x;   // 16-bit, [tokens, x_row]; zeros beyond the columns of the matrix
  float *out;      // [tokens, out_row]
  void *gated;     // 16-bit, [tokens, out_row]: then rows are eight of the gate and eight of what it gates, in turn
  int rows, tiles; // of the matrix, in columns of tiles
  int tokens, x_row, out_row;
  int add;         // whether the product is added to what is there
  int gate;        // 0 is SiLU, 1 GELU by tanh
  float cap;       // if not 0, cap * tanh(product / cap) is stored
};

constexpr int WARPS = 8;

__device__ inline float gate_of(int kind, float x) {
  if (kind == 0) return x / (1.0f + expf(-x));
  return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

template <class T> __device__ inline T saturated(float x) { return down<T>(x); }
template <> __device__ inline f16 saturated<f16>(float x) { return __float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f)); }

// What is done after each 32 columns of a tile, if nothing is.
struct Nothing {
  __device__ __forceinline__ void operator()(int) const {}
};

// acc += a tile's part of the product, of NT groups of eight tokens. `x` are this lane's first eight columns of its tokens. When
// columns from 32 b on are multiplied, `after(b)` is called. `zero` is 0; if the compiler cannot know, operands stay where they are put.
template <class F, int NT, class After = Nothing>
__device__ __forceinline__ void accumulate(float (&acc)[NT][4], const typename F::Raw &raw, const typename F::T *(&x)[NT],
                                           int column, int c, After after = After(), uint32_t zero = 0) {
  using T = typename F::T;
  constexpr bool SUMS = F::SCALING == BY_TILE || F::SCALING == BY_BOTH, PARTS = F::SCALING == BY_32 || F::SCALING == BY_BOTH;
  float sum[SUMS ? NT : 1][4] = {}, low[F::MINS ? NT : 1][4] = {};
#pragma unroll
  for (int b = 0; b < F::K / 32; b++) {
    Operand o;
    raw.operand(b, c, o);
#pragma unroll
    for (int i = 0; i < 8; i++) o.a[i / 4][i % 4] ^= zero;
    const float2 scale = raw.scale(b);
    const uint2 min = raw.min(b);
    const uint32_t mins[4] = {min.x, min.y, min.x, min.y};
#pragma unroll
    for (int n = 0; n < NT; n++) {
      const uint4 v = *reinterpret_cast<const uint4 *>(x[n] + column + 32 * b);
      float(&to)[4] = SUMS ? sum[SUMS ? n : 0] : acc[n];
      if (PARTS) {
        float part[4] = {};
        mma(T(), part, o.a[0], v.x, v.y);
        mma(T(), part, o.a[1], v.z, v.w);
#pragma unroll
        for (int e = 0; e < 4; e++) to[e] = fmaf(e < 2 ? scale.x : scale.y, part[e], to[e]);
      } else {
        mma(T(), to, o.a[0], v.x, v.y);
        mma(T(), to, o.a[1], v.z, v.w);
      }
      if (F::MINS) {
        mma(T(), low[F::MINS ? n : 0], mins, v.x, v.y);
        mma(T(), low[F::MINS ? n : 0], mins, v.z, v.w);
      }
    }
    after(b);
  }
  if (SUMS) {
    const float2 scale = raw.tile_scale();
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[n][e] = fmaf(e < 2 ? scale.x : scale.y, sum[SUMS ? n : 0][e], acc[n][e]);
  }
  if (F::MINS) {
    const float2 factor = raw.min_factor();
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[n][e] = fmaf(e < 2 ? factor.x : factor.y, low[F::MINS ? n : 0][e], acc[n][e]);
  }
}

// Stores the sums of 16 rows and the tokens of groups n0 to n1, of which `total(i, l)` is what lane l has as its i-th, by all THREADS
// threads of the block.
template <class F, int THREADS, class Total>
__device__ __forceinline__ void store(const Product &p, int group, int n0, int n1, Total total) {
  using T = typename F::T;
  if (p.gated) {
    for (int at = n0 * 64 + threadIdx.x; at < n1 * 64; at += THREADS) {
      const int l = at % 32, n = at / 64, e = at / 32 % 2;
      const int row = group * 8 + l / 4, token = n * 8 + l % 4 * 2 + e;
      const float gate = total(n * 4 + e, l), up = total(n * 4 + 2 + e, l);
      if (row < p.rows / 2 && token < p.tokens)
        static_cast<T *>(p.gated)[int64_t(token) * p.out_row + row] = saturated<T>(gate_of(p.gate, gate) * up);
    }
    return;
  }
  for (int at = n0 * 128 + threadIdx.x; at < n1 * 128; at += THREADS) {
    const int l = at % 32, i = at / 32, n = i / 4, e = i % 4;
    const int row = group * 16 + l / 4 + e / 2 * 8, token = n * 8 + l % 4 * 2 + e % 2;
    if (row >= p.rows || token >= p.tokens) continue;
    float *to = p.out + int64_t(token) * p.out_row + row;
    float value = total(i, l);
    if (p.cap != 0.0f) value = p.cap * tanhf(value / p.cap);
    *to = p.add ? *to + value : value;
  }
}

// The sum of eight parts, in a fixed tree.
__device__ inline float tree(const float (&a)[WARPS]) { return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7])); }
