// int8_cp_conv2d, its pack and its packed form on the CPU.
#include "cpu/int8_cp_conv2d/int8_cp_conv2d.h"

#include <torch/csrc/stable/library.h>

#include "bindings/cp_factors.h"
#include "bindings/int8.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

using Ints = std::vector<int64_t>;

void check_factors(const FactorSize& f, int64_t groups) {
  check_rank(f, groups);
  check(std::min({f.group_channels, f.kernel_height, f.kernel_width}) > 0,
        "factors: expected at least 1 along every axis");
  check_sum("factor_c", f.group_channels);
  check_sum("factor_k", f.rank / groups);
}

Int8PackedFactors packed_factors(const FactorSize& f, int64_t groups) {
  return {f.rank, f.group_channels, f.out_channels, f.kernel_height, f.kernel_width, groups};
}

FactorSize size_of(const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k, int64_t groups) {
  check_int8_weight("factor_c", c, 2);
  check_int8_weight("factor_k", k, 2);
  for (const auto& [name, factor] : {std::pair("factor_h", h), std::pair("factor_w", w)})
    check(factor.dim() == 2 && factor.scalar_type() == ScalarType::Float && factor.is_cpu(), name,
          ": expected float32 of 2 dimensions on the CPU");
  const FactorSize f{k.size(0), c.size(0), c.size(1), h.size(1), w.size(1)};
  check_factors(f, groups);
  check_size("factor_h", h, 0, f.rank);
  check_size("factor_w", w, 0, f.rank);
  check_size("factor_k", k, 1, f.rank / groups);
  return f;
}

Tensor pack(const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k, int64_t groups) {
  const FactorSize f = size_of(c, h, w, k, groups);
  const Int8PackedFactors at = packed_factors(f, groups);
  Tensor packed = empty_vector(at.size, ScalarType::Char);
  const Tensor scratch = empty_vector(
      int8_cp_conv2d_pack_scratch(f.rank, f.kernel_height, f.kernel_width, groups), ScalarType::Float);
  const auto integers = [](const Tensor& t) {
    return Int8Factor{const_data<int8_t>(t), {t.stride(0), t.stride(1)}};
  };
  const auto reals = [](const Tensor& t) {
    return Factor<float>{const_data<float>(t), {t.stride(0), t.stride(1)}};
  };
  int8_cp_conv2d_pack(integers(c), reals(h), reals(w), integers(k), f.kernel_height, f.kernel_width, at,
                      data<int8_t>(packed), data<float>(scratch), threads_for(static_cast<double>(at.size)));
  return packed;
}

// `q.weight_scale` is that of factor_k.
Tensor run(const Image& x, const Tensor& packed, const std::optional<Tensor>& bias, const FactorSize& f,
           const Geometry& geometry, const Tensor& factor_c_scale, const Int8Quantization& q, bool relu) {
  check_activations("x", x.tensor, q.x_zero_point);
  const Conv2dShape shape = conv2d_shape(x, f.out_channels, f.kernel_height, f.kernel_width, geometry);
  check(f.group_channels == shape.in_channels / geometry.groups, "factor_c: expected ",
        shape.in_channels / geometry.groups, " input channels a group, got ", f.group_channels);
  check_quantization(x.tensor, q, shape.out_channels);
  const Tensor scale_c = as_scales("factor_c_scale", factor_c_scale, f.rank);
  const Tensor scale_k = as_scales("factor_k_scale", q.weight_scale, shape.out_channels);
  const std::optional<Tensor> bias_values = as_bias(bias, shape.out_channels, q.weight_scale);
  Tensor y = empty_int8_output(shape, x.tensor, q);
  if (shape.batch == 0) return y;
  const Int8Primitives& kernels = int8_primitives();
  const Int8Output output = int8_output(x.tensor, q.out_scale);
  const bool x_signed = x.tensor.scalar_type() == ScalarType::Char;
  const int64_t threads = threads_for(cp_multiply_adds(shape, f.rank));
  const Tensor scratch = empty_vector(
      int8_cp_conv2d_scratch(kernels, shape, f.rank, x_signed, output, threads), ScalarType::Byte);
  int8_cp_conv2d(kernels, {.shape = shape,
                           .rank = f.rank,
                           .x = const_data<uint8_t>(x.tensor),
                           .packed = const_data<int8_t>(packed),
                           .factor_c_scale = const_data<float>(scale_c),
                           .factor_k_scale = const_data<float>(scale_k),
                           .bias = const_data<float>(bias_values),
                           .y = y.mutable_data_ptr(),
                           .scratch = data<uint8_t>(scratch),
                           .x_scale = q.x_scale,
                           .out_scale = q.out_scale.value_or(1.0),
                           .x_zero_point = static_cast<int32_t>(q.x_zero_point),
                           .out_zero_point = static_cast<int32_t>(q.out_zero_point),
                           .threads = threads,
                           .output = output,
                           .x_signed = x_signed,
                           .relu = relu});
  return y;
}

Tensor int8_cp_conv2d_cpu(const Tensor& x, const Tensor& factor_c, const Tensor& factor_h,
                          const Tensor& factor_w, const Tensor& factor_k, const std::optional<Tensor>& bias,
                          const Tensor& factor_c_scale, const Tensor& factor_k_scale, double x_scale,
                          int64_t x_zero_point, const std::optional<double>& out_scale,
                          int64_t out_zero_point, const Ints& stride, const Ints& padding,
                          const Ints& dilation, int64_t groups, bool relu) {
  const Image image = as_image(x);
  const FactorSize f = size_of(factor_c, factor_h, factor_w, factor_k, groups);
  const Int8Quantization q{factor_k_scale, x_scale, x_zero_point, out_scale, out_zero_point};
  return run(image, pack(factor_c, factor_h, factor_w, factor_k, groups), bias, f,
             geometry_of(stride, padding, dilation, groups), factor_c_scale, q, relu);
}

Tensor int8_cp_conv2d_packed_cpu(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                                 const Ints& geometry, const Tensor& factor_c_scale,
                                 const Tensor& factor_k_scale, double x_scale, int64_t x_zero_point,
                                 const std::optional<double>& out_scale, int64_t out_zero_point, bool relu) {
  const Image image = as_image(x);
  check_int8_weight("packed", packed, 1);
  const Geometry steps = geometry_after(5, geometry);
  const FactorSize f{geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]};
  check_factors(f, steps.groups);
  check_packed(packed, packed_factors(f, steps.groups).size);
  const Int8Quantization q{factor_k_scale, x_scale, x_zero_point, out_scale, out_zero_point};
  return run(image, packed, bias, f, steps, factor_c_scale, q, relu);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("int8_cp_conv2d", TORCH_BOX(&int8_cp_conv2d_cpu));
  m.impl("int8_cp_conv2d_pack", TORCH_BOX(&pack));
  m.impl("int8_cp_conv2d_packed", TORCH_BOX(&int8_cp_conv2d_packed_cpu));
}

}  // namespace cnnkern
