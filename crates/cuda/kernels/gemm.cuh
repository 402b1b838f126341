// Sizes and steps, in elements, of a product of matrices; as in `gemm.rs`.
#pragma once
#include "common.cuh"

struct Gemm {
  int m, k, n;
  int activation;
  float slope;
  int a_turned, b_turned;
  int64_t a_row, b_row, d_row, residual_row;
  int64_t a_batch, b_batch, d_batch, residual_batch;
};
