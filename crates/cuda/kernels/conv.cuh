// What convolutions share: their sizes, what happens to a result, and channels in the order in which lanes hold them.
#pragma once
#include "mma.cuh"

struct Conv {
  int n, height, width;        // input
  int out_height, out_width;
  int in_channels, out_channels;
  int kernel[2], stride[2], padding[2], dilation[2];
  int groups;
  int64_t x_stride, y_stride, residual_stride; // elements from pixel to pixel
  float slope; // leaky ReLU; 1 for none, 0 for ReLU
  // Pixel shuffle by this factor as the result is stored, if over 1: channel (r * f + q) * c + i goes to sub-row r, sub-column
  // q, channel i, and y_stride is that of the large picture.
  int shuffle;
  int y_is_f32;
  // The residual is not added, but tells by its sign where the result is multiplied by `slope`: see `finish`.
  int masked;
};

__device__ inline float leaky(float slope, float x) { return x > 0.0f ? x : slope * x; }

// The result from a sum and a residual. A mask is the output of a leaky ReLU, and the result the gradient of its input.
__device__ inline float finish(const Conv &p, float x, float residual) {
  return p.masked ? (residual > 0.0f ? x : p.slope * x) : leaky(p.slope, x) + residual;
}

// The channel that column `n` of tile `tile` of 8 stands for, of `tiles` in all, where tiles are permuted: so lane q of four, which
// holds columns 2q and 2q + 1 of each tile, holds 8 adjacent channels of four tiles, or 4 of the last two.
__host__ __device__ inline int permuted(int tile, int n, int tiles) {
  const int group = tile / 4;
  if (group * 4 + 4 <= tiles) return group * 32 + n / 2 * 8 + tile % 4 * 2 + n % 2;
  return group * 32 + n / 2 * 4 + tile % 2 * 2 + n % 2;
}

// The bias of permuted tiles, as sums to start from.
template <int NT> __device__ void start(float (&sum)[NT][4], const float *bias, int channels) {
  const int q = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < NT; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int o = permuted(j, 2 * q + e, NT);
      sum[j][e] = sum[j][2 + e] = o < channels ? __ldg(bias + o) : 0.0f;
    }
}

// Calls f(first channel, eight or four values) for the adjacent channels that a lane holds of pixel `half` of permuted tiles.
template <int NT, class F> __device__ void for_runs(float (&sum)[NT][4], int half, F f) {
  const int q = threadIdx.x % 4;
#pragma unroll
  for (int g = 0; g < NT / 4; g++) {
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = sum[4 * g + i / 2][2 * half + i % 2];
    f(g * 32 + q * 8, v);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[4 * g + i / 2][2 * half + i % 2] = v[i];
  }
  if constexpr (NT % 4 != 0) {
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = sum[NT - 2 + i / 2][2 * half + i % 2];
    f(NT / 4 * 32 + q * 4, v);
#pragma unroll
    for (int i = 0; i < 4; i++) sum[NT - 2 + i / 2][2 * half + i % 2] = v[i];
  }
}

template <class T, int N> __device__ void store_run(T *to, const float (&v)[N]) {
  Pack<uint32_t, N / 2> packed;
#pragma unroll
  for (int i = 0; i < N / 2; i++) packed.v[i] = pack2(T(), v[2 * i], v[2 * i + 1]);
  *reinterpret_cast<Pack<uint32_t, N / 2> *>(to) = packed;
}
