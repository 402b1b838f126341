// The step of an optimiser over all parameters at once, which lie one after the other in flat buffers of `n` floats.
//
// | argument | shape |
// |---|---|
// | weights, gradients, first, second, average | `n` floats; `gradients` has one more, the loss |
// | low | `n` 16-bit floats: the weights as the network reads them |
// | partials | one sum of squares a block of `gradient_squares` |
// | state | what is remembered from step to step |
// | ring | records of the last `ring_len` steps |
//
// Three kernels a step: `gradient_squares`, `decide` (one block: norm, clipping, scale, whether to step), `update`. Sums and
// products of `update` round one by one, as on the CPU, so that both give the same bits.
#include "common.cuh"

// As in `optimizer.rs`.
struct Settings {
  double beta1, beta2, epsilon, weight_decay, momentum;
  double clip;    // largest norm, or infinity
  double average; // decay, or below 0
  double share;   // what summed gradients are multiplied by: 1 / processes
  int32_t rule;   // 0 Adam, 1 SGD
  int32_t scaling;
};

struct State {
  uint64_t step;     // steps begun in this stage
  uint64_t taken;    // steps that moved the weights
  uint64_t diverged; // 0, or the number, from 1, of the step whose loss or gradients were no numbers
  double norm;
  float scale;
  uint32_t good; // steps since the scale changed
  // Of the step at hand:
  float factor, size, root, keep, rate, one_minus_decay;
  uint32_t take, average;
};

struct Record {
  uint64_t step;
  double norm;
  float loss, scale;
  uint32_t taken, diverged;
};

constexpr int MOST = 128;

struct Piece {
  const void *from;
  int64_t at;
  uint32_t len, dtype;
};

struct Pieces {
  Piece piece[MOST];
};

// Adds pieces of any floating-point type to their places in a flat buffer; block row `y` takes piece `y`.
extern "C" __global__ void gather(const __grid_constant__ Pieces pieces, float *to) {
  const Piece p = pieces.piece[blockIdx.y];
  to += p.at;
  const uint32_t first = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
  uint32_t done = 0;
  if (p.dtype == 0 && uintptr_t(p.from) % 16 == 0 && uintptr_t(to) % 16 == 0) {
    const float4 *from = static_cast<const float4 *>(p.from);
    float4 *sums = reinterpret_cast<float4 *>(to);
    for (uint32_t i = first; i < p.len / 4; i += step) {
      const float4 x = from[i], y = sums[i];
      sums[i] = make_float4(y.x + x.x, y.y + x.y, y.z + x.z, y.w + x.w);
    }
    done = p.len / 4 * 4;
  }
  for (uint32_t i = done + first; i < p.len; i += step) {
    float x;
    if (p.dtype == 0) x = static_cast<const float *>(p.from)[i];
    else if (p.dtype == 1) x = up(static_cast<const f16 *>(p.from)[i]);
    else x = up(static_cast<const bf16 *>(p.from)[i]);
    to[i] += x;
  }
}

// The sum over a block of 256 threads, in an order that does not change; thread 0 gets it.
__device__ double block_sum(double x) {
  __shared__ double sums[256];
  sums[threadIdx.x] = x;
  __syncthreads();
  for (int step = 128; step > 0; step /= 2) {
    if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
    __syncthreads();
  }
  return sums[0];
}

extern "C" __global__ void gradient_squares(int64_t n, const float *gradients, double *partials) {
  double sum = 0.0;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
    double g = gradients[i];
    sum += g * g;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

constexpr uint32_t PATIENCE = 2000;

extern "C" __global__ void decide(Settings s, int parts, const double *partials, float *loss_sum, const double *rates,
                                  int64_t steps, State *state, int ring_len, Record *ring) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < parts; i += 256) sum += partials[i];
  sum = block_sum(sum);
  if (threadIdx.x) return;
  State t = *state;
  const float loss = *loss_sum * float(s.share);
  *loss_sum = 0.0f;
  const double norm = sqrt(sum) * s.share / double(t.scale);
  const bool good = isfinite(norm) && isfinite(loss);
  t.take = good && t.diverged == 0;
  const double rate = rates[t.step < uint64_t(steps) ? t.step : steps - 1];
  double factor = fmin(s.clip / (norm + 1e-6), 1.0);
  if (!(s.clip < INFINITY)) factor = 1.0;
  // The clip alone is rounded where nothing else is to be multiplied by: as on the CPU.
  t.factor = float(factor) * (float(s.share) / t.scale);
  t.norm = norm;
  const uint64_t step = t.step;
  const float scale = t.scale;
  if (t.take) {
    t.taken++;
    if (s.scaling && ++t.good == PATIENCE) {
      t.scale = fminf(t.scale * 2.0f, 3.4028235e38f / 4.0f);
      t.good = 0;
    }
  } else if (t.diverged == 0) {
    if (s.scaling && scale > 1.0f && !isnan(loss)) {
      t.scale = fmaxf(scale / 2.0f, 1.0f);
      t.good = 0;
    } else {
      t.diverged = step + 1;
    }
  }
  if (t.take) {
    if (s.rule == 0) {
      const double correction1 = 1.0 - pow(s.beta1, double(t.taken)), correction2 = 1.0 - pow(s.beta2, double(t.taken));
      t.size = float(rate / correction1);
      t.root = float(sqrt(correction2));
      t.keep = float(__dsub_rn(1.0, __dmul_rn(rate, s.weight_decay)));
    } else {
      t.rate = float(rate);
    }
    t.average = s.average >= 0.0;
    const float decay = float(fmin(s.average, double(1 + step) / double(10 + step)));
    t.one_minus_decay = 1.0f - decay;
  }
  t.step = step + 1;
  *state = t;
  ring[step % uint64_t(ring_len)] = Record{step + 1, norm, loss, scale, t.take, t.diverged != 0};
}

