// The gradient of a perforated convolution's weight: the product that a dense one has, with a sum over the
// kept outputs alone. How many these are only the GPU knows: blocks that share a sum take equal parts of what
// there is. The gradient of x is that of the dense convolution, from zeros for the outputs that are not kept:
// it saves no work.
#pragma once
#include "cuda/conv2d/plan.h"
#include "cuda/perforated_conv2d/perforated_conv2d.h"

namespace cnnkern::cuda {

// A kept output of all images.
struct alignas(16) KeptPlace {
  int64_t image;  // -1 past the last of them
  int32_t y, x;
};
// How many a call lists: whole rows of a tile.
constexpr int64_t kept_places(const Conv2dShape& s) {
  return rounded_up(s.batch * s.out_height * s.out_width, 128);
}

struct PerforatedBackwardCall {
  Conv2dShape shape;
  Arithmetic arithmetic;
  Arranged arranged;
  const void* folded;  // by perforated_conv2d_fold; the caller's, like all below
  const void* x;       // dense, in the shape's layout
  void* grad_weight;   // (K, C/G, kH, kW), contiguous
  float* scratch;      // perforated_conv2d_backward_scratch values
  int64_t* begin;      // N + 1 values where each image has a mask
  KeptPlace* places;   // kept_places
};

// float32 values that a call needs, for partial sums.
int64_t perforated_conv2d_backward_scratch(const Conv2dShape& shape, Arithmetic arithmetic,
                                           const Device& device);
cudaError_t perforated_conv2d_backward(const PerforatedBackwardCall& call, const Device& device,
                                       cudaStream_t stream);

// The product in one arithmetic; each has a file of its own, for the compiler's sake.
cudaError_t perforated_conv2d_backward_float32(const PerforatedBackwardCall& call, const Conv2dPlan& plan,
                                               cudaStream_t stream);
cudaError_t perforated_conv2d_backward_tf32(const PerforatedBackwardCall& call, const Conv2dPlan& plan,
                                            cudaStream_t stream);
cudaError_t perforated_conv2d_backward_float16(const PerforatedBackwardCall& call, const Conv2dPlan& plan,
                                               cudaStream_t stream);
cudaError_t perforated_conv2d_backward_bfloat16(const PerforatedBackwardCall& call, const Conv2dPlan& plan,
                                                cudaStream_t stream);

}  // namespace cnnkern::cuda
