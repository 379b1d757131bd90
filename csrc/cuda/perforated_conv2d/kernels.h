// What the launchers share, and the convolution in one arithmetic: each has a file of its own, for the
// compiler's sake.
#pragma once
#include "cuda/conv2d/plan.h"
#include "cuda/perforated_conv2d/perforated_conv2d.h"

namespace cnnkern::cuda {

// The kept outputs before each image, and of all, where each image has a mask: `begin` has N + 1 values.
cudaError_t count_kept(const Conv2dShape& shape, const Arranged& arranged, int64_t* begin,
                       cudaStream_t stream);

cudaError_t perforated_conv2d_float32(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                      cudaStream_t stream);
cudaError_t perforated_conv2d_tf32(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                   cudaStream_t stream);
cudaError_t perforated_conv2d_float16(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                      cudaStream_t stream);
cudaError_t perforated_conv2d_bfloat16(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                       cudaStream_t stream);

}  // namespace cnnkern::cuda
