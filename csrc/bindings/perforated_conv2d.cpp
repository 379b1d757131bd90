// perforated_conv2d, its gradients, its sources and its packed form on the CPU.
#include "cpu/perforated_conv2d/perforated_conv2d.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "bindings/conv2d.h"
#include "bindings/tensors.h"
#include "cpu/conv2d/conv2d.h"
#include "cpu/perforated_conv2d/backward.h"

namespace cnnkern {
namespace {

using Ints = std::vector<int64_t>;

// A perforation, and who owns its arrays.
struct Arranged {
  Tensor arrays;  // (masks, 2, area)
  std::vector<int64_t> begin;
  Perforation perforation;
};

// `arrays` is (2, oH, oW) or (N, 2, oH, oW), by arrange_cpu or, for all we know, anyone.
Arranged arranged(const Tensor& arrays, const Conv2dShape& s) {
  const int64_t dims = arrays.dim(), area = s.out_height * s.out_width;
  check(dims == 3 || dims == 4, "arranged: expected 3 or 4 dimensions, got ", dims);
  check(arrays.is_cpu() && arrays.scalar_type() == ScalarType::Int, "arranged: expected int32 on the CPU");
  if (dims == 4) check_size("arranged", arrays, 0, s.batch);
  check_size("arranged", arrays, dims - 3, 2);
  check_size("arranged", arrays, dims - 2, s.out_height);
  check_size("arranged", arrays, dims - 1, s.out_width);

  const int64_t masks = dims == 4 ? s.batch : 1;
  Arranged a{torch::stable::contiguous(arrays), Ints(static_cast<size_t>(s.batch + 1)), {}};
  const auto* const owner = const_data<int32_t>(a.arrays);
  int64_t kept = 0;
  for (int64_t image = 0; image < s.batch; ++image) {
    if (image < masks) {
      kept = count_kept(owner + image * 2 * area, owner + (image * 2 + 1) * area, area);
      check(kept > 0, "arranged: expected what perforated_conv2d_arrange returns");
    }
    a.begin[static_cast<size_t>(image + 1)] = a.begin[static_cast<size_t>(image)] + kept;
  }
  a.perforation = {masks, a.begin.data(), owner, owner + area};
  return a;
}

// The multiply-adds of the kept outputs.
double multiply_adds(const Conv2dShape& s, int64_t kept) {
  return static_cast<double>(kept) *
         static_cast<double>(s.out_channels * (s.in_channels / s.groups) * s.kernel_height * s.kernel_width);
}

// `packed()` gives the packed weight.
template <class Packed>
Tensor run(const Image& x, const Conv2dShape& s, const Tensor& arrays, const std::optional<Tensor>& bias,
           const Packed& packed) {
  const Arranged a = arranged(arrays, s);
  Tensor y = empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last,
                         x.tensor.scalar_type());
  if (s.batch == 0) return y;
  const std::optional<Tensor> bias_values = as_bias(bias, s.out_channels, x.tensor);
  const int64_t kept = a.begin.back(), threads = threads_for(multiply_adds(s, kept));
  with_float_type(x.tensor, [&]<class T>(T) {
    const Tensor weight = packed();
    const Tensor scratch = empty_vector(perforated_conv2d_scratch<T>(s, kept, threads), kScalarType<T>);
    perforated_conv2d<T>({s, a.perforation, const_data<T>(x.tensor), const_data<T>(weight),
                          const_data<T>(bias_values), data<T>(y), data<T>(scratch), threads});
  });
  return y;
}

Tensor sources_cpu(const Tensor& mask, bool nearest) {
  const int64_t dims = mask.dim();
  check(dims == 2 || dims == 3, "mask: expected 2 or 3 dimensions, got ", dims);
  check(mask.is_cpu() && mask.scalar_type() == ScalarType::Bool, "mask: expected bool on the CPU");
  const int64_t masks = dims == 3 ? mask.size(0) : 1, height = mask.size(dims - 2),
                width = mask.size(dims - 1);
  const int64_t area = height * width;
  check(area > 0 && area < (int64_t{1} << 31), "mask: expected 1 to 2^31 - 1 positions, got ", area);
  const Tensor dense = torch::stable::contiguous(mask);
  const auto* const values = static_cast<const uint8_t*>(dense.const_data_ptr());  // one byte each
  for (int64_t m = 0; m < masks; ++m)
    check(std::any_of(values + m * area, values + (m + 1) * area, [](uint8_t kept) { return kept != 0; }),
          "mask: expected at least one kept position, got none");
  Tensor sources = dims == 3 ? empty_tensor({masks, height, width}, {area, width, 1}, ScalarType::Int)
                             : empty_tensor({height, width}, {width, 1}, ScalarType::Int);
  int32_t* const to = data<int32_t>(sources);
  if (nearest) {
    const int64_t threads = threads_for(static_cast<double>(masks * area) * 8);
    const Tensor scratch = empty_vector(threads * 2 * width, ScalarType::Int);
    nearest_kept(values, masks, height, width, to, data<int32_t>(scratch), threads);
  } else {
    for (int64_t p = 0; p < masks * area; ++p) to[p] = values[p] ? static_cast<int32_t>(p % area) : -1;
  }
  return sources;
}

Tensor arrange_cpu(const Tensor& mask, bool nearest) {
  const Tensor sources = sources_cpu(mask, nearest);
  const int64_t dims = mask.dim(), masks = dims == 3 ? mask.size(0) : 1;
  const int64_t height = mask.size(dims - 2), width = mask.size(dims - 1), area = height * width;
  Tensor arrays = dims == 3
                      ? empty_tensor({masks, 2, height, width}, {2 * area, area, width, 1}, ScalarType::Int)
                      : empty_tensor({2, height, width}, {area, width, 1}, ScalarType::Int);
  int32_t* const owner = data<int32_t>(arrays);
  for (int64_t m = 0; m < masks; ++m)
    arrange(const_data<int32_t>(sources) + m * area, area, owner + m * 2 * area, owner + (m * 2 + 1) * area);
  return arrays;
}

Tensor perforated_conv2d_cpu(const Tensor& x, const Tensor& weight, const Tensor& mask,
                             const std::optional<Tensor>& bias, const Ints& stride, const Ints& padding,
                             const Ints& dilation, int64_t groups, bool nearest) {
  const Image image = as_image(x);
  check_operand("weight", weight, 4, x);
  const Conv2dShape s = conv2d_shape(image, weight.size(0), weight.size(2), weight.size(3),
                                     geometry_of(stride, padding, dilation, groups));
  check_size("weight", weight, 1, s.in_channels / groups);
  return run(image, s, arrange_cpu(mask, nearest), bias, [&] { return pack_weight(weight, groups); });
}

Tensor perforated_conv2d_packed_cpu(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                                    const Ints& geometry, const Tensor& arrays) {
  const Image image = as_image(x);
  check_operand("packed", packed, 1, x);
  const Conv2dShape s = packed_conv2d_shape(image, geometry);
  check_packed(packed, packed_size(s));
  return run(image, s, arrays, bias, [&] { return packed; });
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// The gradients of kept outputs, and no others.
Gradients kept_gradients(const Image& x, const Conv2dShape& s, const Tensor& grad, const Tensor& weight,
                         const Arranged& a, const GradientsAsked& asked) {
  const Tensor dense_weight = torch::stable::contiguous(weight);
  const ScalarType dtype = x.tensor.scalar_type();
  Tensor grad_x = asked.x
                      ? empty_image(s.batch, s.in_channels, s.in_height, s.in_width, s.channels_last, dtype)
                      : empty_vector(0, dtype);
  Tensor grad_weight = asked.weight ? empty_image(s.out_channels, s.in_channels / s.groups, s.kernel_height,
                                                  s.kernel_width, false, dtype)
                                    : empty_vector(0, dtype);
  Tensor grad_bias = empty_vector(asked.bias ? s.out_channels : 0, dtype);
  const int64_t kept = a.begin.back(), threads = threads_for(multiply_adds(s, kept));
  with_float_type(x.tensor, [&]<class T>(T) {
    const Tensor scratch =
        empty_vector(perforated_conv2d_backward_scratch<T>(s, kept, asked, threads), kScalarType<T>);
    perforated_conv2d_backward<T>({s, a.perforation, const_data<T>(grad), const_data<T>(x.tensor),
                                   const_data<T>(dense_weight), asked.x ? data<T>(grad_x) : nullptr,
                                   asked.weight ? data<T>(grad_weight) : nullptr,
                                   asked.bias ? data<T>(grad_bias) : nullptr, data<T>(scratch), threads});
  });
  return {grad_x, grad_weight, grad_bias};
}

Gradients perforated_conv2d_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                         const Tensor& mask, const Ints& stride, const Ints& padding,
                                         const Ints& dilation, int64_t groups, bool nearest,
                                         const std::vector<bool>& output_mask) {
  const Image image = as_image(x);
  check_operand("weight", weight, 4, x);
  check(output_mask.size() == 3, "output_mask: expected three values, for x, weight and bias");
  const Conv2dShape s = conv2d_shape(image, weight.size(0), weight.size(2), weight.size(3),
                                     geometry_of(stride, padding, dilation, groups));
  check_size("weight", weight, 1, s.in_channels / groups);
  const Tensor dense_grad = as_gradient(grad, {s.batch, s.out_channels, s.out_height, s.out_width}, image);
  const Arranged a = arranged(arrange_cpu(mask, nearest), s);
  if (s.batch > 0 && saves_backward(s, a.begin.back()))
    return kept_gradients(image, s, dense_grad, weight, a, {output_mask[0], output_mask[1], output_mask[2]});
  // Else the folded gradient is that of a dense convolution.
  const Tensor folded =
      empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last, x.scalar_type());
  with_float_type(x, [&]<class T>(T) {
    fold<T>(s, a.perforation, const_data<T>(dense_grad), data<T>(folded),
            threads_for(static_cast<double>(grad.numel())));
  });
  return conv2d_gradients(folded, image.tensor, weight, stride, padding, dilation, groups, output_mask);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("perforated_conv2d", TORCH_BOX(&perforated_conv2d_cpu));
  m.impl("perforated_conv2d_backward", TORCH_BOX(&perforated_conv2d_backward_cpu));
  m.impl("perforated_conv2d_sources", TORCH_BOX(&sources_cpu));
  m.impl("perforated_conv2d_arrange", TORCH_BOX(&arrange_cpu));
  m.impl("perforated_conv2d_packed", TORCH_BOX(&perforated_conv2d_packed_cpu));
}

}  // namespace cnnkern
