// What kernels on channels-last images share: sizes, windows, taps of a resampling.
//
// An image is `n` pictures of `height` x `width` pixels, `stride` elements apart, of which the first `channels` count.
#pragma once
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
  Place p;
  if (i <= UINT32_MAX) { // 32-bit division is several times faster
    const uint32_t pixel = uint32_t(i) / uint32_t(s.channels), row = pixel / uint32_t(s.width);
    p.c = int(uint32_t(i) - pixel * s.channels);
    p.x = int(pixel - row * s.width);
    p.n = int(row / uint32_t(s.height));
    p.y = int(row - p.n * s.height);
  } else {
    const int64_t pixel = i / s.channels, row = pixel / s.width;
    p.c = int(i - pixel * s.channels);
    p.x = int(pixel - row * s.width);
    p.n = int(row / s.height);
    p.y = int(row - int64_t(p.n) * s.height);
  }
  p.inside = p.n < s.n;
  return p;
}

#define FOR_PLACES(P, SIZE)                                                                                      \
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x,                                               \
               total = int64_t(SIZE.n) * SIZE.height * SIZE.width * SIZE.channels;                               \
       i < total; i += int64_t(gridDim.x) * blockDim.x)                                                          \
    if (Place P = place(SIZE, i); P.inside)

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
