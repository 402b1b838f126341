// Pictures as files hold them, red green blue without gaps, to a network's input and from its result.
//
//   x[y][x'][c] = from[mirror(y)][mirror(x')][c] / most       sides of x are those of the picture, rounded up
//   to[y][x][c] = round(y[y][x][c] * most)                    the part of the result that is the picture's
//
// Samples are u8 (most = 255), u16 (65535), or f32 as they are. Rows of a result that hold something that is no number are told.
#include "common.cuh"

struct Frame {
  int height, width;               // of the picture
  int padded_height, padded_width; // of the network's
  int stride;                      // elements from pixel to pixel of the network's input
};

template <class S> struct Unit;
template <> struct Unit<uint8_t> {
  static __device__ float up(uint8_t v) { return float(v) * (1.0f / 255.0f); }
  static __device__ uint8_t down(float v) {
    const float scaled = __fadd_rn(__fmul_rn(v, 255.0f), 0.5f);
    return uint8_t(fminf(fmaxf(scaled, 0.0f), 255.0f));
  }
};
template <> struct Unit<uint16_t> {
  static __device__ float up(uint16_t v) { return float(v) * (1.0f / 65535.0f); }
  static __device__ uint16_t down(float v) {
    const float scaled = __fadd_rn(__fmul_rn(v, 65535.0f), 0.5f);
    return uint16_t(fminf(fmaxf(scaled, 0.0f), 65535.0f));
  }
};
template <> struct Unit<float> {
  static __device__ float up(float v) { return v; }
  static __device__ float down(float v) { return v; }
};

// The pixel that stands for one beyond the last.
__device__ inline int mirrored(int i, int side) { return i < side ? i : max(2 * (side - 1) - i, 0); }

template <class S, class T> __device__ void from_samples(const Frame &f, const S *from, T *x, int *bad_row) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *bad_row = 0x7fffffff;
  const int64_t total = int64_t(f.padded_height) * f.padded_width;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int row = mirrored(int(i / f.padded_width), f.height), column = mirrored(int(i % f.padded_width), f.width);
    const S *pixel = from + (int64_t(row) * f.width + column) * 3;
    for (int c = 0; c < 3; c++) x[i * f.stride + c] = down<T>(Unit<S>::up(pixel[c]));
  }
}

// Four samples of a row a thread. `f` counts pixels of the result.
template <class S> __device__ void to_samples(const Frame &f, const float *y, S *to, int *bad_row) {
  const int row_len = f.width * 3, quads = (row_len + 3) / 4;
  const int64_t total = int64_t(f.height) * quads;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int row = int(i / quads), first = int(i % quads) * 4, count = min(4, row_len - first);
    const float *from = y + int64_t(row) * f.padded_width * 3 + first;
    S *out = to + int64_t(row) * row_len + first;
    float v[4] = {};
    bool bad = false;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if (k < count) v[k] = from[k];
      bad |= !isfinite(v[k]);
    }
    if (bad) atomicMin(bad_row, row);
    if (row_len % 4 == 0) {
      Pack<S, 4> packed;
#pragma unroll
      for (int k = 0; k < 4; k++) packed.v[k] = Unit<S>::down(v[k]);
      *reinterpret_cast<Pack<S, 4> *>(out) = packed;
    } else {
      for (int k = 0; k < count; k++) out[k] = Unit<S>::down(v[k]);
    }
  }
}

#define FROM(S, NAME)                                                                                                \
  extern "C" __global__ void from_##NAME##_f32(Frame f, const S *from, float *x, int *bad) { from_samples(f, from, x, bad); } \
  extern "C" __global__ void from_##NAME##_f16(Frame f, const S *from, f16 *x, int *bad) { from_samples(f, from, x, bad); }   \
  extern "C" __global__ void from_##NAME##_bf16(Frame f, const S *from, bf16 *x, int *bad) { from_samples(f, from, x, bad); } \
  extern "C" __global__ void to_##NAME(Frame f, const float *y, S *to, int *bad) { to_samples(f, y, to, bad); }
FROM(uint8_t, u8)
FROM(uint16_t, u16)
FROM(float, floats)
