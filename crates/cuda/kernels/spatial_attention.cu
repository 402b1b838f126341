// RLFN's spatial attention: its coarse map, and its gate.
#include "mma.cuh"

// ------------------------------------------------------------------------------------------------------------- coarse map
//
//   coarse = w2 * pool(w1 * reduced + bias1) + bias2
//
// | argument | shape |
// |---|---|
// | reduced | n x height x width pixels of 16 channels |
// | w1 | 3x3, stride 2, no padding, 16 -> 16; pooling takes the largest of 7x7 at every third pixel |
// | w2 | 3x3, padding 1, 16 -> channels |
// | coarse | n x coarse_height x coarse_width pixels of `channels` |
//
// A block makes 2 x 8 pixels of the coarse map, from 4 x 10 pooled pixels, from 16 x 34 pixels of the first convolution: these
// are computed a little more than twice over all blocks, and never leave shared memory.

struct Coarse {
  int n, height, width, half_height, half_width, coarse_height, coarse_width, channels;
  int64_t reduced_stride, coarse_stride;
};

constexpr int OUT_H = 2, OUT_W = 8, POOL_H = OUT_H + 2, POOL_W = OUT_W + 2;
constexpr int HALF_H = 3 * (POOL_H - 1) + 7, HALF_W = 3 * (POOL_W - 1) + 7, HALF_TILES = HALF_H * HALF_W / 16;
static_assert(HALF_H * HALF_W % 16 == 0, "whole tiles");

template <class T>
__device__ void coarse_map(const Coarse &g, const T *reduced, const uint4 *w1, const float *bias1, const uint4 *w2,
                           const float *bias2, T *coarse) {
  __shared__ __align__(16) uint32_t half[HALF_H * HALF_W][8 + 1]; // pairs of channels
  __shared__ __align__(16) uint32_t pooled[POOL_H * POOL_W][8 + 4];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q = lane % 4;
  const int n = blockIdx.z, y0 = blockIdx.y * OUT_H, x0 = blockIdx.x * OUT_W;
  const int half_y0 = 3 * (y0 - 1), half_x0 = 3 * (x0 - 1);

  uint4 b[9];
#pragma unroll
  for (int tap = 0; tap < 9; tap++) b[tap] = __ldg(&w1[tap * 32 + lane]);
  for (int t = warp; t < HALF_TILES; t += 8) {
    const T *from[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int at = t * 16 + lane / 4 + i * 8, hy = half_y0 + at / HALF_W, hx = half_x0 + at % HALF_W;
      const bool inside = hy >= 0 && hy < g.half_height && hx >= 0 && hx < g.half_width;
      from[i] = inside ? reduced + ((int64_t(n) * g.height + 2 * hy) * g.width + 2 * hx) * g.reduced_stride + 2 * q : nullptr;
    }
    float sum[2][4];
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sum[j][e] = bias1[j * 8 + 2 * q + e % 2];
#pragma unroll
    for (int tap = 0; tap < 9; tap++) {
      const int64_t step = (int64_t(tap / 3) * g.width + tap % 3) * g.reduced_stride;
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        a[i] = from[i] ? *reinterpret_cast<const uint32_t *>(from[i] + step) : 0;
        a[i + 2] = from[i] ? *reinterpret_cast<const uint32_t *>(from[i] + step + 8) : 0;
      }
      mma(T(), sum[0], a, b[tap].x, b[tap].y);
      mma(T(), sum[1], a, b[tap].z, b[tap].w);
    }
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) half[t * 16 + lane / 4 + i * 8][j * 4 + q] = pack2(T(), sum[j][2 * i], sum[j][2 * i + 1]);
  }
  __syncthreads();

  for (int i = threadIdx.x; i < POOL_H * POOL_W * 8; i += 256) {
    const int c = i % 8, at = i / 8, py = at / POOL_W, px = at % POOL_W;
    const int cy = y0 - 1 + py, cx = x0 - 1 + px;
    float2 most = make_float2(0.0f, 0.0f);
    if (cy >= 0 && cy < g.coarse_height && cx >= 0 && cx < g.coarse_width) {
      most = make_float2(-INFINITY, -INFINITY);
      for (int ky = 0; ky < 7; ky++)
#pragma unroll
        for (int kx = 0; kx < 7; kx++) {
          const float2 v = unpack2(T(), half[(3 * py + ky) * HALF_W + 3 * px + kx][c]);
          most = make_float2(fmaxf(most.x, v.x), fmaxf(most.y, v.y));
        }
    }
    pooled[at][c] = pack2(T(), most.x, most.y);
  }
  __syncthreads();

  const int pairs = (g.channels + 15) / 16;
  for (int j = warp; j < pairs; j += 8) {
    float sum[2][4];
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int o = j * 16 + t * 8 + 2 * q + e % 2;
        sum[t][e] = o < g.channels ? bias2[o] : 0.0f;
      }
