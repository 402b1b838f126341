// Gradients of attention on tensor cores of all GPUs since 8.0, from the logarithms of sums that the forward pass left.
//
//   p = exp(scale * q * k^T - lse)      dv = p^T * do
//   ds = p * (do * v^T - delta)         dq = scale * ds * k       dk = scale * ds^T * q      delta = rows of do * o, summed
//
// | argument | shape |
// |---|---|
// | q, o, do, dq | batch x q_len x q_heads x d; o and do with the steps `o_step`, dq without gaps |
// | k, v, dk, dv | batch x k_len x kv_heads x d; dk and dv without gaps |
// | lse, delta | batch x q_heads x q_len, f32 |
//
// Scores are computed twice, once by blocks of queries for dq and once by blocks of keys for dk and dv, so that every gradient
// is summed in one block, in one order: results are the same from run to run. Gradients are f32.
// (Source: Dao, "FlashAttention-2", arXiv 2307.08691, appendix B.)
#include "attention.cuh"

// delta, one warp a row.
template <class T> __device__ __forceinline__ void attention_delta(const Attention &p, const T *o, const T *grad, float *delta) {
  const int lane = threadIdx.x % 32;
  const int64_t rows = int64_t(p.batch) * p.q_heads * p.q_len;
  for (int64_t i = blockIdx.x * 8ll + threadIdx.x / 32; i < rows; i += gridDim.x * 8ll) {
    const int64_t line = i / p.q_len, row = i - line * p.q_len, batch = line / p.q_heads, head = line - batch * p.q_heads;
    const int64_t at = batch * p.o_step[0] + row * p.o_step[1] + head * p.o_step[2];
    const float sum = row_delta(p.d, o + at, grad + at);
    if (lane == 0) delta[i] = sum;
  }
}

// score += a * b^T for 16 rows of a, from `row` on, and the KEYS rows of b.
template <class T, int D>
__device__ __forceinline__ void products(float (&score)[KEYS / 8][4], uint32_t a_at, int row, uint32_t b_at) {
  using L = RowLayout<D>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int c = 0; c < D / 16; c++) {
    uint32_t a[4];
    load_matrices(a, a_at + L::at(row + lane % 16, c * 2 + lane / 16));
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
      uint32_t b[4];
      load_matrices(b, b_at + L::at(n * 16 + lane / 16 * 8 + lane % 8, c * 2 + lane / 8 % 2));
      mma(T(), score[2 * n], a, b[0], b[1]);
      mma(T(), score[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// sum += a * b for the 16 x KEYS `a` in registers and the KEYS rows of b.
template <class T, int D>
__device__ __forceinline__ void add_products(float (&sum)[D / 8][4], const float (&a)[KEYS / 8][4], uint32_t b_at) {
  using L = RowLayout<D>;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int c = 0; c < KEYS / 16; c++) {
    uint32_t x[4];
    to_operand(T(), x, a[2 * c], a[2 * c + 1]);
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
      uint32_t b[4];
      load_matrices_turned(b, b_at + L::at(c * 16 + lane / 8 % 2 * 8 + lane % 8, n * 2 + lane / 16));
      mma(T(), sum[2 * n], x, b[0], b[1]);
      mma(T(), sum[2 * n + 1], x, b[2], b[3]);
    }
  }
}

// Stores 16 rows of f32, those below `rows`.
template <int D>
__device__ __forceinline__ void store_rows(float *to, int64_t step, const float (&sum)[D / 8][4], int row, int rows, int d, float factor) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int at = row + lane / 4 + half * 8;
    if (at >= rows) continue;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
      if (n * 8 < d)
        *reinterpret_cast<float2 *>(to + at * step + n * 8 + lane % 4 * 2) =
            make_float2(sum[n][2 * half] * factor, sum[n][2 * half + 1] * factor);
  }
}

