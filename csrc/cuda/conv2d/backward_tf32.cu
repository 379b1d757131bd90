#include "cuda/conv2d/backward.cuh"

namespace cnnkern::cuda {

cudaError_t conv2d_backward_tf32(const Conv2dBackwardCall& call, const Device& device, cudaStream_t stream) {
  return conv2d_backward_products<Tf32Math>(call, device, stream);
}

}  // namespace cnnkern::cuda
