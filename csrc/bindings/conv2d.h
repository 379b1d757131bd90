// What other bindings take over from that of the dense convolution.
#pragma once
#include <tuple>

#include "bindings/tensors.h"
#include "cpu/conv2d/conv2d.h"

namespace cnnkern {

// conv2d_pack on the CPU: `weight` (K, C/G, kH, kW) in any memory format.
Tensor pack_weight(const Tensor& weight, int64_t groups);

// Elements of a packed weight.
inline int64_t packed_size(const Conv2dShape& s) {
  return conv2d_packed_size(s.out_channels, s.in_channels / s.groups, s.kernel_height, s.kernel_width,
                            s.groups);
}

// conv2d_backward on the CPU: the gradients of x, weight and bias. One that nobody asked for is an empty
// tensor.
std::tuple<Tensor, Tensor, Tensor> conv2d_gradients(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                    const std::vector<int64_t>& stride,
                                                    const std::vector<int64_t>& padding,
                                                    const std::vector<int64_t>& dilation, int64_t groups,
                                                    const std::vector<bool>& output_mask);

}  // namespace cnnkern
