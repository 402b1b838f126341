// Samples of training pictures, as they come from the host, become images.
//
// | argument | shape |
// |---|---|
// | from | `pixels` of `channels` samples without gaps: bytes, which mean v / 255, or floats |
// | to | `pixels` of `stride` elements; those after `channels` become 0 |
#include "common.cuh"

template <class T> __device__ void unpack(int bytes, int64_t pixels, int channels, int stride, const void *from, T *to) {
  const int64_t total = pixels * stride;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t pixel = i <= UINT32_MAX ? uint32_t(i) / uint32_t(stride) : i / stride;
    const int c = int(i - pixel * stride);
    float x = 0.0f;
    if (c < channels) {
      const int64_t at = pixel * channels + c;
      x = bytes ? __fdiv_rn(float(static_cast<const uint8_t *>(from)[at]), 255.0f) : static_cast<const float *>(from)[at];
    }
    to[i] = down<T>(x);
  }
}

#define UNPACK(T) (int bytes, int64_t pixels, int channels, int stride, const void *from, T *to)
FOR_FLOATS(unpack_examples, UNPACK, unpack<T>(bytes, pixels, channels, stride, from, to))
