// What kernels share: element types, activations, index arithmetic.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

using f16 = __half;
using bf16 = __nv_bfloat16;

template <class T> struct Cast;
template <> struct Cast<float> {
  static __device__ float up(float x) { return x; }
  static __device__ float down(float x) { return x; }
};
template <> struct Cast<f16> {
  static __device__ float up(f16 x) { return __half2float(x); }
  static __device__ f16 down(float x) { return __float2half_rn(x); }
};
template <> struct Cast<bf16> {
  static __device__ float up(bf16 x) { return __bfloat162float(x); }
  static __device__ bf16 down(float x) { return __float2bfloat16_rn(x); }
};

template <class T> __device__ float up(T x) { return Cast<T>::up(x); }
template <class T> __device__ T down(float x) { return Cast<T>::down(x); }

// Two adjacent elements packed into a register, the first in the low half.
__device__ inline uint32_t pack2(f16, float a, float b) {
  __half2 v = __floats2half2_rn(a, b);
  return *reinterpret_cast<uint32_t *>(&v);
}
__device__ inline uint32_t pack2(bf16, float a, float b) {
  __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<uint32_t *>(&v);
}
__device__ inline float2 unpack2(f16, uint32_t v) { return __half22float2(*reinterpret_cast<__half2 *>(&v)); }
__device__ inline float2 unpack2(bf16, uint32_t v) { return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&v)); }

// N elements that are loaded and stored as one.
template <class T, int N> struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

// Numbers as in `elementwise.rs`.
enum { IDENTITY = 0, RELU = 1, LEAKY_RELU = 2, SIGMOID = 3, TANH = 4, GELU = 5, SILU = 6 };

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

__device__ inline float activate(int kind, float slope, float x) {
  switch (kind) {
    case RELU: return x < 0.0f ? 0.0f : x; // NaN stays
    case LEAKY_RELU: return x > 0.0f ? x : slope * x;
    case SIGMOID: return 1.0f / (1.0f + expf(-x));
    case TANH: return tanhf(x);
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case SILU: return x / (1.0f + expf(-x));
    default: return x;
  }
}

// e^x and the functions made of it, as exact as the type: f32, or the 16-bit types with fewer instructions.
template <class T> __device__ inline float exponent(float x) { return sizeof(T) == 4 ? expf(x) : __expf(x); }

// Of the 16-bit types: the normal distribution by Abramowitz and Stegun, 7.1.26, whose error is 8e-8.
template <class T> __device__ inline float activate_as(int kind, float slope, float x) {
  if (sizeof(T) == 4) return activate(kind, slope, x);
  if (kind == GELU) {
    const float t = __fdividef(1.0f, 1.0f + 0.23164190f * fabsf(x));
    const float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    const float tail = 0.5f * p * __expf(-0.5f * x * x);
    return x * (x < 0.0f ? tail : 1.0f - tail);
  }
  if (kind == SIGMOID) return __fdividef(1.0f, 1.0f + __expf(-x));
  // Beyond 2^126 a short division gives 0, which is right here too.
  if (kind == SILU) return __fdividef(x, 1.0f + __expf(-x));
  return activate(kind, slope, x);
}

// Sum over a warp; all lanes get it.
__device__ inline float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

// One kernel a floating-point type, named NAME_f32 and so on; what it does is written with T for the type.
#define FOR_FLOATS(NAME, PARAMETERS, ...)                                                      \
  extern "C" __global__ void NAME##_f32 PARAMETERS(float) { using T = float; __VA_ARGS__; }    \
  extern "C" __global__ void NAME##_f16 PARAMETERS(f16) { using T = f16; __VA_ARGS__; }        \
  extern "C" __global__ void NAME##_bf16 PARAMETERS(bf16) { using T = bf16; __VA_ARGS__; }
