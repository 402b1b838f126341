// Normalisation of rows: softmax, L2, layer norm. One warp a row.
//
// | argument | shape |
// |---|---|
// | x, y | `rows` rows of `len` elements, `x_stride` and `y_stride` apart |
// | weight, bias | `len` |
#include "common.cuh"

struct Rows {
  int64_t rows;
  int64_t len;
  int64_t x_stride;
  int64_t y_stride;
};

// Kinds: 0 softmax, 1 L2 with the least norm epsilon, 2 layer norm.
template <class T>
__device__ void normalize(int kind, float epsilon, const Rows &r, const T *x, const T *weight, const T *bias, T *y) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = int64_t(gridDim.x) * (blockDim.x / 32);
  for (int64_t row = blockIdx.x * int64_t(blockDim.x / 32) + threadIdx.x / 32; row < r.rows; row += warps) {
    const T *from = x + row * r.x_stride;
    T *to = y + row * r.y_stride;
    if (kind == 0) {
      float most = -INFINITY, sum = 0.0f;
      for (int64_t i = lane; i < r.len; i += 32) most = fmaxf(most, up(from[i]));
      most = warp_max(most);
      for (int64_t i = lane; i < r.len; i += 32) sum += expf(up(from[i]) - most);
      sum = 1.0f / warp_sum(sum);
      for (int64_t i = lane; i < r.len; i += 32) to[i] = down<T>(expf(up(from[i]) - most) * sum);
    } else if (kind == 1) {
      float sum = 0.0f;
      for (int64_t i = lane; i < r.len; i += 32) sum += up(from[i]) * up(from[i]);
      float factor = 1.0f / fmaxf(sqrtf(warp_sum(sum)), epsilon);
      for (int64_t i = lane; i < r.len; i += 32) to[i] = down<T>(up(from[i]) * factor);
    } else {
      float sum = 0.0f, square = 0.0f;
      for (int64_t i = lane; i < r.len; i += 32) sum += up(from[i]);
      const float mean = warp_sum(sum) / float(r.len);
      for (int64_t i = lane; i < r.len; i += 32) {
        float d = up(from[i]) - mean;
        square += d * d;
      }
      const float factor = rsqrtf(warp_sum(square) / float(r.len) + epsilon);
      for (int64_t i = lane; i < r.len; i += 32)
        to[i] = down<T>((up(from[i]) - mean) * factor * up(weight[i]) + up(bias[i]));
    }
  }
}

#define NORMALIZE(T) (int kind, float epsilon, Rows r, const T *x, const T *weight, const T *bias, T *y)
FOR_FLOATS(normalize, NORMALIZE, normalize<T>(kind, epsilon, r, x, weight, bias, y))
