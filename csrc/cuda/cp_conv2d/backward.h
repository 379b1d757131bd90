// The gradients of the fused CP convolution. All intermediates are computed again, tile by tile in shared
// memory:
//
//   x                    the forward kernel the other way round: y's gradient through factor_k, the depthwise
//                        stages over the outputs that an input went into, and factor_c
//   factor_k             stage 3 again, its product with y's gradient over all outputs
//   factor_c             the gradient of stage 1, as for x; its product with x over all inputs
//   factor_h, factor_w   the gradient of stage 3, times what one tap meets: stage 2 for factor_w, and for
//                        factor_h stage 1 with the horizontal stage done first
//
// Sums over positions are split over blocks into partial sums, which are added in their order.
#pragma once
#include "cuda/cp_conv2d/cp_conv2d.h"

namespace cnnkern::cuda {

struct CpConv2dBackwardCall {
  Conv2dShape shape;
  int64_t rank;
  Arithmetic arithmetic;
  const void* grad;      // of y, dense, in the shape's layout; the caller's, like all below
  const void* x;         // dense, in the shape's layout
  const void* packed;    // the factors by cp_conv2d_pack, 16-byte aligned
  const void* reversed;  // the same of the factors of reversed_shape
  // Gradients; null where not asked for.
  void* grad_x;                    // dense, in the shape's layout
  void *grad_c, *grad_h, *grad_w;  // (R, C/G), (R, kH), (R, kW)
  void* grad_k;                    // (K, R/G)
  void* grad_bias;                 // (K)
  float* scratch;                  // cp_conv2d_backward_scratch values
};

// From y's gradient to that of x: factor_k transposed, (R, K/G), is the first factor and factor_c transposed,
// (C, R/G), the last.
constexpr Conv2dShape reversed_shape(const Conv2dShape& s) {
  Conv2dShape r = s;
  r.in_channels = s.out_channels, r.in_height = s.out_height, r.in_width = s.out_width;
  r.out_channels = s.in_channels, r.out_height = s.in_height, r.out_width = s.in_width;
  return r;
}

// Whether one position with its halo fits into a block's shared memory, for what is asked for.
bool cp_conv2d_backward_fits(const CpConv2dBackwardCall& call, const Device& device);
// float32 values that a call needs, for partial sums. For a factor they are at most 2^14 for each
// multiprocessor; for x as many as the forward pass of reversed_shape takes.
int64_t cp_conv2d_backward_scratch(const CpConv2dBackwardCall& call, const Device& device);
cudaError_t cp_conv2d_backward(const CpConv2dBackwardCall& call, const Device& device, cudaStream_t stream);

// All but the gradient of the bias, in one arithmetic; each has a file of its own, for the compiler's sake.
cudaError_t cp_conv2d_backward_float32(const CpConv2dBackwardCall& call, const Device& device,
                                       cudaStream_t stream);
cudaError_t cp_conv2d_backward_tf32(const CpConv2dBackwardCall& call, const Device& device,
                                    cudaStream_t stream);
cudaError_t cp_conv2d_backward_float16(const CpConv2dBackwardCall& call, const Device& device,
                                       cudaStream_t stream);
cudaError_t cp_conv2d_backward_bfloat16(const CpConv2dBackwardCall& call, const Device& device,
                                        cudaStream_t stream);

}  // namespace cnnkern::cuda
