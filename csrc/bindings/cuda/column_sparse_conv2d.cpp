// column_sparse_conv2d, its packed form and its gradients on CUDA.
#include "cuda/column_sparse_conv2d/column_sparse_conv2d.h"

#include <algorithm>

#include "bindings/cuda/call.h"
#include "cuda/column_sparse_conv2d/backward.h"
#include "cuda/conv2d/conv2d.h"

namespace cnnkern::cuda {
namespace {

using Ints = std::vector<int64_t>;

struct Columns {
  Tensor tensor;
  KeptColumns kept;
};

// The shape of `columns` alone is checked: to look at their values would be to wait for the GPU. Kernels take
// one that names nothing in the image for a column of zeros.
Columns columns_of(const Tensor& columns, int64_t groups, const Tensor& like) {
  check(columns.scalar_type() == ScalarType::Int, "columns: expected int32");
  check(on_same_device(columns, like), "columns: expected a tensor on the device of x");
  const int64_t dims = groups == 1 ? 1 : 2;
  check(columns.dim() == dims, "columns: expected ", dims, " dimensions for ", groups, " groups, got ",
        columns.dim());
  if (dims == 2) check_size("columns", columns, 0, groups);
  Tensor dense = torch::stable::contiguous(columns);
  const KeptColumns kept{dense.size(dims - 1), const_data<int32_t>(dense)};
  return {std::move(dense), kept};
}

void check_count(int64_t kept, const Conv2dShape& s) {
  const int64_t total = s.in_channels / s.groups * s.kernel_height * s.kernel_width;
  check(kept <= total, "columns: expected no more than the ", total, " that there are, got ", kept);
}

// Elements of a packed weight.
int64_t packed_size(int64_t out_channels, int64_t kept, int64_t groups, const Tensor& weight) {
  const int64_t bytes = bytes_of(arithmetic_of(weight));
  return PackedColumns(out_channels, kept, groups, bytes).bytes / bytes;
}

Tensor pack(const Tensor& weight, const Tensor& columns, const Ints& kernel_size, int64_t groups) {
  const Call call(weight);
  check_operand("weight", weight, 2, weight);
  check(kernel_size.size() == 2 && std::min(kernel_size[0], kernel_size[1]) > 0,
        "kernel_size: expected two positive numbers");
  const int64_t k = weight.size(0), taps = kernel_size[0] * kernel_size[1];
  check(groups > 0 && k > 0 && k % groups == 0, "groups: expected a divisor of ", k, " output channels, got ",
        groups);
  const Columns kept = columns_of(columns, groups, weight);
  const int64_t count = kept.kept.count;
  check_size("weight", weight, 1, count);
  check(taps < int64_t{1} << 29 && count < int64_t{1} << 29, "weight: expected fewer than 2^29 columns");
  Tensor packed = empty_tensor({packed_size(k, count, groups, weight)}, {1}, weight);
  const Tensor scratch = empty_tensor({groups * count}, {1}, ScalarType::Int, weight);
  check_launch("column_sparse_conv2d_pack", column_sparse_conv2d_pack({kept.kept,
                                                                       weight.const_data_ptr(),
                                                                       {weight.stride(0), weight.stride(1)},
                                                                       k,
                                                                       taps,
                                                                       groups,
                                                                       bytes_of(arithmetic_of(weight)),
                                                                       packed.mutable_data_ptr(),
                                                                       data<int32_t>(scratch)},
                                                                      call.stream()));
  return packed;
}

Tensor run(const Call& call, const Image& x, const Conv2dShape& s, int64_t kept, const Tensor& packed,
           const std::optional<Tensor>& bias) {
  check_extents(s);
  check_count(kept, s);
  Tensor y = empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last, x.tensor);
  if (s.batch == 0) return y;
  const Arithmetic arithmetic = arithmetic_of(x.tensor);
  const std::optional<Tensor> bias_values = as_bias(bias, s.out_channels, x.tensor);
  const Tensor scratch =
      empty_scratch(column_sparse_conv2d_scratch(s, kept, arithmetic, call.device()), x.tensor);
  check_launch(
      "column_sparse_conv2d",
      column_sparse_conv2d({s, arithmetic, kept, x.tensor.const_data_ptr(), packed.const_data_ptr(),
                            const_data<void>(bias_values), y.mutable_data_ptr(), data<float>(scratch)},
                           call.device(), call.stream()));
  return y;
}

Conv2dShape shape_of(const Image& x, const Tensor& weight, const Ints& kernel_size,
                     const Geometry& geometry) {
  check_operand("weight", weight, 2, x.tensor);
  check(kernel_size.size() == 2, "kernel_size: expected two numbers");
  return conv2d_shape(x, weight.size(0), kernel_size[0], kernel_size[1], geometry);
}

Tensor column_sparse_conv2d_cuda(const Tensor& x, const Tensor& weight, const Tensor& columns,
                                 const std::optional<Tensor>& bias, const Ints& kernel_size,
                                 const Ints& stride, const Ints& padding, const Ints& dilation,
                                 int64_t groups) {
  const Call call(x);
  const Image image = as_image(x);
  const Conv2dShape s = shape_of(image, weight, kernel_size, geometry_of(stride, padding, dilation, groups));
  return run(call, image, s, weight.size(1), pack(weight, columns, kernel_size, groups), bias);
}

Tensor column_sparse_conv2d_packed_cuda(const Tensor& x, const Tensor& packed,
                                        const std::optional<Tensor>& bias, const Ints& geometry,
                                        const Tensor& columns) {
  const Call call(x);
  const Image image = as_image(x);
  check_operand("packed", packed, 1, x);
  const Conv2dShape s = packed_conv2d_shape(image, geometry);
  const int64_t kept = columns_of(columns, s.groups, x).kept.count;
  check_packed(packed, packed_size(s.out_channels, kept, s.groups, x));
  return run(call, image, s, kept, aligned(packed), bias);
}

// The weight (K, kept) for the gradient of x: a row for each kept column of each group.
Tensor pack_transposed(const Call& call, const Tensor& weight, int64_t groups) {
  const int64_t bytes = bytes_of(arithmetic_of(weight));
  const WeightLayout layout = WeightLayout::transposed({weight.size(0), weight.size(1), 1, 1},
                                                       {weight.stride(0), weight.stride(1), 1, 1}, groups);
  Tensor packed = empty_tensor({conv2d_packed_size(layout.rows, layout.channels, 1, 1, bytes)}, {1}, weight);
  check_launch("conv2d_pack",
               conv2d_pack(weight.const_data_ptr(), layout, bytes, packed.mutable_data_ptr(), call.stream()));
  return packed;
}

// A gradient that nobody asked for is an empty tensor.
std::tuple<Tensor, Tensor, Tensor> column_sparse_conv2d_backward_cuda(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& columns, const Ints& kernel_size,
    const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups,
    const std::vector<bool>& output_mask) {
  const Call call(x);
  const Image image = as_image(x);
  check(output_mask.size() == 3, "output_mask: expected three values, for x, weight and bias");
  const Conv2dShape s = shape_of(image, weight, kernel_size, geometry_of(stride, padding, dilation, groups));
  check_extents(s);
  const Columns kept = columns_of(columns, groups, x);
  const int64_t k = s.out_channels, count = kept.kept.count;
  check_count(count, s);
  check_size("weight", weight, 1, count);
  const Tensor dense_grad = as_gradient(grad, {s.batch, k, s.out_height, s.out_width}, image);
  const bool for_x = output_mask[0], for_weight = output_mask[1], for_bias = output_mask[2];
  Tensor grad_x = for_x ? empty_image(s.batch, s.in_channels, s.in_height, s.in_width, s.channels_last, x)
                        : empty_tensor({0}, {1}, x);
  Tensor grad_weight = for_weight ? empty_tensor({k, count}, {count, 1}, x) : empty_tensor({0}, {1}, x);
  Tensor grad_bias = empty_tensor({for_bias ? k : 0}, {1}, x);
  if (s.batch == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_x, grad_weight, grad_bias};
  }
  const bool multiplies = for_x && count > 0;
  const Tensor packed = multiplies ? pack_transposed(call, weight, groups) : empty_tensor({0}, {1}, x);
  const auto to = [](bool asked, const Tensor& tensor) {
    return asked ? tensor.mutable_data_ptr() : nullptr;
  };
  ColumnSparseBackwardCall arguments{s,
                                     arithmetic_of(x),
                                     kept.kept,
                                     dense_grad.const_data_ptr(),
                                     image.tensor.const_data_ptr(),
                                     packed.const_data_ptr(),
                                     to(for_x, grad_x),
                                     to(for_weight && count > 0, grad_weight),
                                     to(for_bias, grad_bias),
                                     nullptr};
  const Tensor scratch = empty_scratch(column_sparse_conv2d_backward_scratch(arguments, call.device()), x);
  arguments.scratch = data<float>(scratch);
  check_launch("column_sparse_conv2d_backward",
               column_sparse_conv2d_backward(arguments, call.device(), call.stream()));
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("column_sparse_conv2d", TORCH_BOX(&column_sparse_conv2d_cuda));
  m.impl("column_sparse_conv2d_backward", TORCH_BOX(&column_sparse_conv2d_backward_cuda));
  m.impl("column_sparse_conv2d_pack", TORCH_BOX(&pack));
  m.impl("column_sparse_conv2d_packed", TORCH_BOX(&column_sparse_conv2d_packed_cuda));
}

}  // namespace cnnkern::cuda
