// The fused CP convolution in one arithmetic; each has a file of its own, for the compiler's sake.
#pragma once
#include "cuda/cp_conv2d/plan.h"

namespace cnnkern::cuda {

using CpForwardPlan = CpPlan<ForwardAxis>;

cudaError_t cp_conv2d_float32(const CpConv2dCall& call, const CpForwardPlan& plan, cudaStream_t stream);
cudaError_t cp_conv2d_tf32(const CpConv2dCall& call, const CpForwardPlan& plan, cudaStream_t stream);
cudaError_t cp_conv2d_float16(const CpConv2dCall& call, const CpForwardPlan& plan, cudaStream_t stream);
cudaError_t cp_conv2d_bfloat16(const CpConv2dCall& call, const CpForwardPlan& plan, cudaStream_t stream);

}  // namespace cnnkern::cuda
