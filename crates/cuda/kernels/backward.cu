// Gradients of normalisations, pooling, resampling, and pixel shuffle undone. Each result is gathered by the thread that owns
// it, in a fixed order: no atomics.
//
// | argument | shape |
// |---|---|
// | g | gradient of the output |
// | saved | the output (softmax) or the input (L2, layer norm, RMS norm, pooling) |
// | out | gradient of the input |
#include "images.cuh"

struct Rows {
  int64_t rows;
  int64_t len;
  int64_t g_stride;
  int64_t saved_stride;
  int64_t out_stride;
};

// Kinds: 0 softmax, 1 L2 with the least norm epsilon, 2 layer norm, 3 RMS norm (a layer norm whose mean is taken for 0); one
// warp a row. `statistics` gets the mean and the factor of each row of the last two; `weight` is f32.
template <class T>
__device__ void normalize_backward(int kind, float epsilon, const Rows &r, const T *g, const T *saved,
                                   const float *weight, T *out, float2 *statistics) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = int64_t(gridDim.x) * (blockDim.x / 32);
  const float inverse = 1.0f / float(r.len);
  for (int64_t row = blockIdx.x * int64_t(blockDim.x / 32) + threadIdx.x / 32; row < r.rows; row += warps) {
    const T *grad = g + row * r.g_stride, *from = saved + row * r.saved_stride;
    T *to = out + row * r.out_stride;
    if (kind == 0) {
      float dot = 0.0f;
      for (int64_t i = lane; i < r.len; i += 32) dot += up(grad[i]) * up(from[i]);
      dot = warp_sum(dot);
      for (int64_t i = lane; i < r.len; i += 32) to[i] = down<T>(up(from[i]) * (up(grad[i]) - dot));
    } else if (kind == 1) {
      float square = 0.0f, dot = 0.0f;
      for (int64_t i = lane; i < r.len; i += 32) {
        square += up(from[i]) * up(from[i]);
        dot += up(grad[i]) * up(from[i]);
      }
      const float norm = sqrtf(warp_sum(square)), scale = 1.0f / fmaxf(norm, epsilon);
      // Below epsilon the divisor is a constant.
      dot = norm > epsilon ? warp_sum(dot) * scale * scale : 0.0f;
      for (int64_t i = lane; i < r.len; i += 32) to[i] = down<T>((up(grad[i]) - up(from[i]) * dot) * scale);
    } else {
      float sum = 0.0f, square = 0.0f, flat = 0.0f, along = 0.0f;
      for (int64_t i = lane; i < r.len; i += 32) sum += up(from[i]);
      const float mean = kind == 2 ? warp_sum(sum) * inverse : 0.0f;
      for (int64_t i = lane; i < r.len; i += 32) {
        const float d = up(from[i]) - mean, v = up(grad[i]) * weight[i];
        square += d * d;
        flat += v;
        along += v * d;
      }
      const float factor = rsqrtf(warp_sum(square) * inverse + epsilon);
      flat = kind == 2 ? warp_sum(flat) * inverse : 0.0f;
      along = warp_sum(along) * inverse * factor * factor;
      for (int64_t i = lane; i < r.len; i += 32)
        to[i] = down<T>((up(grad[i]) * weight[i] - flat - (up(from[i]) - mean) * along) * factor);
      if (lane == 0) statistics[row] = make_float2(mean, factor);
    }
  }
}

#define NORMALIZE_BACKWARD(T)                                                                                         \
  (int kind, float epsilon, Rows r, const T *g, const T *saved, const float *weight, T *out, float2 *statistics)
FOR_FLOATS(normalize_backward, NORMALIZE_BACKWARD,
           normalize_backward<T>(kind, epsilon, r, g, saved, weight, out, statistics))

