// What a decoder does between its products: normalisation, gates, placing of queries, keys and values, the choice of a token.
//
// The residual stream is f32, inputs of products are of a 16-bit type, with zeros up to a whole tile of columns.
#include "dependent.cuh"
#include "paged.cuh"

template <class T> __device__ inline T saturated(float x) { return down<T>(x); }
template <> __device__ inline f16 saturated<f16>(float x) { return __float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f)); }

// The sum over a block of up to 1024 threads, in one order; all get it.
__device__ inline float block_sum(float x) {
  __shared__ float parts[32];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f);
}

// y[i] = x[rows[i]] / sqrt(mean(x^2) + epsilon) * weight; rows as they are if `rows` is null, and x itself if `weight` is.
template <class T>
__device__ void norm(int width, int y_row, float epsilon, const float *x, const float *weight, const uint32_t *rows, T *y) {
  wait_for_previous();
  launch_next();
  const int64_t row = rows ? rows[blockIdx.x] : blockIdx.x;
  x += row * width;
  y += int64_t(blockIdx.x) * y_row;
  float factor = 1.0f;
  if (weight) {
    float squares = 0.0f;
    for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
      const float4 v = *reinterpret_cast<const float4 *>(x + i);
      squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
    factor = rsqrtf(block_sum(squares) / width + epsilon);
  }
  for (int i = threadIdx.x * 4; i < y_row; i += blockDim.x * 4) {
    float4 v = {}, w = {1.0f, 1.0f, 1.0f, 1.0f};
    if (i < width) {
      v = *reinterpret_cast<const float4 *>(x + i);
      if (weight) w = *reinterpret_cast<const float4 *>(weight + i);
    }
    *reinterpret_cast<Pack<T, 4> *>(y + i) = {{saturated<T>(v.x * factor * w.x), saturated<T>(v.y * factor * w.y),
                                               saturated<T>(v.z * factor * w.z), saturated<T>(v.w * factor * w.w)}};
  }
}
extern "C" __global__ void decoder_norm_f16(int width, int y_row, float epsilon, const float *x, const float *weight,
                                            const uint32_t *rows, f16 *y) {
  norm(width, y_row, epsilon, x, weight, rows, y);
}
extern "C" __global__ void decoder_norm_bf16(int width, int y_row, float epsilon, const float *x, const float *weight,
                                             const uint32_t *rows, bf16 *y) {
  norm(width, y_row, epsilon, x, weight, rows, y);
}

// x += y / sqrt(mean(y^2) + epsilon) * weight.
extern "C" __global__ void decoder_norm_add(int width, float epsilon, const float *y, const float *weight, float *x) {
  wait_for_previous();
  launch_next();
  y += int64_t(blockIdx.x) * width;
  x += int64_t(blockIdx.x) * width;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) squares += y[i] * y[i];
  const float factor = rsqrtf(block_sum(squares) / width + epsilon);
  for (int i = threadIdx.x; i < width; i += blockDim.x) x[i] += y[i] * factor * weight[i];
}

// out[row] = gate(g) * u of products whose columns are eight of the gate and eight of the rest, in turn; `width` is a multiple of 8. A
// block a row, and so many columns.
template <class T> __device__ void gated(int width, int in_row, int out_row, int kind, const T *in, T *out) {
  wait_for_previous();
  launch_next();
  const int at = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (at >= width) return;
  in += int64_t(blockIdx.x) * in_row + at * 2;
  const Pack<T, 8> g = *reinterpret_cast<const Pack<T, 8> *>(in), u = *reinterpret_cast<const Pack<T, 8> *>(in + 8);
  Pack<T, 8> y;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const float x = up(g.v[j]);
    // Beyond 2^126 a short division gives 0, which is right here too.
    const float a = kind == 0 ? __fdividef(x, 1.0f + __expf(-x)) : 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    y.v[j] = saturated<T>(a * up(u.v[j]));
  }
  *reinterpret_cast<Pack<T, 8> *>(out + int64_t(blockIdx.x) * out_row + at) = y;
}
extern "C" __global__ void decoder_gated_f16(int width, int in_row, int out_row, int kind, const f16 *in, f16 *out) {
  gated(width, in_row, out_row, kind, in, out);
}
extern "C" __global__ void decoder_gated_bf16(int width, int in_row, int out_row, int kind, const bf16 *in, bf16 *out) {
  gated(width, in_row, out_row, kind, in, out);
}

// As in `paged_attention.rs`.
struct Placing {
  int heads, kv_heads, d;
  int in_row;          // floats from token to token: queries, then keys, then values
  int angles, norms;   // angles of a head; norms: 0 none, 1 each head, 2 all heads together
  int table_row;       // pages of a token's table
  float epsilon, query_scale;
};

