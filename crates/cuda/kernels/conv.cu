// Convolution of channels-last images.
//
//   y[n][oy][ox][o] = activation(bias[o] + sum x[n][oy * s + ky * d - p][ox * s + kx * d - p][c] * w[o][c][ky][kx]) + residual
//
// Four ways to compute it:
//
// * `conv_tile` (f16, bf16): 3x3, stride 1, padding 1, at most 64 channels in and 64 out at a time. A block takes 8 x 32
//   pixels; the input with its border and all weights lie in shared memory; tensor cores read windows of it in place.
//   Up to two 1x1 convolutions may follow in registers: an accumulator of two tiles is an operand of the next product.
// * `conv_point` (f16, bf16; in conv_point.cu): 1x1 of at most 128 channels in; as above with the pixels alone in shared memory.
// * `conv_gather` (f16, bf16): any dense convolution as a matrix product, whose left operand is gathered while it is loaded.
// * `conv_direct` (any type): one thread an output; depthwise and grouped convolutions, and f32.
//
// Weights of the first three are packed by `pack_weights` in the order in which lanes want them:
// [slice][pair of 8-column tiles][lane][b0, b1 of the first tile, b0, b1 of the second], a slice being 16 channels of a tap.
#include "conv.cuh"

// ---------------------------------------------------------------------------------------------------------------- packing

// The weight of channels out `o` and in `c` in w[out][in][taps]; or, if `reversed` is not 0, of the convolution that takes a
// gradient back: inputs and outputs of each group exchanged, taps reversed. `reversed` is its number of outputs a group.
template <class W>
__device__ inline float weight_of(const W *w, int in, int taps, int reversed, int o, int c, int tap) {
  if (reversed == 0) return up(w[(int64_t(o) * in + c) * taps + tap]);
  const int group = o / reversed, i = o - group * reversed;
  return up(w[((int64_t(group) * in + c) * reversed + i) * taps + taps - 1 - tap]);
}

// The bias in f32, zeros if there is none and from `out` to `padded`.
template <class W> __device__ inline void pack_bias(int out, int padded, const W *bias, float *to) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < padded; i += gridDim.x * blockDim.x)
    to[i] = bias && i < out ? up(bias[i]) : 0.0f;
}

// From w[out][in][taps], row-major. `permute` is 1 for permuted tiles of channels out, 2 of channels in, 3 of
// both, 4 of channels out within each pair of tiles.
template <class W, class T>
__device__ void pack_weights(int in, int out, int taps, int pairs, int permute, int reversed, const W *w, const W *bias,
                             T *packed, float *packed_bias) {
  pack_bias(out, out, bias, packed_bias);
  const int chunks = (in + 15) / 16;
  const int64_t total = int64_t(taps) * chunks * pairs * 32 * 8;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int e = i % 8, lane = i / 8 % 32, pair = i / 256 % pairs, slice = int(i / 256 / pairs);
    const int tap = slice / chunks, chunk = slice % chunks;
    const int in_tile = chunk * 2 + e / 2 % 2, in_column = 2 * (lane % 4) + e % 2;
    const int out_tile = pair * 2 + e / 4, out_column = lane / 4;
    const int c = permute & 2 ? permuted(in_tile, in_column, chunks * 2) : in_tile * 8 + in_column;
    const int o = permute & 1   ? permuted(out_tile, out_column, pairs * 2)
                  : permute & 4 ? pair * 16 + permuted(e / 4, out_column, 2)
                                : out_tile * 8 + out_column;
    packed[i] = down<T>(c < in && o < out ? weight_of(w, in, taps, reversed, o, c, tap) : 0.0f);
  }
}

#define PACK_WEIGHTS(W, NAME, T)                                                                                       \
  extern "C" __global__ void pack_weights_##NAME##_##T(int in, int out, int taps, int pairs, int permute,             \
                                                       int reversed, const W *w, const W *bias, T *packed,            \
                                                       float *packed_bias) {                                          \
    pack_weights(in, out, taps, pairs, permute, reversed, w, bias, packed, packed_bias);                              \
  }