// Sums over rows of g * (saved - mean) * factor and of g, by parts: `parts` is [part][2][len] f32. 32 columns a block, eight
// rows at a time; blockIdx.y is the part.
template <class T>
__device__ void layer_norm_parts(const Rows &r, int64_t per_part, const T *g, const T *saved, const float2 *statistics,
                                 float *parts) {
  __shared__ float2 sums[8][32];
  const int lane = threadIdx.x % 32, share = threadIdx.x / 32;
  const int64_t column = int64_t(blockIdx.x) * 32 + lane;
  const int64_t first = blockIdx.y * per_part, last = min(first + per_part, r.rows);
  float2 sum = {0.0f, 0.0f};
  if (column < r.len)
    for (int64_t row = first + share; row < last; row += 8) {
      const float grad = up(g[row * r.g_stride + column]);
      const float2 s = statistics[row];
      sum.x += grad * (up(saved[row * r.saved_stride + column]) - s.x) * s.y;
      sum.y += grad;
    }
  sums[share][lane] = sum;
  __syncthreads();
  if (share > 0 || column >= r.len) return;
  for (int i = 1; i < 8; i++) {
    sum.x += sums[i][lane].x;
    sum.y += sums[i][lane].y;
  }
  parts[(blockIdx.y * 2) * r.len + column] = sum.x;
  parts[(blockIdx.y * 2 + 1) * r.len + column] = sum.y;
}

#define LAYER_NORM_PARTS(T)                                                                                           \
  (Rows r, int64_t per_part, const T *g, const T *saved, const float2 *statistics, float *parts)
FOR_FLOATS(layer_norm_parts, LAYER_NORM_PARTS, layer_norm_parts<T>(r, per_part, g, saved, statistics, parts))

// ---------------------------------------------------------------------------------------------------------------- pooling

// Where each window has its largest value, the first row by row: pixel of the input, -1 for none. `at` is [n][h][w][c] of the
// pooled size, without gaps.
template <class T> __device__ void pool_where(const Pooling &w, const Size &in, const T *x, const Size &pooled, int *at) {
  FOR_PLACES(p, pooled) {
    const int y0 = p.y * w.stride[0] - w.padding[0], x0 = p.x * w.stride[1] - w.padding[1];
    const int y1 = min(y0 + w.kernel[0], in.height), x1 = min(x0 + w.kernel[1], in.width);
    float most = 0.0f;
    int best = -1;
    for (int iy = max(y0, 0); iy < y1; iy++)
      for (int ix = max(x0, 0); ix < x1; ix++) {
        const float v = up(x[((int64_t(p.n) * in.height + iy) * in.width + ix) * in.stride + p.c]);
        if (best < 0 || v > most) {
          most = v;
          best = iy * in.width + ix;
        }
      }
    at[i] = best;
  }
}

#define POOL_WHERE(T) (Pooling w, Size in, const T *x, Size pooled, int *at)
FOR_FLOATS(pool_where, POOL_WHERE, pool_where<T>(w, in, x, pooled, at))

// A thread has a channel of a pixel of the input, and goes through the windows that cover it.
template <class T>
__device__ void pool_backward(const Pooling &w, const Size &pooled, const T *g, const int *at, const Size &out, T *y) {
  FOR_PLACES(p, out) {
    const int py = p.y + w.padding[0], px = p.x + w.padding[1];
    // Windows j with j * stride <= place < j * stride + kernel.
    const int y0 = py < w.kernel[0] ? 0 : (py - w.kernel[0]) / w.stride[0] + 1, y1 = min(py / w.stride[0] + 1, pooled.height);
    const int x0 = px < w.kernel[1] ? 0 : (px - w.kernel[1]) / w.stride[1] + 1, x1 = min(px / w.stride[1] + 1, pooled.width);
    float sum = 0.0f;
    for (int wy = y0; wy < y1; wy++)
      for (int wx = x0; wx < x1; wx++) {
        const int64_t window = (int64_t(p.n) * pooled.height + wy) * pooled.width + wx;
        const float grad = up(g[window * pooled.stride + p.c]);
        if (w.kind == 0) {
          if (at[window * pooled.channels + p.c] == p.y * out.width + p.x) sum += grad;
        } else if (w.kind == 1) {
          sum += grad / float(w.kernel[0] * w.kernel[1]);
        } else {
          const int top = wy * w.stride[0] - w.padding[0], left = wx * w.stride[1] - w.padding[1];
          const int height = min(top + w.kernel[0], out.height) - max(top, 0);
          sum += grad / float(height * (min(left + w.kernel[1], out.width) - max(left, 0)));
        }
      }
    y[((int64_t(p.n) * out.height + p.y) * out.width + p.x) * out.stride + p.c] = down<T>(sum);
  }
}

#define POOL_BACKWARD(T) (Pooling w, Size pooled, const T *g, const int *at, Size out, T *y)
FOR_FLOATS(pool_backward, POOL_BACKWARD, pool_backward<T>(w, pooled, g, at, out, y))

