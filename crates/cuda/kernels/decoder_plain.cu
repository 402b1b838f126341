// A decoder's operations in their plain form: any sizes, f32 between them, sums in an order that depends on nothing but the sizes of
// a row. Fast kernels are compared with these, and shapes that those do not take run here.
//
// x: [tokens, k] f32, one row a token. Keys and values: [pages, kv_heads, PAGE, head] f16; page p of a sequence's row of the table
// holds its positions p · PAGE to p · PAGE + PAGE - 1.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math_constants.h>
#include <stdint.h>

constexpr int PAGE = 64;
constexpr int WARP = 32;

__device__ inline float value(float x) { return x; }
__device__ inline float value(__half x) { return __half2float(x); }
__device__ inline float value(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffff, x, step);
    }
    return x;
}

// y[t, r] = sum_k x[t, k] · w[r, k]; a warp a row and up to TOKENS tokens. Lane l adds k = l, l + 32, ..., then lanes are added: the
// same for any number of tokens.
constexpr int TOKENS = 8;

template <typename W>
__device__ void project(const float* x, const W* w, float* y, int tokens, int rows, int k) {
    int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    int first = blockIdx.y * TOKENS;
    int lane = threadIdx.x % WARP;
    if (row >= rows) return;
    int count = min(TOKENS, tokens - first);
    float sums[TOKENS] = {};
    const W* weights = w + (int64_t)row * k;
    for (int i = lane; i < k; i += WARP) {
        float weight = value(weights[i]);
#pragma unroll
        for (int t = 0; t < TOKENS; ++t) {
            if (t < count) sums[t] = fmaf(x[(int64_t)(first + t) * k + i], weight, sums[t]);
        }
    }
#pragma unroll
    for (int t = 0; t < TOKENS; ++t) {
        if (t < count) {
            float sum = warp_sum(sums[t]);
            if (lane == 0) y[(int64_t)(first + t) * rows + row] = sum;
        }
    }
}

extern "C" __global__ void plain_project_f32(const float* x, const float* w, float* y, int tokens, int rows, int k) {
    project(x, w, y, tokens, rows, k);
}
extern "C" __global__ void plain_project_f16(const float* x, const __half* w, float* y, int tokens, int rows, int k) {
    project(x, w, y, tokens, rows, k);
}
extern "C" __global__ void plain_project_bf16(const float* x, const __nv_bfloat16* w, float* y, int tokens, int rows, int k) {
    project(x, w, y, tokens, rows, k);
}

// x[t] = scale · table[ids[t]]; a token that is none gives NaN. A block a token.
template <typename W>
__device__ void embed(const W* table, const uint32_t* ids, float* x, int vocabulary, int width, float scale) {
    uint32_t id = ids[blockIdx.x];
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float v = id < (uint32_t)vocabulary ? value(table[(int64_t)id * width + i]) * scale : CUDART_NAN_F;
        x[(int64_t)blockIdx.x * width + i] = v;
    }
}

extern "C" __global__ void plain_embed_f32(const float* table, const uint32_t* ids, float* x, int vocabulary, int width, float scale) {
    embed(table, ids, x, vocabulary, width, scale);
}
extern "C" __global__ void plain_embed_f16(const __half* table, const uint32_t* ids, float* x, int vocabulary, int width, float scale) {
    embed(table, ids, x, vocabulary, width, scale);
}
extern "C" __global__ void plain_embed_bf16(const __nv_bfloat16* table, const uint32_t* ids, float* x, int vocabulary, int width,
                                            float scale) {
    embed(table, ids, x, vocabulary, width, scale);
}

// y[i] = x[rows[i]]; a block a row.
extern "C" __global__ void plain_select(const float* x, const uint32_t* rows, float* y, int width) {
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        y[(int64_t)blockIdx.x * width + i] = x[(int64_t)rows[blockIdx.x] * width + i];
    }
}

struct Place {
    int heads, kv_heads, head, angles;
    int pages;        // of a row of the table
    int together;     // whether all tokens are of the sequence in row 0 of the table, not each of its own
    int norm;         // 0: none, 1: each head, 2: all heads together
    float epsilon, query_scale;
    const float *q_bias, *k_bias, *v_bias, *q_norm, *k_norm;  // each may be null
};

// Biases, norms, rotation and scale of queries, which go behind those of all tokens as they were, and of keys and values, which go
// into the cache. A warp a head; blocks: (heads + 2 · kv_heads, tokens).
extern "C" __global__ void plain_place(const Place p, float* q, const float* k, const float* v, const float* cosines,
                                       const float* sines, const uint32_t* positions, const uint32_t* table, __half* keys,
                                       __half* values) {
    extern __shared__ float row[];
    int token = blockIdx.y, lane = threadIdx.x;
    int which = blockIdx.x < p.heads ? 0 : blockIdx.x < p.heads + p.kv_heads ? 1 : 2;
    int head = blockIdx.x - (which == 0 ? 0 : which == 1 ? p.heads : p.heads + p.kv_heads);
    int heads = which == 0 ? p.heads : p.kv_heads;
    const float* source = which == 0 ? q : which == 1 ? k : v;
    const float* bias = which == 0 ? p.q_bias : which == 1 ? p.k_bias : p.v_bias;
    const float* norm = which == 0 ? p.q_norm : which == 1 ? p.k_norm : nullptr;
    const float* all = source + (int64_t)token * heads * p.head;
    auto load = [&](int i) { return all[i] + (bias ? bias[i] : 0.0f); };
    float factor = 1.0f;
    if (norm && p.norm) {
        int from = p.norm == 1 ? head * p.head : 0, count = p.norm == 1 ? p.head : heads * p.head;
        float sum = 0.0f;
        for (int i = lane; i < count; i += WARP) sum += load(from + i) * load(from + i);
        factor = rsqrtf(warp_sum(sum) / count + p.epsilon);
    }
    for (int i = lane; i < p.head; i += WARP) {
        int at = head * p.head + i;
        row[i] = load(at) * factor * (norm && p.norm ? norm[p.norm == 1 ? i : at] : 1.0f);
    }
    __syncwarp();
    uint32_t position = positions[token];
    if (which < 2) {
        for (int i = lane; i < p.angles; i += WARP) {
            float c = cosines[(int64_t)position * p.angles + i], s = sines[(int64_t)position * p.angles + i];
            float a = row[i], b = row[i + p.angles];
            row[i] = a * c - b * s;
            row[i + p.angles] = b * c + a * s;
        }
        __syncwarp();
    }
    if (which == 0) {
        // Not in place: with a norm over all heads other blocks still read these.
        float* target = q + (int64_t)(gridDim.y + token) * heads * p.head + head * p.head;
        for (int i = lane; i < p.head; i += WARP) target[i] = row[i] * p.query_scale;
        return;
    }
    uint32_t page = table[(int64_t)(p.together ? 0 : token) * p.pages + position / PAGE];
    __half* target = (which == 1 ? keys : values) + (((int64_t)page * p.kv_heads + head) * PAGE + position % PAGE) * p.head;
    for (int i = lane; i < p.head; i += WARP) target[i] = __float2half_rn(row[i]);
}

