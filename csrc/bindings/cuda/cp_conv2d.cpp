// cp_conv2d, cp_conv2d_pack and cp_conv2d_packed on CUDA.
#include "cuda/cp_conv2d/cp_conv2d.h"

#include "bindings/cuda/call.h"

namespace cnnkern::cuda {
namespace {

using Ints = std::vector<int64_t>;

struct FactorSize {
  int64_t out_channels, rank, group_channels, kernel_height, kernel_width;
};

void check_rank(const FactorSize& f, int64_t groups) {
  check(f.rank > 0 && groups > 0 && f.rank % groups == 0, "factor_c: expected a positive rank that ", groups,
        " groups divide, got ", f.rank);
  check(f.out_channels > 0 && f.out_channels % groups == 0, "groups: expected a divisor of ", f.out_channels,
        " output channels, got ", groups);
  check(f.group_channels > 0 && f.kernel_height > 0 && f.kernel_width > 0,
        "factors: expected at least 1 along every axis");
}

int64_t packed_size(const FactorSize& f, int64_t groups, int64_t number_bytes) {
  return PackedFactors(f.out_channels, f.rank, f.group_channels, f.kernel_height, f.kernel_width, groups,
                       number_bytes)
      .size;
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

Tensor pack(const Call& call, const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k,
            int64_t groups) {
  const FactorSize f = size_of(c, h, w, k, groups);
  const int64_t bytes = bytes_of(arithmetic_of(c));
  Tensor packed = empty_tensor({packed_size(f, groups, bytes)}, {1}, c);
  const auto factor = [](const Tensor& t) {
    return FactorLayout{t.const_data_ptr(), {t.stride(0), t.stride(1)}};
  };
  check_launch("cp_conv2d_pack", cp_conv2d_pack({factor(c), factor(h), factor(w), factor(k), f.out_channels,
                                                 f.rank, f.group_channels, f.kernel_height, f.kernel_width,
                                                 groups, bytes, packed.mutable_data_ptr()},
                                                call.stream()));
  return packed;
}

Tensor run(const Call& call, const Image& x, const Tensor& packed, const std::optional<Tensor>& bias,
           const FactorSize& f, const Geometry& geometry) {
  const Conv2dShape s = conv2d_shape(x, f.out_channels, f.kernel_height, f.kernel_width, geometry);
  check(f.group_channels == s.in_channels / s.groups, "factor_c: expected ", s.in_channels / s.groups,
        " input channels a group, got ", f.group_channels);
  check_extents(s);
  Tensor y = empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last, x.tensor);
  if (s.batch == 0) return y;
  const Arithmetic arithmetic = arithmetic_of(x.tensor);
  STD_TORCH_CHECK(cp_conv2d_fits(s, f.rank, arithmetic, call.device()), "cp_conv2d: the ", f.kernel_height,
                  " x ", f.kernel_width,
                  " input positions of one output do not fit into a block of this GPU");
  const std::optional<Tensor> bias_values = as_bias(bias, s.out_channels, x.tensor);
  const Tensor scratch = empty_scratch(cp_conv2d_scratch(s, f.rank, arithmetic, call.device()), x.tensor);
  check_launch("cp_conv2d",
               cp_conv2d({s, f.rank, arithmetic, x.tensor.const_data_ptr(), packed.const_data_ptr(),
                          const_data<void>(bias_values), y.mutable_data_ptr(), data<float>(scratch)},
                         call.device(), call.stream()));
  return y;
}

Tensor cp_conv2d_cuda(const Tensor& x, const Tensor& factor_c, const Tensor& factor_h, const Tensor& factor_w,
                      const Tensor& factor_k, const std::optional<Tensor>& bias, const Ints& stride,
                      const Ints& padding, const Ints& dilation, int64_t groups) {
  const Call call(x);
  const Image image = as_image(x);
  check_operand("factor_c", factor_c, 2, x);
  const FactorSize f = size_of(factor_c, factor_h, factor_w, factor_k, groups);
  return run(call, image, pack(call, factor_c, factor_h, factor_w, factor_k, groups), bias, f,
             geometry_of(stride, padding, dilation, groups));
}

Tensor cp_conv2d_pack_cuda(const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k,
                           int64_t groups) {
  return pack(Call(c), c, h, w, k, groups);
}

Tensor cp_conv2d_packed_cuda(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                             const Ints& geometry) {
  const Call call(x);
  const Image image = as_image(x);
  check_operand("packed", packed, 1, x);
  const Geometry steps = geometry_after(5, geometry);
  const FactorSize f{geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]};
  check_rank(f, steps.groups);
  check_packed(packed, packed_size(f, steps.groups, bytes_of(arithmetic_of(x))));
  return run(call, image, aligned(packed), bias, f, steps);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("cp_conv2d", TORCH_BOX(&cp_conv2d_cuda));
  m.impl("cp_conv2d_pack", TORCH_BOX(&cp_conv2d_pack_cuda));
  m.impl("cp_conv2d_packed", TORCH_BOX(&cp_conv2d_packed_cuda));
}

}  // namespace cnnkern::cuda
