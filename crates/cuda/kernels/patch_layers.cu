// Transformer layers within patches of 8 x 8 pixels, one after the other without leaving the chip.
//
//   x += project * attention(query, key, value of normal(x))
//   x += output * (gelu(depthwise(gate * normal(x))) . depthwise(pass * normal(x)))
//
// Attention is between the channels of a patch: softmax(temperature * q k^T) v with rows of q and k of length 1. Depthwise
// convolutions are 3x3 and see zeros around the patch. `normal` is a hyperbolic tangent or a layer norm without gain and shift.
//
// | argument | shape |
// |---|---|
// | x, y | n x height x width pixels of 64 channels; height and width are multiples of 8 |
// | query, key, value, project | 1x1, `channels` (49 to 64) to as many |
// | gate, pass; output | 1x1, `channels` to `hidden` (113 to 128); back |
// | gate_taps, pass_taps | f32 [9][128], zero from `hidden` on |
//
// A block of four warps takes a patch; warp w holds channels 16 w to 16 w + 15 of all 64 pixels in registers. There, row l / 4 of
// an accumulator is the pixel's column, so that the depthwise convolution finds a pixel's neighbours in the lane itself and four
// lanes further.
#include "transformer.cuh"

constexpr int MOST_LAYERS = 8;

struct PatchLayer {
  const uint4 *attention[3]; // query, key, value
  const float *attention_bias[3];
  const uint4 *project, *gate, *pass, *output;
  const float *project_bias, *gate_bias, *pass_bias, *output_bias;
  const float *gate_taps, *pass_taps;
  float temperature;
  int unused;
};

struct PatchLayers {
  PatchLayer layer[MOST_LAYERS];
};

// 3x3 over the patch, of two channels: tile j of `v`.
template <class T, int J>
__device__ void depthwise(float2 (&out)[8], const float (&v)[4][2][4], const float *taps, int lane) {
  float2 w[9];
#pragma unroll
  for (int tap = 0; tap < 9; tap++) w[tap] = __ldg(reinterpret_cast<const float2 *>(taps + tap * GATED));
#pragma unroll
  for (int y = 0; y < 8; y++) out[y] = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int y = 0; y < 8; y++) {
    const uint32_t own = pack2(T(), v[y / 2][J][y % 2 * 2], v[y / 2][J][y % 2 * 2 + 1]);
    uint32_t left = __shfl_up_sync(0xffffffffu, own, 4), right = __shfl_down_sync(0xffffffffu, own, 4);
    if (lane < 4) left = 0;
    if (lane >= 28) right = 0;
    const float2 a = unpack2(T(), left), b = unpack2(T(), own), c = unpack2(T(), right);
#pragma unroll
    for (int ky = 0; ky < 3; ky++) {
      const int oy = y - ky + 1;
      if (oy < 0 || oy > 7) continue;
      out[oy].x += w[ky * 3].x * a.x + w[ky * 3 + 1].x * b.x + w[ky * 3 + 2].x * c.x;
      out[oy].y += w[ky * 3].y * a.y + w[ky * 3 + 1].y * b.y + w[ky * 3 + 2].y * c.y;
    }
  }
}

template <class T, int J>
__device__ void gate_pair(const float (&a)[4][2][4], const float (&b)[4][2][4], const PatchLayer &layer, int column, T *gated,
                          int lane) {
  float2 gate[8], pass[8];
  depthwise<T, J>(gate, a, layer.gate_taps + column, lane);
  depthwise<T, J>(pass, b, layer.pass_taps + column, lane);
#pragma unroll
  for (int y = 0; y < 8; y++)
    word(gated + (y * 8 + lane / 4) * GATED_PITCH + column) =
        pack2(T(), quick_gelu(gate[y].x) * pass[y].x, quick_gelu(gate[y].y) * pass[y].y);
}

