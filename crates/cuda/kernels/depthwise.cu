// Depthwise convolution of channels-last images in f16 or bf16, with all sums in f32.
//
//   y[n][oy][ox][c] = clamp(bias[c] + sum x[n][oy * S + ky - top][ox * S + kx - left][c] * taps[ky][kx][c], lowest, highest)
//
// | argument | shape |
// |---|---|
// | x | n x height x width pixels of `channels`, at multiples of 8 channels |
// | taps | f32 [K * K][channels rounded up to 8] |
// | bias | f32 [channels rounded up to 8] |
// | y | n x out_height x out_width pixels, likewise |
//
// A thread takes 8 channels of four neighbouring pixels. What lies between the channels and a multiple of 8 is written too.
#include "transformer.cuh"

struct Depthwise {
  int n, height, width, out_height, out_width, groups; // groups of 8 channels
  int top, left;
  int64_t x_stride, y_stride;
  float lowest, highest;
};

template <class T, int K, int S>
__device__ void depthwise_rows(const Depthwise &g, const T *x, const float *taps, const float *bias, T *y) {
  constexpr int OUT = 4, IN = (OUT - 1) * S + K;
  const int strips = (g.out_width + OUT - 1) / OUT;
  const int64_t total = int64_t(g.n) * g.out_height * strips * g.groups;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int c = int(i % g.groups) * 8;
    const int64_t rest = i / g.groups, line = rest / strips;
    const int ox = int(rest % strips) * OUT, oy = int(line % g.out_height), n = int(line / g.out_height);
    float sum[OUT][8];
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const float b = __ldg(bias + c + e);
#pragma unroll
      for (int o = 0; o < OUT; o++) sum[o][e] = b;
    }
#pragma unroll 1
    for (int ky = 0; ky < K; ky++) {
      const int iy = oy * S + ky - g.top;
      if (iy < 0 || iy >= g.height) continue;
      float w[K][8];
#pragma unroll
      for (int kx = 0; kx < K; kx++) {
        const float4 *from = reinterpret_cast<const float4 *>(taps + (int64_t(ky * K + kx) * g.groups * 8 + c));
        const float4 a = __ldg(from), b = __ldg(from + 1);
        w[kx][0] = a.x, w[kx][1] = a.y, w[kx][2] = a.z, w[kx][3] = a.w;
        w[kx][4] = b.x, w[kx][5] = b.y, w[kx][6] = b.z, w[kx][7] = b.w;
      }
      const T *from = x + (int64_t(n) * g.height + iy) * g.width * g.x_stride + c;
#pragma unroll
      for (int k = 0; k < IN; k++) {
        const int ix = ox * S + k - g.left;
        if (ix < 0 || ix >= g.width) continue;
        float v[8];
        unpack8<T>(v, __ldg(reinterpret_cast<const uint4 *>(from + ix * g.x_stride)));
#pragma unroll
        for (int o = 0; o < OUT; o++) {
          const int kx = k - o * S;
          if (kx < 0 || kx >= K) continue;
#pragma unroll
          for (int e = 0; e < 8; e++) sum[o][e] += w[kx][e] * v[e];
        }
      }
    }
    T *to = y + ((int64_t(n) * g.out_height + oy) * g.out_width + ox) * g.y_stride + c;
#pragma unroll
    for (int o = 0; o < OUT; o++) {
      if (ox + o >= g.out_width) break;
#pragma unroll
      for (int e = 0; e < 8; e++) {
        // NaN stays.
        if (sum[o][e] < g.lowest) sum[o][e] = g.lowest;
        if (sum[o][e] > g.highest) sum[o][e] = g.highest;
      }
      *reinterpret_cast<uint4 *>(to + o * g.y_stride) = pack8<T>(sum[o]);
    }
  }
}

#define DEPTHWISE(T, K, S)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256) depthwise_##K##_##S##_##T(Depthwise g, const T *x, const float *taps,  \
                                                                             const float *bias, T *y) {                   \
    depthwise_rows<T, K, S>(g, x, taps, bias, y);                                                                          \
  }
#define DEPTHWISE_ALL(K, S) DEPTHWISE(f16, K, S) DEPTHWISE(bf16, K, S)
DEPTHWISE_ALL(3, 1)
DEPTHWISE_ALL(3, 2)
DEPTHWISE_ALL(5, 1)
DEPTHWISE_ALL(5, 2)
DEPTHWISE_ALL(7, 1)
