// Element by element: sums, products, activations, over rows of adjacent elements.
//
// | argument | shape |
// |---|---|
// | a, b | `rows` rows of `len` elements, `a_stride` and `b_stride` apart; a stride of 0 repeats one row |
// | out | the same, `out_stride` apart |
//
// Bound by memory: 16 bytes a thread and access where addresses allow it (the launcher looks), else one element.
#include "rows.cuh"

enum { ADD = 0, SUB = 1, MUL = 2, DIV = 3, SILU_MUL = 4, GATE = 5, GELU_TANH_MUL = 6 };

// What a gate's sigmoid is taken of: x itself (SiLU), or 2√(2/π)(x + 0.044715x³), whose sigmoid times x is GELU by tanh.
__device__ inline float gate_argument(bool gelu, float x) {
  return gelu ? 1.5957691216057308f * x * (1.0f + 0.044715f * x * x) : x;
}

__device__ inline float combine(int how, float a, float b) {
  switch (how) {
    case ADD: return a + b;
    case SUB: return a - b;
    case MUL: return a * b;
    case DIV: return a / b;
    case SILU_MUL: return a / (1.0f + expf(-a)) * b;
    case GELU_TANH_MUL: return a / (1.0f + expf(-gate_argument(true, a))) * b;
    default: return a / (1.0f + expf(-b));
  }
}

template <class T, int N> __device__ void binary(int how, const Rows &r, const T *a, const T *b, T *out) {
  for_packs<T, N>(r, a, b, out, [=](float x, float y) { return combine(how, x, y); });
}

template <class T, int N> __device__ void unary(int kind, float slope, float factor, const Rows &r, const T *a, T *out) {
  for_packs<T, N>(r, a, nullptr, out, [=](float x, float) { return activate_as<T>(kind, slope, x * factor); });
}

#define BINARY(T) (int how, int wide, Rows r, const T *a, const T *b, T *out)
FOR_FLOATS(binary, BINARY, if (wide) binary<T, 16 / sizeof(T)>(how, r, a, b, out); else binary<T, 1>(how, r, a, b, out))

// activation(x * factor)
#define UNARY(T) (int kind, float slope, float factor, int wide, Rows r, const T *a, T *out)
FOR_FLOATS(unary, UNARY, if (wide) unary<T, 16 / sizeof(T)>(kind, slope, factor, r, a, out);
           else unary<T, 1>(kind, slope, factor, r, a, out))

// Functions of one element; numbers as in `elementwise.rs`.
enum { ABS = 0, SIGN = 1, SQRT = 2, EXP = 3, LOG = 4, ADD_SCALAR = 5 };

__device__ inline float function(int kind, float value, float x) {
  switch (kind) {
    case ABS: return fabsf(x);
    case SIGN: return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; // NaN stays
    case SQRT: return sqrtf(x);
    case EXP: return expf(x);
    case LOG: return logf(x);
    default: return x + value;
  }
}

template <class T, int N> __device__ void function(int kind, float value, const Rows &r, const T *a, T *out) {
  for_packs<T, N>(r, a, nullptr, out, [=](float x, float) { return function(kind, value, x); });
}

#define FUNCTION(T) (int kind, float value, int wide, Rows r, const T *a, T *out)
FOR_FLOATS(function, FUNCTION, if (wide) function<T, 16 / sizeof(T)>(kind, value, r, a, out);
           else function<T, 1>(kind, value, r, a, out))

// The gradient of an activation's input from that of its output, `a`. `b` is the output, but the input of a GELU, a SiLU and of a leaky
// ReLU that is not monotonic. At its kink a ReLU has the slope of its negative side.
__device__ inline float slope_of(int kind, float slope, float v) {
  switch (kind) {
    case RELU: return v > 0.0f ? 1.0f : 0.0f;
    case LEAKY_RELU: return v > 0.0f ? 1.0f : slope;
    case SIGMOID: return v * (1.0f - v);
    case TANH: return 1.0f - v * v;
    case SILU: {
      const float open = 1.0f / (1.0f + expf(-v));
      return open * (1.0f + v * (1.0f - open));
    }
    case GELU: return 0.5f * (1.0f + erff(v * 0.70710678118654752f)) + v * 0.39894228040143268f * expf(-0.5f * v * v);
    default: return 1.0f;
  }
}

