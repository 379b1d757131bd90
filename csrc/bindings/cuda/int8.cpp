// int8_gemm, int8_linear and int8_conv2d on CUDA, with their packed forms. Matrix products are convolutions
// with 1 x 1 kernels, as on the CPU.
#include "bindings/int8_arguments.h"

#include "bindings/cuda/call.h"
#include "cuda/int8_conv2d/int8_conv2d.h"

namespace cnnkern::cuda {
namespace {

using Ints = std::vector<int64_t>;

int64_t packed_size(const Conv2dShape& shape) { return Int8Packing(shape).size; }

void check_like(const char* name, const Tensor& weight, int64_t dims, const Tensor& x) {
  check_int8_weight(name, weight, dims);
  check(on_same_device(weight, x), name, ": expected a tensor on the device of x");
}

// `weight` as (K, C/G, kH, kW) of these sizes and strides.
Tensor pack(const char* name, const Tensor& weight, const int64_t (&sizes)[4], const int64_t (&strides)[4],
            int64_t groups) {
  const Call call(weight);
  check(weight.numel() > 0, name, ": expected at least 1 along every axis");
  check(groups > 0 && sizes[0] % groups == 0, "groups: expected a divisor of ", sizes[0],
        " output channels, got ", groups);
  check_sum(name, sizes[1] * sizes[2] * sizes[3]);
  const Int8Packing packing(sizes[0], sizes[1], sizes[2], sizes[3], groups);
  Tensor packed = empty_tensor({packing.size}, {1}, weight);
  check_launch("int8_conv2d_pack", int8_conv2d_pack(const_data<int8_t>(weight), sizes, strides, groups,
                                                    data<int8_t>(packed), call.stream()));
  return packed;
}

Tensor pack_convolution(const Tensor& weight, int64_t groups) {
  check_int8_weight("weight", weight, 4);
  return pack("weight", weight, {weight.size(0), weight.size(1), weight.size(2), weight.size(3)},
              {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)}, groups);
}

// A matrix whose axis `channels` is that of the output channels.
Tensor pack_matrix(const char* name, const Tensor& matrix, int64_t channels) {
  check_int8_weight(name, matrix, 2);
  const int64_t summed = 1 - channels;
  return pack(name, matrix, {matrix.size(channels), matrix.size(summed), 1, 1},
              {matrix.stride(channels), matrix.stride(summed), 0, 0}, 1);
}

// A convolution of dense `x` into `y`: of s32 sums without a quantization.
void run(const Tensor& x, const Conv2dShape& shape, const Tensor& packed, int64_t x_zero_point,
         const Int8Quantization* q, const std::optional<Tensor>& bias, bool relu, const Tensor& y) {
  check_extents(shape);
  check_packed(packed, packed_size(shape));
  std::optional<Tensor> scales, bias_values;
  if (q) {
    check_quantization(x, *q, shape.out_channels);
    scales = torch::stable::contiguous(q->weight_scale);
    bias_values = as_bias(bias, shape.out_channels, q->weight_scale);
  }
  if (y.numel() == 0) return;
  const Call call(x);
  const Tensor weight = aligned(packed);
  const Tensor scratch = empty_scratch(int8_conv2d_scratch(shape, call.device()), x);
  Int8Conv2dParams p{};
  p.shape = shape;
  p.x = const_data<uint8_t>(x);
  p.packed = const_data<int8_t>(weight);
  p.weight_scale = const_data<float>(scales);
  p.bias = const_data<float>(bias_values);
  p.y = y.mutable_data_ptr();
  p.scratch = data<uint8_t>(scratch);
  p.x_scale = q ? q->x_scale : 1;
  p.out_scale = q ? q->out_scale.value_or(1) : 1;
  p.x_zero_point = static_cast<int32_t>(x_zero_point);
  p.out_zero_point = q ? static_cast<int32_t>(q->out_zero_point) : 0;
  p.output = q ? int8_output(x, q->out_scale) : Int8Output::s32;
  p.x_signed = x.scalar_type() == ScalarType::Char;
  p.relu = relu;
  check_launch("int8_conv2d", int8_conv2d(p, call.device(), call.stream()));
}

Tensor convolve(const Image& x, const Conv2dShape& s, const Tensor& packed, const std::optional<Tensor>& bias,
                const Int8Quantization& q, bool relu) {
  const Tensor y = empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last,
                               int8_output_type(x.tensor, q.out_scale), x.tensor);
  run(x.tensor, s, packed, q.x_zero_point, &q, bias, relu, y);
  return y;
}