// ----------------------------------------------------------------------------------------------------------------- resize

// The weight with which place `i` of `output` reads place `j` of `input`.
__device__ inline float weight_between(int mode, int i, int j, int input, int output) {
  const Taps t = taps(mode, i, input, output);
  if (mode == 3) return j >= t.first && j < t.first + t.count ? 1.0f / float(t.count) : 0.0f;
  float sum = 0.0f;
  for (int k = 0; k < t.count; k++)
    if (t.at[k & 3] == j) sum += t.weight[k & 3];
  return sum;
}

// Along one axis: out[before][j][after] = sum over i of g[before][i][after] * weight(i reads j). Both axes in turn give the whole.
// A thread has N adjacent channels; strides and `channels` are multiples of N.
template <class A, class B, int N>
__device__ void resize_backward(int mode, int64_t before, int input, int output, int64_t line, int channels,
                                int64_t from_stride, int64_t to_stride, const A *g, B *out) {
  const int per_pixel = channels / N;
  const int64_t total = before * input * line * per_pixel;
  const double ratio = double(output) / double(input);
  const double reach = mode == 1 ? 0.5 : mode == 2 ? 1.5 : 0.0;
  for (int64_t at = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; at < total; at += int64_t(gridDim.x) * blockDim.x) {
    const int64_t place = at / per_pixel, rest = place / line;
    const int c = int(at - place * per_pixel) * N, j = int(rest % input);
    const int64_t after = place - rest * line, outer = rest / input;
    // Places of the output that may read j, with one to spare.
    const int first = max(int(floor((j - reach) * ratio)) - 1, 0);
    const int last = int(fmin(ceil((j + 1 + reach) * ratio) + 1.0, double(output)));
    float sum[N] = {};
    for (int i = first; i < last; i++) {
      const float weight = weight_between(mode, i, j, input, output);
      if (weight == 0.0f) continue;
      const auto v = *reinterpret_cast<const Pack<A, N> *>(g + ((outer * output + i) * line + after) * from_stride + c);
#pragma unroll
      for (int k = 0; k < N; k++) sum[k] += weight * up(v.v[k]);
    }
    Pack<B, N> result;
#pragma unroll
    for (int k = 0; k < N; k++) result.v[k] = down<B>(sum[k]);
    *reinterpret_cast<Pack<B, N> *>(out + place * to_stride + c) = result;
  }
}

#define RESIZE_ARGUMENTS(A, B)                                                                                        \
  (int mode, int wide, int64_t before, int input, int output, int64_t line, int channels, int64_t from_stride,        \
   int64_t to_stride, const A *g, B *out)
#define RESIZE_ROWS(T) RESIZE_ARGUMENTS(T, float)
#define RESIZE_COLUMNS(T) RESIZE_ARGUMENTS(float, T)
FOR_FLOATS(resize_backward_rows, RESIZE_ROWS,
           if (wide) resize_backward<T, float, 4>(mode, before, input, output, line, channels, from_stride, to_stride, g, out);
           else resize_backward<T, float, 1>(mode, before, input, output, line, channels, from_stride, to_stride, g, out))
FOR_FLOATS(resize_backward_columns, RESIZE_COLUMNS,
           if (wide) resize_backward<float, T, 4>(mode, before, input, output, line, channels, from_stride, to_stride, g, out);
           else resize_backward<float, T, 1>(mode, before, input, output, line, channels, from_stride, to_stride, g, out))

// ---------------------------------------------------------------------------------------------------------- pixel shuffle

// out[y][x][(c * f + r) * f + q] = in[y * f + r][x * f + q][c]: a pixel shuffle, undone.
template <class T> __device__ void pixel_unshuffle(int f, const Size &in, const T *x, const Size &out, T *y) {
  FOR_PLACES(p, out) {
    const int q = p.c % f, r = p.c / f % f;
    y[((int64_t(p.n) * out.height + p.y) * out.width + p.x) * out.stride + p.c] =
        x[((int64_t(p.n) * in.height + p.y * f + r) * in.width + p.x * f + q) * in.stride + p.c / (f * f)];
  }
}

#define UNSHUFFLE(T) (int f, Size in, const T *x, Size out, T *y)
FOR_FLOATS(pixel_unshuffle, UNSHUFFLE, pixel_unshuffle<T>(f, in, x, out, y))
