// Kernels that start before the one in front of them has ended (programmatic dependent launch, since 9.0).
#pragma once

// Waits until all that was queued before is done and can be read. What does not change from step to step, such as weights, may
// be read before.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start where there is room. Called after the wait, so that at most two kernels overlap.
__device__ inline void launch_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