template <class T, int N>
__device__ void activation_backward(int kind, float slope, const Rows &r, const T *a, const T *b, T *out) {
  for_packs<T, N>(r, a, b, out, [=](float g, float v) { return g * slope_of(kind, slope, v); });
}

#define ACTIVATION_BACKWARD(T) (int kind, float slope, int wide, Rows r, const T *a, const T *b, T *out)
FOR_FLOATS(activation_backward, ACTIVATION_BACKWARD,
           if (wide) activation_backward<T, 16 / sizeof(T)>(kind, slope, r, a, b, out);
           else activation_backward<T, 1>(kind, slope, r, a, b, out))

template <class T> __device__ void fill(int64_t elements, float value, T *to) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < elements; i += int64_t(gridDim.x) * blockDim.x)
    to[i] = down<T>(value);
}

#define FILL(T) (int64_t elements, float value, T *to)
FOR_FLOATS(fill, FILL, fill<T>(elements, value, to))

// Gradients of x * sigmoid(m), of x and of m, for elements without gaps.
template <class T, int N>
__device__ void gate_backward(int64_t elements, const T *g, const T *x, const T *m, T *of_x, T *of_m) {
  using P = Pack<T, N>;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < elements / N; i += int64_t(gridDim.x) * blockDim.x) {
    const P a = reinterpret_cast<const P *>(g)[i], b = reinterpret_cast<const P *>(x)[i];
    const P c = reinterpret_cast<const P *>(m)[i];
    P u, v;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float open = 1.0f / (1.0f + expf(-up(c.v[k]))), through = up(a.v[k]) * open;
      u.v[k] = down<T>(through);
      v.v[k] = down<T>(through * up(b.v[k]) * (1.0f - open));
    }
    reinterpret_cast<P *>(of_x)[i] = u;
    reinterpret_cast<P *>(of_m)[i] = v;
  }
}

#define GATE_BACKWARD(T) (int wide, int64_t elements, const T *g, const T *x, const T *m, T *of_x, T *of_m)
FOR_FLOATS(gate_backward, GATE_BACKWARD,
           if (wide) gate_backward<T, 16 / sizeof(T)>(elements, g, x, m, of_x, of_m);
           else gate_backward<T, 1>(elements, g, x, m, of_x, of_m))

// gelu(a) * b, a and b being the halves of a row of 2 * len elements, and its gradients, laid out as the halves are.
// N adjacent elements a thread; `len` and the strides are multiples of N.
struct Halves {
  int64_t rows, len, x_stride, y_stride, of_x_stride;
};

// The normal distribution and its density at x, as exact as the type (see `activate_as`).
template <class T> __device__ inline float2 normal(float x) {
  const float density = 0.39894228040143268f * exponent<T>(-0.5f * x * x);
  if (sizeof(T) == 4) return make_float2(0.5f * (1.0f + erff(x * 0.70710678118654752f)), density);
  const float t = __fdividef(1.0f, 1.0f + 0.23164190f * fabsf(x));
  const float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  const float tail = p * density * 1.25331413731550025f;
  return make_float2(x < 0.0f ? tail : 1.0f - tail, density);
}

