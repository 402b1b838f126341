// Packing of weights from the bytes of files, and their values: as 16-bit rows, and as embeddings.
#include "dependent.cuh"
#include "low_bit.cuh"

// As in `pack.rs`. Rows of a gated matrix come from two sources, eight of each in turn.
struct Packing {
  const uint8_t *from[2];
  uint8_t *to;
  int rows, tiles;   // of the packed matrix, in tiles
  int k;             // columns of the sources
  int64_t row_bytes; // of the sources
  int first, count;  // rows of tiles here, which are those that the sources begin with
};

// Bytes of row `row`, or null beyond the last.
__device__ inline const uint8_t *source(const Packing &p, int row) {
  const int here = row - p.first * 16;
  if (row >= p.rows) return nullptr;
  if (!p.from[1]) return p.from[0] + here * p.row_bytes;
  return p.from[here / 8 % 2] + (here / 16 * 8 + here % 8) * p.row_bytes;
}

__device__ inline uint8_t *nibble_place(uint8_t *tile, int row, int b, int c) {
  return tile + (b / 2 * 32 + row % 8 * 4 + c) * 16 + b % 2 * 8 + row / 8 * 4;
}
__device__ inline void copy_bytes(uint8_t *to, const uint8_t *from, int count) {
  for (int i = 0; i < count; i++) to[i] = from ? from[i] : 0;
}

// Packs eight values of a row, from column 32 b + 8 c of a tile on; the first of a row's packs its scales too. `row` are the bytes of
// its row or null, `left` its blocks of 32 (elements for floats) from the tile's on.
template <class E> __device__ void pack(Dense<E>, uint8_t *tile, const uint8_t *from, int left, int, int b, int c) {
  uint8_t *to = tile + b * 64 + c * 16;
  for (int i = 0; i < 8; i++) copy_bytes(to + 2 * i, from && b * 32 + c * 8 + i < left ? from + (b * 32 + c * 8 + i) * 2 : nullptr, 2);
}
template <bool MIN> __device__ void pack(Four<MIN>, uint8_t *tile, const uint8_t *from, int left, int row, int b, int c) {
  constexpr int BYTES = MIN ? 20 : 18, HEAD = MIN ? 4 : 2;
  const uint8_t *block = from && b * 32 < left ? from + b * BYTES : nullptr;
  uint32_t word = 0;
  for (int i = 0; i < 8; i++) {
    const int at = c * 8 + i, q = block ? block[HEAD + at % 16] >> (at / 16 * 4) & 15 : 0;
    word |= uint32_t(q) << (i / 2 * 4 + i % 2 * 16);
  }
  *reinterpret_cast<uint32_t *>(nibble_place(tile, row, b, c)) = word;
  if (c == 0) copy_bytes(tile + 2048 + row * 16 + b * 2, block, 2);
  if (MIN && c == 0) copy_bytes(tile + 2304 + row * 16 + b * 2, block ? block + 2 : nullptr, 2);
}
__device__ void pack(Q8_0, uint8_t *tile, const uint8_t *from, int left, int row, int b, int c) {
  const uint8_t *block = from && b * 32 < left ? from + b * 34 : nullptr;
  copy_bytes(tile + (b * 32 + row % 8 * 4 + c) * 16 + row / 8 * 8, block ? block + 2 + c * 8 : nullptr, 8);
  if (c == 0) copy_bytes(tile + 4096 + row * 16 + b * 2, block, 2);
}
__device__ void pack(Q4_K, uint8_t *tile, const uint8_t *from, int, int row, int b, int c) {
  uint32_t word = 0;
  for (int i = 0; i < 8; i++) {
    const int q = from ? from[16 + b / 2 * 32 + c * 8 + i] >> (b % 2 * 4) & 15 : 0;
    word |= uint32_t(q) << (i / 2 * 4 + i % 2 * 16);
  }
  *reinterpret_cast<uint32_t *>(nibble_place(tile, row, b, c)) = word;
  if (b == 0 && c == 0) copy_bytes(tile + 2048 + row * 16, from, 16);
}
__device__ void pack(Q6_K, uint8_t *tile, const uint8_t *from, int, int row, int b, int c) {
  uint32_t word = 0;
  uint8_t high[2] = {};
  for (int i = 0; i < 8; i++) {
    // Halves of 128 columns: four runs of 32, of which the third and fourth are high nibbles.
    const int half = b / 4, run = b % 4, l = c * 8 + i;
    const int q = from ? from[half * 64 + run % 2 * 32 + l] >> (run / 2 * 4) & 15 : 0;
    const int h = from ? from[128 + half * 32 + l] >> (run * 2) & 3 : 0;
    word |= uint32_t(q) << (i / 2 * 4 + i % 2 * 16);
    high[i % 2] |= h << (i / 2 * 2);
  }
  *reinterpret_cast<uint32_t *>(nibble_place(tile, row, b, c)) = word;
  uint8_t *more = tile + 2048 + (b / 4 * 32 + row % 8 * 4 + c) * 16 + b % 4 * 4 + row / 8;
  more[0] = high[0], more[2] = high[1];
  if (b == 0 && c == 0) {
    copy_bytes(tile + 3072 + row * 16, from ? from + 192 : nullptr, 16);
    copy_bytes(tile + 3328 + row * 2, from ? from + 208 : nullptr, 2);
  }
}

