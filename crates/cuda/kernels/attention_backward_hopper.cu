// Gradients of attention on Hopper: the same as `attention_backward.cu`, with operands that the copy engine brings and products of
// groups of four warps.
//
// A block takes 128 keys (for dk and dv) or 128 queries (for dq) of a head. One warp of a first group queues copies of tiles of
// the other side; two groups take 64 rows each. Weights and their changes stay in registers: what a product leaves there is laid
// out as the next one takes it. The products that add to the gradients of one tile run while the scores of the next are queued.
// (Source: Dao, arXiv 2307.08691, appendix B; Shah et al., "FlashAttention-3", arXiv 2407.08608.)
#include "attention.cuh"
#include "hopper.cuh"

// What a query brings to its scores: log2 of its sum of exponents, and delta.
struct alignas(8) Shift {
  float shift, mean;
};

// `shifts` are batch x q_heads x padded; what has no query, or sees no key, gets weights of zero. One warp a query.
template <class T>
__device__ __forceinline__ void attention_shifts(const Attention &p, int padded, const T *o, const T *grad, const float *lse,
                                                 Shift *shifts) {
  const int lane = threadIdx.x % 32;
  const int64_t lines = int64_t(p.batch) * p.q_heads * padded;
  for (int64_t i = blockIdx.x * 8ll + threadIdx.x / 32; i < lines; i += gridDim.x * 8ll) {
    const int64_t line = i / padded, row = i - line * padded, batch = line / p.q_heads, head = line - batch * p.q_heads;
    float sum = 0.0f, shift = INFINITY;
    if (row < p.q_len) {
      const int64_t at = batch * p.o_step[0] + row * p.o_step[1] + head * p.o_step[2];
      sum = row_delta(p.d, o + at, grad + at);
      const float total = lse[line * p.q_len + row];
      if (total != -INFINITY) shift = total * 1.4426950408889634f;
    }
    if (lane == 0) shifts[i] = {shift, sum};
  }
}

#define SHIFTS(T)                                                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                                      \
      attention_shifts_##T(Attention p, int padded, const T *o, const T *grad, const float *lse, Shift *shifts) {        \
    attention_shifts<T>(p, padded, o, grad, lse, shifts);                                                                \
  }
SHIFTS(f16)
SHIFTS(bf16)

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int ROWS = 128; // of a block

// Bytes of shared memory, as in `attention/backward.rs`: the block's rows of two tensors, stages of BN rows of two others, barriers.
template <int D, int BN> struct Room {
  static constexpr int HALVES = (D + 63) / 64; // columns of 64 elements
  static constexpr int OWN = HALVES * ROWS * 128, TILE = HALVES * BN * 128;
};

// score = a * b^T for a group's 64 rows of a and the BN rows of b.
template <int D, int BN, class T>
__device__ __forceinline__ void queue_scores(float (&score)[BN / 2], uint32_t a_rows, uint32_t b_rows) {
#pragma unroll
  for (int c = 0; c < D / 16; c++) {
    const int half = c / 4, piece = c % 4 * 32;
    const uint64_t left = operand(a_rows + half * ROWS * 128 + piece, 16), right = operand(b_rows + half * BN * 128 + piece, 16);
    if (c == 0) Product<BN>::product_new(T(), score, left, right);
    else Product<BN>::product(T(), score, left, right, 1);
  }
  products_commit();
}

// sum (+)= a * b for the 64 x BN `a` in registers and the BN rows of b.
template <int D, int BN, class T>
__device__ __forceinline__ void queue_sums(float (&sum)[D / 2], const uint32_t (&a)[BN / 16][4], uint32_t b_rows, bool more) {
#pragma unroll
  for (int c = 0; c < BN / 16; c++)
    Product<D>::product_from(T(), sum, a[c], operand(b_rows + c * 16 * 128, BN * 128), more || c > 0);
  products_commit();
}

template <int BN, class T> __device__ __forceinline__ void pack(uint32_t (&to)[BN / 16][4], const float (&from)[BN / 2]) {
#pragma unroll
  for (int c = 0; c < BN / 16; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) to[c][i] = pack2(T(), from[8 * c + 2 * i], from[8 * c + 2 * i + 1]);
}

