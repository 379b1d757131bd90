// What the bindings of the int8 operations share on the CPU.
#pragma once
#include "bindings/int8_arguments.h"
#include "cpu/int8_conv2d/int8_conv2d.h"

namespace cnnkern {

int64_t int8_packed_size(const Conv2dShape& shape);

// int8_conv2d_pack on the CPU: `weight` (K, C/G, kH, kW) s8 in any memory format.
Tensor pack_int8_weight(const Tensor& weight, int64_t groups);

// A convolution of `x` with a checked packed weight into `y`, float32 or of x's dtype.
void run_int8(const Tensor& x, const Conv2dShape& shape, const Tensor& packed,
              const std::optional<Tensor>& bias, const Int8Quantization& quantization, bool relu,
              const Tensor& y);

// The same into s32 sums.
void run_int8_sums(const Tensor& x, const Conv2dShape& shape, const Tensor& packed, int64_t x_zero_point,
                   const Tensor& y);

}  // namespace cnnkern
