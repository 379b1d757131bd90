// What the bindings of the int8 operations share.
#pragma once
#include "bindings/tensors.h"
#include "cpu/int8_conv2d/int8_conv2d.h"

namespace cnnkern {

// The numbers that say what the integers mean.
struct Int8Quantization {
  const Tensor& weight_scale;  // (K) float32
  double x_scale;
  int64_t x_zero_point;
  std::optional<double> out_scale;  // none: float32 comes out
  int64_t out_zero_point;
};

// x is u8 or s8 and has the zero point among its values; `name` is what x is called.
void check_activations(const char* name, const Tensor& x, int64_t zero_point);
void check_int8_weight(const char* name, const Tensor& weight, int64_t dims);
// A sum of `length` products cannot leave s32.
void check_sum(const char* name, int64_t length);

// x and out have finite positive scales, and zero points that their type has; weights a scale each.
void check_quantization(const Tensor& x, const Int8Quantization& quantization, int64_t out_channels);
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

// What is computed for `x`.
inline Int8Output int8_output(const Tensor& x, const std::optional<double>& out_scale) {
  if (!out_scale) return Int8Output::f32;
  return x.scalar_type() == ScalarType::Char ? Int8Output::s8 : Int8Output::u8;
}

// What comes out of an operation on `x`.
inline ScalarType int8_output_type(const Tensor& x, const std::optional<double>& out_scale) {
  return out_scale ? x.scalar_type() : ScalarType::Float;
}

inline Tensor empty_int8_output(const Conv2dShape& s, const Tensor& x, const Int8Quantization& q) {
  return empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last,
                     int8_output_type(x, q.out_scale));
}

}  // namespace cnnkern
