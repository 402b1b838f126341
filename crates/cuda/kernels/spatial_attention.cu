// The gate of RLFN's spatial attention: y = x * sigmoid(resize(coarse) + w * reduced + bias).
//
// | argument | shape |
// |---|---|
// | x, y | n x height x width pixels of `channels` |
// | reduced | as many pixels of 16 channels |
// | coarse | n x coarse_height x coarse_width pixels of `channels`, resized bilinearly |
// | w | packed as a 1x1 convolution's weights, 16 -> channels |
//
// A warp takes 16 pixels of a row: the product is one tensor-core instruction for 8 channels.
#include "mma.cuh"

struct Gate {
  int n, height, width, channels;
  int coarse_height, coarse_width;
  int64_t x_stride, reduced_stride, coarse_stride, y_stride;
};

template <class T>
__device__ void gate(const Gate &g, const T *x, const T *reduced, const T *coarse, const uint4 *w, const float *bias, T *y) {
  const int lane = threadIdx.x % 32;
  const int groups = (g.width + 15) / 16;
  const int64_t warps = int64_t(gridDim.x) * (blockDim.x / 32), total = int64_t(g.n) * g.height * groups;
  const int pairs = (g.channels + 15) / 16;
  const float scale_y = float(g.coarse_height) / float(g.height), scale_x = float(g.coarse_width) / float(g.width);
  for (int64_t i = blockIdx.x * int64_t(blockDim.x / 32) + threadIdx.x / 32; i < total; i += warps) {
    const int64_t row = i / groups;
    const int x0 = int(i - row * groups) * 16, oy = int(row % g.height), n = int(row / g.height);
    // The operand of 16 pixels x 16 channels, two adjacent channels a load.
    uint32_t a[4];
#pragma unroll
    for (int q = 0; q < 4; q++) {
      const int px = min(x0 + lane / 4 + (q % 2) * 8, g.width - 1), c = 2 * (lane % 4) + (q / 2) * 8;
      a[q] = *reinterpret_cast<const uint32_t *>(reduced + (row * g.width + px) * g.reduced_stride + c);
    }
    const float sy = fmaxf((oy + 0.5f) * scale_y - 0.5f, 0.0f);
    const int y0 = min(int(sy), g.coarse_height - 1), y1 = min(y0 + 1, g.coarse_height - 1);
    const float fy = fminf(sy - y0, 1.0f);
    const T *top = coarse + (int64_t(n) * g.coarse_height + y0) * g.coarse_width * g.coarse_stride;
    const T *bottom = coarse + (int64_t(n) * g.coarse_height + y1) * g.coarse_width * g.coarse_stride;
    for (int j = 0; j < pairs; j++) {
      const uint4 b = __ldg(&w[j * 32 + lane]);
      float sum[2][4] = {};
      mma(T(), sum[0], a, b.x, b.y);
      mma(T(), sum[1], a, b.z, b.w);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int px = x0 + lane / 4 + half * 8;
        if (px >= g.width) continue;
        const float sx = fmaxf((px + 0.5f) * scale_x - 0.5f, 0.0f);
        const int cx0 = min(int(sx), g.coarse_width - 1), cx1 = min(cx0 + 1, g.coarse_width - 1);
        const float fx = fminf(sx - cx0, 1.0f);
#pragma unroll
        for (int t = 0; t < 2; t++) {
          const int c = j * 16 + t * 8 + 2 * (lane % 4);
          if (c >= g.channels) continue;
          auto at = [&](const T *line, int cx) {
            return unpack2(T(), *reinterpret_cast<const uint32_t *>(line + int64_t(cx) * g.coarse_stride + c));
          };
          const float2 tl = at(top, cx0), tr = at(top, cx1), bl = at(bottom, cx0), br = at(bottom, cx1);
          const float u0 = tl.x + fx * (tr.x - tl.x), u1 = tl.y + fx * (tr.y - tl.y);
          const float v0 = bl.x + fx * (br.x - bl.x), v1 = bl.y + fx * (br.y - bl.y);
          const float b1 = c + 1 < g.channels ? bias[c + 1] : 0.0f;
          const float m0 = sigmoid(sum[t][2 * half] + bias[c] + u0 + fy * (v0 - u0));
          const float m1 = sigmoid(sum[t][2 * half + 1] + b1 + u1 + fy * (v1 - u1));
          const int64_t pixel = row * g.width + px;
          const float2 v = unpack2(T(), *reinterpret_cast<const uint32_t *>(x + pixel * g.x_stride + c));
          // Pixels are padded to whole vectors, so that the second of an odd number of channels may be written too.
          *reinterpret_cast<uint32_t *>(y + pixel * g.y_stride + c) = pack2(T(), v.x * m0, v.y * m1);
        }
      }
    }
  }
}

extern "C" __global__ void gate_f16(Gate g, const f16 *x, const f16 *reduced, const f16 *coarse, const uint4 *w,
                                    const float *bias, f16 *y) {
  gate(g, x, reduced, coarse, w, bias, y);
}
extern "C" __global__ void gate_bf16(Gate g, const bf16 *x, const bf16 *reduced, const bf16 *coarse, const uint4 *w,
                                     const float *bias, bf16 *y) {
  gate(g, x, reduced, coarse, w, bias, y);
}
