// Copies between layouts and between element types.
#include "common.cuh"

constexpr int RANK = 6;

// Sizes and steps, in elements, the last dimension last; unused dimensions come first, with size 1.
struct Strided {
  int64_t elements;
  int64_t size[RANK];
  int64_t from[RANK];
  int64_t to[RANK];
};

template <class T> __device__ void strided(const Strided &s, const T *from, T *to) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < s.elements; i += int64_t(gridDim.x) * blockDim.x) {
    int64_t rest = i, a = 0, b = 0;
#pragma unroll
    for (int d = RANK - 1; d >= 0; d--) {
      if (s.size[d] == 1) continue;
      int64_t quotient = rest <= UINT32_MAX ? uint32_t(rest) / uint32_t(s.size[d]) : rest / s.size[d];
      int64_t index = rest - quotient * s.size[d];
      a += index * s.from[d];
      b += index * s.to[d];
      rest = quotient;
    }
    to[b] = from[a];
  }
}

extern "C" __global__ void strided_1(Strided s, const uint8_t *from, uint8_t *to) { strided(s, from, to); }
extern "C" __global__ void strided_2(Strided s, const uint16_t *from, uint16_t *to) { strided(s, from, to); }
extern "C" __global__ void strided_4(Strided s, const uint32_t *from, uint32_t *to) { strided(s, from, to); }
extern "C" __global__ void strided_8(Strided s, const uint2 *from, uint2 *to) { strided(s, from, to); }
extern "C" __global__ void strided_16(Strided s, const uint4 *from, uint4 *to) { strided(s, from, to); }

// Numbers as in `copy.rs`.
template <int D> struct Type;
template <> struct Type<0> { using T = float; };
template <> struct Type<1> { using T = f16; };
template <> struct Type<2> { using T = bf16; };
template <> struct Type<3> { using T = int8_t; };
template <> struct Type<4> { using T = uint8_t; };
template <> struct Type<5> { using T = int32_t; };
template <> struct Type<6> { using T = uint32_t; };

__device__ inline double wide(float x) { return x; }
__device__ inline double wide(f16 x) { return __half2float(x); }
__device__ inline double wide(bf16 x) { return __bfloat162float(x); }
__device__ inline double wide(int8_t x) { return x; }
__device__ inline double wide(uint8_t x) { return x; }
__device__ inline double wide(int32_t x) { return x; }
__device__ inline double wide(uint32_t x) { return x; }

// Integers drop fractions and saturate, NaN becomes 0; floats round to nearest.
template <class T> __device__ T narrow(double x, double low, double high) {
  return x != x ? T(0) : T(fmin(fmax(trunc(x), low), high));
}
__device__ inline void set(float &to, double x) { to = float(x); }
__device__ inline void set(f16 &to, double x) { to = __double2half(x); }
__device__ inline void set(bf16 &to, double x) { to = __double2bfloat16(x); }
__device__ inline void set(int8_t &to, double x) { to = narrow<int8_t>(x, -128, 127); }
__device__ inline void set(uint8_t &to, double x) { to = narrow<uint8_t>(x, 0, 255); }
__device__ inline void set(int32_t &to, double x) { to = narrow<int32_t>(x, -2147483648.0, 2147483647.0); }
__device__ inline void set(uint32_t &to, double x) { to = narrow<uint32_t>(x, 0, 4294967295.0); }

// The pairs that matter go without doubles.
__device__ inline void put(float &to, f16 x) { to = __half2float(x); }
__device__ inline void put(float &to, bf16 x) { to = __bfloat162float(x); }
__device__ inline void put(f16 &to, float x) { to = __float2half_rn(x); }
__device__ inline void put(bf16 &to, float x) { to = __float2bfloat16_rn(x); }
__device__ inline void put(float &to, float x) { to = x; }
__device__ inline void put(f16 &to, bf16 x) { to = __float2half_rn(__bfloat162float(x)); }
__device__ inline void put(bf16 &to, f16 x) { to = __float2bfloat16_rn(__half2float(x)); }
template <class A, class B> __device__ void put(B &to, A x) { set(to, wide(x)); }

// Between floats eight elements a thread, 16 bytes an access, where addresses allow it; then what is left.
template <int A, int B> __device__ void convert(int64_t elements, const void *from, void *to) {
  using X = typename Type<A>::T;
  using Y = typename Type<B>::T;
  const auto *x = static_cast<const X *>(from);
  auto *y = static_cast<Y *>(to);
  const int64_t first = blockIdx.x * int64_t(blockDim.x) + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
  int64_t done = 0;
  if constexpr (A < 3 && B < 3) {
    if ((reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to)) % 16 == 0) {
      using P = Pack<X, 16 / sizeof(X)>;
      using Q = Pack<Y, 16 / sizeof(Y)>;
      constexpr int N = 16 / sizeof(X), M = 16 / sizeof(Y);
      done = elements / 8 * 8;
      for (int64_t i = first; i < elements / 8; i += step) {
        P u[8 / N];
        Q v[8 / M];
#pragma unroll
        for (int k = 0; k < 8 / N; k++) u[k] = reinterpret_cast<const P *>(x + i * 8)[k];
#pragma unroll
        for (int k = 0; k < 8; k++) put(v[k / M].v[k % M], u[k / N].v[k % N]);
#pragma unroll
        for (int k = 0; k < 8 / M; k++) reinterpret_cast<Q *>(y + i * 8)[k] = v[k];
      }
    }
  }
  for (int64_t i = done + first; i < elements; i += step) put(y[i], x[i]);
}

template <int A> __device__ void convert_from(int b, int64_t elements, const void *from, void *to) {
  switch (b) {
    case 0: return convert<A, 0>(elements, from, to);
    case 1: return convert<A, 1>(elements, from, to);
    case 2: return convert<A, 2>(elements, from, to);
    case 3: return convert<A, 3>(elements, from, to);
    case 4: return convert<A, 4>(elements, from, to);
    case 5: return convert<A, 5>(elements, from, to);
    default: return convert<A, 6>(elements, from, to);
  }
}

extern "C" __global__ void convert_elements(int a, int b, int64_t elements, const void *from, void *to) {
  switch (a) {
    case 0: return convert_from<0>(b, elements, from, to);
    case 1: return convert_from<1>(b, elements, from, to);
    case 2: return convert_from<2>(b, elements, from, to);
    case 3: return convert_from<3>(b, elements, from, to);
    case 4: return convert_from<4>(b, elements, from, to);
    case 5: return convert_from<5>(b, elements, from, to);
    default: return convert_from<6>(b, elements, from, to);
  }
}
