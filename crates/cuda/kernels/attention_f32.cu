// Attention in f32 without tensor cores; arguments as in `attention.cu`, any d up to 256.
//
// A block takes 32 queries of a head and goes over the keys 32 at a time. Eight adjacent threads share a query: each has the
// scores of four keys, and of the result four columns in 32.
#include "attention.cuh"

constexpr int SIDE = 32;

template <int D>
__device__ __forceinline__ void attention_f32(const Attention &p, const float *q, const float *k, const float *v, float *o, float *lse) {
  constexpr int PITCH = D + 4;
  extern __shared__ __align__(16) float rows[];
  float *queries = rows, *keys = queries + SIDE * PITCH, *values = keys + SIDE * PITCH;
  const int line = threadIdx.x / 8, part = threadIdx.x % 8;
  const int head = blockIdx.y, batch = blockIdx.z, row0 = (gridDim.x - 1 - blockIdx.x) * SIDE, row = row0 + line;
  const int kv_head = head / (p.q_heads / p.kv_heads), before = p.k_len - p.q_len;
  q += batch * p.q_step[0] + head * p.q_step[2];
  k += batch * p.k_step[0] + kv_head * p.k_step[2];
  v += batch * p.v_step[0] + kv_head * p.v_step[2];
  const int seen = p.causal ? min(p.k_len, max(0, min(row0 + SIDE, p.q_len) + before)) : p.k_len;
  auto load = [&](float *to, const float *from, int64_t step, int first, int count) {
    for (int i = threadIdx.x; i < SIDE * D; i += 256) {
      const int at = i / D, c = i % D;
      to[at * PITCH + c] = first + at < count && c < p.d ? from[(first + at) * step + c] : 0.0f;
    }
  };
  load(queries, q, p.q_step[1], row0, p.q_len);
  float out[D / 32][4] = {};
  float most = -INFINITY, sum = 0.0f;
  for (int first = 0; first < seen; first += SIDE) {
    __syncthreads();
    load(keys, k, p.k_step[1], first, p.k_len);
    load(values, v, p.v_step[1], first, p.k_len);
    __syncthreads();
    float score[4] = {};
#pragma unroll 4
    for (int c = 0; c < D; c += 4) {
      const float4 a = *reinterpret_cast<const float4 *>(&queries[line * PITCH + c]);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float4 b = *reinterpret_cast<const float4 *>(&keys[(part + 8 * j) * PITCH + c]);
        score[j] += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
      }
    }
    float now = most;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int key = first + part + 8 * j;
      score[j] = key < p.k_len && (!p.causal || key <= row + before) ? score[j] * p.scale : -INFINITY;
      now = fmaxf(now, score[j]);
    }
#pragma unroll
    for (int step = 1; step < 8; step *= 2) now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, step));
    const float shift = now == -INFINITY ? 0.0f : now, shrink = expf(most - shift);
    most = now;
    sum *= shrink;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      score[j] = expf(score[j] - shift);
      sum += score[j];
    }
#pragma unroll
    for (int i = 0; i < D / 32; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) out[i][e] *= shrink;
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll 2
      for (int other = 0; other < 8; other++) {
        const float weight = __shfl_sync(0xffffffffu, score[j], other, 8);
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
          const float4 b = *reinterpret_cast<const float4 *>(&values[(j * 8 + other) * PITCH + i * 32 + part * 4]);
          out[i][0] += weight * b.x;
          out[i][1] += weight * b.y;
          out[i][2] += weight * b.z;
          out[i][3] += weight * b.w;
        }
      }
  }
#pragma unroll
  for (int step = 1; step < 8; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (row >= p.q_len) return;
  const float share = sum > 0.0f ? 1.0f / sum : 0.0f;
  if (lse && part == 0)
    lse[(int64_t(batch) * p.q_heads + head) * p.q_len + row] = sum > 0.0f ? most + logf(sum) : -INFINITY;
  o += batch * p.o_step[0] + head * p.o_step[2] + row * p.o_step[1];
#pragma unroll
  for (int i = 0; i < D / 32; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int c = i * 32 + part * 4 + e;
      if (c < p.d) o[c] = out[i][e] * share;
    }
}

#define ATTENTION_F32(D)                                                                                       \
  extern "C" __global__ void __launch_bounds__(256) attention_##D##_f32(Attention p, const float *q, const float *k, \
                                                                        const float *v, float *o, float *lse) { \
    attention_f32<D>(p, q, k, v, o, lse);                                                                       \
  }
ATTENTION_F32(64)
ATTENTION_F32(128)
ATTENTION_F32(256)
