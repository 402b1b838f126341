// Pictures of one size as a classifier's input: x[n][y][x][c] = table[c][from[n][y][x][c]], pixels `stride` elements apart.
#include "common.cuh"

template <class T> __device__ void from_pixels(int64_t pixels, int stride, const uint8_t *from, const float *table, T *x) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < pixels; i += int64_t(gridDim.x) * blockDim.x)
    for (int c = 0; c < 3; c++) x[i * stride + c] = down<T>(__ldg(table + c * 256 + from[i * 3 + c]));
}

#define PIXELS(T) (int64_t pixels, int stride, const uint8_t *from, const float *table, T *x)
FOR_FLOATS(from_pixels, PIXELS, from_pixels<T>(pixels, stride, from, table, x))
