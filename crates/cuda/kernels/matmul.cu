// Products of batches of matrices, any floating-point type, sums in f32: c[i] = a[i] * b[i], row-major without gaps.
// A block computes 64 x 64 elements, 4 x 4 a thread. (Large ones are cuBLASLt's.)
#include "common.cuh"

template <class T> __device__ void matmul(int m, int k, int n, const T *a, const T *b, T *c) {
  constexpr int SIDE = 64, K = 16;
  __shared__ float left[K][SIDE + 4], right[K][SIDE];
  const int64_t batch = blockIdx.z;
  a += batch * m * k;
  b += batch * k * n;
  c += batch * m * n;
  const int row0 = blockIdx.x * SIDE, column0 = blockIdx.y * SIDE, t = threadIdx.x;
  const int py = t / 16 * 4, px = t % 16 * 4;
  float sum[4][4] = {};
  for (int k0 = 0; k0 < k; k0 += K) {
    __syncthreads();
    for (int i = t; i < K * SIDE; i += 256) {
      const int row = row0 + i / K, at = k0 + i % K;
      left[i % K][i / K] = row < m && at < k ? up(a[int64_t(row) * k + at]) : 0.0f;
      const int column = column0 + i % SIDE, line = k0 + i / SIDE;
      right[i / SIDE][i % SIDE] = column < n && line < k ? up(b[int64_t(line) * n + column]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < K; i++) {
      const float4 u = *reinterpret_cast<const float4 *>(&left[i][py]), v = *reinterpret_cast<const float4 *>(&right[i][px]);
      const float p[4] = {u.x, u.y, u.z, u.w}, q[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int y = 0; y < 4; y++)
#pragma unroll
        for (int x = 0; x < 4; x++) sum[y][x] += p[y] * q[x];
    }
  }
#pragma unroll
  for (int y = 0; y < 4; y++)
#pragma unroll
    for (int x = 0; x < 4; x++)
      if (row0 + py + y < m && column0 + px + x < n) c[int64_t(row0 + py + y) * n + column0 + px + x] = down<T>(sum[y][x]);
}

#define MATMUL(T) (int m, int k, int n, const T *a, const T *b, T *c)
FOR_FLOATS(matmul, MATMUL, matmul<T>(m, k, n, a, b, c))
