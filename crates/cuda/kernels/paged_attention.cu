// Attention of single queries over the pages of a cache.
//
// out[token][head] = softmax(q * k^T) * v over the positions below lengths[token], for rows of queries that are scaled already. A
// block takes SPLIT positions of one head of keys, with all heads of queries that share it, 32 positions a warp; a second kernel
// merges the parts. Where parts begin depends on positions alone, so that results do not depend on what else is decoded.
// (Source: Dao et al., "Flash-Decoding for long-context inference", 2023.)
//
// Queries are the left operand, 16 rows of which GROUP <= 16 count; keys and values are read from memory as right operands, 16 bytes a
// lane: of keys eight features of one position, in the order of columns that `low_bit.cuh` explains; of values four features of
// two positions, one for each of four tiles of features.
#include "dependent.cuh"
#include "paged.cuh"

// As in `paged_attention.rs`.
struct Attending {
  int heads, kv_heads, d, splits;
  int table_row;
  int window;     // 0 is all
  float soft_cap; // 0 is none
};

constexpr int SPLIT = 256, ATTEND_WARPS = 8, CHUNK = SPLIT / ATTEND_WARPS;

__device__ inline uint4 load_stream(const void *p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}

// parts: [token, head, split, d] f32; stats: [token, head, split, 2]: maximum and sum of exponents. D is d, rounded up to 32.
template <int D>
__device__ __forceinline__ void attend(const Attending &p, const f16 *q, const f16 *keys, const f16 *values, const uint32_t *tables,
                                       const uint32_t *lengths, float *parts, float *stats) {
  constexpr int BLOCKS = D / 32;
  extern __shared__ float memory[]; // [warps][16][D], [warps][16][2]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, c = lane % 4;
  const int split = blockIdx.x, kv_head = blockIdx.y, token = blockIdx.z, group = p.heads / p.kv_heads;
  wait_for_previous();
  launch_next();
  const int length = lengths[token], begin = p.window ? max(0, length - p.window) : 0;
  if (split * SPLIT >= length || (split + 1) * SPLIT <= begin) return;
  const int start = split * SPLIT + warp * CHUNK;
  float *mine = memory + warp * 16 * D, *stat = memory + ATTEND_WARPS * 16 * D + warp * 32;
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  float out[D / 8][4] = {};
  if (start < length && start + CHUNK > begin) {
    const uint32_t page = tables[int64_t(token) * p.table_row + start / PAGE];
    const int64_t base = (int64_t(page) * p.kv_heads + kv_head) * PAGE * p.d;
    const f16 *k = keys + base + (start % PAGE) * p.d, *v = values + base + (start % PAGE) * p.d;
    // Scores of 32 positions.
    float score[CHUNK / 8][4] = {};
    q += (int64_t(token) * p.heads + kv_head * group) * p.d;
    uint4 key[CHUNK / 8][BLOCKS];
#pragma unroll
    for (int n = 0; n < CHUNK / 8; n++)
#pragma unroll
      for (int b = 0; b < BLOCKS; b++)
        key[n][b] = b * 32 + 8 * c < p.d ? load_stream(k + (n * 8 + row) * p.d + b * 32 + 8 * c) : uint4{};
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
      const bool inside = b * 32 + 8 * c < p.d;
      const uint4 zero = {}, first = row < group && inside ? *reinterpret_cast<const uint4 *>(q + row * p.d + b * 32 + 8 * c) : zero;
      const uint4 second = row + 8 < group && inside ? *reinterpret_cast<const uint4 *>(q + (row + 8) * p.d + b * 32 + 8 * c) : zero;
      const uint32_t a0[4] = {first.x, second.x, first.y, second.y}, a1[4] = {first.z, second.z, first.w, second.w};
#pragma unroll
      for (int n = 0; n < CHUNK / 8; n++) {
        mma(f16(), score[n], a0, key[n][b].x, key[n][b].y);
        mma(f16(), score[n], a1, key[n][b].z, key[n][b].w);
      }
    }
#pragma unroll
    for (int n = 0; n < CHUNK / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int at = start + n * 8 + 2 * c + e % 2;
        float &s = score[n][e];
        if (p.soft_cap != 0.0f) s = p.soft_cap * tanhf(s / p.soft_cap);
        if (at >= length || at < begin) s = -INFINITY;
        most[e / 2] = fmaxf(most[e / 2], s);
      }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      most[h] = fmaxf(most[h], __shfl_xor_sync(0xffffffffu, most[h], 1));
      most[h] = fmaxf(most[h], __shfl_xor_sync(0xffffffffu, most[h], 2));
    }