PACK_WEIGHTS(float, f32, f16)
PACK_WEIGHTS(float, f32, bf16)
PACK_WEIGHTS(f16, f16, f16)
PACK_WEIGHTS(bf16, bf16, bf16)

// ------------------------------------------------------------------------------------------------------------------ tiles

constexpr int TILE_H = 8, TILE_W = 32, WARPS = 8;

// Stores two adjacent channels of a pixel, or sends them where the pixel shuffle puts them.
template <class T>
__device__ inline void store2(const Conv &p, void *y, int n, int oy, int ox, int o, float a, float b, bool second) {
  if (p.shuffle > 1) {
    const int colours = p.out_channels / (p.shuffle * p.shuffle);
    for (int k = 0; k < (second ? 2 : 1); k++) {
      const int at = o + k, i = at % colours, q = at / colours % p.shuffle, r = at / colours / p.shuffle;
      const int64_t pixel = (int64_t(n) * p.out_height * p.shuffle + oy * p.shuffle + r) * (p.out_width * p.shuffle) +
                            ox * p.shuffle + q;
      const float v = k == 0 ? a : b;
      if (p.y_is_f32) static_cast<float *>(y)[pixel * p.y_stride + i] = v;
      else static_cast<T *>(y)[pixel * p.y_stride + i] = down<T>(v);
    }
    return;
  }
  const int64_t at = ((int64_t(n) * p.out_height + oy) * p.out_width + ox) * p.y_stride + o;
  if (p.y_is_f32) {
    float *to = static_cast<float *>(y) + at;
    to[0] = a;
    if (second) to[1] = b;
    return;
  }
  if constexpr (sizeof(T) == 2)
    if (second) {
      *reinterpret_cast<uint32_t *>(static_cast<T *>(y) + at) = pack2(T(), a, b);
      return;
    }
  static_cast<T *>(y)[at] = down<T>(a);
}

// What follows the first convolution in registers: y2 = w2 * y + bias2, and y3 = w3 * y2 + bias3, 1x1; weights are packed with
// permuted tiles on both sides.
struct Chain {
  const uint4 *w2; // y2 has as many channels as y
  const float *bias2;
  const uint4 *w3; // 16 channels
  const float *bias3;
  void *y3;
  int64_t y3_stride;
};

template <class T, int NT>
__device__ void to_operands(uint32_t (&a)[NT / 2][4], const float (&sum)[NT][4]) {
#pragma unroll
  for (int k = 0; k < NT / 2; k++) {
    a[k][0] = pack2(T(), sum[2 * k][0], sum[2 * k][1]);
    a[k][1] = pack2(T(), sum[2 * k][2], sum[2 * k][3]);
    a[k][2] = pack2(T(), sum[2 * k + 1][0], sum[2 * k + 1][1]);
    a[k][3] = pack2(T(), sum[2 * k + 1][2], sum[2 * k + 1][3]);
  }
}

// sum = a * w + bias for 16 * K channels in, 8 * N out.
template <class T, int K, int N>
__device__ void pointwise(float (&sum)[N][4], const uint32_t (&a)[K][4], const uint4 *w, const float *bias, int channels) {
  const int lane = threadIdx.x % 32;
  start<N>(sum, bias, channels);
#pragma unroll
  for (int k = 0; k < K; k++)
#pragma unroll
    for (int j = 0; j < N / 2; j++) {
      const uint4 b = __ldg(&w[(k * (N / 2) + j) * 32 + lane]);
      mma(T(), sum[2 * j], a[k], b.x, b.y);
      mma(T(), sum[2 * j + 1], a[k], b.z, b.w);
    }
}

