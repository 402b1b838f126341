// Sizes and steps, in elements, of a product of matrices; as in `gemm.rs`.
#pragma once
#include "common.cuh"

struct Gemm {
  int m, k, n;
  float slope; // of negative results: 1 for no activation, 0 for a ReLU
  int a_turned, b_turned;
  int64_t a_row, b_row, d_row, residual_row;
  int64_t a_batch, b_batch, d_batch, residual_batch;
};

// Other activations come in a kernel of their own: written out for each of a thread's results, their code would not fit the
// instruction cache, and took longer than the product.
__device__ inline float leaky(float slope, float x) { return x < 0.0f ? (slope == 0.0f ? 0.0f : slope * x) : x; }
