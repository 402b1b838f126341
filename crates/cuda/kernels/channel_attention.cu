// Attention between the channels of patches of 64 pixels, in f16 or bf16 with sums in f32, forward and backward.
//
//   out[n][c] = sum over d of softmax_d(t * q^[c] . k^[d]) * v[n][d],   q^[c] = q[.][c] / max(|q[.][c]|, epsilon)
//
// | argument | shape |
// |---|---|
// | x | patches x 64 pixels of 3 * channels: queries, keys, values; channels are a multiple of 4, at most 64 |
// | temperature | t, f32 [1] |
// | y, g | patches x 64 pixels of `channels`, the result and its gradient |
// | of_x | gradient of x, laid out as x |
// | of_temperature | f32 [patches]: what each patch adds to the gradient of t |
//
// A block of four warps takes a patch. With S = t q^ k^T, A = softmax(S) and dS = A . (dA - rowsum(A . dA)):
//
//   dv[n][d] = sum_c A[c][d] g[n][c];   dA[c][d] = sum_n g[n][c] v[n][d];   dt = sum dS . S / t
//   dq[n][c] = sum_d E[c][d] k[n][d] - q[n][c] / |q[c]|^2 * sum_d dS[c][d] S[c][d],   E = t dS / (|q[c]| |k[d]|), and dk likewise
#include "transformer.cuh"

struct Patches {
  int64_t x_stride, y_stride, of_x_stride; // elements from pixel to pixel; y_stride is that of g too
  int channels;
  float epsilon;
};

constexpr int PIXELS = 64;
template <class T> using Tile = T[PIXELS * PITCH];

// 64 pixels of `channels`, zeros beyond, eight bytes at a time.
template <class T> __device__ void load_tile(Tile<T> &tile, const T *from, int64_t stride, int channels) {
#pragma unroll
  for (int i = threadIdx.x; i < PIXELS * 16; i += 128) {
    const int pixel = i / 16, c = i % 16 * 4;
    const uint2 v = c < channels ? *reinterpret_cast<const uint2 *>(from + pixel * stride + c) : make_uint2(0, 0);
    *reinterpret_cast<uint2 *>(tile + pixel * PITCH + c) = v;
  }
}

// sum[c][d] = sum over pixels of left[n][c] * right[n][d]: 16 rows of c a warp, all d.
template <class T> __device__ void between_channels(float (&sum)[8][4], const Tile<T> &left, const Tile<T> &right) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t from = shared_address(left) + left_turned_at(lane, PITCH) + warp * 32;
  const uint32_t other = shared_address(right) + right_turned_at(lane, PITCH);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    uint32_t a[4];
    load_transposed(a, from + k * 16 * PITCH * 2);
#pragma unroll
    for (int t = 0; t < 4; t++) {
      uint32_t b[4];
      load_transposed(b, other + k * 16 * PITCH * 2 + t * 32);
      mma(T(), sum[2 * t], a, b[0], b[1]);
      mma(T(), sum[2 * t + 1], a, b[2], b[3]);
    }
  }
}

// sum[n][o] = sum over i of left[n][i] * m[o][i], or * m[i][o] if TURNED: 16 pixels a warp, all o.
template <class T, bool TURNED> __device__ void of_pixels(float (&sum)[8][4], const Tile<T> &left, const Tile<T> &m) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t from = shared_address(left) + left_at(lane, PITCH) + warp * 16 * PITCH * 2;
  const uint32_t other = shared_address(m) + (TURNED ? right_turned_at(lane, PITCH) : right_at(lane, PITCH));
#pragma unroll
  for (int k = 0; k < 4; k++) {
    uint32_t a[4];
    load_matrices(a, from + k * 32);
#pragma unroll
    for (int t = 0; t < 4; t++) {
      uint32_t b[4];
      if (TURNED) load_transposed(b, other + k * 16 * PITCH * 2 + t * 32);
      else load_matrices(b, other + t * 16 * PITCH * 2 + k * 32);
      mma(T(), sum[2 * t], a, b[0], b[1]);
      mma(T(), sum[2 * t + 1], a, b[2], b[3]);
    }
  }
}

