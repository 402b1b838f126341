// Depthwise convolutions whose results are as large as their input, in f16 or bf16 with sums in f32, and the gradient of their
// weights: K x K taps, D pixels apart. The gradient of their input is such a convolution with its taps reversed.
//
//   y[n][oy][ox][c] = epilogue(bias[c] + sum x[n][oy + ky * D - P][ox + kx * D - P][c] * taps[ky][kx][c]),  P = D * (K / 2)
//   dw[ky][kx][c] = sum over pixels of x[n][oy + ky * D - P][ox + kx * D - P][c] * g[n][oy][ox][c],  db[c] = sum of g
//
// | argument | shape |
// |---|---|
// | x, y, g, residual | n x height x width pixels of `channels`, each at a multiple of 8 elements |
// | taps | f32 [K * K][columns], columns being the channels rounded up to 8 |
// | bias | f32 [columns] |
// | parts | f32 [part][K * K][columns], columns being the channels rounded up to 64: sums of a part of the lines |
// | bias_parts | f32 [part][columns]; may be null |
#include "transformer.cuh"

struct Depthwise {
  int n, height, width, channels, columns;
  int64_t x_stride, y_stride, residual_stride; // elements from pixel to pixel; y_stride is that of g too
  float slope, highest;
  int masked;
};

template <class T> __device__ void load8(float (&v)[8], const T *from) { unpack8<T>(v, __ldg(reinterpret_cast<const uint4 *>(from))); }

// Eight channels of pixel `i` of a line of `width`, zeros outside.
template <class T> __device__ uint4 load_or_zero(const T *line, int i, int width, int64_t stride) {
  uint4 v = make_uint4(0, 0, 0, 0);
  if (i >= 0 && i < width) v = __ldg(reinterpret_cast<const uint4 *>(line + i * stride));
  return v;
}

// A thread takes 8 channels of OUT pixels of a line, D apart, so that neighbours share what they read. blockIdx.y is the picture.
template <class T, int K, int D>
__device__ void depthwise_conv(const Depthwise &p, const T *x, const float *taps, const float *bias, const T *residual, T *y) {
  constexpr int OUT = 4, IN = OUT - 1 + K, P = D * (K / 2);
  const uint32_t groups = p.columns / 8, strips = (p.width + OUT * D - 1) / (OUT * D) * D;
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= groups * strips * p.height) return;
  const int c = int(i % groups) * 8, strip = int(i / groups % strips), oy = int(i / groups / strips);
  const int ox = strip / D * (OUT * D) + strip % D;
  const int64_t image = int64_t(blockIdx.y) * p.height * p.width;
  float sum[OUT][8];
#pragma unroll
  for (int e = 0; e < 8; e++) {
    const float b = __ldg(bias + c + e);
#pragma unroll
    for (int o = 0; o < OUT; o++) sum[o][e] = b;
  }
#pragma unroll 1
  for (int ky = 0; ky < K; ky++) {
    const int iy = oy + ky * D - P;
    if (iy < 0 || iy >= p.height) continue;
    // All that is read is asked for before any of it is used.
    const T *line = x + (image + int64_t(iy) * p.width) * p.x_stride + c;
    uint4 read[IN];
#pragma unroll
    for (int k = 0; k < IN; k++) read[k] = load_or_zero(line, ox + k * D - P, p.width, p.x_stride);
    float w[K][8];
#pragma unroll
    for (int kx = 0; kx < K; kx++) {
      const float4 *from = reinterpret_cast<const float4 *>(taps + (ky * K + kx) * p.columns + c);
      const float4 a = __ldg(from), b = __ldg(from + 1);
      w[kx][0] = a.x, w[kx][1] = a.y, w[kx][2] = a.z, w[kx][3] = a.w;
      w[kx][4] = b.x, w[kx][5] = b.y, w[kx][6] = b.z, w[kx][7] = b.w;
    }
#pragma unroll
    for (int k = 0; k < IN; k++) {
      float v[8];
      unpack8<T>(v, read[k]);
#pragma unroll
      for (int o = 0; o < OUT; o++) {
        const int kx = k - o;
        if (kx < 0 || kx >= K) continue;
#pragma unroll
        for (int e = 0; e < 8; e++) sum[o][e] += w[kx][e] * v[e];
      }
    }
  }
#pragma unroll
  for (int o = 0; o < OUT; o++) {
    const int at = ox + o * D;
    if (at >= p.width) break;
    const int64_t pixel = image + int64_t(oy) * p.width + at;
    float other[8] = {};
    if (residual) load8(other, residual + pixel * p.residual_stride + c);
#pragma unroll
    for (int e = 0; e < 8; e++) {
      float &v = sum[o][e];
      if (p.masked) {
        v = other[e] > 0.0f ? v : p.slope * v;
      } else {
        v = v > 0.0f ? v : p.slope * v;
        v = (v > p.highest ? p.highest : v) + other[e]; // NaN stays
      }
      if (c + e >= p.channels) v = 0.0f;
    }
    *reinterpret_cast<uint4 *>(y + pixel * p.y_stride + c) = pack8<T>(sum[o]);
  }
}

