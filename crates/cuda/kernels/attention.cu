// Attention on tensor cores of all GPUs since 8.0: o = softmax(scale * q * k^T) * v, in tiles, with a running maximum.
//
// | argument | shape |
// |---|---|
// | q, o | batch x q_len x q_heads x d, each dimension but the last with a step of its own |
// | k, v | batch x k_len x kv_heads x d; query head h sees key head h / (q_heads / kv_heads) |
// | lse | batch x q_heads x q_len, f32: the logarithm of the sum of exponents, or null |
//
// Elements are f16 or bf16, sums and the softmax f32. d is a multiple of 8 up to D, rows are padded with zeros. With `causal`,
// query i sees keys up to k_len - q_len + i; a query that sees none gets zeros and -inf.
//
// A block takes ROWS queries of a head, a warp TILES * 16 of them, and goes over the keys 64 at a time, from the last to the first.
// (Source: Dao, "FlashAttention-2", arXiv 2307.08691.)
#include "attention.cuh"

template <class T, int D, int TILES>
__device__ __forceinline__ void attention(const Attention &p, const T *q, const T *k, const T *v, T *o, float *lse) {
  constexpr int WARPS = 4, ROWS = WARPS * TILES * 16, THREADS = WARPS * 32;
  using L = RowLayout<D>;
  extern __shared__ __align__(128) char memory[];
  const uint32_t q_at = shared_address(memory), k_at = q_at + ROWS * L::PITCH, v_at = k_at + KEYS * L::PITCH;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quad = lane % 4;
  // The longest come first: with `causal`, those are the last.
  const int head = blockIdx.y, batch = blockIdx.z, row0 = (gridDim.x - 1 - blockIdx.x) * ROWS;
  const int kv_head = head / (p.q_heads / p.kv_heads), before = p.k_len - p.q_len;
  q += batch * p.q_step[0] + head * p.q_step[2];
  k += batch * p.k_step[0] + kv_head * p.k_step[2];
  v += batch * p.v_step[0] + kv_head * p.v_step[2];
  const int seen = p.causal ? min(p.k_len, max(0, min(row0 + ROWS, p.q_len) + before)) : p.k_len;
  const int tiles = (seen + KEYS - 1) / KEYS;

  float out[TILES][D / 8][4] = {};
  float most[TILES][2], sum[TILES][2] = {};
#pragma unroll
  for (int t = 0; t < TILES; t++) most[t][0] = most[t][1] = -INFINITY;
  const float factor = p.scale * 1.4426950408889634f; // exponents are of 2

  load_rows<D, ROWS, THREADS>(q_at, q, p.q_step[1], row0, p.q_len, p.d);
  if (tiles > 0) load_rows<D, KEYS, THREADS>(k_at, k, p.k_step[1], (tiles - 1) * KEYS, p.k_len, p.d);
  commit();

  for (int tile = tiles - 1; tile >= 0; tile--) {
    wait_for<0>();
    __syncthreads();
    load_rows<D, KEYS, THREADS>(v_at, v, p.v_step[1], tile * KEYS, p.k_len, p.d);
    commit();

    float score[TILES][KEYS / 8][4] = {};
#pragma unroll
    for (int c = 0; c < D / 16; c++) {
      uint32_t a[TILES][4];
#pragma unroll
      for (int t = 0; t < TILES; t++)
        load_matrices(a[t], q_at + L::at((warp * TILES + t) * 16 + lane % 16, c * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < KEYS / 16; n++) {
        uint32_t b[4];
        load_matrices(b, k_at + L::at(n * 16 + (lane / 16) * 8 + lane % 8, c * 2 + lane / 8 % 2));
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          mma(T(), score[t][2 * n], a[t], b[0], b[1]);
          mma(T(), score[t][2 * n + 1], a[t], b[2], b[3]);
        }
      }
    }
    wait_for<0>();
    __syncthreads();
    if (tile > 0) {
      load_rows<D, KEYS, THREADS>(k_at, k, p.k_step[1], (tile - 1) * KEYS, p.k_len, p.d);
      commit();
    }

    const bool masked = (tile + 1) * KEYS > p.k_len || (p.causal && (tile + 1) * KEYS - 1 > row0 + warp * TILES * 16 + before);
    if (masked) {
#pragma unroll
      for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const int row = row0 + (warp * TILES + t) * 16 + lane / 4 + (e / 2) * 8;
            const int key = tile * KEYS + n * 8 + quad * 2 + e % 2;
            if (key >= p.k_len || (p.causal && key > row + before)) score[t][n][e] = -INFINITY;
          }
    }
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float now = most[t][half];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) now = fmaxf(now, fmaxf(score[t][n][2 * half], score[t][n][2 * half + 1]));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
        // Where nothing was seen yet, any finite number will do.
        const float shift = now == -INFINITY ? 0.0f : now * factor;
        const float shrink = power_of_two(most[t][half] * factor - shift);
        most[t][half] = now;
        float total = 0.0f;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++) {
            score[t][n][e] = power_of_two(score[t][n][e] * factor - shift);
            total += score[t][n][e];
          }
        sum[t][half] = sum[t][half] * shrink + total;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
          out[t][n][2 * half] *= shrink;
          out[t][n][2 * half + 1] *= shrink;
        }
      }

