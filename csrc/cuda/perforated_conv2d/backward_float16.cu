#include "cuda/perforated_conv2d/backward.cuh"

namespace cnnkern::cuda {

cudaError_t perforated_conv2d_backward_float16(const PerforatedBackwardCall& call, const Conv2dPlan& plan,
                                               cudaStream_t stream) {
  return perforated_conv2d_backward_weight<Float16Math>(call, plan, stream);
}

}  // namespace cnnkern::cuda