// NT tiles of 8 output channels, permuted; CHUNKS chunks of 16 input channels, or as many as there are if 0. blockIdx.z counts
// pictures. Pixels of results and residuals lie at multiples of 16 channels: what is between channels and their padding is
// written and read as well.
template <class T, int NT, int CHUNKS, bool CHAIN>
__device__ void conv_tile(const Conv &p, const T *x, const uint4 *w, const float *bias, const T *residual, void *y,
                          const Chain &chain) {
  extern __shared__ uint4 memory[];
  const int chunks = CHUNKS > 0 ? CHUNKS : (p.in_channels + 15) / 16;
  // Pixels lie an odd number of 16 bytes apart, so that eight rows of a matrix fall into different banks.
  const int pitch = chunks * 16 + 8;
  uint4 *weights = memory;
  const int slices = 9 * chunks;
  T *tile = reinterpret_cast<T *>(weights + slices * (NT / 2) * 32);
  const int n = blockIdx.z, y0 = blockIdx.y * TILE_H, x0 = blockIdx.x * TILE_W;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  // The picture and the weights of the first row of taps, then those of the second, then of the third: the product starts when
  // the first are there.
  const int eighths = chunks * 2; // groups of 8 channels of a pixel
  for (int i = threadIdx.x; i < (TILE_H + 2) * (TILE_W + 2) * eighths; i += WARPS * 32) {
    const int part = i % eighths, pixel = i / eighths;
    const int iy = y0 + pixel / (TILE_W + 2) - 1, ix = x0 + pixel % (TILE_W + 2) - 1;
    const bool inside = iy >= 0 && iy < p.height && ix >= 0 && ix < p.width;
    const int bytes = inside ? 2 * min(max(p.in_channels - part * 8, 0), 8) : 0;
    const T *from = bytes ? x + ((int64_t(n) * p.height + iy) * p.width + ix) * p.x_stride + part * 8 : x;
    copy_async(shared_address(tile + pixel * pitch + part * 8), from, bytes);
  }
  const int row_of_taps = slices / 3 * (NT / 2) * 32;
  for (int row = 0; row < 3; row++) {
    for (int i = threadIdx.x; i < row_of_taps; i += WARPS * 32)
      copy_async(shared_address(weights + row * row_of_taps + i), w + row * row_of_taps + i, 16);
    commit();
  }

  float sum[2][NT][4];
  start<NT>(sum[0], bias, p.out_channels);
#pragma unroll
  for (int j = 0; j < NT; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) sum[1][j][e] = sum[0][j][e];

  // Warp w takes row w of the tile, 32 pixels in two halves.
  const uint32_t base = shared_address(tile + (warp * (TILE_W + 2) + lane % 16) * pitch + (lane / 16) * 8);
#pragma unroll
  for (int ky = 0; ky < 3; ky++) {
    if (ky == 0) wait_for<2>();
    else if (ky == 1) wait_for<1>();
    else wait_for<0>();
    __syncthreads();
#pragma unroll
    for (int kx = 0; kx < 3; kx++) {
      const uint32_t window = base + (ky * (TILE_W + 2) + kx) * pitch * 2;
#pragma unroll
      for (int c = 0; c < chunks; c++) {
        uint32_t a[2][4];
        load_matrices(a[0], window + c * 32);
        load_matrices(a[1], window + c * 32 + 16 * pitch * 2);
        const uint4 *b = weights + ((ky * 3 + kx) * chunks + c) * (NT / 2) * 32 + lane;
#pragma unroll
        for (int j = 0; j < NT / 2; j++) {
          const uint4 v = b[j * 32];
          mma(T(), sum[0][2 * j], a[0], v.x, v.y);
          mma(T(), sum[1][2 * j], a[1], v.x, v.y);
          mma(T(), sum[0][2 * j + 1], a[0], v.z, v.w);
          mma(T(), sum[1][2 * j + 1], a[1], v.z, v.w);
        }
      }
    }
  }

  const int oy = y0 + warp;
  if (oy >= p.out_height) return;
  const int64_t line = (int64_t(n) * p.out_height + oy) * p.out_width;
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int ox = x0 + m * 16 + lane / 4 + half * 8;
      for_runs<NT>(sum[m], half, [&](int o, auto &v) {
        constexpr int N = sizeof(v) / sizeof(float);
        if (!residual) {
#pragma unroll
          for (int i = 0; i < N; i++) v[i] = leaky(p, v[i]);
        } else if (ox < p.out_width && o < p.out_channels) {
          const auto r = *reinterpret_cast<const Pack<uint32_t, N / 2> *>(residual + (line + ox) * p.residual_stride + o);
#pragma unroll
          for (int i = 0; i < N / 2; i++) {
            const float2 u = unpack2(T(), r.v[i]);
            // Padding may hold anything, and must not reach the products that follow.
            v[2 * i] = finish(p, v[2 * i], o + 2 * i < p.out_channels ? u.x : 0.0f);
            v[2 * i + 1] = finish(p, v[2 * i + 1], o + 2 * i + 1 < p.out_channels ? u.y : 0.0f);
          }
        }
      });
    }
    if constexpr (CHAIN) {
      uint32_t a[NT / 2][4];
      to_operands<T, NT>(a, sum[m]);
      pointwise<T, NT / 2, NT>(sum[m], a, chain.w2, chain.bias2, p.out_channels);
      to_operands<T, NT>(a, sum[m]);
      float reduced[2][4];
      pointwise<T, NT / 2, 2>(reduced, a, chain.w3, chain.bias3, 16);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int ox = x0 + m * 16 + lane / 4 + half * 8;
        for_runs<2>(reduced, half, [&](int o, auto &v) {
          if (ox < p.out_width) store_run(static_cast<T *>(chain.y3) + (line + ox) * chain.y3_stride + o, v);
        });
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int ox = x0 + m * 16 + lane / 4 + half * 8;
      for_runs<NT>(sum[m], half, [&](int o, auto &v) {
        constexpr int N = sizeof(v) / sizeof(float);
        if (ox >= p.out_width || o >= p.out_channels) return;
        if (p.shuffle > 1 || p.y_is_f32) {
#pragma unroll
          for (int i = 0; i < N; i++)
            if (o + i < p.out_channels) store2<T>(p, y, n, oy, ox, o + i, v[i], 0.0f, false);
        } else {
          store_run(static_cast<T *>(y) + (line + ox) * p.y_stride + o, v);
        }
      });
    }
  }
}