// Channel attention: queries in tiles[0], keys in tiles[1] and values in tiles[2], [pixel][channel]; the result goes to tiles[3],
// [channel][pixel]. Warp w takes 16 channels.
template <class T> __device__ void attend(int channels, T (*tiles)[64 * PITCH]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q = lane % 4;
  const uint32_t queries = shared_address(tiles[0]) + left_turned_at(lane, PITCH) + warp * 32;
  const uint32_t keys = shared_address(tiles[1]) + right_turned_at(lane, PITCH);
  const uint32_t values = shared_address(tiles[2]) + right_at(lane, PITCH);
  float score[8][4] = {};
#pragma unroll
  for (int k = 0; k < 4; k++) {
    uint32_t a[4];
    load_transposed(a, queries + k * 16 * PITCH * 2);
#pragma unroll
    for (int t = 0; t < 4; t++) {
      uint32_t b[4];
      load_transposed(b, keys + k * 16 * PITCH * 2 + t * 32);
      mma(T(), score[2 * t], a, b[0], b[1]);
      mma(T(), score[2 * t + 1], a, b[2], b[3]);
    }
  }
  float share[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float most = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) {
      float &s = score[i / 2][2 * half + i % 2];
      if (i / 2 * 8 + 2 * q + i % 2 >= channels) s = -INFINITY;
      most = fmaxf(most, s);
    }
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
#pragma unroll
    for (int i = 0; i < 16; i++) {
      float &s = score[i / 2][2 * half + i % 2];
      s = __expf(s - most);
      sum += s;
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    share[half] = 1.0f / sum;
  }
  float mixed[8][4] = {};
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const uint32_t a[4] = {pack2(T(), score[2 * k][0], score[2 * k][1]), pack2(T(), score[2 * k][2], score[2 * k][3]),
                           pack2(T(), score[2 * k + 1][0], score[2 * k + 1][1]),
                           pack2(T(), score[2 * k + 1][2], score[2 * k + 1][3])};
#pragma unroll
    for (int t = 0; t < 4; t++) {
      uint32_t b[4];
      load_matrices(b, values + t * 16 * PITCH * 2 + k * 32);
      mma(T(), mixed[2 * t], a, b[0], b[1]);
      mma(T(), mixed[2 * t + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int t = 0; t < 8; t++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      word(tiles[3] + (warp * 16 + lane / 4 + half * 8) * PITCH + t * 8 + 2 * q) =
          pack2(T(), mixed[t][2 * half] * share[half], mixed[t][2 * half + 1] * share[half]);
}

template <class T>
__device__ void patch_layers(const Map &g, int hidden, int count, const PatchLayers &layers, const T *x, T *y,
                             const FirstProducts &next) {
  // Queries, keys and values, and the features before them or the attention's result; later on the gate's result in the place
  // of the first two, and the features before it in that of the third.
  __shared__ __align__(16) T tiles[4][64 * PITCH];
  static_assert(2 * 64 * PITCH >= 64 * GATED_PITCH, "the gate's result takes the place of queries and keys");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = warp * 16 + 2 * (lane % 4);
  float state[4][2][4];
  load_state(g, state, x);
#pragma unroll 1
  for (int i = 0; i < count; i++) {
    const PatchLayer &layer = layers.layer[i];
    put_normalised(g, state, tiles[3]);
#pragma unroll 1
    for (int part = 0; part < 3; part++) {
      float sum[4][2][4];
      put_bias<4>(sum, layer.attention_bias[part], warp * 16, g.channels);
      const uint4 *weights = layer.attention[part] + warp * 32 + lane;
      product<T, 4, 4>(sum, shared_address(tiles[3]) + left_at(lane, PITCH), PITCH * 2, weights, 4);
      if (part < 2) {
        // All pixels of a channel lie in the eight lanes of one column.
        float length[2][2];
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            float s = 0.0f;
#pragma unroll
            for (int m = 0; m < 4; m++) s += sum[m][j][e] * sum[m][j][e] + sum[m][j][2 + e] * sum[m][j][2 + e];
            for (int step = 4; step < 32; step *= 2) s += __shfl_xor_sync(0xffffffffu, s, step);
            length[j][e] = (part == 0 ? layer.temperature : 1.0f) / fmaxf(sqrtf(s), 1e-12f);
          }
        for_pairs<4>(sum, [&](int, int j, float &a, float &b) {
          a *= length[j][0];
          b *= length[j][1];
        });
      }
      for_pairs<4>(sum, [&](int row, int j, float a, float b) {
        word(tiles[part] + row * PITCH + column + j * 8) = pack2(T(), a, b);
      });
    }
    __syncthreads();
    attend<T>(g.channels, tiles);
    __syncthreads();
    put_bias<4, true>(state, layer.project_bias, warp * 16, g.channels);
    product<T, 4, 4, true>(state, shared_address(tiles[3]) + left_turned_at(lane, PITCH), PITCH * 2,
                           layer.project + warp * 32 + lane, 4);

    put_normalised(g, state, tiles[2]);
    T *gated = tiles[0];
#pragma unroll 1
    for (int pair = warp * 2; pair < warp * 2 + 2; pair++) {
      float a[4][2][4], b[4][2][4];
      put_bias<4>(a, layer.gate_bias, pair * 16, hidden);
      put_bias<4>(b, layer.pass_bias, pair * 16, hidden);
      const uint32_t left = shared_address(tiles[2]) + left_at(lane, PITCH);
      product<T, 4, 4>(a, left, PITCH * 2, layer.gate + pair * 32 + lane, 8);
      product<T, 4, 4>(b, left, PITCH * 2, layer.pass + pair * 32 + lane, 8);
      gate_pair<T, 0>(a, b, layer, pair * 16 + 2 * (lane % 4), gated, lane);
      gate_pair<T, 1>(a, b, layer, pair * 16 + 8 + 2 * (lane % 4), gated, lane);
    }
    __syncthreads();
    put_bias<4, true>(state, layer.output_bias, warp * 16, g.channels);
    product<T, 4, 8>(state, shared_address(gated) + left_at(lane, GATED_PITCH), GATED_PITCH * 2,
                     layer.output + warp * 32 + lane, 4);
  }
  finish(g, state, y, next, tiles[3]);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    patch_layers_f16(Map g, int hidden, int count, const __grid_constant__ PatchLayers layers, const f16 *x, f16 *y,
                     const __grid_constant__ FirstProducts next) {
  patch_layers(g, hidden, count, layers, x, y, next);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    patch_layers_bf16(Map g, int hidden, int count, const __grid_constant__ PatchLayers layers, const bf16 *x, bf16 *y,
                      const __grid_constant__ FirstProducts next) {
  patch_layers(g, hidden, count, layers, x, y, next);
}
