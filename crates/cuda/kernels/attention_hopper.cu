// Attention on Hopper: the same as `attention.cu`, with operands that the copy engine brings and products of groups of four warps.
//
// A block takes 128 queries of a head. One warp of a first group queues copies of tiles of keys and values, two of each at a
// time; two groups take 64 queries each. While the products of one group run, the other one computes its exponents, and within
// a group the scores of the next tile are computed together with the sum of the last one.
// (Source: Shah et al., "FlashAttention-3", arXiv 2407.08608.)
#include "attention.cuh"
#include "hopper.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int QUERIES = 128, STAGES = 2;

// Bytes of shared memory: queries, keys, values, barriers; as in `attention.rs`.
template <int D, int BN> struct Room {
  static constexpr int HALVES = (D + 63) / 64; // columns of 64 elements
  static constexpr int Q = HALVES * QUERIES * 128, TILE = HALVES * BN * 128;
};

template <class T, int D, int BN>
__device__ __forceinline__ void attention_hopper(const Attention &p, const TensorMap &q_map, const TensorMap &k_map,
                                                 const TensorMap &v_map, T *o, float *lse) {
  using R = Room<D, BN>;
  extern __shared__ __align__(1024) char memory[];
  const uint32_t q_at = (shared_address(memory) + 1023) / 1024 * 1024, k_at = q_at + R::Q, v_at = k_at + STAGES * R::TILE;
  char *const q_memory = memory + (q_at - shared_address(memory));
  const uint32_t q_full = v_at + STAGES * R::TILE, k_full = q_full + 8, k_empty = k_full + 8 * STAGES,
                 v_full = k_empty + 8 * STAGES, v_empty = v_full + 8 * STAGES;
  const int head = blockIdx.y, batch = blockIdx.z, row0 = (gridDim.x - 1 - blockIdx.x) * QUERIES;
  const int kv_head = head / (p.q_heads / p.kv_heads), before = p.k_len - p.q_len;
  const int seen = p.causal ? min(p.k_len, max(0, min(row0 + QUERIES, p.q_len) + before)) : p.k_len;
  const int tiles = (seen + BN - 1) / BN;

  if (threadIdx.x == 0) {
    barrier_init(q_full, 1);
    for (int s = 0; s < STAGES; s++) {
      barrier_init(k_full + 8 * s, 1);
      barrier_init(v_full + 8 * s, 1);
      barrier_init(k_empty + 8 * s, 8);
      barrier_init(v_empty + 8 * s, 8);
    }
    barrier_publish();
  }
  __syncthreads();

  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0 && tiles > 0) {
      barrier_expect(q_full, R::Q);
#pragma unroll
      for (int h = 0; h < R::HALVES; h++) copy_box(q_at + h * QUERIES * 128, q_map, q_full, h * 64, head, row0, batch);
      auto load = [&](uint32_t at, const TensorMap &map, uint32_t full, uint32_t empty, int t) {
        const int s = t % STAGES;
        barrier_wait(empty + 8 * s, (t / STAGES & 1) ^ 1);
        barrier_expect(full + 8 * s, R::TILE);
#pragma unroll
        for (int h = 0; h < R::HALVES; h++)
          copy_box(at + s * R::TILE + h * BN * 128, map, full + 8 * s, h * 64, kv_head, (tiles - 1 - t) * BN, batch);
      };
      load(k_at, k_map, k_full, k_empty, 0);
      for (int t = 1; t < tiles; t++) {
        load(k_at, k_map, k_full, k_empty, t);
        load(v_at, v_map, v_full, v_empty, t - 1);
      }
      load(v_at, v_map, v_full, v_empty, tiles - 1);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, quad = lane % 4;
    const int first = row0 + group * 64; // of the group
    const float factor = p.scale * 1.4426950408889634f;
    float out[D / 2], score[BN / 2], most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    uint32_t weights[BN / 16][4];
#pragma unroll
    for (int i = 0; i < D / 2; i++) out[i] = 0.0f;

    auto scores = [&](int t) {
      const uint32_t q_rows = q_at + group * 64 * 128, k_rows = k_at + t % STAGES * R::TILE;
#pragma unroll
      for (int c = 0; c < D / 16; c++) {
        const int half = c / 4, piece = c % 4 * 32;
        Product<BN>::product(T(), score, operand(q_rows + half * QUERIES * 128 + piece, 16),
                             operand(k_rows + half * BN * 128 + piece, 16), c > 0);
      }
    };
    auto sums = [&](int t) {
      const uint32_t v_rows = v_at + t % STAGES * R::TILE;
#pragma unroll
      for (int c = 0; c < BN / 16; c++) Product<D>::product_from(T(), out, weights[c], operand(v_rows + c * 16 * 128, BN * 128), 1);
    };
    // Scores become exponents; returns what results so far are to be multiplied with.
    auto exponents = [&](int t, float (&shrink)[2]) {
      const int key0 = (tiles - 1 - t) * BN;
      if (key0 + BN > p.k_len || (p.causal && key0 + BN - 1 > first + before)) {
#pragma unroll
        for (int i = 0; i < BN / 2; i++) {
          const int row = first + warp * 16 + lane / 4 + i / 2 % 2 * 8, key = key0 + i / 4 * 8 + quad * 2 + i % 2;
          if (key >= p.k_len || (p.causal && key > row + before)) score[i] = -INFINITY;
        }
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float now = most[half];
#pragma unroll
        for (int i = 0; i < BN / 8; i++) now = fmaxf(now, fmaxf(score[4 * i + 2 * half], score[4 * i + 2 * half + 1]));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
        const float shift = now == -INFINITY ? 0.0f : now * factor;
        shrink[half] = power_of_two(most[half] * factor - shift);
        most[half] = now;
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < BN / 8; i++)
#pragma unroll
          for (int e = 4 * i + 2 * half; e < 4 * i + 2 * half + 2; e++) {
            score[e] = power_of_two(score[e] * factor - shift);
            total += score[e];
          }
        sum[half] = sum[half] * shrink[half] + total;
      }
    };
    auto pack = [&]() {
#pragma unroll
      for (int c = 0; c < BN / 16; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) weights[c][i] = pack2(T(), score[8 * c + 2 * i], score[8 * c + 2 * i + 1]);
    };
    auto release = [&](uint32_t empty, int t) {
      __syncwarp();
      if (lane == 0) barrier_arrive(empty + 8 * (t % STAGES));
    };

    if (tiles > 0) {
      // The groups take turns: barrier 1 lets the first one queue products, barrier 2 the second.
      if (group == 1) threads_arrive(1, 256);
      float shrink[2];
      barrier_wait(q_full, 0);
      barrier_wait(k_full, 0);
      products_fence();
      scores(0);
      products_commit();
      products_wait<0>();
      keep(score);
      release(k_empty, 0);
      exponents(0, shrink);
      pack();
      for (int t = 1; t < tiles; t++) {
        barrier_wait(k_full + 8 * (t % STAGES), t / STAGES & 1);
        threads_sync(1 + group, 256);
        keep(out);
        products_fence();
        scores(t);
        products_commit();
        barrier_wait(v_full + 8 * ((t - 1) % STAGES), (t - 1) / STAGES & 1);
        sums(t - 1);
        products_commit();
        threads_arrive(2 - group, 256);
        products_wait<1>();
        keep(score);
        release(k_empty, t);
        exponents(t, shrink);
        products_wait<0>();
        keep(out);
        release(v_empty, t - 1);
        pack();
#pragma unroll
        for (int i = 0; i < D / 2; i++) out[i] *= shrink[i / 2 % 2];
      }
      if (group == 0) threads_sync(1, 256);
      barrier_wait(v_full + 8 * ((tiles - 1) % STAGES), (tiles - 1) / STAGES & 1);
      keep(out);
      products_fence();
      sums(tiles - 1);
      products_commit();
      products_wait<0>();
      keep(out);
    }

    // Results go through the memory of the queries, of which each warp has its own rows.
    threads_sync(3 + group, 128);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = sum[half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const float share = total > 0.0f ? 1.0f / total : 0.0f;
      const int line = group * 64 + warp * 16 + lane / 4 + half * 8, row = row0 + line;
      if (lse && quad == 0 && row < p.q_len)
        lse[(int64_t(batch) * p.q_heads + head) * p.q_len + row] =
            total > 0.0f ? most[half] * p.scale + logf(total) : -INFINITY;
#pragma unroll
      for (int n = 0; n < D / 8; n++)
        *reinterpret_cast<uint32_t *>(q_memory + n / 8 * QUERIES * 128 + line * 128 + ((n % 8) ^ (line & 7)) * 16 + quad * 4) =
            pack2(T(), out[4 * n + 2 * half] * share, out[4 * n + 2 * half + 1] * share);
    }
    __syncwarp();
    o += batch * p.o_step[0] + head * p.o_step[2];
    for (int i = lane; i < 16 * (D / 8); i += 32) {
      const int line = group * 64 + warp * 16 + i / (D / 8), n = i % (D / 8), row = row0 + line;
      if (row < p.q_len && n * 8 < p.d)
        *reinterpret_cast<uint4 *>(o + row * p.o_step[1] + n * 8) = *reinterpret_cast<const uint4 *>(
            q_memory + n / 8 * QUERIES * 128 + line * 128 + ((n % 8) ^ (line & 7)) * 16);
    }
  }
}

#define HOPPER(T, D, BN)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(384, 1)                                                                    \
      attention_hopper_##D##_##T(Attention p, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,   \
                                 const __grid_constant__ TensorMap v, T *o, float *lse) {                                 \
    attention_hopper<T, D, BN>(p, q, k, v, o, lse);                                                                       \
  }
#define HOPPERS(T) HOPPER(T, 64, 128) HOPPER(T, 80, 128) HOPPER(T, 96, 128) HOPPER(T, 128, 128) HOPPER(T, 256, 64)
HOPPERS(f16)
HOPPERS(bf16)

#endif
