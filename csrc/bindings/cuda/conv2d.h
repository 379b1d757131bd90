// What the bindings of the convolution's kernels share.
#pragma once
#include "bindings/cuda/call.h"

namespace cnnkern::cuda {

// `weight` (K, C/G, kH, kW) in any memory format, packed for the convolution, or `transposed` for the
// gradient of its input.
Tensor pack_weight(const Call& call, const Tensor& weight, int64_t groups, bool transposed);

}  // namespace cnnkern::cuda
