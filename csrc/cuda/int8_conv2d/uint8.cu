#include "cuda/int8_conv2d/forward.cuh"

namespace cnnkern::cuda {

cudaError_t int8_conv2d_uint8(const Int8Conv2dParams& params, const Conv2dPlan& plan, cudaStream_t stream) {
  return int8_forward<Uint8Math>(params, plan, stream);
}

}  // namespace cnnkern::cuda
