// The gradients of the column-sparse convolution. That of the weight is a product of gradients and the kept
// columns of the patches. That of x is a product of gradients and the kept columns of the weight, written out
// for some images at a time, and then gathered: each input adds up what its kept taps were given.
#pragma once
#include "cuda/arithmetic.h"
#include "cuda/launch.h"
#include "params/column_sparse_conv2d.h"

namespace cnnkern::cuda {

struct ColumnSparseBackwardCall {
  Conv2dShape shape;
  Arithmetic arithmetic;
  KeptColumns kept;    // on the GPU; an index beside the matrix counts as a column of zeros
  const void* grad;    // of y, dense, in the shape's layout; the caller's, like all below
  const void* x;       // dense, in the shape's layout; read for grad_weight alone
  const void* packed;  // the weight (K, kept, 1, 1) by conv2d_pack of its transposed layout; for grad_x alone
  // Gradients; null where not asked for.
  void* grad_x;       // dense, in the shape's layout
  void* grad_weight;  // (K, kept), contiguous
  void* grad_bias;    // (K)
  float* scratch;     // column_sparse_conv2d_backward_scratch values
};

// float32 values that a call needs for the gradients that are asked for.
int64_t column_sparse_conv2d_backward_scratch(const ColumnSparseBackwardCall& call, const Device& device);
cudaError_t column_sparse_conv2d_backward(const ColumnSparseBackwardCall& call, const Device& device,
                                          cudaStream_t stream);

}  // namespace cnnkern::cuda
