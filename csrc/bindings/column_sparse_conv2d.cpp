// column_sparse_conv2d, column_sparse_conv2d_pack and column_sparse_conv2d_packed on the CPU.
#include "cpu/column_sparse_conv2d/column_sparse_conv2d.h"

#include <torch/csrc/stable/library.h>

#include "bindings/column_sparse_conv2d.h"

namespace cnnkern {
namespace {

void check_increasing(const int32_t* index, int64_t count, int64_t total) {
  if (count == 0) return;
  bool increasing = true;  // at first without a branch, in vectors
  for (int64_t n = 1; n < count; ++n) increasing &= index[n - 1] < index[n];
  if (increasing && index[0] >= 0 && index[count - 1] < total) return;
  int64_t least = 0;
  for (int64_t n = 0; n < count; ++n) {
    const int64_t column = index[n];
    check(column >= least && column < total, "columns: expected strictly increasing indices from 0 to ",
          total - 1, ", got ", column, " at position ", n, n > 0 ? " after " : "",
          n > 0 ? std::to_string(least - 1) : std::string());
    least = column + 1;
  }
}

}  // namespace

Columns as_columns(const Tensor& columns, int64_t groups, int64_t total) {
  check(columns.scalar_type() == ScalarType::Int, "columns: expected int32");
  check(columns.is_cpu(), "columns: expected a CPU tensor");
  const int64_t dims = groups == 1 ? 1 : 2;
  check(columns.dim() == dims, "columns: expected ", dims, " dimensions for ", groups, " groups, got ",
        columns.dim());
  if (dims == 2) check_size("columns", columns, 0, groups);
  Tensor dense = torch::stable::contiguous(columns);
  const KeptColumns kept{dense.size(dims - 1), const_data<int32_t>(dense)};
  for (int64_t g = 0; g < groups; ++g) check_increasing(kept.index + g * kept.count, kept.count, total);
  return {std::move(dense), kept};
}

double multiply_adds(const Conv2dShape& s, int64_t kept) {
  return static_cast<double>(s.batch * s.out_height * s.out_width) *
         static_cast<double>(s.out_channels * kept);
}

namespace {

using Ints = std::vector<int64_t>;

// `packed()` gives the packed weight.
template <class Packed>
Tensor run(const Image& x, const Conv2dShape& shape, const KeptColumns& kept,
           const std::optional<Tensor>& bias, const Packed& packed) {
  Tensor y = empty_image(shape.batch, shape.out_channels, shape.out_height, shape.out_width,
                         shape.channels_last, x.tensor.scalar_type());
  if (shape.batch == 0) return y;
  const std::optional<Tensor> bias_values = as_bias(bias, shape.out_channels, x.tensor);
  // To read a weight takes as long as some multiply-adds, where there is little else to do with it.
  const double weights = 8.0 * static_cast<double>(shape.out_channels * kept.count);
  const int64_t threads = threads_for(multiply_adds(shape, kept.count) + weights);
  with_float_type(x.tensor, [&]<class T>(T) {
    const Tensor weight = packed();
    const Tensor scratch =
        empty_vector(column_sparse_conv2d_scratch<T>(shape, kept.count, threads), kScalarType<T>);
    column_sparse_conv2d<T>({shape, kept, const_data<T>(x.tensor), const_data<T>(weight),
                             const_data<T>(bias_values), data<T>(y), data<T>(scratch), threads});
  });
  return y;
}

// Of a weight that was checked.
Tensor pack_checked(const Tensor& weight, const KeptColumns& kept, int64_t taps, int64_t groups) {
  const int64_t k = weight.size(0), stride[] = {weight.stride(0), weight.stride(1)};
  Tensor packed = empty_vector(column_sparse_conv2d_packed_size(k, kept.count, groups), weight.scalar_type());
  Ints scratch(static_cast<size_t>(taps + 1 + kept.count));
  with_float_type(weight, [&]<class T>(T) {
    column_sparse_conv2d_pack<T>(const_data<T>(weight), stride, k, kept, taps, groups, data<T>(packed),
                                 scratch.data());
  });
  return packed;
}

// The indices are checked against the taps alone: how many channels there are is not known here, and packing
// does not read through them.
Tensor pack(const Tensor& weight, const Tensor& columns, const Ints& kernel_size, int64_t groups) {
  check_operand("weight", weight, 2, weight);
  check(kernel_size.size() == 2 && std::min(kernel_size[0], kernel_size[1]) > 0,
        "kernel_size: expected two positive numbers");
  check(groups > 0 && weight.size(0) > 0 && weight.size(0) % groups == 0, "groups: expected a divisor of ",
        weight.size(0), " output channels, got ", groups);
  const Columns kept = as_columns(columns, groups, int64_t{1} << 31);
  check_size("weight", weight, 1, kept.kept.count);
  return pack_checked(weight, kept.kept, kernel_size[0] * kernel_size[1], groups);
}

Tensor column_sparse_conv2d_cpu(const Tensor& x, const Tensor& weight, const Tensor& columns,
                                const std::optional<Tensor>& bias, const Ints& kernel_size,
                                const Ints& stride, const Ints& padding, const Ints& dilation,
                                int64_t groups) {
  const Image image = as_image(x);
  check_operand("weight", weight, 2, x);
  check(kernel_size.size() == 2, "kernel_size: expected two numbers");
  const Conv2dShape shape = conv2d_shape(image, weight.size(0), kernel_size[0], kernel_size[1],
                                         geometry_of(stride, padding, dilation, groups));
  const int64_t taps = shape.kernel_height * shape.kernel_width;
  const Columns kept = as_columns(columns, groups, shape.in_channels / groups * taps);
  check_size("weight", weight, 1, kept.kept.count);
  return run(image, shape, kept.kept, bias, [&] { return pack_checked(weight, kept.kept, taps, groups); });
}

Tensor column_sparse_conv2d_packed_cpu(const Tensor& x, const Tensor& packed,
                                       const std::optional<Tensor>& bias, const Ints& geometry,
                                       const Tensor& columns) {
  const Image image = as_image(x);
  check_operand("packed", packed, 1, x);
  const Conv2dShape shape = packed_conv2d_shape(image, geometry);
  const Columns kept = as_columns(
      columns, shape.groups, shape.in_channels / shape.groups * shape.kernel_height * shape.kernel_width);
  check_packed(packed, column_sparse_conv2d_packed_size(shape.out_channels, kept.kept.count, shape.groups));
  return run(image, shape, kept.kept, bias, [&] { return packed; });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("column_sparse_conv2d", TORCH_BOX(&column_sparse_conv2d_cpu));
  m.impl("column_sparse_conv2d_pack", TORCH_BOX(&pack));
  m.impl("column_sparse_conv2d_packed", TORCH_BOX(&column_sparse_conv2d_packed_cpu));
}

}  // namespace cnnkern
