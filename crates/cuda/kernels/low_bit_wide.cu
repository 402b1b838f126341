// Products of packed weights with up to 64 rows of activations, on Hopper: the sums of `low_bit_product.cu`, bit by bit.
//
// A block takes 128 rows, 16 a warp, and one of the eight parts of the columns, whose activations its warps share in shared memory;
// eight blocks are a cluster and add their parts there.
#include "low_bit_product.cuh"

// Nobody asks for these kernels on other GPUs.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#include <cooperative_groups.h>

template <class F, int NT> struct Wide {
  static constexpr int PITCH = F::K + 32; // elements of a row: eight lanes at a time read from all banks
  static constexpr int BUFFER = NT * 8 * PITCH;
};

// Queues copies of the activations of a tile's columns.
template <class F, int NT> __device__ __forceinline__ void stage(const Product &p, int column, uint32_t to) {
  constexpr int PIECES = F::K / 8, TOTAL = NT * 8 * PIECES;
  using T = typename F::T;
#pragma unroll
  for (int i = 0; i < TOTAL / (WARPS * 32); i++) {
    const int at = i * WARPS * 32 + threadIdx.x, row = at / PIECES, piece = at % PIECES;
    const T *from = static_cast<const T *>(p.x) + int64_t(min(row, p.tokens - 1)) * p.x_row + column + piece * 8;
    copy_async(to + (row * Wide<F, NT>::PITCH + piece * 8) * 2, from, 16);
  }
  commit();
}

template <class F, int NT> __device__ __forceinline__ void wide(const Product &p) {
  using T = typename F::T;
  using W = Wide<F, NT>;
  extern __shared__ __align__(128) char memory[]; // two buffers of activations, then parts: [warps][NT * 4][32] floats
  T *buffers = reinterpret_cast<T *>(memory);
  float *parts = reinterpret_cast<float *>(memory + 2 * W::BUFFER * 2);
  const uint32_t at[2] = {shared_address(buffers), shared_address(buffers + W::BUFFER)};
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = lane % 4, slice = blockIdx.y;
  const int share = (p.tiles + WARPS - 1) / WARPS, first = min(slice * share, p.tiles), last = min(first + share, p.tiles);
  // Warps without rows work on those of the last group, and store nothing.
  const int groups = (p.rows + 15) / 16, group = min(int(blockIdx.x) * WARPS + warp, groups - 1);
  typename F::Raw even, odd;
  if (first < last) even.load(p, group, first, lane);
  if (first + 1 < last) odd.load(p, group, first + 1, lane);
  wait_for_previous();
  launch_next();
  if (first < last) stage<F, NT>(p, first * F::K, at[0]);
  const T *x[2][NT];
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int n = 0; n < NT; n++) x[i][n] = buffers + i * W::BUFFER + (n * 8 + lane / 4) * W::PITCH + 8 * c;
  float acc[NT][4] = {};
  for (int t = first; t < last; t += 2) {
    if (t + 1 < last) {
      stage<F, NT>(p, (t + 1) * F::K, at[1]);
      wait_for<1>();
    } else {
      wait_for<0>();
    }
    __syncthreads();
    accumulate<F, NT>(acc, even, x[0], 0, c);
    if (t + 2 < last) even.load(p, group, t + 2, lane);
    if (t + 1 >= last) break;
    __syncthreads();
    if (t + 2 < last) {
      stage<F, NT>(p, (t + 2) * F::K, at[0]);
      wait_for<1>();
    } else {
      wait_for<0>();
    }
    __syncthreads();
    accumulate<F, NT>(acc, odd, x[1], 0, c);
    if (t + 3 < last) odd.load(p, group, t + 3, lane);
    __syncthreads();
  }
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) parts[(warp * NT * 4 + n * 4 + e) * 32 + lane] = acc[n][e];
  namespace cg = cooperative_groups;
  const cg::cluster_group cluster = cg::this_cluster();
  cluster.sync();
  // Each block finishes the rows of one warp.
  const int mine = blockIdx.x * WARPS + slice;
  const float *of[WARPS];
#pragma unroll
  for (int s = 0; s < WARPS; s++) of[s] = cluster.map_shared_rank(parts, s) + slice * NT * 4 * 32;
  if (mine < groups)
    store<F, WARPS * 32>(p, mine, 0, NT, [&](int i, int l) {
      float a[WARPS];
#pragma unroll
      for (int s = 0; s < WARPS; s++) a[s] = of[s][i * 32 + l];
      return tree(a);
    });
  cluster.sync();
}
#define WIDE(NAME, F, NT)                                                                                              \
  extern "C" __global__ void __cluster_dims__(1, 8, 1) __launch_bounds__(WARPS * 32, 1) wide_##NAME##_##NT(Product p) { \
    wide<F, NT>(p);                                                                                                       \
  }
#define WIDES(NAME, F) WIDE(NAME, F, 2) WIDE(NAME, F, 4) WIDE(NAME, F, 8)
FOR_FORMATS(WIDES)
#endif
