// conv2d, conv2d_pack and conv2d_packed on the CPU.
#include "cpu/conv2d/conv2d.h"

#include <torch/csrc/stable/library.h>

#include "bindings/conv2d.h"
#include "bindings/tensors.h"

namespace cnnkern {
namespace {

using Ints = std::vector<int64_t>;

double multiply_adds(const Conv2dShape& s) {
  return static_cast<double>(s.batch * s.out_height * s.out_width) *
         static_cast<double>(s.out_channels * (s.in_channels / s.groups) * s.kernel_height * s.kernel_width);
}

// `packed()` gives the packed weight.
template <class Packed>
Tensor run(const Image& x, const Conv2dShape& shape, const std::optional<Tensor>& bias, bool relu,
           const Packed& packed) {
  Tensor y = empty_image(shape.batch, shape.out_channels, shape.out_height, shape.out_width,
                         shape.channels_last, x.tensor.scalar_type());
  if (shape.batch == 0) return y;
  const std::optional<Tensor> bias_values = as_bias(bias, shape.out_channels, x.tensor);
  const int64_t threads = threads_for(multiply_adds(shape));
  with_float_type(x.tensor, [&]<class T>(T) {
    const Tensor weight = packed();
    const Tensor scratch = empty_vector(conv2d_scratch<T>(shape, threads), kScalarType<T>);
    conv2d<T>({shape, const_data<T>(x.tensor), const_data<T>(weight), const_data<T>(bias_values), data<T>(y),
               data<T>(scratch), threads, relu});
  });
  return y;
}

}  // namespace

Tensor pack_weight(const Tensor& weight, int64_t groups) {
  check_operand("weight", weight, 4, weight);
  const int64_t k = weight.size(0), c = weight.size(1), kh = weight.size(2), kw = weight.size(3);
  check(groups > 0 && k % groups == 0, "groups: expected a divisor of ", k, " output channels, got ", groups);
  const int64_t size = conv2d_packed_size(k, c, kh, kw, groups);
  Tensor packed = empty_vector(size, weight.scalar_type());
  const int64_t stride[] = {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
  with_float_type(weight, [&]<class T>(T) {
    conv2d_pack<T>(const_data<T>(weight), stride, k, c, kh, kw, groups, data<T>(packed),
                   threads_for(static_cast<double>(size)));
  });
  return packed;
}

namespace {

Tensor conv2d_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                  const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups, bool relu) {
  const Image image = as_image(x);
  check_operand("weight", weight, 4, x);
  const Conv2dShape shape = conv2d_shape(image, weight.size(0), weight.size(2), weight.size(3),
                                         geometry_of(stride, padding, dilation, groups));
  check_size("weight", weight, 1, shape.in_channels / groups);
  return run(image, shape, bias, relu, [&] { return pack_weight(weight, groups); });
}

Tensor conv2d_packed_cpu(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                         const Ints& geometry, bool relu) {
  const Image image = as_image(x);
  check_operand("packed", packed, 1, x);
  const Conv2dShape shape = packed_conv2d_shape(image, geometry);
  check_packed(packed, packed_size(shape));
  return run(image, shape, bias, relu, [&] { return packed; });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d_cpu));
  m.impl("conv2d_pack", TORCH_BOX(&pack_weight));
  m.impl("conv2d_packed", TORCH_BOX(&conv2d_packed_cpu));
}

}  // namespace cnnkern
