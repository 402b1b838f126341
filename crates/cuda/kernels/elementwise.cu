// Element by element: sums, products, activations, over rows of adjacent elements.
//
// | argument | shape |
// |---|---|
// | a, b | `rows` rows of `len` elements, `a_stride` and `b_stride` apart; a stride of 0 repeats one row |
// | out | the same, `out_stride` apart |
//
// Bound by memory: 16 bytes a thread and access where addresses allow it (the launcher looks), else one element.
#include "common.cuh"

struct Rows {
  int64_t rows;
  int64_t len;
  int64_t a_stride;
  int64_t b_stride;
  int64_t out_stride;
};

enum { ADD = 0, SUB = 1, MUL = 2, DIV = 3, SILU_MUL = 4 };

__device__ inline float combine(int how, float a, float b) {
  switch (how) {
    case ADD: return a + b;
    case SUB: return a - b;
    case MUL: return a * b;
    case DIV: return a / b;
    default: return a / (1.0f + expf(-a)) * b;
  }
}

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

template <class T, int N> __device__ void binary(int how, const Rows &r, const T *a, const T *b, T *out) {
  for_packs<T, N>(r, a, b, out, [=](float x, float y) { return combine(how, x, y); });
}

template <class T, int N> __device__ void unary(int kind, float slope, float factor, const Rows &r, const T *a, T *out) {
  for_packs<T, N>(r, a, nullptr, out, [=](float x, float) { return activate_as<T>(kind, slope, x * factor); });
}

#define BINARY(T) (int how, int wide, Rows r, const T *a, const T *b, T *out)
FOR_FLOATS(binary, BINARY, if (wide) binary<T, 16 / sizeof(T)>(how, r, a, b, out); else binary<T, 1>(how, r, a, b, out))

// activation(x * factor)
#define UNARY(T) (int kind, float slope, float factor, int wide, Rows r, const T *a, T *out)
FOR_FLOATS(unary, UNARY, if (wide) unary<T, 16 / sizeof(T)>(kind, slope, factor, r, a, out);
           else unary<T, 1>(kind, slope, factor, r, a, out))
