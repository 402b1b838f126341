// Sums, in two passes: parts in f32, by shapes alone, then the parts in their order. No atomics, the same bits in every run.
//
// | argument | shape |
// |---|---|
// | x | `rows` rows of `len` elements, `stride` apart |
// | parts | `[part][len]` f32 of columns, `[part]` of everything |
// | y | `len` (columns), `rows` (rows), 1 (everything) |
#include "common.cuh"

struct Matrix {
  int64_t rows;
  int64_t len;
  int64_t stride;
};

// 32 columns a block, eight rows at a time; blockIdx.y is the part, of `per_part` rows.
template <class T> __device__ void column_parts(const Matrix &m, int64_t per_part, const T *x, float *parts) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, share = threadIdx.x / 32;
  const int64_t column = int64_t(blockIdx.x) * 32 + lane;
  const int64_t first = blockIdx.y * per_part, last = min(first + per_part, m.rows);
  float sum = 0.0f;
  if (column < m.len)
    for (int64_t row = first + share; row < last; row += 8) sum += up(x[row * m.stride + column]);
  sums[share][lane] = sum;
  __syncthreads();
  if (share > 0 || column >= m.len) return;
  for (int i = 1; i < 8; i++) sum += sums[i][lane];
  parts[blockIdx.y * m.len + column] = sum;
}

#define COLUMN_PARTS(T) (Matrix m, int64_t per_part, const T *x, float *parts)
FOR_FLOATS(column_parts, COLUMN_PARTS, column_parts<T>(m, per_part, x, parts))

// The sum over a block of 256; thread 0 gets it.
__device__ inline float block_sum(float x) {
  __shared__ float sums[8];
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int i = 1; i < 8; i++) x += sums[i];
  return x;
}

template <class T> __device__ void sum_of_all(const Matrix &m, const T *x, float *parts) {
  const int64_t total = m.rows * m.len;
  float sum = 0.0f;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x)
    sum += up(x[m.stride == m.len ? i : i / m.len * m.stride + i % m.len]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

#define SUM_OF_ALL(T) (Matrix m, const T *x, float *parts)
FOR_FLOATS(sum_of_all, SUM_OF_ALL, sum_of_all<T>(m, x, parts))

// y[i] = factor * sum of parts[part][i], one warp an element.
template <class T> __device__ void finish_sums(int parts_count, int64_t len, float factor, const float *parts, T *y) {
  const int lane = threadIdx.x % 32;
  for (int64_t i = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / 32; i < len; i += int64_t(gridDim.x) * blockDim.x / 32) {
    float sum = 0.0f;
    for (int part = lane; part < parts_count; part += 32) sum += parts[part * len + i];
    sum = warp_sum(sum);
    if (lane == 0) y[i] = down<T>(factor * sum);
  }
}

#define FINISH(T) (int parts_count, int64_t len, float factor, const float *parts, T *y)
FOR_FLOATS(finish_sums, FINISH, finish_sums<T>(parts_count, len, factor, parts, y))

// y[row] = factor * sum of x[row], one warp a row.
template <class T> __device__ void row_sums(const Matrix &m, float factor, const T *x, T *y) {
  const int lane = threadIdx.x % 32;
  for (int64_t row = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / 32; row < m.rows; row += int64_t(gridDim.x) * blockDim.x / 32) {
    float sum = 0.0f;
    for (int64_t i = lane; i < m.len; i += 32) sum += up(x[row * m.stride + i]);
    sum = warp_sum(sum);
    if (lane == 0) y[row] = down<T>(factor * sum);
  }
}

#define ROW_SUMS(T) (Matrix m, float factor, const T *x, T *y)
FOR_FLOATS(row_sums, ROW_SUMS, row_sums<T>(m, factor, x, y))
