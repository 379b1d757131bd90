// perforated_conv2d, its gradients, its sources and its packed form on CUDA.
#include "cuda/perforated_conv2d/perforated_conv2d.h"

#include "bindings/cuda/conv2d.h"
#include "cuda/conv2d/conv2d.h"
#include "cuda/perforated_conv2d/backward.h"

namespace cnnkern::cuda {
namespace {

using Ints = std::vector<int64_t>;

// `mask` is (oH, oW) or (masks, oH, oW). That each keeps something is for others to see: to look would be to
// wait for the GPU. One that keeps nothing shows zeros.
Masks masks_of(const Tensor& mask) {
  const int64_t dims = mask.dim();
  check(dims == 2 || dims == 3, "mask: expected 2 or 3 dimensions, got ", dims);
  check(mask.scalar_type() == ScalarType::Bool, "mask: expected bool");
  const Masks size{dims == 3 ? mask.size(0) : 1, mask.size(dims - 2), mask.size(dims - 1)};
  check(size.area() > 0 && size.area() < int64_t{1} << 29, "mask: expected 1 to 2^29 - 1 positions, got ",
        size.area());
  return size;
}

Tensor sources(const Call& call, const Tensor& mask, bool nearest) {
  const Masks size = masks_of(mask);
  const Tensor dense = torch::stable::contiguous(mask);
  const int64_t area = size.area();
  Tensor to =
      mask.dim() == 3
          ? empty_tensor({size.masks, size.height, size.width}, {area, size.width, 1}, ScalarType::Int, mask)
          : empty_tensor({size.height, size.width}, {size.width, 1}, ScalarType::Int, mask);
  if (size.masks == 0) return to;
  const Tensor scratch = empty_tensor({nearest ? size.masks * area : 0}, {1}, ScalarType::Int, mask);
  check_launch("perforated_conv2d_sources",
               perforated_conv2d_sources(size, const_data<uint8_t>(dense), nearest, data<int32_t>(to),
                                         data<int32_t>(scratch), call.stream()));
  return to;
}

Tensor arrange(const Call& call, const Tensor& mask, bool nearest) {
  const Tensor from = sources(call, mask, nearest);
  const Masks size = masks_of(mask);
  const int64_t area = size.area(), w = size.width, h = size.height;
  Tensor to = mask.dim() == 3
                  ? empty_tensor({size.masks, 2, h, w}, {2 * area, area, w, 1}, ScalarType::Int, mask)
                  : empty_tensor({2, h, w}, {area, w, 1}, ScalarType::Int, mask);
  if (size.masks == 0) return to;
  const Tensor scratch = empty_tensor({size.masks * 2 * area}, {1}, ScalarType::Int, mask);
  check_launch("perforated_conv2d_arrange",
               perforated_conv2d_arrange(size, const_data<int32_t>(from), data<int32_t>(to),
                                         data<int32_t>(scratch), call.stream()));
  return to;
}

// `arrays` is (2, oH, oW) or (N, 2, oH, oW), by `arrange` or, for all we know, anyone.
Tensor checked(const Tensor& arrays, const Conv2dShape& s, const Tensor& like) {
  const int64_t dims = arrays.dim();
  check(dims == 3 || dims == 4, "arranged: expected 3 or 4 dimensions, got ", dims);
  check(on_same_device(arrays, like) && arrays.scalar_type() == ScalarType::Int,
        "arranged: expected int32 on the device of x");
  if (dims == 4) check_size("arranged", arrays, 0, s.batch);
  check_size("arranged", arrays, dims - 3, 2);
  check_size("arranged", arrays, dims - 2, s.out_height);
  check_size("arranged", arrays, dims - 1, s.out_width);
  return torch::stable::contiguous(arrays);
}

Arranged arranged_of(const Tensor& arrays) { return {const_data<int32_t>(arrays), arrays.dim() == 4}; }

Tensor run(const Call& call, const Image& x, const Conv2dShape& s, const Tensor& given, const Tensor& packed,
           const std::optional<Tensor>& bias) {
  check_extents(s);
  const Tensor arrays = checked(given, s, x.tensor);
  Tensor y = empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last, x.tensor);
  if (s.batch == 0) return y;
  const Arithmetic arithmetic = arithmetic_of(x.tensor);
  const std::optional<Tensor> bias_values = as_bias(bias, s.out_channels, x.tensor);
  const Tensor scratch = empty_scratch(perforated_conv2d_scratch(s, arithmetic, call.device()), x.tensor);
  const Tensor begin = empty_tensor({arrays.dim() == 4 ? s.batch + 1 : 0}, {1}, ScalarType::Long, x.tensor);
  check_launch("perforated_conv2d",
               perforated_conv2d({s, arithmetic, arranged_of(arrays), x.tensor.const_data_ptr(),
                                  packed.const_data_ptr(), const_data<void>(bias_values),
                                  y.mutable_data_ptr(), data<float>(scratch), data<int64_t>(begin)},
                                 call.device(), call.stream()));
  return y;
}

Conv2dShape shape_of(const Image& x, const Tensor& weight, const Geometry& geometry) {
  check_operand("weight", weight, 4, x.tensor);
  const Conv2dShape s = conv2d_shape(x, weight.size(0), weight.size(2), weight.size(3), geometry);
  check_size("weight", weight, 1, s.in_channels / s.groups);
  return s;
}

Tensor perforated_conv2d_cuda(const Tensor& x, const Tensor& weight, const Tensor& mask,
                              const std::optional<Tensor>& bias, const Ints& stride, const Ints& padding,
                              const Ints& dilation, int64_t groups, bool nearest) {
  const Call call(x);
  const Image image = as_image(x);
  const Conv2dShape s = shape_of(image, weight, geometry_of(stride, padding, dilation, groups));
  check(on_same_device(mask, x), "mask: expected a tensor on the device of x");
  return run(call, image, s, arrange(call, mask, nearest), pack_weight(call, weight, groups, false), bias);
}

Tensor perforated_conv2d_packed_cuda(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                                     const Ints& geometry, const Tensor& arrays) {
  const Call call(x);
  const Image image = as_image(x);
  check_operand("packed", packed, 1, x);
  const Conv2dShape s = packed_conv2d_shape(image, geometry);
  check_packed(packed, conv2d_packed_size(s.out_channels, s.in_channels / s.groups, s.kernel_height,
                                          s.kernel_width, bytes_of(arithmetic_of(x))));
  return run(call, image, s, arrays, aligned(packed), bias);
}

// The gradient of the weight, from the gradients `folded` of the kept outputs and zeros for the others.
Tensor weight_gradient(const Call& call, const Image& x, const Conv2dShape& s, const Tensor& folded,
                       const Tensor& arrays) {
  const Arithmetic arithmetic = arithmetic_of(x.tensor);
  Tensor grad =
      empty_image(s.out_channels, s.in_channels / s.groups, s.kernel_height, s.kernel_width, false, x.tensor);
  if (s.batch == 0) {
    torch::stable::zero_(grad);
    return grad;
  }
  const Tensor scratch =
      empty_scratch(perforated_conv2d_backward_scratch(s, arithmetic, call.device()), x.tensor);
  const Tensor begin = empty_tensor({arrays.dim() == 4 ? s.batch + 1 : 0}, {1}, ScalarType::Long, x.tensor);
  const Tensor places = empty_tensor({2 * kept_places(s)}, {1}, ScalarType::Long, x.tensor);
  static_assert(sizeof(KeptPlace) == 2 * sizeof(int64_t));
  check_launch(
      "perforated_conv2d_backward",
      perforated_conv2d_backward({s, arithmetic, arranged_of(arrays), folded.const_data_ptr(),
                                  x.tensor.const_data_ptr(), grad.mutable_data_ptr(), data<float>(scratch),
                                  data<int64_t>(begin), reinterpret_cast<KeptPlace*>(data<int64_t>(places))},
                                 call.device(), call.stream()));
  return grad;
}

// The gradient of the interpolation; of the weight from the kept outputs alone, and of x and bias as a dense
// convolution has them: the products of a kept output's gradient with the weight, written out for each tap,
// would take longer to move than tensor cores take to multiply with zeros.
std::tuple<Tensor, Tensor, Tensor> perforated_conv2d_backward_cuda(const Tensor& grad, const Tensor& x,
                                                                   const Tensor& weight, const Tensor& mask,
                                                                   const Ints& stride, const Ints& padding,
                                                                   const Ints& dilation, int64_t groups,
                                                                   bool nearest,
                                                                   const std::vector<bool>& output_mask) {
  const Call call(x);
  const Image image = as_image(x);
  const Conv2dShape s = shape_of(image, weight, geometry_of(stride, padding, dilation, groups));
  check_extents(s);
  check(on_same_device(mask, x), "mask: expected a tensor on the device of x");
  const Tensor arrays = checked(arrange(call, mask, nearest), s, x);
  const Tensor dense_grad = as_gradient(grad, {s.batch, s.out_channels, s.out_height, s.out_width}, image);
  Tensor folded = empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last, x);
  if (s.batch > 0)
    check_launch("perforated_conv2d_backward",
                 perforated_conv2d_fold(s, arithmetic_of(x), arranged_of(arrays), dense_grad.const_data_ptr(),
                                        folded.mutable_data_ptr(), call.stream()));
  check(output_mask.size() == 3, "output_mask: expected three values, for x, weight and bias");
  auto gradients = conv2d_gradients(call, s, folded, image, weight, {output_mask[0], false, output_mask[2]});
  if (output_mask[1]) std::get<1>(gradients) = weight_gradient(call, image, s, folded, arrays);
  return gradients;
}

Tensor sources_cuda(const Tensor& mask, bool nearest) { return sources(Call(mask), mask, nearest); }
Tensor arrange_cuda(const Tensor& mask, bool nearest) { return arrange(Call(mask), mask, nearest); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("perforated_conv2d", TORCH_BOX(&perforated_conv2d_cuda));
  m.impl("perforated_conv2d_backward", TORCH_BOX(&perforated_conv2d_backward_cuda));
  m.impl("perforated_conv2d_sources", TORCH_BOX(&sources_cuda));
  m.impl("perforated_conv2d_arrange", TORCH_BOX(&arrange_cuda));
  m.impl("perforated_conv2d_packed", TORCH_BOX(&perforated_conv2d_packed_cuda));
}

}  // namespace cnnkern::cuda