// Stores channels of the warp's 16 pixels.
template <class T> __device__ void store_pixels(const float (&sum)[8][4], T *to, int64_t stride, int channels) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int t = 0; t < 8; t++) {
    const int c = t * 8 + 2 * (lane % 4);
    if (c >= channels) continue;
#pragma unroll
    for (int half = 0; half < 2; half++)
      word(to + (row + half * 8) * stride + c) = pack2(T(), sum[t][2 * half], sum[t][2 * half + 1]);
  }
}

// Stores a warp's 16 rows of a matrix of channels.
template <class T> __device__ void put_rows(const float (&sum)[8][4], Tile<T> &to) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int t = 0; t < 8; t++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      word(to + (row + half * 8) * PITCH + t * 8 + 2 * (lane % 4)) = pack2(T(), sum[t][2 * half], sum[t][2 * half + 1]);
}

// 1 / max(|x|, epsilon) of each channel of queries and keys; negative where epsilon is the larger.
template <class T>
__device__ void lengths(float (&inverse)[2][PIXELS], const Tile<T> &queries, const Tile<T> &keys, float epsilon) {
  const int c = threadIdx.x % 64, which = threadIdx.x / 64;
  const T *from = (which ? keys : queries) + c;
  float square = 0.0f;
#pragma unroll 8
  for (int n = 0; n < PIXELS; n++) {
    const float v = up(from[n * PITCH]);
    square += v * v;
  }
  const float length = sqrtf(square);
  inverse[which][c] = length > epsilon ? 1.0f / length : -1.0f / epsilon;
}

__device__ inline float over_quad(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

// From products of queries and keys to cosines, and to their softmax times the temperature.
__device__ inline void attend(float (&cosine)[8][4], float (&share)[8][4], const float (&inverse)[2][PIXELS], float temperature,
                              int channels) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float scale = fabsf(inverse[0][row + half * 8]);
    float most = -INFINITY, total = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const int d = i / 2 * 8 + 2 * (lane % 4) + i % 2;
      float &cos = cosine[i / 2][2 * half + i % 2], &s = share[i / 2][2 * half + i % 2];
      cos = d < channels ? cos * scale * fabsf(inverse[1][d]) : 0.0f;
      s = d < channels ? cos * temperature : -INFINITY;
      most = fmaxf(most, s);
    }
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
#pragma unroll
    for (int i = 0; i < 16; i++) {
      float &s = share[i / 2][2 * half + i % 2];
      s = __expf(s - most);
      total += s;
    }
    const float factor = 1.0f / over_quad(total);
#pragma unroll
    for (int i = 0; i < 16; i++) share[i / 2][2 * half + i % 2] *= factor;
  }
}

template <class T> __device__ void channel_attention(const Patches &p, const T *x, const float *temperature, T *y) {
  __shared__ __align__(16) Tile<T> queries, keys, values, shares;
  __shared__ float inverse[2][PIXELS];
  const int64_t first = int64_t(blockIdx.x) * PIXELS;
  load_tile(queries, x + first * p.x_stride, p.x_stride, p.channels);
  load_tile(keys, x + first * p.x_stride + p.channels, p.x_stride, p.channels);
  load_tile(values, x + first * p.x_stride + 2 * p.channels, p.x_stride, p.channels);
  __syncthreads();
  lengths<T>(inverse, queries, keys, p.epsilon);
  float cosine[8][4] = {}, share[8][4];
  between_channels<T>(cosine, queries, keys);
  __syncthreads();
  attend(cosine, share, inverse, *temperature, p.channels);
  put_rows<T>(share, shares);
  __syncthreads();
  float mixed[8][4] = {};
  of_pixels<T, false>(mixed, values, shares);
  store_pixels(mixed, y + first * p.y_stride, p.y_stride, p.channels);
}

// sum -= rows of a tile, times a factor of each channel.
template <class T> __device__ void take_along(float (&sum)[8][4], const Tile<T> &tile, const float (&factor)[PIXELS]) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int t = 0; t < 8; t++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int c = t * 8 + 2 * (lane % 4);
      const float2 v = unpack2(T(), word(tile + (row + half * 8) * PITCH + c));
      sum[t][2 * half] -= v.x * factor[c];
      sum[t][2 * half + 1] -= v.y * factor[c + 1];
    }
}