// Biases, normalises, rotates and scales queries (to f16) and keys, and stores keys and values into the cache. A warp a head.
extern "C" __global__ void decoder_place(Placing p, const float *in, const float *bias, const float *q_norm, const float *k_norm,
                                         const float *cosines, const float *sines, const uint32_t *positions,
                                         const uint32_t *tables, f16 *q_out, f16 *keys, f16 *values) {
  extern __shared__ float memory[];
  wait_for_previous();
  launch_next();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, token = blockIdx.x;
  const int head = blockIdx.y * (blockDim.x / 32) + warp;
  if (head >= p.heads + 2 * p.kv_heads) return;
  in += int64_t(token) * p.in_row;
  const bool is_q = head < p.heads, is_k = !is_q && head < p.heads + p.kv_heads;
  const int from = is_q ? 0 : is_k ? p.heads : p.heads + p.kv_heads, of = head - from;
  const uint32_t position = positions[token];
  float *x = memory + warp * p.d;
  auto biased = [&](int i) { return in[i] + (bias ? bias[i] : 0.0f); };
  float squares = 0.0f;
  for (int i = lane; i < p.d; i += 32) {
    const float v = biased(head * p.d + i);
    x[i] = v;
    squares += v * v;
  }
  const float *weight = is_q ? q_norm : is_k ? k_norm : nullptr;
  if (weight && p.norms) {
    int width = p.d;
    if (p.norms == 2) {
      width = (is_q ? p.heads : p.kv_heads) * p.d;
      squares = 0.0f;
      for (int i = lane; i < width; i += 32) squares += biased(from * p.d + i) * biased(from * p.d + i);
      weight += of * p.d;
    }
    const float factor = rsqrtf(warp_sum(squares) / width + p.epsilon);
    for (int i = lane; i < p.d; i += 32) x[i] *= factor * weight[i];
  }
  __syncwarp();
  if (is_q || is_k) {
    for (int i = lane; i < p.angles; i += 32) {
      const float cos = cosines[int64_t(position) * p.angles + i], sin = sines[int64_t(position) * p.angles + i];
      const float a = x[i], b = x[i + p.angles];
      x[i] = a * cos - b * sin;
      x[i + p.angles] = b * cos + a * sin;
    }
    __syncwarp();
  }
  if (is_q) {
    q_out += (int64_t(token) * p.heads + head) * p.d;
    for (int i = lane; i < p.d; i += 32) q_out[i] = saturated<f16>(x[i] * p.query_scale);
    return;
  }
  const uint32_t page = tables[int64_t(token) * p.table_row + position / PAGE];
  const int64_t base = (int64_t(page) * p.kv_heads + of) * PAGE * p.d;
  for (int i = lane; i < p.d; i += 32) {
    if (is_k) keys[base + key_at(position % PAGE, i, p.d)] = saturated<f16>(x[i]);
    else values[base + value_at(position % PAGE, i, p.d)] = saturated<f16>(x[i]);
  }
}

// A number that is larger for larger logits, and among equal ones for the first.
__device__ inline unsigned long long ranked(float x, uint32_t at) {
  const uint32_t bits = __float_as_uint(x), order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (static_cast<unsigned long long>(order) << 32) | (0xffffffffu - at);
}
__device__ inline unsigned long long block_most(unsigned long long best) {
  __shared__ unsigned long long parts[32];
  for (int step = 16; step > 0; step /= 2) best = max(best, __shfl_xor_sync(0xffffffffu, best, step));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = best;
  __syncthreads();
  best = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0;
  if (threadIdx.x < 32)
    for (int step = 16; step > 0; step /= 2) best = max(best, __shfl_xor_sync(0xffffffffu, best, step));
  return best;
}

// The largest logit of each part of a row; then ids[row] of the largest of those. NaN counts for nothing.
extern "C" __global__ void decoder_argmax_parts(int classes, const float *logits, unsigned long long *parts) {
  wait_for_previous();
  launch_next();
  logits += int64_t(blockIdx.y) * classes;
  unsigned long long best = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < classes; i += gridDim.x * blockDim.x)
    if (logits[i] == logits[i]) best = max(best, ranked(logits[i], i));
  best = block_most(best);
  if (threadIdx.x == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = best;
}
extern "C" __global__ void decoder_argmax(int count, const unsigned long long *parts, uint32_t *ids) {
  wait_for_previous();
  launch_next();
  unsigned long long best = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) best = max(best, parts[blockIdx.x * count + i]);
  best = block_most(best);
  if (threadIdx.x == 0) ids[blockIdx.x] = best ? 0xffffffffu - uint32_t(best) : 0;
}

// Adds 1 to each of `count` numbers: positions and lengths of the next step.
extern "C" __global__ void decoder_advance(int count, uint32_t *numbers) {
  wait_for_previous();
  launch_next();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) numbers[i] += 1;
}