#pragma unroll
    for (int n = 0; n < CHUNK / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        score[n][e] = __expf(score[n][e] - most[e / 2]);
        sum[e / 2] += score[n][e];
      }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
    }
#pragma unroll
    for (int m = 0; m < CHUNK / 16; m++) {
      uint32_t a[4];
      a[0] = pack2(f16(), score[2 * m][0], score[2 * m][1]);
      a[1] = pack2(f16(), score[2 * m][2], score[2 * m][3]);
      a[2] = pack2(f16(), score[2 * m + 1][0], score[2 * m + 1][1]);
      a[3] = pack2(f16(), score[2 * m + 1][2], score[2 * m + 1][3]);
      // Positions beyond the length may hold anything, also NaN, and weigh nothing.
      const int first = start + m * 16 + 2 * c, second = first + 8;
      const uint32_t keep0 = (first < length ? 0xffffu : 0) | (first + 1 < length ? 0xffff0000u : 0);
      const uint32_t keep1 = (second < length ? 0xffffu : 0) | (second + 1 < length ? 0xffff0000u : 0);
#pragma unroll
      for (int b = 0; b < BLOCKS; b++) {
        const int i = b * 32 + row * 4;
        const uint4 zero = {};
        const uint4 v0 = i < p.d ? load_stream(v + ((m * 8 + c) * p.d + i) * 2) : zero;
        const uint4 v1 = i < p.d ? load_stream(v + ((m * 8 + c + 4) * p.d + i) * 2) : zero;
        mma(f16(), out[b * 4], a, v0.x & keep0, v1.x & keep1);
        mma(f16(), out[b * 4 + 1], a, v0.y & keep0, v1.y & keep1);
        mma(f16(), out[b * 4 + 2], a, v0.z & keep0, v1.z & keep1);
        mma(f16(), out[b * 4 + 3], a, v0.w & keep0, v1.w & keep1);
      }
    }
  }
  // Column n of tile j of a block is feature 32 b + 4 n + j; a lane has columns 2c and 2c + 1.
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int head = row + 8 * h;
    if (head >= group) break;
    if (c == 0) stat[head * 2] = most[h], stat[head * 2 + 1] = sum[h];
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const float4 four = {out[b * 4][2 * h + n], out[b * 4 + 1][2 * h + n], out[b * 4 + 2][2 * h + n], out[b * 4 + 3][2 * h + n]};
        *reinterpret_cast<float4 *>(mine + head * D + b * 32 + 4 * (2 * c + n)) = four;
      }
  }
  __syncthreads();
  stat = memory + ATTEND_WARPS * 16 * D;
  for (int i = threadIdx.x; i < group * p.d; i += ATTEND_WARPS * 32) {
    const int head = i / p.d, at = i % p.d;
    float top = -INFINITY, total = 0.0f, weight = 0.0f;
#pragma unroll
    for (int w = 0; w < ATTEND_WARPS; w++) top = fmaxf(top, stat[w * 32 + head * 2]);
#pragma unroll
    for (int w = 0; w < ATTEND_WARPS; w++) {
      const float factor = stat[w * 32 + head * 2] == -INFINITY ? 0.0f : __expf(stat[w * 32 + head * 2] - top);
      total += memory[(w * 16 + head) * D + at] * factor;
      weight += stat[w * 32 + head * 2 + 1] * factor;
    }
    const int64_t place = (int64_t(token) * p.heads + kv_head * group + head) * p.splits + split;
    parts[place * p.d + at] = total;
    if (at == 0) stats[place * 2] = top, stats[place * 2 + 1] = weight;
  }
}
#define ATTEND(D)                                                                                                             \
  extern "C" __global__ void __launch_bounds__(ATTEND_WARPS * 32, D <= 128 ? 2 : 1)                                           \
      decoder_attend_##D(Attending p, const f16 *q, const f16 *keys, const f16 *values, const uint32_t *tables,               \
                         const uint32_t *lengths, float *parts, float *stats) {                                               \
    attend<D>(p, q, keys, values, tables, lengths, parts, stats);                                                             \
  }
