// The convolution in one arithmetic; each has a file of its own, for the compiler's sake.
#pragma once
#include "cuda/conv2d/plan.h"

namespace cnnkern::cuda {

cudaError_t conv2d_float32(const Conv2dCall& call, const Conv2dPlan& plan, cudaStream_t stream);
cudaError_t conv2d_tf32(const Conv2dCall& call, const Conv2dPlan& plan, cudaStream_t stream);
cudaError_t conv2d_float16(const Conv2dCall& call, const Conv2dPlan& plan, cudaStream_t stream);
cudaError_t conv2d_bfloat16(const Conv2dCall& call, const Conv2dPlan& plan, cudaStream_t stream);

}  // namespace cnnkern::cuda
