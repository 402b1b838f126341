// Gradients of a convolution's weights and bias, and what makes the gradient of its input a convolution again.
//
//   dw[o][c][ky][kx] = sum over pixels q of x[q * s + k * d - p][c] * g[q][o],   db[o] = sum of g[q][o]
//
// | argument | shape |
// |---|---|
// | x | the input, `n` pictures of `height` x `width` pixels, `x_stride` elements apart |
// | g | gradient of the output, `n` pictures of `out_height` x `out_width` pixels, `g_stride` elements apart |
// | parts | `[part][tap][rows][columns]` f32: sums of a part of the pixels; rows are channels in, columns channels out, padded |
// | bias_parts | `[part][columns]` f32; may be null |
//
// Pixels are split into parts by shapes alone, and `sum_parts` adds the parts up in their order: no atomics, and the same
// bits in every run. Four ways to compute the parts:
//
// * `weight_tile` (f16, bf16): 3x3, stride 1, padding 1, at most 64 channels in and out. A block goes through tiles of 8 x 32
//   pixels in shared memory; a warp has one tap and keeps all its sums in registers. Tensor cores read both operands
//   transposed by ldmatrix: pixels are the inner dimension of the product.
// * `weight_gather` (f16, bf16): any dense convolution; a block has 64 channels in of one tap and 64 channels out.
// * `weight_gather_f32`: the same without tensor cores.
// * `weight_grouped` (any type): groups; those depthwise convolutions that depthwise_conv.cu does not take.
#include "mma.cuh"

struct Shape {
  int n, height, width; // input
  int out_height, out_width;
  int in_channels, out_channels;
  int kernel[2], stride[2], padding[2], dilation[2];
  int groups;
  int64_t x_stride, g_stride; // elements from pixel to pixel
};

// Four 8x8 matrices of 16-bit elements, transposed; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_transposed(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address));
}

// ------------------------------------------------------------------------------------------------------------------ tiles

constexpr int TILE_H = 8, TILE_W = 32, TAPS = 9, TILE_THREADS = TAPS * 32;

