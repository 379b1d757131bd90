#include "cuda/cp_conv2d/backward.cuh"

namespace cnnkern::cuda {

cudaError_t cp_conv2d_backward_float16(const CpConv2dBackwardCall& call, const Device& device,
                                       cudaStream_t stream) {
  return cp_conv2d_backward_products<Float16Math>(call, device, stream);
}

}  // namespace cnnkern::cuda
