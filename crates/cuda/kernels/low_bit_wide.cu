// Products of packed weights with 9 to 64 rows of activations, on Hopper: the sums of `low_bit_product.cu`, bit by bit.
//
// Eight blocks are a cluster; each has one of the eight parts of the columns. A cluster takes groups of 16 rows round by round, one a
// warp, and its blocks add their parts through each other's shared memory. There is a cluster for each eight multiprocessors, so
// activations come to shared memory once: 256 columns a stage, all of a block's part where there is room, else round and round.
// Weights go straight to registers, so far ahead that they keep coming while parts are added.
#include "low_bit_product.cuh"

// Nobody asks for these kernels on other GPUs.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#include "barrier.cuh"

constexpr int SLICES = 8, COLUMNS = 256, STAGES = 4;
constexpr int BARRIERS = 128; // bytes
// Elements of a row of a stage: eight lanes at a time read from all banks.
constexpr int PITCH = COLUMNS + 32;

// The tiles of a warp, in order, those of the next rounds behind those of this.
struct Tiles {
  int group, t, first, last, groups, step;
  __device__ void advance() {
    if (++t == last) t = first, group += step;
  }
  // A warp without rows works on those of the last group.
  __device__ int rows() const { return min(group, groups - 1); }
};

// What is loaded ahead of products: two tiles, or of floats, which are many registers, DEPTH in which products make room for the next.
template <class F, int DEPTH> struct Ahead {
  typename F::Raw even, odd;
  __device__ __forceinline__ static void load(typename F::Raw &raw, const Product &p, Tiles &tiles, int lane) {
    raw.load(p, tiles.rows(), tiles.t, lane);
    tiles.advance();
  }
  __device__ __forceinline__ void begin(const Product &p, Tiles &tiles, int steps, int lane) {
    if (steps > 0) load(even, p, tiles, lane);
    if (steps > 1) load(odd, p, tiles, lane);
  }
  template <class Use> __device__ __forceinline__ void run(const Product &p, Tiles &tiles, int steps, int lane, Use use) {
    for (int s = 0; s < steps; s += 2) {
      use(even, Nothing());
      if (s + 2 < steps) load(even, p, tiles, lane);
      if (s + 1 >= steps) break;
      use(odd, Nothing());
      if (s + 3 < steps) load(odd, p, tiles, lane);
    }
  }
};
template <class E, int DEPTH> struct Ahead<Dense<E>, DEPTH> {
  typename Dense<E>::Raw raw[DEPTH];
  __device__ __forceinline__ void begin(const Product &p, Tiles &tiles, int steps, int lane) {
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      if (d < steps) raw[d].load(p, tiles.rows(), tiles.t, lane);
      tiles.advance();
    }
  }
  template <class Use> __device__ __forceinline__ void run(const Product &p, Tiles &tiles, int steps, int lane, Use use) {
    const int64_t row = int64_t(p.tiles) * (Dense<E>::K * 2);
    for (int first = 0; first < steps; first += DEPTH)
#pragma unroll
      for (int d = 0; d < DEPTH; d++) {
        if (first + d >= steps) break;
        const bool more = first + d + DEPTH < steps;
        const uint8_t *from = raw[d].at(p, tiles.rows(), tiles.t, lane);
        use(raw[d], [&](int b) {
          if (b % 2 == 0 || !more) return;
          raw[d].load(from, row, b - 1);
          raw[d].load(from, row, b);
        });
        tiles.advance();
      }
  }
};

