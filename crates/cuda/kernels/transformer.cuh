// What the kernels of patch transformers share: products whose left operand lies in shared memory, normalisation, gates.
//
// Maps are pixels of 64 channels, of which `channels` count; what kernels write beyond those is zero. A warp's product covers
// 16 * M rows and one pair of 8-column tiles, so that a block of four warps covers 64 columns.
#pragma once
#include "mma.cuh"

constexpr int WIDTH = 64;         // channels of a pixel, with padding
constexpr int PITCH = WIDTH + 8;  // elements from row to row in shared memory: eight rows fall into different banks
constexpr int GATED = 128;        // channels between the gate and the projection after it, with padding
constexpr int GATED_PITCH = GATED + 8;

struct Map {
  int n, height, width, channels;
  int layer_norm; // else a hyperbolic tangent
  float epsilon;
};

// What the layer after this one makes of each pixel alone, or null.
struct FirstProducts {
  const uint4 *weights[2];
  const float *bias[2];
  void *to[2];
};

__device__ inline void load_transposed(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address));
}

// Within 2e-7 of the function.
__device__ inline float quick_tanh(float x) { return 1.0f - __fdividef(2.0f, __expf(2.0f * x) + 1.0f); }

// x / 2 * (1 + erf(x / sqrt 2)), erf within 2e-7 by Abramowitz and Stegun 7.1.26.
__device__ inline float quick_gelu(float x) {
  const float u = fabsf(x) * 0.70710678f, t = __fdividef(1.0f, 1.0f + 0.3275911f * u);
  const float series =
      t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float erf = 1.0f - series * __expf(-u * u);
  return 0.5f * x * (1.0f + copysignf(erf, x));
}