#define TILE_KERNEL(T, NAME, NT, CHUNKS)                                                                              \
  extern "C" __global__ void __launch_bounds__(256, 2) conv_tile_##NAME##_##T(                                        \
      Conv p, const T *x, const uint4 *w, const float *bias, const T *residual, void *y) {                            \
    conv_tile<T, NT, CHUNKS, false>(p, x, w, bias, residual, y, Chain{});                                             \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(256, 2) conv_chain_##NAME##_##T(                                       \
      Conv p, const T *x, const uint4 *w, const float *bias, const T *residual, void *y, Chain chain) {               \
    conv_tile<T, NT, CHUNKS, true>(p, x, w, bias, residual, y, chain);                                                \
  }
TILE_KERNEL(f16, 2, 2, 0)
TILE_KERNEL(f16, 4, 4, 0)
TILE_KERNEL(f16, 6, 6, 0)
TILE_KERNEL(f16, 8, 8, 0)
TILE_KERNEL(f16, 48, 6, 3) // 48 channels to 33 to 48, the commonest
TILE_KERNEL(bf16, 2, 2, 0)
TILE_KERNEL(bf16, 4, 4, 0)
TILE_KERNEL(bf16, 6, 6, 0)
TILE_KERNEL(bf16, 8, 8, 0)
TILE_KERNEL(bf16, 48, 6, 3)

