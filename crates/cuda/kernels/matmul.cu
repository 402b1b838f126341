// Products of matrices of any floating-point type and alignment, sums in f32; arguments as in `gemm.cu`.
//
// A block of 256 threads makes 128 x 128 elements, 8 x 8 a thread, 8 of k at a time; or 64 x 64, 4 x 4 a thread, for few.
#include "gemm.cuh"

// `OWN` x `OWN` elements a thread, in squares of 4 x 4 that lie 64 apart.
template <class T, int OWN>
__device__ __forceinline__ void matmul(const Gemm &p, const T *a, const T *b, const T *bias, const T *residual, T *d) {
  constexpr int SIDE = 16 * OWN, K = 16, SQUARES = OWN / 4;
  __shared__ __align__(16) float left[K][SIDE + 4], right[K][SIDE + 4];
  const int64_t batch = blockIdx.z;
  a += batch * p.a_batch;
  b += batch * p.b_batch;
  const int row0 = blockIdx.x * SIDE, column0 = blockIdx.y * SIDE, t = threadIdx.x;
  const int py = t / 16 * 4, px = t % 16 * 4;
  float sum[OWN][OWN] = {};
  for (int k0 = 0; k0 < p.k; k0 += K) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < K * SIDE / 256; j++) {
      const int i = t + j * 256;
      // Adjacent threads read adjacent elements, whichever way a matrix lies.
      const int ay = p.a_turned ? i % SIDE : i / K, ak = p.a_turned ? i / SIDE : i % K;
      const int row = row0 + ay, at = k0 + ak;
      const bool a_inside = row < p.m && at < p.k;
      left[ak][ay] = a_inside ? up(a[p.a_turned ? at * p.a_row + row : row * p.a_row + at]) : 0.0f;
      const int bx = p.b_turned ? i / K : i % SIDE, bk = p.b_turned ? i % K : i / SIDE;
      const int column = column0 + bx, line = k0 + bk;
      const bool b_inside = column < p.n && line < p.k;
      right[bk][bx] = b_inside ? up(b[p.b_turned ? column * p.b_row + line : line * p.b_row + column]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < K; i++) {
      float u[OWN], v[OWN];
#pragma unroll
      for (int s = 0; s < SQUARES; s++) {
        const float4 x = *reinterpret_cast<const float4 *>(&left[i][py + s * 64]);
        const float4 y = *reinterpret_cast<const float4 *>(&right[i][px + s * 64]);
        u[4 * s] = x.x, u[4 * s + 1] = x.y, u[4 * s + 2] = x.z, u[4 * s + 3] = x.w;
        v[4 * s] = y.x, v[4 * s + 1] = y.y, v[4 * s + 2] = y.z, v[4 * s + 3] = y.w;
      }
#pragma unroll
      for (int y = 0; y < OWN; y++)
#pragma unroll
        for (int x = 0; x < OWN; x++) sum[y][x] += u[y] * v[x];
    }
  }
  d += batch * p.d_batch;
  if (residual) residual += batch * p.residual_batch;
#pragma unroll
  for (int y = 0; y < OWN; y++)
#pragma unroll
    for (int x = 0; x < OWN; x++) {
      const int row = row0 + py + y / 4 * 64 + y % 4, column = column0 + px + x / 4 * 64 + x % 4;
      if (row >= p.m || column >= p.n) continue;
      float value = leaky(p.slope, sum[y][x] + (bias ? up(bias[column]) : 0.0f));
      if (residual) value += up(residual[row * p.residual_row + column]);
      d[row * p.d_row + column] = down<T>(value);
    }
}

#define MATMUL(T) (Gemm p, const T *a, const T *b, const T *bias, const T *residual, T *d)
FOR_FLOATS(matmul, MATMUL, matmul<T, 4>(p, a, b, bias, residual, d))
extern "C" __global__ void __launch_bounds__(256, 2) matmul_large_f32 MATMUL(float) {
  matmul<float, 8>(p, a, b, bias, residual, d);
}
