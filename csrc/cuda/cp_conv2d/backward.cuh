// The gradients of x and of the factors, for any arithmetic.
#pragma once
#include "cuda/cp_conv2d/backward_factor.cuh"
#include "cuda/cp_conv2d/backward_taps.cuh"
#include "cuda/cp_conv2d/forward.cuh"

namespace cnnkern::cuda {

// One after the other on the stream: they may have the same scratch.
template <class Math>
cudaError_t cp_conv2d_backward_products(const CpConv2dBackwardCall& call, const Device& device,
                                        cudaStream_t stream) {
  using T = typename Math::Number;
  const Conv2dShape &s = call.shape, reversed = reversed_shape(s);
  cudaError_t error = cudaSuccess;
  if (call.grad_x) {
    const auto plan = plan_cp_conv2d<BackwardAxis>(reversed, call.rank, sizeof(T), device);
    if (!plan.fits) return cudaErrorInvalidConfiguration;
    error = cp_conv2d_forward<Math>(
        {reversed, call.rank, call.arithmetic, call.grad, call.reversed, nullptr, call.grad_x, call.scratch},
        plan, stream);
  }
  const int64_t group_rank = call.rank / s.groups;
  if (error == cudaSuccess && call.grad_k) {
    Output<T> output(static_cast<T*>(call.grad_k), nullptr, 1, s.out_channels, group_rank, 1, true, false, 1);
    output.group_stride = s.out_channels / s.groups * group_rank;
    error = launch_cp_factor<Math, ForwardAxis>(s, call.rank, call.x, call.packed, call.grad, output,
                                                call.scratch, device, stream);
  }
  if (error == cudaSuccess && call.grad_c) {
    const int64_t channels = s.in_channels / s.groups;
    const Output<T> output(static_cast<T*>(call.grad_c), nullptr, 1, channels, call.rank, s.groups, false,
                           false, channels);
    error = launch_cp_factor<Math, BackwardAxis>(reversed, call.rank, call.grad, call.reversed, call.x,
                                                 output, call.scratch, device, stream);
  }
  if (error == cudaSuccess && (call.grad_h || call.grad_w))
    error = launch_cp_taps<Math>(call, device, stream);
  return error;
}

}  // namespace cnnkern::cuda