ATTEND(64) ATTEND(96) ATTEND(128) ATTEND(256)

// Merges the parts of a head, in the order of positions, into the 16-bit input of the next product; zeros beyond all heads. A block a
// token and head.
template <class T>
__device__ void merge(const Attending &p, const uint32_t *lengths, const float *parts, const float *stats, int out_row, T *out) {
  wait_for_previous();
  launch_next();
  const int head = blockIdx.x, token = blockIdx.y, length = lengths[token];
  const int begin = p.window ? max(0, length - p.window) : 0, first = begin / SPLIT, last = (length + SPLIT - 1) / SPLIT;
  const int64_t place = (int64_t(token) * p.heads + head) * p.splits;
  float top = -INFINITY;
  for (int s = first; s < last; s++) top = fmaxf(top, stats[(place + s) * 2]);
  for (int i = threadIdx.x; i < p.d; i += blockDim.x) {
    float total = 0.0f, weight = 0.0f;
#pragma unroll 4
    for (int s = first; s < last; s++) {
      const float factor = stats[(place + s) * 2] == -INFINITY ? 0.0f : __expf(stats[(place + s) * 2] - top);
      total += parts[(place + s) * p.d + i] * factor;
      weight += stats[(place + s) * 2 + 1] * factor;
    }
    out[int64_t(token) * out_row + head * p.d + i] = down<T>(weight > 0.0f ? total / weight : 0.0f);
  }
  if (head == 0)
    for (int i = p.heads * p.d + threadIdx.x; i < out_row; i += blockDim.x) out[int64_t(token) * out_row + i] = down<T>(0.0f);
}
extern "C" __global__ void decoder_merge_f16(Attending p, const uint32_t *lengths, const float *parts, const float *stats, int out_row, f16 *out) {
  merge(p, lengths, parts, stats, out_row, out);
}
extern "C" __global__ void decoder_merge_bf16(Attending p, const uint32_t *lengths, const float *parts, const float *stats, int out_row, bf16 *out) {
  merge(p, lengths, parts, stats, out_row, out);
}

// Keys and values of positions below `count` of one sequence, as rows [position, kv_head, d].
extern "C" __global__ void decoder_gather(int kv_heads, int d, int count, const uint32_t *table, const f16 *keys, const f16 *values,
                                          f16 *k_out, f16 *v_out) {
  wait_for_previous();
  launch_next();
  const int64_t eights = d / 8, total = int64_t(count) * kv_heads * eights;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int at = i % eights * 8, head = i / eights % kv_heads, position = i / eights / kv_heads;
    const int64_t base = (int64_t(table[position / PAGE]) * kv_heads + head) * PAGE * d;
    Pack<f16, 8> v;
    for (int j = 0; j < 8; j++) v.v[j] = values[base + value_at(position % PAGE, at + j, d)];
    *reinterpret_cast<Pack<f16, 8> *>(v_out + i * 8) = v;
    *reinterpret_cast<uint4 *>(k_out + i * 8) = *reinterpret_cast<const uint4 *>(keys + base + key_at(position % PAGE, at, d));
  }
}
