// cp_conv2d_backward on CUDA.
#include "cuda/cp_conv2d/backward.h"

#include "bindings/cuda/cp_conv2d.h"

namespace cnnkern::cuda {
namespace {

using Ints = std::vector<int64_t>;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients cp_conv2d_backward_cuda(const Tensor& grad, const Tensor& x, const Tensor& factor_c,
                                  const Tensor& factor_h, const Tensor& factor_w, const Tensor& factor_k,
                                  const Ints& stride, const Ints& padding, const Ints& dilation,
                                  int64_t groups, const std::vector<bool>& output_mask) {
  const Call call(x);
  const Image image = as_image(x);
  check_operand("factor_c", factor_c, 2, x);
  check(output_mask.size() == 6, "output_mask: expected six values");
  const FactorSize f = factor_size(factor_c, factor_h, factor_w, factor_k, groups);
  const Conv2dShape s = cp_conv2d_shape(image, f, geometry_of(stride, padding, dilation, groups));
  const Tensor dense_grad = as_gradient(grad, {s.batch, s.out_channels, s.out_height, s.out_width}, image);
  const auto asked = [&](int i, int64_t rows, int64_t columns) {
    return output_mask[i] ? empty_tensor({rows, columns}, {columns, 1}, x) : empty_tensor({0}, {1}, x);
  };
  Gradients gradients{output_mask[0]
                          ? empty_image(s.batch, s.in_channels, s.in_height, s.in_width, s.channels_last, x)
                          : empty_tensor({0}, {1}, x),
                      asked(1, f.rank, f.group_channels),
                      asked(2, f.rank, f.kernel_height),
                      asked(3, f.rank, f.kernel_width),
                      asked(4, f.out_channels, f.rank / groups),
                      empty_tensor({output_mask[5] ? f.out_channels : 0}, {1}, x)};
  auto& [grad_x, grad_c, grad_h, grad_w, grad_k, grad_bias] = gradients;
  if (s.batch == 0) {
    for (Tensor* sum : {&grad_c, &grad_h, &grad_w, &grad_k, &grad_bias}) torch::stable::zero_(*sum);
    return gradients;
  }
  const auto packed = [&](bool reversed) {
    return pack_factors(call, factor_c, factor_h, factor_w, factor_k, groups, reversed);
  };
  const Tensor forward = packed(false), reversed = packed(true);
  const auto to = [&](int i, const Tensor& tensor) {
    return output_mask[i] ? tensor.mutable_data_ptr() : nullptr;
  };
  CpConv2dBackwardCall arguments{s,
                                 f.rank,
                                 arithmetic_of(x),
                                 dense_grad.const_data_ptr(),
                                 image.tensor.const_data_ptr(),
                                 forward.const_data_ptr(),
                                 reversed.const_data_ptr(),
                                 to(0, grad_x),
                                 to(1, grad_c),
                                 to(2, grad_h),
                                 to(3, grad_w),
                                 to(4, grad_k),
                                 to(5, grad_bias),
                                 nullptr};
  check_fits(cp_conv2d_backward_fits(arguments, call.device()), "cp_conv2d_backward", f);
  const Tensor scratch = empty_scratch(cp_conv2d_backward_scratch(arguments, call.device()), x);
  arguments.scratch = data<float>(scratch);
  check_launch("cp_conv2d_backward", cp_conv2d_backward(arguments, call.device(), call.stream()));
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("cp_conv2d_backward", TORCH_BOX(&cp_conv2d_backward_cuda));
}

}  // namespace cnnkern::cuda
