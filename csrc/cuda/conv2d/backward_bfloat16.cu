#include "cuda/conv2d/backward.cuh"

namespace cnnkern::cuda {

cudaError_t conv2d_backward_bfloat16(const Conv2dBackwardCall& call, const Device& device,
                                     cudaStream_t stream) {
  return conv2d_backward_products<Bfloat16Math>(call, device, stream);
}

}  // namespace cnnkern::cuda
