// Products of matrices on tensor cores of all GPUs since 8.0, for where cuBLASLt is not: d = leaky(a * b + bias) + residual.
//
// | argument | shape |
// |---|---|
// | a | batch x m x k, or k x m if turned; rows `a_row` apart, matrices `a_batch` |
// | b | batch x k x n, or n x k if turned |
// | bias | n, or null |
// | residual, d | batch x m x n; residual may be null |
//
// Elements are f16 or bf16, sums f32. Rows of a and b start at multiples of 16 bytes. A block of four warps makes 128 x 128 of
// the result, 32 of k at a time, which four stages of shared memory wait for.
#include "gemm.cuh"
#include "mma.cuh"

constexpr int SIDE = 128, DEPTH = 32, STAGES = 4, TILE_BYTES = SIDE * DEPTH * 2;

__device__ inline void load_turned(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address));
}

// Where piece `piece` of 8 elements of line `line` lies: lines of 32 elements of k, or lines of 128 of the other side.
template <bool ALONG_K> __device__ __forceinline__ int place(int line, int piece) {
  return ALONG_K ? line * 64 + ((piece ^ (line >> 1 & 3)) * 16) : line * 256 + ((piece ^ (line & 7)) * 16);
}

// Queues a tile: `side0` is its first index of the side that is not k, `k0` that of k.
template <bool ALONG_K, class T>
__device__ __forceinline__ void load_tile(uint32_t to, const T *from, int64_t row, int side0, int side, int k0, int k) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int at = i * 128 + threadIdx.x;
    const int line = ALONG_K ? at / 4 : at / 16, piece = ALONG_K ? at % 4 : at % 16;
    const int y = line + (ALONG_K ? side0 : k0), x = piece * 8 + (ALONG_K ? k0 : side0);
    const int left = (ALONG_K ? k : side) - x;
    const bool inside = y < (ALONG_K ? side : k) && left > 0;
    copy_async(to + place<ALONG_K>(line, piece), inside ? from + y * row + x : from, inside ? min(left, 8) * 2 : 0);
  }
}

template <class T, bool A_TURNED, bool B_TURNED>
__device__ __forceinline__ void gemm(const Gemm &p, const T *a, const T *b, const T *bias, const T *residual, T *d) {
  extern __shared__ __align__(128) char memory[];
  const uint32_t left = shared_address(memory), right = left + STAGES * TILE_BYTES;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp / 2 * 64, wn = warp % 2 * 64;
  // Bands of eight rows of blocks, so that those that run together share operands.
  const int rows = (p.m + SIDE - 1) / SIDE, columns = (p.n + SIDE - 1) / SIDE;
  const int band = blockIdx.x / (8 * columns), high = min(8, rows - band * 8), at = blockIdx.x - band * 8 * columns;
  const int m0 = (band * 8 + at % high) * SIDE, n0 = at / high * SIDE;
  a += blockIdx.z * p.a_batch;
  b += blockIdx.z * p.b_batch;

  auto load = [&](int stage, int k0) {
    load_tile<!A_TURNED>(left + stage * TILE_BYTES, a, p.a_row, m0, p.m, k0, p.k);
    load_tile<B_TURNED>(right + stage * TILE_BYTES, b, p.b_row, n0, p.n, k0, p.k);
  };
  float sum[4][8][4] = {};
  const int steps = (p.k + DEPTH - 1) / DEPTH;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) load(s, s * DEPTH);
    commit();
  }
  for (int step = 0; step < steps; step++) {
    wait_for<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) load((step + STAGES - 1) % STAGES, (step + STAGES - 1) * DEPTH);
    commit();
    const uint32_t u = left + step % STAGES * TILE_BYTES, v = right + step % STAGES * TILE_BYTES;
#pragma unroll
    for (int c = 0; c < DEPTH / 16; c++) {
      uint32_t x[4][4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int side = wm + i * 16;
        if (A_TURNED)
          load_turned(x[i], u + place<false>(c * 16 + lane / 16 * 8 + lane % 8, side / 8 + lane / 8 % 2));
        else
          load_matrices(x[i], u + place<true>(side + lane % 16, c * 2 + lane / 16));
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        uint32_t y[4];
        const int side = wn + j * 16;
        if (B_TURNED)
          load_matrices(y, v + place<true>(side + lane / 16 * 8 + lane % 8, c * 2 + lane / 8 % 2));
        else
          load_turned(y, v + place<false>(c * 16 + lane / 8 % 2 * 8 + lane % 8, side / 8 + lane / 16));
#pragma unroll
        for (int i = 0; i < 4; i++) {
          mma(T(), sum[i][2 * j], x[i], y[0], y[1]);
          mma(T(), sum[i][2 * j + 1], x[i], y[2], y[3]);
        }
      }
    }
  }
  wait_for<0>();

  d += blockIdx.z * p.d_batch;
  if (residual) residual += blockIdx.z * p.residual_batch;
  const bool even = p.d_row % 2 == 0 && p.d_batch % 2 == 0;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const int x = n0 + wn + j * 8 + lane % 4 * 2;
    if (x >= p.n) continue;
    const bool second = x + 1 < p.n;
    const float b0 = bias ? up(bias[x]) : 0.0f, b1 = bias && second ? up(bias[x + 1]) : 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int y = m0 + wm + i * 16 + lane / 4 + half * 8;
        if (y >= p.m) continue;
        float v0 = leaky(p.slope, sum[i][j][2 * half] + b0);
        float v1 = leaky(p.slope, sum[i][j][2 * half + 1] + b1);
        if (residual) {
          v0 += up(residual[y * p.residual_row + x]);
          if (second) v1 += up(residual[y * p.residual_row + x + 1]);
        }
        T *to = d + y * p.d_row + x;
        if (second && even) {
          *reinterpret_cast<uint32_t *>(to) = pack2(T(), v0, v1);
        } else {
          to[0] = down<T>(v0);
          if (second) to[1] = down<T>(v1);
        }
      }
  }
}

#define GEMM(T, NAME, A_TURNED, B_TURNED)                                                                              \
  extern "C" __global__ void __launch_bounds__(128, 2)                                                                 \
      gemm_##NAME##_##T(Gemm p, const T *a, const T *b, const T *bias, const T *residual, T *d) {                      \
    gemm<T, A_TURNED, B_TURNED>(p, a, b, bias, residual, d);                                                           \
  }
#define GEMMS(T) GEMM(T, nn, false, false) GEMM(T, nt, false, true) GEMM(T, tn, true, false) GEMM(T, tt, true, true)
GEMMS(f16)
GEMMS(bf16)
