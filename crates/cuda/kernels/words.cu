// Words that travel as a kernel's arguments: no memory of the host has to outlive the launch.

#include <stdint.h>

struct Words {
    uint32_t words[960];
};

// to[0..count] = words[0..count]; one block.
extern "C" __global__ void post_words(uint32_t* to, int count, const __grid_constant__ Words from) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        to[i] = from.words[i];
    }
}
