#include "cuda/conv2d/forward.cuh"

namespace cnnkern::cuda {

cudaError_t conv2d_tf32(const Conv2dCall& call, const Conv2dPlan& plan, cudaStream_t stream) {
  return conv2d_forward<Tf32Math>(call, plan, stream);
}

}  // namespace cnnkern::cuda