template <class T, int N> __device__ void gelu_gate(const Halves &h, const T *x, T *y) {
  using P = Pack<T, N>;
  const uint32_t per_row = uint32_t(h.len / N);
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < h.rows * per_row; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i <= UINT32_MAX ? uint32_t(i) / per_row : i / per_row, at = (i - row * per_row) * N;
    const P a = *reinterpret_cast<const P *>(x + row * h.x_stride + at);
    const P b = *reinterpret_cast<const P *>(x + row * h.x_stride + h.len + at);
    P to;
#pragma unroll
    for (int k = 0; k < N; k++) to.v[k] = down<T>(up(a.v[k]) * normal<T>(up(a.v[k])).x * up(b.v[k]));
    *reinterpret_cast<P *>(y + row * h.y_stride + at) = to;
  }
}

template <class T, int N> __device__ void gelu_gate_backward(const Halves &h, const T *g, const T *x, T *of_x) {
  using P = Pack<T, N>;
  const uint32_t per_row = uint32_t(h.len / N);
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < h.rows * per_row; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i <= UINT32_MAX ? uint32_t(i) / per_row : i / per_row, at = (i - row * per_row) * N;
    const P a = *reinterpret_cast<const P *>(x + row * h.x_stride + at);
    const P b = *reinterpret_cast<const P *>(x + row * h.x_stride + h.len + at);
    const P grad = *reinterpret_cast<const P *>(g + row * h.y_stride + at);
    P of_a, of_b;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float u = up(a.v[k]), v = up(grad.v[k]);
      const float2 n = normal<T>(u);
      of_a.v[k] = down<T>(v * up(b.v[k]) * (n.x + u * n.y));
      of_b.v[k] = down<T>(v * u * n.x);
    }
    *reinterpret_cast<P *>(of_x + row * h.of_x_stride + at) = of_a;
    *reinterpret_cast<P *>(of_x + row * h.of_x_stride + h.len + at) = of_b;
  }
}

#define GELU_GATE(T) (int wide, Halves h, const T *x, T *y)
FOR_FLOATS(gelu_gate, GELU_GATE, if (wide) gelu_gate<T, 16 / sizeof(T)>(h, x, y); else gelu_gate<T, 1>(h, x, y))
#define GELU_GATE_BACKWARD(T) (int wide, Halves h, const T *g, const T *x, T *of_x)
FOR_FLOATS(gelu_gate_backward, GELU_GATE_BACKWARD, if (wide) gelu_gate_backward<T, 16 / sizeof(T)>(h, g, x, of_x);
           else gelu_gate_backward<T, 1>(h, g, x, of_x))

// Gradients of activation(a) * b, of a and of b, for elements without gaps; the activation is SiLU, or GELU by tanh.
template <class T, int N>
__device__ void gated_backward(bool gelu, int64_t elements, const T *g, const T *a, const T *b, T *of_a, T *of_b) {
  using P = Pack<T, N>;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < elements / N; i += int64_t(gridDim.x) * blockDim.x) {
    const P grads = reinterpret_cast<const P *>(g)[i], gates = reinterpret_cast<const P *>(a)[i];
    const P others = reinterpret_cast<const P *>(b)[i];
    P u, v;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float grad = up(grads.v[k]), x = up(gates.v[k]);
      const float open = 1.0f / (1.0f + expf(-gate_argument(gelu, x)));
      const float steep = gelu ? 1.5957691216057308f * (1.0f + 0.134145f * x * x) : 1.0f;
      u.v[k] = down<T>(grad * up(others.v[k]) * open * (1.0f + x * steep * (1.0f - open)));
      v.v[k] = down<T>(grad * x * open);
    }
    reinterpret_cast<P *>(of_a)[i] = u;
    reinterpret_cast<P *>(of_b)[i] = v;
  }
}

#define GATED_BACKWARD(T) (int gelu, int wide, int64_t elements, const T *g, const T *a, const T *b, T *of_a, T *of_b)
FOR_FLOATS(gated_backward, GATED_BACKWARD,
           if (wide) gated_backward<T, 16 / sizeof(T)>(gelu, elements, g, a, b, of_a, of_b);
           else gated_backward<T, 1>(gelu, elements, g, a, b, of_a, of_b))
