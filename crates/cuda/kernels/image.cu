// Channels-last images: pooling, resampling, pixel shuffle.
#include "images.cuh"

template <class T> __device__ void pool(const Pooling &w, const Size &in, const T *x, const Size &out, T *y) {
  FOR_PLACES(p, out) {
    int y0 = p.y * w.stride[0] - w.padding[0], x0 = p.x * w.stride[1] - w.padding[1];
    int y1 = min(y0 + w.kernel[0], in.height), x1 = min(x0 + w.kernel[1], in.width);
    y0 = max(y0, 0);
    x0 = max(x0, 0);
    float sum = w.kind == 0 ? -INFINITY : 0.0f;
    for (int iy = y0; iy < y1; iy++)
      for (int ix = x0; ix < x1; ix++) {
        float v = up(x[((int64_t(p.n) * in.height + iy) * in.width + ix) * in.stride + p.c]);
        sum = w.kind == 0 ? fmaxf(sum, v) : sum + v;
      }
    if (w.kind == 1) sum /= float(w.kernel[0] * w.kernel[1]);
    if (w.kind == 2) sum /= float((y1 - y0) * (x1 - x0));
    y[((int64_t(p.n) * out.height + p.y) * out.width + p.x) * out.stride + p.c] = down<T>(sum);
  }
}

#define POOL(T) (Pooling w, Size in, const T *x, Size out, T *y)
FOR_FLOATS(pool, POOL, pool<T>(w, in, x, out, y))

// A thread has N adjacent channels; strides are multiples of N, and channels are rounded up to N.
template <class T, int N> __device__ void resize(int mode, const Size &in, const T *x, const Size &out, T *y) {
  const int per_pixel = (out.channels + N - 1) / N;
  const int64_t total = int64_t(out.n) * out.height * out.width * per_pixel;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t pixel = i / per_pixel, row = pixel / out.width;
    const int c = int(i - pixel * per_pixel) * N, ox = int(pixel - row * out.width), oy = int(row % out.height);
    const T *from = x + row / out.height * in.height * in.width * in.stride + c;
    const Taps v = taps(mode, oy, in.height, out.height), h = taps(mode, ox, in.width, out.width);
    float sum[N] = {};
    for (int k = 0; k < v.count; k++) {
      const int iy = mode == 3 ? v.first + k : v.at[k & 3];
      float line[N] = {};
      for (int j = 0; j < h.count; j++) {
        const int ix = mode == 3 ? h.first + j : h.at[j & 3];
        const float weight = mode == 3 ? 1.0f : h.weight[j & 3];
        const auto u = *reinterpret_cast<const Pack<T, N> *>(from + (int64_t(iy) * in.width + ix) * in.stride);
#pragma unroll
        for (int e = 0; e < N; e++) line[e] += weight * up(u.v[e]);
      }
      const float weight = mode == 3 ? 1.0f : v.weight[k & 3];
#pragma unroll
      for (int e = 0; e < N; e++) sum[e] += weight * line[e];
    }
    Pack<T, N> result;
#pragma unroll
    for (int e = 0; e < N; e++) result.v[e] = down<T>(mode == 3 ? sum[e] / float(v.count * h.count) : sum[e]);
    *reinterpret_cast<Pack<T, N> *>(y + pixel * out.stride + c) = result;
  }
}

#define RESIZE(T) (int mode, int wide, Size in, const T *x, Size out, T *y)
FOR_FLOATS(resize, RESIZE, if (wide) resize<T, 4>(mode, in, x, out, y); else resize<T, 1>(mode, in, x, out, y))

// out[y * f + r][x * f + q][c] = in[y][x][(c * f + r) * f + q], as PyTorch's pixel_shuffle.
template <class T> __device__ void pixel_shuffle(int f, const Size &in, const T *x, const Size &out, T *y) {
  FOR_PLACES(p, out) {
    int from = (p.c * f + p.y % f) * f + p.x % f;
    y[((int64_t(p.n) * out.height + p.y) * out.width + p.x) * out.stride + p.c] =
        x[((int64_t(p.n) * in.height + p.y / f) * in.width + p.x / f) * in.stride + from];
  }
}

#define SHUFFLE(T) (int f, Size in, const T *x, Size out, T *y)
FOR_FLOATS(pixel_shuffle, SHUFFLE, pixel_shuffle<T>(f, in, x, out, y))