struct Attend {
    int heads, kv_heads, head, pages, together;
    int window;  // 0: none
    float cap;   // 0: none
};

// out[t, h] = softmax(q · kᵀ) · v over the positions up to the token's own. A warp a head of a token; blocks: (heads, tokens). A lane
// scores a key, then all lanes add 32 values.
extern "C" __global__ void plain_attend(const Attend p, const float* q, const __half* keys, const __half* values,
                                        const uint32_t* positions, const uint32_t* table, float* out) {
    constexpr int PARTS = 8;  // heads of up to 256
    extern __shared__ float query[];
    int head = blockIdx.x, token = blockIdx.y, lane = threadIdx.x;
    int kv = head / (p.heads / p.kv_heads);
    int position = positions[token];
    const uint32_t* pages = table + (int64_t)(p.together ? 0 : token) * p.pages;
    const float* own = q + ((int64_t)(gridDim.y + token) * p.heads + head) * p.head;
    for (int i = lane; i < p.head; i += WARP) query[i] = own[i];
    __syncwarp();
    float sums[PARTS] = {}, largest = -CUDART_INF_F, total = 0.0f;
    int start = p.window && position >= p.window ? position - p.window + 1 : 0;
    for (int first = start / WARP * WARP; first <= position; first += WARP) {
        int at = first + lane;
        int64_t base = (((int64_t)pages[first / PAGE] * p.kv_heads + kv) * PAGE + first % PAGE) * p.head;
        float score = -CUDART_INF_F;
        if (at >= start && at <= position) {
            score = 0.0f;
            for (int i = 0; i < p.head; ++i) score = fmaf(query[i], __half2float(keys[base + lane * p.head + i]), score);
            if (p.cap > 0.0f) score = p.cap * tanhf(score / p.cap);
        }
        float most = score;
        for (int step = WARP / 2; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, step));
        most = fmaxf(most, largest);
        float scale = __expf(largest - most), weight = __expf(score - most);
        largest = most;
        total = total * scale + warp_sum(weight);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) sums[part] *= scale;
        int count = min(WARP, position - first + 1);
        for (int j = 0; j < count; ++j) {
            float w = __shfl_sync(0xffffffff, weight, j);
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                int i = part * WARP + lane;
                if (i < p.head) sums[part] = fmaf(w, __half2float(values[base + j * p.head + i]), sums[part]);
            }
        }
    }
    float* target = out + ((int64_t)token * p.heads + head) * p.head;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        int i = part * WARP + lane;
        if (i < p.head) target[i] = sums[part] / total;
    }
}

// gate = activation(gate) · up; kind 0: SiLU, 1: GELU by tanh.
extern "C" __global__ void plain_gate(float* gate, const float* up, int64_t count, int kind) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
        float g = gate[i];
        float a = kind == 0 ? g / (1.0f + expf(-g)) : 0.5f * g * (1.0f + tanhf(0.7978845608028654f * (g + 0.044715f * g * g * g)));
        gate[i] = a * up[i];
    }
}

// logits = cap · tanh(logits / cap) if there is a cap, and the first of the largest of each row, 2^32 - 1 where one is no number or the
// largest is not finite. A block of 256 a row.
extern "C" __global__ void plain_choose(float* logits, uint32_t* ids, int vocabulary, float cap) {
    __shared__ float values[256];
    __shared__ int places[256];
    float* row = logits + (int64_t)blockIdx.x * vocabulary;
    float best = -CUDART_INF_F;
    int place = vocabulary, bad = 0;
    for (int i = threadIdx.x; i < vocabulary; i += 256) {
        float x = row[i];
        if (cap > 0.0f) row[i] = x = cap * tanhf(x / cap);
        bad |= isnan(x);
        if (x > best) {
            best = x;
            place = i;
        }
    }
    values[threadIdx.x] = best;
    places[threadIdx.x] = place;
    bad = __syncthreads_or(bad);
    for (int step = 128; step > 0; step /= 2) {
        if (threadIdx.x < step) {
            float other = values[threadIdx.x + step];
            int there = places[threadIdx.x + step];
            if (other > values[threadIdx.x] || (other == values[threadIdx.x] && there < places[threadIdx.x])) {
                values[threadIdx.x] = other;
                places[threadIdx.x] = there;
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) ids[blockIdx.x] = bad || isinf(values[0]) ? UINT32_MAX : (uint32_t)places[0];
}
