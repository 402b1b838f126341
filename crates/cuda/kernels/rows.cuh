// Rows of adjacent elements, gone through in packs of 16 bytes where addresses allow it.
#pragma once
#include "common.cuh"

struct Rows {
  int64_t rows;
  int64_t len;
  int64_t a_stride;
  int64_t b_stride;
  int64_t out_stride;
};

template <class T, int N, class F>
__device__ void for_packs(const Rows &r, const T *a, const T *b, T *out, F f) {
  const int64_t per_row = r.len / N, total = r.rows * per_row;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    // 32-bit division is several times faster, and nearly always enough.
    int64_t row = 0, at = i;
    if (r.rows > 1) {
      if (total <= UINT32_MAX) {
        row = uint32_t(i) / uint32_t(per_row);
        at = uint32_t(i) - uint32_t(row) * uint32_t(per_row);
      } else {
        row = i / per_row;
        at = i - row * per_row;
      }
    }
    using P = Pack<T, N>;
    P x = *reinterpret_cast<const P *>(a + row * r.a_stride + at * N), z, y;
    if (b) z = *reinterpret_cast<const P *>(b + row * r.b_stride + at * N);
#pragma unroll
    for (int k = 0; k < N; k++) y.v[k] = down<T>(f(up(x.v[k]), b ? up(z.v[k]) : 0.0f));
    *reinterpret_cast<P *>(out + row * r.out_stride + at * N) = y;
  }
}