// A thread takes 8 channels of every SLOTS-th line of the part for row blockIdx.y of the kernel, and goes along it with a window
// of the input in registers. blockIdx.x is a block of 64 channels, blockIdx.z the part.
constexpr int SLOTS = 16;

template <class T, int K, int D>
__device__ void weight_depthwise(const Depthwise &p, int per_part, const T *x, const T *g, float *parts, float *bias_parts) {
  constexpr int P = D * (K / 2);
  __shared__ float sums[4][(K + 1) * 64];
  const int slot = threadIdx.x / 8, c = blockIdx.x * 64 + threadIdx.x % 8 * 8, ky = blockIdx.y;
  const int first = blockIdx.z * per_part, last = min(first + per_part, p.n * p.height);
  float sum[K][8] = {}, column[8] = {};
  if (c < p.channels)
    for (int line = first + slot; line < last; line += SLOTS) {
      const int down = ky * D - P, iy = line % p.height + down;
      const T *grads = g + int64_t(line) * p.width * p.y_stride + c;
      const T *row = x + int64_t(line + down) * p.width * p.x_stride + c;
      const int width = iy >= 0 && iy < p.height ? p.width : 0; // of what is not zero
      if (width == 0 && ky != 0) continue; // row 0 sums the bias too
#pragma unroll 1
      for (int phase = 0; phase < D; phase++) {
        float window[K][8];
#pragma unroll
        for (int k = 0; k < K - 1; k++) unpack8<T>(window[k], load_or_zero(row, phase + k * D - P, width, p.x_stride));
#pragma unroll 1
        for (int start = phase; start < p.width; start += K * D) {
          // All that is read is asked for before any of it is used.
          uint4 next[K], given[K];
#pragma unroll
          for (int s = 0; s < K; s++) {
            next[s] = load_or_zero(row, start + (s + K - 1) * D - P, width, p.x_stride);
            given[s] = load_or_zero(grads, start + s * D, p.width, p.y_stride);
          }
#pragma unroll
          for (int s = 0; s < K; s++) {
            float grad[8];
            unpack8<T>(grad, given[s]);
            unpack8<T>(window[(s + K - 1) % K], next[s]);
#pragma unroll
            for (int e = 0; e < 8; e++) column[e] += grad[e];
#pragma unroll
            for (int kx = 0; kx < K; kx++)
#pragma unroll
              for (int e = 0; e < 8; e++) sum[kx][e] += grad[e] * window[(s + kx) % K][e];
          }
        }
      }
    }
  // The four lines of a warp, then the four warps.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto put = [&](int row, float(&v)[8]) {
#pragma unroll
    for (int e = 0; e < 8; e++) {
      v[e] += __shfl_xor_sync(0xffffffffu, v[e], 8);
      v[e] += __shfl_xor_sync(0xffffffffu, v[e], 16);
      if (lane < 8) sums[warp][row * 64 + lane * 8 + e] = v[e];
    }
  };
#pragma unroll
  for (int kx = 0; kx < K; kx++) put(kx, sum[kx]);
  put(K, column);
  __syncthreads();
  const bool has_bias = bias_parts && ky == 0;
  for (int i = threadIdx.x; i < (K + 1) * 64; i += blockDim.x) {
    const int row = i / 64, to = blockIdx.x * 64 + i % 64;
    const float total = sums[0][i] + sums[1][i] + sums[2][i] + sums[3][i];
    if (row < K) parts[(int64_t(blockIdx.z) * (K * K) + ky * K + row) * p.columns + to] = total;
    else if (has_bias) bias_parts[int64_t(blockIdx.z) * p.columns + to] = total;
  }
}

#define DEPTHWISE(T, K, D)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                                        \
      depthwise_conv_##K##_##D##_##T(Depthwise p, const T *x, const float *taps, const float *bias, const T *residual,     \
                                     T *y) {                                                                               \
    depthwise_conv<T, K, D>(p, x, taps, bias, residual, y);                                                                \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(128)                                                                        \
      weight_depthwise_##K##_##D##_##T(Depthwise p, int per_part, const T *x, const T *g, float *parts, float *bias_parts) { \
    weight_depthwise<T, K, D>(p, per_part, x, g, parts, bias_parts);                                                       \
  }
#define DEPTHWISE_ALL(K, D) DEPTHWISE(f16, K, D) DEPTHWISE(bf16, K, D)
DEPTHWISE_ALL(3, 1)
DEPTHWISE_ALL(5, 1)
DEPTHWISE_ALL(7, 3)
