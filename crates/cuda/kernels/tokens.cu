// Rows of a table by number, and cross-entropy.
//
// | argument | shape |
// |---|---|
// | table | `rows` rows of `width`, without gaps |
// | numbers | `count` |
// | logits | `rows` rows of `classes`, `stride` apart |
// | targets | `rows`; `IGNORED` ones do not count |
#include "common.cuh"

// A number that is no row gives NaN.
template <class T>
__device__ void embedding(int64_t rows, int64_t width, int64_t count, const T *table, const uint32_t *numbers, T *y) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count * width; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t at = i / width, row = numbers[at];
    y[i] = row < rows ? table[row * width + (i - at * width)] : down<T>(NAN);
  }
}

#define EMBEDDING(T) (int64_t rows, int64_t width, int64_t count, const T *table, const uint32_t *numbers, T *y)
FOR_FLOATS(embedding, EMBEDDING, embedding<T>(rows, width, count, table, numbers, y))

// Row `numbers[i]` of y gets the sum of g over all places with that number, in their order, from the block of the first such
// place; other rows stay as they are. A block of 256 threads looks at as many numbers at a time, and then takes those rows.
template <class T>
__device__ void embedding_backward(int64_t rows, int64_t width, int64_t count, const T *g, const uint32_t *numbers, T *y) {
  constexpr int WIDE = 8; // columns a thread adds up at a time
  __shared__ int places[256], totals[8];
  const int64_t mine = blockIdx.x;
  const uint32_t number = numbers[mine];
  if (number >= rows) return;
  bool seen = false;
  for (int64_t i = threadIdx.x; i < mine; i += 256) seen |= numbers[i] == number;
  if (__syncthreads_or(seen)) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t c0 = 0; c0 < width; c0 += 256 * WIDE) {
    float sum[WIDE] = {};
    for (int64_t first = mine; first < count; first += 256) {
      const int64_t i = first + threadIdx.x;
      const bool same = i < count && numbers[i] == number;
      if (!__syncthreads_or(same)) continue;
      const uint32_t all = __ballot_sync(0xffffffffu, same);
      if (lane == 0) totals[warp] = __popc(all);
      __syncthreads();
      int at = __popc(all & ((1u << lane) - 1)), found = 0;
#pragma unroll
      for (int w = 0; w < 8; w++) {
        if (w < warp) at += totals[w];
        found += totals[w];
      }
      if (same) places[at] = threadIdx.x;
      __syncthreads();
      for (int k = 0; k < found; k++) {
        const T *from = g + (first + places[k]) * width + c0 + threadIdx.x;
#pragma unroll
        for (int j = 0; j < WIDE; j++)
          if (c0 + threadIdx.x + j * 256 < width) sum[j] += up(from[j * 256]);
      }
    }
#pragma unroll
    for (int j = 0; j < WIDE; j++)
      if (c0 + threadIdx.x + j * 256 < width) y[int64_t(number) * width + c0 + threadIdx.x + j * 256] = down<T>(sum[j]);
  }
}

#define EMBEDDING_BACKWARD(T) (int64_t rows, int64_t width, int64_t count, const T *g, const uint32_t *numbers, T *y)
FOR_FLOATS(embedding_backward, EMBEDDING_BACKWARD, embedding_backward<T>(rows, width, count, g, numbers, y))

constexpr uint32_t IGNORED = 0xffffffffu;

// losses[row] = -log softmax(logits)[target], 0 where the target is ignored, NaN where it is no class;
// grad = factor * (softmax - target). A block of 256 threads a row, which is read twice, N logits at a time.
template <class T, int N>
__device__ __forceinline__ void cross_entropy_by(int64_t classes, int64_t stride, float factor, const T *logits,
                                                 const uint32_t *targets, float *losses, T *grad) {
  using P = Pack<T, N>;
  __shared__ float shared[8];
  const int64_t row = blockIdx.x, packs = classes / N;
  const uint32_t target = targets[row];
  const P *from = reinterpret_cast<const P *>(logits + row * stride);
  P *to = reinterpret_cast<P *>(grad + row * classes);
  if (target >= classes) {
    if (threadIdx.x == 0) losses[row] = target == IGNORED ? 0.0f : NAN;
    P zeros;
#pragma unroll
    for (int k = 0; k < N; k++) zeros.v[k] = down<T>(0.0f);
    for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) to[i] = zeros;
    return;
  }
  auto over_block = [&](float x, bool largest) {
    x = largest ? warp_max(x) : warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared[0];
    for (int i = 1; i < 8; i++) x = largest ? fmaxf(x, shared[i]) : x + shared[i];
    return x;
  };
  // Exponents of a thread are of its own largest logit so far.
  float most = -INFINITY, sum = 0.0f;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    const P x = from[i];
    float now = most;
#pragma unroll
    for (int k = 0; k < N; k++) now = fmaxf(now, up(x.v[k]));
    if (now > most) {
      sum *= exponent<T>(most - now);
      most = now;
    }
    const float shift = most == -INFINITY ? 0.0f : most;
#pragma unroll
    for (int k = 0; k < N; k++) sum += exponent<T>(up(x.v[k]) - shift);
  }
  const float largest = over_block(most, true);
  sum = over_block(most == -INFINITY ? sum : sum * exponent<T>(most - largest), false);
  if (threadIdx.x == 0) losses[row] = logf(sum) - (up(logits[row * stride + target]) - largest);
  const float inverse = 1.0f / sum;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    const P x = from[i];
    P y;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float weight = exponent<T>(up(x.v[k]) - largest) * inverse;
      y.v[k] = down<T>(factor * (weight - (i * N + k == target ? 1.0f : 0.0f)));
    }
    to[i] = y;
  }
}

template <class T>
__device__ void cross_entropy(int64_t classes, int64_t stride, float factor, const T *logits, const uint32_t *targets,
                              float *losses, T *grad) {
  constexpr int N = 16 / sizeof(T);
  const bool whole = classes % N == 0 && stride % N == 0 && uintptr_t(logits) % 16 == 0 && uintptr_t(grad) % 16 == 0;
  if (whole) cross_entropy_by<T, N>(classes, stride, factor, logits, targets, losses, grad);
  else cross_entropy_by<T, 1>(classes, stride, factor, logits, targets, losses, grad);
}

#define CROSS_ENTROPY(T)                                                                                              \
  (int64_t classes, int64_t stride, float factor, const T *logits, const uint32_t *targets, float *losses, T *grad)
FOR_FLOATS(cross_entropy, CROSS_ENTROPY, cross_entropy<T>(classes, stride, factor, logits, targets, losses, grad))
