// Convolution of channels-last images: 1x1, stride 1, without padding, f16 or bf16. See conv.cu.
//
// 1x1, stride 1, without padding (f16, bf16): 256 pixels and NT tiles of 8 output channels a block, permuted; CHUNKS chunks of 16
// input channels, or as many as there are if 0. blockIdx.y counts groups of NT tiles, of `pairs` pairs in all. Bound by memory:
// pixels of results and residuals lie at multiples of 16 channels, and what is between channels and their padding is
// written and read as well.
#include "conv.cuh"

constexpr int POINTS = 256;

template <class T, int NT, int CHUNKS>
__device__ void conv_point(const Conv &p, int pairs, const T *x, const uint4 *w, const float *bias, const T *residual,
                           T *y) {
  extern __shared__ uint4 memory[];
  const int chunks = CHUNKS > 0 ? CHUNKS : (p.in_channels + 15) / 16, pitch = chunks * 16 + 8, eighths = chunks * 2;
  T *tile = reinterpret_cast<T *>(memory);
  const int64_t pixels = int64_t(p.n) * p.height * p.width, first = int64_t(blockIdx.x) * POINTS;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < POINTS * eighths; i += POINTS) {
    const int part = i % eighths, pixel = i / eighths;
    const int bytes = first + pixel < pixels ? 2 * min(max(p.in_channels - part * 8, 0), 8) : 0;
    copy_async(shared_address(tile + pixel * pitch + part * 8), bytes ? x + (first + pixel) * p.x_stride + part * 8 : x,
               bytes);
  }
  commit();
  const int o0 = blockIdx.y * NT * 8;
  const uint4 *weights = w + blockIdx.y * (NT / 2) * 32 + lane;
  float sum[2][NT][4];
  start<NT>(sum[0], bias + o0, p.out_channels - o0);
#pragma unroll
  for (int j = 0; j < NT; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) sum[1][j][e] = sum[0][j][e];
  wait_for<0>();
  __syncthreads();
  const uint32_t base = shared_address(tile + (warp * 32 + lane % 16) * pitch + lane / 16 * 8);
#pragma unroll
  for (int c = 0; c < chunks; c++) {
    uint32_t a[2][4];
    load_matrices(a[0], base + c * 32);
    load_matrices(a[1], base + c * 32 + 16 * pitch * 2);
#pragma unroll
    for (int j = 0; j < NT / 2; j++) {
      const uint4 v = __ldg(weights + (c * pairs + j) * 32);
      mma(T(), sum[0][2 * j], a[0], v.x, v.y);
      mma(T(), sum[1][2 * j], a[1], v.x, v.y);
      mma(T(), sum[0][2 * j + 1], a[0], v.z, v.w);
      mma(T(), sum[1][2 * j + 1], a[1], v.z, v.w);
    }
  }
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t pixel = first + warp * 32 + m * 16 + half * 8 + lane / 4;
      for_runs<NT>(sum[m], half, [&](int at, auto &v) {
        constexpr int N = sizeof(v) / sizeof(float);
        const int o = o0 + at;
        if (pixel >= pixels || o >= p.out_channels) return;
        if (residual) {
          const auto r = *reinterpret_cast<const Pack<uint32_t, N / 2> *>(residual + pixel * p.residual_stride + o);
#pragma unroll
          for (int i = 0; i < N / 2; i++) {
            const float2 u = unpack2(T(), r.v[i]);
            v[2 * i] = finish(p, v[2 * i], u.x);
            v[2 * i + 1] = finish(p, v[2 * i + 1], u.y);
          }
        } else {
#pragma unroll
          for (int i = 0; i < N; i++) v[i] = leaky(p.slope, v[i]);
        }
        store_run(y + pixel * p.y_stride + o, v);
      });
    }
  }
}

#define POINT_KERNEL(T, NT, CHUNKS)                                                                                   \
  extern "C" __global__ void __launch_bounds__(POINTS, 2) conv_point_##NT##_##CHUNKS##_##T(                           \
      Conv p, int pairs, const T *x, const uint4 *w, const float *bias, const T *residual, T *y) {                    \
    conv_point<T, NT, CHUNKS>(p, pairs, x, w, bias, residual, y);                                                     \
  }
#define POINT_KERNELS(T)                                                                                              \
  POINT_KERNEL(T, 2, 0)                                                                                               \
  POINT_KERNEL(T, 2, 1)                                                                                               \
  POINT_KERNEL(T, 2, 3)                                                                                               \
  POINT_KERNEL(T, 6, 0)                                                                                               \
  POINT_KERNEL(T, 6, 1)                                                                                               \
  POINT_KERNEL(T, 6, 3)                                                                                               \
  POINT_KERNEL(T, 8, 0)
POINT_KERNELS(f16)
POINT_KERNELS(bf16)
