#include "cuda/perforated_conv2d/forward.cuh"

namespace cnnkern::cuda {

cudaError_t perforated_conv2d_float16(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                      cudaStream_t stream) {
  return perforated_conv2d_forward<Float16Math>(call, plan, stream);
}

}  // namespace cnnkern::cuda
