// cp_conv2d, cp_conv2d_pack and cp_conv2d_packed on the CPU.
#include "cpu/cp_conv2d/cp_conv2d.h"

#include <torch/csrc/stable/library.h>

#include "bindings/cp_factors.h"

namespace cnnkern {
namespace {

using Ints = std::vector<int64_t>;

int64_t packed_size(const FactorSize& f, int64_t groups) {
  return groups * PackedFactors(f.rank / groups, f.group_channels, f.out_channels / groups, f.kernel_height,
                                f.kernel_width)
                      .size;
}

Tensor run(const Image& x, const Tensor& packed, const std::optional<Tensor>& bias, const FactorSize& f,
           const Geometry& geometry) {
  const Conv2dShape shape = conv2d_shape(x, f.out_channels, f.kernel_height, f.kernel_width, geometry);
  check(f.group_channels == shape.in_channels / geometry.groups, "factor_c: expected ",
        shape.in_channels / geometry.groups, " input channels a group, got ", f.group_channels);
  Tensor y = empty_image(shape.batch, shape.out_channels, shape.out_height, shape.out_width,
                         shape.channels_last, x.tensor.scalar_type());
  if (shape.batch == 0) return y;
  const std::optional<Tensor> bias_values = as_bias(bias, shape.out_channels, x.tensor);
  const int64_t threads = threads_for(cp_multiply_adds(shape, f.rank));
  with_float_type(x.tensor, [&]<class T>(T) {
    const Tensor scratch = empty_vector(cp_conv2d_scratch<T>(shape, f.rank, threads), kScalarType<T>);
    cp_conv2d<T>({shape, f.rank, const_data<T>(x.tensor), const_data<T>(packed), const_data<T>(bias_values),
                  data<T>(y), data<T>(scratch), threads});
  });
  return y;
}

FactorSize size_of(const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k, int64_t groups) {
  check_operand("factor_c", c, 2, c);
  check_operand("factor_h", h, 2, c);
  check_operand("factor_w", w, 2, c);
  check_operand("factor_k", k, 2, c);
  const FactorSize f{k.size(0), c.size(0), c.size(1), h.size(1), w.size(1)};
  check_rank(f, groups);
  check_size("factor_h", h, 0, f.rank);
  check_size("factor_w", w, 0, f.rank);
  check_size("factor_k", k, 1, f.rank / groups);
  return f;
}

template <class T>
CpFactors<T> factors_of(const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k) {
  const auto factor = [](const Tensor& t) { return Factor<T>{const_data<T>(t), {t.stride(0), t.stride(1)}}; };
  return {factor(c), factor(h), factor(w), factor(k)};
}

Tensor pack(const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k, int64_t groups) {
  const FactorSize f = size_of(c, h, w, k, groups);
  Tensor packed = empty_vector(packed_size(f, groups), c.scalar_type());
  with_float_type(c, [&]<class T>(T) {
    cp_conv2d_pack<T>(factors_of<T>(c, h, w, k), f.rank, f.group_channels, f.out_channels, f.kernel_height,
                      f.kernel_width, groups, data<T>(packed));
  });
  return packed;
}

Tensor cp_conv2d_cpu(const Tensor& x, const Tensor& factor_c, const Tensor& factor_h, const Tensor& factor_w,
                     const Tensor& factor_k, const std::optional<Tensor>& bias, const Ints& stride,
                     const Ints& padding, const Ints& dilation, int64_t groups) {
  const Image image = as_image(x);
  check_operand("factor_c", factor_c, 2, x);
  const FactorSize f = size_of(factor_c, factor_h, factor_w, factor_k, groups);
  return run(image, pack(factor_c, factor_h, factor_w, factor_k, groups), bias, f,
             geometry_of(stride, padding, dilation, groups));
}

Tensor cp_conv2d_packed_cpu(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                            const Ints& geometry) {
  const Image image = as_image(x);
  check_operand("packed", packed, 1, x);
  const Geometry steps = geometry_after(5, geometry);
  const FactorSize f{geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]};
  check_rank(f, steps.groups);
  check_packed(packed, packed_size(f, steps.groups));
  return run(image, packed, bias, f, steps);
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients cp_conv2d_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& factor_c,
                                 const Tensor& factor_h, const Tensor& factor_w, const Tensor& factor_k,
                                 const Ints& stride, const Ints& padding, const Ints& dilation,
                                 int64_t groups, const std::vector<bool>& output_mask) {
  const Image image = as_image(x);
  check_operand("factor_c", factor_c, 2, x);
  check(output_mask.size() == 6, "output_mask: expected six values");
  const FactorSize f = size_of(factor_c, factor_h, factor_w, factor_k, groups);
  const Conv2dShape shape = conv2d_shape(image, f.out_channels, f.kernel_height, f.kernel_width,
                                         geometry_of(stride, padding, dilation, groups));
  check(f.group_channels == shape.in_channels / groups, "factor_c: expected ", shape.in_channels / groups,
        " input channels a group, got ", f.group_channels);
  const Tensor grad_image =
      as_gradient(grad, {shape.batch, shape.out_channels, shape.out_height, shape.out_width}, image);
  const ScalarType dtype = x.scalar_type();
  const auto asked = [&](int i, int64_t rows, int64_t columns) {
    return output_mask[i] ? empty_tensor({rows, columns}, {columns, 1}, dtype) : empty_vector(0, dtype);
  };
  Gradients gradients{output_mask[0] ? empty_image(shape.batch, shape.in_channels, shape.in_height,
                                                   shape.in_width, shape.channels_last, dtype)
                                     : empty_vector(0, dtype),
                      asked(1, f.rank, f.group_channels),
                      asked(2, f.rank, f.kernel_height),
                      asked(3, f.rank, f.kernel_width),
                      asked(4, f.out_channels, f.rank / groups),
                      output_mask[5] ? empty_vector(f.out_channels, dtype) : empty_vector(0, dtype)};
  auto& [grad_x, grad_c, grad_h, grad_w, grad_k, grad_bias] = gradients;
  if (shape.batch == 0) {
    for (Tensor* sum : {&grad_c, &grad_h, &grad_w, &grad_k, &grad_bias}) torch::stable::zero_(*sum);
    return gradients;
  }
  using torch::stable::contiguous;
  const Tensor dense_c = contiguous(factor_c), dense_h = contiguous(factor_h), dense_w = contiguous(factor_w),
               dense_k = contiguous(factor_k);
  const int64_t threads = threads_for(3 * cp_multiply_adds(shape, f.rank));
  with_float_type(x, [&]<class T>(T) {
    const Tensor scratch = empty_vector(cp_conv2d_backward_scratch<T>(shape, f.rank, threads), dtype);
    const auto to = [&](int i, const Tensor& tensor) { return output_mask[i] ? data<T>(tensor) : nullptr; };
    cp_conv2d_backward<T>({shape, f.rank, const_data<T>(grad_image), const_data<T>(image.tensor),
                           const_data<T>(dense_c), const_data<T>(dense_h), const_data<T>(dense_w),
                           const_data<T>(dense_k), to(0, grad_x), to(1, grad_c), to(2, grad_h), to(3, grad_w),
                           to(4, grad_k), to(5, grad_bias), data<T>(scratch), threads});
  });
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("cp_conv2d", TORCH_BOX(&cp_conv2d_cpu));
  m.impl("cp_conv2d_backward", TORCH_BOX(&cp_conv2d_backward_cpu));
  m.impl("cp_conv2d_pack", TORCH_BOX(&pack));
  m.impl("cp_conv2d_packed", TORCH_BOX(&cp_conv2d_packed_cpu));
}

}  // namespace cnnkern