#pragma unroll
    for (int c = 0; c < KEYS / 16; c++) {
      uint32_t a[TILES][4];
#pragma unroll
      for (int t = 0; t < TILES; t++) to_operand(T(), a[t], score[t][2 * c], score[t][2 * c + 1]);
#pragma unroll
      for (int n = 0; n < D / 16; n++) {
        uint32_t b[4];
        load_matrices_turned(b, v_at + L::at(c * 16 + lane / 8 % 2 * 8 + lane % 8, n * 2 + lane / 16));
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          mma(T(), out[t][2 * n], a[t], b[0], b[1]);
          mma(T(), out[t][2 * n + 1], a[t], b[2], b[3]);
        }
      }
    }
  }

  // Results go through the memory of the queries, of which each warp has its own rows.
  wait_for<0>();
  __syncthreads();
#pragma unroll
  for (int t = 0; t < TILES; t++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = sum[t][half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const float share = total > 0.0f ? 1.0f / total : 0.0f;
      const int line = (warp * TILES + t) * 16 + lane / 4 + half * 8, row = row0 + line;
      if (lse && quad == 0 && row < p.q_len)
        lse[(int64_t(batch) * p.q_heads + head) * p.q_len + row] =
            total > 0.0f ? most[t][half] * p.scale + logf(total) : -INFINITY;
#pragma unroll
      for (int n = 0; n < D / 8; n++)
        *reinterpret_cast<uint32_t *>(memory + L::at(line, n) + quad * 4) =
            pack2(T(), out[t][n][2 * half] * share, out[t][n][2 * half + 1] * share);
    }
  __syncwarp();
  o += batch * p.o_step[0] + head * p.o_step[2];
  for (int i = lane; i < TILES * 16 * (D / 8); i += 32) {
    const int line = warp * TILES * 16 + i / (D / 8), c = i % (D / 8), row = row0 + line;
    if (row < p.q_len && c * 8 < p.d)
      *reinterpret_cast<uint4 *>(o + row * p.o_step[1] + c * 8) = *reinterpret_cast<const uint4 *>(memory + L::at(line, c));
  }
}

#define ATTENTION(T, D, TILES)                                                                                      \
  extern "C" __global__ void __launch_bounds__(128, D <= 128 ? 2 : 1)                                               \
      attention_##D##_##T(Attention p, const T *q, const T *k, const T *v, T *o, float *lse) {                      \
    attention<T, D, TILES>(p, q, k, v, o, lse);                                                                     \
  }
#define ATTENTIONS(T) ATTENTION(T, 64, 2) ATTENTION(T, 80, 2) ATTENTION(T, 96, 2) ATTENTION(T, 128, 2) \
  ATTENTION(T, 192, 1) ATTENTION(T, 256, 1)
ATTENTIONS(f16)
ATTENTIONS(bf16)