Tensor int8_conv2d_cuda(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const Tensor& weight_scale, double x_scale, int64_t x_zero_point,
                        const std::optional<double>& out_scale, int64_t out_zero_point, const Ints& stride,
                        const Ints& padding, const Ints& dilation, int64_t groups, bool relu) {
  const Image image = as_image(x);
  check_activations("x", x, x_zero_point);
  check_like("weight", weight, 4, x);
  const Conv2dShape shape = conv2d_shape(image, weight.size(0), weight.size(2), weight.size(3),
                                         geometry_of(stride, padding, dilation, groups));
  check_size("weight", weight, 1, shape.in_channels / groups);
  const Int8Quantization q{weight_scale, x_scale, x_zero_point, out_scale, out_zero_point};
  return convolve(image, shape, pack_convolution(weight, groups), bias, q, relu);
}

Tensor int8_conv2d_packed_cuda(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                               const Ints& geometry, const Tensor& weight_scale, double x_scale,
                               int64_t x_zero_point, const std::optional<double>& out_scale,
                               int64_t out_zero_point, bool relu) {
  const Image image = as_image(x);
  check_activations("x", x, x_zero_point);
  check_like("packed", packed, 1, x);
  const Conv2dShape shape = packed_conv2d_shape(image, geometry);
  check_sum("geometry", shape.in_channels / shape.groups * shape.kernel_height * shape.kernel_width);
  const Int8Quantization q{weight_scale, x_scale, x_zero_point, out_scale, out_zero_point};
  return convolve(image, shape, packed, bias, q, relu);
}

Tensor int8_gemm_pack_cuda(const Tensor& b) { return pack_matrix("b", b, 1); }

Tensor int8_gemm_packed_cuda(const Tensor& a, const Tensor& packed, int64_t n, int64_t a_zero_point) {
  check(a.dim() == 2, "a: expected 2 dimensions (m, k), got ", a.dim());
  check_activations("a", a, a_zero_point);
  check_like("packed", packed, 1, a);
  const Conv2dShape shape = shape_of_rows(a.size(0), a.size(1), n);
  const Tensor y = empty_tensor({a.size(0), n}, {n, 1}, ScalarType::Int, a);
  run(torch::stable::contiguous(a), shape, packed, a_zero_point, nullptr, std::nullopt, false, y);
  return y;
}

Tensor int8_gemm_cuda(const Tensor& a, const Tensor& b, int64_t a_zero_point) {
  check(a.dim() == 2, "a: expected 2 dimensions (m, k), got ", a.dim());
  check_like("b", b, 2, a);
  check_size("b", b, 0, a.size(1));
  return int8_gemm_packed_cuda(a, int8_gemm_pack_cuda(b), b.size(1), a_zero_point);
}

Tensor int8_linear_packed_cuda(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                               const Tensor& weight_scale, double x_scale, int64_t x_zero_point,
                               const std::optional<double>& out_scale, int64_t out_zero_point, bool relu) {
  check_activations("x", x, x_zero_point);
  check_like("packed", packed, 1, x);
  const auto [shape, sizes, strides] = int8_rows(x, weight_scale.dim() == 1 ? weight_scale.size(0) : 0);
  const Int8Quantization q{weight_scale, x_scale, x_zero_point, out_scale, out_zero_point};
  const Tensor y = empty_tensor(sizes, strides, int8_output_type(x, out_scale), x);
  run(torch::stable::contiguous(x), shape, packed, x_zero_point, &q, bias, relu, y);
  return y;
}

Tensor int8_linear_cuda(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const Tensor& weight_scale, double x_scale, int64_t x_zero_point,
                        const std::optional<double>& out_scale, int64_t out_zero_point, bool relu) {
  check_like("weight", weight, 2, x);
  check(x.dim() > 0 && x.size(x.dim() - 1) == weight.size(1), "x: expected ", weight.size(1),
        " elements in the last dimension");
  return int8_linear_packed_cuda(x, pack_matrix("weight", weight, 0), bias, weight_scale, x_scale,
                                 x_zero_point, out_scale, out_zero_point, relu);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("int8_conv2d", TORCH_BOX(&int8_conv2d_cuda));
  m.impl("int8_conv2d_pack", TORCH_BOX(&pack_convolution));
  m.impl("int8_conv2d_packed", TORCH_BOX(&int8_conv2d_packed_cuda));
  m.impl("int8_gemm", TORCH_BOX(&int8_gemm_cuda));
  m.impl("int8_gemm_pack", TORCH_BOX(&int8_gemm_pack_cuda));
  m.impl("int8_gemm_packed", TORCH_BOX(&int8_gemm_packed_cuda));
  m.impl("int8_linear", TORCH_BOX(&int8_linear_cuda));
  m.impl("int8_linear_packed", TORCH_BOX(&int8_linear_packed_cuda));
}

}  // namespace cnnkern::cuda
