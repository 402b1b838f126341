// What the kernels of attention share: shapes, rows in shared memory, exponents.
#pragma once
#include "mma.cuh"

// Sizes, and steps in elements from one batch, token and head to the next. As in `attention.rs`.
struct Attention {
  int batch, q_len, k_len, q_heads, kv_heads, d;
  float scale;
  int causal;
  int64_t q_step[3], k_step[3], v_step[3], o_step[3];
};

constexpr int KEYS = 64; // of a tile

// Rows of D 16-bit elements in shared memory so that eight rows at one column lie in different banks: pieces of 16 bytes
// change places where a row is a multiple of 128 bytes, else rows have an odd number of pieces.
template <int D> struct RowLayout {
  static constexpr bool SWIZZLED = D % 64 == 0;
  static constexpr int PITCH = SWIZZLED ? D * 2 : (D / 8 | 1) * 16; // bytes
  static __host__ __device__ constexpr int at(int row, int piece) {
    return row * PITCH + (SWIZZLED ? piece ^ (row & 7) : piece) * 16;
  }
};

// Queues copies of rows `first` to `first + ROWS - 1`; beyond `rows` and `d` are zeros.
template <int D, int ROWS, int THREADS, class T>
__device__ __forceinline__ void load_rows(uint32_t to, const T *from, int64_t step, int first, int rows, int d) {
  constexpr int PIECES = D / 8;
#pragma unroll
  for (int i = 0; i < (ROWS * PIECES + THREADS - 1) / THREADS; i++) {
    const int at = i * THREADS + threadIdx.x;
    if (ROWS * PIECES % THREADS && at >= ROWS * PIECES) break;
    const int line = at / PIECES, piece = at % PIECES, row = first + line;
    const bool inside = row < rows && piece * 8 < d;
    copy_async(to + RowLayout<D>::at(line, piece), inside ? from + row * step + piece * 8 : from, inside ? 16 : 0);
  }
}

// As load_matrices, each matrix turned.
__device__ inline void load_matrices_turned(uint32_t (&a)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address));
}

// 2^x.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two adjacent 16x8 results as the 16x16 left operand of the next product.
template <class T> __device__ __forceinline__ void to_operand(T, uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack2(T(), left[0], left[1]);
  a[1] = pack2(T(), left[2], left[3]);
  a[2] = pack2(T(), right[0], right[1]);
  a[3] = pack2(T(), right[2], right[3]);
}

// The sum of o * grad over a row of `d` features, by a warp.
template <class T> __device__ __forceinline__ float row_delta(int d, const T *o, const T *grad) {
  float sum = 0.0f;
  for (int c = threadIdx.x % 32 * 2; c < d; c += 64) {
    const float2 a = unpack2(T(), *reinterpret_cast<const uint32_t *>(o + c));
    const float2 b = unpack2(T(), *reinterpret_cast<const uint32_t *>(grad + c));
    sum += a.x * b.x + a.y * b.y;
  }
  return warp_sum(sum);
}
