// conv2d, conv2d_pack and conv2d_packed on CUDA.
#include "cuda/conv2d/conv2d.h"

#include "bindings/cuda/conv2d.h"

namespace cnnkern::cuda {

Tensor pack_weight(const Call& call, const Tensor& weight, int64_t groups, bool transposed) {
  check_operand("weight", weight, 4, weight);
  const int64_t bytes = bytes_of(arithmetic_of(weight));
  const int64_t sizes[] = {weight.size(0), weight.size(1), weight.size(2), weight.size(3)};
  const int64_t strides[] = {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
  check(groups > 0 && sizes[0] % groups == 0, "groups: expected a divisor of ", sizes[0],
        " output channels, got ", groups);
  check(weight.numel() > 0, "weight: expected at least 1 along every axis");
  const WeightLayout layout =
      transposed ? WeightLayout::transposed(sizes, strides, groups) : WeightLayout::forward(sizes, strides);
  const int64_t size = conv2d_packed_size(layout.rows, layout.channels, sizes[2], sizes[3], bytes);
  Tensor packed = empty_tensor({size}, {1}, weight);
  check_launch("conv2d_pack",
               conv2d_pack(weight.const_data_ptr(), layout, bytes, packed.mutable_data_ptr(), call.stream()));
  return packed;
}

namespace {

using Ints = std::vector<int64_t>;

Tensor run(const Call& call, const Image& x, const Conv2dShape& shape, const Tensor& packed,
           const std::optional<Tensor>& bias, bool relu) {
  check_extents(shape);
  Tensor y = empty_image(shape.batch, shape.out_channels, shape.out_height, shape.out_width,
                         shape.channels_last, x.tensor);
  if (shape.batch == 0) return y;
  const Arithmetic arithmetic = arithmetic_of(x.tensor);
  const std::optional<Tensor> bias_values = as_bias(bias, shape.out_channels, x.tensor);
  const Tensor scratch = empty_scratch(conv2d_scratch(shape, arithmetic, call.device()), x.tensor);
  check_launch("conv2d",
               conv2d({shape, arithmetic, x.tensor.const_data_ptr(), packed.const_data_ptr(),
                       const_data<void>(bias_values), y.mutable_data_ptr(), data<float>(scratch), relu},
                      call.device(), call.stream()));
  return y;
}

Tensor conv2d_cuda(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups, bool relu) {
  const Call call(x);
  const Image image = as_image(x);
  check_operand("weight", weight, 4, x);
  const Conv2dShape shape = conv2d_shape(image, weight.size(0), weight.size(2), weight.size(3),
                                         geometry_of(stride, padding, dilation, groups));
  check_size("weight", weight, 1, shape.in_channels / groups);
  return run(call, image, shape, pack_weight(call, weight, groups, false), bias, relu);
}

Tensor conv2d_pack_cuda(const Tensor& weight, int64_t groups) {
  return pack_weight(Call(weight), weight, groups, false);
}

Tensor conv2d_packed_cuda(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                          const Ints& geometry, bool relu) {
  const Call call(x);
  const Image image = as_image(x);
  check_operand("packed", packed, 1, x);
  const Conv2dShape s = packed_conv2d_shape(image, geometry);
  check_packed(packed, conv2d_packed_size(s.out_channels, s.in_channels / s.groups, s.kernel_height,
                                          s.kernel_width, bytes_of(arithmetic_of(x))));
  return run(call, image, s, aligned(packed), bias, relu);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d_cuda));
  m.impl("conv2d_pack", TORCH_BOX(&conv2d_pack_cuda));
  m.impl("conv2d_packed", TORCH_BOX(&conv2d_packed_cuda));
}

}  // namespace cnnkern::cuda
