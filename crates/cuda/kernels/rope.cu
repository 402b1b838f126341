// Rotary positions: pairs of features turned by an angle that depends on the token.
//
// | argument | shape |
// |---|---|
// | x, y | `rows` rows of `d`, `x_stride` and `y_stride` apart; row i is of token i / heads % tokens |
// | cosines, sines | tokens x d, f32 |
//
// In halves, features c and c + d / 2 are a pair, else 2 c and 2 c + 1.
#include "common.cuh"

struct Rope {
  int64_t rows;
  int64_t x_stride;
  int64_t y_stride;
  int d, heads, tokens, halves;
};

// N pairs a thread: in halves N adjacent features and those of the other half.
template <class T, int N> __device__ __forceinline__ void rope(const Rope &r, const T *x, const float *cosines, const float *sines, T *y) {
  const int half = r.d / 2, pieces = half / N;
  const int64_t total = r.rows * pieces;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = total <= UINT32_MAX ? uint32_t(i) / uint32_t(pieces) : i / pieces;
    const int piece = int(i - row * pieces);
    const int token = int(row / r.heads % r.tokens);
    // The first and second parts of the pairs, N elements each in halves, else 2 N elements where they alternate.
    const int first = r.halves ? piece * N : piece * 2 * N, second = r.halves ? first + half : first + N;
    using P = Pack<T, N>;
    using F = Pack<float, N <= 4 ? N : 4>;
    P v[2], to[2];
    float c[2][N], s[2][N];
#pragma unroll
    for (int part = 0; part < 2; part++) {
      const int at = part ? second : first;
      v[part] = *reinterpret_cast<const P *>(x + row * r.x_stride + at);
#pragma unroll
      for (int k = 0; k < N; k += sizeof(F) / 4) {
        const F p = *reinterpret_cast<const F *>(cosines + int64_t(token) * r.d + at + k);
        const F q = *reinterpret_cast<const F *>(sines + int64_t(token) * r.d + at + k);
#pragma unroll
        for (int e = 0; e < int(sizeof(F) / 4); e++) c[part][k + e] = p.v[e], s[part][k + e] = q.v[e];
      }
    }
    if (r.halves) {
#pragma unroll
      for (int k = 0; k < N; k++) {
        const float a = up(v[0].v[k]), b = up(v[1].v[k]);
        to[0].v[k] = down<T>(a * c[0][k] - b * s[0][k]);
        to[1].v[k] = down<T>(b * c[1][k] + a * s[1][k]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < 2 * N; k += 2) {
        const int p0 = k / N, e0 = k % N, p1 = (k + 1) / N, e1 = (k + 1) % N;
        const float a = up(v[p0].v[e0]), b = up(v[p1].v[e1]);
        to[p0].v[e0] = down<T>(a * c[p0][e0] - b * s[p0][e0]);
        to[p1].v[e1] = down<T>(b * c[p1][e1] + a * s[p1][e1]);
      }
    }
    *reinterpret_cast<P *>(y + row * r.y_stride + first) = to[0];
    *reinterpret_cast<P *>(y + row * r.y_stride + second) = to[1];
  }
}

#define ROPE(T) (int wide, Rope r, const T *x, const float *cosines, const float *sines, T *y)
FOR_FLOATS(rope, ROPE, if (wide) rope<T, 16 / sizeof(T)>(r, x, cosines, sines, y); else rope<T, 1>(r, x, cosines, sines, y))