#pragma unroll
    for (int tap = 0; tap < 9; tap++) {
      // Row lane / 4 of the operand is pixel (0, lane / 4), eight further down (1, lane / 4).
      const int at = tap / 3 * POOL_W + lane / 4 + tap % 3;
      const uint32_t a[4] = {pooled[at][q], pooled[at + POOL_W][q], pooled[at][q + 4], pooled[at + POOL_W][q + 4]};
      const uint4 v = __ldg(&w2[(tap * pairs + j) * 32 + lane]);
      mma(T(), sum[0], a, v.x, v.y);
      mma(T(), sum[1], a, v.z, v.w);
    }
#pragma unroll
    for (int t = 0; t < 2; t++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int cy = y0 + i, cx = x0 + lane / 4, o = j * 16 + t * 8 + 2 * q;
        if (cy < g.coarse_height && cx < g.coarse_width && o < g.channels) {
          T *to = coarse + ((int64_t(n) * g.coarse_height + cy) * g.coarse_width + cx) * g.coarse_stride + o;
          *reinterpret_cast<uint32_t *>(to) = pack2(T(), sum[t][2 * i], sum[t][2 * i + 1]);
        }
      }
  }
}

extern "C" __global__ void __launch_bounds__(256) coarse_map_f16(Coarse g, const f16 *reduced, const uint4 *w1, const float *bias1,
                                                                const uint4 *w2, const float *bias2, f16 *coarse) {
  coarse_map(g, reduced, w1, bias1, w2, bias2, coarse);
}
extern "C" __global__ void __launch_bounds__(256) coarse_map_bf16(Coarse g, const bf16 *reduced, const uint4 *w1,
                                                                 const float *bias1, const uint4 *w2, const float *bias2,
                                                                 bf16 *coarse) {
  coarse_map(g, reduced, w1, bias1, w2, bias2, coarse);
}

// ------------------------------------------------------------------------------------------------------------------- gate
//
//   y = x * sigmoid(resize(coarse) + w * reduced + bias)
//
// | argument | shape |
// |---|---|
// | x, y | n x height x width pixels of `channels`, at multiples of 16 |
// | reduced | as many pixels of 16 channels |
// | coarse | n x coarse_height x coarse_width pixels of `channels`, resized bilinearly |
// | w | packed as a 1x1 convolution's weights, 16 -> channels |
//
// A block takes 64 pixels of a row. The coarse map, interpolated between its two rows, lies in shared memory; a warp takes 16
// pixels: the product is one tensor-core instruction for 8 channels.

struct Gate {
  int n, height, width, channels;
  int coarse_height, coarse_width;
  int64_t x_stride, reduced_stride, coarse_stride, y_stride;
};

constexpr int SEGMENT = 64;