// N elements from `at` on.
template <int N, class T>
__device__ __forceinline__ void update_pack(const Settings &s, const State &t, int64_t at, float *weights, float *gradients,
                                            float *first, float *second, float *average, T *low) {
  using P = Pack<float, N>;
  const float b1 = float(s.beta1), b2 = float(s.beta2), c1 = float(1.0 - s.beta1), c2 = float(1.0 - s.beta2);
  const float epsilon = float(s.epsilon), momentum = float(s.momentum), decay = float(s.weight_decay);
  auto load = [at](const float *from) { return *reinterpret_cast<const P *>(from + at); };
  auto store = [at](float *to, const P &x) { *reinterpret_cast<P *>(to + at) = x; };
  P g = load(gradients), w, m, v = {}, mean = {}, zeros = {};
  w = load(weights);
  m = load(first);
  if (s.rule == 0) v = load(second);
  if (t.average) mean = load(average);
  store(gradients, zeros);
  Pack<T, N> narrow;
#pragma unroll
  for (int k = 0; k < N; k++) {
    const float gradient = __fmul_rn(g.v[k], t.factor);
    if (s.rule == 0) {
      m.v[k] = __fadd_rn(__fmul_rn(b1, m.v[k]), __fmul_rn(c1, gradient));
      v.v[k] = __fadd_rn(__fmul_rn(b2, v.v[k]), __fmul_rn(__fmul_rn(c2, gradient), gradient));
      const float divisor = __fadd_rn(__fdiv_rn(__fsqrt_rn(v.v[k]), t.root), epsilon);
      w.v[k] = __fsub_rn(__fmul_rn(w.v[k], t.keep), __fdiv_rn(__fmul_rn(t.size, m.v[k]), divisor));
    } else {
      m.v[k] = __fadd_rn(__fmul_rn(momentum, m.v[k]), __fadd_rn(gradient, __fmul_rn(decay, w.v[k])));
      w.v[k] = __fsub_rn(w.v[k], __fmul_rn(t.rate, m.v[k]));
    }
    mean.v[k] = __fadd_rn(mean.v[k], __fmul_rn(t.one_minus_decay, __fsub_rn(w.v[k], mean.v[k])));
    narrow.v[k] = down<T>(w.v[k]);
  }
  store(weights, w);
  store(first, m);
  if (s.rule == 0) store(second, v);
  if (t.average) store(average, mean);
  if (low) *reinterpret_cast<Pack<T, N> *>(low + at) = narrow;
}

// All buffers begin at multiples of 16 bytes.
template <class T>
__device__ void update(const Settings &s, const State *state, int64_t n, float *weights, float *gradients, float *first,
                       float *second, float *average, T *low) {
  const State t = *state;
  const int64_t packs = n / 4, at = blockIdx.x * int64_t(blockDim.x) + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
  if (!t.take) {
    for (int64_t i = at; i < n; i += step) gradients[i] = 0.0f;
    return;
  }
  for (int64_t i = at; i < packs; i += step) update_pack<4>(s, t, i * 4, weights, gradients, first, second, average, low);
  for (int64_t i = packs * 4 + at; i < n; i += step) update_pack<1>(s, t, i, weights, gradients, first, second, average, low);
}

#define UPDATE(T)                                                                                                    \
  (Settings s, const State *state, int64_t n, float *weights, float *gradients, float *first, float *second,         \
   float *average, T *low)
FOR_FLOATS(update, UPDATE, update<T>(s, state, n, weights, gradients, first, second, average, low))