// CHUNKS chunks of 16 channels in, NT tiles of 8 channels out. Block b takes tiles b * per_block to + per_block - 1 of `tiles`.
template <class T, int CHUNKS, int NT>
__device__ void weight_tile(const Shape &p, int tiles, int per_block, const T *x, const T *g, float *parts,
                            float *bias_parts) {
  extern __shared__ uint4 memory[];
  // Pixels lie an odd number of 16 bytes apart, so that eight rows of a matrix fall into different banks.
  constexpr int X_PITCH = CHUNKS * 16 + 8, G_PITCH = NT * 8 + 8, X_WIDTH = TILE_W + 2, X_PIXELS = (TILE_H + 2) * X_WIDTH;
  constexpr int PAIRS = NT * 4, LANES = TILE_THREADS / PAIRS; // of the bias: pairs of channels, and threads that share one
  T *xs = reinterpret_cast<T *>(memory), *gs = xs + X_PIXELS * X_PITCH;
  const int lane = threadIdx.x % 32, tap = threadIdx.x / 32, ky = tap / 3, kx = tap % 3;
  const int across = (p.width + TILE_W - 1) / TILE_W, down_ = (p.height + TILE_H - 1) / TILE_H;
  const uint32_t x_base =
      shared_address(xs + (ky * X_WIDTH + kx + lane / 16 * 8 + lane % 8) * X_PITCH + lane / 8 % 2 * 8);
  const uint32_t g_base = shared_address(gs + (lane / 8 % 2 * 8 + lane % 8) * G_PITCH + lane / 16 * 8);
  float sum[CHUNKS][NT][4] = {};
  float2 column = {0.0f, 0.0f};
  const int first = blockIdx.x * per_block, last = min(first + per_block, tiles);
  for (int t = first; t < last; t++) {
    const int x0 = t % across * TILE_W, y0 = t / across % down_ * TILE_H, n = t / across / down_;
    __syncthreads();
    for (int i = threadIdx.x; i < X_PIXELS * CHUNKS * 2; i += TILE_THREADS) {
      const int part = i % (CHUNKS * 2), pixel = i / (CHUNKS * 2);
      const int iy = y0 + pixel / X_WIDTH - 1, ix = x0 + pixel % X_WIDTH - 1;
      const bool inside = iy >= 0 && iy < p.height && ix >= 0 && ix < p.width;
      const int bytes = inside ? 2 * min(max(p.in_channels - part * 8, 0), 8) : 0;
      const T *from = bytes ? x + ((int64_t(n) * p.height + iy) * p.width + ix) * p.x_stride + part * 8 : x;
      copy_async(shared_address(xs + pixel * X_PITCH + part * 8), from, bytes);
    }
    for (int i = threadIdx.x; i < TILE_H * TILE_W * NT; i += TILE_THREADS) {
      const int part = i % NT, pixel = i / NT, iy = y0 + pixel / TILE_W, ix = x0 + pixel % TILE_W;
      const int bytes = iy < p.height && ix < p.width ? 2 * min(max(p.out_channels - part * 8, 0), 8) : 0;
      const T *from = bytes ? g + ((int64_t(n) * p.height + iy) * p.width + ix) * p.g_stride + part * 8 : g;
      copy_async(shared_address(gs + pixel * G_PITCH + part * 8), from, bytes);
    }
    commit();
    wait_for<0>();
    __syncthreads();
    if (bias_parts && threadIdx.x < PAIRS * LANES) {
      const T *from = gs + threadIdx.x % PAIRS * 2;
      for (int pixel = threadIdx.x / PAIRS; pixel < TILE_H * TILE_W; pixel += LANES) {
        const float2 v = unpack2(T(), *reinterpret_cast<const uint32_t *>(from + pixel * G_PITCH));
        column.x += v.x;
        column.y += v.y;
      }
    }
#pragma unroll 1
    for (int step = 0; step < TILE_H * TILE_W / 16; step++) {
      const uint32_t from_x = x_base + (step / 2 * X_WIDTH + step % 2 * 16) * X_PITCH * 2;
      const uint32_t from_g = g_base + step * 16 * G_PITCH * 2;
      uint32_t b[NT / 2][4];
#pragma unroll
      for (int j = 0; j < NT / 2; j++) load_transposed(b[j], from_g + j * 32);
#pragma unroll
      for (int c = 0; c < CHUNKS; c++) {
        uint32_t a[4];
        load_transposed(a, from_x + c * 32);
#pragma unroll
        for (int j = 0; j < NT / 2; j++) {
          mma(T(), sum[c][2 * j], a, b[j][0], b[j][1]);
          mma(T(), sum[c][2 * j + 1], a, b[j][2], b[j][3]);
        }
      }
    }
  }
  float *to = parts + (int64_t(blockIdx.x) * TAPS + tap) * (CHUNKS * 16) * (NT * 8);
#pragma unroll
  for (int c = 0; c < CHUNKS; c++)
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        *reinterpret_cast<float2 *>(to + (c * 16 + half * 8 + lane / 4) * (NT * 8) + j * 8 + 2 * (lane % 4)) =
            make_float2(sum[c][j][2 * half], sum[c][j][2 * half + 1]);
  if (!bias_parts) return;
  __syncthreads();
  float2 *columns = reinterpret_cast<float2 *>(memory);
  columns[threadIdx.x] = column;
  __syncthreads();
  if (threadIdx.x >= PAIRS) return;
  for (int i = 1; i < LANES; i++) {
    column.x += columns[i * PAIRS + threadIdx.x].x;
    column.y += columns[i * PAIRS + threadIdx.x].y;
  }
  *reinterpret_cast<float2 *>(bias_parts + int64_t(blockIdx.x) * (NT * 8) + 2 * threadIdx.x) = column;
}

#define WEIGHT_TILE(T, CHUNKS, NT)                                                                                    \
  extern "C" __global__ void __launch_bounds__(TILE_THREADS, CHUNKS * NT <= 18 ? 2 : 1)                               \
      weight_tile_##CHUNKS##_##NT##_##T(Shape p, int tiles, int per_block, const T *x, const T *g, float *parts,      \
                                        float *bias_parts) {                                                          \
    weight_tile<T, CHUNKS, NT>(p, tiles, per_block, x, g, parts, bias_parts);                                         \
  }
