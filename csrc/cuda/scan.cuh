// Sums over the threads of a block, for kernels that make lists.
#pragma once
#include <cuda_runtime.h>

namespace cnnkern::cuda {

// The sum of `value` over the threads before this one, and of all threads in `total`. `sums` has kThreads
// elements of shared memory. Every thread of the block calls it; what they wrote to memory before is seen by
// all afterwards.
template <int kThreads, class T>
__device__ T sum_before(T value, T* sums, T& total) {
  __syncthreads();  // of an earlier call nobody reads any more
  sums[threadIdx.x] = value;
  __syncthreads();
  for (unsigned step = 1; step < kThreads; step *= 2) {
    const T before = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
    __syncthreads();
    sums[threadIdx.x] += before;
    __syncthreads();
  }
  total = sums[kThreads - 1];
  return threadIdx.x ? sums[threadIdx.x - 1] : 0;
}

}  // namespace cnnkern::cuda