// The row and the column that lane l addresses for an operand: of rows as they lie, of rows that are to become columns, and of a
// right operand in either case.
__device__ inline uint32_t left_at(int lane, int pitch) { return 2 * (lane % 16 * pitch + lane / 16 * 8); }
__device__ inline uint32_t left_turned_at(int lane, int pitch) {
  return 2 * ((lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
}
__device__ inline uint32_t right_turned_at(int lane, int pitch) {
  return 2 * ((lane / 8 % 2 * 8 + lane % 8) * pitch + lane / 16 * 8);
}
__device__ inline uint32_t right_at(int lane, int pitch) {
  return 2 * ((lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
}

// sum += rows of `left` (a lane's address as above) times a pair of tiles of `right` (the lane's of the first slice), 16 * K
// deep. `pitch` is in bytes.
template <class T, int M, int K, bool TURNED = false>
__device__ void product(float (&sum)[M][2][4], uint32_t left, int pitch, const uint4 *right, int pairs) {
#pragma unroll
  for (int k = 0; k < K; k++) {
    const uint4 v = __ldg(right + k * pairs * 32);
#pragma unroll
    for (int m = 0; m < M; m++) {
      uint32_t a[4];
      if (TURNED) load_transposed(a, left + k * 16 * pitch + m * 32);
      else load_matrices(a, left + m * 16 * pitch + k * 32);
      mma(T(), sum[m][0], a, v.x, v.y);
      mma(T(), sum[m][1], a, v.z, v.w);
    }
  }
}

// Sets, or raises, a pair of tiles by the bias of `count` channels; the first column is `column`.
template <int M, bool ADD = false>
__device__ void put_bias(float (&sum)[M][2][4], const float *bias, int column, int count) {
#pragma unroll
  for (int j = 0; j < 2; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int o = column + j * 8 + 2 * (threadIdx.x % 4) + e;
      const float b = o < count ? __ldg(bias + o) : 0.0f;
#pragma unroll
      for (int m = 0; m < M; m++) {
        sum[m][j][e] = ADD ? sum[m][j][e] + b : b;
        sum[m][j][2 + e] = ADD ? sum[m][j][2 + e] + b : b;
      }
    }
}

// Calls f(row, tile, first of two values) for a warp's product.
template <int M, class F> __device__ void for_pairs(float (&sum)[M][2][4], F f) {
  const int row = threadIdx.x % 32 / 4;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < 2; j++) f(m * 16 + half * 8 + row, j, sum[m][j][2 * half], sum[m][j][2 * half + 1]);
}

template <class T> __device__ uint32_t &word(T *at) { return *reinterpret_cast<uint32_t *>(at); }
template <class T> __device__ uint32_t word(const T *at) { return *reinterpret_cast<const uint32_t *>(at); }

// Normalises eight channels from `8 * part` on, of a pixel whose eight parts eight adjacent lanes hold.
__device__ inline void normalise(const Map &g, int part, float (&v)[8]) {
  if (!g.layer_norm) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = quick_tanh(v[i]);
    return;
  }
  float sum = 0.0f, squares = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += part * 8 + i < g.channels ? v[i] : 0.0f;
  for (int step = 1; step < 8; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  const float mean = sum / g.channels;
#pragma unroll
  for (int i = 0; i < 8; i++) squares += part * 8 + i < g.channels ? (v[i] - mean) * (v[i] - mean) : 0.0f;
  for (int step = 1; step < 8; step *= 2) squares += __shfl_xor_sync(0xffffffffu, squares, step);
  const float scale = rsqrtf(squares / g.channels + g.epsilon);
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = part * 8 + i < g.channels ? (v[i] - mean) * scale : 0.0f;
}

template <class T> __device__ void unpack8(float (&v)[8], const uint4 &from) {
  const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 u = unpack2(T(), words[i]);
    v[2 * i] = u.x;
    v[2 * i + 1] = u.y;
  }
}
template <class T> __device__ uint4 pack8(const float (&v)[8]) {
  return make_uint4(pack2(T(), v[0], v[1]), pack2(T(), v[2], v[3]), pack2(T(), v[4], v[5]), pack2(T(), v[6], v[7]));
}

// The 64 pixels that four warps hold, 16 channels each, normalised into `tile` of 64 rows. Ends in a barrier.
template <class T> __device__ void put_normalised(const Map &g, float (&state)[4][2][4], T *tile) {
  const int column = threadIdx.x / 32 * 16 + 2 * (threadIdx.x % 4);
  for_pairs<4>(state, [&](int row, int j, float a, float b) {
    if (!g.layer_norm) a = quick_tanh(a), b = quick_tanh(b);
    word(tile + row * PITCH + column + j * 8) = pack2(T(), a, b);
  });
  __syncthreads();
  if (!g.layer_norm) return;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int at = threadIdx.x + i * 128;
    uint4 *to = reinterpret_cast<uint4 *>(tile + at / 8 * PITCH + at % 8 * 8);
    float v[8];
    unpack8<T>(v, *to);
    normalise(g, at % 8, v);
    *to = pack8<T>(v);
  }
  __syncthreads();
}

// Element of the first channel of pixel p of the block's 8 x 8 pixels.
__device__ inline int64_t pixel_at(const Map &g, int p) {
  const int64_t row = int64_t(blockIdx.z) * g.height + blockIdx.y * 8 + p / 8;
  return (row * g.width + blockIdx.x * 8 + p % 8) * WIDTH;
}

// Stores the block's 8 x 8 pixels, and what the next layer makes of each alone. `tile` holds 64 rows; nobody else uses it.
template <class T>
__device__ void finish(const Map &g, float (&state)[4][2][4], T *y, const FirstProducts &next, T *tile) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = warp * 16 + 2 * (lane % 4);
  for_pairs<4>(state, [&](int row, int j, float a, float b) { word(y + pixel_at(g, row) + column + j * 8) = pack2(T(), a, b); });
  if (!next.weights[0]) return;
  put_normalised(g, state, tile);
#pragma unroll 1
  for (int part = 0; part < 2; part++) {
    float sum[4][2][4];
    put_bias<4>(sum, next.bias[part], warp * 16, g.channels);
    product<T, 4, 4>(sum, shared_address(tile) + left_at(lane, PITCH), PITCH * 2, next.weights[part] + warp * 32 + lane, 4);
    T *to = static_cast<T *>(next.to[part]);
    for_pairs<4>(sum, [&](int row, int j, float a, float b) { word(to + pixel_at(g, row) + column + j * 8) = pack2(T(), a, b); });
  }
}

// Reads the block's 8 x 8 pixels, 16 channels a warp.
template <class T> __device__ void load_state(const Map &g, float (&state)[4][2][4], const T *x) {
  const int column = threadIdx.x / 32 * 16 + 2 * (threadIdx.x % 4);
  for_pairs<4>(state, [&](int row, int j, float &a, float &b) {
    const float2 v = unpack2(T(), word(x + pixel_at(g, row) + column + j * 8));
    a = column + j * 8 < g.channels ? v.x : 0.0f;
    b = column + j * 8 + 1 < g.channels ? v.y : 0.0f;
  });
}