#define WEIGHT_TILES(T)                                                                                               \
  WEIGHT_TILE(T, 1, 2)                                                                                                \
  WEIGHT_TILE(T, 1, 6)                                                                                                \
  WEIGHT_TILE(T, 1, 8)                                                                                                \
  WEIGHT_TILE(T, 3, 2)                                                                                                \
  WEIGHT_TILE(T, 3, 6)                                                                                                \
  WEIGHT_TILE(T, 3, 8)                                                                                                \
  WEIGHT_TILE(T, 4, 2)                                                                                                \
  WEIGHT_TILE(T, 4, 6)                                                                                                \
  WEIGHT_TILE(T, 4, 8)
WEIGHT_TILES(f16)
WEIGHT_TILES(bf16)

// ----------------------------------------------------------------------------------------------------------------- gather

// The pixel of the input that tap (ky, kx) of output pixel `pixel` reads; -1 if it lies outside.
__device__ inline int64_t source(const Shape &p, int64_t pixel, int ky, int kx) {
  const int64_t row = pixel / p.out_width;
  const int ox = int(pixel - row * p.out_width), oy = int(row % p.out_height), n = int(row / p.out_height);
  const int iy = oy * p.stride[0] + ky * p.dilation[0] - p.padding[0];
  const int ix = ox * p.stride[1] + kx * p.dilation[1] - p.padding[1];
  if (iy < 0 || iy >= p.height || ix < 0 || ix >= p.width) return -1;
  return (int64_t(n) * p.height + iy) * p.width + ix;
}

// Rows and columns of the parts.
__device__ inline int padded(int channels) { return (channels + 15) / 16 * 16; }

// 64 channels in x 64 channels out a block, 32 pixels a stage. blockIdx: tap and channels in, channels out, part.
constexpr int SIDE = 64, DEPTH = 32, STAGES = 3, PITCH = 72;

template <class T>
__device__ void weight_gather(const Shape &p, int64_t per_part, const T *x, const T *g, float *parts, float *bias_parts) {
  __shared__ __align__(16) T left[STAGES][DEPTH * PITCH], right[STAGES][DEPTH * PITCH];
  const int blocks_in = (p.in_channels + SIDE - 1) / SIDE, rows = padded(p.in_channels), columns = padded(p.out_channels);
  const int tap = blockIdx.x / blocks_in, c0 = blockIdx.x % blocks_in * SIDE, o0 = blockIdx.y * SIDE;
  const int ky = tap / p.kernel[1], kx = tap % p.kernel[1];
  const int64_t pixels = int64_t(p.n) * p.out_height * p.out_width;
  const int64_t first = blockIdx.z * per_part, last = min(first + per_part, pixels);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, mine = threadIdx.x / 8, part = threadIdx.x % 8;
  const int x_bytes = 2 * min(max(p.in_channels - c0 - part * 8, 0), 8);
  const int g_bytes = 2 * min(max(p.out_channels - o0 - part * 8, 0), 8);

  auto load = [&](int stage, int64_t start) {
    const int64_t pixel = start + mine;
    const bool exists = pixel < last;
    const int64_t from = exists ? source(p, pixel, ky, kx) : -1;
    const bool wants_x = from >= 0 && x_bytes > 0, wants_g = exists && g_bytes > 0;
    copy_async(shared_address(&left[stage][mine * PITCH + part * 8]), wants_x ? x + from * p.x_stride + c0 + part * 8 : x,
               wants_x ? x_bytes : 0);
    copy_async(shared_address(&right[stage][mine * PITCH + part * 8]),
               wants_g ? g + pixel * p.g_stride + o0 + part * 8 : g, wants_g ? g_bytes : 0);
  };

  // Warp w has channels in 16 * (w % 4) to + 15 and channels out 32 * (w / 4) to + 31.
  float sum[4][4] = {};
  float2 column = {0.0f, 0.0f};
  const bool has_bias = bias_parts && blockIdx.x == 0;
  const int rows_left = rows - c0 - warp % 4 * 16, columns_left = columns - o0 - warp / 4 * 32;
  const bool works = rows_left > 0 && columns_left > 0;
  const int steps = last > first ? int((last - first + DEPTH - 1) / DEPTH) : 0;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) load(s, first + int64_t(s) * DEPTH);
    commit();
  }
  for (int step = 0; step < steps; step++) {
    wait_for<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) load((step + STAGES - 1) % STAGES, first + int64_t(step + STAGES - 1) * DEPTH);
    commit();
    const T *xs = left[step % STAGES], *gs = right[step % STAGES];
    if (has_bias) {
#pragma unroll
      for (int i = 0; i < DEPTH / 8; i++) {
        const float2 v = unpack2(T(), *reinterpret_cast<const uint32_t *>(gs + (warp + i * 8) * PITCH + lane * 2));
        column.x += v.x;
        column.y += v.y;
      }
    }
    if (!works) continue;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
      uint32_t a[4];
      load_transposed(a, shared_address(xs + (k * 16 + lane / 16 * 8 + lane % 8) * PITCH + warp % 4 * 16 + lane / 8 % 2 * 8));
