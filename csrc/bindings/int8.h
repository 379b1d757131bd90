// What the bindings of the int8 operations share on the CPU.
#pragma once
#include "bindings/int8_arguments.h"
#include "cpu/int8_conv2d/int8_conv2d.h"

namespace cnnkern {

// (length) float32 on the CPU, contiguous, all positive and finite.
Tensor as_scales(const char* name, const Tensor& scales, int64_t length);

// int8_conv2d_pack on the CPU: `weight` (K, C/G, kH, kW) s8 in any memory format.
Tensor pack_int8_weight(const Tensor& weight, int64_t groups);

// A convolution of `x` with a checked packed weight into `y`, float32 or of x's dtype. Where `kept` is not
// null the weight has these columns alone.
void run_int8(const Tensor& x, const Conv2dShape& shape, const KeptColumns* kept, const Tensor& packed,
              const std::optional<Tensor>& bias, const Int8Quantization& quantization, bool relu,
              const Tensor& y);

// The same into s32 sums.
void run_int8_sums(const Tensor& x, const Conv2dShape& shape, const Tensor& packed, int64_t x_zero_point,
                   const Tensor& y);

inline Tensor empty_int8_output(const Conv2dShape& s, const Tensor& x, const Int8Quantization& q) {
  return empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last,
                     int8_output_type(x, q.out_scale));
}

}  // namespace cnnkern
