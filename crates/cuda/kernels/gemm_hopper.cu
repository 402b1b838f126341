// Products of matrices on Hopper; arguments as in `gemm.cu`, of which a, b and d lie at multiples of 16 bytes.
//
// A block makes 128 x 256 of the result, 64 of k at a time. One warp queues copies of tiles, four stages of them; two groups of
// four warps take 64 rows each.
#include "gemm.cuh"
#include "hopper.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int ROWS = 128, COLUMNS = 256, DEPTH = 64, STAGES = 4, A_BYTES = ROWS * DEPTH * 2, B_BYTES = COLUMNS * DEPTH * 2;

// The 4 x 4 packs that the lanes of a quad hold, turned: lane i gets pack i of all four.
__device__ __forceinline__ uint4 turn_quad(uint32_t (&v)[4]) {
  const int q = threadIdx.x % 4;
#pragma unroll
  for (int step = 1; step < 4; step *= 2)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (i & step) continue;
      // Lanes without the bit give the upper of a pair of packs for the other lane's lower one.
      const bool upper = q & step;
      const uint32_t got = __shfl_xor_sync(0xffffffffu, upper ? v[i] : v[i + step], step);
      (upper ? v[i] : v[i + step]) = got;
    }
  return make_uint4(v[0], v[1], v[2], v[3]);
}

template <class T, bool A_TURNED, bool B_TURNED>
__device__ __forceinline__ void gemm(const Gemm &p, const TensorMap &a_map, const TensorMap &b_map, const T *bias, const T *residual, T *d) {
  extern __shared__ __align__(1024) char memory[];
  const uint32_t a_at = (shared_address(memory) + 1023) / 1024 * 1024, b_at = a_at + STAGES * A_BYTES;
  const uint32_t full = b_at + STAGES * B_BYTES, empty = full + 8 * STAGES;
  // Bands of sixteen rows of blocks, so that those that run together share operands.
  const int rows = (p.m + ROWS - 1) / ROWS, columns = (p.n + COLUMNS - 1) / COLUMNS;
  const int band = blockIdx.x / (16 * columns), high = min(16, rows - band * 16), at = blockIdx.x - band * 16 * columns;
  const int m0 = (band * 16 + at % high) * ROWS, n0 = at / high * COLUMNS, batch = blockIdx.z;
  const int steps = (p.k + DEPTH - 1) / DEPTH;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 8);
    }
    barrier_publish();
  }
  __syncthreads();

  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0) {
      const int a_batch = p.a_batch ? batch : 0, b_batch = p.b_batch ? batch : 0;
      for (int step = 0; step < steps; step++) {
        const int s = step % STAGES, k0 = step * DEPTH;
        barrier_wait(empty + 8 * s, (step / STAGES & 1) ^ 1);
        barrier_expect(full + 8 * s, A_BYTES + B_BYTES);
        if (A_TURNED) {
#pragma unroll
          for (int i = 0; i < ROWS / 64; i++)
            copy_box(a_at + s * A_BYTES + i * DEPTH * 128, a_map, full + 8 * s, m0 + i * 64, k0, a_batch, 0);
        } else {
          copy_box(a_at + s * A_BYTES, a_map, full + 8 * s, k0, m0, a_batch, 0);
        }
        if (B_TURNED) {
          copy_box(b_at + s * B_BYTES, b_map, full + 8 * s, k0, n0, b_batch, 0);
        } else {
#pragma unroll
          for (int i = 0; i < COLUMNS / 64; i++)
            copy_box(b_at + s * B_BYTES + i * DEPTH * 128, b_map, full + 8 * s, n0 + i * 64, k0, b_batch, 0);
        }
      }
    }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, quad = lane % 4;
  float sum[COLUMNS / 2];
#pragma unroll
  for (int i = 0; i < COLUMNS / 2; i++) sum[i] = 0.0f;
  for (int step = 0; step < steps; step++) {
    const int s = step % STAGES;
    barrier_wait(full + 8 * s, step / STAGES & 1);
    keep(sum);
    products_fence();
#pragma unroll
    for (int c = 0; c < DEPTH / 16; c++) {
      const uint32_t a = a_at + s * A_BYTES + group * 64 * 128 + c * (A_TURNED ? 16 * 128 : 32);
      const uint32_t b = b_at + s * B_BYTES + c * (B_TURNED ? 32 : 16 * 128);
      Product<COLUMNS>::template product<A_TURNED ? 1 : 0, B_TURNED ? 0 : 1>(T(), sum, operand(a, A_TURNED ? DEPTH * 128 : 16),
                                                                            operand(b, B_TURNED ? 16 : DEPTH * 128), 1);
    }
    products_commit();
    products_wait<1>();
    if (step > 0 && lane == 0) barrier_arrive(empty + 8 * ((step - 1) % STAGES));
  }
  products_wait<0>();
  keep(sum);

  d += batch * p.d_batch;
  if (residual) residual += batch * p.residual_batch;
  const bool even = residual && p.residual_row % 2 == 0 && p.residual_batch % 2 == 0 && reinterpret_cast<uintptr_t>(residual) % 4 == 0;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = m0 + group * 64 + warp * 16 + lane / 4 + half * 8;
#pragma unroll
    for (int n = 0; n < COLUMNS / 32; n++) {
      uint32_t packs[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int tile = n * 4 + i, column = n0 + tile * 8 + quad * 2;
        float v0 = sum[tile * 4 + half * 2], v1 = sum[tile * 4 + half * 2 + 1];
        if (bias) {
          v0 += column < p.n ? up(bias[column]) : 0.0f;
          v1 += column + 1 < p.n ? up(bias[column + 1]) : 0.0f;
        }
        v0 = leaky(p.slope, v0);
        v1 = leaky(p.slope, v1);
        if (residual && row < p.m) {
          const T *from = residual + row * p.residual_row + column;
          if (even && column + 1 < p.n) {
            const float2 u = unpack2(T(), *reinterpret_cast<const uint32_t *>(from));
            v0 += u.x, v1 += u.y;
          } else {
            v0 += column < p.n ? up(from[0]) : 0.0f;
            v1 += column + 1 < p.n ? up(from[1]) : 0.0f;
          }
        }
        packs[i] = pack2(T(), v0, v1);
      }
      const uint4 eight = turn_quad(packs);
      const int column = n0 + n * 32 + quad * 8;
      if (row >= p.m || column >= p.n) continue;
      T *to = d + row * p.d_row + column;
      if (column + 8 <= p.n) {
        *reinterpret_cast<uint4 *>(to) = eight;
      } else {
        const T *each = reinterpret_cast<const T *>(&eight);
#pragma unroll
        for (int i = 0; i < 8; i++)
          if (column + i < p.n) to[i] = each[i];
      }
    }
  }
}

#define GEMM(T, NAME, A_TURNED, B_TURNED)                                                                             \
  extern "C" __global__ void __launch_bounds__(384, 1)                                                                \
      gemm_hopper_##NAME##_##T(Gemm p, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,      \
                               const T *bias, const T *residual, T *d) {                                              \
    gemm<T, A_TURNED, B_TURNED>(p, a, b, bias, residual, d);                                                          \
  }
#define GEMMS(T) GEMM(T, nn, false, false) GEMM(T, nt, false, true) GEMM(T, tn, true, false) GEMM(T, tt, true, true)
GEMMS(f16)
GEMMS(bf16)

#endif
