// The int8 convolution for each type of activations; each has a file of its own, for the compiler's sake.
#pragma once
#include "cuda/conv2d/plan.h"
#include "cuda/int8_conv2d/int8_conv2d.h"

namespace cnnkern::cuda {

cudaError_t int8_conv2d_uint8(const Int8Conv2dParams& params, const Conv2dPlan& plan, cudaStream_t stream);
cudaError_t int8_conv2d_int8(const Int8Conv2dParams& params, const Conv2dPlan& plan, cudaStream_t stream);

}  // namespace cnnkern::cuda
