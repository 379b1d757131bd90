// The convolution in one arithmetic; each has a file of its own, for the compiler's sake.
#pragma once
#include "cuda/conv2d/plan.h"
#include "cuda/perforated_conv2d/perforated_conv2d.h"

namespace cnnkern::cuda {

cudaError_t perforated_conv2d_float32(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                      cudaStream_t stream);
cudaError_t perforated_conv2d_tf32(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                   cudaStream_t stream);
cudaError_t perforated_conv2d_float16(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                      cudaStream_t stream);
cudaError_t perforated_conv2d_bfloat16(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                       cudaStream_t stream);

}  // namespace cnnkern::cuda
