#include "cuda/cp_conv2d/backward.h"

#include "cuda/conv2d/backward.h"
#include "cuda/cp_conv2d/backward_plan.h"

namespace cnnkern::cuda {
namespace {

// The plans of what is asked for.
struct Plans {
  CpPlan<BackwardAxis> x;
  CpSumPlan<ForwardAxis> k, taps;
  CpSumPlan<BackwardAxis> c;

  Plans(const CpConv2dBackwardCall& call, const Device& device) {
    const Conv2dShape &s = call.shape, reversed = reversed_shape(s);
    const int64_t bytes = bytes_of(call.arithmetic);
    if (call.grad_x) x = plan_cp_conv2d<BackwardAxis>(reversed, call.rank, bytes, device);
    if (call.grad_k) k = plan_cp_factor<ForwardAxis>(s, call.rank, bytes, device);
    if (call.grad_c) c = plan_cp_factor<BackwardAxis>(reversed, call.rank, bytes, device);
    if (call.grad_h || call.grad_w) taps = plan_cp_taps(s, call.rank, bytes, device);
  }
};

}  // namespace

bool cp_conv2d_backward_fits(const CpConv2dBackwardCall& call, const Device& device) {
  const Plans plans(call, device);
  return (!call.grad_x || plans.x.fits) && (!call.grad_k || plans.k.fits) && (!call.grad_c || plans.c.fits) &&
         (!(call.grad_h || call.grad_w) || plans.taps.fits);
}

int64_t cp_conv2d_backward_scratch(const CpConv2dBackwardCall& call, const Device& device) {
  const Plans plans(call, device);
  const Conv2dShape& s = call.shape;
  const auto values = [](int64_t splits, int64_t size) { return splits > 1 ? splits * size : 0; };
  return std::max({values(plans.x.splits, s.batch * s.in_channels * s.in_height * s.in_width),
                   values(plans.k.splits, s.out_channels * call.rank / s.groups),
                   values(plans.c.splits, call.rank * s.in_channels / s.groups),
                   values(plans.taps.splits, call.rank * (s.kernel_height + s.kernel_width))});
}

cudaError_t cp_conv2d_backward(const CpConv2dBackwardCall& call, const Device& device, cudaStream_t stream) {
  cudaError_t (*products)(const CpConv2dBackwardCall&, const Device&, cudaStream_t) = nullptr;
  switch (call.arithmetic) {
    case Arithmetic::kFloat32:
      products = cp_conv2d_backward_float32;
      break;
    case Arithmetic::kTf32:
      products = cp_conv2d_backward_tf32;
      break;
    case Arithmetic::kFloat16:
      products = cp_conv2d_backward_float16;
      break;
    case Arithmetic::kBfloat16:
      products = cp_conv2d_backward_bfloat16;
      break;
  }
  const cudaError_t error = products(call, device, stream);
  if (error != cudaSuccess || !call.grad_bias) return error;
  return conv2d_backward_bias(call.shape, call.arithmetic, call.grad, call.grad_bias, stream);
}

}  // namespace cnnkern::cuda
