// column_sparse_conv2d_backward on the CPU.
#include "cpu/column_sparse_conv2d/backward.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "bindings/column_sparse_conv2d.h"

namespace cnnkern {
namespace {

using Ints = std::vector<int64_t>;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// A gradient that nobody asked for is an empty tensor.
Gradients column_sparse_conv2d_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                            const Tensor& columns, const Ints& kernel_size,
                                            const Ints& stride, const Ints& padding, const Ints& dilation,
                                            int64_t groups, const std::vector<bool>& output_mask) {
  const Image image = as_image(x);
  check_operand("weight", weight, 2, x);
  check(kernel_size.size() == 2, "kernel_size: expected two numbers");
  check(output_mask.size() == 3, "output_mask: expected three values, for x, weight and bias");
  const Conv2dShape s = conv2d_shape(image, weight.size(0), kernel_size[0], kernel_size[1],
                                     geometry_of(stride, padding, dilation, groups));
  const Columns kept = as_columns(columns, groups, s.in_channels / groups * s.kernel_height * s.kernel_width);
  const int64_t k = s.out_channels, count = kept.kept.count;
  check_size("weight", weight, 1, count);
  const Tensor dense_grad = as_gradient(grad, {s.batch, k, s.out_height, s.out_width}, image);
  const Tensor dense_weight = torch::stable::contiguous(weight);

  const GradientsAsked asked{output_mask[0], output_mask[1], output_mask[2]};
  const ScalarType dtype = x.scalar_type();
  Tensor grad_x = asked.x
                      ? empty_image(s.batch, s.in_channels, s.in_height, s.in_width, s.channels_last, dtype)
                      : empty_vector(0, dtype);
  Tensor grad_weight = asked.weight ? empty_tensor({k, count}, {count, 1}, dtype) : empty_vector(0, dtype);
  Tensor grad_bias = empty_vector(asked.bias ? k : 0, dtype);
  if (s.batch == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_x, grad_weight, grad_bias};
  }
  const int64_t threads = threads_for(multiply_adds(s, count));
  with_float_type(x, [&]<class T>(T) {
    const Tensor scratch =
        empty_vector(column_sparse_conv2d_backward_scratch<T>(s, count, asked, threads), kScalarType<T>);
    column_sparse_conv2d_backward<T>({s, kept.kept, const_data<T>(dense_grad), const_data<T>(image.tensor),
                                      const_data<T>(dense_weight), asked.x ? data<T>(grad_x) : nullptr,
                                      asked.weight ? data<T>(grad_weight) : nullptr,
                                      asked.bias ? data<T>(grad_bias) : nullptr, data<T>(scratch), threads});
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("column_sparse_conv2d_backward", TORCH_BOX(&column_sparse_conv2d_backward_cpu));
}

}  // namespace cnnkern
