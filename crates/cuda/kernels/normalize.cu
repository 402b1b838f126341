// Normalisation of rows: softmax, L2, layer norm, RMS norm.
//
// | argument | shape |
// |---|---|
// | x, y | `rows` rows of `len` elements, `x_stride` and `y_stride` apart |
// | weight, bias | `len` |
// | add, sum | as x: if there, `add` is added to x first, and the sum stored; layer norm and RMS norm only |
//
// Bound by memory: a row is read once, 16 bytes a thread and access, and kept in registers, by a warp or by a block of eight. Rows
// that are too long or not aligned are read three times, by a warp each.
#include "common.cuh"

struct Rows {
  int64_t rows;
  int64_t len;
  int64_t x_stride;
  int64_t y_stride;
};

// Numbers as in `normalize.rs`.
enum { SOFTMAX = 0, L2 = 1, LAYER = 2, RMS = 3 };

// Sum, or the largest, over the threads of a row; all of them get it.
template <int WARPS> __device__ __forceinline__ float over_row(float x, bool largest) {
  x = largest ? warp_max(x) : warp_sum(x);
  if (WARPS == 1) return x;
  __shared__ float shared[WARPS];
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = shared[0];
#pragma unroll
  for (int i = 1; i < WARPS; i++) x = largest ? fmaxf(x, shared[i]) : x + shared[i];
  return x;
}

// PACKS pieces of 16 bytes a thread; WARPS is 1 for a warp a row, or all eight of a block.
template <class T, int WARPS, int PACKS>
__device__ __forceinline__ void normalize_once(int kind, float epsilon, const Rows &r, const T *x, const T *weight, const T *bias,
                                               T *y, const T *add, T *sum) {
  constexpr int N = 16 / sizeof(T), LANES = WARPS * 32;
  using P = Pack<T, N>;
  const int lane = threadIdx.x % LANES, packs = int(r.len / N);
  const int64_t step = int64_t(gridDim.x) * (256 / LANES);
  const float share = 1.0f / float(r.len);
  for (int64_t row = blockIdx.x * int64_t(256 / LANES) + threadIdx.x / LANES; row < r.rows; row += step) {
    P v[PACKS];
#pragma unroll
    for (int i = 0; i < PACKS; i++)
      if (lane + i * LANES < packs) v[i] = *reinterpret_cast<const P *>(x + row * r.x_stride + (lane + i * LANES) * N);
    if (add) {
#pragma unroll
      for (int i = 0; i < PACKS; i++)
        if (lane + i * LANES < packs) {
          const P u = *reinterpret_cast<const P *>(add + row * r.x_stride + (lane + i * LANES) * N);
#pragma unroll
          for (int k = 0; k < N; k++) v[i].v[k] = down<T>(up(v[i].v[k]) + up(u.v[k]));
          *reinterpret_cast<P *>(sum + row * r.x_stride + (lane + i * LANES) * N) = v[i];
        }
    }
    auto each = [&](auto f) {
#pragma unroll
      for (int i = 0; i < PACKS; i++)
        if (lane + i * LANES < packs) {
#pragma unroll
          for (int k = 0; k < N; k++) f(up(v[i].v[k]));
        }
    };
    float shift = 0.0f, factor = 1.0f;
    if (kind == SOFTMAX) {
      float most = -INFINITY, total = 0.0f;
      each([&](float u) { most = fmaxf(most, u); });
      shift = over_row<WARPS>(most, true);
      each([&](float u) { total += exponent<T>(u - shift); });
      factor = 1.0f / over_row<WARPS>(total, false);
    } else {
      if (kind == LAYER) {
        float total = 0.0f;
        each([&](float u) { total += u; });
        shift = over_row<WARPS>(total, false) * share;
      }
      float square = 0.0f;
      each([&](float u) { square += (u - shift) * (u - shift); });
      square = over_row<WARPS>(square, false);
      factor = kind == L2 ? 1.0f / fmaxf(sqrtf(square), epsilon) : rsqrtf(square * share + epsilon);
    }
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
      const int at = lane + i * LANES;
      if (at >= packs) continue;
      P w, b, to;
      if (weight) w = *reinterpret_cast<const P *>(weight + at * N);
      if (bias) b = *reinterpret_cast<const P *>(bias + at * N);
#pragma unroll
      for (int k = 0; k < N; k++) {
        float u = up(v[i].v[k]) - shift;
        u = (kind == SOFTMAX ? exponent<T>(u) : u) * factor;
        if (weight) u *= up(w.v[k]);
        if (bias) u += up(b.v[k]);
        to.v[k] = down<T>(u);
      }
      *reinterpret_cast<P *>(y + row * r.y_stride + at * N) = to;
    }
  }
}

// Any rows: a warp a row.
template <class T>
__device__ void normalize(int kind, float epsilon, const Rows &r, const T *x, const T *weight, const T *bias, T *y, const T *add,
                          T *sum) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = int64_t(gridDim.x) * (blockDim.x / 32);
  for (int64_t row = blockIdx.x * int64_t(blockDim.x / 32) + threadIdx.x / 32; row < r.rows; row += warps) {
    const T *from = x + row * r.x_stride;
    T *to = y + row * r.y_stride;
    if (add) {
      for (int64_t i = lane; i < r.len; i += 32)
        sum[row * r.x_stride + i] = down<T>(up(from[i]) + up(add[row * r.x_stride + i]));
      from = sum + row * r.x_stride; // each lane reads what it wrote
    }
    float shift = 0.0f, factor = 1.0f, total = 0.0f;
    if (kind == SOFTMAX) {
      float most = -INFINITY;
      for (int64_t i = lane; i < r.len; i += 32) most = fmaxf(most, up(from[i]));
      shift = warp_max(most);
      for (int64_t i = lane; i < r.len; i += 32) total += exponent<T>(up(from[i]) - shift);
      factor = 1.0f / warp_sum(total);
    } else {
      if (kind == LAYER) {
        for (int64_t i = lane; i < r.len; i += 32) total += up(from[i]);
        shift = warp_sum(total) / float(r.len);
      }
      float square = 0.0f;
      for (int64_t i = lane; i < r.len; i += 32) {
        const float d = up(from[i]) - shift;
        square += d * d;
      }
      square = warp_sum(square);
      factor = kind == L2 ? 1.0f / fmaxf(sqrtf(square), epsilon) : rsqrtf(square / float(r.len) + epsilon);
    }
    for (int64_t i = lane; i < r.len; i += 32) {
      float u = up(from[i]) - shift;
      u = (kind == SOFTMAX ? exponent<T>(u) : u) * factor;
      if (weight) u *= up(weight[i]);
      if (bias) u += up(bias[i]);
      to[i] = down<T>(u);
    }
  }
}

#define NORMALIZE(T) \
  (int kind, float epsilon, Rows r, const T *x, const T *weight, const T *bias, T *y, const T *add, T *sum)
FOR_FLOATS(normalize, NORMALIZE, normalize<T>(kind, epsilon, r, x, weight, bias, y, add, sum))
#define ONCE(NAME, WARPS, PACKS) \
  FOR_FLOATS(normalize_##NAME, NORMALIZE, normalize_once<T, WARPS, PACKS>(kind, epsilon, r, x, weight, bias, y, add, sum))
ONCE(warp1, 1, 1)
ONCE(warp4, 1, 4)
ONCE(warp8, 1, 8)
ONCE(block2, 8, 2)
ONCE(block4, 8, 4)
ONCE(block8, 8, 8)
ONCE(block16, 8, 16)
