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
// place; other rows stay as they are.
template <class T>
__device__ void embedding_backward(int64_t rows, int64_t width, int64_t count, const T *g, const uint32_t *numbers, T *y) {
  const int64_t mine = blockIdx.x;
  const uint32_t number = numbers[mine];
  if (number >= rows) return;
  bool seen = false;
  for (int64_t i = threadIdx.x; i < mine; i += blockDim.x) seen |= numbers[i] == number;
  if (__syncthreads_or(seen)) return;
  for (int64_t c0 = 0; c0 < width; c0 += blockDim.x) {
    const int64_t c = c0 + threadIdx.x;
    if (c >= width) continue;
    float sum = 0.0f;
    for (int64_t i = mine; i < count; i++)
      if (numbers[i] == number) sum += up(g[i * width + c]);
    y[int64_t(number) * width + c] = down<T>(sum);
  }
}

#define EMBEDDING_BACKWARD(T) (int64_t rows, int64_t width, int64_t count, const T *g, const uint32_t *numbers, T *y)
FOR_FLOATS(embedding_backward, EMBEDDING_BACKWARD, embedding_backward<T>(rows, width, count, g, numbers, y))

constexpr uint32_t IGNORED = 0xffffffffu;

// losses[row] = -log softmax(logits)[target], 0 where the target is ignored, NaN where it is no class; grad = factor * (softmax - target). A block a row.
template <class T>
__device__ void cross_entropy(int64_t classes, int64_t stride, float factor, const T *logits, const uint32_t *targets,
                              float *losses, T *grad) {
  __shared__ float shared[8];
  const int64_t row = blockIdx.x;
  const uint32_t target = targets[row];
  const T *from = logits + row * stride;
  T *to = grad + row * classes;
  if (target >= classes) {
    if (threadIdx.x == 0) losses[row] = target == IGNORED ? 0.0f : NAN;
    for (int64_t i = threadIdx.x; i < classes; i += blockDim.x) to[i] = down<T>(0.0f);
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
  float most = -INFINITY, sum = 0.0f;
  for (int64_t i = threadIdx.x; i < classes; i += blockDim.x) most = fmaxf(most, up(from[i]));
  most = over_block(most, true);
  for (int64_t i = threadIdx.x; i < classes; i += blockDim.x) sum += expf(up(from[i]) - most);
  sum = over_block(sum, false);
  if (threadIdx.x == 0) losses[row] = logf(sum) - (up(from[target]) - most);
  const float inverse = 1.0f / sum;
  for (int64_t i = threadIdx.x; i < classes; i += blockDim.x)
    to[i] = down<T>(factor * (expf(up(from[i]) - most) * inverse - (i == target ? 1.0f : 0.0f)));
}

#define CROSS_ENTROPY(T)                                                                                              \
  (int64_t classes, int64_t stride, float factor, const T *logits, const uint32_t *targets, float *losses, T *grad)
FOR_FLOATS(cross_entropy, CROSS_ENTROPY, cross_entropy<T>(classes, stride, factor, logits, targets, losses, grad))