// Bytes of the source in a tile's columns.
template <class E> __device__ int source_bytes(Dense<E>) { return Dense<E>::K * 2; }
template <bool MIN> __device__ int source_bytes(Four<MIN>) { return 8 * (MIN ? 20 : 18); }
__device__ int source_bytes(Q8_0) { return 8 * 34; }
__device__ int source_bytes(Q4_K) { return 144; }
__device__ int source_bytes(Q6_K) { return 210; }

// Where a tile begins; of floats its row there.
template <class F> __device__ int64_t place(F, int64_t group, int, int tiles, int64_t t) { return (group * tiles + t) * F::TILE; }
template <class E> __device__ int64_t place(Dense<E>, int64_t group, int row, int tiles, int64_t t) {
  return ((group * 16 + row) * tiles + t) * Dense<E>::K * 2;
}

// A thread for each eight values.
template <class F> __device__ void pack_all(const Packing &p) {
  constexpr int PARTS = F::K / 8;
  const int64_t total = int64_t(p.count) * p.tiles * 16 * PARTS;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int part = i % PARTS, row = i / PARTS % 16;
    const int64_t tile = i / PARTS / 16, t = tile % p.tiles, group = p.first + tile / p.tiles;
    const int left = p.k - int(t) * F::K;
    const uint8_t *from = left > 0 ? source(p, group * 16 + row) : nullptr;
    pack(F(), p.to + place(F(), group, row, p.tiles, t), from ? from + t * source_bytes(F()) : nullptr, left, row, part / 4, part % 4);
  }
}

// Rows `first` to `first + count - 1` as 16-bit numbers of `width` columns each.
// A block a row.
template <class F>
__device__ void dequantize(const uint8_t *weights, int tiles, int first, int width, typename F::T *to) {
  using T = typename F::T;
  wait_for_previous();
  launch_next();
  const uint32_t parts = width / 8;
  for (uint32_t part = threadIdx.x, here = blockIdx.x; part < parts; part += blockDim.x) {
    const int row = first + int(here), t = part / (F::K / 8), b = part % (F::K / 8);
    const int64_t i = int64_t(here) * parts + part;
    float v[8];
    F::values(weights, tiles, row, t, b / 4, b % 4, v);
    Pack<T, 8> out;
#pragma unroll
    for (int j = 0; j < 8; j++) out.v[j] = down<T>(v[j]);
    *reinterpret_cast<Pack<T, 8> *>(to + i * 8) = out;
  }
}

// x[token] = row ids[token] of a packed table, times `scale`; NaN where there is no such row.
template <class F>
__device__ void embed(const uint8_t *table, int rows, int tiles, int k, const uint32_t *ids, float scale, float *x) {
  wait_for_previous();
  launch_next();
  const uint32_t row = ids[blockIdx.x];
  for (int part = threadIdx.x; part * 8 < k; part += blockDim.x) {
    float v[8];
    const int t = part / (F::K / 8), b = part % (F::K / 8);
    if (row < uint32_t(rows)) F::values(table, tiles, row, t, b / 4, b % 4, v);
    else
      for (float &value : v) value = NAN;
    for (int j = 0; j < 8; j++)
      if (part * 8 + j < k) x[int64_t(blockIdx.x) * k + part * 8 + j] = v[j] * scale;
  }
}

#define PACK(NAME, F)                                                                                               \
  extern "C" __global__ void pack_##NAME(Packing p) { pack_all<F>(p); }                                             \
  extern "C" __global__ void dequantize_##NAME(const uint8_t *weights, int tiles, int first, int width,  \
                                               F::T *to) {                                                          \
    dequantize<F>(weights, tiles, first, width, to);                                                         \
  }                                                                                                                 \
  extern "C" __global__ void embed_##NAME(const uint8_t *table, int rows, int tiles, int k, const uint32_t *ids,    \
                                          float scale, float *x) {                                                  \
    embed<F>(table, rows, tiles, k, ids, scale, x);                                                                 \
  }
FOR_FORMATS(PACK)