// Stores a group's 64 rows, those below `rows`.
template <int D>
__device__ __forceinline__ void store_rows(float *to, int64_t step, const float (&sum)[D / 2], int first, int rows, int d, float factor) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = first + warp * 16 + lane / 4 + half * 8;
    if (row >= rows) continue;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
      if (n * 8 < d)
        *reinterpret_cast<float2 *>(to + row * step + n * 8 + lane % 4 * 2) =
            make_float2(sum[4 * n + 2 * half] * factor, sum[4 * n + 2 * half + 1] * factor);
  }
}

// Initialises the barriers: eight warps empty a stage.
__device__ __forceinline__ void begin(uint32_t own_full, uint32_t full, uint32_t empty, int stages) {
  if (threadIdx.x == 0) {
    barrier_init(own_full, 1);
    for (int s = 0; s < stages; s++) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 8);
    }
    barrier_publish();
  }
  __syncthreads();
}

__device__ __forceinline__ void release(uint32_t empty) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(empty);
}

// dk and dv: a block goes over the queries of all heads that its keys serve. Rows of scores are keys, columns queries.
template <class T, int D, int BN, int STAGES>
__device__ __forceinline__ void attention_dkv(const Attention &p, int padded, const TensorMap &q_map, const TensorMap &k_map,
                                              const TensorMap &v_map, const TensorMap &grad_map, const Shift *shifts, float *dk,
                                              float *dv) {
  using R = Room<D, BN>;
  extern __shared__ __align__(1024) char memory[];
  const uint32_t base = shared_address(memory), k_at = (base + 1023) / 1024 * 1024, v_at = k_at + R::OWN, q_at = v_at + R::OWN,
                 grad_at = q_at + STAGES * R::TILE, shifts_at = grad_at + STAGES * R::TILE,
                 own_full = shifts_at + STAGES * BN * sizeof(Shift), full = own_full + 8, empty = full + 8 * STAGES;
  const int kv_head = blockIdx.y, batch = blockIdx.z, key0 = blockIdx.x * ROWS;
  const int heads = p.q_heads / p.kv_heads, before = p.k_len - p.q_len;
  // The first queries that see the first key.
  const int first = p.causal ? max(0, key0 - before) / BN : 0, tiles = max(0, (p.q_len + BN - 1) / BN - first);
  const int total = heads * tiles;

  begin(own_full, full, empty, STAGES);

  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0 && total > 0) {
      barrier_expect(own_full, 2 * R::OWN);
#pragma unroll
      for (int h = 0; h < R::HALVES; h++) {
        copy_box(k_at + h * ROWS * 128, k_map, own_full, h * 64, kv_head, key0, batch);
        copy_box(v_at + h * ROWS * 128, v_map, own_full, h * 64, kv_head, key0, batch);
      }
      for (int i = 0; i < total; i++) {
        const int s = i % STAGES, head = kv_head * heads + i / tiles, row = (first + i % tiles) * BN;
        barrier_wait(empty + 8 * s, (i / STAGES & 1) ^ 1);
        barrier_expect(full + 8 * s, 2 * R::TILE + BN * int(sizeof(Shift)));
#pragma unroll
        for (int h = 0; h < R::HALVES; h++) {
          copy_box(q_at + s * R::TILE + h * BN * 128, q_map, full + 8 * s, h * 64, head, row, batch);
          copy_box(grad_at + s * R::TILE + h * BN * 128, grad_map, full + 8 * s, h * 64, head, row, batch);
        }
        copy_bytes(shifts_at + s * BN * sizeof(Shift), shifts + (int64_t(batch) * p.q_heads + head) * padded + row,
                   BN * sizeof(Shift), full + 8 * s);
      }
    }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, quad = lane % 4;
  const int mine = key0 + group * 64;
  const float factor = p.scale * 1.4426950408889634f;
  float sum_k[D / 2], sum_v[D / 2];
  uint32_t weights[BN / 16][4], changes[BN / 16][4];
  const uint32_t k_rows = k_at + group * 64 * 128, v_rows = v_at + group * 64 * 128;

  if (total > 0) barrier_wait(own_full, 0);
  for (int i = 0; i < total; i++) {
    const int s = i % STAGES, row0 = (first + i % tiles) * BN;
    const uint32_t q_rows = q_at + s * R::TILE, grad_rows = grad_at + s * R::TILE;
    float score[BN / 2], change[BN / 2];
    const char *const numbers = memory + (shifts_at - base) + s * BN * sizeof(Shift) + quad * 2 * sizeof(Shift);
    barrier_wait(full + 8 * s, i / STAGES & 1);
    products_fence();
    queue_scores<D, BN, T>(score, k_rows, q_rows);
    products_wait<1>(); // for the sums of the tile before
    keep(sum_v);
    keep(sum_k);
    if (i > 0) release(empty + 8 * ((i - 1) % STAGES));
    queue_scores<D, BN, T>(change, v_rows, grad_rows);
    products_wait<1>();
    keep(score);
    const bool whole = !p.causal || mine + 63 <= row0 + before;
#pragma unroll
    for (int n = 0; n < BN / 8; n++) {
      const float4 number = *reinterpret_cast<const float4 *>(numbers + n * 8 * sizeof(Shift));
#pragma unroll
      for (int e = 0; e < 4; e++)
        score[4 * n + e] = power_of_two(score[4 * n + e] * factor - (e % 2 ? number.z : number.x));
    }
    if (!whole) {
#pragma unroll
      for (int j = 0; j < BN / 2; j++) {
        const int key = mine + warp * 16 + lane / 4 + j / 2 % 2 * 8, row = row0 + j / 4 * 8 + quad * 2 + j % 2;
        if (key > row + before) score[j] = 0.0f;
      }
    }
    pack<BN, T>(weights, score);
    products_wait<0>();
    keep(change);
    products_fence();
    queue_sums<D, BN, T>(sum_v, weights, grad_rows, i > 0);
#pragma unroll
    for (int n = 0; n < BN / 8; n++) {
      const float4 number = *reinterpret_cast<const float4 *>(numbers + n * 8 * sizeof(Shift));
#pragma unroll
      for (int e = 0; e < 4; e++) change[4 * n + e] = score[4 * n + e] * (change[4 * n + e] - (e % 2 ? number.w : number.y));
    }
    pack<BN, T>(changes, change);
    products_fence();
    queue_sums<D, BN, T>(sum_k, changes, q_rows, i > 0);
  }
  products_wait<0>();
  keep(sum_v);
  keep(sum_k);
  if (total == 0) {
#pragma unroll
    for (int i = 0; i < D / 2; i++) sum_k[i] = sum_v[i] = 0.0f;
  }
  const int64_t step = int64_t(p.kv_heads) * p.d, at = int64_t(batch) * p.k_len * step + kv_head * p.d;
  store_rows<D>(dk + at, step, sum_k, mine, p.k_len, p.d, p.scale);
  store_rows<D>(dv + at, step, sum_v, mine, p.k_len, p.d, 1.0f);
}