template <class T>
__device__ void gate(const Gate &g, const T *x, const T *reduced, const T *coarse, const uint4 *w, const float *bias, T *y) {
  extern __shared__ float line[]; // [column][channels rounded up to 16, plus 2]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q = lane % 4;
  const int oy = blockIdx.y, n = blockIdx.z, first = blockIdx.x * SEGMENT;
  const int64_t row = int64_t(n) * g.height + oy;
  const int pairs = (g.channels + 15) / 16, pitch = pairs * 16 + 2;
  const float scale_y = float(g.coarse_height) / float(g.height), scale_x = float(g.coarse_width) / float(g.width);
  auto source = [&](int px) { return fmaxf((px + 0.5f) * scale_x - 0.5f, 0.0f); };

  const int last = min(first + SEGMENT, g.width) - 1;
  const int column0 = min(int(source(first)), g.coarse_width - 1);
  const int columns = min(int(source(last)) + 1, g.coarse_width - 1) - column0 + 1;
  const float sy = fmaxf((oy + 0.5f) * scale_y - 0.5f, 0.0f);
  const int cy0 = min(int(sy), g.coarse_height - 1), cy1 = min(cy0 + 1, g.coarse_height - 1);
  const float fy = fminf(sy - cy0, 1.0f);
  const T *top = coarse + ((int64_t(n) * g.coarse_height + cy0) * g.coarse_width + column0) * g.coarse_stride;
  const T *bottom = coarse + ((int64_t(n) * g.coarse_height + cy1) * g.coarse_width + column0) * g.coarse_stride;
  for (int i = threadIdx.x; i < columns * pairs * 8; i += blockDim.x) {
    const int column = i / (pairs * 8), c = i % (pairs * 8) * 2;
    float2 v = make_float2(0.0f, 0.0f);
    if (c < g.channels) {
      const float2 a = unpack2(T(), *reinterpret_cast<const uint32_t *>(top + column * g.coarse_stride + c));
      const float2 b = unpack2(T(), *reinterpret_cast<const uint32_t *>(bottom + column * g.coarse_stride + c));
      v.x = a.x + fy * (b.x - a.x) + bias[c];
      v.y = a.y + fy * (b.y - a.y) + (c + 1 < g.channels ? bias[c + 1] : 0.0f);
    }
    *reinterpret_cast<float2 *>(line + column * pitch + c) = v;
  }

  const int x0 = first + warp * 16;
  uint32_t a[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int px = min(x0 + lane / 4 + (i % 2) * 8, g.width - 1), c = 2 * q + (i / 2) * 8;
    a[i] = *reinterpret_cast<const uint32_t *>(reduced + (row * g.width + px) * g.reduced_stride + c);
  }
  __syncthreads();
  int left[2], right[2];
  float fx[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float sx = source(min(x0 + lane / 4 + half * 8, g.width - 1));
    const int cx0 = min(int(sx), g.coarse_width - 1), cx1 = min(cx0 + 1, g.coarse_width - 1);
    fx[half] = fminf(sx - cx0, 1.0f);
    left[half] = (cx0 - column0) * pitch;
    right[half] = (cx1 - column0) * pitch;
  }
  for (int j = 0; j < pairs; j++) {
    const uint4 b = __ldg(&w[j * 32 + lane]);
    float sum[2][4] = {};
    mma(T(), sum[0], a, b.x, b.y);
    mma(T(), sum[1], a, b.z, b.w);
    // The tiles of a pair are permuted: a lane holds four adjacent channels.
    const int c = j * 16 + q * 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int px = x0 + lane / 4 + half * 8;
      if (px >= g.width || c >= g.channels) continue;
      const int64_t pixel = row * g.width + px;
      const uint2 v = *reinterpret_cast<const uint2 *>(x + pixel * g.x_stride + c);
      uint2 to;
#pragma unroll
      for (int t = 0; t < 2; t++) {
        const float2 l = *reinterpret_cast<const float2 *>(line + left[half] + c + 2 * t);
        const float2 r = *reinterpret_cast<const float2 *>(line + right[half] + c + 2 * t);
        const float2 u = unpack2(T(), t == 0 ? v.x : v.y);
        const float m0 = sigmoid(sum[t][2 * half] + l.x + fx[half] * (r.x - l.x));
        const float m1 = sigmoid(sum[t][2 * half + 1] + l.y + fx[half] * (r.y - l.y));
        (t == 0 ? to.x : to.y) = pack2(T(), u.x * m0, u.y * m1);
      }
      *reinterpret_cast<uint2 *>(y + pixel * g.y_stride + c) = to;
    }
  }
}

extern "C" __global__ void __launch_bounds__(128) gate_f16(Gate g, const f16 *x, const f16 *reduced, const f16 *coarse,
                                                          const uint4 *w, const float *bias, f16 *y) {
  gate(g, x, reduced, coarse, w, bias, y);
}
extern "C" __global__ void __launch_bounds__(128) gate_bf16(Gate g, const bf16 *x, const bf16 *reduced, const bf16 *coarse,
                                                           const uint4 *w, const float *bias, bf16 *y) {
  gate(g, x, reduced, coarse, w, bias, y);
}