#pragma unroll
      for (int j = 0; j < 2; j++) {
        uint32_t b[4];
        load_transposed(b, shared_address(gs + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * PITCH + warp / 4 * 32 + j * 16 +
                                          lane / 16 * 8));
        mma(T(), sum[2 * j], a, b[0], b[1]);
        mma(T(), sum[2 * j + 1], a, b[2], b[3]);
      }
    }
  }
  const int taps = p.kernel[0] * p.kernel[1];
  float *to = parts + ((int64_t(blockIdx.z) * taps + tap) * rows + c0 + warp % 4 * 16) * columns + o0 + warp / 4 * 32;
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (works && j * 8 < columns_left)
        *reinterpret_cast<float2 *>(to + int64_t(half * 8 + lane / 4) * columns + j * 8 + 2 * (lane % 4)) =
          make_float2(sum[j][2 * half], sum[j][2 * half + 1]);
  if (!has_bias) return;
  wait_for<0>();
  __syncthreads();
  float2 *sums = reinterpret_cast<float2 *>(left[0]);
  sums[threadIdx.x] = column;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  for (int i = 1; i < 8; i++) {
    column.x += sums[i * 32 + threadIdx.x].x;
    column.y += sums[i * 32 + threadIdx.x].y;
  }
  if (o0 + 2 * threadIdx.x < columns)
    *reinterpret_cast<float2 *>(bias_parts + int64_t(blockIdx.z) * columns + o0 + 2 * threadIdx.x) = column;
}

extern "C" __global__ void __launch_bounds__(256) weight_gather_f16(Shape p, int64_t per_part, const f16 *x, const f16 *g,
                                                                   float *parts, float *bias_parts) {
  weight_gather(p, per_part, x, g, parts, bias_parts);
}
extern "C" __global__ void __launch_bounds__(256) weight_gather_bf16(Shape p, int64_t per_part, const bf16 *x,
                                                                    const bf16 *g, float *parts, float *bias_parts) {
  weight_gather(p, per_part, x, g, parts, bias_parts);
}

// As above, 16 pixels a step, 4 x 4 sums a thread.
extern "C" __global__ void __launch_bounds__(256) weight_gather_f32(Shape p, int64_t per_part, const float *x,
                                                                   const float *g, float *parts, float *bias_parts) {
  constexpr int STEP = 16;
  __shared__ __align__(16) float left[STEP][SIDE], right[STEP][SIDE];
  __shared__ int64_t from[STEP];
  const int blocks_in = (p.in_channels + SIDE - 1) / SIDE, rows = padded(p.in_channels), columns = padded(p.out_channels);
  const int tap = blockIdx.x / blocks_in, c0 = blockIdx.x % blocks_in * SIDE, o0 = blockIdx.y * SIDE;
  const int ky = tap / p.kernel[1], kx = tap % p.kernel[1], t = threadIdx.x;
  const int64_t pixels = int64_t(p.n) * p.out_height * p.out_width;
  const int64_t first = blockIdx.z * per_part, last = min(first + per_part, pixels);
  const int pc = t / 16 * 4, po = t % 16 * 4;
  float sum[4][4] = {}, column = 0.0f;
  for (int64_t start = first; start < last; start += STEP) {
    __syncthreads();
    if (t < STEP) from[t] = start + t < last ? source(p, start + t, ky, kx) : -1;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < STEP * SIDE / 256; i++) {
      const int pixel = i * 4 + t / SIDE, c = t % SIDE;
      const int64_t at = from[pixel];
      left[pixel][c] = at >= 0 && c0 + c < p.in_channels ? x[at * p.x_stride + c0 + c] : 0.0f;
      right[pixel][c] =
          start + pixel < last && o0 + c < p.out_channels ? g[(start + pixel) * p.g_stride + o0 + c] : 0.0f;
    }
    __syncthreads();
    if (t < SIDE)
      for (int i = 0; i < STEP; i++) column += right[i][t];
#pragma unroll
    for (int i = 0; i < STEP; i++) {
      const float4 a = *reinterpret_cast<const float4 *>(&left[i][pc]), b = *reinterpret_cast<const float4 *>(&right[i][po]);
      const float u[4] = {a.x, a.y, a.z, a.w}, v[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int c = 0; c < 4; c++)
#pragma unroll
        for (int o = 0; o < 4; o++) sum[c][o] += u[c] * v[o];
    }
  }
  const int taps = p.kernel[0] * p.kernel[1];
  float *to = parts + ((int64_t(blockIdx.z) * taps + tap) * rows + c0 + pc) * columns + o0 + po;