// ----------------------------------------------------------------------------------------------------------------- gather

// 128 pixels x 64 output channels a block; blockIdx.y counts groups of 64 channels. Two slices a stage, three stages.
constexpr int GATHER_PIXELS = 128, STAGES = 3, PITCH = 40;

template <class T>
__device__ void conv_gather(const Conv &p, int pairs, const T *x, const uint4 *w, const float *bias, const T *residual,
                            void *y) {
  __shared__ __align__(16) T left[STAGES][GATHER_PIXELS * PITCH];
  __shared__ uint4 right[STAGES][2 * 4 * 32];
  const int64_t pixels = int64_t(p.n) * p.out_height * p.out_width, first = int64_t(blockIdx.x) * GATHER_PIXELS;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int chunks = (p.in_channels + 15) / 16, slices = p.kernel[0] * p.kernel[1] * chunks;
  const int pair0 = blockIdx.y * 4, columns = min(4, pairs - pair0);

  // Each thread loads 16 bytes of two pixels a stage: pixel threadIdx / 4 (+ 64), quarter threadIdx % 4 of two slices.
  int oy[2], ox[2], on[2];
  bool exists[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int64_t pixel = first + threadIdx.x / 4 + i * 64;
    exists[i] = pixel < pixels;
    const int64_t row = pixel / p.out_width;
    ox[i] = int(pixel - row * p.out_width) * p.stride[1] - p.padding[1];
    oy[i] = int(row % p.out_height) * p.stride[0] - p.padding[0];
    on[i] = int(row / p.out_height);
  }
  const int quarter = threadIdx.x % 4;

  auto load = [&](int stage, int step) {
    const int slice = step * 2 + quarter / 2;
    const int tap = slice / chunks, c = (slice - tap * chunks) * 16 + (quarter % 2) * 8;
    const int ky = tap / p.kernel[1], kx = tap - ky * p.kernel[1];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int iy = oy[i] + ky * p.dilation[0], ix = ox[i] + kx * p.dilation[1];
      const bool inside = exists[i] && slice < slices && iy >= 0 && iy < p.height && ix >= 0 && ix < p.width;
      const int bytes = inside ? 2 * min(max(p.in_channels - c, 0), 8) : 0;
      const T *from = bytes ? x + ((int64_t(on[i]) * p.height + iy) * p.width + ix) * p.x_stride + c : x;
      copy_async(shared_address(&left[stage][(threadIdx.x / 4 + i * 64) * PITCH + quarter * 8]), from, bytes);
    }
    // 2 slices x up to 4 pairs x 32 lanes, one a thread.
    const int s = step * 2 + threadIdx.x / 128, j = threadIdx.x / 32 % 4;
    const bool wanted = s < slices && j < columns;
    copy_async(shared_address(&right[stage][threadIdx.x]),
               wanted ? w + (int64_t(s) * pairs + pair0 + j) * 32 + lane : w, wanted ? 16 : 0);
  };

  float sum[8][4];
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const int o = pair0 * 16 + j * 8 + 2 * (lane % 4);
    sum[j][0] = sum[j][2] = o < p.out_channels ? bias[o] : 0.0f;
    sum[j][1] = sum[j][3] = o + 1 < p.out_channels ? bias[o + 1] : 0.0f;
  }
  const int steps = (slices + 1) / 2;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) load(s, s);
    commit();
  }
  for (int step = 0; step < steps; step++) {
    wait_for<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) load((step + STAGES - 1) % STAGES, step + STAGES - 1);
    commit();
    const int stage = step % STAGES;
