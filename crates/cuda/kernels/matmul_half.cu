// Products of batches of matrices in f16 and bf16 on tensor cores, sums in f32: c[i] = a[i] * b[i], row-major without gaps.
// A block computes 64 x 64 elements, a warp 32 x 32, 32 of the inner dimension at a time. Rows whose lengths are multiples of
// eight are loaded 16 bytes at a time (`wide_a`, `wide_b`), others element by element.
#include "mma.cuh"

constexpr int SIDE = 64, DEPTH = 32, A_PITCH = DEPTH + 8, B_PITCH = SIDE + 8;

__device__ inline void load_transposed(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address));
}

// Eight elements of row `row`, from column `column` on, of a matrix of `rows` x `columns`; zeros outside.
template <class T>
__device__ Pack<T, 8> eight(const T *x, int row, int column, int rows, int columns, bool wide) {
  Pack<T, 8> v;
  const T *from = x + int64_t(row) * columns + column;
  if (row < rows && wide && column < columns) return *reinterpret_cast<const Pack<T, 8> *>(from);
#pragma unroll
  for (int i = 0; i < 8; i++) v.v[i] = row < rows && column + i < columns ? from[i] : down<T>(0.0f);
  return v;
}

template <class T> __device__ void matmul(int m, int k, int n, bool wide_a, bool wide_b, const T *a, const T *b, T *c) {
  __shared__ __align__(16) T left[SIDE * A_PITCH], right[DEPTH * B_PITCH];
  const int64_t batch = blockIdx.z;
  a += batch * m * k;
  b += batch * k * n;
  c += batch * m * n;
  const int row0 = blockIdx.x * SIDE, column0 = blockIdx.y * SIDE, t = threadIdx.x;
  const int lane = t % 32, wy = t / 32 / 2 * 32, wx = t / 32 % 2 * 32;
  float sum[2][4][4] = {};
  Pack<T, 8> next_a[2], next_b[2];
  auto fetch = [&](int k0) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int at = t + i * 128;
      next_a[i] = eight(a, row0 + at / 4, k0 + at % 4 * 8, m, k, wide_a);
      next_b[i] = eight(b, k0 + at / 8, column0 + at % 8 * 8, k, n, wide_b);
    }
  };
  fetch(0);
  for (int k0 = 0; k0 < k; k0 += DEPTH) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int at = t + i * 128;
      *reinterpret_cast<Pack<T, 8> *>(left + at / 4 * A_PITCH + at % 4 * 8) = next_a[i];
      *reinterpret_cast<Pack<T, 8> *>(right + at / 8 * B_PITCH + at % 8 * 8) = next_b[i];
    }
    __syncthreads();
    if (k0 + DEPTH < k) fetch(k0 + DEPTH);
#pragma unroll
    for (int s = 0; s < DEPTH / 16; s++) {
      uint32_t u[2][4], v[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        load_matrices(u[i], shared_address(left + (wy + i * 16 + lane % 16) * A_PITCH + s * 16 + lane / 16 * 8));
        load_transposed(v[i], shared_address(right + (s * 16 + lane / 8 % 2 * 8 + lane % 8) * B_PITCH + wx + i * 16 +
                                             lane / 16 * 8));
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma(T(), sum[i][j], u[i], v[j / 2][j % 2 * 2], v[j / 2][j % 2 * 2 + 1]);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = row0 + wy + i * 16 + e / 2 * 8 + lane / 4, column = column0 + wx + j * 8 + 2 * (lane % 4) + e % 2;
        if (row < m && column < n) c[int64_t(row) * n + column] = down<T>(sum[i][j][e]);
      }
}

extern "C" __global__ void __launch_bounds__(128) matmul_half_f16(int m, int k, int n, int wide_a, int wide_b,
                                                                 const f16 *a, const f16 *b, f16 *c) {
  matmul(m, k, n, wide_a, wide_b, a, b, c);
}
extern "C" __global__ void __launch_bounds__(128) matmul_half_bf16(int m, int k, int n, int wide_a, int wide_b,
                                                                  const bf16 *a, const bf16 *b, bf16 *c) {
  matmul(m, k, n, wide_a, wide_b, a, b, c);
}