#pragma unroll
  for (int c = 0; c < 4; c++)
    if (c0 + pc + c < rows && o0 + po < columns)
      *reinterpret_cast<float4 *>(to + int64_t(c) * columns) = make_float4(sum[c][0], sum[c][1], sum[c][2], sum[c][3]);
  if (bias_parts && blockIdx.x == 0 && t < SIDE && o0 + t < columns) bias_parts[int64_t(blockIdx.z) * columns + o0 + t] = column;
}

// ----------------------------------------------------------------------------------------------------------------- groups

// 32 channels out a block, eight threads each, and up to 8 taps of a row of the kernel at a time. blockIdx: channels out;
// channel in of the group, row of the kernel and eighth of it; part. Here a row of `parts` is a channel in of a group.
template <class T>
__device__ void weight_grouped(const Shape &p, int64_t per_part, const T *x, const T *g, float *parts, float *bias_parts) {
  constexpr int RUN = 8;
  __shared__ float sums[RUN + 1][256];
  const int inputs = p.in_channels / p.groups, outputs = p.out_channels / p.groups, columns = gridDim.x * 32;
  const int runs = (p.kernel[1] + RUN - 1) / RUN;
  const int kx0 = blockIdx.y % runs * RUN, ky = blockIdx.y / runs % p.kernel[0], c = blockIdx.y / runs / p.kernel[0];
  const int o = blockIdx.x * 32 + threadIdx.x % 32, width = min(p.kernel[1] - kx0, RUN);
  const int64_t pixels = int64_t(p.n) * p.out_height * p.out_width;
  const int64_t first = blockIdx.z * per_part, last = min(first + per_part, pixels);
  float sum[RUN] = {}, column = 0.0f;
  if (o < p.out_channels)
    for (int64_t pixel = first + threadIdx.x / 32; pixel < last; pixel += 8) {
      const float grad = up(g[pixel * p.g_stride + o]);
      column += grad;
      const int64_t row = pixel / p.out_width;
      const int ox = int(pixel - row * p.out_width), oy = int(row % p.out_height), n = int(row / p.out_height);
      const int iy = oy * p.stride[0] + ky * p.dilation[0] - p.padding[0];
      if (iy < 0 || iy >= p.height) continue;
      const T *line = x + (int64_t(n) * p.height + iy) * p.width * p.x_stride + o / outputs * inputs + c;
#pragma unroll
      for (int i = 0; i < RUN; i++) {
        const int ix = ox * p.stride[1] + (kx0 + i) * p.dilation[1] - p.padding[1];
        if (i < width && ix >= 0 && ix < p.width) sum[i] += grad * up(line[ix * p.x_stride]);
      }
    }
#pragma unroll
  for (int i = 0; i < RUN; i++) sums[i][threadIdx.x] = sum[i];
  sums[RUN][threadIdx.x] = column;
  __syncthreads();
  // Warp i adds up tap i, and the first the bias too.
  auto total = [&](int i) {
    float all = 0.0f;
    for (int k = 0; k < 8; k++) all += sums[i][k * 32 + threadIdx.x % 32];
    return all;
  };
  const int i = threadIdx.x / 32, taps = p.kernel[0] * p.kernel[1];
  if (i < width) {
    const int tap = ky * p.kernel[1] + kx0 + i;
    parts[((int64_t(blockIdx.z) * taps + tap) * inputs + c) * columns + o] = total(i);
  }
  if (bias_parts && blockIdx.y == 0 && i == 0) bias_parts[int64_t(blockIdx.z) * columns + o] = total(RUN);
}

#define GROUPED(T) (Shape p, int64_t per_part, const T *x, const T *g, float *parts, float *bias_parts)
FOR_FLOATS(weight_grouped, GROUPED, weight_grouped<T>(p, per_part, x, g, parts, bias_parts))

