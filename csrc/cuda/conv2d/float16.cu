#include "cuda/conv2d/forward.cuh"

namespace cnnkern::cuda {

cudaError_t conv2d_float16(const Conv2dCall& call, const Conv2dPlan& plan, cudaStream_t stream) {
  return conv2d_forward<Float16Math>(call, plan, stream);
}

}  // namespace cnnkern::cuda
