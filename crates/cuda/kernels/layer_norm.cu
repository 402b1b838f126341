// Layer norms over at most 64 channels, in f16 or bf16 with sums in f32: eight lanes a row, eight channels a lane.
//
//   y = (x - mean) * factor * weight + bias,  factor = 1 / sqrt(variance + epsilon)
//   dx = factor * (g * weight - mean(g * weight) - x^ * mean(g * weight * x^)),  x^ = (x - mean) * factor
//
// | argument | shape |
// |---|---|
// | x, y, g, out | rows of `len` elements, at multiples of 8 elements; y and out are written up to a multiple of 8 |
// | weight, bias | f32 [len] |
// | parts | f32 [block][2][len]: sums of g * x^ and of g over the block's rows |
#include "transformer.cuh"

struct Rows {
  int64_t rows, x_stride, g_stride, out_stride;
  int len;
  float epsilon;
};

__device__ inline float over_eight(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  v += __shfl_xor_sync(0xffffffffu, v, 2);
  return v + __shfl_xor_sync(0xffffffffu, v, 4);
}

// Eight elements of a row; zeros from `len` on, and if the row does not exist.
template <class T> __device__ void load_part(float (&v)[8], const T *row, int first, int len, bool exists) {
  uint4 from = make_uint4(0, 0, 0, 0);
  if (exists && first < len) from = *reinterpret_cast<const uint4 *>(row + first);
  unpack8<T>(v, from);
#pragma unroll
  for (int e = 0; e < 8; e++)
    if (first + e >= len) v[e] = 0.0f;
}

// Makes x of x - mean, zero from `len` on; gives the factor.
__device__ inline float centre(float (&x)[8], int first, int len, float epsilon) {
  float sum = 0.0f, square = 0.0f;
#pragma unroll
  for (int e = 0; e < 8; e++) sum += x[e];
  const float mean = over_eight(sum) / float(len);
#pragma unroll
  for (int e = 0; e < 8; e++) {
    x[e] = first + e < len ? x[e] - mean : 0.0f;
    square += x[e] * x[e];
  }
  return rsqrtf(over_eight(square) / float(len) + epsilon);
}

template <class T> __device__ void layer_norm(const Rows &r, const T *x, const float *weight, const float *bias, T *y) {
  const int first = threadIdx.x % 8 * 8;
  float w[8], b[8];
#pragma unroll
  for (int e = 0; e < 8; e++) {
    w[e] = first + e < r.len ? weight[first + e] : 0.0f;
    b[e] = first + e < r.len ? bias[first + e] : 0.0f;
  }
  // All lanes of a warp stay together.
  const int64_t step = int64_t(gridDim.x) * (blockDim.x / 8), end = (r.rows + 3) / 4 * 4;
  for (int64_t row = blockIdx.x * int64_t(blockDim.x / 8) + threadIdx.x / 8; row < end; row += step) {
    float v[8];
    load_part(v, x + row * r.x_stride, first, r.len, row < r.rows);
    const float factor = centre(v, first, r.len, r.epsilon);
#pragma unroll
    for (int e = 0; e < 8; e++) v[e] = v[e] * factor * w[e] + b[e];
    if (row < r.rows && first < r.len) *reinterpret_cast<uint4 *>(y + row * r.out_stride + first) = pack8<T>(v);
  }
}

template <class T>
__device__ void layer_norm_backward(const Rows &r, const T *g, const T *x, const float *weight, T *out, float *parts) {
  __shared__ float sums[8][2][64];
  const int first = threadIdx.x % 8 * 8;
  float w[8], of_weight[8] = {}, of_bias[8] = {};
#pragma unroll
  for (int e = 0; e < 8; e++) w[e] = first + e < r.len ? weight[first + e] : 0.0f;
  const int64_t step = int64_t(gridDim.x) * (blockDim.x / 8), end = (r.rows + 3) / 4 * 4;
  for (int64_t row = blockIdx.x * int64_t(blockDim.x / 8) + threadIdx.x / 8; row < end; row += step) {
    float v[8], grad[8], flat = 0.0f, along = 0.0f;
    load_part(v, x + row * r.x_stride, first, r.len, row < r.rows);
    load_part(grad, g + row * r.g_stride, first, r.len, row < r.rows);
    const float factor = centre(v, first, r.len, r.epsilon);
#pragma unroll
    for (int e = 0; e < 8; e++) {
      v[e] *= factor;
      of_weight[e] += grad[e] * v[e];
      of_bias[e] += grad[e];
      grad[e] *= w[e];
      flat += grad[e];
      along += grad[e] * v[e];
    }
    flat = over_eight(flat) / float(r.len);
    along = over_eight(along) / float(r.len);
#pragma unroll
    for (int e = 0; e < 8; e++) grad[e] = factor * (grad[e] - flat - v[e] * along);
    if (row < r.rows && first < r.len) *reinterpret_cast<uint4 *>(out + row * r.out_stride + first) = pack8<T>(grad);
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int e = 0; e < 8; e++) {
    for (int distance = 8; distance < 32; distance *= 2) {
      of_weight[e] += __shfl_xor_sync(0xffffffffu, of_weight[e], distance);
      of_bias[e] += __shfl_xor_sync(0xffffffffu, of_bias[e], distance);
    }
    if (lane < 8) {
      sums[warp][0][first + e] = of_weight[e];
      sums[warp][1][first + e] = of_bias[e];
    }
  }
  __syncthreads();
  const int which = threadIdx.x / 64, c = threadIdx.x % 64;
  if (which > 1 || c >= r.len) return;
  float total = 0.0f;
  for (int i = 0; i < 8; i++) total += sums[i][which][c];
  parts[(int64_t(blockIdx.x) * 2 + which) * r.len + c] = total;
}

#define LAYER_NORM(T)                                                                                                       \
  extern "C" __global__ void __launch_bounds__(256)                                                                        \
      layer_norm_64_##T(Rows r, const T *x, const float *weight, const float *bias, T *y) {                                \
    layer_norm(r, x, weight, bias, y);                                                                                     \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                                        \
      layer_norm_64_backward_##T(Rows r, const T *g, const T *x, const float *weight, T *out, float *parts) {              \
    layer_norm_backward(r, g, x, weight, out, parts);                                                                      \
  }
LAYER_NORM(f16)
LAYER_NORM(bf16)
