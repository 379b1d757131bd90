#include "cuda/cp_conv2d/forward.cuh"

namespace cnnkern::cuda {

cudaError_t cp_conv2d_float32(const CpConv2dCall& call, const CpForwardPlan& plan, cudaStream_t stream) {
  return cp_conv2d_forward<Float32Math>(call, plan, stream);
}

}  // namespace cnnkern::cuda
