// int8_column_sparse_conv2d, its pack and its packed form on the CPU.
#include <torch/csrc/stable/library.h>

#include "bindings/column_sparse_conv2d.h"
#include "bindings/int8.h"

namespace cnnkern {
namespace {

using Ints = std::vector<int64_t>;

Tensor pack(const Tensor& weight, int64_t groups) {
  check_int8_weight("weight", weight, 2);
  const int64_t k = weight.size(0), kept = weight.size(1);
  check(groups > 0 && k > 0 && k % groups == 0, "groups: expected a divisor of ", k, " output channels, got ",
        groups);
  check_sum("weight", kept);
  const Int8Weight shape = Int8Weight::matrices(k, kept, groups);
  Tensor packed = empty_vector(int8_packing(shape).size, ScalarType::Char);
  const int64_t stride[] = {weight.stride(0), weight.stride(1), 0, 0};
  int8_conv2d_pack(const_data<int8_t>(weight), stride, shape, data<int8_t>(packed),
                   threads_for(static_cast<double>(k * kept)));
  return packed;
}

// `packed()` gives the packed weight of `kept` columns.
template <class Packed>
Tensor run(const Image& x, const Conv2dShape& s, const Tensor& columns, const std::optional<Tensor>& bias,
           const Int8Quantization& q, bool relu, const Packed& packed) {
  check_activations("x", x.tensor, q.x_zero_point);
  const Columns kept =
      as_columns(columns, s.groups, s.in_channels / s.groups * s.kernel_height * s.kernel_width);
  check_sum("columns", kept.kept.count);
  const Tensor weight = packed();
  check_packed(weight, int8_packing(Int8Weight::of(s, &kept.kept)).size);
  const Tensor y = empty_int8_output(s, x.tensor, q);
  run_int8(x.tensor, s, &kept.kept, weight, bias, q, relu, y);
  return y;
}

Tensor int8_column_sparse_conv2d(const Tensor& x, const Tensor& weight, const Tensor& columns,
                                 const std::optional<Tensor>& bias, const Tensor& weight_scale,
                                 double x_scale, int64_t x_zero_point, const std::optional<double>& out_scale,
                                 int64_t out_zero_point, const Ints& kernel_size, const Ints& stride,
                                 const Ints& padding, const Ints& dilation, int64_t groups, bool relu) {
  const Image image = as_image(x);
  check_int8_weight("weight", weight, 2);
  check(kernel_size.size() == 2, "kernel_size: expected two numbers");
  const Conv2dShape shape = conv2d_shape(image, weight.size(0), kernel_size[0], kernel_size[1],
                                         geometry_of(stride, padding, dilation, groups));
  const Int8Quantization q{weight_scale, x_scale, x_zero_point, out_scale, out_zero_point};
  return run(image, shape, columns, bias, q, relu, [&] { return pack(weight, groups); });
}

Tensor int8_column_sparse_conv2d_packed(const Tensor& x, const Tensor& packed,
                                        const std::optional<Tensor>& bias, const Ints& geometry,
                                        const Tensor& columns, const Tensor& weight_scale, double x_scale,
                                        int64_t x_zero_point, const std::optional<double>& out_scale,
                                        int64_t out_zero_point, bool relu) {
  const Image image = as_image(x);
  check_int8_weight("packed", packed, 1);
  const Int8Quantization q{weight_scale, x_scale, x_zero_point, out_scale, out_zero_point};
  return run(image, packed_conv2d_shape(image, geometry), columns, bias, q, relu, [&] { return packed; });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("int8_column_sparse_conv2d", TORCH_BOX(&int8_column_sparse_conv2d));
  m.impl("int8_column_sparse_conv2d_pack", TORCH_BOX(&pack));
  m.impl("int8_column_sparse_conv2d_packed", TORCH_BOX(&int8_column_sparse_conv2d_packed));
}

}  // namespace cnnkern