// dq: a block goes over the keys that its queries see.
template <class T, int D, int BN, int STAGES>
__device__ __forceinline__ void attention_dq(const Attention &p, int padded, const TensorMap &q_map, const TensorMap &k_map,
                                             const TensorMap &v_map, const TensorMap &grad_map, const Shift *shifts, float *dq) {
  using R = Room<D, BN>;
  extern __shared__ __align__(1024) char memory[];
  const uint32_t base = shared_address(memory), q_at = (base + 1023) / 1024 * 1024, grad_at = q_at + R::OWN,
                 k_at = grad_at + R::OWN, v_at = k_at + STAGES * R::TILE, own_full = v_at + STAGES * R::TILE, full = own_full + 8,
                 empty = full + 8 * STAGES;
  const int head = blockIdx.y, batch = blockIdx.z, row0 = (gridDim.x - 1 - blockIdx.x) * ROWS;
  const int kv_head = head / (p.q_heads / p.kv_heads), before = p.k_len - p.q_len;
  const int seen = p.causal ? min(p.k_len, max(0, min(row0 + ROWS, p.q_len) + before)) : p.k_len;
  const int tiles = (seen + BN - 1) / BN;

  begin(own_full, full, empty, STAGES);

  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0 && tiles > 0) {
      barrier_expect(own_full, 2 * R::OWN);
#pragma unroll
      for (int h = 0; h < R::HALVES; h++) {
        copy_box(q_at + h * ROWS * 128, q_map, own_full, h * 64, head, row0, batch);
        copy_box(grad_at + h * ROWS * 128, grad_map, own_full, h * 64, head, row0, batch);
      }
      for (int i = 0; i < tiles; i++) {
        const int s = i % STAGES;
        barrier_wait(empty + 8 * s, (i / STAGES & 1) ^ 1);
        barrier_expect(full + 8 * s, 2 * R::TILE);
#pragma unroll
        for (int h = 0; h < R::HALVES; h++) {
          copy_box(k_at + s * R::TILE + h * BN * 128, k_map, full + 8 * s, h * 64, kv_head, i * BN, batch);
          copy_box(v_at + s * R::TILE + h * BN * 128, v_map, full + 8 * s, h * 64, kv_head, i * BN, batch);
        }
      }
    }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, quad = lane % 4;
  const int mine = row0 + group * 64;
  const float factor = p.scale * 1.4426950408889634f;
  float sum[D / 2], shift[2], mean[2];
  uint32_t changes[BN / 16][4];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = mine + warp * 16 + lane / 4 + half * 8;
    Shift found = {INFINITY, 0.0f};
    if (row < p.q_len) found = shifts[(int64_t(batch) * p.q_heads + head) * padded + row];
    shift[half] = found.shift;
    mean[half] = found.mean;
  }
  const uint32_t q_rows = q_at + group * 64 * 128, grad_rows = grad_at + group * 64 * 128;

  if (tiles > 0) barrier_wait(own_full, 0);
  for (int i = 0; i < tiles; i++) {
    const int s = i % STAGES, key0 = i * BN;
    float score[BN / 2], change[BN / 2];
    barrier_wait(full + 8 * s, i / STAGES & 1);
    products_fence();
    queue_scores<D, BN, T>(score, q_rows, k_at + s * R::TILE);
    products_wait<1>(); // for the sum of the tile before
    keep(sum);
    if (i > 0) release(empty + 8 * ((i - 1) % STAGES));
    queue_scores<D, BN, T>(change, grad_rows, v_at + s * R::TILE);
    products_wait<1>();
    keep(score);
#pragma unroll
    for (int j = 0; j < BN / 2; j++) score[j] = power_of_two(score[j] * factor - shift[j / 2 % 2]);
    if (key0 + BN > p.k_len || (p.causal && key0 + BN - 1 > mine + before)) {
#pragma unroll
      for (int j = 0; j < BN / 2; j++) {
        const int row = mine + warp * 16 + lane / 4 + j / 2 % 2 * 8, key = key0 + j / 4 * 8 + quad * 2 + j % 2;
        if (key >= p.k_len || (p.causal && key > row + before)) score[j] = 0.0f;
      }
    }
    products_wait<0>();
    keep(change);
#pragma unroll
    for (int j = 0; j < BN / 2; j++) change[j] = score[j] * (change[j] - mean[j / 2 % 2]);
    pack<BN, T>(changes, change);
    products_fence();
    queue_sums<D, BN, T>(sum, changes, k_at + s * R::TILE, i > 0);
  }
  products_wait<0>();
  keep(sum);
  if (tiles == 0) {
#pragma unroll
    for (int i = 0; i < D / 2; i++) sum[i] = 0.0f;
  }
  const int64_t step = int64_t(p.q_heads) * p.d;
  store_rows<D>(dq + int64_t(batch) * p.q_len * step + head * p.d, step, sum, mine, p.q_len, p.d, p.scale);
}

#define BACKWARD(T, D, DKV_BN, DKV_STAGES, DQ_BN, DQ_STAGES)                                                             \
  extern "C" __global__ void __launch_bounds__(384, 1) attention_hopper_dkv_##D##_##T(                                   \
      Attention p, int padded, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,                 \
      const __grid_constant__ TensorMap v, const __grid_constant__ TensorMap grad, const Shift *shifts, float *dk, float *dv) { \
    attention_dkv<T, D, DKV_BN, DKV_STAGES>(p, padded, q, k, v, grad, shifts, dk, dv);                                   \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(384, 1) attention_hopper_dq_##D##_##T(                                    \
      Attention p, int padded, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,                 \
      const __grid_constant__ TensorMap v, const __grid_constant__ TensorMap grad, const Shift *shifts, float *dq) {     \
    attention_dq<T, D, DQ_BN, DQ_STAGES>(p, padded, q, k, v, grad, shifts, dq);                                          \
  }
#define BACKWARDS(T) BACKWARD(T, 64, 64, 4, 128, 2) BACKWARD(T, 80, 64, 4, 128, 2) BACKWARD(T, 128, 64, 4, 128, 2)
BACKWARDS(f16)
BACKWARDS(bf16)

#endif
