// cp_conv2d, cp_conv2d_pack and cp_conv2d_packed on CUDA.
#include "cuda/cp_conv2d/cp_conv2d.h"

#include "bindings/cuda/cp_conv2d.h"

namespace cnnkern::cuda {
namespace {

using Ints = std::vector<int64_t>;

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

FactorLayout layout_of(const Tensor& factor) {
  return {factor.const_data_ptr(), {factor.stride(0), factor.stride(1)}};
}

// The rows of all groups' transposed factors, each with the columns of its own group.
FactorLayout transposed(const Tensor& factor, int64_t groups) {
  return {factor.const_data_ptr(),
          {factor.stride(1), factor.stride(0)},
          factor.size(1),
          factor.size(0) / groups * factor.stride(0)};
}

}  // namespace

FactorSize factor_size(const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k, int64_t groups) {
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

Tensor pack_factors(const Call& call, const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k,
                    int64_t groups, bool reversed) {
  FactorSize f = factor_size(c, h, w, k, groups);
  if (reversed)
    f = {f.group_channels * groups, f.rank, f.out_channels / groups, f.kernel_height, f.kernel_width};
  const int64_t bytes = bytes_of(arithmetic_of(c));
  Tensor packed = empty_tensor({packed_size(f, groups, bytes)}, {1}, c);
  check_launch("cp_conv2d_pack",
               cp_conv2d_pack(
                   {reversed ? transposed(k, groups) : layout_of(c), layout_of(h), layout_of(w),
                    reversed ? transposed(c, groups) : layout_of(k), f.out_channels, f.rank, f.group_channels,
                    f.kernel_height, f.kernel_width, groups, bytes, packed.mutable_data_ptr()},
                   call.stream()));
  return packed;
}

Conv2dShape cp_conv2d_shape(const Image& x, const FactorSize& f, const Geometry& geometry) {
  const Conv2dShape s = conv2d_shape(x, f.out_channels, f.kernel_height, f.kernel_width, geometry);
  check(f.group_channels == s.in_channels / s.groups, "factor_c: expected ", s.in_channels / s.groups,
        " input channels a group, got ", f.group_channels);
  check_extents(s);
  return s;
}

void check_fits(bool fits, const char* operation, const FactorSize& f) {
  STD_TORCH_CHECK(fits, operation, ": the ", f.kernel_height, " x ", f.kernel_width,
                  " input positions of one output do not fit into a block of this GPU");
}

namespace {

Tensor run(const Call& call, const Image& x, const Tensor& packed, const std::optional<Tensor>& bias,
           const FactorSize& f, const Geometry& geometry) {
  const Conv2dShape s = cp_conv2d_shape(x, f, geometry);
  Tensor y = empty_image(s.batch, s.out_channels, s.out_height, s.out_width, s.channels_last, x.tensor);
  if (s.batch == 0) return y;
  const Arithmetic arithmetic = arithmetic_of(x.tensor);
  check_fits(cp_conv2d_fits(s, f.rank, arithmetic, call.device()), "cp_conv2d", f);
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
  const FactorSize f = factor_size(factor_c, factor_h, factor_w, factor_k, groups);
  return run(call, image, pack_factors(call, factor_c, factor_h, factor_w, factor_k, groups, false), bias, f,
             geometry_of(stride, padding, dilation, groups));
}

Tensor cp_conv2d_pack_cuda(const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k,
                           int64_t groups) {
  return pack_factors(Call(c), c, h, w, k, groups, false);
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
