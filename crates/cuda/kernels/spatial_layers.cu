// The parts of a transformer layer that mixes pixels by large depthwise kernels.
//
//   spatial_mix:   y = x + last * (value . (mix * far(near)))        far: depthwise 7x7, dilation 3
//   feed_forward:  y = x + output * (gelu(depthwise(gate * normal(x))) . depthwise(pass * normal(x)))    depthwise 3x3
//
// All maps are n x height x width pixels of 64 channels, height and width multiples of 8; weights are as in patch_layers.cu, and
// the taps of `far` are f32 [49][64].
#include "transformer.cuh"

// --------------------------------------------------------------------------------------------------------------------- mix

struct Mix {
  const float *far, *far_bias; // the bias is [64]
  const uint4 *mix, *last;
  const float *mix_bias, *last_bias;
};

// A block of six warps takes 8 rows of 12 pixels. A thread convolves 8 channels of every third pixel, four of them; then a warp
// multiplies 16 pixels.
constexpr int MIX_H = 8, MIX_W = 12;

template <class T>
__device__ void spatial_mix(const Map &g, const Mix &f, const T *near, const T *value, const T *x, T *y) {
  __shared__ __align__(16) T tile[MIX_H * MIX_W * PITCH];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q = lane % 4;
  const int y0 = blockIdx.y * MIX_H, x0 = blockIdx.x * MIX_W;
  const int64_t picture = int64_t(blockIdx.z) * g.height * g.width * WIDTH;
  {
    const int row = threadIdx.x / 24, phase = threadIdx.x % 24 / 8, c = threadIdx.x % 8 * 8;
    float sum[4][8];
#pragma unroll
    for (int e = 0; e < 8; e++) sum[0][e] = sum[1][e] = sum[2][e] = sum[3][e] = __ldg(f.far_bias + c + e);
#pragma unroll 1
    for (int ky = 0; ky < 7; ky++) {
      const int iy = y0 + row + (ky - 3) * 3;
      if (iy < 0 || iy >= g.height) continue;
      float w[7][8];
#pragma unroll
      for (int kx = 0; kx < 7; kx++) {
        const float4 *from = reinterpret_cast<const float4 *>(f.far + (ky * 7 + kx) * WIDTH + c);
        const float4 a = __ldg(from), b = __ldg(from + 1);
        w[kx][0] = a.x, w[kx][1] = a.y, w[kx][2] = a.z, w[kx][3] = a.w;
        w[kx][4] = b.x, w[kx][5] = b.y, w[kx][6] = b.z, w[kx][7] = b.w;
      }
      const T *line = near + picture + int64_t(iy) * g.width * WIDTH + c;
#pragma unroll
      for (int k = 0; k < 10; k++) {
        const int ix = x0 + phase + (k - 3) * 3;
        if (ix < 0 || ix >= g.width) continue;
        float v[8];
        unpack8<T>(v, __ldg(reinterpret_cast<const uint4 *>(line + ix * WIDTH)));
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (k - i < 0 || k - i > 6) continue;
#pragma unroll
          for (int e = 0; e < 8; e++) sum[i][e] += w[k - i][e] * v[e];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
      *reinterpret_cast<uint4 *>(tile + (row * MIX_W + phase + 3 * i) * PITCH + c) = pack8<T>(sum[i]);
  }
  __syncthreads();

  uint32_t a[4][4];
  const uint32_t left = shared_address(tile + warp * 16 * PITCH) + left_at(lane, PITCH);
#pragma unroll
  for (int k = 0; k < 4; k++) load_matrices(a[k], left + k * 32);
  int64_t at[2];
  bool inside[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int p = warp * 16 + half * 8 + lane / 4, oy = y0 + p / MIX_W, ox = x0 + p % MIX_W;
    inside[half] = oy < g.height && ox < g.width;
    at[half] = picture + (int64_t(oy) * g.width + ox) * WIDTH + 2 * q;
  }
  float sum[8][4];
#pragma unroll
  for (int turn = 0; turn < 2; turn++) {
    const uint4 *weights = (turn == 0 ? f.mix : f.last) + lane;
    const float *bias = turn == 0 ? f.mix_bias : f.last_bias;
#pragma unroll
    for (int t = 0; t < 8; t++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int o = t * 8 + 2 * q + e;
        sum[t][e] = sum[t][2 + e] = o < g.channels ? __ldg(bias + o) : 0.0f;
      }
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
      for (int t = 0; t < 4; t++) {
        const uint4 v = __ldg(weights + (k * 4 + t) * 32);
        mma(T(), sum[2 * t], a[k], v.x, v.y);
        mma(T(), sum[2 * t + 1], a[k], v.z, v.w);
      }
    if (turn == 1) break;
#pragma unroll
    for (int t = 0; t < 8; t++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float2 v = make_float2(0.0f, 0.0f);
        if (inside[half]) v = unpack2(T(), word(value + at[half] + t * 8));
        // Tiles 2 k and 2 k + 1 become slice k of the next product's left operand.
        a[t / 2][t % 2 * 2 + half] = pack2(T(), sum[t][2 * half] * v.x, sum[t][2 * half + 1] * v.y);
      }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (!inside[half]) continue;
#pragma unroll
    for (int t = 0; t < 8; t++) {
      const int o = t * 8 + 2 * q;
      const float2 v = unpack2(T(), word(x + at[half] + t * 8));
      word(y + at[half] + t * 8) = pack2(T(), o < g.channels ? sum[t][2 * half] + v.x : 0.0f,
                                         o + 1 < g.channels ? sum[t][2 * half + 1] + v.y : 0.0f);
    }
  }
}

extern "C" __global__ void __launch_bounds__(192) spatial_mix_f16(Map g, Mix f, const f16 *near, const f16 *value, const f16 *x,
                                                                 f16 *y) {
  spatial_mix(g, f, near, value, x, y);
}
extern "C" __global__ void __launch_bounds__(192) spatial_mix_bf16(Map g, Mix f, const bf16 *near, const bf16 *value,
                                                                  const bf16 *x, bf16 *y) {
  spatial_mix(g, f, near, value, x, y);
}

// ------------------------------------------------------------------------------------------------------------ feed-forward

struct FeedForward {
  const uint4 *gate, *pass, *output;
  const float *gate_bias, *pass_bias, *output_bias;
  const float *gate_taps, *pass_taps;
  int hidden;
};

// A block of four warps makes 8 x 8 pixels from 10 x 10, in four rounds of 32 channels behind the gate.
constexpr int SEEN = 10, SEEN_ROWS = 112; // 100 pixels, rounded up to whole tiles

template <class T>
__device__ void feed_forward(const Map &g, const FeedForward &f, const T *x, T *y, const FirstProducts &next) {
  extern __shared__ uint4 memory[];
  T *normal = reinterpret_cast<T *>(memory), *seen = normal + SEEN_ROWS * PITCH, *gated = seen + SEEN_ROWS * PITCH;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int y0 = blockIdx.y * 8 - 1, x0 = blockIdx.x * 8 - 1;
  const int64_t picture = int64_t(blockIdx.z) * g.height * g.width;
  auto inside = [&](int p) {
    const int iy = y0 + p / SEEN, ix = x0 + p % SEEN;
    return p < SEEN * SEEN && iy >= 0 && iy < g.height && ix >= 0 && ix < g.width;
  };
#pragma unroll
  for (int i = 0; i < SEEN_ROWS * 8 / 128; i++) {
    const int p = (threadIdx.x + i * 128) / 8, part = threadIdx.x % 8;
    float v[8] = {};
    if (inside(p)) {
      const int64_t pixel = picture + int64_t(y0 + p / SEEN) * g.width + x0 + p % SEEN;
      unpack8<T>(v, *reinterpret_cast<const uint4 *>(x + pixel * WIDTH + part * 8));
    }
    normalise(g, part, v);
    *reinterpret_cast<uint4 *>(normal + p * PITCH + part * 8) = pack8<T>(v);
  }
  __syncthreads();

#pragma unroll 1
  for (int round = 0; round < 4; round++) {
    // Two warps make what is gated, two what passes.
    const bool passes = warp >= 2;
    const int pair = round * 2 + warp % 2;
    {
      float sum[7][2][4];
      put_bias<7>(sum, passes ? f.pass_bias : f.gate_bias, pair * 16, f.hidden);
      const uint4 *weights = (passes ? f.pass : f.gate) + pair * 32 + lane;
      product<T, 7, 4>(sum, shared_address(normal) + left_at(lane, PITCH), PITCH * 2, weights, 8);
      if (round > 0) __syncthreads();
      for_pairs<7>(sum, [&](int p, int j, float a, float b) {
        word(seen + p * PITCH + warp * 16 + j * 8 + 2 * (lane % 4)) = inside(p) ? pack2(T(), a, b) : 0;
      });
    }
    __syncthreads();
    // Half a warp convolves 32 channels that are gated, half those that pass: columns 2 * warp and the one after.
    const float *taps = (lane < 16 ? f.gate_taps : f.pass_taps) + round * 32 + lane % 16 * 2;
    float2 w[9], out[8][2];
#pragma unroll
    for (int tap = 0; tap < 9; tap++) w[tap] = __ldg(reinterpret_cast<const float2 *>(taps + tap * GATED));
#pragma unroll
    for (int oy = 0; oy < 8; oy++) out[oy][0] = out[oy][1] = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int iy = 0; iy < SEEN; iy++) {
      float2 v[4];
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = unpack2(T(), word(seen + (iy * SEEN + 2 * warp + i) * PITCH + lane * 2));
#pragma unroll
      for (int ky = 0; ky < 3; ky++) {
        const int oy = iy - ky;
        if (oy < 0 || oy > 7) continue;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int kx = 0; kx < 3; kx++) {
            out[oy][i].x += w[ky * 3 + kx].x * v[i + kx].x;
            out[oy][i].y += w[ky * 3 + kx].y * v[i + kx].y;
          }
      }
    }
    // Each half gates four of the eight rows.
    const bool low = lane < 16;
#pragma unroll
    for (int oy = 0; oy < 4; oy++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const float2 send = low ? out[oy + 4][i] : out[oy][i];
        const float2 got = make_float2(__shfl_xor_sync(0xffffffffu, send.x, 16), __shfl_xor_sync(0xffffffffu, send.y, 16));
        const float2 a = low ? out[oy][i] : got, b = low ? got : out[oy + 4][i];
        const int p = (low ? oy : oy + 4) * 8 + 2 * warp + i;
        word(gated + p * GATED_PITCH + round * 32 + lane % 16 * 2) = pack2(T(), quick_gelu(a.x) * b.x, quick_gelu(a.y) * b.y);
      }
  }
  float state[4][2][4];
  load_state(g, state, x);
  put_bias<4, true>(state, f.output_bias, warp * 16, g.channels);
  __syncthreads();
  product<T, 4, 8>(state, shared_address(gated) + left_at(lane, GATED_PITCH), GATED_PITCH * 2, f.output + warp * 32 + lane, 4);
  finish(g, state, y, next, normal);
}

extern "C" __global__ void __launch_bounds__(128, 4) feed_forward_f16(Map g, FeedForward f, const f16 *x, f16 *y,
                                                                     const __grid_constant__ FirstProducts next) {
  feed_forward(g, f, x, y, next);
}
extern "C" __global__ void __launch_bounds__(128, 4) feed_forward_bf16(Map g, FeedForward f, const bf16 *x, bf16 *y,
                                                                     const __grid_constant__ FirstProducts next) {
  feed_forward(g, f, x, y, next);
}
