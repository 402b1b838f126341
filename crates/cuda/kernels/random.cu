// Random numbers: element `i` depends on the stream's state and on `i` alone. The CPU's twin is `random.rs` of supple-tensor; sums
// and products round one by one here as there, so that both give the same bits.
#include "common.cuh"

__device__ inline uint64_t bits_of(uint64_t state, uint64_t i) {
  uint64_t z = state + (i + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

constexpr double STEP = 1.0 / 9007199254740992.0; // 2^-53

// Coefficients of the normal distribution's quantiles, the highest power first, above and below the line.
__constant__ double CENTRE[2][8] = {
    {2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987, 13731.69376550946, 1971.5909503065513, 133.14166789178438, 3.3871328727963665},
    {5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597, 5394.196021424751, 687.1870074920579, 42.31333070160091, 1.0}};
__constant__ double TAIL[2][8] = {
    {0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684, 3.6478483247632045, 5.769497221460691, 4.630337846156546, 1.4234371107496835},
    {1.0507500716444169e-09, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008, 0.6897673349851, 1.6763848301838038, 2.053191626637759, 1.0}};
__constant__ double FAR_TAIL[2][8] = {
    {2.0103343992922881e-07, 2.7115555687434876e-05, 0.0012426609473880784, 0.026532189526576124, 0.29656057182850487, 1.7848265399172913, 5.463784911164114, 6.657904643501103},
    {2.0442631033899397e-15, 1.421511758316446e-07, 1.8463183175100548e-05, 0.0007868691311456133, 0.014875361290850615, 0.1369298809227358, 0.599832206555888, 1.0}};

__device__ inline double polynomial(const double *c, double x) {
  double y = c[0];
  for (int i = 1; i < 8; i++) y = __dadd_rn(__dmul_rn(y, x), c[i]);
  return y;
}

// The natural logarithm of a normal number.
__device__ inline double logarithm(double x) {
  const uint64_t bits = uint64_t(__double_as_longlong(x));
  int e = int(bits >> 52) - 1023;
  double m = __longlong_as_double(int64_t((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull));
  if (m > 1.4142135623730951) {
    m = __dmul_rn(m, 0.5);
    e++;
  }
  const double s = __ddiv_rn(__dsub_rn(m, 1.0), __dadd_rn(m, 1.0)), square = __dmul_rn(s, s);
  double sum = 0.0;
  for (int k = 23; k >= 1; k -= 2) sum = __dadd_rn(__dmul_rn(sum, square), __ddiv_rn(1.0, double(k)));
  return __dadd_rn(__dmul_rn(double(e), 0.6931471805599453), __dmul_rn(__dmul_rn(2.0, s), sum));
}

__device__ inline double normal_of(uint64_t bits) {
  const double p = __dmul_rn(__dadd_rn(double(bits >> 11), 0.5), STEP), q = __dsub_rn(p, 0.5);
  if (fabs(q) <= 0.425) {
    const double r = __dsub_rn(0.180625, __dmul_rn(q, q));
    return __ddiv_rn(__dmul_rn(polynomial(CENTRE[0], r), q), polynomial(CENTRE[1], r));
  }
  const double r = __dsqrt_rn(-logarithm(q < 0.0 ? p : __dsub_rn(1.0, p)));
  const bool far = r > 5.0;
  const double at = __dsub_rn(r, far ? 5.0 : 1.6);
  const double(*c)[8] = far ? FAR_TAIL : TAIL;
  const double x = __ddiv_rn(polynomial(c[0], at), polynomial(c[1], at));
  return q < 0.0 ? -x : x;
}

extern "C" __global__ void random_uniform(uint64_t state, int64_t n, float bound, float *to) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
    const double unit = __dmul_rn(double(bits_of(state, i) >> 11), STEP);
    to[i] = __fmul_rn(float(__dsub_rn(__dmul_rn(unit, 2.0), 1.0)), bound);
  }
}

extern "C" __global__ void random_normal(uint64_t state, int64_t n, float deviation, float *to) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x)
    to[i] = __fmul_rn(float(normal_of(bits_of(state, i))), deviation);
}