#pragma unroll
    for (int k = 0; k < 2; k++) {
      uint32_t a[4];
      load_matrices(a, shared_address(&left[stage][(warp * 16 + lane % 16) * PITCH + k * 16 + (lane / 16) * 8]));
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (j >= columns) break;
        const uint4 v = right[stage][k * 128 + j * 32 + lane];
        mma(T(), sum[2 * j], a, v.x, v.y);
        mma(T(), sum[2 * j + 1], a, v.z, v.w);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int64_t pixel = first + warp * 16 + lane / 4 + half * 8;
    if (pixel >= pixels) continue;
    const int64_t row = pixel / p.out_width;
    const int cx = int(pixel - row * p.out_width), cy = int(row % p.out_height), cn = int(row / p.out_height);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const int o = pair0 * 16 + j * 8 + 2 * (lane % 4);
      if (o >= p.out_channels) continue;
      const bool second = o + 1 < p.out_channels;
      float a = sum[j][2 * half], b = sum[j][2 * half + 1];
      if (residual) {
        a = finish(p, a, up(residual[pixel * p.residual_stride + o]));
        if (second) b = finish(p, b, up(residual[pixel * p.residual_stride + o + 1]));
      } else {
        a = leaky(p, a);
        b = leaky(p, b);
      }
      store2<T>(p, y, cn, cy, cx, o, a, b, second);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 2) conv_gather_f16(Conv p, int pairs, const f16 *x, const uint4 *w,
                                                                    const float *bias, const f16 *residual, void *y) {
  conv_gather(p, pairs, x, w, bias, residual, y);
}
extern "C" __global__ void __launch_bounds__(256, 2) conv_gather_bf16(Conv p, int pairs, const bf16 *x, const uint4 *w,
                                                                     const float *bias, const bf16 *residual, void *y) {
  conv_gather(p, pairs, x, w, bias, residual, y);
}

// ----------------------------------------------------------------------------------------------------------------- direct

// Weights are w[tap][in / groups][out], f32, so that adjacent threads read adjacent weights.
template <class T>
__device__ void conv_direct(const Conv &p, const T *x, const float *w, const float *bias, const T *residual, void *y) {
  const int64_t total = int64_t(p.n) * p.out_height * p.out_width * p.out_channels;
  const int in = p.in_channels / p.groups, out = p.out_channels / p.groups;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t pixel = i / p.out_channels, row = pixel / p.out_width;
    const int o = int(i - pixel * p.out_channels), ox = int(pixel - row * p.out_width);
    const int oy = int(row % p.out_height), n = int(row / p.out_height);
    const int group = o / out;
    float sum = bias[o];
    for (int ky = 0; ky < p.kernel[0]; ky++) {
      const int iy = oy * p.stride[0] + ky * p.dilation[0] - p.padding[0];
      if (iy < 0 || iy >= p.height) continue;
      for (int kx = 0; kx < p.kernel[1]; kx++) {
        const int ix = ox * p.stride[1] + kx * p.dilation[1] - p.padding[1];
        if (ix < 0 || ix >= p.width) continue;
        const T *from = x + ((int64_t(n) * p.height + iy) * p.width + ix) * p.x_stride + group * in;
        const float *weight = w + int64_t(ky * p.kernel[1] + kx) * in * p.out_channels + o;
        for (int c = 0; c < in; c++) sum += up(from[c]) * weight[int64_t(c) * p.out_channels];
      }
    }
    const float a =
        residual ? finish(p, sum, up(residual[pixel * p.residual_stride + o])) : leaky(p, sum);
    store2<T>(p, y, n, oy, ox, o, a, 0.0f, false);
  }
}

#define DIRECT(T) (Conv p, const T *x, const float *w, const float *bias, const T *residual, void *y)
FOR_FLOATS(conv_direct, DIRECT, conv_direct<T>(p, x, w, bias, residual, y))

// ---------------------------------------------------------------------------------------------------------------- f32 tiles

// Dense convolutions in f32: 64 pixels x 64 output channels a block, 4 x 4 a thread, 16 channels of a tap at a time.
// Weights are w[tap][in][out padded to 64], f32.
constexpr int F32_PIXELS = 64, F32_OUT = 64, F32_K = 16;

