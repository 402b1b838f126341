// Channels-last images: pooling, resampling, pixel shuffle.
//
// An image is `n` pictures of `height` x `width` pixels, `stride` elements apart, of which the first `channels` count.
#include "common.cuh"

struct Size {
  int n, height, width, channels;
  int64_t stride;
};

struct Pooling {
  int kind; // 0 max, 1 mean with padding, 2 mean inside
  int kernel[2], stride[2], padding[2];
};

// The thread's channel and pixel, one after the other along channels.
struct Place {
  int c, x, y, n;
  bool inside;
};

__device__ inline Place place(const Size &s, int64_t i) {
  int64_t pixel = i / s.channels;
  Place p;
  p.c = int(i - pixel * s.channels);
  p.x = int(pixel % s.width);
  p.y = int(pixel / s.width % s.height);
  p.n = int(pixel / s.width / s.height);
  p.inside = p.n < s.n;
  return p;
}

#define FOR_PLACES(P, SIZE)                                                                                      \
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x,                                               \
               total = int64_t(SIZE.n) * SIZE.height * SIZE.width * SIZE.channels;                               \
       i < total; i += int64_t(gridDim.x) * blockDim.x)                                                          \
    if (Place P = place(SIZE, i); P.inside)

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

// Taps along one axis, as PyTorch's interpolate(align_corners=False).
struct Taps {
  int first, count;
  int at[4];
  float weight[4];
};

__device__ inline double cubic(double t) {
  const double a = -0.75;
  if (t <= 1.0) return ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0;
  if (t < 2.0) return ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a;
  return 0.0;
}

// Modes: 0 nearest, 1 bilinear, 2 bicubic, 3 area.
__device__ inline Taps taps(int mode, int i, int input, int output) {
  Taps t;
  t.first = 0;
  t.count = 1;
  if (mode == 0) {
    t.at[0] = int(int64_t(i) * input / output);
    t.weight[0] = 1.0f;
  } else if (mode == 3) {
    t.first = int(int64_t(i) * input / output);
    t.count = int((int64_t(i + 1) * input + output - 1) / output) - t.first;
  } else {
    double source = (i + 0.5) * (double(input) / double(output)) - 0.5;
    if (mode == 1) {
      source = fmax(source, 0.0);
      int first = min(int(source), input - 1);
      float fraction = float(fmin(source - first, 1.0));
      t.count = 2;
      t.at[0] = first;
      t.at[1] = min(first + 1, input - 1);
      t.weight[0] = 1.0f - fraction;
      t.weight[1] = fraction;
    } else {
      double low = floor(source);
      t.count = 4;
      for (int k = 0; k < 4; k++) {
        t.at[k] = min(max(int(low) + k - 1, 0), input - 1);
        t.weight[k] = float(cubic(fabs(source - low + 1.0 - k)));
      }
    }
  }
  return t;
}

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
