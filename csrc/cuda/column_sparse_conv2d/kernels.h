// The convolution in one arithmetic; each has a file of its own, for the compiler's sake.
#pragma once
#include "cuda/column_sparse_conv2d/column_sparse_conv2d.h"
#include "cuda/conv2d/plan.h"

namespace cnnkern::cuda {

cudaError_t column_sparse_conv2d_float32(const ColumnSparseConv2dCall& call, const Conv2dPlan& plan,
                                         cudaStream_t stream);
cudaError_t column_sparse_conv2d_tf32(const ColumnSparseConv2dCall& call, const Conv2dPlan& plan,
                                      cudaStream_t stream);
cudaError_t column_sparse_conv2d_float16(const ColumnSparseConv2dCall& call, const Conv2dPlan& plan,
                                         cudaStream_t stream);
cudaError_t column_sparse_conv2d_bfloat16(const ColumnSparseConv2dCall& call, const Conv2dPlan& plan,
                                          cudaStream_t stream);

}  // namespace cnnkern::cuda