// dq: a block takes WARPS * 16 queries, and goes over the keys. With two `stages` of shared memory the next keys are on their way
// meanwhile.
template <class T, int D, int WARPS>
__device__ __forceinline__ void attention_dq(const Attention &p, int stages, const T *q, const T *k, const T *v, const T *grad,
                                             const float *lse, const float *delta, float *dq) {
  constexpr int ROWS = WARPS * 16, THREADS = WARPS * 32;
  using L = RowLayout<D>;
  extern __shared__ __align__(128) char memory[];
  constexpr int STAGE = 2 * KEYS * L::PITCH;
  const uint32_t q_at = shared_address(memory), grad_at = q_at + ROWS * L::PITCH, tiles_at = grad_at + ROWS * L::PITCH;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int head = blockIdx.y, batch = blockIdx.z, row0 = (gridDim.x - 1 - blockIdx.x) * ROWS;
  const int kv_head = head / (p.q_heads / p.kv_heads), before = p.k_len - p.q_len;
  q += batch * p.q_step[0] + head * p.q_step[2];
  grad += batch * p.o_step[0] + head * p.o_step[2];
  k += batch * p.k_step[0] + kv_head * p.k_step[2];
  v += batch * p.v_step[0] + kv_head * p.v_step[2];
  const int seen = p.causal ? min(p.k_len, max(0, min(row0 + ROWS, p.q_len) + before)) : p.k_len;
  const int tiles = (seen + KEYS - 1) / KEYS;
  const float factor = p.scale * 1.4426950408889634f;

  auto load = [&](int tile) {
    const uint32_t to = tiles_at + tile % stages * STAGE;
    load_rows<D, KEYS, THREADS>(to, k, p.k_step[1], tile * KEYS, p.k_len, p.d);
    load_rows<D, KEYS, THREADS>(to + KEYS * L::PITCH, v, p.v_step[1], tile * KEYS, p.k_len, p.d);
  };
  load_rows<D, ROWS, THREADS>(q_at, q, p.q_step[1], row0, p.q_len, p.d);
  load_rows<D, ROWS, THREADS>(grad_at, grad, p.o_step[1], row0, p.q_len, p.d);
  if (tiles > 0) load(0);
  commit();
  float shift[2], mean[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = row0 + warp * 16 + lane / 4 + half * 8;
    const int64_t at = (int64_t(batch) * p.q_heads + head) * p.q_len + row;
    const float sum = row < p.q_len ? lse[at] : -INFINITY;
    // A row that sees nothing gets weights of zero.
    shift[half] = sum == -INFINITY ? INFINITY : sum * 1.4426950408889634f;
    mean[half] = row < p.q_len ? delta[at] : 0.0f;
  }
  float sum[D / 8][4] = {};
  for (int tile = 0; tile < tiles; tile++) {
    if (stages > 1) {
      if (tile > 0) __syncthreads();
      if (tile + 1 < tiles) load(tile + 1);
      commit();
      wait_for<1>();
    } else {
      if (tile > 0) {
        __syncthreads();
        load(tile);
        commit();
      }
      wait_for<0>();
    }
    __syncthreads();
    const uint32_t k_at = tiles_at + tile % stages * STAGE, v_at = k_at + KEYS * L::PITCH;
    float score[KEYS / 8][4] = {}, change[KEYS / 8][4] = {};
    products<T, D>(score, q_at, warp * 16, k_at);
    products<T, D>(change, grad_at, warp * 16, v_at);
    const bool whole = (tile + 1) * KEYS <= p.k_len && (!p.causal || (tile + 1) * KEYS - 1 <= row0 + warp * 16 + before);
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = row0 + warp * 16 + lane / 4 + e / 2 * 8, key = tile * KEYS + n * 8 + lane % 4 * 2 + e % 2;
        const bool visible = whole || (key < p.k_len && (!p.causal || key <= row + before));
        const float weight = visible ? power_of_two(score[n][e] * factor - shift[e / 2]) : 0.0f;
        change[n][e] = weight * (change[n][e] - mean[e / 2]);
      }
    add_products<T, D>(sum, change, k_at);
  }
  wait_for<0>();
  const int64_t step = int64_t(p.q_heads) * p.d;
  store_rows<D>(dq + int64_t(batch) * p.q_len * step + head * p.d, step, sum, row0 + warp * 16, p.q_len, p.d, p.scale);
}

