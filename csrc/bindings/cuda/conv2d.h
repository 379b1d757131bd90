// What the bindings of the convolution's kernels share.
#pragma once
#include <tuple>

#include "bindings/cuda/call.h"

namespace cnnkern::cuda {

// `weight` (K, C/G, kH, kW) in any memory format, packed for the convolution, or `transposed` for the
// gradient of its input.
Tensor pack_weight(const Call& call, const Tensor& weight, int64_t groups, bool transposed);

// The gradients of x, weight and bias, where the output's is `grad`, dense as the image is. One that nobody
// asked for is an empty tensor.
std::tuple<Tensor, Tensor, Tensor> conv2d_gradients(const Call& call, const Conv2dShape& shape,
                                                    const Tensor& grad, const Image& x, const Tensor& weight,
                                                    const std::vector<bool>& output_mask);

}  // namespace cnnkern::cuda