template <class F, int NT, int DEPTH> __device__ __forceinline__ void wide(const Product &p) {
  using T = typename F::T;
  constexpr int TOKENS = NT * 8, STAGE = TOKENS * PITCH;
  // Barriers, stages, parts ([2][warps][NT][32] x 4 floats). None of it is static, so that a block can have all there is.
  extern __shared__ __align__(128) char barriers[];
  char *const memory = barriers + BARRIERS;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, c = lane % 4, slice = blockIdx.y;
  const int share = (p.tiles + SLICES - 1) / SLICES, first = min(slice * share, p.tiles), last = min(first + share, p.tiles);
  const int groups = (p.rows + 15) / 16, step = gridDim.x * warps, begin = blockIdx.x * warps;
  const int rounds = (groups - begin + step - 1) / step, tiles = last - first;
  const int stages_wanted = (tiles * F::K + COLUMNS - 1) / COLUMNS, stages = min(stages_wanted, STAGES);
  const bool resident = stages_wanted <= STAGES;
  const uint32_t full = shared_address(barriers), empty = full + 8 * STAGES;
  const int parts_at = min((share * F::K + COLUMNS - 1) / COLUMNS, STAGES) * STAGE * 2;
  const uint32_t parts = shared_address(memory) + parts_at;

  Tiles walk = {begin + warp, first, first, last, groups, step};
  Ahead<F, DEPTH> ahead;
  ahead.begin(p, walk, rounds * tiles, lane);
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, warps);
    }
    barrier_publish();
  }
  __syncthreads();
  wait_for_previous();
  launch_next();

  // The first warp queues copies of stage i of all.
  const int all_stages = resident ? stages : rounds * stages_wanted;
  auto fill = [&](int i) {
    const int at = i % stages_wanted, s = i % STAGES, columns = min(COLUMNS, tiles * F::K - at * COLUMNS);
    if (lane == 0) barrier_expect(full + 8 * s, TOKENS * columns * 2);
    __syncwarp();
    const T *from = static_cast<const T *>(p.x) + first * F::K + at * COLUMNS;
#pragma unroll
    for (int row = lane; row < TOKENS; row += 32)
      copy_bulk(shared_address(memory) + (s * STAGE + row * PITCH) * 2, from + int64_t(min(row, p.tokens - 1)) * p.x_row, columns * 2,
                full + 8 * s);
  };
  if (warp == 0)
    for (int i = 0; i < min(all_stages, STAGES); i++) fill(i);

  const uint32_t zero = uint32_t(p.rows) >> 27;
  float acc[NT][4] = {};
  int round = 0, column = 0, i = 0; // of a round: its number, the next column, the next stage
  // Adds the parts of round r and stores the sums: a block of each an eighth of the tiles of 16 rows and eight tokens, one a warp.
  auto take = [&](int r) {
    const int tile = warp * SLICES + slice, n = tile % NT, group = begin + r * step + tile / NT;
    if (tile >= warps * NT || group >= groups) return;
    const int each = p.gated ? 8 : 16, row = group * each + lane / 4, token = n * 8 + c * 2;
    const uint32_t from = parts + ((r % 2 * warps * NT + tile) * 32 + lane) * 16;
    float4 of[SLICES];
#pragma unroll
    for (int s = 0; s < SLICES; s++) of[s] = load_from(address_in(from, s));
    const float sum[4] = {tree({of[0].x, of[1].x, of[2].x, of[3].x, of[4].x, of[5].x, of[6].x, of[7].x}),
                          tree({of[0].y, of[1].y, of[2].y, of[3].y, of[4].y, of[5].y, of[6].y, of[7].y}),
                          tree({of[0].z, of[1].z, of[2].z, of[3].z, of[4].z, of[5].z, of[6].z, of[7].z}),
                          tree({of[0].w, of[1].w, of[2].w, of[3].w, of[4].w, of[5].w, of[6].w, of[7].w})};
    if (p.gated) {
#pragma unroll
      for (int e = 0; e < 2; e++)
        if (row < p.rows / 2 && token + e < p.tokens)
          static_cast<T *>(p.gated)[int64_t(token + e) * p.out_row + row] = saturated<T>(gate_of(p.gate, sum[e]) * sum[e + 2]);
      return;
    }
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float value = sum[e];
      if (p.cap != 0.0f) value = p.cap * tanhf(value / p.cap);
      if (row + e / 2 * 8 >= p.rows || token + e % 2 >= p.tokens) continue;
      float *to = p.out + int64_t(token + e % 2) * p.out_row + row + e / 2 * 8;
      *to = p.add ? *to + value : value;
    }
  };
  // Parts of a round are added when the next has been multiplied, so that nobody waits; there are two places for them. Whoever has
  // arrived after a round has read the parts of that before the last, and those may be written over.
  auto finish = [&] {
    __syncwarp();
    if (round > 0) cluster_wait();
    const uint32_t mine = parts + ((round % 2 * warps + warp) * NT * 32 + lane) * 16;
#pragma unroll
    for (int n = 0; n < NT; n++) {
      asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(mine + n * 512), "f"(acc[n][0]), "f"(acc[n][1]), "f"(acc[n][2]), "f"(acc[n][3]) : "memory");
#pragma unroll
      for (int e = 0; e < 4; e++) acc[n][e] = 0.0f;
    }
    const bool end = round + 1 == rounds;
    if (end) cluster_arrive();
    if (round > 0) take(round - 1);
    __syncwarp();
    if (!end) cluster_arrive();
    round++;
  };

  ahead.run(p, walk, rounds * tiles, lane, [&](const typename F::Raw &raw, auto after) {
    const int s = i % STAGES;
    if (column % COLUMNS == 0) {
      // The stage two back is free when all have read it.
      if (!resident && warp == 0 && i >= 2 && i - 2 + STAGES < all_stages) {
        const int back = i - 2;
        barrier_wait(empty + 8 * (back % STAGES), back / STAGES & 1);
        fill(back + STAGES);
      }
      barrier_wait(full + 8 * s, resident ? 0 : i / STAGES & 1);
      __syncwarp();
    }
    const T *x[NT], *here = reinterpret_cast<const T *>(memory) + s * STAGE + (lane / 4) * PITCH + 8 * c + column % COLUMNS;
#pragma unroll
    for (int n = 0; n < NT; n++) x[n] = here + n * 8 * PITCH;
    accumulate<F, NT>(acc, raw, x, 0, c, after, F::SCALING == PLAIN ? zero : 0);
    column += F::K;
    const bool end = column == tiles * F::K;
    if (column % COLUMNS == 0 || end) {
      if (!resident) {
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + 8 * s);
      }
      i++;
    }
    if (end) {
      column = 0;
      if (resident) i = 0;
      finish();
    }
  });
  // Blocks whose part has no columns add zeros.
  if (tiles == 0)
    while (round < rounds) finish();
  cluster_wait();
  take(rounds - 1);
  __syncwarp();
  cluster_arrive();
  cluster_wait();
}
#define WIDE(NAME, F, NT, DEPTH, MOST)                                                                                \
  extern "C" __global__ void __cluster_dims__(1, SLICES, 1) __launch_bounds__((MOST) * 32, 1) wide_##NAME(Product p) { \
    wide<F, NT, DEPTH>(p);                                                                                            \
  }
// With as many warps at most as `product.rs` says.
#define WIDES(NAME, F) WIDE(NAME##_2, F, 2, 2, 12) WIDE(NAME##_4, F, 4, 2, 12) WIDE(NAME##_8, F, 8, 2, F::MINS ? 8 : 12)
FOR_FORMATS(WIDES)
#endif