template <class T>
__device__ void channel_attention_backward(const Patches &p, const T *x, const float *temperature, const T *g, T *of_x,
                                           float *of_temperature) {
  // The gradient of scores takes the place of values.
  __shared__ __align__(16) Tile<T> queries, keys, values, grads, shares;
  __shared__ float inverse[2][PIXELS], along[2][PIXELS], columns[4][PIXELS];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp * 16 + lane / 4;
  const int64_t first = int64_t(blockIdx.x) * PIXELS;
  load_tile(queries, x + first * p.x_stride, p.x_stride, p.channels);
  load_tile(keys, x + first * p.x_stride + p.channels, p.x_stride, p.channels);
  load_tile(values, x + first * p.x_stride + 2 * p.channels, p.x_stride, p.channels);
  load_tile(grads, g + first * p.y_stride, p.y_stride, p.channels);
  __syncthreads();
  lengths<T>(inverse, queries, keys, p.epsilon);
  float cosine[8][4] = {}, share[8][4], grad[8][4] = {};
  between_channels<T>(cosine, queries, keys);
  between_channels<T>(grad, grads, values);
  __syncthreads();
  const float t = *temperature;
  attend(cosine, share, inverse, t, p.channels);
  put_rows<T>(share, shares);
  // From here on `grad` is the gradient of the scores, and then that of the products of queries and keys.
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float dot = 0.0f, total = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) dot += share[i / 2][2 * half + i % 2] * grad[i / 2][2 * half + i % 2];
    dot = over_quad(dot);
#pragma unroll
    for (int i = 0; i < 16; i++) {
      float &v = grad[i / 2][2 * half + i % 2];
      v = share[i / 2][2 * half + i % 2] * (v - dot);
      total += v * cosine[i / 2][2 * half + i % 2];
    }
    total = over_quad(total);
    if (lane % 4 == 0) along[0][row + half * 8] = total;
  }
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const int at = i / 2, e = i % 2, d = at * 8 + 2 * (lane % 4) + e;
    float total = grad[at][e] * cosine[at][e] + grad[at][2 + e] * cosine[at][2 + e];
    for (int step = 4; step < 32; step *= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
    if (lane < 4) columns[warp][d] = total;
    const float scale = d < p.channels ? t * fabsf(inverse[1][d]) : 0.0f;
    grad[at][e] *= scale * fabsf(inverse[0][row]);
    grad[at][2 + e] *= scale * fabsf(inverse[0][row + 8]);
  }
  put_rows<T>(grad, values);
  __syncthreads();
  if (warp == 0) {
    const float all = warp_sum(along[0][lane] + along[0][lane + 32]);
    if (lane == 0) of_temperature[blockIdx.x] = all;
    __syncwarp();
  }
  __syncthreads();
  if (threadIdx.x < PIXELS) {
    const int c = threadIdx.x;
    // A length that is constant takes nothing.
    auto factor = [&](int which, float total) {
      const float i = inverse[which][c];
      return c < p.channels && i > 0.0f ? t * total * i * i : 0.0f;
    };
    along[1][c] = factor(1, columns[0][c] + columns[1][c] + columns[2][c] + columns[3][c]);
    along[0][c] = factor(0, along[0][c]);
  }
  __syncthreads();
  T *to = of_x + first * p.of_x_stride;
  float sum[8][4] = {};
  of_pixels<T, false>(sum, keys, values);
  take_along<T>(sum, queries, along[0]);
  store_pixels(sum, to, p.of_x_stride, p.channels);
  float of_keys[8][4] = {};
  of_pixels<T, true>(of_keys, queries, values);
  take_along<T>(of_keys, keys, along[1]);
  store_pixels(of_keys, to + p.channels, p.of_x_stride, p.channels);
  float of_values[8][4] = {};
  of_pixels<T, true>(of_values, grads, shares);
  store_pixels(of_values, to + 2 * p.channels, p.of_x_stride, p.channels);
}

#define CHANNEL_ATTENTION(T)                                                                                              \
  extern "C" __global__ void __launch_bounds__(128)                                                                      \
      channel_attention_##T(Patches p, const T *x, const float *temperature, T *y) {                                     \
    channel_attention(p, x, temperature, y);                                                                             \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(128)                                                                      \
      channel_attention_backward_##T(Patches p, const T *x, const float *temperature, const T *g, T *of_x,               \
                                     float *of_temperature) {                                                            \
    channel_attention_backward(p, x, temperature, g, of_x, of_temperature);                                              \
  }
CHANNEL_ATTENTION(f16)
CHANNEL_ATTENTION(bf16)
