// conv2d_backward on CUDA.
#include "cuda/conv2d/backward.h"

#include "bindings/cuda/conv2d.h"

namespace cnnkern::cuda {

std::tuple<Tensor, Tensor, Tensor> conv2d_gradients(const Call& call, const Conv2dShape& s,
                                                    const Tensor& grad, const Image& image,
                                                    const Tensor& weight,
                                                    const std::vector<bool>& output_mask) {
  check(output_mask.size() == 3, "output_mask: expected three values, for x, weight and bias");
  const Tensor& x = image.tensor;
  const bool for_x = output_mask[0], for_weight = output_mask[1], for_bias = output_mask[2];
  const int64_t k = s.out_channels, c = s.in_channels / s.groups, kh = s.kernel_height, kw = s.kernel_width;
  Tensor grad_x = for_x ? empty_image(s.batch, s.in_channels, s.in_height, s.in_width, s.channels_last, x)
                        : empty_tensor({0}, {1}, x);
  Tensor grad_weight = for_weight ? empty_image(k, c, kh, kw, false, x) : empty_tensor({0}, {1}, x);
  Tensor grad_bias = empty_tensor({for_bias ? k : 0}, {1}, x);
  if (s.batch == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_x, grad_weight, grad_bias};
  }
  const Tensor packed = for_x ? pack_weight(call, weight, s.groups, true) : empty_tensor({0}, {1}, x);
  const auto to = [](bool asked, const Tensor& tensor) {
    return asked ? tensor.mutable_data_ptr() : nullptr;
  };
  Conv2dBackwardCall arguments{s,
                               arithmetic_of(x),
                               grad.const_data_ptr(),
                               x.const_data_ptr(),
                               packed.const_data_ptr(),
                               to(for_x, grad_x),
                               to(for_weight, grad_weight),
                               to(for_bias, grad_bias),
                               nullptr};
  const Tensor scratch = empty_scratch(conv2d_backward_scratch(arguments, call.device()), x);
  arguments.scratch = data<float>(scratch);
  check_launch("conv2d_backward", conv2d_backward(arguments, call.device(), call.stream()));
  return {grad_x, grad_weight, grad_bias};
}

namespace {

using Ints = std::vector<int64_t>;

std::tuple<Tensor, Tensor, Tensor> conv2d_backward_cuda(const Tensor& grad, const Tensor& x,
                                                        const Tensor& weight, const Ints& stride,
                                                        const Ints& padding, const Ints& dilation,
                                                        int64_t groups,
                                                        const std::vector<bool>& output_mask) {
  const Call call(x);
  const Image image = as_image(x);
  check_operand("weight", weight, 4, x);
  const Conv2dShape s = conv2d_shape(image, weight.size(0), weight.size(2), weight.size(3),
                                     geometry_of(stride, padding, dilation, groups));
  check_size("weight", weight, 1, s.in_channels / groups);
  check_extents(s);
  const Tensor dense_grad = as_gradient(grad, {s.batch, s.out_channels, s.out_height, s.out_width}, image);
  return conv2d_gradients(call, s, dense_grad, image, weight, output_mask);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("conv2d_backward", TORCH_BOX(&conv2d_backward_cuda));
}

}  // namespace cnnkern::cuda
