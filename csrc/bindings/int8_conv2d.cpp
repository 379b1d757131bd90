// int8_conv2d, int8_conv2d_pack and int8_conv2d_packed on the CPU, and what int8_gemm shares with them.
#include <torch/csrc/stable/library.h>

#include "bindings/int8.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

using Ints = std::vector<int64_t>;

Int8Conv2dParams params_of(const Int8Primitives& kernels, const Tensor& x, const Conv2dShape& shape,
                           const KeptColumns* kept, Int8Output output, const Tensor& packed, const Tensor& y,
                           Tensor& scratch) {
  Int8Conv2dParams p{};
  p.shape = shape;
  p.kept = kept;
  p.x_signed = x.scalar_type() == ScalarType::Char;
  const int64_t products =
      kept ? kept->count : shape.in_channels / shape.groups * shape.kernel_height * shape.kernel_width;
  p.threads = threads_for(static_cast<double>(shape.batch * shape.out_height * shape.out_width) *
                          static_cast<double>(shape.out_channels * products));
  scratch = empty_vector(int8_conv2d_scratch(kernels, shape, kept, p.x_signed, output, p.threads),
                         ScalarType::Byte);
  p.x = const_data<uint8_t>(x);
  p.packed = const_data<int8_t>(packed);
  p.y = y.mutable_data_ptr();
  p.scratch = data<uint8_t>(scratch);
  p.output = output;
  return p;
}

}  // namespace

Tensor as_scales(const char* name, const Tensor& scales, int64_t length) {
  check(scales.dim() == 1 && scales.scalar_type() == ScalarType::Float && scales.is_cpu(), name,
        ": expected float32 of 1 dimension on the CPU");
  check_size(name, scales, 0, length);
  const Tensor dense = torch::stable::contiguous(scales);
  for (int64_t k = 0; k < length; ++k) check_scale(name, const_data<float>(dense)[k]);
  return dense;
}

Tensor pack_int8_weight(const Tensor& weight, int64_t groups) {
  check_int8_weight("weight", weight, 4);
  const int64_t k = weight.size(0), c = weight.size(1), kh = weight.size(2), kw = weight.size(3);
  check(k > 0 && c > 0 && kh > 0 && kw > 0, "weight: expected at least 1 along every axis");
  check(groups > 0 && k % groups == 0, "groups: expected a divisor of ", k, " output channels, got ", groups);
  check_sum("weight", c * kh * kw);
  const Int8Weight shape = Int8Weight::dense(k, c, kh, kw, groups);
  const int64_t size = int8_packing(shape).size;
  Tensor packed = empty_vector(size, ScalarType::Char);
  const int64_t stride[] = {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
  int8_conv2d_pack(const_data<int8_t>(weight), stride, shape, data<int8_t>(packed),
                   threads_for(static_cast<double>(size)));
  return packed;
}

void run_int8(const Tensor& x, const Conv2dShape& shape, const KeptColumns* kept, const Tensor& packed,
              const std::optional<Tensor>& bias, const Int8Quantization& q, bool relu, const Tensor& y) {
  check_quantization(x, q, shape.out_channels);
  const Tensor scales = as_scales("weight_scale", q.weight_scale, shape.out_channels);
  const std::optional<Tensor> bias_values = as_bias(bias, shape.out_channels, q.weight_scale);
  if (y.numel() == 0) return;
  const Int8Primitives& kernels = int8_primitives();
  Tensor scratch;
  Int8Conv2dParams p = params_of(kernels, x, shape, kept, int8_output(x, q.out_scale), packed, y, scratch);
  p.weight_scale = const_data<float>(scales);
  p.bias = const_data<float>(bias_values);
  p.x_scale = q.x_scale;
  p.out_scale = q.out_scale.value_or(1.0);
  p.x_zero_point = static_cast<int32_t>(q.x_zero_point);
  p.out_zero_point = static_cast<int32_t>(q.out_zero_point);
  p.relu = relu;
  int8_conv2d(kernels, p);
}

void run_int8_sums(const Tensor& x, const Conv2dShape& shape, const Tensor& packed, int64_t x_zero_point,
                   const Tensor& y) {
  if (y.numel() == 0) return;
  const Int8Primitives& kernels = int8_primitives();
  Tensor scratch;
  Int8Conv2dParams p = params_of(kernels, x, shape, nullptr, Int8Output::s32, packed, y, scratch);
  p.x_zero_point = static_cast<int32_t>(x_zero_point);
  int8_conv2d(kernels, p);
}

namespace {

Tensor int8_conv2d_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                       const Tensor& weight_scale, double x_scale, int64_t x_zero_point,
                       const std::optional<double>& out_scale, int64_t out_zero_point, const Ints& stride,
                       const Ints& padding, const Ints& dilation, int64_t groups, bool relu) {
  const Image image = as_image(x);
  check_activations("x", x, x_zero_point);
  check_int8_weight("weight", weight, 4);
  const Conv2dShape shape = conv2d_shape(image, weight.size(0), weight.size(2), weight.size(3),
                                         geometry_of(stride, padding, dilation, groups));
  check_size("weight", weight, 1, shape.in_channels / groups);
  const Int8Quantization q{weight_scale, x_scale, x_zero_point, out_scale, out_zero_point};
  const Tensor y = empty_int8_output(shape, image.tensor, q);
  run_int8(image.tensor, shape, nullptr, pack_int8_weight(weight, groups), bias, q, relu, y);
  return y;
}

Tensor int8_conv2d_packed_cpu(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                              const Ints& geometry, const Tensor& weight_scale, double x_scale,
                              int64_t x_zero_point, const std::optional<double>& out_scale,
                              int64_t out_zero_point, bool relu) {
  const Image image = as_image(x);
  check_activations("x", x, x_zero_point);
  check_int8_weight("packed", packed, 1);
  const Conv2dShape shape = packed_conv2d_shape(image, geometry);
  check_sum("geometry", shape.in_channels / shape.groups * shape.kernel_height * shape.kernel_width);
  check_packed(packed, int8_packing(Int8Weight::of(shape, nullptr)).size);
  const Int8Quantization q{weight_scale, x_scale, x_zero_point, out_scale, out_zero_point};
  const Tensor y = empty_int8_output(shape, image.tensor, q);
  run_int8(image.tensor, shape, nullptr, packed, bias, q, relu, y);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("int8_conv2d", TORCH_BOX(&int8_conv2d_cpu));
  m.impl("int8_conv2d_pack", TORCH_BOX(&pack_int8_weight));
  m.impl("int8_conv2d_packed", TORCH_BOX(&int8_conv2d_packed_cpu));
}

}  // namespace cnnkern