// dk, dv or both: a block takes WARPS * 16 keys of a head, and goes over the queries of all heads that it serves; stages as for dq.
template <class T, int D, int WARPS, bool DK, bool DV>
__device__ __forceinline__ void attention_dkv(const Attention &p, int stages, const T *q, const T *k, const T *v, const T *grad,
                                              const float *lse, const float *delta, float *dk, float *dv) {
  constexpr int ROWS = WARPS * 16, THREADS = WARPS * 32;
  using L = RowLayout<D>;
  extern __shared__ __align__(128) char memory[];
  constexpr int STAGE = 2 * KEYS * L::PITCH + 2 * KEYS * int(sizeof(float));
  const uint32_t k_at = shared_address(memory), v_at = k_at + ROWS * L::PITCH, tiles_at = v_at + ROWS * L::PITCH;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int kv_head = blockIdx.y, batch = blockIdx.z, key0 = blockIdx.x * ROWS;
  const int group = p.q_heads / p.kv_heads, before = p.k_len - p.q_len;
  k += batch * p.k_step[0] + kv_head * p.k_step[2];
  v += batch * p.v_step[0] + kv_head * p.v_step[2];
  const float factor = p.scale * 1.4426950408889634f;
  load_rows<D, ROWS, THREADS>(k_at, k, p.k_step[1], key0, p.k_len, p.d);
  load_rows<D, ROWS, THREADS>(v_at, v, p.v_step[1], key0, p.k_len, p.d);
  // The first queries that see the first key.
  const int first = p.causal ? max(0, key0 - before) / KEYS : 0, tiles = max(0, (p.q_len + KEYS - 1) / KEYS - first);
  const int total = group * tiles;
  // Exponents' shifts and means of a stage's queries.
  auto numbers = [&](int i) {
    return reinterpret_cast<float *>(memory + 2 * ROWS * L::PITCH + i % stages * STAGE + 2 * KEYS * L::PITCH);
  };
  auto load = [&](int i) {
    const int head = kv_head * group + i / tiles, tile = first + i % tiles;
    const uint32_t to = tiles_at + i % stages * STAGE;
    const T *q_head = q + batch * p.q_step[0] + head * p.q_step[2], *grad_head = grad + batch * p.o_step[0] + head * p.o_step[2];
    load_rows<D, KEYS, THREADS>(to, q_head, p.q_step[1], tile * KEYS, p.q_len, p.d);
    load_rows<D, KEYS, THREADS>(to + KEYS * L::PITCH, grad_head, p.o_step[1], tile * KEYS, p.q_len, p.d);
    if (threadIdx.x < KEYS) {
      const int row = tile * KEYS + threadIdx.x;
      const int64_t at = (int64_t(batch) * p.q_heads + head) * p.q_len + row;
      const float sum = row < p.q_len ? lse[at] : -INFINITY;
      numbers(i)[threadIdx.x] = sum == -INFINITY ? INFINITY : sum * 1.4426950408889634f;
      numbers(i)[KEYS + threadIdx.x] = row < p.q_len ? delta[at] : 0.0f;
    }
  };
  float sum_k[DK ? D / 8 : 1][4] = {}, sum_v[DV ? D / 8 : 1][4] = {};
  if (total > 0) load(0);
  commit();
  for (int i = 0; i < total; i++) {
    if (stages > 1) {
      if (i > 0) __syncthreads();
      if (i + 1 < total) load(i + 1);
      commit();
      wait_for<1>();
    } else {
      if (i > 0) {
        __syncthreads();
        load(i);
        commit();
      }
      wait_for<0>();
    }
    __syncthreads();
    const int row0 = (first + i % tiles) * KEYS;
    const uint32_t q_at = tiles_at + i % stages * STAGE, grad_at = q_at + KEYS * L::PITCH;
    const float *shifts = numbers(i), *means = shifts + KEYS;
    // Everything is turned: rows are keys, columns queries.
    float score[KEYS / 8][4] = {};
    products<T, D>(score, k_at, warp * 16, q_at);
    const int last_key = key0 + warp * 16 + 15;
    const bool whole = row0 + KEYS <= p.q_len && last_key < p.k_len && (!p.causal || last_key <= row0 + before);
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int key = key0 + warp * 16 + lane / 4 + e / 2 * 8, at = n * 8 + lane % 4 * 2 + e % 2, row = row0 + at;
        const bool visible = whole || (row < p.q_len && key < p.k_len && (!p.causal || key <= row + before));
        score[n][e] = visible ? power_of_two(score[n][e] * factor - shifts[at]) : 0.0f;
      }
    if constexpr (DV) add_products<T, D>(sum_v, score, grad_at);
    if constexpr (DK) {
      float change[KEYS / 8][4] = {};
      products<T, D>(change, v_at, warp * 16, grad_at);
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) score[n][e] *= change[n][e] - means[n * 8 + lane % 4 * 2 + e % 2];
      add_products<T, D>(sum_k, score, q_at);
    }
  }
  wait_for<0>();
  const int64_t step = int64_t(p.kv_heads) * p.d, at = int64_t(batch) * p.k_len * step + kv_head * p.d;
  if constexpr (DK) store_rows<D>(dk + at, step, sum_k, key0 + warp * 16, p.k_len, p.d, p.scale);
  if constexpr (DV) store_rows<D>(dv + at, step, sum_v, key0 + warp * 16, p.k_len, p.d, 1.0f);
}

#define DELTA(T)                                                                                                         \
  extern "C" __global__ void __launch_bounds__(256) attention_delta_##T(Attention p, const T *o, const T *grad, float *delta) { \
    attention_delta<T>(p, o, grad, delta);                                                                               \
  }
#define DQ(T, D, WARPS)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                               \
      attention_dq_##D##_##T(Attention p, int stages, const T *q, const T *k, const T *v, const T *grad, const float *lse,           \
                             const float *delta, float *dq) {                                                           \
    attention_dq<T, D, WARPS>(p, stages, q, k, v, grad, lse, delta, dq);                                                         \
  }
#define DKV(T, D, NAME, WARPS, DK, DV)                                                                                   \
  extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                               \
      attention_##NAME##_##D##_##T(Attention p, int stages, const T *q, const T *k, const T *v, const T *grad, const float *lse,     \
                                   const float *delta, float *dk, float *dv) {                                          \
    attention_dkv<T, D, WARPS, DK, DV>(p, stages, q, k, v, grad, lse, delta, dk, dv);                                            \
  }
// Beyond 128 features the sums for keys and values do not fit the registers together.
#define BACKWARD(T)                                                                                                      \
  DELTA(T)                                                                                                               \
  DQ(T, 64, 8) DQ(T, 80, 8) DQ(T, 128, 8) DQ(T, 256, 4)                                                                  \
  DKV(T, 64, dkv, 8, true, true) DKV(T, 80, dkv, 8, true, true) DKV(T, 128, dkv, 8, true, true)                          \
  DKV(T, 256, dk, 4, true, false) DKV(T, 256, dv, 4, false, true)
BACKWARD(f16)
BACKWARD(bf16)
