// The gradients of the dense convolution, as matrix products of the same core.
#pragma once
#include "cuda/conv2d/conv2d.h"
#include "params/column_sparse_conv2d.h"

namespace cnnkern::cuda {

struct Conv2dBackwardCall {
  Conv2dShape shape;
  Arithmetic arithmetic;
  const void* grad;    // of y, dense, in the shape's layout; the caller's, like all below
  const void* x;       // dense, in the shape's layout; read for grad_weight alone
  const void* packed;  // the weight by conv2d_pack of its transposed layout; read for grad_x alone
  // Gradients; null where not asked for.
  void* grad_x;        // dense, in the shape's layout
  void* grad_weight;   // (K, C/G, kH, kW), contiguous
  void* grad_bias;     // (K)
  float* scratch;      // conv2d_backward_scratch values
  KeptColumns kept{};  // where there are any, grad_weight is (K, count), of these columns alone

  int64_t columns() const {  // of grad_weight
    return kept.index ? kept.count
                      : shape.in_channels / shape.groups * shape.kernel_height * shape.kernel_width;
  }
};

// float32 values that a call needs, for partial sums: of the gradients that are asked for.
int64_t conv2d_backward_scratch(const Conv2dBackwardCall& call, const Device& device);
cudaError_t conv2d_backward(const Conv2dBackwardCall& call, const Device& device, cudaStream_t stream);

// The sums of the gradient over all pixels.
cudaError_t conv2d_backward_bias(const Conv2dShape& shape, Arithmetic arithmetic, const void* grad,
                                 void* grad_bias, cudaStream_t stream);

// The gradients of x and of the weight in one arithmetic; each has a file of its own, for the compiler's
// sake.
cudaError_t conv2d_backward_float32(const Conv2dBackwardCall& call, const Device& device,
                                    cudaStream_t stream);
cudaError_t conv2d_backward_tf32(const Conv2dBackwardCall& call, const Device& device, cudaStream_t stream);
cudaError_t conv2d_backward_float16(const Conv2dBackwardCall& call, const Device& device,
                                    cudaStream_t stream);
cudaError_t conv2d_backward_bfloat16(const Conv2dBackwardCall& call, const Device& device,
                                     cudaStream_t stream);

}  // namespace cnnkern::cuda