// ------------------------------------------------------------------------------------------------------------ second pass

// dw[o][c][tap] = sum of parts[part][tap][c][o], and db[o] = sum of bias_parts[part][o], 32 of them a block, SHARES
// threads each: so many that no thread waits for memory more than a few times.
constexpr int SHARES = 32;

template <class W, class B>
__device__ void sum_parts(int count, int taps, int in, int out, int rows, int columns, const float *parts,
                          const float *bias_parts, W *weight, B *bias) {
  __shared__ float sums[SHARES][32];
  const int blocks_out = (out + 31) / 32, lane = threadIdx.x % 32, share = threadIdx.x / 32;
  const int line = blockIdx.x / blocks_out, o = blockIdx.x % blocks_out * 32 + lane; // line taps * in is the bias
  const int tap = line / in, c = line % in;
  const bool is_bias = line == taps * in;
  const float *from = is_bias ? bias_parts + o : parts + (int64_t(tap) * rows + c) * columns + o;
  const int64_t step = is_bias ? columns : int64_t(taps) * rows * columns;
  float sum = 0.0f;
  if (o < out) {
#pragma unroll 8
    for (int i = share; i < count; i += SHARES) sum += from[i * step];
  }
  sums[share][lane] = sum;
  __syncthreads();
  if (share > 0 || o >= out) return;
#pragma unroll 8
  for (int i = 1; i < SHARES; i++) sum += sums[i][lane];
  if (is_bias) bias[o] = down<B>(sum);
  else weight[(int64_t(o) * in + c) * taps + tap] = down<W>(sum);
}

#define SUM_PARTS(NAME, W, B)                                                                                         \
  extern "C" __global__ void __launch_bounds__(SHARES * 32)                                                           \
      sum_parts_##NAME(int count, int taps, int in, int out, int rows, int columns, const float *parts,               \
                       const float *bias_parts, W *weight, B *bias) {                                                 \
    sum_parts(count, taps, in, out, rows, columns, parts, bias_parts, weight, bias);                                  \
  }
SUM_PARTS(f32, float, float)
SUM_PARTS(f16, f16, f16)
SUM_PARTS(bf16, bf16, bf16)

// ----------------------------------------------------------------------------------------------------------------- spread

// Pixels of g `step` apart with zeros between, moved by `skip`: y[i] = g[(i + skip) / step] where that is whole and inside. Sizes of
// both are in pixels, rows first; a thread has N adjacent channels, and strides are multiples of N.
template <class T, int N>
__device__ void spread(int n, int2 from_size, int2 to_size, int channels, int2 step, int2 skip, int64_t from_stride,
                       int64_t to_stride, const T *g, T *y) {
  const int per_pixel = (channels + N - 1) / N;
  const int64_t total = int64_t(n) * to_size.x * to_size.y * per_pixel;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t pixel = i / per_pixel, row = pixel / to_size.y;
    const int c = int(i - pixel * per_pixel) * N, x = int(pixel - row * to_size.y) + skip.y;
    const int line = int(row % to_size.x) + skip.x, image = int(row / to_size.x);
    const bool whole = line >= 0 && x >= 0 && line % step.x == 0 && x % step.y == 0 && line / step.x < from_size.x &&
                       x / step.y < from_size.y;
    Pack<T, N> v;
    if (whole) {
      const int64_t from = (int64_t(image) * from_size.x + line / step.x) * from_size.y + x / step.y;
      v = *reinterpret_cast<const Pack<T, N> *>(g + from * from_stride + c);
    } else {
#pragma unroll
      for (int k = 0; k < N; k++) v.v[k] = down<T>(0.0f);
    }
    *reinterpret_cast<Pack<T, N> *>(y + pixel * to_stride + c) = v;
  }
}

#define SPREAD(T)                                                                                                     \
  (int wide, int n, int2 from_size, int2 to_size, int channels, int2 step, int2 skip, int64_t from_stride,            \
   int64_t to_stride, const T *g, T *y)
FOR_FLOATS(spread, SPREAD,
           if (wide) spread<T, 4>(n, from_size, to_size, channels, step, skip, from_stride, to_stride, g, y);
           else spread<T, 1>(n, from_size, to_size, channels, step, skip, from_stride, to_stride, g, y))
