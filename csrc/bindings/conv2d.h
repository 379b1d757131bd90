// What other bindings take over from that of the dense convolution.
#pragma once
#include "bindings/tensors.h"

namespace cnnkern {

// conv2d_pack on the CPU: `weight` (K, C/G, kH, kW) in any memory format.
Tensor pack_weight(const Tensor& weight, int64_t groups);

}  // namespace cnnkern
