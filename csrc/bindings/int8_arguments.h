// What the bindings of the int8 operations check and agree on, on every device.
#pragma once
#include "bindings/tensors.h"
#include "params/int8_conv2d.h"
#include "params/int8_elementwise.h"
#include "params/int8_max_pool2d.h"

namespace cnnkern {

// The numbers that say what the integers mean.
struct Int8Quantization {
  const Tensor& weight_scale;  // (K) float32
  double x_scale;
  int64_t x_zero_point;
  std::optional<double> out_scale;  // none: float32 comes out
  int64_t out_zero_point;
};

void check_scale(const char* name, double value);
// x is u8 or s8 and has the zero point among its values; `name` is what x is called.
void check_activations(const char* name, const Tensor& x, int64_t zero_point);
void check_int8_weight(const char* name, const Tensor& weight, int64_t dims);
// A sum of `length` products cannot leave s32.
void check_sum(const char* name, int64_t length);
// x and out have finite positive scales, and zero points that their type has; weights a scale each.
void check_quantization(const Tensor& x, const Int8Quantization& quantization, int64_t out_channels);

// What is computed for `x`.
inline Int8Output int8_output(const Tensor& x, const std::optional<double>& out_scale) {
  if (!out_scale) return Int8Output::f32;
  return x.scalar_type() == ScalarType::Char ? Int8Output::s8 : Int8Output::u8;
}

// What comes out of an operation on `x`.
inline ScalarType int8_output_type(const Tensor& x, const std::optional<double>& out_scale) {
  return out_scale ? x.scalar_type() : ScalarType::Float;
}

// Rows (m, k) as an image, against n output channels.
Conv2dShape shape_of_rows(int64_t m, int64_t k, int64_t n);
// The same of `x` (..., k), and the size and strides of what comes out, (..., n).
struct Int8Rows {
  Conv2dShape shape;
  std::vector<int64_t> out_sizes, out_strides;
};
Int8Rows int8_rows(const Tensor& x, int64_t n);

// What the integers of a tensor stand for.
struct Int8Grid {
  double scale;
  int64_t zero_point;
};

// One call of int8_quantize, or of int8_add, checked: what it computes with, and its output.
struct Int8QuantizeCall {
  Tensor x, y;
  Int8QuantizeParams params;

  Int8QuantizeCall(const Tensor& x, const Int8Grid& grid, ScalarType dtype);
};

struct Int8AddCall {
  Tensor a, b, y;
  Int8AddParams params;

  Int8AddCall(const Tensor& a, const Int8Grid& a_grid, const Tensor& b, const Int8Grid& b_grid,
              const Int8Grid& out_grid, bool relu);
};

// One call of int8_max_pool2d; `geometry` is the kernel's size, stride, padding and dilation, as pairs.
struct Int8MaxPool2dCall {
  Image x;
  Tensor y;
  Int8MaxPool2dParams params;

  Int8MaxPool2dCall(const Tensor& x, const std::vector<int64_t>& geometry, bool ceil_mode);
};

}  // namespace cnnkern
