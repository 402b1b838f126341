// Products of packed weights with a few rows of activations: out[token][row] = sum over k of weight[row][k] * x[token][k].
//
// A block takes 16 rows of weights; its eight warps take an eighth of the columns each, in order, and their sums are added in a fixed
// tree. A token's sums are made in the same order whatever is beside it. The first weights are asked for before the kernel in front
// has ended.
#include "low_bit_product.cuh"

template <class F, int NT> __device__ __forceinline__ void product(const Product &p) {
  using T = typename F::T;
  __shared__ float parts[WARPS][NT * 4][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = lane % 4;
  const int share = (p.tiles + WARPS - 1) / WARPS, first = warp * share, last = min(first + share, p.tiles);
  typename F::Raw even, odd;
  if (first < last) even.load(p, blockIdx.x, first, lane);
  if (first + 1 < last) odd.load(p, blockIdx.x, first + 1, lane);
  wait_for_previous();
  launch_next();
  const T *x[NT];
#pragma unroll
  for (int n = 0; n < NT; n++) {
    // What the last token stands in for is never stored.
    const int token = min(n * 8 + lane / 4, p.tokens - 1);
    x[n] = static_cast<const T *>(p.x) + int64_t(token) * p.x_row + 8 * c;
  }
  float acc[NT][4] = {};
  for (int t = first; t < last; t += 2) {
    accumulate<F, NT>(acc, even, x, t * F::K, c);
    if (t + 2 < last) even.load(p, blockIdx.x, t + 2, lane);
    if (t + 1 < last) {
      accumulate<F, NT>(acc, odd, x, (t + 1) * F::K, c);
      if (t + 3 < last) odd.load(p, blockIdx.x, t + 3, lane);
    }
  }
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) parts[warp][n * 4 + e][lane] = acc[n][e];
  __syncthreads();
  store<F, WARPS * 32>(p, blockIdx.x, 0, NT, [&](int i, int l) {
    float a[WARPS];
#pragma unroll
    for (int w = 0; w < WARPS; w++) a[w] = parts[w][i][l];
    return tree(a);
  });
}

#define PRODUCT(NAME, F, NT, BLOCKS)                                                            \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) product_##NAME##_##NT(Product p) { \
    product<F, NT>(p);                                                                      \
  }
#define PRODUCTS(NAME, F) PRODUCT(NAME, F, 1, 2) PRODUCT(NAME, F, 2, 2) PRODUCT(NAME, F, 4, 1) PRODUCT(NAME, F, 8, 1)
FOR_FORMATS(PRODUCTS)