extern "C" __global__ void __launch_bounds__(256) conv_gather_f32(Conv p, int out_padded, const float *x, const float *w,
                                                                 const float *bias, const float *residual, void *y) {
  __shared__ float left[F32_K][F32_PIXELS + 4];
  __shared__ float right[F32_K][F32_OUT];
  const int64_t pixels = int64_t(p.n) * p.out_height * p.out_width, first = int64_t(blockIdx.x) * F32_PIXELS;
  const int out0 = blockIdx.y * F32_OUT;
  // This thread loads pixel threadIdx / 4, channels 4 * (threadIdx % 4) to + 3, and computes pixels 4 * (threadIdx / 16) to
  // + 3 and channels 4 * (threadIdx % 16) to + 3.
  const int64_t mine = first + threadIdx.x / 4;
  const int64_t row = mine / p.out_width;
  const int ox = int(mine - row * p.out_width) * p.stride[1] - p.padding[1];
  const int oy = int(row % p.out_height) * p.stride[0] - p.padding[0], on = int(row / p.out_height);
  const int part = threadIdx.x % 4 * 4, px = threadIdx.x / 16 * 4, pc = threadIdx.x % 16 * 4;
  float sum[4][4] = {};
  for (int tap = 0; tap < p.kernel[0] * p.kernel[1]; tap++) {
    const int iy = oy + tap / p.kernel[1] * p.dilation[0], ix = ox + tap % p.kernel[1] * p.dilation[1];
    const bool inside = mine < pixels && iy >= 0 && iy < p.height && ix >= 0 && ix < p.width;
    const float *from = x + ((int64_t(on) * p.height + iy) * p.width + ix) * p.x_stride;
    for (int c0 = 0; c0 < p.in_channels; c0 += F32_K) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int c = c0 + part + i;
        left[part + i][threadIdx.x / 4] = inside && c < p.in_channels ? from[c] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int at = threadIdx.x + i * 256, k = at / F32_OUT, o = at % F32_OUT;
        right[k][o] = c0 + k < p.in_channels ? w[(int64_t(tap) * p.in_channels + c0 + k) * out_padded + out0 + o] : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < F32_K; k++) {
        const float4 a = *reinterpret_cast<const float4 *>(&left[k][px]), b = *reinterpret_cast<const float4 *>(&right[k][pc]);
        const float u[4] = {a.x, a.y, a.z, a.w}, v[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < 4; j++) sum[i][j] += u[i] * v[j];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int64_t pixel = first + px + i;
    if (pixel >= pixels) continue;
    const int64_t line = pixel / p.out_width;
    const int cx = int(pixel - line * p.out_width), cy = int(line % p.out_height), cn = int(line / p.out_height);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int o = out0 + pc + j;
      if (o >= p.out_channels) continue;
      const float v = sum[i][j] + bias[o];
      const float a = residual ? finish(p, v, residual[pixel * p.residual_stride + o]) : leaky(p, v);
      store2<float>(p, y, cn, cy, cx, o, a, 0.0f, false);
    }
  }
}

// From w[out][in][taps] to w[tap][in][out padded], f32.
template <class W>
__device__ void turn_weights(int in, int out, int out_padded, int taps, int reversed, const W *w, const W *bias,
                             float *turned, float *turned_bias) {
  pack_bias(out, out_padded, bias, turned_bias);
  const int64_t total = int64_t(taps) * in * out_padded;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int o = int(i % out_padded), c = int(i / out_padded % in), tap = int(i / out_padded / in);
    turned[i] = o < out ? weight_of(w, in, taps, reversed, o, c, tap) : 0.0f;
  }
}

#define TURN(T)                                                                                                       \
  (int in, int out, int out_padded, int taps, int reversed, const T *w, const T *bias, float *turned, float *turned_bias)
FOR_FLOATS(turn_weights, TURN, turn_weights<T>(in, out, out_padded, taps, reversed, w, bias, turned, turned_bias))
