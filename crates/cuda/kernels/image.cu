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

template <class T> __device__ void resize(int mode, const Size &in, const T *x, const Size &out, T *y) {
  FOR_PLACES(p, out) {
    Taps v = taps(mode, p.y, in.height, out.height), h = taps(mode, p.x, in.width, out.width);
    float sum = 0.0f;
    for (int i = 0; i < v.count; i++) {
      int iy = mode == 3 ? v.first + i : v.at[i & 3];
      float row = 0.0f;
      for (int j = 0; j < h.count; j++) {
        int ix = mode == 3 ? h.first + j : h.at[j & 3];
        float weight = mode == 3 ? 1.0f : h.weight[j & 3];
        row += weight * up(x[((int64_t(p.n) * in.height + iy) * in.width + ix) * in.stride + p.c]);
      }
      sum += (mode == 3 ? 1.0f : v.weight[i & 3]) * row;
    }
    if (mode == 3) sum /= float(v.count * h.count);
    y[((int64_t(p.n) * out.height + p.y) * out.width + p.x) * out.stride + p.c] = down<T>(sum);
  }
}

#define RESIZE(T) (int mode, Size in, const T *x, Size out, T *y)
FOR_FLOATS(resize, RESIZE, resize<T>(mode, in, x, out, y))

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
